package evpn

import (
	"net/netip"
	"testing"
)

func TestPeerName(t *testing.T) {
	for text, want := range map[string]netip.Addr{
		"10.0.0.1":         netip.MustParseAddr("10.0.0.1"),
		"::ffff:10.0.0.1":  netip.MustParseAddr("10.0.0.1"),
		"fe80::1%eth0":     netip.MustParseAddr("fe80::1%eth0"),
		"eth0":             InterfacePeer("eth0"),
		"fe80::%eth0":      InterfacePeer("eth0"), // as a recording has it
		"enp1s0f0np0.4094": {},                    // sixteen octets
		"10.0.0.256":       InterfacePeer("10.0.0.256"),
		"eth0/1":           {},
		"10.0.0.1:179":     {},
		"":                 {},
		"..":               {},
		"et h0":            {},
	} {
		got, err := ParsePeer(text)
		if got != want || (err == nil) != want.IsValid() {
			t.Errorf("ParsePeer(%q) = %v, %v, want %v", text, got, err, want)
		}
	}
	for peer, want := range map[netip.Addr]string{
		{}:                                     "",
		netip.MustParseAddr("fe80::1%eth0"):    "fe80::1%eth0",
		netip.MustParseAddr("fe80::"):          "fe80::",
		InterfacePeer("eth0"):                  "eth0",
		netip.MustParseAddr("2001:db8::1"):     "2001:db8::1",
		netip.MustParseAddr("192.0.2.1"):       "192.0.2.1",
		netip.MustParseAddr("fe80::%enp1s0.5"): "enp1s0.5",
	} {
		if got := PeerName(peer); got != want {
			t.Errorf("PeerName(%v) = %q, want %q", peer, got, want)
		}
	}
}
