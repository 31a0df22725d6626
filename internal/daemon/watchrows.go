package daemon

import (
	"net/netip"
	"slices"

	"google.golang.org/protobuf/types/known/timestamppb"

	evpnv1 "github.com/evpnd/evpnd/api/evpn/v1"
	"github.com/evpnd/evpnd/evpn"
)

// begin sends the tables as they are. What changes meanwhile is sent again after synced.
func (w *watch) begin() error {
	var vnis []evpn.VNI
	var names []evpn.RouteName
	at, err := w.snapshot(w.ctx, func(c *evpn.Core) {
		if w.hosts() {
			w.sent.changes, vnis = c.Follow(), c.ServedVNIs()
		}
		if w.routes {
			every := func(*evpn.RouteKey) bool { return true }
			w.sent.routes = c.FollowRoutes()
			names = append(c.ReceivedRoutes(netip.Addr{}, every), c.AnnouncedRoutes(every)...)
		}
		w.sent.records = c.LastRecord()
	})
	if err != nil {
		return err
	}
	if err := w.send(&evpnv1.WatchResponse{Reset_: true, AsOf: at}); err != nil {
		return err
	}
	if err := w.beginCounted(); err != nil {
		return err
	}
	vnis = slices.DeleteFunc(vnis, func(vni evpn.VNI) bool { return w.vni != 0 && w.vni != vni })
	if w.macs {
		err = w.eachMAC(w.ctx, vnis, filter{}, false, func(part []evpn.MACView, at *timestamppb.Timestamp) error {
			return w.send(&evpnv1.WatchResponse{Macs: protoAll(part, protoMAC), AsOf: at})
		})
	}
	if err == nil && w.neighbors {
		err = w.eachNeighbor(w.ctx, vnis, filter{}, false, func(part []evpn.NeighborView, at *timestamppb.Timestamp) error {
			return w.send(&evpnv1.WatchResponse{Neighbors: protoAll(part, protoNeighbor), AsOf: at})
		})
	}
	if err == nil && w.routes {
		err = w.eachRoute(w.ctx, names, uint32(w.vni), func(part []evpn.RouteView, at *timestamppb.Timestamp) error {
			return w.send(&evpnv1.WatchResponse{Routes: protoAll(part, protoRoute), AsOf: at})
		})
	}
	if err != nil {
		return err
	}
	return w.send(&evpnv1.WatchResponse{Synced: true, Token: w.token(), AsOf: timestamppb.Now()})
}

// beginCounted sends the rows of peers and VNIs.
func (w *watch) beginCounted() error {
	if !w.counted() {
		return nil
	}
	if err := w.d.rowLog.look(w.ctx); err != nil {
		return err
	}
	rows, upTo := w.d.rowLog.all()
	w.sent.rows = upTo
	peers, vnis := w.wanted(sorted(rows))
	for part := range slices.Chunk(peers, chunk) {
		if err := w.send(&evpnv1.WatchResponse{Peers: part, AsOf: timestamppb.Now()}); err != nil {
			return err
		}
	}
	for part := range slices.Chunk(vnis, chunk) {
		if err := w.send(&evpnv1.WatchResponse{Vnis: part, AsOf: timestamppb.Now()}); err != nil {
			return err
		}
	}
	return nil
}

// wanted leaves out the rows that are not watched.
func (w *watch) wanted(peers []*evpnv1.Peer, vnis []*evpnv1.VNI) ([]*evpnv1.Peer, []*evpnv1.VNI) {
	if !w.peers {
		peers = nil
	}
	return peers, slices.DeleteFunc(vnis, func(v *evpnv1.VNI) bool { return !w.vnis || w.vni != 0 && v.Vni != uint32(w.vni) })
}

// news is what one step has found: a message, and whether there is more.
type news struct {
	evpnv1.WatchResponse
	again bool // changes of rows are lost, so that the tables must be sent anew
	more  bool
}

// step sends what is next, and reports whether there is more.
func (w *watch) step() (more bool, err error) {
	var n news
	if w.counted() {
		if err := w.d.rowLog.look(w.ctx); err != nil {
			return false, err
		}
		w.countedNews(&n)
	}
	var rows hostRows
	var routes []evpn.RouteView
	var others []evpn.RouteName
	var records []evpn.Record
	at, err := w.snapshot(w.ctx, func(c *evpn.Core) {
		rows = w.hostNews(c, &n)
		routes, others = w.routeNews(c, &n)
		records = w.eventNews(c, &n)
	})
	if err != nil {
		return false, err
	}
	if n.again {
		if err := w.send(&evpnv1.WatchResponse{Lost: n.Lost, AsOf: at}); err != nil {
			return false, err
		}
		return true, w.begin()
	}
	n.Macs, n.Neighbors, n.Routes, n.Events = protoAll(rows.macs, protoMAC), protoAll(rows.neighbors, protoNeighbor), protoAll(routes, protoRoute), protoEvents(records)
	n.Gone = append(n.Gone, rows.gone...)
	for _, name := range others {
		n.Gone = append(n.Gone, &evpnv1.GoneRow{Kind: "route", Peer: text(name.Peer), Rd: name.Key.RD.String(), Key: name.Key.String()})
	}
	if len(n.Macs)+len(n.Neighbors)+len(n.Routes)+len(n.Peers)+len(n.Vnis)+len(n.Gone)+len(n.Events) == 0 && n.Lost == 0 {
		return n.more, nil
	}
	n.Token, n.AsOf = w.token(), at
	return n.more, w.send(&n.WatchResponse)
}

// countedNews adds the next rows of peers and VNIs.
func (w *watch) countedNews(n *news) {
	ch := w.d.rowLog.after(w.sent.rows, chunk)
	n.lose(ch.lost)
	w.sent.rows = ch.upTo
	n.Peers, n.Vnis = w.wanted(sorted(ch.rows))
	for _, name := range ch.gone {
		switch {
		case name.peer != "" && w.peers:
			n.Gone = append(n.Gone, &evpnv1.GoneRow{Kind: "peer", Peer: name.peer})
		case name.peer == "" && w.vnis && (w.vni == 0 || name.vni == uint32(w.vni)):
			n.Gone = append(n.Gone, &evpnv1.GoneRow{Kind: "vni", Vni: name.vni})
		}
	}
	n.more = n.more || ch.upTo < w.d.rowLog.last()
}

// lose counts changes of rows that cannot be sent any more.
func (n *news) lose(lost uint64) {
	n.Lost += lost
	n.again = n.again || lost > 0
}

// hostRows are rows of MACs and neighbours that have changed.
type hostRows struct {
	macs      []evpn.MACView
	neighbors []evpn.NeighborView
	gone      []*evpnv1.GoneRow
}

// hostNews reads the next rows of MACs and neighbours. It runs on the owner, as those below do.
func (w *watch) hostNews(c *evpn.Core, n *news) (rows hostRows) {
	if !w.hosts() {
		return rows
	}
	ch := c.ChangesAfter(w.sent.changes, w.vni, chunk)
	n.lose(ch.Lost)
	w.sent.changes = ch.UpTo
	n.more = n.more || ch.UpTo < c.Changes()
	for _, k := range ch.MACs {
		if !w.macs {
			break
		}
		if row, ok := c.MACRow(k, false); ok {
			rows.macs = append(rows.macs, row)
		} else {
			rows.gone = append(rows.gone, &evpnv1.GoneRow{Kind: "mac", Vni: uint32(k.VNI), Mac: k.MAC.String()})
		}
	}
	for _, k := range ch.IPs {
		if !w.neighbors {
			break
		}
		if row, ok := c.NeighborRow(k, false); ok {
			rows.neighbors = append(rows.neighbors, row)
		} else {
			rows.gone = append(rows.gone, &evpnv1.GoneRow{Kind: "neighbor", Vni: uint32(k.VNI), Ip: k.IP.String()})
		}
	}
	return rows
}

// routeNews reads the next rows of routes, and which are gone, or of another VNI now.
func (w *watch) routeNews(c *evpn.Core, n *news) ([]evpn.RouteView, []evpn.RouteName) {
	if !w.routes {
		return nil, nil
	}
	ch := c.RouteChangesAfter(w.sent.routes, chunk)
	n.lose(ch.Lost)
	w.sent.routes = ch.UpTo
	n.more = n.more || ch.UpTo < c.RouteChanges()
	return routeRows(c, ch.Routes, uint32(w.vni))
}

// eventNews reads what has happened since.
func (w *watch) eventNews(c *evpn.Core, n *news) (records []evpn.Record) {
	if !w.events {
		return nil
	}
	var lost uint64
	records, w.sent.records, lost = c.RecordsAfter(w.sent.records, evpn.RecordFilter{VNI: w.vni, Topic: w.topic}, chunk)
	n.Lost += lost
	n.more = n.more || w.sent.records < c.LastRecord()
	return records
}
