package daemon

import (
	"net/netip"
	"testing"

	"github.com/sirupsen/logrus"

	"github.com/evpnd/evpnd/evpn"
)

// TestEventsInLog: at debug level the log tells what happened, and of a table that comes at once only the beginning.
func TestEventsInLog(t *testing.T) {
	w := newWorld(t, "", nil).start()
	w.report(attached(100), evpn.Synced{}, peerUp(peer1))
	w.report(macRoute(peer1, 100, vtep2, macB, netip.Addr{}))
	if lines := w.logged("mac learned"); len(lines) != 0 {
		t.Fatalf("at the usual level: %v", lines[0])
	}
	w.Daemon.log.SetLevel(logrus.DebugLevel)
	w.report(macRoute(peer1, 100, vtep2, macC, netip.Addr{}))
	lines := w.logged("mac learned")
	if len(lines) != 1 {
		t.Fatalf("%d lines", len(lines))
	}
	for name, want := range map[string]any{"vni": evpn.VNI(100), "mac": macC, "vtep": "10.255.0.2", "peer": peer1.String(), "rd": evpn.NewRD(vtep2, 100)} {
		if got := lines[0].Data[name]; got != want {
			t.Errorf("field %s is %v, want %v", name, got, want)
		}
	}
	u := macRoute(peer1, 100, vtep2, macA, netip.Addr{}).(*evpn.Update)
	const routes = 5000
	for i := range routes {
		r := u.Reach[0]
		r.Key.MAC = evpn.MAC{2, 2, 0, 0, byte(i >> 8), byte(i)}
		u.Reach = append(u.Reach, r)
	}
	w.report(u)
	until(t, "all to be written", func() bool { return len(w.kernel.hold()) > routes })
	if n := len(w.log.AllEntries()); n > 2*eventsAtOnce {
		t.Errorf("%d lines", n)
	}
}
