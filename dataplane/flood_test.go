package dataplane

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/evpnd/evpnd/evpn"
)

// onUnmarkedList makes a lab where a flood list was begun by an operator, so that the kernel does not mark what we append.
func onUnmarkedList(t *testing.T) (l *lab, dst row) {
	l = newLab(t)
	run(t, "bridge fdb append 00:00:00:00:00:00 dev vx10 dst 10.0.0.99")
	l.must(addFlood(vtep2))
	return l, row{
		family: unix.AF_BRIDGE, ifindex: l.topo.vni(10).device, state: unix.NUD_NOARP | unix.NUD_PERMANENT, flags: unix.NTF_SELF, dst: vtep2,
	}
}

func floodsTo(t *testing.T, dst string) bool {
	return strings.Contains(run(t, "bridge fdb show dev vx10"), " dst "+dst+" ")
}

// TestFloodDstGoesDuringDump: a dst of ours that someone deletes after the dump listed it, and before the list is taken over,
// is written again, and not held to be someone else's.
func TestFloodDstGoesDuringDump(t *testing.T) {
	l, dst := onUnmarkedList(t)
	o := observer{rtnl: l.reader, topo: l.topo, vteps: l.vteps, floods: l.floods, views: map[evpn.VNI]*view{}}
	if err := o.readRows([]*attached{l.topo.vni(10)}); err != nil {
		t.Fatal(err)
	}
	run(t, "bridge fdb del 00:00:00:00:00:00 dev vx10 dst "+vtep2.String())
	l.watcher.row(dst, true)
	o.observed(10, l.seq)
	l.must(addFlood(vtep2))
	if !floodsTo(t, vtep2.String()) {
		t.Errorf("nothing is flooded to %s:\n%s", vtep2, run(t, "bridge fdb show dev vx10"))
	}
}

// TestFloodDstWrittenBeforeItsLossIsHeard: the notification that a dst of ours went may come after it was written again, and
// that of the new one is no one else's.
func TestFloodDstWrittenBeforeItsLossIsHeard(t *testing.T) {
	l, dst := onUnmarkedList(t)
	l.echoes.watch(true)
	run(t, "bridge fdb del 00:00:00:00:00:00 dev vx10 dst "+vtep2.String())
	l.must(addFlood(vtep2)) // a read-back was faster than the notification
	l.watcher.row(dst, true)
	l.watcher.row(dst, false)
	l.must(addFlood(vtep2)) // for the loss
	l.must(del(addFlood(vtep2)))
	if floodsTo(t, vtep2.String()) {
		t.Errorf("still flooded to %s:\n%s", vtep2, run(t, "bridge fdb show dev vx10"))
	}
}
