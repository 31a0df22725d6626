package evpn

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
)

// Sentinels that the Check methods and the parsers wrap.
var (
	ErrVNI = errors.New("VNI out of range 1 to 16777215")
	ErrMAC = errors.New("not a MAC address")
	ErrRD  = errors.New("not a route distinguisher")
	ErrRT  = errors.New("not a route target")
)

// MaxVNI is the largest VXLAN network identifier.
const MaxVNI VNI = 1<<24 - 1

// VNI is a VXLAN network identifier: 24 bits, 1 to 16777215; zero means "not set". Source: configuration, the VXLAN
// device, or the label field of a received route, where all 24 bits are the VNI (RFC 8365 §5.1.3, EN-02).
type VNI uint32

// Check reports a VNI out of range; its error wraps ErrVNI.
func (v VNI) Check() error {
	if v == 0 || v > MaxVNI {
		return fmt.Errorf("VNI %d: %w", uint32(v), ErrVNI)
	}
	return nil
}

func (v VNI) String() string { return strconv.FormatUint(uint64(v), 10) }

// EthernetTag identifies a bridge table within a VLAN-aware MAC-VRF; zero in the VLAN-based service (ET-01).
type EthernetTag uint32

// MaxEthernetTag marks an Ethernet A-D per ES route (RFC 7432 §8.2.1).
const MaxEthernetTag EthernetTag = math.MaxUint32

// MAC is a 48-bit Ethernet address. The zero value is no host's address; in the kernel's FDB it names the flood list.
type MAC [6]byte

// ParseMAC reads six colon-separated octets in hexadecimal; its error wraps ErrMAC.
func ParseMAC(s string) (MAC, error) {
	var m MAC
	octets := strings.Split(s, ":")
	if len(octets) != len(m) {
		return MAC{}, fmt.Errorf("%q: %w", s, ErrMAC)
	}
	for i, o := range octets {
		b, err := strconv.ParseUint(o, 16, 8)
		if err != nil || len(o) > 2 {
			return MAC{}, fmt.Errorf("%q: %w", s, ErrMAC)
		}
		m[i] = byte(b)
	}
	return m, nil
}

func (m MAC) String() string {
	const digits = "0123456789abcdef"
	var b [17]byte
	for i, o := range m {
		b[3*i], b[3*i+1] = digits[o>>4], digits[o&15]
		if i < 5 {
			b[3*i+2] = ':'
		}
	}
	return string(b[:])
}

// IsGroup reports a multicast or broadcast address, which no host owns (T2-08).
func (m MAC) IsGroup() bool { return m[0]&1 != 0 }

// IsZero reports the all-zero address.
func (m MAC) IsZero() bool { return m == MAC{} }

// Less orders MACs as numbers.
func (m MAC) Less(o MAC) bool { return string(m[:]) < string(o[:]) }

// ESI is an Ethernet segment identifier (RFC 7432 §5); zero means a single-homed host.
type ESI [10]byte

// IsZero reports the reserved value of single-homed hosts.
func (e ESI) IsZero() bool { return e == ESI{} }

func (e ESI) String() string {
	parts := make([]string, len(e))
	for i, o := range e {
		parts[i] = hex.EncodeToString([]byte{o})
	}
	return strings.Join(parts, ":")
}

// RD is a route distinguisher, kept as its eight octets: as a key it is opaque, whatever its type (RD-03).
type RD [8]byte

// NewRD builds the type 1 form addr:n (RFC 4364 §4.2, RD-02). addr must be IPv4.
func NewRD(addr netip.Addr, n uint16) RD {
	var rd RD
	rd[1] = 1
	a := addr.As4()
	copy(rd[2:6], a[:])
	binary.BigEndian.PutUint16(rd[6:], n)
	return rd
}

// ParseRD reads "10.0.0.1:5" (type 1), "65000:5" (type 0, or type 2 when the AS exceeds 65535); its error wraps ErrRD.
func ParseRD(s string) (RD, error) {
	rd, err := parseAdmin(s, 0, 1, 2)
	if err != nil {
		return RD{}, fmt.Errorf("%q: %w: %w", s, ErrRD, err)
	}
	return rd, nil
}

func (rd RD) String() string {
	if t := binary.BigEndian.Uint16(rd[:]); t <= 2 {
		return formatAdmin(byte(t), rd[2:])
	}
	return "0x" + hex.EncodeToString(rd[:])
}

// RT is a route target: the eight octets of its extended community. The three forms differ even where their text
// looks alike (RT-05): 00 02 AS2:4, 01 02 IPv4:2, 02 02 AS4:2.
type RT [8]byte

// ParseRT reads "65000:100" (2-octet AS, or 4-octet AS when it exceeds 65535) or "10.0.0.1:5"; its error wraps ErrRT.
func ParseRT(s string) (RT, error) {
	rt, err := parseAdmin(s, 0, 1, 2)
	if err != nil {
		return RT{}, fmt.Errorf("%q: %w: %w", s, ErrRT, err)
	}
	rt[0], rt[1] = rt[1], 2
	return RT(rt), nil
}

// NewRT builds the 2-octet-AS form; only the low 16 bits of asn are used, as FRR does (RT-04).
func NewRT(asn uint32, local uint32) RT {
	rt := RT{0: 0x00, 1: 0x02}
	binary.BigEndian.PutUint16(rt[2:], uint16(asn))
	binary.BigEndian.PutUint32(rt[4:], local)
	return rt
}

// NewAS4RT builds the 4-octet-AS form (RFC 5668).
func NewAS4RT(asn uint32, local uint16) RT {
	rt := RT{0: 0x02, 1: 0x02}
	binary.BigEndian.PutUint32(rt[2:], asn)
	binary.BigEndian.PutUint16(rt[6:], local)
	return rt
}

// RFC8365Local is the local administrator of an automatically derived RT: type 1 (VXLAN), domain 0, the VNI
// (RFC 8365 §5.1.2.1, RT-03).
func RFC8365Local(vni VNI) uint32 { return 1<<28 | uint32(vni) }

func (rt RT) String() string {
	if rt[1] != 2 || rt[0] > 2 {
		return "0x" + hex.EncodeToString(rt[:])
	}
	return formatAdmin(rt[0], rt[2:])
}

// parseAdmin reads administrator:number, the shared text form of RDs and RTs, into type, administrator and number.
func parseAdmin(s string, as2, ip4, as4 byte) (b [8]byte, err error) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return b, errors.New("want ADMIN:NUMBER")
	}
	admin, number := s[:i], s[i+1:]
	if addr, err := netip.ParseAddr(admin); err == nil && addr.Is4() {
		n, err := strconv.ParseUint(number, 10, 16)
		if err != nil {
			return b, errors.New("number after an IPv4 address must be 0 to 65535")
		}
		a := addr.As4()
		b[1] = ip4
		copy(b[2:6], a[:])
		binary.BigEndian.PutUint16(b[6:], uint16(n))
		return b, nil
	}
	asn, err := strconv.ParseUint(admin, 10, 32)
	if err != nil {
		return b, errors.New("administrator must be an IPv4 address or an AS number up to 4294967295")
	}
	if asn <= math.MaxUint16 {
		n, err := strconv.ParseUint(number, 10, 32)
		if err != nil {
			return b, errors.New("number after a 2-octet AS must be 0 to 4294967295")
		}
		b[1] = as2
		binary.BigEndian.PutUint16(b[2:], uint16(asn))
		binary.BigEndian.PutUint32(b[4:], uint32(n))
		return b, nil
	}
	n, err := strconv.ParseUint(number, 10, 16)
	if err != nil {
		return b, errors.New("number after a 4-octet AS must be 0 to 65535")
	}
	b[1] = as4
	binary.BigEndian.PutUint32(b[2:], uint32(asn))
	binary.BigEndian.PutUint16(b[6:], uint16(n))
	return b, nil
}

// formatAdmin prints the six octets after the type of an RD or RT: form 0 is AS2:4, 1 is IPv4:2, 2 is AS4:2.
func formatAdmin(form byte, b []byte) string {
	switch form {
	case 0:
		return fmt.Sprintf("%d:%d", binary.BigEndian.Uint16(b), binary.BigEndian.Uint32(b[2:]))
	case 1:
		return fmt.Sprintf("%s:%d", netip.AddrFrom4([4]byte(b[:4])), binary.BigEndian.Uint16(b[4:]))
	default:
		return fmt.Sprintf("%d:%d", binary.BigEndian.Uint32(b), binary.BigEndian.Uint16(b[4:]))
	}
}
