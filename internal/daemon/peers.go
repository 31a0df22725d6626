package daemon

import (
	"cmp"
	"context"
	"maps"
	"net/netip"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	evpnv1 "github.com/evpnd/evpnd/api/evpn/v1"
	"github.com/evpnd/evpnd/evpn"
	"github.com/evpnd/evpnd/speaker"
)

func (s *inspect) ListPeers(req *evpnv1.ListPeersRequest, out evpnv1.InspectService_ListPeersServer) error {
	addr, err := parsePeer("address", req.Address)
	if err != nil {
		return err
	}
	rows, at, err := s.peers(out.Context(), addr)
	if err != nil {
		return err
	}
	return stream(rows, func(part []*evpnv1.Peer) error { return out.Send(&evpnv1.ListPeersResponse{Peers: part, AsOf: at}) })
}

// peers returns the row of one peer, or with the zero Addr those of all.
func (s *inspect) peers(ctx context.Context, only netip.Addr) (rows []*evpnv1.Peer, at *timestamppb.Timestamp, err error) {
	var views []evpn.PeerView
	var totals evpn.Totals
	var left map[netip.Addr]time.Time
	at, err = s.snapshot(ctx, func(c *evpn.Core) {
		views, totals, left = c.Peers(), c.Totals(), maps.Clone(s.d.left)
	})
	if err != nil {
		return nil, nil, err
	}
	known := map[netip.Addr]evpn.PeerView{}
	for _, v := range views {
		known[v.Peer] = v
	}
	sessions := s.d.bgp.Sessions()
	slices.SortFunc(sessions, func(a, b speaker.SessionInfo) int { return a.Peer.Compare(b.Peer) })
	for _, i := range sessions {
		if only.IsValid() && i.Peer != only {
			continue
		}
		p := protoPeer(i, known[i.Peer])
		if i.State == speaker.StateEstablished {
			p.Since, p.Reason = timestamp(i.Since), ""
			if i.EVPN {
				p.RoutesAdvertised = uint32(totals.OwnRoutes)
			}
		} else {
			p.Since = timestamp(left[i.Peer])
		}
		rows = append(rows, p)
	}
	return rows, at, nil
}

// session finds what the speaker knows of a peer.
func (d *Daemon) session(addr netip.Addr) (speaker.SessionInfo, bool) {
	for _, i := range d.bgp.Sessions() {
		if i.Peer == addr {
			return i, true
		}
	}
	return speaker.SessionInfo{}, false
}

// protoPeer joins what the speaker knows of a session with what the core holds of its routes.
func protoPeer(i speaker.SessionInfo, v evpn.PeerView) *evpnv1.Peer {
	n := i.Counters
	p := &evpnv1.Peer{
		Address: text(i.Peer), State: string(i.State), Asn: i.ASN, RouterId: text(i.RouterID), LocalAddress: text(i.LocalAddress),
		Description: printable(i.Description), Dynamic: i.Dynamic,
		Reason:         printable(cmp.Or(i.LastError, i.LastReceived)),
		RoutesReceived: uint32(v.Routes), RoutesRefused: uint32(v.Refused), EndOfRibReceived: v.EoR, Stale: v.Stale > 0,
		RoutesStale: uint32(v.Stale), StaleUntil: timestamp(v.Until), LongLivedStale: v.Aged && v.Stale > 0,
		RemoteAddress: text(i.Remote), LinkRouters: texts(i.Link.Routers),
		RouteLimit: uint32(v.Limit.Most), RoutesNotTaken: uint32(v.Left), IdleHoldUntil: timestamp(i.Held),
		Capabilities: capabilities(i), HoldTime: duration(i.HoldTime), Established: uint32(n.Established),
		Counters: &evpnv1.PeerCounters{
			UpdatesReceived: n.UpdatesIn, UpdatesSent: n.UpdatesOut, WithdrawsReceived: n.RoutesWithdrawn,
			TreatedAsWithdraw: n.TreatAsWithdraw, AttributesDiscarded: n.DiscardedAttributes,
		},
	}
	for _, skipped := range n.SkippedTypes {
		p.Counters.UnknownRoutesSkipped += skipped
	}
	if i.Graceful.Negotiated {
		p.RestartTime = durationpb.New(i.Graceful.RestartTime)
	}
	if i.Graceful.LongLived > 0 {
		p.LongLivedStaleTime = durationpb.New(i.Graceful.LongLived)
	}
	return p
}

func duration(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}

// capabilities names what was negotiated.
func capabilities(i speaker.SessionInfo) []string {
	var out []string
	for _, c := range []struct {
		name string
		has  bool
	}{
		{"l2vpn-evpn", i.EVPN},
		{"four-octet-as", i.AS4},
		{"route-refresh", i.Refresh},
		{"enhanced-refresh", i.Enhanced},
		{"extended-message", i.Extended},
		{"rt-constraint", i.RTC},
		{"graceful-restart", i.Graceful.Negotiated},
		{"notification-gr", i.Graceful.Notification},
		{"long-lived-graceful-restart", i.Graceful.LongLived > 0},
	} {
		if c.has {
			out = append(out, c.name)
		}
	}
	return out
}
