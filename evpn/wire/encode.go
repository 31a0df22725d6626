package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/evpnd/evpnd/evpn"
)

// afiEVPN is AFI 25, SAFI 70 as MP attributes start with it.
var afiEVPN = []byte{0, 25, 70}

// AppendUpdate appends the UPDATE messages that announce reach with the attributes a, as many routes in each as fit
// (CB-13). MP_REACH_NLRI comes first (ER-03), the other attributes by rising code; LOCAL_PREF, ORIGINATOR_ID and
// CLUSTER_LIST go only to peers of the own AS. Labels are cut to 24 bits. The error, with which dst comes back as it
// was, names a route that has no encoding, or attributes that leave no room for routes.
//
// What Attrs does not keep cannot be written: the identifier of a PIM tunnel is all zero, and unknown attributes are
// absent.
func AppendUpdate(dst []byte, a *evpn.Attrs, reach []evpn.Route, o Options) ([]byte, error) {
	if !a.NextHop.IsValid() {
		return dst, errors.New("encode update: no next hop")
	}
	nextHop := a.NextHop.AsSlice()
	start := append(append(append([]byte(nil), afiEVPN...), byte(len(nextHop))), nextHop...)
	start = append(start, 0)
	tail := appendAttrs(nil, a, o)
	p := packer{dst: dst, code: codeMPReach, start: start, tail: tail, maxLen: o.maxLen()}
	for i := range reach {
		if err := p.add(&reach[i]); err != nil {
			return dst, fmt.Errorf("encode update: %w", err)
		}
	}
	return p.flush(), nil
}

// AppendWithdraw appends the UPDATE messages that withdraw routes. What is not part of a key is zero (T2-06).
func AppendWithdraw(dst []byte, keys []evpn.RouteKey, o Options) ([]byte, error) {
	p := packer{dst: dst, code: codeMPUnreach, start: afiEVPN, maxLen: o.maxLen()}
	for _, k := range keys {
		if err := p.add(&evpn.Route{Key: k}); err != nil {
			return dst, fmt.Errorf("encode withdraw: %w", err)
		}
	}
	return p.flush(), nil
}

// AppendEoR appends the End-of-RIB of AFI 25, SAFI 70 (GR-04).
func AppendEoR(dst []byte) []byte {
	return AppendMessage(dst, MessageUpdate, []byte{0, 0, 0, 6, flagOptional, codeMPUnreach, 3, 0, 25, 70})
}

// packer fills UPDATEs with NLRI.
type packer struct {
	dst    []byte
	code   uint8  // of the MP attribute
	start  []byte // of its value
	tail   []byte // the other attributes
	nlri   []byte // of the UPDATE being filled
	maxLen int
}

func (p *packer) add(route *evpn.Route) error {
	had := len(p.nlri)
	var err error
	if p.nlri, err = AppendNLRI(p.nlri, route); err != nil {
		return err
	}
	if HeaderLen+4+4+len(p.start)+len(p.nlri)+len(p.tail) <= p.maxLen {
		return nil
	}
	if had == 0 {
		return fmt.Errorf("attributes of %d octets leave no room for routes", len(p.tail))
	}
	over := append([]byte(nil), p.nlri[had:]...)
	p.nlri = p.nlri[:had]
	p.flush()
	p.nlri = append(p.nlri, over...)
	return nil
}

// flush writes the UPDATE, if there is anything in it.
func (p *packer) flush() []byte {
	if len(p.nlri) == 0 {
		return p.dst
	}
	at := len(p.dst)
	p.dst = append(appendHeader(p.dst, MessageUpdate), 0, 0, 0, 0)
	value := len(p.start) + len(p.nlri)
	p.dst = appendAttrHeader(p.dst, flagOptional, p.code, value)
	p.dst = append(append(append(p.dst, p.start...), p.nlri...), p.tail...)
	binary.BigEndian.PutUint16(p.dst[at+HeaderLen+2:], uint16(len(p.dst)-at-HeaderLen-4))
	setLength(p.dst, at)
	p.nlri = p.nlri[:0]
	return p.dst
}

func appendAttrHeader(dst []byte, flags, code uint8, n int) []byte {
	if n > 255 {
		return binary.BigEndian.AppendUint16(append(dst, flags|flagExtended, code), uint16(n))
	}
	return append(dst, flags, code, byte(n))
}

// appendAttrs appends the attributes other than MP_REACH_NLRI. An absent or default one is left out where it may be.
func appendAttrs(dst []byte, a *evpn.Attrs, o Options) []byte {
	put := func(code uint8, value []byte) {
		flags, _ := wantFlags(code)
		dst = append(appendAttrHeader(dst, flags, code, len(value)), value...)
	}
	put(codeOrigin, []byte{a.Origin})
	put(codeASPath, asPathOctets(a.ASPath, o.AS4))
	if a.MED != 0 {
		put(codeMED, binary.BigEndian.AppendUint32(nil, a.MED))
	}
	if o.IBGP {
		put(codeLocalPref, binary.BigEndian.AppendUint32(nil, a.LocalPref))
	}
	if a.Communities != "" {
		put(codeCommunities, []byte(a.Communities))
	}
	if o.IBGP && a.OriginatorID.Is4() {
		put(codeOriginatorID, a.OriginatorID.AsSlice())
	}
	if o.IBGP && a.ClusterList != "" {
		put(codeClusterList, []byte(a.ClusterList))
	}
	if a.ExtComms != "" {
		put(codeExtComms, []byte(a.ExtComms))
	}
	if a.PMSI.Present {
		put(codePMSI, pmsiOctets(a.PMSI))
	}
	if tunnel := tunnelOctets(a); tunnel != nil {
		put(codeTunnelEncap, tunnel)
	}
	return dst
}

// asPathOctets writes the path for the peer: one that knows only 2-octet AS numbers gets 23456 for the larger ones
// (RFC 6793 §4.2.2).
func asPathOctets(path string, as4 bool) []byte {
	if as4 {
		return []byte(path)
	}
	var v []byte
	for p := []byte(path); len(p) >= 2 && len(p) >= 2+4*int(p[1]); p = p[2+4*int(p[1]):] {
		v = append(v, p[0], p[1])
		for i := range int(p[1]) {
			v = binary.BigEndian.AppendUint16(v, as2(binary.BigEndian.Uint32(p[2+4*i:])))
		}
	}
	return v
}

func as2(asn uint32) uint16 {
	if asn > 0xffff {
		return 23456
	}
	return uint16(asn)
}

func pmsiOctets(t evpn.PMSI) []byte {
	v := appendLabel([]byte{t.Flags, t.Tunnel}, t.Label)
	switch t.Tunnel {
	case evpn.TunnelPIMSSM, evpn.TunnelPIMSM, evpn.TunnelPIMBidir:
		v = append(v, make([]byte, 8)...)
	}
	return append(v, t.Endpoint.AsSlice()...)
}

// tunnelOctets gives the Tunnel Encapsulation attribute of a route whose encapsulation is not in its communities.
func tunnelOctets(a *evpn.Attrs) []byte {
	var said evpn.Attrs
	said.SetExtComms(a.ExtComms)
	switch {
	case a.Encap == said.Encap:
		return nil
	case a.Encap == evpn.EncapVXLAN:
		return []byte{0, byte(evpn.TunnelVXLAN), 0, 0}
	case a.Encap == evpn.EncapOther:
		return []byte{0, 0, 0, 0} // reserved type: none that anybody uses
	default:
		return nil
	}
}

// AppendNLRI appends one route as it stands in MP_REACH_NLRI: type, length, value; its address decides the layout. The
// error, with which dst comes back as it was, says why the route has no encoding.
func AppendNLRI(dst []byte, r *evpn.Route) ([]byte, error) {
	k := &r.Key
	at := len(dst)
	dst = append(append(dst, byte(k.Type), 0), k.RD[:]...)
	switch k.Type {
	case evpn.TypeEthernetAD:
		dst = appendTag(append(dst, k.ESI[:]...), k.Tag)
		dst = appendLabel(dst, r.Label1)
	case evpn.TypeMACIP:
		dst = appendTag(append(dst, r.ESI[:]...), k.Tag)
		dst = append(append(dst, 48), k.MAC[:]...)
		dst = appendLabel(appendAddr(dst, k.IP), r.Label1)
		if r.Label2 != 0 {
			dst = appendLabel(dst, r.Label2)
		}
	case evpn.TypeIMET, evpn.TypeES:
		if !k.IP.IsValid() {
			return dst[:at], fmt.Errorf("route %s: no originator", k)
		}
		if k.Type == evpn.TypeIMET {
			dst = appendTag(dst, k.Tag)
		} else {
			dst = append(dst, k.ESI[:]...)
		}
		dst = appendAddr(dst, k.IP)
	case evpn.TypePrefix:
		gw := r.GW
		if !gw.IsValid() {
			gw = unspecified(k.IP)
		}
		if !k.IP.IsValid() || int(k.PrefixLen) > k.IP.BitLen() || gw.BitLen() != k.IP.BitLen() {
			return dst[:at], fmt.Errorf("route %s gateway %s: addresses do not fit", k, gw)
		}
		dst = append(appendTag(append(dst, r.ESI[:]...), k.Tag), k.PrefixLen)
		dst = append(append(dst, k.IP.AsSlice()...), gw.AsSlice()...)
		dst = appendLabel(dst, r.Label1)
	default:
		return dst[:at], fmt.Errorf("route type %d has no encoding", k.Type)
	}
	dst[at+1] = byte(len(dst) - at - 2)
	return dst, nil
}

func unspecified(like netip.Addr) netip.Addr {
	if like.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// appendAddr appends a length in bits and the address; the zero Addr has length 0.
func appendAddr(dst []byte, a netip.Addr) []byte {
	return append(append(dst, byte(a.BitLen())), a.AsSlice()...)
}

func appendTag(dst []byte, t evpn.EthernetTag) []byte {
	return binary.BigEndian.AppendUint32(dst, uint32(t))
}

func appendLabel(dst []byte, l uint32) []byte {
	return append(dst, byte(l>>16), byte(l>>8), byte(l))
}
