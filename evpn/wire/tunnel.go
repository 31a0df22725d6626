package wire

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/evpnd/evpnd/evpn"
)

const (
	vxlanPort               = 4789 // RFC 7348 §5
	subTLVUDPDestPort uint8 = 8    // RFC 9012 §3.3.2
)

// pmsi reads flags, tunnel type, label and tunnel identifier (RFC 6514 §5). A type that is not assigned, or an
// identifier that is none of its type, is treated as withdraw: PM-07.
func (p *attrParser) pmsi(v []byte) {
	if len(v) < 5 {
		p.withdraw(fmt.Sprintf("PMSI_TUNNEL of %d octets", len(v)))
		return
	}
	t := evpn.PMSI{Present: true, Flags: v[0], Tunnel: v[1], Label: label(v[2:])}
	id := v[5:]
	ok := true
	switch t.Tunnel {
	case evpn.TunnelIngressReplication:
		t.Endpoint, ok = netip.AddrFromSlice(id)
		if t.Endpoint.IsMulticast() || t.Endpoint.Is4In6() { // all zero has a meaning: PM-04
			p.withdraw(fmt.Sprintf("PMSI_TUNNEL endpoint %s", t.Endpoint))
		}
	case evpn.TunnelPIMSSM, evpn.TunnelPIMSM, evpn.TunnelPIMBidir: // two addresses of one family
		ok = len(id) == 8 || len(id) == 32
	default:
		ok = assignedTunnel(t.Tunnel)
	}
	if !ok {
		p.withdraw(fmt.Sprintf("PMSI_TUNNEL of type %d with an identifier of %d octets", t.Tunnel, len(id)))
		return
	}
	p.attrs.PMSI = t
}

// assignedTunnel knows the rest of the registry of P-multicast tunnel types: 0 to 7 (RFC 6514, RFC 7441), 8 (RFC
// 7524), 10 (RFC 9574), 11 (RFC 8556), 12 and 13 (segment routing), and the composite types of RFC 8317.
func assignedTunnel(t uint8) bool {
	return t <= 8 || t >= 10 && t <= 13 || t >= 0x80 && t <= 0xfa
}

// offerTunnels reads the Tunnel Encapsulation attribute, once the communities are known: a list of tunnels (EN-05). One
// that cannot be taken apart is treated as withdraw.
func (p *attrParser) offerTunnels() {
	for b := p.tunnels; len(b) > 0; {
		tunnel, rest, ok := nextTunnel(b)
		if !ok {
			p.withdraw("tunnel encapsulation attribute is malformed")
			return
		}
		p.attrs.OfferEncap(tunnel)
		b = rest
	}
}

// nextTunnel splits the first tunnel off b: type, length, sub-TLVs (RFC 9012 §2). VXLAN to another UDP port than the
// usual is none that this host speaks, and comes back as the reserved type 0 (EN-07).
func nextTunnel(b []byte) (tunnel uint16, rest []byte, ok bool) {
	if len(b) < 4 {
		return 0, nil, false
	}
	tunnel = binary.BigEndian.Uint16(b)
	sub, rest, ok := cut(b[2:])
	if !ok {
		return 0, nil, false
	}
	port, ok := tunnelPort(sub)
	if tunnel == evpn.TunnelVXLAN && port != vxlanPort {
		tunnel = 0
	}
	return tunnel, rest, ok
}

// tunnelPort looks for the UDP port among the sub-TLVs of a tunnel: types below 128 have a length of one octet, the
// others of two (RFC 9012 §2).
func tunnelPort(b []byte) (port uint16, ok bool) {
	port = vxlanPort
	for len(b) > 0 {
		kind := b[0]
		head, n := 2, 0
		switch {
		case kind < 128 && len(b) >= 2:
			n = int(b[1])
		case kind >= 128 && len(b) >= 3:
			head, n = 3, int(binary.BigEndian.Uint16(b[1:]))
		default:
			return 0, false
		}
		if len(b)-head < n {
			return 0, false
		}
		if kind == subTLVUDPDestPort && n == 2 {
			port = binary.BigEndian.Uint16(b[head:])
		}
		b = b[head+n:]
	}
	return port, true
}
