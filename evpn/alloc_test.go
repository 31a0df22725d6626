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

// TestRoomPerRoute: what the core takes for a MAC/IP route of a remote host with its MAC and its IP, in octets that stay, the
// history included, and in all that it allocated on the way. What is above is the rounding of maps and of the allocator.
func TestRoomPerRoute(t *testing.T) {
	const routes, stay, all = 100_000, 380, 500
	updates := benchUpdates(routes)
	live, before := liveHeap(), allocated()
	c := benchCore()
	feed(c, updates)
	took := float64(allocated()-before) / routes
	stays := float64(liveHeap()-live) / routes
	runtime.KeepAlive(updates)
	runtime.KeepAlive(c)
	t.Logf("%.0f octets stay of %.0f", stays, took)
	if stays > stay || took > all {
		t.Errorf("%.0f octets stay of %.0f, want at most %d of %d", stays, took, stay, all)
	}
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
