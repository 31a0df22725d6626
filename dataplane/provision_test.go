package dataplane

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/evpnd/evpnd/evpn"
)

// detail is what iproute2 says of a device.
type detail struct {
	Ifname, Address, Group, Master string
	MTU                            int
	InetGenMode                    string `json:"inet6_addr_gen_mode"`
	Linkinfo                       struct {
		Data struct {
			ID, Port   int
			Local      string
			Learning   bool
			STP        int `json:"stp_state"`
			MCSnooping int `json:"mcast_snooping"`
			VLAN       int `json:"vlan_filtering"`
		} `json:"info_data"`
		Slave struct {
			Learning bool
		} `json:"info_slave_data"`
	}
}

// device returns a device by name; false when there is none.
func device(t *testing.T, name string) (detail, bool) {
	t.Helper()
	out := run(t, "! ip -d -j link show dev "+name)
	var list []detail
	if err := json.Unmarshal([]byte(out), &list); err != nil || len(list) != 1 {
		return detail{}, false
	}
	return list[0], true
}

// settingsOfOthers returns the devices that nobody marked as ours.
func settingsOfOthers(t *testing.T) []detail {
	t.Helper()
	var list []detail
	if err := json.Unmarshal([]byte(run(t, "ip -d -j link show group default")), &list); err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(list, func(d detail) bool { return d.Ifname == "" }) // which stands for others than asked for
}

// creating are options under which VNI 50 is made.
func creating(change func(*VNIOptions)) Options {
	opt := options()
	v := VNIOptions{Create: true}
	if change != nil {
		change(&v)
	}
	opt.VNIs = map[evpn.VNI]VNIOptions{10: {}, 50: v}
	return opt
}

// TestCreate: what is made is right, it serves at once, and nothing is found wrong with it but that it is empty.
func TestCreate(t *testing.T) {
	suppress := true
	l := newHost(t, creating(func(v *VNIOptions) { v.Suppress = &suppress }))
	c := l.start()
	c.look(func() {
		if at := c.attached[50]; !at.Usable || at.Device != "vxlan50" || at.Bridge != "br50" || len(at.Faults) != 0 {
			t.Errorf("at start: %+v", at)
		}
	})
	vx, _ := device(t, "vxlan50")
	br, _ := device(t, "br50")
	mac := bridgeMAC(options().VTEP, 50).String()
	for what, ok := range map[string]bool{
		"vxlan":  vx.Linkinfo.Data.ID == 50 && vx.Linkinfo.Data.Port == 4789 && vx.Linkinfo.Data.Local == vtepSelf && !vx.Linkinfo.Data.Learning,
		"mtu":    vx.MTU == 1450 && br.MTU == 1450,
		"port":   vx.Master == "br50" && !vx.Linkinfo.Slave.Learning && strings.Contains(run(t, "bridge -d link show dev vxlan50"), "neigh_suppress on"),
		"bridge": br.Address == mac && br.Linkinfo.Data.STP == 0 && br.Linkinfo.Data.MCSnooping == 0 && br.Linkinfo.Data.VLAN == 0,
		"hidden": vx.InetGenMode == "none" && br.InetGenMode == "none",
		"ours":   vx.Group == fmt.Sprint(createdGroup) && br.Group == fmt.Sprint(createdGroup),
	} {
		if !ok {
			t.Errorf("%s is not as wanted: %+v %+v", what, vx, br)
		}
	}
	wantFaults(t, l, evpn.FaultNoAccessPort)
	addPort(t, "br50", "p50", "h50") // with any MAC: the bridge's stays
	if br, _ := device(t, "br50"); br.Address != mac {
		t.Errorf("the bridge's MAC is %s with a port, was %s", br.Address, mac)
	}
	wantFaults(t, l)
	sendFrame(t, "h50", macA)
	c.wait(t, "a host", func() bool { return c.macs[50][macA].Port == "p50" })
}

// TestCreateAgain: what was begun before a crash is brought to its end, what is there is kept, what is deleted comes back.
func TestCreateAgain(t *testing.T) {
	for _, c := range []struct{ name, begun string }{
		{"nothing", ""},
		{"bridge", "ip link add br50 group 1163284558 address 02:00:00:00:aa:50 mtu 1450 type bridge"},
		{"vxlan device", `ip link add br50 group 1163284558 address 02:00:00:00:aa:50 mtu 1450 type bridge
		ip link add vxlan50 group 1163284558 mtu 1450 type vxlan id 50 dstport 4789 local 10.0.0.1 nolearning`},
		{"both, for another address", `ip link add br50 group 1163284558 address 02:00:00:00:aa:50 mtu 1450 type bridge
		ip link add vxlan50 group 1163284558 mtu 1450 type vxlan id 50 dstport 4789 local 10.0.0.9 learning
		ip link set vxlan50 master br50 up
		ip link set br50 up`},
	} {
		t.Run(c.name, func(t *testing.T) {
			newHost(t, creating(nil))
			run(t, c.begun)
			l := newPlane(t, creating(nil))
			core := l.start()
			wantFaults(t, l, evpn.FaultNoAccessPort)
			before, _ := device(t, "br50")
			var seen int
			core.look(func() { seen = core.observed[50] })
			run(t, "ip link del vxlan50")
			core.wait(t, "the device made again", func() bool { return core.attached[50].Usable && core.observed[50] > seen })
			if after, _ := device(t, "br50"); after.Address != before.Address || after.Address == "" {
				t.Errorf("bridge %+v, was %+v", after, before)
			}
			again := newPlane(t, creating(nil)) // a restart
			if list := again.topo.incomplete(); len(list) != 0 {
				t.Errorf("%v is still incomplete", list)
			}
		})
	}
}

// TestCreateLeavesOthersAlone: a name that is taken is a fault, and what others made is not touched.
func TestCreateLeavesOthersAlone(t *testing.T) {
	for _, c := range []struct {
		name, script string
		want         []evpn.FaultCode
	}{
		{"name of the VXLAN device", "ip link add vxlan50 type bridge", []evpn.FaultCode{evpn.FaultCreate}},
		{"name of the bridge", "ip link add br50 type veth peer name br50b", []evpn.FaultCode{evpn.FaultCreate}},
		{"a device without bridge", "ip link add other type vxlan id 50 dstport 4789 local 10.0.0.1", []evpn.FaultCode{evpn.FaultVXLANNotInBridge}},
		{"a whole VNI", `ip link add other mtu 1450 type vxlan id 50 dstport 4789 local 10.0.0.1
			ip link add obr address 02:00:00:00:aa:50 mtu 1450 type bridge
			ip link set other master obr up
			ip link set obr up`, []evpn.FaultCode{evpn.FaultNoAccessPort, evpn.FaultLearning, evpn.FaultPortLearning}},
	} {
		t.Run(c.name, func(t *testing.T) {
			newHost(t, creating(nil))
			run(t, c.script)
			links := settingsOfOthers(t)
			l := newPlane(t, creating(nil))
			l.start()
			if c.want[0] == evpn.FaultNoAccessPort { // which is told only of what can be served
				c.want = c.want[1:]
			}
			slices.Sort(c.want)
			wantFaults(t, l, c.want...)
			if diff := cmp.Diff(links, settingsOfOthers(t)); diff != "" {
				t.Errorf("the devices of others changed: %s", diff)
			}
			if len(l.provisioner.failed()) == 1 && c.want[0] != evpn.FaultCreate {
				t.Errorf("failed %v", l.provisioner.failed())
			}
		})
	}
}

// TestCreateIsTriedAgain: what kept a device from being made goes away.
func TestCreateIsTriedAgain(t *testing.T) {
	newHost(t, creating(nil))
	run(t, "ip link add vxlan50 type bridge")
	l := newPlane(t, creating(nil))
	c := l.start()
	wantFaults(t, l, evpn.FaultCreate)
	if why := l.Status().NotMade[50]; !strings.Contains(why, "vxlan50 exists already and is a bridge") {
		t.Errorf("status says %q", why)
	}
	run(t, "ip link del vxlan50")
	c.wait(t, "the device", func() bool { return c.attached[50].Usable })
	wantFaults(t, l, evpn.FaultNoAccessPort)
}

// TestCreatedIsRemovedWithItsVNI by a reload and by nothing else, and never with the hosts of a bridge.
func TestCreatedIsRemovedWithItsVNI(t *testing.T) {
	other := creating(func(v *VNIOptions) { v.Device, v.Bridge = "tenant", "tenants" })
	l := newHost(t, other)
	c := l.start()
	c.look(func() {
		if at := c.attached[50]; at.Device != "tenant" || at.Bridge != "tenants" {
			t.Errorf("at start: %+v", at)
		}
	})
	kept := creating(nil)
	kept.VNIs[50] = VNIOptions{} // taken over by the operator
	l.Reconfigure(kept)
	if _, ok := device(t, "tenant"); !ok {
		t.Error("the device went when create: true did")
	}
	l.Reconfigure(other)
	gone := options()
	gone.VNIs = map[evpn.VNI]VNIOptions{10: {}}
	l.Reconfigure(gone)
	for _, name := range []string{"tenant", "tenants"} {
		if _, ok := device(t, name); ok {
			t.Errorf("%s is left", name)
		}
	}
	if _, ok := device(t, "vx10"); !ok {
		t.Error("a device that is not ours went")
	}
	wantFaults(t, l)

	l.Reconfigure(other)
	c.wait(t, "the devices again", func() bool { return c.attached[50].Usable })
	addPort(t, "tenants", "p50", "h50")
	l.Reconfigure(gone)
	if _, ok := device(t, "tenants"); !ok {
		t.Error("a bridge with a port went")
	}
	wantFaults(t, l, evpn.FaultLeftOver)
	run(t, "ip link set dev tenants group default")
	wantFaults(t, l)

	run(t, "ip link del p50")
	l.Reconfigure(other)
	c.wait(t, "a new device on the bridge", func() bool { return c.attached[50].Usable })
	run(t, "ip link set dev tenant group default") // now both are the operator's
	eventually(t, "the mark to be seen as gone", func() bool { return l.topo.vni(50) != nil && !l.topo.vni(50).managed })
	l.Reconfigure(gone)
	for _, name := range []string{"tenant", "tenants"} {
		if _, ok := device(t, name); !ok {
			t.Errorf("%s went, which is not ours any more", name)
		}
	}
}

// TestManageMends sets wrong what can be mended while it works.
func TestManageMends(t *testing.T) {
	newHost(t, options())
	run(t, `ip link del br10
		ip link add br10 mtu 1450 type bridge
		ip link set br10 up
		ip link set vx10 type vxlan local 10.0.0.9
		ip link set vx10 type vxlan learning
		ip link set vx10 master br10
		ip link set p10 master br10
		ip link set p10 mtu 8000
		ip link set br10 mtu 8000`)
	opt := options()
	l := newPlane(t, opt)
	c := l.start()
	wantFaults(t, l, evpn.FaultBridgeMAC, evpn.FaultBridgeMTU, evpn.FaultLocalWrong, evpn.FaultPortLearning, evpn.FaultLearning)
	opt.Manage = true
	l.Reconfigure(opt)
	wantFaults(t, l)
	c.wait(t, "the VNI to be served", func() bool { return c.attached[10].Usable && len(c.attached[10].Faults) == 0 })
	if br, _ := device(t, "br10"); br.MTU != 1450 {
		t.Errorf("MTU %d", br.MTU)
	}
}

// TestCreateOverIPv6: the tunnel is wider, and takes frames of switches that send no UDP checksums.
func TestCreateOverIPv6(t *testing.T) {
	newHost(t, options())
	run(t, `ip link del und0
		ip link add und0 mtu 9000 type veth peer name und1 mtu 9000
		ip link set und0 up
		ip link set und1 up
		ip -6 addr add 2001:db8:f::1/64 dev und0 nodad`)
	opt := creating(nil)
	opt.VTEP = netip.MustParseAddr("2001:db8:f::1")
	opt.VNIs[10] = VNIOptions{Off: true}
	l := newPlane(t, opt)
	c := l.start()
	c.look(func() {
		if at := c.attached[50]; !at.Usable || at.Local != opt.VTEP || len(at.Faults) != 0 {
			t.Errorf("at start: %+v", at)
		}
	})
	vx := run(t, "ip -d link show dev vxlan50")
	for _, want := range []string{"mtu 8930 ", " local 2001:db8:f::1 ", " udp6zerocsumrx "} {
		if !strings.Contains(vx, want) {
			t.Errorf("%q is not in %s", want, vx)
		}
	}
}

// TestUnderlayMTU: the device with our address tells, or else the narrowest way through a gateway.
func TestUnderlayMTU(t *testing.T) {
	l := newHost(t, options())
	self := options().VTEP
	if got := l.underlayMTU(self); got != 1500 {
		t.Errorf("with a gateway behind und0: %d, want 1500", got)
	}
	run(t, `ip link set und0 mtu 9000
		ip link set und1 mtu 9000`)
	l = newPlane(t, options())
	if got := l.underlayMTU(self); got != 9000 {
		t.Errorf("with a wider und0: %d, want 9000", got)
	}
	run(t, "ip route add 10.0.0.3 via 192.0.2.1 mtu 4000")
	if got := l.underlayMTU(self); got != 4000 {
		t.Errorf("with a route that says 4000: %d", got)
	}
	if got := l.underlayMTU(netip.MustParseAddr("192.0.2.0")); got != 9000 {
		t.Errorf("with the address on und0: %d, want 9000", got)
	}
	run(t, `ip route del 10.0.0.3
		ip route del 10.0.0.2`)
	if got := l.underlayMTU(self); got != 1500 {
		t.Errorf("without a way: %d, want 1500", got)
	}
}
