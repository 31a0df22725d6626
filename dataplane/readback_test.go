package dataplane

import (
	"testing"
	"time"

	"github.com/evpnd/evpnd/evpn"
)

// TestReadBackBesideABridgeThatGoes: what is asked for together with a VNI whose bridge has just gone is read all the same.
func TestReadBackBesideABridgeThatGoes(t *testing.T) {
	l := newLab(t)
	addVNI(t, 20)
	if err := l.readLinks(); err != nil {
		t.Fatal(err)
	}
	l.must(addVTEP(vtep2), addFDB(macA, vtep2))
	run(t, "ip link del br20")
	events, err := l.ReadBack(t.Context(), []evpn.VNI{10, 20}, l.seq)
	if err != nil || len(events) != 1 {
		t.Fatalf("read back %+v, %v; want VNI 10 alone", events, err)
	}
	if o := events[0].(evpn.Observed); o.VNI != 10 || len(o.Entries) != 1 {
		t.Errorf("read back %+v", o)
	}
	if _, err := l.ClearForeign(20, false, false); err == nil {
		t.Error("no word of the bridge when one asks for entries of others")
	}
}

// TestReadBackThatFailsIsReported: what the core asked for in vain comes by itself.
func TestReadBackThatFailsIsReported(t *testing.T) {
	l := newLab(t)
	c := l.start()
	l.must(addVTEP(vtep2), addFDB(macA, vtep2))
	conn := l.writer.rtnl.conn
	if err := conn.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if events, err := l.ReadBack(t.Context(), []evpn.VNI{0, 10}, l.seq); err == nil {
		t.Fatalf("read back %+v", events)
	}
	if err := conn.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	c.wait(t, "the VTEP and the MAC", func() bool {
		return c.entries[0][addVTEP(vtep2).Key].Ours && c.entries[10][addFDB(macA, vtep2).Key].Ours
	})
}
