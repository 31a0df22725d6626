package dataplane

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/evpnd/evpnd/evpn"
)

// newHost is a lab with nothing wrong: it has our address, and a way to another VTEP.
func newHost(t *testing.T, opt Options) *lab {
	t.Helper()
	newLab(t)
	run(t, `ip addr replace 10.0.0.1/32 dev lo
		ip link add und0 mtu 1500 type veth peer name und1
		ip link set und0 up
		ip link set und1 up
		ip addr add 192.0.2.0/31 dev und0
		ip route add 10.0.0.2 via 192.0.2.1`)
	t.Cleanup(func() { run(t, "! ip addr del 10.0.0.1/32 dev lo") })
	return newPlane(t, opt)
}

// wantFaults waits until Diagnose finds just these codes, and returns what it found.
func wantFaults(t *testing.T, l *lab, codes ...evpn.FaultCode) []evpn.Fault {
	t.Helper()
	var found []evpn.Fault
	var last error
	got := func() (list []evpn.FaultCode) {
		found, last = l.Diagnose([]netip.Addr{vtep2})
		for _, f := range found {
			list = append(list, f.Code)
		}
		return list
	}
	defer func() {
		if t.Failed() {
			t.Logf("found %+v, %v", found, last)
		}
	}()
	eventually(t, "the faults to be "+strings.Join(words(codes), " "), func() bool { return slices.Equal(got(), codes) && last == nil })
	return found
}

func words(codes []evpn.FaultCode) (list []string) {
	for _, c := range codes {
		list = append(list, string(c))
	}
	return list
}

// TestDiagnose sets one thing up wrongly at a time, wants just that to be named, and runs the remedy where it is a command.
func TestDiagnose(t *testing.T) {
	const again = `ip link set vx10 master br10 up
		bridge link set dev vx10 learning off`
	for _, c := range []struct {
		code   evpn.FaultCode
		spoil  string
		ifname string
		mend   bool // the remedy can be run as it stands, and leaves nothing wrong
	}{
		{"", "", "", false},
		{evpn.FaultVXLANMissing, "ip link del vx10", "", false},
		{evpn.FaultVXLANNotInBridge, "ip link set vx10 nomaster", "vx10", false},
		{evpn.FaultVXLANDown, "ip link set vx10 down", "vx10", true},
		{evpn.FaultBridgeDown, "ip link set br10 down", "br10", true},
		{evpn.FaultTwoDevices, `ip link add vx10b mtu 1450 type vxlan id 10 dstport 4790 local 10.0.0.1 nolearning
			ip link add br11 mtu 1450 type bridge
			ip link set vx10b master br11`, "vx10b", true},
		{evpn.FaultTwoVNIs, `ip link add vx11 mtu 1450 type vxlan id 11 dstport 4789 local 10.0.0.1 nolearning
			ip link set vx11 master br10 up
			bridge link set dev vx11 learning off`, "br10", true},
		{evpn.FaultManyVNIs, `ip link add svd type vxlan dstport 4788 external nolearning
			ip link add brs type bridge
			ip link set svd master brs`, "svd", false},
		{evpn.FaultLocalMissing, `ip link del vx10
			ip link add vx10 mtu 1450 type vxlan id 10 dstport 4789 nolearning
			` + again, "vx10", true},
		{evpn.FaultLocalWrong, "ip link set vx10 type vxlan local 10.0.0.9", "vx10", true},
		{evpn.FaultLearning, "ip link set vx10 type vxlan learning", "vx10", true},
		{evpn.FaultPortLearning, "bridge link set dev vx10 learning on", "vx10", true},
		{evpn.FaultUDPPort, `ip link del vx10
			ip link add vx10 mtu 1450 type vxlan id 10 dstport 8472 local 10.0.0.1 nolearning
			` + again, "vx10", false},
		{evpn.FaultRemoteSet, `ip link del vx10
			ip link add vx10 mtu 1450 type vxlan id 10 dstport 4789 local 10.0.0.1 remote 10.0.0.7 nolearning
			` + again, "vx10", false}, // the kernel goes on saying what the device was made with
		{evpn.FaultForeignFlood, "bridge fdb append 00:00:00:00:00:00 dev vx10 dst 10.0.0.7", "vx10", true},
		{evpn.FaultBridgeMTU, `ip link set p10 mtu 9000
			ip link set br10 mtu 9000`, "br10", true},
		{evpn.FaultUnderlayMTU, `ip link set und0 mtu 1400
			ip link set und1 mtu 1400`, "vx10", false}, // hosts' ports keep the bridge's MTU
		{evpn.FaultBridgeMAC, `ip link del br10
			ip link add br10 mtu 1450 type bridge
			ip link set br10 up
			ip link set vx10 master br10
			bridge link set dev vx10 learning off
			ip link set p10 master br10`, "br10", true},
		{evpn.FaultAgeing, "ip link set br10 type bridge ageing_time 0", "br10", true},
		{evpn.FaultSTP, "ip link set br10 type bridge stp_state 1 forward_delay 200", "br10", true},
		{evpn.FaultNoAccessPort, "ip link del p10", "br10", false},
		{evpn.FaultBridgeNetfilter, "sysctl -qw net.bridge.bridge-nf-call-iptables=1\nip link set p10 mtu 1440", "br10", false},
		{evpn.FaultVTEPNotHere, "ip addr del 10.0.0.1/32 dev lo", "", true},
		{evpn.FaultVTEPUnreachable, "ip route del 10.0.0.2", "", false},
	} {
		t.Run(string(c.code), func(t *testing.T) {
			opt := options()
			opt.VNIs = map[evpn.VNI]VNIOptions{10: {}}
			l := newHost(t, opt)
			t.Cleanup(func() { run(t, "! sysctl -qw net.bridge.bridge-nf-call-iptables=0") })
			l.start()
			wantFaults(t, l)
			run(t, c.spoil)
			if c.code == "" {
				return
			}
			f := wantFaults(t, l, c.code)[0]
			if f.Ifname != c.ifname || f.Detail == "" || f.Remedy == "" {
				t.Errorf("fault %+v, want it of %q", f, c.ifname)
			}
			if c.mend {
				run(t, f.Remedy)
				wantFaults(t, l)
			}
		})
	}
}

// TestDiagnoseSuppression: the flag is judged where the configuration says how it should be.
func TestDiagnoseSuppression(t *testing.T) {
	yes := true
	opt := options()
	opt.VNIs = map[evpn.VNI]VNIOptions{10: {Suppress: &yes}}
	l := newHost(t, opt)
	l.start()
	run(t, wantFaults(t, l, evpn.FaultSuppression)[0].Remedy)
	wantFaults(t, l)
}

// TestDiagnoseIPv6Off: only who has IPv6 neighbours to install is told.
func TestDiagnoseIPv6Off(t *testing.T) {
	newHost(t, options())
	run(t, "sysctl -qw net.ipv6.conf.br10.disable_ipv6=1")
	l := newPlane(t, options())
	l.start()
	wantFaults(t, l)
	_ = l.write(addNeighbor(host6, macA))
	f := wantFaults(t, l, evpn.FaultIPv6Off)[0]
	if f.VNI != 10 || f.Ifname != "br10" {
		t.Errorf("fault %+v", f)
	}
}

// TestDiagnoseSnoopingForbidden: what the kernel says to a daemon without CAP_NET_RAW.
func TestDiagnoseSnoopingForbidden(t *testing.T) {
	l := newHost(t, options())
	wantFaults(t, l)
	l.snooper.refused(&snooped{ifindex: 1}, fmt.Errorf("open packet socket: %w", unix.EPERM))
	wantFaults(t, l, evpn.FaultSnoopingForbidden)
}

// TestFaulty counts what can be known without looking anew.
func TestFaulty(t *testing.T) {
	newHost(t, creating(nil))
	run(t, "ip link add vxlan50 type bridge")
	l := newPlane(t, creating(nil))
	c := l.start()
	eventually(t, "the VNI that cannot be made to count", func() bool { return l.Faulty() == 1 })
	run(t, "ip link set vx10 down")
	eventually(t, "the device that is down to count", func() bool { return l.Faulty() == 2 })
	run(t, `ip link set vx10 up
		ip link del vxlan50`)
	c.wait(t, "the devices", func() bool { return c.attached[50].Usable && c.attached[10].Usable })
	eventually(t, "nothing to be wrong", func() bool { return l.Faulty() == 0 })
}

// TestDiagnoseOneLineForOneRemedy: what concerns the whole host is told once, not once for each VNI.
func TestDiagnoseOneLineForOneRemedy(t *testing.T) {
	l := newHost(t, options())
	addVNI(t, 20)
	run(t, "sysctl -qw net.bridge.bridge-nf-call-iptables=1")
	t.Cleanup(func() { run(t, "sysctl -qw net.bridge.bridge-nf-call-iptables=0") })
	l.start()
	if f := wantFaults(t, l, evpn.FaultBridgeNetfilter)[0]; f.VNI != 0 || f.Ifname != "" {
		t.Errorf("fault %+v", f)
	}
}

// TestRemedyForTheDeviceItself: the command that is given for a device that was made with a destination does take that off
// the flood list, also where the device is bound to another, whose name may change.
func TestRemedyForTheDeviceItself(t *testing.T) {
	for _, bound := range []bool{false, true} {
		t.Run(fmt.Sprintf("bound %t", bound), func(t *testing.T) {
			clean(t)
			addVNI(t, 10)
			run(t, `ip link del vx10
				ip link add und9 type veth peer name und7
				ip link set und9 up`)
			on := ""
			if bound {
				on = "dev und9"
			}
			run(t, `ip link add vx10 mtu 1450 type vxlan id 10 dstport 4789 local 10.0.0.1 remote 10.0.0.7 nolearning `+on+`
				ip link set vx10 master br10 up`)
			l := newPlane(t, options())
			c := l.start()
			run(t, `ip link set und9 down
				ip link set und9 name und8`)
			remedy := ""
			c.wait(t, "the fault", func() bool {
				for _, f := range l.topo.vni(10).faults {
					if f.Code == evpn.FaultRemoteSet {
						remedy = f.Remedy
					}
				}
				return remedy != "" && strings.HasSuffix(remedy, " via und8") == bound
			})
			if len(fdb(t, evpn.MAC{})) != 1 {
				t.Fatalf("flood list %q", fdb(t, evpn.MAC{}))
			}
			run(t, remedy)
			if left := fdb(t, evpn.MAC{}); len(left) != 0 {
				t.Errorf("%s leaves %q", remedy, left)
			}
		})
	}
}
