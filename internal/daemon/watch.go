package daemon

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	evpnv1 "github.com/evpnd/evpnd/api/evpn/v1"
	"github.com/evpnd/evpnd/evpn"
)

// tellWatchers wakes those who follow when there is something new. It waits for none of them.
func (d *Daemon) tellWatchers() {
	now := [3]uint64{d.core.LastRecord(), d.core.Changes(), d.core.RouteChanges()}
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

	macs, neighbors, routes, peers, vnis, events bool

	sent positions
}

// positions say how far the changes were sent: of MACs and neighbours, of routes, of peers and VNIs, and of what happens.
type positions struct {
	changes, routes, rows, records uint64
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
	var tick <-chan time.Time
	if w.counted() {
		ticker := time.NewTicker(rowLogPeriod)
		defer ticker.Stop()
		tick = ticker.C
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
		case <-tick:
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
	kinds := req.Kinds
	if len(kinds) == 0 {
		kinds = []string{"mac", "neighbor", "event"}
	}
	for _, kind := range kinds {
		on := w.kind(kind)
		if on == nil {
			return nil, status.Errorf(codes.InvalidArgument, "kind %q: want mac, neighbor, route, peer, vni or event", kind)
		}
		*on = true
	}
	return w, nil
}

// kind is where it says whether a kind is watched; nil: there is no such kind.
func (w *watch) kind(name string) *bool {
	switch name {
	case "mac":
		return &w.macs
	case "neighbor":
		return &w.neighbors
	case "route":
		return &w.routes
	case "peer":
		return &w.peers
	case "vni":
		return &w.vnis
	case "event":
		return &w.events
	default:
		return nil
	}
}

// hosts reports whether there are rows of MACs or neighbours to be sent, counted whether of peers or VNIs.
func (w *watch) hosts() bool   { return w.macs || w.neighbors }
func (w *watch) counted() bool { return w.peers || w.vnis }

// token names the daemon's life, what is watched, and how far it was sent.
func (w *watch) token() string {
	return fmt.Sprintf("%s.%d.%d.%d.%d", w.scope(), w.sent.changes, w.sent.records, w.sent.routes, w.sent.rows)
}

// scope is the part of a token that must agree: rows that were never sent cannot be brought up to date.
func (w *watch) scope() string {
	kinds := ""
	for _, name := range []string{"mac", "neighbor", "route", "peer", "vni", "event"} {
		if *w.kind(name) {
			kinds += name[:1]
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
	if len(parts) != 7 {
		return false, status.Errorf(codes.InvalidArgument, "token %q: not one that Watch gave out", token)
	}
	for i, into := range []*uint64{&w.sent.changes, &w.sent.records, &w.sent.routes, &w.sent.rows} {
		var err error
		if *into, err = strconv.ParseUint(parts[3+i], 10, 64); err != nil {
			return false, status.Errorf(codes.InvalidArgument, "token %q: %v", token, err)
		}
	}
	return strings.Join(parts[:3], ".") == w.scope(), nil
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
		if err := each(ctx, s, keys, oneByOne(func(c *evpn.Core, k evpn.MACKey) (evpn.MACView, bool) { return c.MACRow(k, candidates) }), take); err != nil {
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
		if err := each(ctx, s, keys, oneByOne(func(c *evpn.Core, k evpn.IPKey) (evpn.NeighborView, bool) { return c.NeighborRow(k, candidates) }), take); err != nil {
			return err
		}
	}
	return nil
}

// each reads rows by their names, a chunk at a time.
func each[K, V any](ctx context.Context, s *inspect, keys []K, rows func(*evpn.Core, []K) []V, take func([]V, *timestamppb.Timestamp) error) error {
	for part := range slices.Chunk(keys, chunk) {
		var found []V
		at, err := s.snapshot(ctx, func(c *evpn.Core) { found = rows(c, part) })
		if err != nil {
			return err
		}
		if len(found) == 0 {
			continue
		}
		if err := take(found, at); err != nil {
			return err
		}
	}
	return nil
}

// oneByOne is how rows are read that have a name each.
func oneByOne[K, V any](row func(*evpn.Core, K) (V, bool)) func(*evpn.Core, []K) []V {
	return func(c *evpn.Core, keys []K) []V {
		rows := make([]V, 0, len(keys))
		for _, k := range keys {
			if v, ok := row(c, k); ok {
				rows = append(rows, v)
			}
		}
		return rows
	}
}

func protoAll[V, P any](views []V, proto func(V) P) []P {
	out := make([]P, len(views))
	for i, v := range views {
		out[i] = proto(v)
	}
	return out
}
