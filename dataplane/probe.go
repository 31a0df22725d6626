package dataplane

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/evpnd/evpnd/evpn"
)

// Types of ICMPv6 messages (RFC 4861 §4.3, §4.4).
const (
	icmpv6Solicitation  = 135
	icmpv6Advertisement = 136
)

// Probe asks local hosts for the addresses they had, each out of the port it was heard on. What cannot be asked is left
// out: the core asks again. The answers come as frames.
func (d *Dataplane) Probe(probes []evpn.Probe) {
	for _, p := range probes {
		if at := d.topo.vni(p.VNI); at != nil {
			if r := d.snooper.ringOf(at, p.Port); r != nil {
				_ = r.send(probeFrame(at.BridgeMAC, p)) // a port that is down or full
			}
		}
	}
}

// ringOf finds the ring of a port of an attachment's bridge, nil when there is none.
func (s *snooper) ringOf(at *attached, port string) *ring {
	ifindex := s.topo.portIndex(at.bridge, port)
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.ports[ifindex]; p != nil {
		return p.ring.Load()
	}
	return nil
}

// probeFrame makes the question: to the host's MAC, from the bridge's, so that the answer ends at this host. No answer is
// owed to us, so we appear under no address that could be someone's: IPv4 has the form of an ARP probe (RFC 5227 §2.1.1);
// IPv6 comes from the link-local address that belongs to the bridge's MAC, and goes to the solicited-node address, because
// hosts answer a unicast one without the override flag.
func probeFrame(from evpn.MAC, p evpn.Probe) []byte {
	b := append(p.MAC[:len(p.MAC):len(p.MAC)], from[:]...)
	if p.IP.Is4() {
		b = binary.BigEndian.AppendUint16(b, unix.ETH_P_ARP)
		b = append(b, 0, 1, 8, 0, 6, 4, 0, 1)
		b = append(append(b, from[:]...), 0, 0, 0, 0)
		return append(append(b, make([]byte, 6)...), p.IP.AsSlice()...)
	}
	target := p.IP.As16()
	source := netip.AddrFrom16([16]byte{0xfe, 0x80, 8: from[0] ^ 2, from[1], from[2], 0xff, 0xfe, from[3], from[4], from[5]})
	dest := netip.AddrFrom16([16]byte{0xff, 2, 11: 1, 0xff, target[13], target[14], target[15]})
	icmp := append([]byte{icmpv6Solicitation, 7: 0}, target[:]...)
	icmp = append(append(icmp, 1, 1), from[:]...)
	binary.BigEndian.PutUint16(icmp[2:], icmpChecksum(icmp, source, dest))
	b = binary.BigEndian.AppendUint16(b, unix.ETH_P_IPV6)
	b = append(b, 0x60, 0, 0, 0, 0, byte(len(icmp)), unix.IPPROTO_ICMPV6, ndHopLimit)
	b = append(append(b, source.AsSlice()...), dest.AsSlice()...)
	return append(b, icmp...)
}

// icmpChecksum is that of an ICMPv6 message whose checksum field is zero (RFC 4443 §2.3). Its length is even.
func icmpChecksum(icmp []byte, source, dest netip.Addr) uint16 {
	sum := uint32(len(icmp)) + unix.IPPROTO_ICMPV6
	for _, part := range [][]byte{source.AsSlice(), dest.AsSlice(), icmp} {
		for ; len(part) >= 2; part = part[2:] {
			sum += uint32(binary.BigEndian.Uint16(part))
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
