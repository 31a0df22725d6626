package dataplane

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/evpnd/evpnd/evpn"
)

// TestClearForeign: with 500 rows of every kind beside entries of ours, an operator's word removes what daemons left, and nothing
// else; what was behind it follows at once.
func TestClearForeign(t *testing.T) {
	l := newLab(t)
	theirs := foreignRows(500)
	batchRun(t, theirs)
	batchRun(t, []string{ // as zebra leaves them, in the way of the first two hosts
		fmt.Sprintf("bridge fdb add %s dev vx10 self master extern_learn dst 10.0.0.99", remoteMAC(0)),
		fmt.Sprintf("bridge fdb add %s dev vx10 self master extern_learn dst 10.0.0.99", remoteMAC(1)),
		fmt.Sprintf("ip neigh add %s lladdr %s dev br10 nud noarp extern_learn proto zebra", remoteIP(0), remoteMAC(0)),
	})
	c := closeLoop(l)
	c.tell(evpn.PeerUp{Peer: reflector})
	c.tell(append(remoteHosts(40), evpn.EndOfRIB{Peer: reflector})...)
	before := tables(t)
	listed, err := l.ClearForeign(10, false, false)
	if err != nil {
		t.Fatal(err)
	}
	if after := tables(t); !slices.Equal(before, after) {
		t.Fatalf("to list them costs %q", only(before, after))
	}
	if _, err := l.ClearForeign(77, false, true); err == nil {
		t.Error("a VNI that is not served has no leftovers, and no error says so")
	}
	removed, err := l.ClearForeign(10, false, true)
	if err != nil || len(removed) != len(listed) || len(listed) < 100 {
		t.Fatalf("%d listed, %d removed, %v", len(listed), len(removed), err)
	}
	for i := range removed {
		if removed[i].Key != listed[i].Key || removed[i].Entry != listed[i].Entry || removed[i].Err != nil {
			t.Errorf("listed %+v, removed %+v", listed[i], removed[i])
		}
	}
	c.ask(func(core *evpn.Core) { core.RetryBlocked(10) })
	c.tell() // which writes
	eventually(t, "ours to stand instead", func() bool {
		e, there := l.entries()[addFDB(remoteMAC(0), vtep2).Key]
		n, known := l.entries()[addNeighbor(remoteIP(0), remoteMAC(0)).Key]
		return there && known && e.VTEP == remoteVTEP(0) && n.MAC == remoteMAC(0)
	})
	after := tables(t)
	for _, line := range only(before, after) {
		switch marked := strings.Contains(line, "extern_learn"); {
		case !marked, strings.Contains(line, "static"), strings.Contains(line, "dev p10"):
			t.Errorf("removed: %s", line)
		}
	}
	for _, line := range after {
		if strings.Contains(line, "extern_learn") && strings.Contains(line, "dev vx10 dst") && !strings.Contains(line, "00:00:00:00:00:00") {
			t.Errorf("left: %s", line)
		}
	}
	flood, err := l.ClearForeign(10, true, true)
	if err != nil || len(flood) == 0 || slices.ContainsFunc(flood, func(f Leftover) bool { return f.Key.Table != evpn.TableFlood || f.Err != nil }) {
		t.Errorf("of the flood list: %+v, %v", flood, err)
	}
	for _, row := range fdb(t, evpn.MAC{}) {
		if !strings.Contains(row, " 10.0.1.") {
			t.Errorf("left in the flood list: %s", row)
		}
	}
	if again, err := l.ClearForeign(10, true, false); err != nil || len(again) != 0 {
		t.Errorf("left %+v, %v", again, err)
	}
}
