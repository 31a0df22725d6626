package config

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/evpnd/evpnd/evpn"
)

func TestCore(t *testing.T) {
	c, err := Parse("t.yaml", []byte(peer+`    on-peer-loss: keep-for 10m
max-macs: {local: 7}
route-targets: as4
auto-vnis: false
duplicates: {moves: 3, within: 1m, action: drop}
vnis:
  100: {rd: 10.255.0.1:7, import: ["*:5"], export: [65000:5], strict-tag: true, max-macs: {remote: 5}, static-macs: sticky, gateways: [{mac: "02:00:5e:00:01:01", ip: 172.16.0.254}]}
  200: {off: true}
`))
	if err != nil {
		t.Fatal(err)
	}
	want := evpn.Config{
		ASN:       65000,
		RouterID:  netip.MustParseAddr("10.255.0.1"),
		VTEP:      netip.MustParseAddr("10.255.0.1"),
		Dialect:   evpn.RTAS4,
		Default:   evpn.VNIPolicy{Off: true, Limits: evpn.MACLimits{Local: 7, Remote: 1 << 20}},
		ReapAfter: 10 * time.Minute,
		VNIs: map[evpn.VNI]evpn.VNIPolicy{
			100: {
				RD:           evpn.NewRD(netip.MustParseAddr("10.255.0.1"), 7),
				Import:       []evpn.RTPattern{{AnyAdmin: true, Local: 5}},
				Export:       []evpn.RT{evpn.NewRT(65000, 5)},
				StrictTag:    true,
				Limits:       evpn.MACLimits{Local: 7, Remote: 5},
				StickyStatic: true,
				Gateways:     []evpn.Gateway{{MAC: evpn.MAC{2, 0, 0x5e, 0, 1, 1}, IP: netip.MustParseAddr("172.16.0.254")}},
			},
			200: {Off: true, Limits: evpn.MACLimits{Local: 7, Remote: 1 << 20}},
		},
		Peers:       []netip.Addr{netip.MustParseAddr("10.0.0.1")},
		Duplicates:  evpn.DuplicatePolicy{Moves: 3, Within: time.Minute, RecoverAfter: 3 * time.Minute, Action: evpn.DuplicateDrop},
		LongestHold: time.Minute,
	}
	if diff := cmp.Diff(want, c.Core(), values); diff != "" {
		t.Errorf("core (-want +got):\n%s", diff)
	}
}

func TestSetVTEP(t *testing.T) {
	const file = "asn: 65000\nvtep-interface: lo\npeers: [{address: 10.0.0.1, asn: 1}]\n"
	for _, row := range []struct{ name, more, addr, routerID, fault string }{
		{"IPv4", "", "10.255.0.1", "10.255.0.1", ""},
		{"IPv4, router-id given", "router-id: 1.1.1.1\n", "10.255.0.1", "1.1.1.1", ""},
		{"IPv6", "router-id: 1.1.1.1\n", "fd00::1", "1.1.1.1", ""},
		{"IPv6 alone", "", "fd00::1", "", "take the vtep from interface lo: IPv6 address fd00::1 gives no router id: want router-id too"},
		{"loopback", "", "127.0.0.1", "", "take the vtep from interface lo: 127.0.0.1 is a loopback address, which other VTEPs cannot send to"},
		{"a peer's", "", "10.0.0.1", "", "take the vtep from interface lo: 10.0.0.1 is the address of a peer"},
		{"none", "", "", "", "take the vtep from interface lo: it has no address"},
	} {
		c, err := Parse("t.yaml", []byte(file+row.more))
		if err != nil {
			t.Fatal(err)
		}
		addr, _ := netip.ParseAddr(row.addr)
		err = c.SetVTEP(addr)
		if row.fault != "" {
			if err == nil || err.Error() != row.fault || c.VTEP.IsValid() {
				t.Errorf("%s: vtep %s and error %v, want none and %s", row.name, c.VTEP, err, row.fault)
			}
			continue
		}
		if err != nil || c.VTEP != addr || c.RouterID.String() != row.routerID {
			t.Errorf("%s: %v, vtep %s, router id %s; want %s and %s", row.name, err, c.VTEP, c.RouterID, row.addr, row.routerID)
		}
	}
}
