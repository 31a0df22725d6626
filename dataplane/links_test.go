package dataplane

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/evpnd/evpnd/config"
	"github.com/evpnd/evpnd/evpn"
)

func TestDevicesComeGoMoveAndAreRenamed(t *testing.T) {
	l := newLab(t)
	c := l.start()
	var at evpn.Attachment
	c.look(func() { at = c.attached[10] })
	if at.Device != "vx10" || at.Bridge != "br10" || at.BridgeMAC != (evpn.MAC{2, 0, 0, 0, 0xaa, 1}) || !at.Usable || len(at.Faults) != 0 {
		t.Errorf("at start: %+v", at)
	}
	addVNI(t, 20)
	c.wait(t, "a new VNI", func() bool { return c.attached[20].Usable && c.observed[20] > 0 })
	sendFrame(t, "h20", macA)
	c.wait(t, "a host of the new VNI", func() bool { return c.macs[20][macA].Port == "p20" })
	run(t, `ip link set vx20 down
		ip link set vx20 name overlay`)
	c.wait(t, "the new name", func() bool { return c.attached[20].Device == "overlay" && !c.attached[20].Usable })
	run(t, "ip link set overlay up")
	c.wait(t, "it to be up", func() bool { return c.attached[20].Usable })
	run(t, `ip link add br30 address 02:00:00:00:aa:30 mtu 1450 type bridge
		ip link set br30 up
		ip link set overlay master br30
		bridge link set dev overlay learning off`)
	c.wait(t, "the other bridge", func() bool { return c.attached[20].Bridge == "br30" && len(c.attached[20].Faults) == 0 })
	c.wait(t, "its hosts, of which there are none", func() bool { return len(c.macs[20]) == 0 })
	run(t, "ip link set overlay nomaster")
	c.wait(t, "the VNI to go", func() bool { _, ok := c.attached[20]; return !ok })
	run(t, "ip link set overlay master br30")
	c.wait(t, "the VNI to come back", func() bool { return c.attached[20].Usable })
	var before int
	c.look(func() { before = c.observed[20] })
	run(t, "ip link del overlay")
	c.wait(t, "the device to go", func() bool { _, ok := c.attached[20]; return !ok })
	run(t, `ip link add vx20 type vxlan id 20 dstport 4789 local 10.0.0.1 nolearning
		ip link set vx20 master br30 up`)
	c.wait(t, "the device made again, with a fresh look", func() bool { return c.attached[20].Device == "vx20" && c.observed[20] > before })
}

// TestFaults: what can be wrong with the devices is said in plain words with the command that mends it; the command does.
func TestFaults(t *testing.T) {
	for _, c := range []struct {
		name, spoil string
		want        string // the fault, or its beginning
		usable      bool
		mend        bool // the command can be run as it stands
	}{
		{"vxlan learning", "ip link set vx10 type vxlan learning", "vx10 learns remote MACs", false, true},
		{"port learning", "bridge link set dev vx10 learning on", "bridge port vx10 learns", true, true},
		{"vxlan down", "ip link set vx10 down", "vx10 is down", false, true},
		{"bridge down", "ip link set br10 down", "bridge br10 is down", false, true},
		{"other local address", "ip link set vx10 type vxlan local 10.0.0.9", "vx10 has local address 10.0.0.9", false, true},
		{"no local address", `ip link del vx10
			ip link add vx10 mtu 1450 type vxlan id 10 dstport 4789 nolearning
			ip link set vx10 master br10 up
			bridge link set dev vx10 learning off`, "vx10 has no local address", false, true},
		{"other UDP port", `ip link del vx10
			ip link add vx10 mtu 1450 type vxlan id 10 dstport 8472 local 10.0.0.1 nolearning
			ip link set vx10 master br10 up
			bridge link set dev vx10 learning off`, "vx10 uses UDP port 8472", true, false},
		{"remote", `ip link del vx10
			ip link add vx10 mtu 1450 type vxlan id 10 dstport 4789 local 10.0.0.1 remote 10.0.0.7 nolearning
			ip link set vx10 master br10 up
			bridge link set dev vx10 learning off`, "vx10 floods to 10.0.0.7", true, false},
		{"two devices", `ip link add vx10b mtu 1450 type vxlan id 10 dstport 4790 local 10.0.0.1 nolearning
			ip link add br11 mtu 1450 type bridge
			ip link set vx10b master br11`, "vx10b has VNI 10 as well", true, true},
		{"two VNIs on a bridge", `ip link add vx9 mtu 1450 type vxlan id 9 dstport 4789 local 10.0.0.1 nolearning
			ip link set vx9 master br10 up`, "bridge br10 joins VNI 9 and VNI 10", true, false},
		{"MTU of the bridge", `ip link set p10 mtu 9000
			ip link set br10 mtu 9000`, "bridge br10 has MTU 9000", true, true},
		{"MTU of the underlay", `ip link add und0 mtu 1400 type bridge
			ip link set und0 up
			ip link set h10 down`, "vx10 has MTU 1450", true, false},
		{"br_netfilter", `sysctl -qw net.bridge.bridge-nf-call-iptables=1
			ip link set p10 mtu 1440`, "frames in bridges go through iptables", true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t)
			ctl := l.start()
			run(t, c.spoil)
			find := func() int {
				return slices.IndexFunc(ctl.attached[10].Faults, func(f string) bool { return strings.HasPrefix(f, c.want) })
			}
			ctl.wait(t, "the fault "+c.want, func() bool { return find() >= 0 && ctl.attached[10].Usable == c.usable })
			if !c.mend {
				return
			}
			var fault string
			ctl.look(func() { fault = ctl.attached[10].Faults[find()] })
			_, command, _ := strings.Cut(fault, ": ")
			run(t, command)
			ctl.wait(t, "the fault to go with "+command, func() bool { return find() < 0 && ctl.attached[10].Usable })
		})
	}
}

func TestIPv6DisabledIsAFaultWhenWanted(t *testing.T) {
	newLab(t)
	run(t, "sysctl -qw net.ipv6.conf.br10.disable_ipv6=1")
	l := newPlane(t, options())
	c := l.start()
	c.look(func() {
		if len(c.attached[10].Faults) != 0 {
			t.Errorf("faults without IPv6 hosts: %q", c.attached[10].Faults)
		}
	})
	if failed := l.write(addNeighbor(host6, macA)); len(failed) != 1 || failed[0].Foreign {
		t.Errorf("failed: %+v", failed)
	}
	c.wait(t, "the fault", func() bool {
		return len(c.attached[10].Faults) == 1 && strings.Contains(c.attached[10].Faults[0], "net/ipv6/conf/br10/disable_ipv6=0")
	})
	var command string
	c.look(func() { _, command, _ = strings.Cut(c.attached[10].Faults[0], ": ") })
	run(t, command)
	c.wait(t, "the fault to go", func() bool { return len(c.attached[10].Faults) == 0 })
	l.must(addNeighbor(host6, macA))
}

// TestDeviceWithManyVNIsIsNotServed, and Status says so.
func TestDeviceWithManyVNIsIsNotServed(t *testing.T) {
	l := newLab(t)
	run(t, `ip link add svd type vxlan dstport 4788 external nolearning
		ip link add brs type bridge
		ip link set svd master brs`)
	c := l.start()
	c.look(func() {
		if len(c.attached) != 1 {
			t.Errorf("attached %+v", c.attached)
		}
	})
	eventually(t, "a word on it", func() bool { // its notifications are older than the first report, and read after it
		s := l.Status().Unserved
		return len(s) == 1 && strings.Contains(s[0], "svd carries many VNIs")
	})
}

// TestDevicesAreChangedOnlyWhenTold compares the settings before and after a start.
func TestDevicesAreChangedOnlyWhenTold(t *testing.T) {
	yes, no := true, false
	for _, c := range []struct {
		name              string
		opt               func(*Options)
		managed, suppress bool
	}{
		{"told nothing", func(*Options) {}, false, false},
		{"told to manage", func(o *Options) { o.Manage = true }, true, false},
		{"told to manage this one", func(o *Options) { o.VNIs = map[evpn.VNI]VNIOptions{10: {Manage: &yes}} }, true, false},
		{"told to manage all but this one", func(o *Options) { o.Manage = true; o.VNIs = map[evpn.VNI]VNIOptions{10: {Manage: &no}} }, false, false},
		{"told to suppress", func(o *Options) { o.Suppress = &yes }, false, false},
		{"told to manage and suppress", func(o *Options) { o.Manage, o.Suppress = true, &yes }, true, true},
		{"told to manage all and suppress here", func(o *Options) { o.Manage = true; o.VNIs = map[evpn.VNI]VNIOptions{10: {Suppress: &yes}} }, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			newLab(t)
			run(t, `ip link set vx10 type vxlan learning
				bridge link set dev vx10 learning on`)
			opt := options()
			c.opt(&opt)
			l := newPlane(t, opt)
			ctl := l.start()
			var usable bool
			ctl.look(func() { usable = ctl.attached[10].Usable })
			link, port := run(t, "ip -d link show vx10"), run(t, "bridge -d link show dev vx10")
			for what, got := range map[string]bool{
				"nolearning":        strings.Contains(link, "nolearning") == c.managed,
				"port learning off": strings.Contains(port, "learning off") == c.managed,
				"neigh_suppress on": strings.Contains(port, "neigh_suppress on") == c.suppress,
				"usable":            usable == c.managed,
			} {
				if !got {
					t.Errorf("%s is not as wanted: %s %s", what, link, port)
				}
			}
			if !c.managed {
				return
			}
			run(t, "ip link set vx10 type vxlan learning") // and while running
			eventually(t, "learning to be switched off again", func() bool {
				return strings.Contains(run(t, "ip -d link show vx10"), "nolearning")
			})
			ctl.wait(t, "it to be usable", func() bool { return ctl.attached[10].Usable })
		})
	}
}

func TestReconfigureServesOtherVNIs(t *testing.T) {
	l := newLab(t)
	addVNI(t, 20)
	c := l.start()
	c.wait(t, "both VNIs", func() bool { return len(c.attached) == 2 })
	l.must(addVTEP(vtep2), addFlood(vtep2), addFDB(macA, vtep2), addNeighbor(hostA, macA))
	l.Reconfigure(OptionsFrom(&config.Config{VTEP: options().VTEP, VNIs: map[evpn.VNI]config.VNI{20: {}, 10: {Off: true}}}))
	c.wait(t, "VNI 10 to go", func() bool { _, ok := c.attached[10]; return !ok && c.attached[20].Usable })
	if left := append(fdb(t, macA), fdb(t, evpn.MAC{})...); len(left) != 0 || strings.Contains(neighbors(t), "10.1.1.1") {
		t.Errorf("entries of the VNI that is off: %q %q", left, neighbors(t))
	}
	opt := options()
	opt.VTEP = vtep2
	var before int
	c.look(func() { before = c.observed[10] })
	l.Reconfigure(opt)
	c.wait(t, "VNI 10 to come back, both with the wrong address", func() bool {
		return len(c.attached) == 2 && !c.attached[10].Usable && !c.attached[20].Usable && c.observed[10] > before
	})
}

// TestFaultsThatThisKernelCannotShow are judged on plain values.
func TestFaultsThatThisKernelCannotShow(t *testing.T) {
	good := func() (dev, br link, env environment) {
		dev = link{name: "vx10", up: true, mtu: 1430, vxlan: vxlanDevice{vni: 10, local: host6, port: vxlanPort}}
		return dev, link{name: "br10", up: true, mtu: 1430, ageing: 5 * time.Minute}, environment{underlayMTU: 1500}
	}
	dev, br, env := good()
	if list, usable := faults(&dev, &br, env); !usable || len(list) != 0 {
		t.Errorf("good devices, VTEP not known: %q %v", list, usable)
	}
	br.vlanFiltering = true
	if list, usable := faults(&dev, &br, env); usable || len(list) != 1 || !strings.Contains(list[0].Remedy, "vlan_filtering 0") {
		t.Errorf("VLAN-aware bridge: %q %v", list, usable)
	}
	dev, br, env = good()
	dev.mtu, br.mtu = 1450, 1450 // right for IPv4, 20 octets too many for IPv6
	if list, usable := faults(&dev, &br, env); !usable || len(list) != 1 || !strings.HasSuffix(list[0].Remedy, "mtu 1430") {
		t.Errorf("MTU over IPv6: %q %v", list, usable)
	}
}

// TestNothingOfOursStaysWhereAnAttachmentWas: on the bridge and on the VXLAN device, as far as they still exist, and
// nothing of anybody else's goes.
func TestNothingOfOursStaysWhereAnAttachmentWas(t *testing.T) {
	for _, c := range []struct{ name, script string }{
		{"device deleted", "ip link del vx10"},
		{"device without bridge", "ip link set vx10 nomaster"},
		{"device on another bridge", `ip link add br11 mtu 1450 type bridge
			ip link set br11 up
			ip link set vx10 master br11`},
		{"device older than ours", "ip link set vx9 master br11"},
	} {
		t.Run(c.name, func(t *testing.T) {
			clean(t)
			run(t, "ip link add vx9 mtu 1450 type vxlan id 10 dstport 4790 local 10.0.0.1 nolearning")
			addVNI(t, 10)
			if c.name == "device older than ours" {
				run(t, "ip link add br11 type bridge")
			}
			l := newPlane(t, options())
			ctl := l.start()
			before, flood := neighborsOf(t), fdb(t, evpn.MAC{})
			run(t, `ip neigh add 10.1.1.9 lladdr 02:00:00:00:01:09 dev br10 nud permanent
				bridge fdb add 02:00:00:00:01:09 dev vx10 self static dst 10.0.0.9`)
			theirs := append(before, "10.1.1.9")
			l.must(addVTEP(vtep2), addFlood(vtep2), addFDB(macA, vtep2), addNeighbor(hostA, macA), addNeighbor(host6, macA))
			old := *l.topo.vni(10)
			run(t, c.script)
			ctl.wait(t, "the attachment to change", func() bool {
				at, ok := ctl.attached[10]
				return !ok || at.Device != old.Device || at.Bridge != old.Bridge
			})
			eventually(t, "our neighbours to go", func() bool { return slices.Equal(neighborsOf(t), theirs) })
			if c.name == "device on another bridge" {
				return // which has the VNI now: the core reads back and decides
			}
			eventually(t, "our rows of the device to go", func() bool {
				return len(fdb(t, macA)) == 0 && slices.Equal(fdb(t, evpn.MAC{}), flood)
			})
			if rows := fdb(t, evpn.MAC{2, 0, 0, 0, 1, 9}); len(rows) == 0 && c.name != "device deleted" {
				t.Error("a row that is not ours went")
			}
		})
	}
}

// TestOrphansOfAnEarlierLifeAreSwept: what devices lost while we were dead, and what we are not to serve any more, is removed
// at the start; rows of others there are left.
func TestOrphansOfAnEarlierLifeAreSwept(t *testing.T) {
	off := options()
	off.VNIs = map[evpn.VNI]VNIOptions{10: {Off: true}}
	for _, c := range []struct {
		name, script string
		opt          Options
	}{
		{"device without bridge", "ip link set vx10 nomaster", options()},
		{"device on another bridge", `ip link add br11 mtu 1450 type bridge
			ip link set br11 up
			ip link set vx10 master br11`, options()},
		{"VNI that is off", "", off},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t)
			l.must(addVTEP(vtep2), addFlood(vtep2), addFDB(macA, vtep2), addNeighbor(hostA, macA), addNeighbor(host6, macA))
			run(t, c.script)
			run(t, `ip neigh add 10.1.1.9 lladdr 02:00:00:00:01:02 dev br10 nud permanent
				ip neigh add 10.1.1.8 lladdr 02:00:00:00:01:02 dev br10 nud noarp extern_learn proto zebra
				bridge fdb add 02:00:00:00:01:02 dev vx10 self static dst 10.0.0.9
				bridge fdb add 02:00:00:00:01:03 dev vx10 self extern_learn dst 10.0.0.9`)
			ctl := newPlane(t, c.opt).start()
			if left := slices.Compact(neighborsOf(t)); !slices.Equal(left, []string{"10.1.1.8", "10.1.1.9"}) {
				t.Errorf("neighbours %q", left)
			}
			if c.name != "device on another bridge" && len(fdb(t, macA))+len(fdb(t, evpn.MAC{})) != 0 {
				t.Errorf("rows of the device: %q %q", fdb(t, macA), fdb(t, evpn.MAC{}))
			}
			if len(fdb(t, macB)) != 1 || len(fdb(t, macC)) != 1 {
				t.Errorf("rows of others: %q %q", fdb(t, macB), fdb(t, macC))
			}
			ctl.look(func() {
				if _, there := ctl.entries[0][addVTEP(vtep2).Key]; !there {
					t.Error("the nexthop is not reported, so nobody will remove it")
				}
			})
		})
	}
}

// neighborsOf returns the addresses that are fixed on br10.
func neighborsOf(t *testing.T) (list []string) {
	t.Helper()
	for line := range strings.Lines(run(t, "ip neigh show dev br10 nud permanent") + run(t, "ip neigh show dev br10 nud noarp")) {
		if f := strings.Fields(line); !strings.HasPrefix(f[0], "ff") && !strings.HasPrefix(f[0], "224.") {
			list = append(list, f[0])
		}
	}
	slices.Sort(list)
	return list
}

// TestReconfigureLeavesNothingThatIsWrittenMeanwhile: a core that has not heard of the new configuration goes on writing.
func TestReconfigureLeavesNothingThatIsWrittenMeanwhile(t *testing.T) {
	l := newLab(t)
	l.must(addVTEP(vtep2))
	begun, refused := make(chan struct{}), make(chan []evpn.OpError)
	go func() {
		var failed []evpn.OpError
		for i := 0; len(failed) == 0 && i < 1<<16; i++ {
			op := addFDB(evpn.MAC{2, 0, 0, 7, byte(i >> 8), byte(i)}, vtep2)
			failed = l.Apply(t.Context(), evpn.KernelBatch{Seq: uint64(i + 2), Ops: []evpn.KernelOp{op}}).Failed
			if i == 1000 {
				close(begun)
			}
		}
		refused <- failed
	}()
	<-begun
	opt := options()
	opt.VNIs = map[evpn.VNI]VNIOptions{10: {Off: true}}
	l.Reconfigure(opt)
	if failed := <-refused; len(failed) != 1 {
		t.Errorf("writes to a VNI that is off are refused with %v", failed)
	}
	if rows := run(t, "bridge fdb show dev vx10"); strings.Contains(rows, "02:00:00:07") {
		t.Errorf("%d rows are left", strings.Count(rows, "02:00:00:07"))
	}
}
