package wire

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/evpnd/evpnd/evpn"
)

// Attribute flags (RFC 4271 §4.3). Only the first two are checked: RFC 7606 §3(c).
const (
	flagOptional   uint8 = 0x80
	flagTransitive uint8 = 0x40
	flagExtended   uint8 = 0x10
	flagsMask            = flagOptional | flagTransitive
)

// Attribute type codes.
const (
	codeOrigin       uint8 = 1
	codeASPath       uint8 = 2
	codeNextHop      uint8 = 3
	codeMED          uint8 = 4
	codeLocalPref    uint8 = 5
	codeAtomic       uint8 = 6
	codeAggregator   uint8 = 7
	codeCommunities  uint8 = 8
	codeOriginatorID uint8 = 9
	codeClusterList  uint8 = 10
	codeMPReach      uint8 = 14
	codeMPUnreach    uint8 = 15
	codeExtComms     uint8 = 16
	codePMSI         uint8 = 22
	codeTunnelEncap  uint8 = 23
	codeIPv6ExtComms uint8 = 25
	codeLargeComms   uint8 = 32
)

// defaultLocalPref stands for an absent LOCAL_PREF.
const defaultLocalPref = 100

// attr is one path attribute as framed on the wire.
type attr struct {
	flags, code uint8
	value       []byte
	raw         []byte // header and value
}

// nextAttr splits the first attribute off b. When b ends within its value, ok is false and the attribute holds what is
// there; when b ends within its header, the attribute is zero.
func nextAttr(b []byte) (a attr, rest []byte, ok bool) {
	if len(b) < 3 || b[0]&flagExtended != 0 && len(b) < 4 {
		return attr{}, nil, false
	}
	a.flags, a.code = b[0], b[1]
	head, n := 3, int(b[2])
	if a.flags&flagExtended != 0 { // legal even where one octet would do: CB-07
		head, n = 4, int(binary.BigEndian.Uint16(b[2:]))
	}
	if len(b)-head < n {
		a.value, a.raw = b[head:], b
		return a, nil, false
	}
	a.value, a.raw = b[head:head+n], b[:head+n]
	return a, b[head+n:], true
}

func (a attr) isMP() bool { return a.code == codeMPReach || a.code == codeMPUnreach }

// isEVPN reports whether an MP attribute is of AFI 25, SAFI 70; where the SAFI is cut off the AFI decides.
func (a attr) isEVPN() bool {
	return len(a.value) >= 2 && a.value[0] == 0 && a.value[1] == 25 && (len(a.value) < 3 || a.value[2] == 70)
}

// attrParser reads the attributes of one UPDATE.
type attrParser struct {
	opts      Options
	attrs     *evpn.Attrs
	seen      [256]bool
	tunnels   []byte // value of the Tunnel Encapsulation attribute
	verdict   Verdict
	discarded int
}

// parseAttrs reads well-framed attributes; nextHop is empty when the UPDATE announces nothing, and then nothing is
// mandatory.
func parseAttrs(b, nextHop []byte, o Options) (*interned, *ResetError) {
	p := attrParser{opts: o, attrs: &evpn.Attrs{LocalPref: defaultLocalPref}}
	for len(b) > 0 {
		a, rest, _ := nextAttr(b)
		b = rest
		if p.seen[a.code] { // the first one counts: RFC 7606 §3(g), ER-12
			p.discard(fmt.Sprintf("attribute %d twice", a.code))
			continue
		}
		p.seen[a.code] = true
		want, known := wantFlags(a.code)
		switch {
		case !known && a.flags&flagOptional == 0:
			return nil, reset(SubcodeUnknownWellKnown, a.raw, fmt.Sprintf("unknown well-known attribute %d", a.code))
		case known && a.flags&flagsMask != want:
			p.withdraw(fmt.Sprintf("flags 0x%02x of attribute %d", a.flags, a.code))
		case known:
			p.parse(a.code, a.value)
		}
	}
	p.offerTunnels()
	if len(nextHop) > 0 {
		p.mandatory()
		p.nextHop(nextHop)
	}
	return &interned{attrs: p.attrs, verdict: p.verdict, discarded: p.discarded}, nil
}

// wantFlags gives the Optional and Transitive bits of an attribute that is known here.
func wantFlags(code uint8) (flags uint8, known bool) {
	switch code {
	case codeOrigin, codeASPath, codeNextHop, codeLocalPref, codeAtomic:
		return flagTransitive, true
	case codeMED, codeOriginatorID, codeClusterList:
		return flagOptional, true
	case codeAggregator, codeCommunities, codeExtComms, codePMSI, codeTunnelEncap, codeIPv6ExtComms, codeLargeComms:
		return flagOptional | flagTransitive, true
	default:
		return 0, false
	}
}

func (p *attrParser) withdraw(reason string) { p.verdict.strongest(Verdict{TreatAsWithdraw, reason}) }

func (p *attrParser) discard(reason string) {
	p.discarded++
	p.verdict.strongest(Verdict{AttributeDiscard, reason})
}

// parse reads one attribute. The reactions are those of RFC 7606 §7, unless another source is named.
func (p *attrParser) parse(code uint8, v []byte) {
	switch code {
	case codeOrigin:
		if p.length("ORIGIN", v, 1) {
			p.attrs.Origin = v[0]
		}
		if p.attrs.Origin > 2 {
			p.withdraw(fmt.Sprintf("ORIGIN %d", p.attrs.Origin))
		}
	case codeASPath:
		p.asPath(v)
	case codeNextHop: // of other families; MP_REACH_NLRI has ours: CB-09
	case codeMED:
		if p.length("MULTI_EXIT_DISC", v, 4) {
			p.attrs.MED = binary.BigEndian.Uint32(v)
		}
	case codeLocalPref:
		if p.internal("LOCAL_PREF") && p.length("LOCAL_PREF", v, 4) {
			p.attrs.LocalPref = binary.BigEndian.Uint32(v)
		}
	case codeAtomic:
		if len(v) != 0 {
			p.discard("ATOMIC_AGGREGATE is not empty")
		}
	case codeAggregator:
		if n := len(v); p.opts.AS4 && n != 8 || !p.opts.AS4 && n != 6 {
			p.discard(fmt.Sprintf("AGGREGATOR of %d octets", n))
		}
	case codeCommunities:
		if p.multiple("COMMUNITIES", v, 4) {
			p.attrs.Communities = string(v)
		}
	case codeOriginatorID:
		if p.internal("ORIGINATOR_ID") && p.length("ORIGINATOR_ID", v, 4) {
			p.attrs.OriginatorID = netip.AddrFrom4([4]byte(v))
		}
	case codeClusterList:
		if p.internal("CLUSTER_LIST") && p.multiple("CLUSTER_LIST", v, 4) {
			p.attrs.ClusterList = string(v)
		}
	case codeExtComms: // ER-10, ER-13
		if p.multiple("EXTENDED_COMMUNITIES", v, 8) {
			p.attrs.SetExtComms(string(v))
		}
	case codePMSI:
		p.pmsi(v)
	case codeTunnelEncap:
		p.tunnels = v
	case codeIPv6ExtComms:
		p.multiple("IPv6 EXTENDED_COMMUNITIES", v, 20)
	case codeLargeComms: // RFC 8092 §5
		p.multiple("LARGE_COMMUNITY", v, 12)
	}
}

func (p *attrParser) length(name string, v []byte, n int) bool {
	if len(v) != n {
		p.withdraw(fmt.Sprintf("%s of %d octets", name, len(v)))
	}
	return len(v) == n
}

func (p *attrParser) multiple(name string, v []byte, n int) bool {
	ok := len(v) > 0 && len(v)%n == 0
	if !ok {
		p.withdraw(fmt.Sprintf("%s of %d octets", name, len(v)))
	}
	return ok
}

// internal drops an attribute that only peers of the own AS may send.
func (p *attrParser) internal(name string) bool {
	if !p.opts.IBGP {
		p.discard(name + " from an external peer")
	}
	return p.opts.IBGP
}

// mandatory checks what must stand with a route: ER-15.
func (p *attrParser) mandatory() {
	switch {
	case !p.seen[codeOrigin]:
		p.withdraw("ORIGIN is missing")
	case !p.seen[codeASPath]:
		p.withdraw("AS_PATH is missing")
	case p.opts.IBGP && !p.seen[codeLocalPref]:
		p.withdraw("LOCAL_PREF is missing")
	}
}

// nextHop reads the address of the VTEP. One that cannot be a tunnel endpoint makes the route unusable; the session
// is not at fault (RFC 4271 §6.3 on a semantically incorrect NEXT_HOP).
func (p *attrParser) nextHop(v []byte) {
	a, _ := netip.AddrFromSlice(v)
	if a.IsUnspecified() || a.IsMulticast() || a.Is4In6() {
		p.withdraw(fmt.Sprintf("next hop %s", a))
	}
	p.attrs.NextHop = a
}

// asPath checks the segments and keeps them with AS numbers of 4 octets. AS 0 is malformed too: RFC 7607 §2.
func (p *attrParser) asPath(v []byte) {
	size := 2
	if p.opts.AS4 {
		size = 4
	}
	path := make([]byte, 0, len(v)*4/size)
	for len(v) > 0 {
		if len(v) < 2 || v[0] < 1 || v[0] > 4 || v[1] == 0 || len(v) < 2+size*int(v[1]) {
			p.withdraw("AS_PATH is malformed")
			return
		}
		path = append(path, v[0], v[1])
		members := v[2 : 2+size*int(v[1])]
		v = v[2+len(members):]
		for ; len(members) > 0; members = members[size:] {
			asn := uint32(binary.BigEndian.Uint16(members))
			if size == 4 {
				asn = binary.BigEndian.Uint32(members)
			}
			if asn == 0 {
				p.withdraw("AS 0 in AS_PATH")
				return
			}
			path = binary.BigEndian.AppendUint32(path, asn)
		}
	}
	p.attrs.ASPath = string(path)
}
