package dataplane

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/evpnd/evpnd/evpn"
)

// trusted applies ops as a core has them written that counts on what stands there, and knows all that was reported to it when
// it was told asOf things.
func (l *lab) trusted(asOf uint64, ops ...evpn.KernelOp) []evpn.OpError {
	l.t.Helper()
	for i := range ops {
		ops[i].Intact, ops[i].Replace = true, true
	}
	l.seq++
	return l.Apply(l.t.Context(), evpn.KernelBatch{Seq: l.seq, AsOf: asOf, Ops: ops}).Failed
}

// messages counts what the writer sends while f runs.
func (l *lab) messages(f func()) uint32 {
	before := l.writer.rtnl.seq
	f()
	return l.writer.rtnl.seq - before
}

// settled waits until the core was told all that is known, and returns how much that is.
func (l *lab) settled(c *core) (asOf uint64) {
	l.t.Helper()
	c.wait(l.t, "the core to know", func() bool {
		asOf = c.reported
		return l.watcher.catchUp() && l.pending.noted() == asOf
	})
	return asOf
}

// TestIntactEntriesAreNotLookedAt: what the core knows to stand there is moved and removed with one message each.
func TestIntactEntriesAreNotLookedAt(t *testing.T) {
	l := newLab(t)
	c := l.start()
	l.pending.reread(77) // nothing comes of what concerns a VNI that is not here
	l.must(addVTEP(vtep2), addVTEP(vtep3))
	var adds, moves, removes []evpn.KernelOp
	for i := range 100 {
		m, ip := remoteMAC(i), remoteIP(i)
		adds = append(adds, addFDB(m, vtep2), addNeighbor(ip, m))
		moves = append(moves, addFDB(m, vtep3), addNeighbor(ip, remoteMAC(i+1000)))
		removes = append(removes, del(addFDB(m, vtep3)), del(addNeighbor(ip, m)))
	}
	byTable := func(a, b evpn.KernelOp) int { return int(a.Key.Table) - int(b.Key.Table) }
	for _, ops := range [][]evpn.KernelOp{adds, moves, removes} {
		slices.SortStableFunc(ops, byTable)
	}
	l.must(adds...)
	for _, ops := range [][]evpn.KernelOp{moves, removes} {
		asOf := l.settled(c)
		n := l.messages(func() {
			if failed := l.trusted(asOf, ops...); len(failed) > 0 {
				t.Fatalf("refused: %+v", failed)
			}
		})
		if int(n) != len(ops) {
			t.Errorf("%d messages for %d ops", n, len(ops))
		}
		for _, op := range ops {
			if e, there := l.entry(op.Key); there == op.Del || !op.Del && e.Entry != op.Entry {
				t.Fatalf("%s: observed %+v, %v", describe(&op), e, there)
			}
		}
	}
	if c.look(func() {}); len(c.tampered) > 0 || l.expectedDeletes() > 0 {
		t.Errorf("tampered with: %v; %d deletes still expected", c.tampered, l.expectedDeletes())
	}
}

// TestTrustEndsWithANotification: whatever someone did to an entry of ours before the writer came, of which the core does not know
// yet, is seen in time: theirs stays.
func TestTrustEndsWithANotification(t *testing.T) {
	const mac, ip = "02:00:00:00:01:01", "10.1.1.1"
	for _, how := range []string{
		"bridge fdb del MAC dev vx10 self\nbridge fdb add MAC dev vx10 dst 10.0.0.99 self extern_learn",
		"bridge fdb del MAC dev vx10 self\nbridge fdb add MAC dev vx10 dst 10.0.0.99 self static",
		"bridge fdb del MAC dev vx10 self master\nbridge fdb add MAC dev p10 master static",
		"bridge fdb replace MAC dev p10 master static",
		"bridge fdb replace MAC dev p10 master extern_learn",
		"ip neigh replace IP lladdr 02:00:00:00:09:09 dev br10 nud permanent",
		"ip neigh replace IP lladdr 02:00:00:00:09:09 dev br10 nud permanent proto static",
		"ip neigh replace IP lladdr 02:00:00:00:09:09 dev br10 nud noarp extern_learn proto zebra",
		"ip neigh del IP dev br10\nip neigh add IP lladdr 02:00:00:00:09:09 dev br10 nud permanent",
		"ip link set br10 down\nip link set br10 up\nip neigh add IP lladdr 02:00:00:00:09:09 dev br10 nud permanent",
	} {
		for _, verb := range []string{"remove", "move"} {
			t.Run(verb+" after "+how, func(t *testing.T) {
				l := newLab(t)
				c := l.start()
				l.must(addVTEP(vtep2), addVTEP(vtep3), addFDB(macA, vtep2), addNeighbor(hostA, macA))
				asOf := l.settled(c)
				ours := rowsOf(t, macA, ip)
				run(t, strings.NewReplacer("MAC", mac, "IP", ip).Replace(how))
				theirs := only(rowsOf(t, macA, ip), ours)
				if len(theirs) == 0 {
					t.Fatal("that changed nothing")
				}
				ops := []evpn.KernelOp{del(addNeighbor(hostA, macA)), del(addFDB(macA, vtep2))}
				if verb == "move" {
					ops = []evpn.KernelOp{addFDB(macA, vtep3), addNeighbor(hostA, macB)}
				}
				l.trusted(asOf, ops...) // refused or not
				if lost := only(theirs, rowsOf(t, macA, ip)); len(lost) > 0 {
					t.Errorf("lost %q of theirs", lost)
				}
			})
		}
	}
}

// rowsOf are the kernel's rows of a MAC and an IP, in order.
func rowsOf(t *testing.T, m evpn.MAC, ip string) []string {
	rows := fdb(t, m)
	for line := range strings.Lines(neighbors(t)) {
		if strings.HasPrefix(line, ip+" ") {
			rows = append(rows, strings.Join(strings.Fields(line), " "))
		}
	}
	slices.Sort(rows)
	return rows
}

// TestTrustedHostThatCameHere: the bridge moved the row of a MAC to a local port before the writer came. The local row stays.
func TestTrustedHostThatCameHere(t *testing.T) {
	l := newLab(t)
	c := l.start()
	l.must(addVTEP(vtep2), addVTEP(vtep3), addFDB(macA, vtep2), addFDB(macB, vtep2))
	asOf := l.settled(c)
	sendFrame(t, "h10", macA)
	sendFrame(t, "h10", macB)
	if failed := l.trusted(asOf, addFDB(macB, vtep3)); len(failed) > 0 {
		t.Fatalf("refused: %+v", failed)
	}
	if failed := l.trusted(asOf, del(addFDB(macA, vtep2))); len(failed) > 0 {
		t.Fatalf("refused: %+v", failed)
	}
	wantLines(t, "removed", fdb(t, macA), "dev p10 master br10")
	wantLines(t, "moved", fdb(t, macB), "dev p10 master br10", fmt.Sprintf("dev vx10 nhid %d self extern_learn static", l.vteps.group[vtep3]))
}

// TestTrustedRowsThatWentSilently: with a nexthop the rows behind it go, of which the kernel says nothing.
func TestTrustedRowsThatWentSilently(t *testing.T) {
	l := newLab(t)
	c := l.start()
	l.must(addVTEP(vtep2), addVTEP(vtep3), addFDB(macA, vtep2), addFDB(macB, vtep2))
	asOf := l.settled(c)
	at := l.topo.vni(10)
	for _, m := range []evpn.MAC{macA, macB} { // as if the nexthop's end had not been heard of yet
		run(t, fmt.Sprintf("bridge fdb del %s dev vx10 self", m))
		l.expected.put(rowKey{ifindex: at.device, self: true, mac: m})
	}
	if failed := l.trusted(asOf, addFDB(macA, vtep3)); len(failed) > 0 {
		t.Errorf("refused: %+v", failed)
	}
	if failed := l.trusted(asOf, del(addFDB(macB, vtep2))); len(failed) > 0 {
		t.Errorf("refused: %+v", failed)
	}
	if e, there := l.entry(addFDB(macA, vtep3).Key); !there || e.Entry.VTEP != vtep3 {
		t.Errorf("moved: observed %+v, %v", e, there)
	}
	if rows := fdb(t, macB); len(rows) > 0 {
		t.Errorf("left %q", rows)
	}
}

// TestStandInsAreNotTrusted: a row of theirs that says what ours would is never taken for ours.
func TestStandInsAreNotTrusted(t *testing.T) {
	for _, theirs := range []string{
		"bridge fdb add 02:00:00:00:01:01 dev vx10 self master extern_learn dst 10.0.0.2",
		"ip neigh add 10.1.1.1 lladdr 02:00:00:00:01:01 dev br10 nud noarp extern_learn proto zebra",
		"ip neigh add 10.1.1.1 lladdr 02:00:00:00:01:01 dev br10 nud permanent",
	} {
		t.Run(theirs, func(t *testing.T) {
			l := newLab(t)
			c := l.start()
			l.must(addVTEP(vtep2))
			run(t, theirs)
			before := rowsOf(t, macA, "10.1.1.1")
			op := addFDB(macA, vtep2)
			if strings.HasPrefix(theirs, "ip") {
				op = addNeighbor(hostA, macA)
			}
			l.must(op)
			asOf := l.settled(c)
			again := op
			again.Stood = true // the core was told of theirs after it had ours acknowledged
			l.must(again)
			for _, op := range []evpn.KernelOp{op, del(op)} {
				if failed := l.trusted(asOf, op); len(failed) > 0 {
					t.Errorf("refused: %+v", failed)
				}
				wantLines(t, describe(&op), rowsOf(t, macA, "10.1.1.1"), before...)
			}
		})
	}
}
