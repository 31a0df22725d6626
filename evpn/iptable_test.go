package evpn

import (
	"net/netip"
	"slices"
	"testing"
)

// TestIPTable: each address has an entry of its own, also an IPv4 address beside the IPv6 address that maps it.
func TestIPTable(t *testing.T) {
	var table ipTable
	var want []*ipEntry
	for _, ip := range []string{"10.0.0.1", "10.0.0.2", "::ffff:10.0.0.1", "2001:db8::1", "::", "0.0.0.0", "fe80::1"} {
		e := &ipEntry{ip: netip.MustParseAddr(ip)}
		if got := table.get(e.ip); got != nil {
			t.Errorf("%s has the entry of %s", ip, got.ip)
		}
		table.put(e)
		want = append(want, e)
	}
	if got := table.get(netip.Addr{}); got != nil {
		t.Errorf("the zero Addr has the entry of %s", got.ip)
	}
	for len(want) > 0 {
		all := slices.Collect(table.all())
		if table.len() != len(want) || len(all) != len(want) {
			t.Fatalf("%d entries, %d in the walk, want %d", table.len(), len(all), len(want))
		}
		for _, e := range want {
			if table.get(e.ip) != e || !slices.Contains(all, e) {
				t.Errorf("the entry of %s is lost", e.ip)
			}
		}
		table.drop(want[0].ip)
		want = want[1:]
	}
}
