package dataplane

import (
	"bytes"
	"encoding/binary"
	"net/netip"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/evpnd/evpnd/evpn"
)

// protocol is what kind of frame was snooped.
type protocol uint8

// Protocols, as they appear in Status.
const (
	protoOther protocol = iota
	protoARP
	protoRARP
	protoND
	protoDHCP
	protoDHCPv6
	protocols
)

func (p protocol) String() string {
	return [protocols]string{"other", "arp", "rarp", "nd", "dhcp", "dhcpv6"}[p]
}

// verdict is what became of a snooped frame.
type verdict uint8

// Verdicts, as they appear in Status.
const (
	verdictAccepted  verdict = iota
	verdictMalformed         // too short, or fields that cannot be
	verdictSpoofed           // speaks for another than its sender, or for our own bridge or VTEP
	verdictTagged            // carries a VLAN tag, so it is not of the VNI of a plain bridge
	verdictServer            // a DHCP server's answer, on its way in: it says nothing of the hosts of that port
	verdictRelayed           // a DHCP relay's question for hosts elsewhere
	verdictUnasked           // a DHCP server's answer to what no host of the port asked
	verdictLimited           // more than a port may send: not looked at
	verdictLost              // more than the ring holds
	verdicts
)

func (v verdict) String() string {
	return [verdicts]string{"accepted", "malformed", "spoofed", "tagged", "server", "relayed", "unasked", "limited", "lost"}[v]
}

const (
	etherTypeAt   = 12
	etherTypeRARP = 0x8035
	ndHopLimit    = 255 // of every ND message: it comes from this link (RFC 4861 §7.1)
)

// protocolOf tells from the headers alone; the filter has looked closer.
func protocolOf(b []byte) protocol {
	if len(b) < etherTypeAt+2 {
		return protoOther
	}
	switch binary.BigEndian.Uint16(b[etherTypeAt:]) {
	case uint16(layers.EthernetTypeARP):
		return protoARP
	case etherTypeRARP:
		return protoRARP
	case uint16(layers.EthernetTypeIPv4):
		return protoDHCP
	case uint16(layers.EthernetTypeIPv6):
		if len(b) > nextHeader6At && b[nextHeader6At] == byte(layers.IPProtocolUDP) {
			return protoDHCPv6
		}
		return protoND
	}
	return protoOther
}

// isTagged reports whether a VLAN tag is in the frame itself: the second of two.
func isTagged(b []byte) bool {
	if len(b) < etherTypeAt+2 {
		return false
	}
	typ := layers.EthernetType(binary.BigEndian.Uint16(b[etherTypeAt:]))
	return typ == layers.EthernetTypeDot1Q || typ == layers.EthernetTypeQinQ
}

// spoken is what a frame says of its sender.
type spoken struct {
	mac    evpn.MAC
	ip     netip.Addr // the zero Addr: the sender is there, and no more
	router bool
}

// frameParser reads snooped frames without allocating for good ones. It keeps pointers into the frame until the next one,
// and is used by one goroutine.
type frameParser struct {
	parser  *gopacket.DecodingLayerParser
	decoded []gopacket.LayerType
	eth     layers.Ethernet
	arp     layers.ARP
	ip6     layers.IPv6
	icmp6   layers.ICMPv6
	na      layers.ICMPv6NeighborAdvertisement
	ns      layers.ICMPv6NeighborSolicitation
}

func newFrameParser() *frameParser {
	p := &frameParser{}
	p.parser = gopacket.NewDecodingLayerParser(layers.LayerTypeEthernet, &p.eth, &p.arp, &p.ip6, &p.icmp6, &p.na, &p.ns)
	p.parser.IgnoreUnsupported = true
	return p
}

// parse reads one frame, from its Ethernet header on.
func (p *frameParser) parse(frame []byte) (spoken, verdict) {
	p.arp.SourceHwAddress = nil
	err := p.parser.DecodeLayers(frame, &p.decoded)
	if err != nil || p.parser.Truncated || len(p.decoded) == 0 {
		return spoken{}, verdictMalformed
	}
	s := spoken{mac: evpn.MAC(p.eth.SrcMAC)}
	if s.mac.IsGroup() || s.mac.IsZero() {
		return spoken{}, verdictSpoofed
	}
	switch p.decoded[len(p.decoded)-1] {
	case layers.LayerTypeARP:
		return p.parseARP(s)
	case layers.LayerTypeICMPv6NeighborAdvertisement:
		return p.parseNA(s)
	case layers.LayerTypeICMPv6NeighborSolicitation:
		return p.parseNS(s)
	}
	if p.eth.EthernetType == etherTypeRARP && p.arp.DecodeFromBytes(p.eth.Payload, gopacket.NilDecodeFeedback) == nil {
		return p.parseARP(s)
	}
	return spoken{}, verdictMalformed
}

// parseARP takes the sender fields of ARP of any kind (PX-02). The sender address of a probe is zero, that of RARP means
// nothing.
func (p *frameParser) parseARP(s spoken) (spoken, verdict) {
	a := &p.arp
	if a.AddrType != layers.LinkTypeEthernet || a.Protocol != layers.EthernetTypeIPv4 || a.HwAddressSize != 6 ||
		a.ProtAddressSize != 4 || a.Operation == 0 || a.Operation > 4 {
		return spoken{}, verdictMalformed
	}
	if !bytes.Equal(a.SourceHwAddress, s.mac[:]) {
		return spoken{}, verdictSpoofed
	}
	if a.Operation > layers.ARPReply {
		return s, verdictAccepted
	}
	ip := netip.AddrFrom4([4]byte(a.SourceProtAddress))
	if ip.IsUnspecified() {
		return s, verdictAccepted
	}
	return s.bound(ip)
}

// parseNA takes the target of a neighbour advertisement (PX-03). One without the override flag says nothing new (PX-04).
func (p *frameParser) parseNA(s spoken) (spoken, verdict) {
	ip, _ := netip.AddrFromSlice(p.na.TargetAddress)
	if v := p.checkND(p.na.Options, layers.ICMPv6OptTargetAddress, s.mac); v != verdictAccepted {
		return spoken{}, v
	}
	if !p.na.Override() {
		return s, verdictAccepted
	}
	s.router = p.na.Router()
	return s.bound(ip)
}

// parseNS takes a neighbour solicitation as a sign of life only: it lacks the router flag (PX-03).
func (p *frameParser) parseNS(s spoken) (spoken, verdict) {
	if v := p.checkND(p.ns.Options, layers.ICMPv6OptSourceAddress, s.mac); v != verdictAccepted {
		return spoken{}, v
	}
	return s, verdictAccepted
}

// checkND holds what RFC 4861 §7.1 asks of every ND message, and that a link-layer address in it is the sender's own.
func (p *frameParser) checkND(options layers.ICMPv6Options, kind layers.ICMPv6Opt, sender evpn.MAC) verdict {
	if p.ip6.HopLimit != ndHopLimit || p.icmp6.TypeCode.Code() != 0 {
		return verdictMalformed
	}
	for _, o := range options {
		if o.Type == kind && !bytes.Equal(o.Data, sender[:]) {
			return verdictSpoofed
		}
	}
	return verdictAccepted
}

// noHost reports whether no host can have the address.
func noHost(ip netip.Addr) bool {
	return !ip.IsValid() || ip.IsUnspecified() || ip.IsMulticast() || ip.IsLoopback() || ip.Is4In6() ||
		ip.Is4() && (ip.As4()[0] == 0 || ip.As4()[0] >= 240)
}

// bound adds the address, unless no host can have it or it does not leave the link (T2-12).
func (s spoken) bound(ip netip.Addr) (spoken, verdict) {
	switch {
	case noHost(ip):
		return spoken{}, verdictMalformed
	case ip.IsLinkLocalUnicast():
		s.router = false
	default:
		s.ip = ip
	}
	return s, verdictAccepted
}
