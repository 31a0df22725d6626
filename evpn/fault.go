package evpn

import "net/netip"

// FaultCode names one kind of wrong set-up. Codes are stable: scripts and docs/troubleshooting.md go by them.
type FaultCode string

// Devices of a VNI.
const (
	FaultVXLANMissing      FaultCode = "vxlan-missing"       // configured, and no VXLAN device has the VNI
	FaultVXLANNotInBridge  FaultCode = "vxlan-not-in-bridge" // the device is no port of a bridge
	FaultVXLANDown         FaultCode = "vxlan-down"
	FaultBridgeDown        FaultCode = "bridge-down"
	FaultTwoDevices        FaultCode = "two-devices-one-vni"   // the second one is not served
	FaultTwoVNIs           FaultCode = "two-vnis-one-bridge"   // they are one broadcast domain
	FaultManyVNIs          FaultCode = "many-vnis-one-device"  // external or vnifilter
	FaultLocalMissing      FaultCode = "local-address-missing" // of the VXLAN device
	FaultLocalWrong        FaultCode = "local-address-wrong"   // another than vtep
	FaultLearning          FaultCode = "vxlan-learning-on"
	FaultPortLearning      FaultCode = "port-learning-on" // of the VXLAN device as bridge port
	FaultUDPPort           FaultCode = "udp-port-not-4789"
	FaultRemoteSet         FaultCode = "vxlan-remote-set"    // "remote" or "group" of the device
	FaultForeignFlood      FaultCode = "foreign-flood-entry" // BUM goes where no route says
	FaultVLANAware         FaultCode = "bridge-vlan-aware"
	FaultBridgeMTU         FaultCode = "bridge-mtu-too-large"   // above that of the VXLAN device
	FaultUnderlayMTU       FaultCode = "underlay-mtu-too-small" // for what the VXLAN device takes
	FaultBridgeMAC         FaultCode = "bridge-mac-not-pinned"  // it follows the ports
	FaultSuppression       FaultCode = "neigh-suppress-wrong"   // other than arp-suppression says
	FaultAgeing            FaultCode = "bridge-ageing-short"    // hosts are forgotten while they are silent for a moment
	FaultSTP               FaultCode = "bridge-stp-on"
	FaultNoAccessPort      FaultCode = "no-access-port"         // nobody lives on the bridge
	FaultIPv6Off           FaultCode = "bridge-ipv6-off"        // and there are IPv6 neighbours to install
	FaultBridgeNetfilter   FaultCode = "bridge-netfilter-on"    // frames in bridges go through iptables
	FaultCreate            FaultCode = "create-failed"          // create: true could not be done
	FaultLeftOver          FaultCode = "device-left-over"       // made by evpnd for a VNI that is configured no more
	FaultVTEPNotHere       FaultCode = "vtep-address-missing"   // our tunnel address is on no device
	FaultVTEPUnreachable   FaultCode = "vtep-no-route"          // of a remote VTEP
	FaultVTEPSilent        FaultCode = "vtep-silent"            // it answers the probe no more
	FaultEntryBlocked      FaultCode = "kernel-entry-blocked"   // someone else's entry is in the place of ours
	FaultEntryRefused      FaultCode = "kernel-entry-refused"   // by the kernel
	FaultSnoopingForbidden FaultCode = "snooping-not-permitted" // CAP_NET_RAW is missing
	FaultNamespaceTaken    FaultCode = "namespace-taken"        // by another evpnd, which serves VNIs in it
)

// Peers and what they send.
const (
	FaultNoPeers      FaultCode = "no-peers"     // none is configured
	FaultPeerRefused  FaultCode = "peer-refused" // nobody listens there
	FaultPeerNoRoute  FaultCode = "peer-no-route"
	FaultPeerSilent   FaultCode = "peer-no-answer" // time out: MD5 mismatch, filter, dead
	FaultPeerAS       FaultCode = "peer-wrong-as"
	FaultPeerUnseen   FaultCode = "peer-not-seen"         // by interface: nobody advertises itself there, or the link is down
	FaultPeerCrowd    FaultCode = "peers-on-link"         // by interface: more than one
	FaultPeerDown     FaultCode = "peer-not-established"  // for another reason
	FaultPeerNoEVPN   FaultCode = "peer-without-evpn"     // established, but the family was not negotiated
	FaultRTMismatch   FaultCode = "route-target-mismatch" // routes of a VNI served here, which does not import their route targets
	FaultNoIMET       FaultCode = "imet-missing"          // of a VTEP that sends MACs
	FaultOwnVTEP      FaultCode = "own-vtep-announced"    // by somebody else
	FaultRouteRefused FaultCode = "route-refused"         // imported, and of no use
	FaultDuplicate    FaultCode = "duplicate-host"        // two hosts have a MAC or an IP
)

// The way to another VTEP, as evpnctl ping vtep finds it.
const (
	FaultPingUnreachable FaultCode = "vtep-unreachable"      // ICMP says that there is no way on
	FaultPingFiltered    FaultCode = "vtep-filtered"         // somebody's rules reject what goes there
	FaultPingPort        FaultCode = "vtep-port-unreachable" // nobody has VXLAN's UDP port there
	FaultPingMTU         FaultCode = "path-mtu-too-small"    // and a router says so
	FaultPingBlackHole   FaultCode = "path-mtu-black-hole"   // and nobody says so
	FaultPingUnknown     FaultCode = "vtep-not-known-there"  // the evpnd there imports no route of ours
	FaultPingVNIMissing  FaultCode = "vni-missing-there"     // it has no device for the VNI
	FaultPingVNIFaulty   FaultCode = "vni-faulty-there"      // something stands against serving it
	FaultPingVNISilent   FaultCode = "vni-no-answer"         // and other VNIs answer
	FaultPingOtherPort   FaultCode = "vxlan-port-differs"    // its VXLAN device uses another UDP port
	FaultPingLostThere   FaultCode = "vxlan-lost-there"      // ICMP passes, VXLAN does not get there
	FaultPingLostHere    FaultCode = "vxlan-lost-here"       // it gets there, and the answer does not come back
	FaultPingNotFlooded  FaultCode = "not-flooded-there"     // its flood list of the VNI lacks us
	FaultPingOtherMTU    FaultCode = "vni-mtu-differs"       // of the VXLAN devices
	FaultPingVNIMTU      FaultCode = "vni-mtu-too-small"     // full frames do not pass in the VNI
)

// The daemon itself.
const (
	FaultReload    FaultCode = "reload-refused" // the file is not what is in force
	FaultStateDir  FaultCode = "state-dir-not-writable"
	FaultFileLimit FaultCode = "file-limit-low" // descriptors
)

// Severity says what a fault costs.
type Severity uint8

// Severities.
const (
	SeverityWarning Severity = iota // it works, worse than it could or not in every case
	SeverityError                   // something that should work does not
)

func (s Severity) String() string {
	if s == SeverityError {
		return "error"
	}
	return "warning"
}

// Fault is one thing that is set up wrongly.
type Fault struct {
	Code     FaultCode
	Severity Severity
	VNI      VNI        // 0: of no single VNI
	Ifname   string     // device; "": of none
	Peer     netip.Addr // BGP peer or remote VTEP; the zero Addr: of none
	Detail   string     // what is wrong, in plain words
	Remedy   string     // the command that mends it, or what is to be done
}

// String is the fault in one line, without its code.
func (f Fault) String() string { return f.Detail + ": " + f.Remedy }
