package dataplane

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/evpnd/evpnd/config"
	"github.com/evpnd/evpnd/evpn"
)

// wantWay waits until a VTEP is reported so: why is "" when it can be reached.
func (c *core) wantWay(t *testing.T, vtep netip.Addr, why string) {
	t.Helper()
	c.wait(t, fmt.Sprintf("%s to be reported with %q", vtep, why), func() bool {
		w, ok := c.ways[vtep]
		return ok && w.Reason == why && w.Reachable == (why == "")
	})
}

// TestWays changes the underlay in every way that takes a route away, the silent ones too, and mends it again.
func TestWays(t *testing.T) {
	l := newHost(t, options())
	run(t, `ip link add und2 type veth peer name und3
		ip link set und2 up
		ip link set und3 up
		ip addr add 192.0.2.2/31 dev und2`)
	c := l.start()
	l.WatchVTEPs([]netip.Addr{vtep2})
	c.wantWay(t, vtep2, "")
	const route = "ip route replace 10.0.0.2 via 192.0.2.1"
	for _, s := range []struct{ name, lose, why, mend string }{
		{"route deleted", "ip route del 10.0.0.2", "no route", route},
		{"blackhole", "ip route replace blackhole 10.0.0.2", "route of type blackhole", "ip route del blackhole 10.0.0.2\n" + route},
		{"unreachable", "ip route replace unreachable 10.0.0.2", "route of type unreachable", "ip route del unreachable 10.0.0.2\n" + route},
		{"prohibit", "ip route replace prohibit 10.0.0.2", "route of type prohibit", "ip route del prohibit 10.0.0.2\n" + route},
		{"rule", "ip rule add pref 5 to 10.0.0.2 blackhole", "route of type blackhole", "ip rule del pref 5"},
		{"device down", "ip link set und0 down", "no route", "ip link set und0 up\n" + route},
		{"carrier lost", "ip link set und1 down", "link without carrier", "ip link set und1 up"},
		{"address removed", "ip addr del 192.0.2.0/31 dev und0", "no route", "ip addr add 192.0.2.0/31 dev und0\n" + route},
		{
			"nexthop object deleted", "ip nexthop add id 77 via 192.0.2.1 dev und0\nip route replace 10.0.0.2 nhid 77\nip nexthop del id 77",
			"no route", route,
		},
		{
			"one way of two is enough", "ip route replace 10.0.0.2 nexthop via 192.0.2.1 nexthop via 192.0.2.3\nip link set und1 down",
			"", "ip link set und3 down\nip link set und1 up\n" + route,
		},
		{
			"both ways without carrier", "ip link set und3 up\nip route replace 10.0.0.2 nexthop via 192.0.2.1 nexthop via 192.0.2.3\nip link set und1 down\nip link set und3 down",
			"link without carrier", "ip link set und1 up\nip link set und3 up\n" + route,
		},
		{"default route", "ip route add default via 192.0.2.1\nip route del 10.0.0.2", "", "ip route del default\n" + route},
	} {
		run(t, s.lose)
		c.wantWay(t, vtep2, s.why)
		if t.Failed() {
			t.Fatal(s.name)
		}
		run(t, s.mend)
		c.wantWay(t, vtep2, "")
	}
}

// TestWaysPolicy: what counts as a way is what the configuration says, also after a reload, and doctor says the same.
func TestWaysPolicy(t *testing.T) {
	l := newHost(t, options())
	c := l.start()
	l.WatchVTEPs([]netip.Addr{vtep2, vtep3})
	c.wantWay(t, vtep2, "")
	c.wantWay(t, vtep3, "no route")
	run(t, "ip route add default via 192.0.2.1")
	c.wantWay(t, vtep3, "")
	opt := options()
	opt.Reachability = config.ReachabilityNoDefault
	l.Reconfigure(opt)
	c.wantWay(t, vtep3, "only a default route")
	c.wantWay(t, vtep2, "")
	found, err := l.Diagnose([]netip.Addr{vtep2, vtep3})
	if err != nil || len(found) != 1 || found[0].Code != evpn.FaultVTEPUnreachable || !strings.HasPrefix(found[0].Detail, "only a default route") {
		t.Errorf("doctor finds %+v, %v", found, err)
	}
	opt.Reachability = config.ReachabilityOff
	l.Reconfigure(opt)
	c.wantWay(t, vtep3, "")
}

// TestWaysOfBoundDevices: packets of a VXLAN device that is bound to a device go by what that device leads to.
func TestWaysOfBoundDevices(t *testing.T) {
	newHost(t, options())
	run(t, `ip link add und2 type veth peer name und3
		ip link set und2 up
		ip link set und3 up
		ip addr add 192.0.2.2/31 dev und2
		ip link del vx10
		ip link add vx10 mtu 1450 type vxlan id 10 dstport 4789 local 10.0.0.1 dev und2 nolearning
		ip link set vx10 master br10 up`)
	l := newPlane(t, options())
	c := l.start()
	l.WatchVTEPs([]netip.Addr{vtep2})
	c.wantWay(t, vtep2, "no route") // there is one, by und0
	run(t, "ip route replace 10.0.0.2 via 192.0.2.3")
	c.wantWay(t, vtep2, "")
}

func TestWaysIPv6(t *testing.T) {
	l := newHost(t, options())
	vtep := netip.MustParseAddr("2001:db8:ff::2")
	c := l.start()
	l.WatchVTEPs([]netip.Addr{vtep})
	c.wantWay(t, vtep, "no route")
	run(t, `ip -6 addr add 2001:db8::1/64 dev und0 nodad
		ip -6 route add 2001:db8:ff::2 via 2001:db8::2`)
	c.wantWay(t, vtep, "")
	run(t, "ip link set und1 down")
	c.wantWay(t, vtep, "link without carrier")
}

// TestWaysAfterStorm: routes without number come and go, more than the socket holds notifications of, and the one that
// counts among them.
func TestWaysAfterStorm(t *testing.T) {
	l := newHost(t, options())
	c := l.start()
	l.WatchVTEPs([]netip.Addr{vtep2})
	c.wantWay(t, vtep2, "")
	var script strings.Builder
	for i := range 20_000 {
		fmt.Fprintf(&script, "route add 10.77.%d.%d via 192.0.2.1\n", i>>8, i&255)
		if i == 10_000 {
			script.WriteString("route del 10.0.0.2\n")
		}
	}
	file := filepath.Join(t.TempDir(), "routes")
	if err := os.WriteFile(file, []byte(script.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "ip -batch "+file)
	c.wantWay(t, vtep2, "no route")
	run(t, "ip link set und0 down") // takes them all
}

// TestWatchedVTEPsAreReportedAnew: one that was left and is named again is a new one; all are after events were dropped.
func TestWatchedVTEPsAreReportedAnew(t *testing.T) {
	l := newHost(t, options())
	c := l.start()
	again := func() { c.look(func() { clear(c.ways) }) }
	l.WatchVTEPs([]netip.Addr{vtep3})
	c.wantWay(t, vtep3, "no route")
	l.WatchVTEPs([]netip.Addr{vtep2})
	c.wantWay(t, vtep2, "")
	again()
	l.WatchVTEPs([]netip.Addr{vtep2, vtep3})
	c.wantWay(t, vtep3, "no route")
	again()
	l.pending.lost()
	c.wantWay(t, vtep3, "no route")
	c.wantWay(t, vtep2, "")
}
