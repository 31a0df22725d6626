package daemon

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	evpnv1 "github.com/evpnd/evpnd/api/evpn/v1"
	"github.com/evpnd/evpnd/evpn"
	"github.com/evpnd/evpnd/speaker"
)

// has has the subscriber read until it has the rows that answer requests.
func (s *subscriber) has(c *client, reqs ...proto.Message) {
	s.t.Helper()
	until(s.t, "the kernel to be written", func() bool { return c.status().Kernel.Pending == 0 })
	want := c.rowsOf(reqs...)
	s.until(func() bool { return s.synced && maps.Equal(s.rows, want) })
}

// TestWatchRoutes: whoever follows the routes has those that ListRoutes lists, in all of a VNI's and of peers' ups and downs.
func TestWatchRoutes(t *testing.T) {
	c := newClient(t, "", nil)
	c.report(attached(100), attached(200), evpn.Synced{}, peerUp(peer1), peerUp(peer2), many(1200, vtep2, false))
	s := c.watch(t, &evpnv1.WatchRequest{Kinds: []string{"route"}})
	of100 := c.watch(t, &evpnv1.WatchRequest{Kinds: []string{"route"}, Vni: 100})
	s.has(c, &evpnv1.ListRoutesRequest{})
	if len(s.rows) != 1202 || s.resets != 1 { // ours say that the VNIs are here
		t.Errorf("%d rows, %d resets", len(s.rows), s.resets)
	}
	from2 := many(50, vtep3, false)
	from2.Peer = peer2
	c.report(from2, many(100, vtep3, false), many(10, vtep2, true), hasMAC(100, macA), hasIP(100, ipA, macA), hasMAC(200, macB))
	for range 20 {
		m := evpn.MAC{2, 9, 0, 0, 0, byte(rand.IntN(8))}
		c.report(hasMAC(100, m), many(rand.IntN(30), vtep2, rand.IntN(2) == 0))
	}
	s.has(c, &evpnv1.ListRoutesRequest{})
	of100.has(c, &evpnv1.ListRoutesRequest{Vni: 100})
	if s.resets != 1 || s.lost != 0 {
		t.Errorf("%d resets, %d lost", s.resets, s.lost)
	}
	c.report(evpn.PeerDown{Peer: peer2, Reason: "cut off", Retain: time.Hour})
	s.has(c, &evpnv1.ListRoutesRequest{}) // all of them are stale now
	if s.resets != 2 || s.lost == 0 {
		t.Errorf("with a session that is gone: %d resets, %d lost", s.resets, s.lost)
	}
	c.report(evpn.AttachmentDown{VNI: 100})
	s.has(c, &evpnv1.ListRoutesRequest{})
	of100.has(c, &evpnv1.ListRoutesRequest{Vni: 100})
	token := s.token
	s.cancel()
	c.report(attached(100))
	again := c.watch(t, &evpnv1.WatchRequest{Kinds: []string{"route"}, Token: token})
	again.rows, again.synced = s.rows, true
	again.has(c, &evpnv1.ListRoutesRequest{})
	if again.resets != 0 {
		t.Errorf("gone on with: %d resets", again.resets)
	}
}

// TestWatchCounted: peers and VNIs come as they are listed, and what changes in them within seconds.
func TestWatchCounted(t *testing.T) {
	c := newClient(t, populatedConfig, nil)
	c.populate()
	s := c.watch(t, &evpnv1.WatchRequest{Kinds: []string{"peer", "vni"}})
	s.has(c, &evpnv1.ListPeersRequest{}, &evpnv1.ListVNIsRequest{})
	if !slices.Contains(slices.Collect(maps.Keys(s.rows)), "peer "+peer1.String()) || s.rows["vni 300"] == "" {
		t.Errorf("rows %v", s.rows)
	}
	token, before := s.token, maps.Clone(s.rows)
	c.bgp.setSessions(speaker.SessionInfo{Peer: peer1, State: speaker.StateActive, LastError: "cut off"})
	c.report(evpn.PeerDown{Peer: peer1, Reason: "cut off"}, hasMAC(100, evpn.MAC{2, 7}), evpn.AttachmentDown{VNI: 400})
	s.has(c, &evpnv1.ListPeersRequest{}, &evpnv1.ListVNIsRequest{})
	if s.rows["peer "+peer2.String()] != "" || s.resets != 1 || s.lost != 0 {
		t.Errorf("a peer that is gone: %s; %d resets, %d lost", s.rows["peer "+peer2.String()], s.resets, s.lost)
	}
	again := c.watch(t, &evpnv1.WatchRequest{Kinds: []string{"peer", "vni"}, Token: token})
	again.rows, again.synced = before, true
	again.has(c, &evpnv1.ListPeersRequest{}, &evpnv1.ListVNIsRequest{})
	one := c.watch(t, &evpnv1.WatchRequest{Kinds: []string{"vni"}, Vni: 100})
	one.has(c, &evpnv1.ListVNIsRequest{Vni: 100})
	if again.resets != 0 || len(one.rows) != 1 {
		t.Errorf("%d resets; of VNI 100 %v", again.resets, one.rows)
	}
}

// TestRowLogLeftBehind: who is too far behind is told how much it missed.
func TestRowLogLeftBehind(t *testing.T) {
	l := rowLog{rows: map[rowName]proto.Message{}, changes: evpn.NewChangeLog[rowName](rowLogRecords)}
	for n := range uint32(rowLogRecords + 10) {
		l.changes.Add(rowName{vni: n})
	}
	if ch := l.after(3, 5); ch.lost != 7 || ch.upTo != rowLogRecords+10 {
		t.Errorf("%+v", ch)
	}
	if ch := l.after(10, 5); ch.lost != 0 || ch.upTo != 15 || len(ch.gone) != 5 || ch.gone[0].vni != 10 {
		t.Errorf("%+v", ch)
	}
	if ch := l.after(l.last()+9, 5); ch.lost != 0 || ch.upTo != l.last() || len(ch.gone) != 0 {
		t.Errorf("ahead of time: %+v", ch)
	}
}
