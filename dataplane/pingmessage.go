package dataplane

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/evpnd/evpnd/evpn"
)

// What evpnctl ping vtep asks the evpnd at another VTEP travels in two ways: as an ICMP echo request, which a VTEP without
// evpnd answers as well, and in a VNI, as a frame behind a VXLAN header. Both carry the same message, padded to the size
// that is tried, and are answered with as many octets.
const (
	pingMagic   = "evpnping"
	pingOctets  = 96 // of a message, without padding
	pingNameLen = 15 // IFNAMSIZ without its zero

	// etherTypePing is that of local experiments (IEEE 802, Local Experimental Ethertype 1). The frames go to a group address
	// that no bridge passes on (IEEE 802.1Q §8.6.3, table 8-1): evpnd reads them off the VXLAN device, hosts never see them.
	etherTypePing = 0x88b5
)

var pingGroup = evpn.MAC{0x01, 0x80, 0xc2, 0x00, 0x00, 0x0a}

// pingKind says which way a message goes.
type pingKind uint8

const (
	pingCall   pingKind = 1
	pingAnswer pingKind = 2
)

// pingFlags are what the answering evpnd knows about the VNI that was named.
type pingFlags uint8

const (
	pingKnown  pingFlags = 1 << iota // a route that it imports names the caller's VTEP
	pingServed                       // it has a VXLAN device in a bridge for the VNI
	pingUsable                       // with nothing against serving it
	pingFloods                       // its flood list of the VNI has the caller
	pingSeen                         // a frame with this nonce came to it in the VNI
)

// pingMessage is one question or answer. The zero VNI asks about none.
type pingMessage struct {
	kind   pingKind
	flags  pingFlags
	port   uint16 // UDP port of the VXLAN device that answers
	vni    evpn.VNI
	mtu    uint32     // of that device
	nonce  uint64     // that of the call
	vtep   netip.Addr // of the caller
	device string     // that answers
	bridge string     // of which it is a port
}

var errNoPing = errors.New("not a vtep ping")

func (m pingMessage) has(f pingFlags) bool { return m.flags&f != 0 }

// put appends the message, padded to size octets.
func (m pingMessage) put(b []byte, size int) []byte {
	b = append(b, pingMagic...)
	b = append(b, byte(m.kind), byte(m.flags))
	b = binary.BigEndian.AppendUint16(b, m.port)
	b = binary.BigEndian.AppendUint32(b, uint32(m.vni))
	b = binary.BigEndian.AppendUint32(b, m.mtu)
	b = binary.BigEndian.AppendUint64(b, m.nonce)
	vtep := m.vtep.As16()
	b = append(b, vtep[:]...)
	for _, name := range []string{m.device, m.bridge} {
		b = append(b, name[:min(len(name), pingNameLen)]...)
		b = append(b, make([]byte, pingNameLen+1-min(len(name), pingNameLen))...)
	}
	const used = len(pingMagic) + 2 + 2 + 4 + 4 + 8 + 16 + 2*(pingNameLen+1)
	return append(b, make([]byte, max(size, pingOctets)-used)...)
}

// parsePing reads a message that may have padding behind it.
func parsePing(b []byte) (pingMessage, error) {
	if len(b) < pingOctets || string(b[:len(pingMagic)]) != pingMagic {
		return pingMessage{}, errNoPing
	}
	b = b[len(pingMagic):]
	name := func(b []byte) string {
		text, _, _ := bytes.Cut(b[:pingNameLen], []byte{0})
		return string(text)
	}
	m := pingMessage{
		kind: pingKind(b[0]), flags: pingFlags(b[1]), port: binary.BigEndian.Uint16(b[2:]),
		vni: evpn.VNI(binary.BigEndian.Uint32(b[4:])), mtu: binary.BigEndian.Uint32(b[8:]), nonce: binary.BigEndian.Uint64(b[12:]),
		vtep: netip.AddrFrom16([16]byte(b[20:36])).Unmap(), device: name(b[36:]), bridge: name(b[36+pingNameLen+1:]),
	}
	if m.kind != pingCall && m.kind != pingAnswer || m.vni != 0 && m.vni.Check() != nil || !m.vtep.IsValid() || m.vtep.IsUnspecified() {
		return pingMessage{}, errNoPing
	}
	return m, nil
}

// pingSource is the MAC that the frames of a VTEP come from: locally administered, and no host's.
func pingSource(vtep netip.Addr) evpn.MAC {
	a := vtep.As16()
	return evpn.MAC{0x0e, 0x76, 0x70, a[13], a[14], a[15]}
}

// pingDatagram is the UDP payload that brings a message into a VNI: the VXLAN header (RFC 7348 §5) and a frame with size octets of
// payload.
func pingDatagram(from netip.Addr, m pingMessage, size int) []byte {
	b := vxlanHeader(m.vni)
	source := pingSource(from)
	b = append(append(b, pingGroup[:]...), source[:]...)
	return m.put(binary.BigEndian.AppendUint16(b, etherTypePing), size)
}

func vxlanHeader(vni evpn.VNI) []byte {
	const valid = 0x08 // the I flag
	return binary.BigEndian.AppendUint32([]byte{valid, 0, 0, 0}, uint32(vni)<<8)
}

// parsePingFrame reads a frame as it comes off a VXLAN device.
func parsePingFrame(b []byte) (pingMessage, error) {
	if len(b) < networkAt || evpn.MAC(b[:6]) != pingGroup || binary.BigEndian.Uint16(b[etherTypeAt:]) != etherTypePing {
		return pingMessage{}, errNoPing
	}
	return parsePing(b[networkAt:])
}

// Types of ICMP echo messages (RFC 792, RFC 4443 §4).
const (
	icmp4EchoReply   = 0
	icmp4EchoRequest = 8
	icmp6EchoRequest = 128
	icmp6EchoReply   = 129
	icmpHeader       = 8
)

// echoMessage makes an ICMP echo request or reply for the family of to. The kernel sets the checksum of ICMPv6.
func echoMessage(to netip.Addr, reply bool, id, seq uint16, data []byte) []byte {
	typ := byte(icmp4EchoRequest)
	switch {
	case to.Is6() && reply:
		typ = icmp6EchoReply
	case to.Is6():
		typ = icmp6EchoRequest
	case reply:
		typ = icmp4EchoReply
	}
	b := binary.BigEndian.AppendUint16([]byte{typ, 0, 0, 0}, id)
	b = append(binary.BigEndian.AppendUint16(b, seq), data...)
	if to.Is4() {
		binary.BigEndian.PutUint16(b[2:], checksum(b))
	}
	return b
}

// checksum is that of RFC 1071, over octets whose checksum field is zero.
func checksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// icmpEcho is an ICMP echo message.
type icmpEcho struct {
	reply   bool
	id, seq uint16
	data    []byte
}

// parseEcho reads what a raw socket of ICMP received: IPv4 comes with its header, IPv6 without.
func parseEcho(b []byte, v4 bool) (e icmpEcho, ok bool) {
	if v4 {
		if len(b) < 20 || b[9] != unix.IPPROTO_ICMP {
			return e, false
		}
		header := int(b[0]&0xf) * 4
		if header < 20 || header > len(b) {
			return e, false
		}
		b = b[header:]
	}
	if len(b) < icmpHeader || b[1] != 0 {
		return e, false
	}
	switch typ := b[0]; {
	case v4 && typ == icmp4EchoReply, !v4 && typ == icmp6EchoReply:
		e.reply = true
	case v4 && typ == icmp4EchoRequest, !v4 && typ == icmp6EchoRequest:
	default:
		return e, false
	}
	e.id, e.seq, e.data = binary.BigEndian.Uint16(b[4:]), binary.BigEndian.Uint16(b[6:]), b[icmpHeader:]
	return e, true
}
