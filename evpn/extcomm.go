package evpn

import "encoding/binary"

// Type and sub-type of the extended communities whose meaning EVPN needs. A route target is any of types 0 to 2 with
// sub-type 2 (RT-05).
const (
	ecEncapsulation  uint16 = 0x030c // RFC 9012 §4.1
	ecDefaultGateway uint16 = 0x030d // RFC 7432 §7.8
	ecMACMobility    uint16 = 0x0600 // RFC 7432 §7.7
	ecRouterMAC      uint16 = 0x0603 // RFC 9135 §8.1
	ecARPND          uint16 = 0x0608 // RFC 9047 §2
)

// TunnelVXLAN is the BGP tunnel type of VXLAN (RFC 9012 §12, RFC 8365 §11).
const TunnelVXLAN uint16 = 8

const (
	mobilitySticky uint8 = 0x01 // the only defined flag of MAC Mobility (MM-11)
	ndDefined            = NDRouter | NDOverride | NDImmutable
)

// AppendRT appends a route target.
func AppendRT(dst []byte, rt RT) []byte { return append(dst, rt[:]...) }

// AppendEncapVXLAN appends the Encapsulation community that says VXLAN (EN-01).
func AppendEncapVXLAN(dst []byte) []byte {
	return append(dst, 0x03, 0x0c, 0, 0, 0, 0, byte(TunnelVXLAN>>8), byte(TunnelVXLAN))
}

// AppendDefaultGateway appends the Default Gateway community (DG-01).
func AppendDefaultGateway(dst []byte) []byte { return append(dst, 0x03, 0x0d, 0, 0, 0, 0, 0, 0) }

// AppendMobility appends the MAC Mobility community. The first advertisement of a MAC carries none at all (MM-01).
func AppendMobility(dst []byte, seq uint32, sticky bool) []byte {
	var flags uint8
	if sticky {
		flags = mobilitySticky
	}
	return binary.BigEndian.AppendUint32(append(dst, 0x06, 0x00, flags, 0), seq)
}

// AppendNDFlags appends the ARP/ND community with NDRouter, NDOverride and NDImmutable as given; other bits are sent
// as zero (ND-01).
func AppendNDFlags(dst []byte, flags uint8) []byte {
	return append(dst, 0x06, 0x08, flags&ndDefined, 0, 0, 0, 0, 0)
}

// AppendRouterMAC appends the Router's MAC community (IR-02).
func AppendRouterMAC(dst []byte, mac MAC) []byte {
	return append(append(dst, 0x06, 0x03), mac[:]...)
}

// SetExtComms sets ExtComms and every field that is read from it; what those fields held before is lost. Received and
// originated attributes are both made by it, so that they compare alike. Unknown communities are carried and mean
// nothing (ER-13); of a repeated one the first counts (ER-14, ND-05, IR-05), except that several encapsulations are
// alternatives (EN-04). Octets beyond the last whole community are dropped.
func (a *Attrs) SetExtComms(octets string) {
	octets = octets[:len(octets)&^7]
	a.ExtComms = octets
	a.Encap = EncapNone
	a.Seq, a.HasMobility, a.Sticky = 0, false, false
	a.DefaultGateway = false
	a.HasNDFlags, a.NDFlags = false, 0
	a.RouterMAC = MAC{}
	hasRouterMAC := false
	for ; len(octets) >= 8; octets = octets[8:] {
		ec := octets[:8]
		switch uint16(ec[0])<<8 | uint16(ec[1]) {
		case ecEncapsulation:
			a.OfferEncap(uint16(ec[6])<<8 | uint16(ec[7]))
		case ecDefaultGateway:
			a.DefaultGateway = true
		case ecMACMobility:
			if !a.HasMobility {
				a.HasMobility, a.Sticky = true, ec[2]&mobilitySticky != 0
				a.Seq = uint32(ec[4])<<24 | uint32(ec[5])<<16 | uint32(ec[6])<<8 | uint32(ec[7])
			}
		case ecARPND:
			if !a.HasNDFlags {
				a.HasNDFlags, a.NDFlags = true, ec[2]&ndDefined
			}
		case ecRouterMAC:
			if !hasRouterMAC {
				hasRouterMAC = true
				copy(a.RouterMAC[:], ec[2:])
			}
		}
	}
	if a.DefaultGateway { // a gateway does not move: DG-04
		a.Seq, a.HasMobility, a.Sticky = 0, false, false
	}
}

// OfferEncap notes that the route offers a tunnel type, be it by community or by the Tunnel Encapsulation attribute
// (EN-05). VXLAN among others is VXLAN (EN-04).
func (a *Attrs) OfferEncap(tunnel uint16) {
	switch {
	case tunnel == TunnelVXLAN:
		a.Encap = EncapVXLAN
	case a.Encap == EncapNone:
		a.Encap = EncapOther
	}
}
