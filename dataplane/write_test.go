package dataplane

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/evpnd/evpnd/evpn"
)

func TestEveryTableIsWrittenReadBackRepeatedAndRemoved(t *testing.T) {
	for _, mode := range []string{"nexthop", "dst"} {
		t.Run(mode, func(t *testing.T) {
			l := newLab(t)
			if err := l.useNexthops(mode == "nexthop"); err != nil {
				t.Fatal(err)
			}
			ops := []evpn.KernelOp{
				addVTEP(vtep2), addFlood(vtep2), addFDB(macA, vtep2), addNeighbor(hostA, macA), addNeighbor(host6, macA),
			}
			ops[4].Entry.Router = true
			l.must(ops...)
			behind := "dst 10.0.0.2"
			if mode == "nexthop" {
				behind = "nhid 1163264001"
			}
			want := []string{"dev vx10 " + behind + " self extern_learn static", "dev vx10 extern_learn master br10"}
			slices.Sort(want)
			wantLines(t, "fdb", fdb(t, macA), want...)
			wantLines(t, "flood", fdb(t, evpn.MAC{}), "dev vx10 dst 10.0.0.2 self extern_learn permanent")
			for _, want := range []string{
				"10.1.1.1 lladdr 02:00:00:00:01:01 extern_learn NOARP proto bgp",
				"2001:db8::1 lladdr 02:00:00:00:01:01 router extern_learn NOARP proto bgp",
			} {
				if !strings.Contains(neighbors(t), want) {
					t.Errorf("neighbors: got %q, want %q in it", neighbors(t), want)
				}
			}
			for _, op := range ops {
				if e, ok := l.entry(op.Key); !ok || !e.Ours || e.Entry != op.Entry {
					t.Errorf("%s observed as %+v, %v", op.Key, e, ok)
				}
			}
			before := run(t, "bridge -d fdb show") + neighbors(t)
			l.must(ops...)
			for i := range ops {
				l.must(replace(ops[i]))
			}
			if after := run(t, "bridge -d fdb show") + neighbors(t); after != before {
				t.Errorf("written again:\n%swant\n%s", after, before)
			}
			slices.Reverse(ops)
			for range 2 {
				for _, op := range ops {
					l.must(del(op))
				}
			}
			if s := l.Status(); s.Nexthops != (mode == "nexthop") || s.VTEPs != 0 || s.Written[evpn.TableFDB].Done == 0 {
				t.Errorf("status %+v", s)
			}
			if got := l.observed(10).Entries; len(got) != 0 {
				t.Errorf("entries left: %+v", got)
			}
			if got := run(t, "ip nexthop show"); got != "" || len(fdb(t, macA)) != 0 {
				t.Errorf("left: %q %q", got, fdb(t, macA))
			}
		})
	}
}

func TestReplaceMovesOurEntry(t *testing.T) {
	for _, mode := range []string{"nexthop", "dst"} {
		t.Run(mode, func(t *testing.T) {
			l := newLab(t)
			if err := l.useNexthops(mode == "nexthop"); err != nil {
				t.Fatal(err)
			}
			l.must(addVTEP(vtep2), addVTEP(vtep3), addFDB(macA, vtep2), addNeighbor(hostA, macA))
			l.must(replace(addFDB(macA, vtep3)), replace(addNeighbor(hostA, macB)))
			if e, _ := l.entry(addFDB(macA, vtep3).Key); e.Entry.VTEP != vtep3 || !e.Ours {
				t.Errorf("after Replace: %+v", e)
			}
			if e, _ := l.entry(addNeighbor(hostA, macB).Key); e.Entry.MAC != macB || !e.Ours {
				t.Errorf("after Replace: %+v", e)
			}
			// What is ours may be overwritten without Replace as well.
			l.must(addFDB(macA, vtep2), addNeighbor(hostA, macA))
			if e, _ := l.entry(addFDB(macA, vtep2).Key); e.Entry.VTEP != vtep2 || !e.Ours {
				t.Errorf("without Replace: %+v", e)
			}
		})
	}
}

func TestStickyComesAndGoes(t *testing.T) {
	l := newLab(t)
	sticky := addFDB(macA, vtep2)
	sticky.Entry.Sticky = true
	l.must(addVTEP(vtep2), sticky)
	wantLines(t, "sticky", fdb(t, macA),
		"dev vx10 extern_learn sticky master br10 static", "dev vx10 nhid 1163264001 self extern_learn static")
	if e, _ := l.entry(sticky.Key); e.Entry != sticky.Entry || !e.Ours {
		t.Errorf("sticky observed as %+v", e)
	}
	l.must(replace(addFDB(macA, vtep2)))
	if e, _ := l.entry(sticky.Key); e.Entry.Sticky || !e.Ours {
		t.Errorf("no longer sticky, observed as %+v: %q", e, fdb(t, macA))
	}
	l.must(replace(sticky))
	if e, _ := l.entry(sticky.Key); !e.Entry.Sticky || !e.Ours {
		t.Errorf("sticky again, observed as %+v", e)
	}
	l.must(del(sticky))
	wantLines(t, "deleted", fdb(t, macA))
}

func TestFromDstToNexthopAndBack(t *testing.T) {
	l := newLab(t)
	if err := l.useNexthops(false); err != nil {
		t.Fatal(err)
	}
	l.must(addVTEP(vtep2), addFDB(macA, vtep2))
	for range 2 {
		if err := l.useNexthops(true); err != nil {
			t.Fatal(err)
		}
		toNexthop := replace(addFDB(macA, vtep2))
		toNexthop.Stood = true // a dst is no mark of ours in this mode
		l.must(addVTEP(vtep2), toNexthop)
		if got := fdb(t, macA); !strings.Contains(strings.Join(got, ";"), "nhid") {
			t.Errorf("in nexthop mode: %q", got)
		}
		if err := l.useNexthops(false); err != nil {
			t.Fatal(err)
		}
		l.must(addVTEP(vtep3), replace(addFDB(macA, vtep3)))
		if got := fdb(t, macA); !strings.Contains(strings.Join(got, ";"), "dst 10.0.0.3") {
			t.Errorf("in dst mode: %q", got)
		}
		run(t, "ip nexthop flush")
	}
}

// TestForeignRowsAreLeftAlone: whatever someone else put there survives every op, and the op says so.
func TestForeignRowsAreLeftAlone(t *testing.T) {
	for _, c := range []struct{ name, make string }{
		{"static row on a local port", "bridge fdb add 02:00:00:00:01:01 dev p10 master static"},
		{"bridge-local permanent row", "bridge fdb add 02:00:00:00:01:01 dev p10 master permanent"},
		{"static row on the vxlan port", "bridge fdb add 02:00:00:00:01:01 dev vx10 master static"},
		{"row of another daemon on a local port", "bridge fdb add 02:00:00:00:01:01 dev p10 master extern_learn"},
		{"static row of the vxlan device", "bridge fdb add 02:00:00:00:01:01 dev vx10 self static dst 10.0.0.9"},
		{"permanent row of the vxlan device", "bridge fdb add 02:00:00:00:01:01 dev vx10 self permanent dst 10.0.0.9"},
		{"row with a nexthop of another daemon", `ip nexthop add id 900 via 10.0.0.9 fdb
			ip nexthop add id 901 group 900 fdb
			bridge fdb add 02:00:00:00:01:01 dev vx10 self extern_learn nhid 901`},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t)
			l.must(addVTEP(vtep2))
			run(t, c.make)
			before, mend := fdb(t, macA), ""
			for _, op := range []evpn.KernelOp{addFDB(macA, vtep2), replace(addFDB(macA, vtep2))} {
				failed := l.write(addFDB(macB, vtep2), op, addFDB(macC, vtep2))
				if len(failed) != 1 || failed[0].Op != op || !failed[0].Foreign || !errors.Is(failed[0].Err, errForeign) {
					t.Errorf("replace %v: got %+v, want one Foreign", op.Replace, failed)
				}
				wantLines(t, "row", fdb(t, macA), before...)
				mend = failed[0].Mend
			}
			l.must(del(addFDB(macA, vtep2)))
			wantLines(t, "after delete", fdb(t, macA), before...)
			if err := l.Flush(context.Background()); err != nil {
				t.Error(err)
			}
			wantLines(t, "after flush", fdb(t, macA), before...)
			if len(fdb(t, macB)) != 0 || len(fdb(t, macC)) != 0 {
				t.Error("flush left rows of ours")
			}
			run(t, strings.ReplaceAll(mend, " && ", "\n"))
			l.must(addVTEP(vtep2), addFDB(macA, vtep2))
		})
	}
}

func TestForeignRowThatSaysTheSameIsSuccess(t *testing.T) {
	l := newLab(t)
	l.must(addVTEP(vtep2))
	run(t, `bridge fdb add 02:00:00:00:01:01 dev vx10 self master static dst 10.0.0.2
		ip neigh add 10.1.1.1 lladdr 02:00:00:00:01:01 dev br10 nud permanent`)
	c := l.start()
	before := append(fdb(t, macA), neighbors(t))
	l.must(addFDB(macA, vtep2), addNeighbor(hostA, macA))
	l.must(del(addFDB(macA, vtep2)), del(addNeighbor(hostA, macA)))
	wantLines(t, "rows", append(fdb(t, macA), neighbors(t)), before...)
	l.must(addFDB(macA, vtep2), addNeighbor(hostA, macA))
	run(t, `bridge fdb del 02:00:00:00:01:01 dev vx10 self master
		ip neigh del 10.1.1.1 dev br10`)
	c.wait(t, "the core to be told that they stand for ours no longer", func() bool {
		return c.tampered[addFDB(macA, vtep2).Key] && c.tampered[addNeighbor(hostA, macA).Key]
	})
}

func TestForeignNeighborIsLeftAlone(t *testing.T) {
	for _, how := range []string{"nud permanent", "nud noarp", "nud noarp extern_learn proto zebra", "nud permanent proto bgp"} {
		t.Run(how, func(t *testing.T) {
			l := newLab(t)
			run(t, "ip neigh add 10.1.1.1 lladdr 02:00:00:00:09:09 dev br10 "+how)
			before := neighbors(t)
			mend := ""
			for _, op := range []evpn.KernelOp{addNeighbor(hostA, macA), replace(addNeighbor(hostA, macA))} {
				failed := l.write(op, addNeighbor(hostB, macA))
				if len(failed) != 1 || !failed[0].Foreign {
					t.Fatalf("got %+v, want one Foreign", failed)
				}
				mend = failed[0].Mend
			}
			l.must(del(addNeighbor(hostA, macA)), del(addNeighbor(hostB, macA)))
			if after := neighbors(t); after != before {
				t.Errorf("got %q, want %q", after, before)
			}
			run(t, mend)
			l.must(addNeighbor(hostA, macA))
		})
	}
}

// TestLearnedRowsNeedReplace: what the kernel learned of a local host is overwritten only when the core says so.
func TestLearnedRowsNeedReplace(t *testing.T) {
	l := newLab(t)
	run(t, `bridge fdb add 02:00:00:00:01:01 dev p10 master dynamic
		ip neigh add 10.1.1.1 lladdr 02:00:00:00:09:09 dev br10 nud stale`)
	l.must(addVTEP(vtep2))
	failed := l.write(addFDB(macA, vtep2), addNeighbor(hostA, macA))
	if len(failed) != 2 || !failed[0].Foreign || !failed[1].Foreign {
		t.Errorf("without Replace: %+v", failed)
	}
	wantLines(t, "local row", fdb(t, macA), "dev p10 master br10")
	l.must(replace(addFDB(macA, vtep2)), replace(addNeighbor(hostA, macA)))
	for _, k := range []evpn.EntryKey{addFDB(macA, vtep2).Key, addNeighbor(hostA, macA).Key} {
		if e, _ := l.entry(k); !e.Ours {
			t.Errorf("%s with Replace: %+v", k, e)
		}
	}
}

// TestUnresolvedNeighborIsNobodys: the kernel leaves failed look-ups in the table.
func TestUnresolvedNeighborIsNobodys(t *testing.T) {
	l := newLab(t)
	run(t, "ip neigh add 10.1.1.1 dev br10 nud failed")
	l.must(addNeighbor(hostA, macA))
	if e, _ := l.entry(addNeighbor(hostA, macA).Key); !e.Ours {
		t.Errorf("observed %+v", e)
	}
}

func TestForeignFloodDstsAreLeftAlone(t *testing.T) {
	l := newLab(t)
	run(t, `bridge fdb append 00:00:00:00:00:00 dev vx10 self permanent dst 10.0.0.2
		bridge fdb append 00:00:00:00:00:00 dev vx10 self permanent dst 10.0.0.9`)
	l.start()
	l.must(addFlood(vtep2), addFlood(vtep3))
	wantLines(t, "appended", fdb(t, evpn.MAC{}), "dev vx10 dst 10.0.0.2 self permanent",
		"dev vx10 dst 10.0.0.3 self permanent", "dev vx10 dst 10.0.0.9 self permanent")
	for addr, want := range map[netip.Addr]bool{vtep2: false, vtep3: true} {
		if e, ok := l.entry(addFlood(addr).Key); !ok || e.Ours != want {
			t.Errorf("%s observed %+v %v, want ours %v", addr, e, ok, want)
		}
	}
	l.must(del(addFlood(vtep2)), del(addFlood(vtep3)))
	wantLines(t, "deleted", fdb(t, evpn.MAC{}), "dev vx10 dst 10.0.0.2 self permanent", "dev vx10 dst 10.0.0.9 self permanent")
}

// TestOperatorAppendsToOurFloodList takes our mark off the list; ours and theirs are still told apart.
func TestOperatorAppendsToOurFloodList(t *testing.T) {
	l := newLab(t)
	c := l.start()
	l.must(addFlood(vtep2))
	run(t, "bridge fdb append 00:00:00:00:00:00 dev vx10 self permanent dst 10.0.0.9")
	theirs := netip.MustParseAddr("10.0.0.9")
	eventually(t, "the watcher to see the row", func() bool { return l.floods.owner(l.topo.vni(10).device, theirs) == foreign })
	l.must(addFlood(vtep3), addFlood(theirs))
	l.must(del(addFlood(vtep2)), del(addFlood(vtep3)), del(addFlood(theirs)))
	wantLines(t, "left", fdb(t, evpn.MAC{}), "dev vx10 dst 10.0.0.9 self permanent")
	run(t, "bridge fdb del 00:00:00:00:00:00 dev vx10 self dst 10.0.0.9")
	c.wait(t, "the lost dst to be reported", func() bool { return c.tampered[addFlood(theirs).Key] })
}

// TestErrorsBelongToTheirOps: one batch with refused messages among good ones.
func TestErrorsBelongToTheirOps(t *testing.T) {
	l := newLab(t)
	v6 := netip.MustParseAddr("2001:db8::2")
	l.must(addVTEP(vtep2), addVTEP(v6))
	var ops []evpn.KernelOp
	bad := map[evpn.MAC]bool{}
	for i := range 600 {
		m := evpn.MAC{2, 0, 0, 9, byte(i >> 8), byte(i)}
		op := addFDB(m, vtep2)
		if i%97 == 3 {
			op.Entry.VTEP = v6 // the device is IPv4: the kernel refuses its half, after it has made the bridge's
			bad[m] = true
		}
		ops = append(ops, op)
	}
	failed := l.write(ops...)
	if len(failed) != len(bad) {
		t.Fatalf("%d failed, want %d: %+v", len(failed), len(bad), failed)
	}
	for _, f := range failed {
		if !bad[f.Op.Key.MAC] || f.Foreign || !errors.Is(f.Err, unix.EINVAL) && !errors.Is(f.Err, unix.EAFNOSUPPORT) && !errors.Is(f.Err, unix.EOPNOTSUPP) {
			t.Errorf("failed: %+v", f)
		}
		wantLines(t, "no half is left", fdb(t, f.Op.Key.MAC))
	}
	if n := len(l.observed(10).Entries); n != len(ops)-len(bad) {
		t.Errorf("%d entries, want %d", n, len(ops)-len(bad))
	}
	if s := l.Status().Written[evpn.TableFDB]; s.Done != uint64(len(ops)-len(bad)) || s.Failed != uint64(len(bad)) {
		t.Errorf("counted %+v", s)
	}
}

func TestOpsThatCannotBeDoneSayWhy(t *testing.T) {
	l := newLab(t)
	noDevice := addFDB(macA, vtep2)
	noDevice.Key.VNI = 99
	for _, c := range []struct {
		op   evpn.KernelOp
		want string
	}{
		{addFDB(macA, vtep2), "no nexthop"},
		{noDevice, "VNI 99"},
		{addFDB(evpn.MAC{1}, vtep2), "nexthop"},
		{evpn.KernelOp{Key: evpn.EntryKey{Table: 9, VNI: 10}}, "no such table"},
		{addVTEP(netip.Addr{}), "not an address"},
		{addFlood(netip.Addr{}), "not the address"},
		{addNeighbor(netip.Addr{}, macA), "not the address"},
	} {
		failed := l.write(c.op)
		if len(failed) != 1 || failed[0].Foreign || !strings.Contains(failed[0].Err.Error(), c.want) {
			t.Errorf("%s: got %+v, want %q in it", c.op.Key, failed, c.want)
		}
	}
	l.must(del(noDevice))
}

// TestOrderOfOneKeyIsKept: a batch may say several things of one entry; the last one counts.
func TestOrderOfOneKeyIsKept(t *testing.T) {
	l := newLab(t)
	l.must(addVTEP(vtep2), addVTEP(vtep3), addFDB(macA, vtep2), addFDB(macA, vtep3), del(addFDB(macB, vtep2)), addFDB(macB, vtep2),
		replace(addFDB(macB, vtep3)), addFDB(macC, vtep2), del(addFDB(macC, vtep2)))
	for m, want := range map[evpn.MAC]netip.Addr{macA: vtep3, macB: vtep3} {
		if e, _ := l.entry(addFDB(m, want).Key); e.Entry.VTEP != want {
			t.Errorf("%s behind %s, want %s", m, e.Entry.VTEP, want)
		}
	}
	wantLines(t, "deleted last", fdb(t, macC))
}

func TestCancelledApplyReportsTheRest(t *testing.T) {
	l := newLab(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	applied := l.Apply(ctx, evpn.KernelBatch{Seq: 1, Ops: []evpn.KernelOp{addVTEP(vtep2), addFlood(vtep2)}})
	if len(applied.Failed) != 2 || !errors.Is(applied.Failed[1].Err, context.Canceled) {
		t.Errorf("got %+v", applied)
	}
}

// TestRestartAdoptsWhatIsOurs: a new Dataplane sees the entries of an earlier life, uses the same nexthops, and can
// remove them.
func TestRestartAdoptsWhatIsOurs(t *testing.T) {
	l := newLab(t)
	ops := []evpn.KernelOp{addVTEP(vtep2), addVTEP(vtep3), addFlood(vtep2), addFDB(macA, vtep2), addFDB(macB, vtep3), addNeighbor(hostA, macA)}
	l.must(ops...)
	nexthops := run(t, "ip nexthop show")
	next := newPlane(t, options())
	c := next.start()
	c.look(func() {
		for _, op := range ops {
			if e, ok := c.entries[op.Key.VNI][op.Key]; !ok || !e.Ours || e.Entry != op.Entry {
				t.Errorf("%s adopted as %+v %v", op.Key, e, ok)
			}
		}
	})
	next.must(ops...)
	if got := run(t, "ip nexthop show"); got != nexthops {
		t.Errorf("nexthops %q, want %q", got, nexthops)
	}
	if err := next.Flush(context.Background()); err != nil {
		t.Error(err)
	}
	if got := run(t, "ip nexthop show"); got != "" || len(fdb(t, macA)) != 0 || strings.Contains(neighbors(t), "10.1.1.1") {
		t.Errorf("left after flush: %q %q %q", got, fdb(t, macA), neighbors(t))
	}
}

func TestNexthopIDsOfOthersAreAvoided(t *testing.T) {
	l := newLab(t)
	run(t, `ip nexthop add id 1163264000 via 10.0.0.77 fdb
		ip nexthop add id 1163264002 via 10.0.0.78 fdb protocol bgp
		ip nexthop add id 1163264005 blackhole`)
	l.must(addVTEP(vtep2), addVTEP(vtep3))
	l.must(addFDB(macA, vtep2), addFDB(macB, vtep3))
	for _, want := range []string{"id 1163264000 via 10.0.0.77", "id 1163264005 blackhole"} {
		if got := run(t, "ip nexthop show"); !strings.Contains(got, want) {
			t.Errorf("nexthops %q, want %q still there", got, want)
		}
	}
	// A restart adopts ours, removes the half pair that an earlier life left, and leaves the others'.
	next := newPlane(t, options())
	if n := len(next.observed(0).Entries); n != 2 {
		t.Errorf("adopted %d, want 2", n)
	}
	if got := run(t, "ip nexthop show"); strings.Contains(got, "10.0.0.78") || !strings.Contains(got, "10.0.0.77") {
		t.Errorf("nexthops after restart %q", got)
	}
}

func TestIPv6VTEP(t *testing.T) {
	clean(t)
	run(t, `ip link add br10 address 02:00:00:00:aa:01 mtu 1430 type bridge
		ip link add vx10 mtu 1430 type vxlan id 10 dstport 4789 local 2001:db8::1 nolearning
		ip link set vx10 master br10 up
		ip link set br10 up`)
	opt := options()
	opt.VTEP = netip.MustParseAddr("2001:db8::1")
	l := newPlane(t, opt)
	v6 := netip.MustParseAddr("2001:db8::2")
	ops := []evpn.KernelOp{addVTEP(v6), addFlood(v6), addFDB(macA, v6)}
	l.must(ops...)
	for _, op := range ops {
		if e, ok := l.entry(op.Key); !ok || !e.Ours || e.Entry != op.Entry {
			t.Errorf("%s observed as %+v %v", op.Key, e, ok)
		}
	}
	if at := l.topo.vni(10); at.Local != opt.VTEP || !at.Usable {
		t.Errorf("attachment %+v", at.Attachment)
	}
	if err := l.Flush(context.Background()); err != nil || len(fdb(t, macA)) != 0 || len(fdb(t, evpn.MAC{})) != 0 {
		t.Errorf("after flush: %v %q", err, run(t, "bridge fdb show"))
	}
}

// TestLostAnswersAreErrorsNotHangs: a writing socket with hardly any room for answers still ends, and says what is not
// known to be written; written again with room, all of it is there once.
func TestLostAnswersAreErrorsNotHangs(t *testing.T) {
	l := newLab(t)
	l.must(addVTEP(vtep2))
	var ops []evpn.KernelOp
	for i := range 300 {
		ops = append(ops, replace(addFDB(evpn.MAC{2, 0, 0, 9, byte(i >> 8), byte(i)}, vtep2)))
	}
	if err := l.writer.rtnl.conn.SetReadBuffer(2048); err != nil {
		t.Fatal(err)
	}
	if failed := l.write(ops...); len(failed) == 0 || !errors.Is(failed[0].Err, unix.ENOBUFS) {
		t.Fatalf("%d failed, want some with ENOBUFS", len(failed))
	}
	if err := l.writer.rtnl.conn.SetReadBuffer(writeBuffer); err != nil {
		t.Fatal(err)
	}
	l.must(ops...)
	if n := len(l.observed(10).Entries); n != len(ops) {
		t.Errorf("%d entries, want %d", n, len(ops))
	}
}

// TestNexthopThatSomeoneReplacedIsMended: the pair keeps its ids, so the rows that point to it need nothing.
func TestNexthopThatSomeoneReplacedIsMended(t *testing.T) {
	for name, script := range map[string]string{
		"nexthop":                "ip nexthop replace id 1163264000 via 10.0.0.99 fdb protocol bgp",
		"nexthop of no protocol": "ip nexthop replace id 1163264000 via 10.0.0.99 fdb",
		"the gateway of another": "ip nexthop replace id 1163264000 via 10.0.0.3 fdb protocol bgp",
		"group": `ip nexthop add id 900 via 10.0.0.9 fdb
			ip nexthop replace id 1163264001 group 900 fdb protocol bgp`,
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			c := l.start()
			l.must(addVTEP(vtep2), addVTEP(vtep3), addFDB(macA, vtep2))
			before, rows := run(t, "ip nexthop show"), fdb(t, macA)
			run(t, script)
			c.wait(t, "the table of VTEPs to be read back without it", func() bool {
				_, there := c.entries[0][addVTEP(vtep2).Key]
				return c.observed[0] > 1 && !there && c.tampered[addVTEP(vtep2).Key]
			})
			c.look(func() {
				if _, there := c.entries[0][addVTEP(vtep3).Key]; !there || len(c.entries[0]) != 1 {
					t.Errorf("table of VTEPs %v", c.entries[0])
				}
			})
			l.must(addVTEP(vtep2))
			run(t, "! ip nexthop del id 900")
			if after := run(t, "ip nexthop show"); after != before {
				t.Errorf("nexthops\n%swant\n%s", after, before)
			}
			wantLines(t, "row", fdb(t, macA), rows...)
			if n := len(l.observed(0).Entries); n != 2 {
				t.Errorf("%d VTEPs observed, want 2", n)
			}
		})
	}
}

func TestProbeLeavesTheNexthopOfOthers(t *testing.T) {
	clean(t)
	run(t, "ip nexthop add id 1163329536 via 10.0.0.77 fdb") // what the probe would make
	l := newPlane(t, options())
	if !l.Status().Nexthops {
		t.Error("nexthops are not used")
	}
	if got := run(t, "ip nexthop show"); !strings.Contains(got, "id 1163329536 via 10.0.0.77") {
		t.Errorf("nexthops %q, want the one that was there", got)
	}
}

func (l *lab) expectedDeletes() int {
	l.expected.mu.Lock()
	defer l.expected.mu.Unlock()
	return len(l.expected.rows)
}

// TestRefusedDeletesAreNotExpected: nothing is notified of them, so a later delete by someone else must not pass for ours.
func TestRefusedDeletesAreNotExpected(t *testing.T) {
	l := newLab(t)
	l.start()
	at := *l.topo.vni(10)
	wrong := at // a device that is no VXLAN device and no port, which has no FDB for us
	ifi, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	wrong.device = ifi.Index
	mine := row{family: unix.AF_BRIDGE, ifindex: wrong.device, flags: unix.NTF_EXT_LEARNED}
	far := mine
	far.flags |= unix.NTF_SELF
	add, remove := addFDB(macA, vtep2), del(addFDB(macA, vtep2))
	for name, s := range map[string]step{
		"undo of a row that is not there": {op: &add, at: &at, phase: undo, made: true},
		"delete that the device refuses":  {op: &remove, at: &wrong, phase: change, near: mine, far: far},
	} {
		l.kernel.Lock()
		l.writer.steps = []step{s}
		l.writer.changeFDB()
		l.kernel.Unlock()
		if n := l.expectedDeletes(); n != 0 {
			t.Errorf("%s: %d deletes are expected", name, n)
		}
		l.expected.clear()
	}
	l.floods.set(at.device, vtep3, ours)
	l.must(del(addFlood(vtep3)))
	if n := l.expectedDeletes(); n != 0 {
		t.Errorf("flood dst that is not there: %d deletes are expected", n)
	}
}
