package evpn

import (
	"net/netip"
	"runtime"
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
			c := reflectedCore()
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
		// The path; room for a second one with the MAC and with the IP; a note in words, and a place in the history. The first
		// time also what only MACs that moved have.
		{"a first move", two - one, 9},
		{"a second move", perRoute(updates, moved, again) - two, 8},
		{"a route of a second reflector", perRoute(updates, fromPeer(worldPeers[1], updates)) - one, 3}, // likewise, and no more
		{"a withdraw", perRoute(updates, gone) - one, 0},
		{"a new route by itself", perRoute(oneByOne(updates)) - nothing, 4}, // the room of its batch as well
	} {
		t.Logf("%s: %.2f allocations", row.what, row.got)
		const slack = 0.4 // the growth of tables, and what is done once for an UPDATE or a batch
		if row.got > row.most+slack {
			t.Errorf("%s takes %.2f allocations, want %.0f", row.what, row.got, row.most)
		}
	}
}

// TestRoomPerRoute: what the core takes for a MAC/IP route of a remote host with its MAC and its IP, in octets that stay, the
// history included, and in all that it allocates on the way; and then for the same route of a second reflector.
func TestRoomPerRoute(t *testing.T) {
	const routes = 100_000
	updates := benchUpdates(routes)
	again := fromPeer(worldPeers[1], updates)
	c := reflectedCore()
	for _, row := range []struct {
		what            string
		updates         []*Update
		mostStays, most float64
	}{
		{"a new MAC/IP route", updates, 380, 500},
		{"a route of a second reflector", again, 115, 130},
	} {
		live, before := liveHeap(), allocated()
		feed(c, row.updates)
		took := float64(allocated()-before) / routes
		stays := float64(liveHeap()-live) / routes
		t.Logf("%s: %.0f octets stay of %.0f", row.what, stays, took)
		if stays > row.mostStays || took > row.most {
			t.Errorf("%s: %.0f octets stay of %.0f, want at most %.0f of %.0f", row.what, stays, took, row.mostStays, row.most)
		}
	}
	runtime.KeepAlive(updates)
	runtime.KeepAlive(again)
	runtime.KeepAlive(c)
}

// TestAuditLeavesNoGarbage: to look at what is there takes a list of it, and nothing for each look.
func TestAuditLeavesNoGarbage(t *testing.T) {
	const routes, most = 50_000, 40
	c := benchCore()
	feed(c, benchUpdates(routes))
	answer := Looked{Entries: make([]ObservedEntry, 0, auditChunk)}
	before, asked := allocated(), 0
	for now := epoch.Add(auditPeriod); asked == 0 || !c.auditor.done() || c.auditor.asked; now = now.Add(auditPause) {
		out := c.Flush(now)
		if len(out.ReadBack) > 0 {
			c.Handle(ReadBackDone{}, now)
		}
		asked += len(out.Look)
		answer.AsOf, answer.Keys, answer.Entries = c.acked, out.Look, answer.Entries[:0]
		for _, key := range out.Look {
			answer.Entries = append(answer.Entries, ObservedEntry{Key: key, Entry: c.entry(c.holderOf(key).slot().have), Ours: true})
		}
		if len(out.Look) > 0 {
			c.Handle(answer, now)
		}
	}
	took := float64(allocated()-before) / float64(asked)
	t.Logf("%.0f octets for each of %d entries", took, asked)
	if asked != 2*routes || took > most {
		t.Errorf("%.0f octets for each of %d entries, want at most %d for %d", took, asked, most, 2*routes)
	}
}

// allocated is how many octets the process has allocated until now.
func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

// oneByOne makes an UPDATE of each route.
func oneByOne(updates []*Update) []*Update {
	var out []*Update
	for _, u := range updates {
		for i := range u.Reach {
			out = append(out, &Update{Peer: u.Peer, Attrs: u.Attrs, Reach: u.Reach[i : i+1]})
		}
	}
	return out
}

// reflectedCore is a benchCore with a second peer.
func reflectedCore() *Core {
	c := benchCore()
	c.Handle(PeerUp{Peer: worldPeers[1]}, epoch)
	return c
}

// fromPeer makes the same UPDATEs come from another peer.
func fromPeer(peer netip.Addr, updates []*Update) []*Update {
	out := make([]*Update, len(updates))
	for i, u := range updates {
		out[i] = &Update{Peer: peer, Attrs: u.Attrs, Reach: u.Reach}
	}
	return out
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
