package dataplane

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/evpnd/evpnd/evpn"
)

var (
	macAll    = evpn.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	zeroHost  = netip.IPv4Unspecified()
	linkLocal = netip.MustParseAddr("fe80::1")
)

func ethernet(dst, src evpn.MAC, typ uint16, payload []byte) []byte {
	b := append(append([]byte{}, dst[:]...), src[:]...)
	return append(binary.BigEndian.AppendUint16(b, typ), payload...)
}

// arp makes an ARP frame whose Ethernet source is src.
func arp(op uint16, src, sender evpn.MAC, senderIP netip.Addr, target evpn.MAC, targetIP netip.Addr) []byte {
	b := []byte{0, 1, 8, 0, 6, 4}
	b = binary.BigEndian.AppendUint16(b, op)
	b = append(append(b, sender[:]...), senderIP.AsSlice()...)
	b = append(append(b, target[:]...), targetIP.AsSlice()...)
	return ethernet(macAll, src, 0x0806, b)
}

func gratuitous(m evpn.MAC, ip netip.Addr) []byte { return arp(1, m, m, ip, evpn.MAC{}, ip) }

// Flags of a neighbour advertisement.
const (
	flagRouter   = 0x80
	flagOverride = 0x20
)

// nd makes an ND message: typ 135 or 136, flags of the latter, and a link-layer address option unless it is zero.
func nd(typ, flags byte, src evpn.MAC, target netip.Addr, lladdr evpn.MAC) []byte {
	icmp := append([]byte{typ, 0, 0, 0, flags, 0, 0, 0}, target.AsSlice()...)
	if !lladdr.IsZero() {
		icmp = append(append(icmp, typ-134, 1), lladdr[:]...) // 1 source, 2 target
	}
	from, to := netip.MustParseAddr("fe80::2"), netip.MustParseAddr("ff02::1")
	sum := icmpChecksum(icmp, from, to)
	binary.BigEndian.PutUint16(icmp[2:], sum)
	ip := []byte{0x60, 0, 0, 0, 0, byte(len(icmp)), 58, 255}
	ip = append(append(ip, from.AsSlice()...), to.AsSlice()...)
	return ethernet(evpn.MAC{0x33, 0x33, 0, 0, 0, 1}, src, 0x86dd, append(ip, icmp...))
}

func edit(b []byte, at int, v byte) []byte { b[at] = v; return b }

func TestParseFrame(t *testing.T) {
	group := evpn.MAC{1, 0, 0x5e, 0, 0, 1}
	addr := netip.MustParseAddr
	bindA := spoken{mac: macA, ip: hostA}
	seenA := spoken{mac: macA}
	for _, row := range []struct {
		name  string
		frame []byte
		want  spoken
		v     verdict
	}{
		{"gratuitous request", gratuitous(macA, hostA), bindA, verdictAccepted},
		{"gratuitous reply", arp(2, macA, macA, hostA, macA, hostA), bindA, verdictAccepted},
		{"request for another", arp(1, macA, macA, hostA, evpn.MAC{}, hostB), bindA, verdictAccepted},
		{"reply to another", arp(2, macA, macA, hostA, macB, hostB), bindA, verdictAccepted},
		{"padded", append(gratuitous(macA, hostA), make([]byte, 18)...), bindA, verdictAccepted},
		{"probe", arp(1, macA, macA, zeroHost, evpn.MAC{}, hostA), seenA, verdictAccepted},
		{"rarp", edit(edit(arp(3, macA, macA, zeroHost, macA, zeroHost), 12, 0x80), 13, 0x35), seenA, verdictAccepted},
		{"link-local IPv4", gratuitous(macA, addr("169.254.1.1")), seenA, verdictAccepted},
		{"na", nd(136, flagOverride, macA, host6, macA), spoken{mac: macA, ip: host6}, verdictAccepted},
		{"na of a router", nd(136, flagOverride|flagRouter, macA, host6, macA), spoken{mac: macA, ip: host6, router: true}, verdictAccepted},
		{"na without address", nd(136, flagOverride, macA, host6, evpn.MAC{}), spoken{mac: macA, ip: host6}, verdictAccepted},
		{"na without override", nd(136, flagRouter, macA, host6, macA), seenA, verdictAccepted},
		{"na, link-local", nd(136, flagOverride|flagRouter, macA, linkLocal, macA), seenA, verdictAccepted},
		{"ns", nd(135, 0, macA, host6, macA), seenA, verdictAccepted},
		{"dad", nd(135, 0, macA, host6, evpn.MAC{}), seenA, verdictAccepted},

		{"sender is not who it says", arp(1, macA, macB, hostA, evpn.MAC{}, hostA), spoken{}, verdictSpoofed},
		{"multicast source", gratuitous(group, hostA), spoken{}, verdictSpoofed},
		{"broadcast source", gratuitous(macAll, hostA), spoken{}, verdictSpoofed},
		{"zero source", gratuitous(evpn.MAC{}, hostA), spoken{}, verdictSpoofed},
		{"na for another", nd(136, flagOverride, macA, host6, macB), spoken{}, verdictSpoofed},
		{"ns for another", nd(135, 0, macA, host6, macB), spoken{}, verdictSpoofed},
		{"multicast address", gratuitous(macA, addr("224.0.0.1")), spoken{}, verdictMalformed},
		{"broadcast address", gratuitous(macA, addr("255.255.255.255")), spoken{}, verdictMalformed},
		{"loopback address", gratuitous(macA, addr("127.0.0.1")), spoken{}, verdictMalformed},
		{"no network", gratuitous(macA, addr("0.0.0.7")), spoken{}, verdictMalformed},
		{"na, multicast target", nd(136, flagOverride, macA, addr("ff02::1"), macA), spoken{}, verdictMalformed},
		{"na, zero target", nd(136, flagOverride, macA, addr("::"), macA), spoken{}, verdictMalformed},
		{"na, mapped target", nd(136, flagOverride, macA, addr("::ffff:10.1.1.1"), macA), spoken{}, verdictMalformed},
		{"na from afar", edit(nd(136, flagOverride, macA, host6, macA), 21, 254), spoken{}, verdictMalformed},
		{"na with a code", edit(nd(136, flagOverride, macA, host6, macA), 55, 1), spoken{}, verdictMalformed},
		{"na, option of length 0", edit(nd(136, flagOverride, macA, host6, macA), 79, 0), spoken{}, verdictMalformed},
		{"not Ethernet", edit(gratuitous(macA, hostA), 15, 6), spoken{}, verdictMalformed},
		{"not IPv4", edit(gratuitous(macA, hostA), 16, 9), spoken{}, verdictMalformed},
		{"long hardware address", edit(gratuitous(macA, hostA), 18, 8), spoken{}, verdictMalformed},
		{"short protocol address", edit(gratuitous(macA, hostA), 19, 3), spoken{}, verdictMalformed},
		{"operation", edit(gratuitous(macA, hostA), 21, 9), spoken{}, verdictMalformed},
		{"echo request", nd(128, 0, macA, host6, macA), spoken{}, verdictMalformed},
		{"nothing", nil, spoken{}, verdictMalformed},
	} {
		t.Run(row.name, func(t *testing.T) {
			got, v := newFrameParser().parse(row.frame)
			if got != row.want || v != row.v {
				t.Errorf("%+v, %s; want %+v, %s", got, v, row.want, row.v)
			}
		})
	}
}

// TestParseFrameTruncated: a frame cut anywhere is refused; what the one before said is never taken for it.
func TestParseFrameTruncated(t *testing.T) {
	p := newFrameParser()
	for _, whole := range [][]byte{gratuitous(macA, hostA), nd(136, flagOverride, macA, host6, macA), nd(135, 0, macA, host6, macA)} {
		for n := range whole {
			if got, v := p.parse(whole[:n]); v != verdictMalformed {
				t.Errorf("%d of %d octets of %s: %+v, %s", n, len(whole), protocolOf(whole), got, v)
			}
			if _, v := p.parse(whole); v != verdictAccepted {
				t.Fatalf("whole frame: %s", v)
			}
		}
	}
}

func TestParseFrameAllocatesNothing(t *testing.T) {
	p := newFrameParser()
	for _, frame := range [][]byte{gratuitous(macA, hostA), nd(136, flagOverride, macA, host6, macA), nd(135, 0, macA, host6, macA)} {
		n := testing.AllocsPerRun(1000, func() {
			if _, v := p.parse(frame); v != verdictAccepted {
				t.Fatal(v)
			}
		})
		if n != 0 {
			t.Errorf("%s: %v allocations", protocolOf(frame), n)
		}
	}
}

func FuzzParseFrame(f *testing.F) {
	f.Add(gratuitous(macA, hostA))
	f.Add(nd(136, flagOverride, macA, host6, macA))
	f.Add(nd(135, 0, macA, host6, macA))
	f.Add(edit(edit(arp(3, macA, macA, zeroHost, macA, zeroHost), 12, 0x80), 13, 0x35))
	p := newFrameParser()
	f.Fuzz(func(t *testing.T, b []byte) {
		s, v := p.parse(b)
		if v != verdictAccepted {
			if s != (spoken{}) {
				t.Errorf("%s, and yet %+v", v, s)
			}
			return
		}
		if s.mac.IsGroup() || s.mac.IsZero() || s.mac != evpn.MAC(b[6:12]) {
			t.Errorf("sender %s of %x", s.mac, b)
		}
		if s.ip.IsValid() && !s.ip.IsGlobalUnicast() {
			t.Errorf("address %s", s.ip)
		}
		if s.router && !s.ip.Is6() {
			t.Errorf("%+v", s)
		}
		p.question() // must not panic
		again, _ := newFrameParser().parse(b)
		if again != s {
			t.Errorf("%+v, by a fresh parser %+v", s, again)
		}
	})
}

func BenchmarkParseFrame(b *testing.B) {
	p, frame := newFrameParser(), gratuitous(macA, hostA)
	b.ReportAllocs()
	for b.Loop() {
		p.parse(frame)
	}
}
