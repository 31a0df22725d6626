package evpn

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// RouteType is the type octet of an EVPN NLRI (RFC 7432 §7, RFC 9136 §3).
type RouteType uint8

// The EVPN route types that are decoded; every other type is skipped by its length and counted (ER-01).
const (
	TypeEthernetAD RouteType = 1
	TypeMACIP      RouteType = 2
	TypeIMET       RouteType = 3
	TypeES         RouteType = 4
	TypePrefix     RouteType = 5
)

// RouteKey names an EVPN route the way BGP does: two routes with the same key replace each other. Fields that are not
// part of a type's key are zero (T2-07, T3-04, MH-01, T5-10).
//
//	type 1: RD, ESI, Tag             type 2: RD, Tag, MAC, IP (the zero Addr in a MAC-only route)
//	type 3: RD, Tag, IP (originator) type 4: RD, ESI, IP (originator)
//	type 5: RD, Tag, IP and PrefixLen, host bits masked (T5-09)
type RouteKey struct {
	Type      RouteType
	PrefixLen uint8
	MAC       MAC
	RD        RD
	Tag       EthernetTag
	ESI       ESI
	IP        netip.Addr
}

// String prints the key in the form FRR's operators know: [2]:[tag]:[48]:[MAC]:[32]:[IP].
func (k RouteKey) String() string {
	switch k.Type {
	case TypeEthernetAD:
		return fmt.Sprintf("[1]:[%d]:[%s]", k.Tag, k.ESI)
	case TypeMACIP:
		if !k.IP.IsValid() {
			return fmt.Sprintf("[2]:[%d]:[48]:[%s]", k.Tag, k.MAC)
		}
		return fmt.Sprintf("[2]:[%d]:[48]:[%s]:[%d]:[%s]", k.Tag, k.MAC, k.IP.BitLen(), k.IP)
	case TypeIMET:
		return fmt.Sprintf("[3]:[%d]:[%d]:[%s]", k.Tag, k.IP.BitLen(), k.IP)
	case TypeES:
		return fmt.Sprintf("[4]:[%s]:[%d]:[%s]", k.ESI, k.IP.BitLen(), k.IP)
	case TypePrefix:
		return fmt.Sprintf("[5]:[%d]:[%d]:[%s]", k.Tag, k.PrefixLen, k.IP)
	default:
		return fmt.Sprintf("[%d]", k.Type)
	}
}

// Route is one NLRI: its key, and what it says beside the key.
type Route struct {
	Key    RouteKey
	ESI    ESI        // types 2 and 5; in types 1 and 4 it is part of the key
	Label1 uint32     // raw 24-bit label field: the VNI (EN-02)
	Label2 uint32     // type 2 only: the layer-3 VNI, 0 when absent or zero (T2-11)
	GW     netip.Addr // type 5: gateway IP, the zero Addr when the field is all zero
}

// Tunnel types of the PMSI Tunnel attribute that matter here (RFC 6514 §5).
const (
	TunnelNone               uint8 = 0
	TunnelPIMSSM             uint8 = 3
	TunnelPIMSM              uint8 = 4
	TunnelPIMBidir           uint8 = 5
	TunnelIngressReplication uint8 = 6
)

// PMSI is a PMSI Tunnel attribute.
type PMSI struct {
	Present  bool
	Flags    uint8
	Tunnel   uint8
	Label    uint32     // raw 24-bit field: the VNI
	Endpoint netip.Addr // tunnel identifier of ingress replication; the zero Addr for other tunnel types
}

// Attrs are the path attributes of an UPDATE as far as EVPN needs them. Values are immutable once made, comparable,
// and shared by all the routes of the UPDATE (and by later UPDATEs that carry the same octets).
type Attrs struct {
	NextHop      netip.Addr // MP_REACH next hop: the VTEP, never the BGP peer (NH-03)
	Origin       uint8      // 0 IGP, 1 EGP, 2 INCOMPLETE
	LocalPref    uint32     // 100 when absent
	MED          uint32     // 0 when absent
	OriginatorID netip.Addr // the zero Addr when absent
	ASPath       string     // segments as on the wire, AS numbers of 4 octets
	ClusterList  string     // concatenated 4-octet cluster ids
	Communities  string     // concatenated 4-octet communities
	ExtComms     string     // concatenated 8-octet extended communities, in order of arrival, unknown ones included
	PMSI         PMSI
	// VXLAN says what the encapsulation communities and the Tunnel Encapsulation attribute say (EN-03 to EN-05).
	Encap Encap
	// Mobility, Router and the rest are read from ExtComms once, when the UPDATE is decoded.
	Seq            uint32 // MAC Mobility sequence number; 0 also when the community is absent (MM-05)
	HasMobility    bool
	Sticky         bool // MAC Mobility static flag (RFC 7432 §15.2)
	DefaultGateway bool // Default Gateway community (RFC 7432 §10.1)
	HasNDFlags     bool // ARP/ND community present (RFC 9047)
	NDFlags        uint8
	RouterMAC      MAC // zero when absent (RFC 9135 §8.1)
}

// fixed reports a MAC that does not move: no frame and no other route takes it from where it is (RFC 7432 §15.2, DG-04).
func (a *Attrs) fixed() bool { return a.Sticky || a.DefaultGateway }

// fixedAs says in a word why.
func (a *Attrs) fixedAs() string {
	if a.DefaultGateway {
		return "gateway"
	}
	return "sticky"
}

// Encap is what a route says about its encapsulation.
type Encap uint8

// Encapsulations. EncapNone means the route does not say, which this speaker reads as VXLAN by default (EN-03).
const (
	EncapNone  Encap = iota
	EncapVXLAN       // VXLAN is among those offered (EN-04)
	EncapOther       // only others are offered: no forwarding state
)

// Flags of the ARP/ND extended community (RFC 9047 §2).
const (
	NDRouter    uint8 = 0x01
	NDOverride  uint8 = 0x02
	NDImmutable uint8 = 0x08
)

// RTs returns the route targets among the extended communities, in order.
func (a *Attrs) RTs() []RT {
	var rts []RT
	for i := 0; i+8 <= len(a.ExtComms); i += 8 {
		if a.ExtComms[i] <= 2 && a.ExtComms[i+1] == 2 {
			rts = append(rts, RT([]byte(a.ExtComms[i:i+8])))
		}
	}
	return rts
}

// ASPathLen counts the AS path for route comparison: a sequence counts its members, a set counts one (RFC 4271
// §9.1.2.2).
func (a *Attrs) ASPathLen() int {
	n := 0
	for p := a.ASPath; len(p) >= 2; {
		kind, count := p[0], int(p[1])
		switch kind {
		case 1:
			n++
		case 2:
			n += count
		}
		if len(p) < 2+4*count {
			return n
		}
		p = p[2+4*count:]
	}
	return n
}

// Communities of long-lived graceful restart (RFC 9494 §3.2, §3.3).
const (
	communityLLGRStale = 0xffff0006
	communityNoLLGR    = 0xffff0007
)

func (a *Attrs) hasCommunity(c uint32) bool {
	for b := a.Communities; len(b) >= 4; b = b[4:] {
		if binary.BigEndian.Uint32([]byte(b[:4])) == c {
			return true
		}
	}
	return false
}

// HasAS reports whether asn is anywhere in the AS path (CB-10).
func (a *Attrs) HasAS(asn uint32) bool {
	for p := a.ASPath; len(p) >= 2; {
		count := int(p[1])
		if len(p) < 2+4*count {
			return false
		}
		for i := range count {
			if binary.BigEndian.Uint32([]byte(p[2+4*i:6+4*i])) == asn {
				return true
			}
		}
		p = p[2+4*count:]
	}
	return false
}
