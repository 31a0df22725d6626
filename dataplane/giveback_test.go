package dataplane

import (
	"slices"
	"testing"

	"github.com/evpnd/evpnd/evpn"
)

// TestNeighborTakenByMistakeIsGivenBack: an orchestrator writes its neighbour over ours when we have looked at ours, or counted
// on it, and are about to remove or change it. Its row is there afterwards, and is told of as a host's.
func TestNeighborTakenByMistakeIsGivenBack(t *testing.T) {
	const theirs = "ip neigh replace 10.1.1.1 lladdr 02:00:00:00:01:01 dev br10 nud permanent"
	for _, c := range []struct {
		name, line string
		op         evpn.KernelOp
	}{
		{"removed", theirs, del(addNeighbor(hostA, macA))},
		{"removed, with their protocol", theirs + " router proto static", del(addNeighbor(hostA, macA))},
		{"changed and removed", theirs, addNeighbor(hostA, macB)},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t)
			events := l.start()
			run(t, c.line)
			want := rowsOf(t, macA, hostA.String())
			run(t, "ip neigh del 10.1.1.1 dev br10")
			l.must(addNeighbor(hostA, macA))
			asOf := l.settled(events)
			check := l.writer.undisturbed
			l.writer.undisturbed = func(asOf uint64) bool {
				ok := check(asOf)
				run(t, c.line)
				return ok
			}
			if failed := l.trusted(asOf, c.op); len(failed) > 0 {
				t.Fatalf("refused: %+v", failed)
			}
			l.writer.undisturbed = check
			l.must(del(c.op))
			eventually(t, "their row", func() bool { return slices.Equal(rowsOf(t, macA, hostA.String()), want) })
			events.wait(t, "their host", func() bool { return events.ips[10][hostA].MAC == macA })
		})
	}
}

// TestNeighborThatSomeoneRemovedStaysAway: whatever was written over ours and removed again by whoever wrote it is not put back
// with a delete of ours.
func TestNeighborThatSomeoneRemovedStaysAway(t *testing.T) {
	l := newLab(t)
	events := l.start()
	for _, line := range []string{
		"ip neigh del 10.1.1.1 dev br10",
		"ip link set br10 down\nip link set br10 up",
		"ip neigh replace 10.1.1.1 lladdr 02:00:00:00:09:09 dev br10 nud noarp extern_learn proto zebra\nip neigh del 10.1.1.1 dev br10",
	} {
		l.must(addNeighbor(hostA, macA))
		run(t, "ip neigh replace 10.1.1.1 lladdr 02:00:00:00:01:01 dev br10 nud permanent")
		events.wait(t, "their host", func() bool { return events.ips[10][hostA].MAC == macA })
		run(t, line)
		events.wait(t, "it to go", func() bool { _, there := events.ips[10][hostA]; return !there })
		l.must(addNeighbor(hostA, macA), del(addNeighbor(hostA, macA)))
		run(t, "ip neigh add 10.1.1.2 lladdr 02:00:00:00:01:02 dev br10 nud permanent") // told of after all of this
		events.wait(t, "another host", func() bool { return events.ips[10][hostB].MAC == macB })
		run(t, "ip neigh del 10.1.1.2 dev br10")
		events.wait(t, "the other host to go", func() bool { _, there := events.ips[10][hostB]; return !there })
		if rows := rowsOf(t, macA, hostA.String()); len(rows) > 0 {
			t.Errorf("after %q there is %q", line, rows)
		}
	}
}

// TestMuchOverOursIsBounded: others' rows are remembered up to a limit, and one that is known stays up to date.
func TestMuchOverOursIsBounded(t *testing.T) {
	o := overOurs{}
	theirs := func(i int) row {
		return row{family: 2, ifindex: 1, state: 0x80, dst: remoteIP(i), mac: macA, proto: protocolBGP}
	}
	for i := range maxOverOurs + 10 {
		o.follow(theirs(i), false)
	}
	again := theirs(0)
	again.mac = macB
	o.follow(again, false)
	key := rowKey{ifindex: 1, addr: remoteIP(0).As16()}
	if len(o) != maxOverOurs || o[key].mac != macB {
		t.Errorf("%d rows, the first one %+v", len(o), o[key])
	}
	if o.follow(theirs(0), true); len(o) != maxOverOurs-1 {
		t.Errorf("%d rows when one is gone", len(o))
	}
}
