package dataplane

import (
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/evpnd/evpnd/evpn"
)

const noAnswer = "no answer to 3 ICMP echo requests"

// newProbedLab is a host that probes, and another one that has the addresses 10.0.0.2 and 10.0.0.3, to both of which, and to
// 10.0.0.4, there is a route.
func newProbedLab(t *testing.T, interval time.Duration, vteps ...netip.Addr) (*lab, *core, *far) {
	t.Helper()
	clean(t)
	f := newFar(t)
	addVNI(t, 10)
	run(t, fmt.Sprintf(`ip addr replace 10.0.0.1/32 dev lo
		ip link add und0 type veth peer name und1 netns %d
		ip link set und0 up
		ip addr add 192.0.2.0/31 dev und0`, f.pid))
	t.Cleanup(func() { run(t, "! ip link del und0\n! ip addr del 10.0.0.1/32 dev lo") })
	f.run(`ip link set lo up
		ip link set und1 up
		ip addr add 192.0.2.1/31 dev und1
		ip route add 10.0.0.1/32 via 192.0.2.0
		ip addr add 10.0.0.2/32 dev lo
		ip addr add 10.0.0.3/32 dev lo`)
	run(t, "ip route replace 10.0.0.0/29 via 192.0.2.1\nip route replace 10.9.0.0/16 via 192.0.2.1")
	opt := options()
	opt.Probe, opt.ProbeMisses = interval, 3
	l := newPlane(t, opt)
	c := l.start()
	l.WatchVTEPs(vteps)
	return l, c, f
}

func (l *lab) wantProbe(vtep netip.Addr, want ProbeState) {
	l.t.Helper()
	var got ProbeState
	defer func() {
		if l.t.Failed() {
			l.t.Logf("probe of %s: %s", vtep, got)
		}
	}()
	eventually(l.t, fmt.Sprintf("the probe of %s to say %s", vtep, want), func() bool {
		got = l.Status().Probes.Each[vtep].State
		return got == want
	})
}

// TestVTEPProbe: one that answered and falls silent is lost and comes back; others are not touched, nor is one that never
// answered.
func TestVTEPProbe(t *testing.T) {
	vtep4 := netip.MustParseAddr("10.0.0.4")
	l, c, f := newProbedLab(t, 40*time.Millisecond, vtep2, vtep3, vtep4)
	l.wantProbe(vtep2, ProbeAnswers)
	l.wantProbe(vtep3, ProbeAnswers)
	f.run("ip addr del 10.0.0.2/32 dev lo")
	c.wantWay(t, vtep2, noAnswer)
	l.wantProbe(vtep2, ProbeSilent)
	c.wantWay(t, vtep3, "")
	c.wantWay(t, vtep4, "")
	found, err := l.Diagnose([]netip.Addr{vtep2, vtep3})
	if i := slices.IndexFunc(found, func(f evpn.Fault) bool { return f.Code == evpn.FaultVTEPSilent }); i < 0 || found[i].Peer != vtep2 || err != nil {
		t.Errorf("doctor finds %+v, %v", found, err)
	}
	l.wantProbe(vtep4, ProbeNever)
	run(t, "ip route add 10.0.0.2/32 via 192.0.2.1\nip route replace blackhole 10.0.0.2/32")
	c.wantWay(t, vtep2, "route of type blackhole") // the route says more than the probe
	run(t, "ip route del blackhole 10.0.0.2/32")
	c.wantWay(t, vtep2, noAnswer)
	f.run("ip addr add 10.0.0.2/32 dev lo")
	c.wantWay(t, vtep2, "")
	l.wantProbe(vtep2, ProbeAnswers)

	f.run("ip addr del 10.0.0.2/32 dev lo")
	c.wantWay(t, vtep2, noAnswer)
	opt := options()
	l.Reconfigure(opt)
	c.wantWay(t, vtep2, "")
	if n := len(l.Status().Probes.Each); n != 0 {
		t.Errorf("%d VTEPs are still probed", n)
	}
	opt.Probe, opt.ProbeMisses = 40*time.Millisecond, 3
	l.Reconfigure(opt)
	l.wantProbe(vtep3, ProbeAnswers)
	l.wantProbe(vtep2, ProbeNever) // what was known of it is forgotten
}

// TestProbesOfAll: when all fall silent none is lost; one whose silence goes on when others answer again is.
func TestProbesOfAll(t *testing.T) {
	l, c, f := newProbedLab(t, 40*time.Millisecond, vtep2, vtep3)
	l.wantProbe(vtep2, ProbeAnswers)
	l.wantProbe(vtep3, ProbeAnswers)
	f.run("sysctl -qw net.ipv4.icmp_echo_ignore_all=1")
	l.wantProbe(vtep2, ProbeMisses)
	l.wantProbe(vtep3, ProbeMisses)
	sent := l.Status().Probes.Sent
	eventually(t, "many more probes", func() bool { return l.Status().Probes.Sent >= sent+20 })
	l.wantProbe(vtep2, ProbeMisses)
	l.wantProbe(vtep3, ProbeMisses)
	f.run("ip addr del 10.0.0.3/32 dev lo\nsysctl -qw net.ipv4.icmp_echo_ignore_all=0")
	c.wantWay(t, vtep3, noAnswer)
	c.wantWay(t, vtep2, "")
}

// TestProbeOfOne: where there is one VTEP only, nobody else has to answer.
func TestProbeOfOne(t *testing.T) {
	l, c, f := newProbedLab(t, 40*time.Millisecond, vtep2)
	l.wantProbe(vtep2, ProbeAnswers)
	f.run("sysctl -qw net.ipv4.icmp_echo_ignore_all=1")
	c.wantWay(t, vtep2, noAnswer)
	f.run("sysctl -qw net.ipv4.icmp_echo_ignore_all=0")
	c.wantWay(t, vtep2, "")
}

// TestProbesOfMany: 2,000 VTEPs are asked one after the other within each interval, by one goroutine and one socket.
func TestProbesOfMany(t *testing.T) {
	var vteps []netip.Addr
	for i := range 2000 {
		vteps = append(vteps, netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)}))
	}
	l, _, f := newProbedLab(t, time.Second, vtep2)
	f.run("ip route add local 10.9.0.0/16 dev lo")
	l.wantProbe(vtep2, ProbeAnswers)
	goroutines, before := runtime.NumGoroutine(), l.Status().Probes.Sent
	start := time.Now()
	l.WatchVTEPs(vteps)
	eventually(t, "every VTEP to have been asked", func() bool { return l.Status().Probes.Sent >= before+2000 })
	if took := time.Since(start); took < 900*time.Millisecond {
		t.Errorf("2,000 VTEPs were asked within %s", took)
	}
	eventually(t, "every VTEP to answer", func() bool {
		for _, v := range l.Status().Probes.Each {
			if v.State != ProbeAnswers {
				return false
			}
		}
		return true
	})
	if n := runtime.NumGoroutine(); n > goroutines+5 {
		t.Errorf("%d goroutines, %d before", n, goroutines)
	}
}
