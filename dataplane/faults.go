package dataplane

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/evpnd/evpnd/evpn"
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
	bound       string     // name of the device that the VXLAN device is bound to; "": none
}

// faultList collects the faults of one VNI.
type faultList struct {
	vni    evpn.VNI
	list   []evpn.Fault
	usable bool // serving the VNI is not wrong: frames pass, carry a source that peers know, and are not dropped
}

// stop adds a fault that stands against serving the VNI.
func (l *faultList) stop(code evpn.FaultCode, ifname, detail, remedy string) {
	l.usable = false
	l.list = append(l.list, evpn.Fault{Code: code, Severity: evpn.SeverityError, VNI: l.vni, Ifname: ifname, Detail: detail, Remedy: remedy})
}

// warn adds a fault that the VNI can be served with.
func (l *faultList) warn(code evpn.FaultCode, ifname, detail, remedy string) {
	l.list = append(l.list, evpn.Fault{Code: code, VNI: l.vni, Ifname: ifname, Detail: detail, Remedy: remedy})
}

// faults lists what is wrong with a VXLAN device and its bridge, each with the command that mends it.
func faults(dev, br *link, env environment) ([]evpn.Fault, bool) {
	l := faultList{vni: dev.vxlan.vni, usable: true}
	if !dev.up {
		l.stop(evpn.FaultVXLANDown, dev.name, dev.name+" is down", "ip link set dev "+dev.name+" up")
	}
	if !br.up {
		l.stop(evpn.FaultBridgeDown, br.name, "bridge "+br.name+" is down", "ip link set dev "+br.name+" up")
	}
	l.vxlan(dev, env)
	l.bridge(dev, br, env)
	l.mtu(dev, br, env)
	if br.ipv6Off && env.ipv6Wanted {
		l.warn(evpn.FaultIPv6Off, br.name, fmt.Sprintf("IPv6 is disabled on bridge %s, IPv6 neighbours cannot be installed", br.name),
			fmt.Sprintf("sysctl -w net/ipv6/conf/%s/disable_ipv6=0", br.name))
	}
	if env.netfilter {
		l.warn(evpn.FaultBridgeNetfilter, br.name, "frames in bridges go through iptables (br_netfilter)", "sysctl -w net.bridge.bridge-nf-call-iptables=0")
	}
	return l.list, l.usable
}

// vxlan judges the settings of the VXLAN device.
func (l *faultList) vxlan(dev *link, env environment) {
	v := dev.vxlan
	setLocal := fmt.Sprintf("ip link set dev %s type vxlan local %s", dev.name, orVTEP(env.vtep))
	switch {
	case !v.local.IsValid() || v.local.IsUnspecified():
		l.stop(evpn.FaultLocalMissing, dev.name, dev.name+" has no local address", setLocal)
	case env.vtep.IsValid() && v.local != env.vtep:
		l.stop(evpn.FaultLocalWrong, dev.name, fmt.Sprintf("%s has local address %s, ours is %s", dev.name, v.local, env.vtep), setLocal)
	}
	if v.learning {
		l.stop(evpn.FaultLearning, dev.name, dev.name+" learns remote MACs from frames and so drops frames of the hosts that BGP announces",
			fmt.Sprintf("ip link set dev %s type vxlan nolearning", dev.name))
	}
	if v.port != vxlanPort {
		l.warn(evpn.FaultUDPPort, dev.name, fmt.Sprintf("%s uses UDP port %d, peers expect %d", dev.name, v.port, vxlanPort),
			fmt.Sprintf("make it again with ip link add dev %s type vxlan id %d dstport %d", dev.name, v.vni, vxlanPort))
	}
	if v.remote.IsValid() && !v.remote.IsUnspecified() {
		l.warn(evpn.FaultRemoteSet, dev.name, fmt.Sprintf("%s floods to %s whatever BGP says", dev.name, v.remote),
			deleteFlood(dev.name, v.remote, env.bound))
	}
}

// deleteFlood is the command that takes a dst off the flood list of a device. The kernel finds the one that a device was made
// with by what it is bound to as well.
func deleteFlood(dev string, dst netip.Addr, bound string) string {
	command := fmt.Sprintf("bridge fdb del 00:00:00:00:00:00 dev %s dst %s", dev, dst)
	if bound != "" {
		command += " via " + bound
	}
	return command
}

// shortestAgeing is how long a bridge must remember a host that is silent. Below, hosts come and go in BGP all the time.
const shortestAgeing = 30 * time.Second

// bridge judges the settings of the bridge and of the VXLAN device as its port.
func (l *faultList) bridge(dev, br *link, env environment) {
	if br.vlanFiltering {
		l.stop(evpn.FaultVLANAware, br.name, fmt.Sprintf("bridge %s is VLAN-aware, only plain bridges are served", br.name),
			fmt.Sprintf("ip link set dev %s type bridge vlan_filtering 0", br.name))
	}
	if dev.port.learning {
		l.warn(evpn.FaultPortLearning, dev.name, fmt.Sprintf("bridge port %s learns MACs of remote hosts", dev.name),
			fmt.Sprintf("bridge link set dev %s learning off", dev.name))
	}
	if want := env.suppress; want != nil && dev.port.suppress != *want && !env.mend.suppressOn && !env.mend.suppressOff {
		l.warn(evpn.FaultSuppression, dev.name,
			fmt.Sprintf("bridge port %s has neigh_suppress %s, arp-suppression wants %s", dev.name, onOff(dev.port.suppress), onOff(*want)),
			fmt.Sprintf("bridge link set dev %s neigh_suppress %s", dev.name, onOff(*want)))
	}
	if br.stp {
		l.warn(evpn.FaultSTP, br.name, fmt.Sprintf("bridge %s runs spanning tree, which other hosts do not hear and which can block %s", br.name, dev.name),
			fmt.Sprintf("ip link set dev %s type bridge stp_state 0", br.name))
	}
	if br.ageing < shortestAgeing {
		l.warn(evpn.FaultAgeing, br.name, fmt.Sprintf("bridge %s forgets silent hosts after %s, and each time their routes are withdrawn", br.name, br.ageing),
			fmt.Sprintf("ip link set dev %s type bridge ageing_time 30000", br.name))
	}
}

// mtu compares what hosts may send with what the tunnel can carry: VTEPs must not fragment (RFC 7348 §4.3, VX-03).
func (l *faultList) mtu(dev, br *link, env environment) {
	if br.mtu > dev.mtu {
		l.warn(evpn.FaultBridgeMTU, br.name, fmt.Sprintf("bridge %s has MTU %d, its %s carries %d", br.name, br.mtu, dev.name, dev.mtu),
			fmt.Sprintf("ip link set dev %s mtu %d", br.name, dev.mtu))
	}
	if overhead := overheadOf(dev.vxlan.local); env.underlayMTU > 0 && dev.mtu+overhead > env.underlayMTU {
		l.warn(evpn.FaultUnderlayMTU, dev.name, fmt.Sprintf("%s has MTU %d and needs %d below, no device has more than %d",
			dev.name, dev.mtu, dev.mtu+overhead, env.underlayMTU), setMTU(dev.name, env.underlayMTU-overhead))
	}
}

// overheadOf is what VXLAN adds to a frame's payload in the family of a tunnel address: the inner Ethernet header, VXLAN,
// UDP and IP.
func overheadOf(local netip.Addr) int {
	if local.Is6() {
		return 14 + 8 + 8 + 40
	}
	return 14 + 8 + 8 + 20
}

func setMTU(device string, mtu int) string {
	return fmt.Sprintf("ip link set dev %s mtu %d", device, mtu)
}

func faultManyVNIs(dev *link) evpn.Fault {
	return evpn.Fault{
		Code: evpn.FaultManyVNIs, Severity: evpn.SeverityError, Ifname: dev.name,
		Detail: dev.name + " carries many VNIs (external or vnifilter), which is not supported",
		Remedy: fmt.Sprintf("make one device per VNI with ip link add type vxlan id VNI dstport %d local ADDRESS nolearning", vxlanPort),
	}
}

func faultTwoDevices(dev, other *link) evpn.Fault {
	return evpn.Fault{
		Code: evpn.FaultTwoDevices, VNI: dev.vxlan.vni, Ifname: other.name,
		Detail: fmt.Sprintf("%s has VNI %d as well and is not served, %s is", other.name, other.vxlan.vni, dev.name),
		Remedy: "ip link del dev " + other.name,
	}
}

func faultSharedBridge(first, at *attached) evpn.Fault {
	return evpn.Fault{
		Code: evpn.FaultTwoVNIs, Severity: evpn.SeverityError, VNI: at.VNI, Ifname: at.Bridge,
		Detail: fmt.Sprintf("bridge %s joins VNI %d and VNI %d into one broadcast domain", at.Bridge, first.VNI, at.VNI),
		Remedy: fmt.Sprintf("ip link set dev %s nomaster", at.Device),
	}
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
