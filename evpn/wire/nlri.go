package wire

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/evpnd/evpnd/evpn"
)

// The faults an NLRI can have. A length that no layout of the type has makes what follows unreadable and resets the
// session (ER-05); a value that is out of range inside an intact frame costs the UPDATE (ER-06 to ER-09).
var (
	faultLength       = &Verdict{SessionReset, "length impossible for the route type"}
	faultIPFit        = &Verdict{SessionReset, "IP length does not fit the NLRI"}
	faultMACLength    = &Verdict{TreatAsWithdraw, "MAC length is not 48"}
	faultIPLength     = &Verdict{TreatAsWithdraw, "IP length is none of an address"}
	faultPrefixLength = &Verdict{TreatAsWithdraw, "prefix length exceeds the address"}
	faultESIType      = &Verdict{TreatAsWithdraw, "ESI type is not 0 to 5"}
	faultBothIndexes  = &Verdict{TreatAsWithdraw, "ESI and gateway IP are both set"}
)

// frame checks that b is a run of NLRI (type, length, contents), and counts those of the types that are decoded.
func frame(b []byte) (known int, ok bool) {
	for len(b) > 0 {
		if len(b) < 2 || len(b)-2 < int(b[1]) {
			return 0, false
		}
		if decoded(evpn.RouteType(b[0])) {
			known++
		}
		b = b[2+int(b[1]):]
	}
	return known, true
}

func decoded(t evpn.RouteType) bool { return t >= evpn.TypeEthernetAD && t <= evpn.TypePrefix }

// reach decodes the NLRI of an MP_REACH_NLRI into r.Reach. A route that only its contents make unusable is there too:
// settle withdraws it.
func (r *Result) reach(m mp) *ResetError {
	known, ok := frame(m.nlri)
	if !ok {
		return reset(SubcodeOptionalAttribute, m.raw, "NLRI exceeds MP_REACH_NLRI")
	}
	r.Reach = slices.Grow(r.Reach, known)
	for b := m.nlri; len(b) > 0; {
		kind, v := evpn.RouteType(b[0]), b[2:2+int(b[1])]
		b = b[2+len(v):]
		if !decoded(kind) {
			r.skip(kind)
			continue
		}
		r.Reach = append(r.Reach, evpn.Route{})
		route := &r.Reach[len(r.Reach)-1]
		fault := decodeRoute(route, kind, v)
		if fault == nil {
			fault = checkRoute(route)
		}
		if fault == nil {
			continue
		}
		if err := r.fault(fault, m.raw, kind, v); err != nil {
			return err
		}
		if route.Key.Type == 0 {
			r.Reach = r.Reach[:len(r.Reach)-1]
		}
	}
	return nil
}

// unreach decodes the NLRI of an MP_UNREACH_NLRI into r.Unreach. Only the keys count (T2-07, T5-10): what is beside
// them is not looked at.
func (r *Result) unreach(m mp) *ResetError {
	known, ok := frame(m.nlri)
	if !ok {
		return reset(SubcodeOptionalAttribute, m.raw, "NLRI exceeds MP_UNREACH_NLRI")
	}
	r.Unreach = slices.Grow(r.Unreach, known)
	for b := m.nlri; len(b) > 0; {
		kind, v := evpn.RouteType(b[0]), b[2:2+int(b[1])]
		b = b[2+len(v):]
		if !decoded(kind) {
			r.skip(kind)
			continue
		}
		var route evpn.Route
		if fault := decodeRoute(&route, kind, v); fault != nil {
			if err := r.fault(fault, m.raw, kind, v); err != nil {
				return err
			}
			continue
		}
		r.Unreach = append(r.Unreach, route.Key)
	}
	return nil
}

func (r *Result) skip(kind evpn.RouteType) {
	for i := range r.Skipped {
		if r.Skipped[i].Type == kind {
			r.Skipped[i].Count++
			return
		}
	}
	r.Skipped = append(r.Skipped, Skipped{kind, 1})
}

// fault notes what is wrong with an NLRI, and where.
func (r *Result) fault(f *Verdict, attribute []byte, kind evpn.RouteType, v []byte) *ResetError {
	if f.Class < SessionReset && r.Verdict.Class >= f.Class {
		return nil
	}
	reason := fmt.Sprintf("%s: type %d, %x", f.Reason, kind, v)
	if f.Class == SessionReset {
		return reset(SubcodeOptionalAttribute, attribute, reason)
	}
	r.Verdict.strongest(Verdict{f.Class, reason})
	return nil
}

// decodeRoute reads the contents of an NLRI of a known type into the zero Route at route. With a fault the key's type
// stays zero: no such route can have been taken before, so there is nothing to withdraw by it.
func decodeRoute(route *evpn.Route, kind evpn.RouteType, v []byte) *Verdict {
	var fault *Verdict
	switch kind {
	case evpn.TypeEthernetAD:
		fault = decodeEthernetAD(route, v)
	case evpn.TypeMACIP:
		fault = decodeMACIP(route, v)
	case evpn.TypeIMET:
		fault = decodeIMET(route, v)
	case evpn.TypeES:
		fault = decodeES(route, v)
	case evpn.TypePrefix:
		fault = decodePrefix(route, v)
	}
	if fault == nil {
		route.Key.Type = kind
	}
	return fault
}

// decodeEthernetAD reads RD, ESI, tag, label (RFC 7432 §7.1).
func decodeEthernetAD(route *evpn.Route, v []byte) *Verdict {
	if len(v) != 25 {
		return faultLength
	}
	route.Key.RD = evpn.RD(v)
	route.Key.ESI = evpn.ESI(v[8:])
	route.Key.Tag = tag(v[18:])
	route.Label1 = label(v[22:])
	return nil
}

// decodeMACIP reads RD, ESI, tag, MAC length, MAC, IP length, IP, one or two labels (RFC 7432 §7.2).
func decodeMACIP(route *evpn.Route, v []byte) *Verdict {
	switch len(v) {
	case 33, 36, 37, 40, 49, 52:
	default:
		return faultLength
	}
	if v[22] != 48 { // nothing behind it is where it should be
		return faultMACLength
	}
	ip, fault := address(v[29:], 3)
	if fault != nil {
		return fault
	}
	labels := v[30+ip.BitLen()/8:]
	if len(labels) != 3 && len(labels) != 6 {
		return faultIPFit
	}
	route.Key.RD = evpn.RD(v)
	route.ESI = evpn.ESI(v[8:])
	route.Key.Tag = tag(v[18:])
	route.Key.MAC = evpn.MAC(v[23:])
	route.Key.IP = ip
	route.Label1 = label(labels)
	if len(labels) == 6 {
		route.Label2 = label(labels[3:])
	}
	return nil
}

// decodeIMET reads RD, tag, IP length, originator (RFC 7432 §7.3).
func decodeIMET(route *evpn.Route, v []byte) *Verdict {
	if len(v) != 17 && len(v) != 29 {
		return faultLength
	}
	ip, fault := originator(v[12:])
	if fault != nil {
		return fault
	}
	route.Key.RD = evpn.RD(v)
	route.Key.Tag = tag(v[8:])
	route.Key.IP = ip
	return nil
}

// decodeES reads RD, ESI, IP length, originator (RFC 7432 §7.4).
func decodeES(route *evpn.Route, v []byte) *Verdict {
	if len(v) != 23 && len(v) != 35 {
		return faultLength
	}
	ip, fault := originator(v[18:])
	if fault != nil {
		return fault
	}
	route.Key.RD = evpn.RD(v)
	route.Key.ESI = evpn.ESI(v[8:])
	route.Key.IP = ip
	return nil
}

// decodePrefix reads RD, ESI, tag, prefix length, prefix, gateway, label (RFC 9136 §3.1). The host bits are masked:
// T5-09.
func decodePrefix(route *evpn.Route, v []byte) *Verdict {
	if len(v) != 34 && len(v) != 58 {
		return faultLength
	}
	size := (len(v) - 26) / 2
	ip, _ := netip.AddrFromSlice(v[23 : 23+size])
	gw, _ := netip.AddrFromSlice(v[23+size : 23+2*size])
	prefix, err := ip.Prefix(int(v[22]))
	if err != nil {
		return faultPrefixLength
	}
	route.Key.RD = evpn.RD(v)
	route.ESI = evpn.ESI(v[8:])
	route.Key.Tag = tag(v[18:])
	route.Key.PrefixLen = v[22]
	route.Key.IP = prefix.Addr()
	if !gw.IsUnspecified() {
		route.GW = gw
	}
	route.Label1 = label(v[23+2*size:])
	return nil
}

// address reads a length in bits and the address it names; 0 bits give the zero Addr. after is how many octets must
// follow at least. An address that would run past the NLRI is a broken frame, another length a bad value (ER-07).
func address(v []byte, after int) (netip.Addr, *Verdict) {
	bits := int(v[0])
	if 1+(bits+7)/8+after > len(v) {
		return netip.Addr{}, faultIPFit
	}
	switch bits {
	case 0:
		return netip.Addr{}, nil
	case 32:
		return netip.AddrFrom4([4]byte(v[1:])), nil
	case 128:
		return netip.AddrFrom16([16]byte(v[1:])), nil
	default:
		return netip.Addr{}, faultIPLength
	}
}

// originator reads the address that ends an IMET or ES route; there is no form without one.
func originator(v []byte) (netip.Addr, *Verdict) {
	ip, fault := address(v, 0)
	switch {
	case fault != nil:
		return netip.Addr{}, fault
	case !ip.IsValid():
		return netip.Addr{}, faultIPLength
	case ip.BitLen()/8 != len(v)-1:
		return netip.Addr{}, faultIPFit
	}
	return ip, nil
}

func tag(v []byte) evpn.EthernetTag { return evpn.EthernetTag(binary.BigEndian.Uint32(v)) }

// label reads a label field: 24 bits, all of them the VNI (EN-02).
func label(v []byte) uint32 { return uint32(v[0])<<16 | uint32(v[1])<<8 | uint32(v[2]) }

// checkRoute applies the rules for announced routes that need no attribute.
func checkRoute(route *evpn.Route) *Verdict {
	switch route.Key.Type {
	case evpn.TypeEthernetAD, evpn.TypeES:
		if !validESI(&route.Key.ESI) {
			return faultESIType
		}
	case evpn.TypeMACIP:
		if !validESI(&route.ESI) {
			return faultESIType
		}
	case evpn.TypePrefix:
		if !validESI(&route.ESI) {
			return faultESIType
		}
		if !route.ESI.IsZero() && route.GW.IsValid() { // T5-07
			return faultBothIndexes
		}
	}
	return nil
}

// maxESI is reserved; in a type 2 route it means what zero means (MH-10).
var maxESI = evpn.ESI{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// validESI: the first octet is the ESI type, 0 to 5 (ER-08).
func validESI(e *evpn.ESI) bool { return e[0] <= 5 || *e == maxESI }

// checkPrefixes applies the rules that tie type 5 routes to the Router's MAC community: T5-07, T5-08.
func checkPrefixes(r *Result) {
	for i := range r.Reach {
		route := &r.Reach[i]
		if route.Key.Type != evpn.TypePrefix {
			continue
		}
		mac := r.Attrs.RouterMAC
		switch {
		case mac.IsGroup():
			r.Verdict.strongest(Verdict{TreatAsWithdraw, fmt.Sprintf("router MAC %s is a group address", mac)})
		case route.Label1 == 0 && route.ESI.IsZero() && !route.GW.IsValid() && mac.IsZero():
			r.Verdict.strongest(Verdict{TreatAsWithdraw, fmt.Sprintf("%s has neither VNI nor overlay index", route.Key)})
		}
	}
}
