package dataplane

import (
	"fmt"
	"net/netip"
)

// vxlanPort is the UDP port of VXLAN (RFC 7348 §5, VX-01).
const vxlanPort = 4789

// environment is what decides about faults beside the devices themselves.
type environment struct {
	vtep        netip.Addr // ours; the zero Addr when it is not known
	underlayMTU int        // the largest of a device that may carry the tunnel; 0: not known
	netfilter   bool       // frames in bridges go through iptables
	ipv6Wanted  bool       // the VNI has IPv6 neighbours to install
	suppress    *bool      // what the configuration says of neigh_suppress; nil: nothing
	mend        mend       // what is about to be changed
}

// faults lists what is wrong with a VXLAN device and its bridge, each with the command that mends it. usable is false
// when serving the VNI would be wrong: no frame passes, frames carry a source that peers do not know, or (learning)
// frames of hosts we install are dropped.
func faults(dev, br *link, env environment) (list []string, usable bool) {
	usable = true
	fault := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	stop := func(format string, args ...any) { usable = false; fault(format, args...) }

	v := dev.vxlan
	if !dev.up {
		stop("%[1]s is down: ip link set dev %[1]s up", dev.name)
	}
	if !br.up {
		stop("bridge %[1]s is down: ip link set dev %[1]s up", br.name)
	}
	switch {
	case !v.local.IsValid() || v.local.IsUnspecified():
		stop("%[1]s has no local address: ip link set dev %[1]s type vxlan local %s", dev.name, orVTEP(env.vtep))
	case env.vtep.IsValid() && v.local != env.vtep:
		stop("%[1]s has local address %s, ours is %s: ip link set dev %[1]s type vxlan local %[3]s", dev.name, v.local, env.vtep)
	}
	if v.learning {
		stop("%[1]s learns remote MACs from frames and so drops frames of the hosts that BGP announces: "+
			"ip link set dev %[1]s type vxlan nolearning", dev.name)
	}
	if br.vlanFiltering {
		stop("bridge %[1]s is VLAN-aware, only plain bridges are served: ip link set dev %[1]s type bridge vlan_filtering 0",
			br.name)
	}
	if dev.port.learning {
		fault("bridge port %[1]s learns MACs of remote hosts: bridge link set dev %[1]s learning off", dev.name)
	}
	if v.port != vxlanPort {
		fault("%[1]s uses UDP port %[2]d, peers expect %[3]d: make it again with ip link add dev %[1]s type vxlan id %[4]d dstport %[3]d",
			dev.name, v.port, vxlanPort, v.vni)
	}
	if v.remote.IsValid() && !v.remote.IsUnspecified() {
		fault("%[1]s floods to %[2]s whatever BGP says: bridge fdb del 00:00:00:00:00:00 dev %[1]s dst %[2]s", dev.name, v.remote)
	}
	if want := env.suppress; want != nil && dev.port.suppress != *want && !env.mend.suppressOn && !env.mend.suppressOff {
		fault("bridge port %[1]s has neigh_suppress %[2]s, arp-suppression wants %[3]s: bridge link set dev %[1]s neigh_suppress %[3]s",
			dev.name, onOff(dev.port.suppress), onOff(*want))
	}
	list = append(list, mtuFaults(dev, br, env)...)
	if br.ipv6Off && env.ipv6Wanted {
		fault("IPv6 is disabled on bridge %[1]s, IPv6 neighbours cannot be installed: sysctl -w net/ipv6/conf/%[1]s/disable_ipv6=0", br.name)
	}
	if env.netfilter {
		fault("frames in bridges go through iptables (br_netfilter): sysctl -w net.bridge.bridge-nf-call-iptables=0")
	}
	return list, usable
}

// mtuFaults compares what hosts may send with what the tunnel can carry: VTEPs must not fragment (RFC 7348 §4.3, VX-03).
func mtuFaults(dev, br *link, env environment) (list []string) {
	overhead := 50
	if dev.vxlan.local.Is6() {
		overhead = 70
	}
	if br.mtu > dev.mtu {
		list = append(list, fmt.Sprintf("bridge %[1]s has MTU %[2]d, its %[3]s carries %[4]d: ip link set dev %[1]s mtu %[4]d",
			br.name, br.mtu, dev.name, dev.mtu))
	}
	if env.underlayMTU > 0 && dev.mtu+overhead > env.underlayMTU {
		list = append(list, fmt.Sprintf("%[1]s has MTU %[2]d and needs %[3]d below, no device has more than %[4]d: ip link set dev %[1]s mtu %[5]d",
			dev.name, dev.mtu, dev.mtu+overhead, env.underlayMTU, env.underlayMTU-overhead))
	}
	return list
}

func faultManyVNIs(dev *link) string {
	return fmt.Sprintf("%s carries many VNIs (external or vnifilter), which is not supported: make one device per VNI with "+
		"ip link add type vxlan id VNI dstport %d local ADDRESS nolearning", dev.name, vxlanPort)
}

func faultTwoDevices(dev, other *link) string {
	return fmt.Sprintf("%[1]s has VNI %[2]d as well and is not served, %[3]s is: ip link del dev %[1]s",
		other.name, other.vxlan.vni, dev.name)
}

func faultSharedBridge(first, at *attached) string {
	return fmt.Sprintf("bridge %[1]s joins VNI %[2]d and VNI %[3]d into one broadcast domain: ip link set dev %[4]s nomaster",
		at.Bridge, first.VNI, at.VNI, at.Device)
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

func orVTEP(vtep netip.Addr) string {
	if vtep.IsValid() {
		return vtep.String()
	}
	return "ADDRESS"
}
