package evpn

import (
	"net/netip"
	"testing"
)

// TestAllocationsPerRoute: what the owner's goroutine allocates for a route, from the UPDATE to the acknowledged kernel
// batch. Allocations are exact and depend neither on the machine nor on its load. Raise a ceiling only when what it buys is
// worth that to a host with 100,000 routes.
func TestAllocationsPerRoute(t *testing.T) {
	const routes = 10_000
	updates := benchUpdates(routes)
	gone, moved, again := withdraws(updates), movesOf(updates, 1), movesOf(updates, 2)
	perRoute := func(more ...[]*Update) float64 {
		return testing.AllocsPerRun(3, func() {
			c := benchCore()
			for _, u := range more {
				feed(c, u)
			}
		}) / routes
	}
	nothing, one := perRoute(), perRoute(updates)
	two := perRoute(updates, moved)
	for _, row := range []struct {
		what      string
		got, most float64
	}{
		{"a new MAC/IP route", one - nothing, 3}, // its path, its MAC, its IP
		{"a route that is known", perRoute(updates, updates) - one, 0},
		// The path; room for two paths with the MAC and with the IP, twice; a note in words, and a place in the history. The
		// first time also what only MACs that moved have.
		{"a first move", two - one, 11},
		{"a second move", perRoute(updates, moved, again) - two, 10},
		{"a withdraw", perRoute(updates, gone) - one, 0},
	} {
		t.Logf("%s: %.2f allocations", row.what, row.got)
		const slack = 0.3 // the growth of tables, and what is done once for an UPDATE or a batch
		if row.got > row.most+slack {
			t.Errorf("%s takes %.2f allocations, want %.0f", row.what, row.got, row.most)
		}
	}
}

// movesOf makes UPDATEs by which all hosts turn up behind another VTEP, the times-th time: each route comes under the RD of
// the new VTEP, and the old one is withdrawn.
func movesOf(updates []*Update, times int) []*Update {
	var moves []*Update
	for i, u := range updates {
		at := func(times int) netip.Addr { return netip.AddrFrom4([4]byte{10, 255, 1, byte((i + times) % 16)}) }
		attrs := &Attrs{NextHop: at(times), LocalPref: 100}
		attrs.SetExtComms(string(AppendMobility(AppendEncapVXLAN(AppendRT(nil, NewRT(65000, 100))), uint32(times), false)))
		come, gone := &Update{Peer: u.Peer, Attrs: attrs}, &Update{Peer: u.Peer}
		for _, r := range u.Reach {
			old := r.Key
			old.RD, r.Key.RD = NewRD(at(times-1), 100), NewRD(at(times), 100)
			come.Reach, gone.Unreach = append(come.Reach, r), append(gone.Unreach, old)
		}
		moves = append(moves, come, gone)
	}
	return moves
}
