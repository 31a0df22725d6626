package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	evpnv1 "github.com/evpnd/evpnd/api/evpn/v1"
	"github.com/evpnd/evpnd/evpn"
)

// tellWatchers wakes those who follow when there is something new. It waits for none of them.
func (d *Daemon) tellWatchers() {
	now := [2]uint64{d.core.LastRecord(), d.core.Changes()}
	if now == d.told {
		return
	}
	d.told = now
	for w := range d.watchers {
		select {
		case w <- struct{}{}:
		default: // it has not yet looked since it was told last
		}
	}
}

// watch is one stream of Watch. It keeps no more than the message it is about to send: the core remembers what changed, and
// how far it remembers bounds how far behind a reader may be.
type watch struct {
	*inspect
	ctx   context.Context
	send  func(*evpnv1.WatchResponse) error
	vni   evpn.VNI
	topic string

	macs, neighbors, events bool

	changes, records uint64 // sent up to these
}

func (s *inspect) Watch(req *evpnv1.WatchRequest, out evpnv1.InspectService_WatchServer) error {
	w, err := s.parseWatch(req)
	if err != nil {
		return err
	}
	w.ctx, w.send = out.Context(), out.Send
	if err := s.knowsVNI(w.ctx, req.Vni); err != nil {
		return err
	}
	resume, err := w.parseToken(req.Token)
	if err != nil {
		return err
	}
	news := make(chan struct{}, 1)
	if _, err := s.snapshot(w.ctx, func(*evpn.Core) { s.d.watchers[news] = true }); err != nil {
		return err
	}
	defer func() { // whoever has stopped tells nobody any more
		_ = s.d.onOwner(context.WithoutCancel(w.ctx), func(*evpn.Core) { delete(s.d.watchers, news) })
	}()
	if !resume {
		if err := w.begin(); err != nil {
			return err
		}
	}
	for {
		more, err := w.step()
		if err != nil {
			return err
		}
		if more {
			continue
		}
		select {
		case <-news:
		case <-w.ctx.Done():
			return status.FromContextError(w.ctx.Err()).Err()
		case <-s.d.stopped:
			return status.Error(codes.Unavailable, errStopped.Error())
		}
	}
}

func (s *inspect) parseWatch(req *evpnv1.WatchRequest) (*watch, error) {
	f, err := parseRecordFilter(req.Vni, "", "", req.Topic)
	if err != nil {
		return nil, err
	}
	w := &watch{inspect: s, vni: f.VNI, topic: f.Topic}
	for _, kind := range req.Kinds {
		switch kind {
		case "mac":
			w.macs = true
		case "neighbor":
			w.neighbors = true
		case "event":
			w.events = true
		default:
			return nil, status.Errorf(codes.InvalidArgument, "kind %q: want mac, neighbor or event", kind)
		}
	}
	if len(req.Kinds) == 0 {
		w.macs, w.neighbors, w.events = true, true, true
	}
	return w, nil
}

// tables reports whether there are rows to be sent.
func (w *watch) tables() bool { return w.macs || w.neighbors }

// token names the daemon's life, what is watched, and how far it was sent.
func (w *watch) token() string {
	return fmt.Sprintf("%s.%d.%d", w.scope(), w.changes, w.records)
}

// scope is the part of a token that must agree: rows that were never sent cannot be brought up to date.
func (w *watch) scope() string {
	kinds := ""
	for _, kind := range []struct {
		letter string
		on     bool
	}{{"m", w.macs}, {"n", w.neighbors}, {"e", w.events}} {
		if kind.on {
			kinds += kind.letter
		}
	}
	return fmt.Sprintf("%s.%s.%d", w.d.instance, kinds, w.vni)
}

// parseToken takes over from where a token was given out, and reports whether it could: one of an earlier life of the
// daemon, or of another question, says nothing.
func (w *watch) parseToken(token string) (bool, error) {
	if token == "" {
		return false, nil
	}
	parts := strings.Split(token, ".")
	if len(parts) != 5 {
		return false, status.Errorf(codes.InvalidArgument, "token %q: not one that Watch gave out", token)
	}
	var errs [2]error
	w.changes, errs[0] = strconv.ParseUint(parts[3], 10, 64)
	w.records, errs[1] = strconv.ParseUint(parts[4], 10, 64)
	if err := errors.Join(errs[:]...); err != nil {
		return false, status.Errorf(codes.InvalidArgument, "token %q: %v", token, err)
	}
	return strings.Join(parts[:3], ".") == w.scope(), nil
}

// begin sends the tables as they are. What changes meanwhile is sent again after synced.
func (w *watch) begin() error {
	var vnis []evpn.VNI
	at, err := w.snapshot(w.ctx, func(c *evpn.Core) {
		if w.tables() {
			w.changes, vnis = c.Follow(), c.ServedVNIs()
		}
		w.records = c.LastRecord()
	})
	if err != nil {
		return err
	}
	if err := w.send(&evpnv1.WatchResponse{Reset_: true, AsOf: at}); err != nil {
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
	if err != nil {
		return err
	}
	return w.send(&evpnv1.WatchResponse{Synced: true, Token: w.token(), AsOf: timestamppb.Now()})
}

// step sends what is next, and reports whether there is more.
func (w *watch) step() (more bool, err error) {
	var (
		ch        evpn.Changed
		macs      []evpn.MACView
		neighbors []evpn.NeighborView
		gone      []*evpnv1.GoneRow
		records   []evpn.Record
		lost      uint64
	)
	at, err := w.snapshot(w.ctx, func(c *evpn.Core) {
		if w.tables() {
			ch = c.ChangesAfter(w.changes, w.vni, chunk)
			macs, neighbors, gone = w.rows(c, ch)
		}
		if w.events {
			records, w.records, lost = c.RecordsAfter(w.records, evpn.RecordFilter{VNI: w.vni, Topic: w.topic}, chunk)
		}
		more = ch.UpTo < c.Changes() && w.tables() || w.events && w.records < c.LastRecord()
	})
	if err != nil {
		return false, err
	}
	if ch.Lost > 0 {
		if err := w.send(&evpnv1.WatchResponse{Lost: ch.Lost + lost, AsOf: at}); err != nil {
			return false, err
		}
		return true, w.begin()
	}
	w.changes = ch.UpTo
	if len(macs)+len(neighbors)+len(gone)+len(records) == 0 && lost == 0 {
		return more, nil
	}
	return more, w.send(&evpnv1.WatchResponse{
		Lost: lost, Macs: protoAll(macs, protoMAC), Neighbors: protoAll(neighbors, protoNeighbor), Gone: gone,
		Events: protoEvents(records), Token: w.token(), AsOf: at,
	})
}

// rows reads the rows that have changed.
func (w *watch) rows(c *evpn.Core, ch evpn.Changed) (macs []evpn.MACView, neighbors []evpn.NeighborView, gone []*evpnv1.GoneRow) {
	for _, k := range ch.MACs {
		if !w.macs {
			break
		}
		if row, ok := c.MACRow(k, false); ok {
			macs = append(macs, row)
		} else {
			gone = append(gone, &evpnv1.GoneRow{Vni: uint32(k.VNI), Mac: k.MAC.String()})
		}
	}
	for _, k := range ch.IPs {
		if !w.neighbors {
			break
		}
		if row, ok := c.NeighborRow(k, false); ok {
			neighbors = append(neighbors, row)
		} else {
			gone = append(gone, &evpnv1.GoneRow{Vni: uint32(k.VNI), Ip: k.IP.String()})
		}
	}
	return macs, neighbors, gone
}

// eachMAC reads the MAC tables of VNIs in order, a chunk at a time, so that the owner is never kept for long: it hands out
// the names of a VNI's rows, which are put into order here, and then rows by their names. The filter leaves out names only.
func (s *inspect) eachMAC(ctx context.Context, vnis []evpn.VNI, want filter, candidates bool, take func([]evpn.MACView, *timestamppb.Timestamp) error) error {
	for _, vni := range vnis {
		var keys []evpn.MACKey
		if _, err := s.snapshot(ctx, func(c *evpn.Core) { keys = c.MACKeys(vni) }); err != nil {
			return err
		}
		if want.hasMAC {
			keys = slices.DeleteFunc(keys, func(k evpn.MACKey) bool { return k.MAC != want.mac })
		}
		evpn.SortMACKeys(keys)
		if err := each(ctx, s, keys, func(c *evpn.Core, k evpn.MACKey) (evpn.MACView, bool) { return c.MACRow(k, candidates) }, take); err != nil {
			return err
		}
	}
	return nil
}

// eachNeighbor is eachMAC for the neighbour tables.
func (s *inspect) eachNeighbor(ctx context.Context, vnis []evpn.VNI, want filter, candidates bool, take func([]evpn.NeighborView, *timestamppb.Timestamp) error) error {
	for _, vni := range vnis {
		var keys []evpn.IPKey
		if _, err := s.snapshot(ctx, func(c *evpn.Core) { keys = c.IPKeys(vni) }); err != nil {
			return err
		}
		if want.ip.IsValid() {
			keys = slices.DeleteFunc(keys, func(k evpn.IPKey) bool { return k.IP != want.ip })
		}
		evpn.SortIPKeys(keys)
		if err := each(ctx, s, keys, func(c *evpn.Core, k evpn.IPKey) (evpn.NeighborView, bool) { return c.NeighborRow(k, candidates) }, take); err != nil {
			return err
		}
	}
	return nil
}

// each reads rows by their names, a chunk at a time.
func each[K, V any](ctx context.Context, s *inspect, keys []K, row func(*evpn.Core, K) (V, bool), take func([]V, *timestamppb.Timestamp) error) error {
	for part := range slices.Chunk(keys, chunk) {
		rows := make([]V, 0, len(part))
		at, err := s.snapshot(ctx, func(c *evpn.Core) {
			for _, k := range part {
				if v, ok := row(c, k); ok {
					rows = append(rows, v)
				}
			}
		})
		if err != nil {
			return err
		}
		if len(rows) == 0 {
			continue
		}
		if err := take(rows, at); err != nil {
			return err
		}
	}
	return nil
}

func protoAll[V, P any](views []V, proto func(V) P) []P {
	out := make([]P, len(views))
	for i, v := range views {
		out[i] = proto(v)
	}
	return out
}
