package evpn

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// TestParkedRowsAreChanges: who follows the tables hears of every row that is parked, and of it being let go.
func TestParkedRowsAreChanges(t *testing.T) {
	s := newStory(t, "parked rows")
	s.play("+ vni 100\n+ peer 10.0.0.254\nsynced\n" +
		"+ route type2 mac 02:00:00:00:00:01 vtep 10.255.0.2 ; + route type2 mac 02:00:00:00:00:02 vtep 10.255.0.3")
	want := []MACKey{{100, MAC{2, 0, 0, 0, 0, 1}}}
	for _, line := range []string{"- way 10.255.0.2 no route", "+ way 10.255.0.2"} {
		n := s.core.Follow()
		s.play(line)
		if got := s.core.ChangesAfter(n, 0, 100).MACs; !slices.Equal(got, want) {
			t.Errorf("%s changes %v, want %v", line, got, want)
		}
	}
}

// TestWatchedVTEPs: those are watched that imported routes name as next hop or tunnel endpoint, as long as they do.
func TestWatchedVTEPs(t *testing.T) {
	s := newStory(t, "watched VTEPs")
	s.play("+ vni 100\n+ peer 10.0.0.254\nsynced")
	for _, step := range []struct {
		line string
		want []string // nil: the set stays
	}{
		{"+ route type2 mac 02:00:00:00:00:01 vtep 10.255.0.2", []string{"10.255.0.2"}},
		{"+ route type2 mac 02:00:00:00:00:02 vtep 10.255.0.2", nil},
		{"+ route type3 vtep 10.255.0.3 endpoint 10.255.0.4", []string{"10.255.0.2", "10.255.0.3", "10.255.0.4"}},
		{"+ route type2 mac 02:00:00:00:00:09 vtep 10.255.0.9 rt 65000:999", nil},
		{"+ route type2 mac 02:00:00:00:00:08 vtep 10.255.0.1", []string{"10.255.0.2", "10.255.0.3", "10.255.0.4"}}, // ourselves
		{"- route type2 mac 02:00:00:00:00:01 vtep 10.255.0.2", nil},
		{"- route type2 mac 02:00:00:00:00:02 vtep 10.255.0.2", []string{"10.255.0.3", "10.255.0.4"}},
		{"config vni 100 import 65000:999", []string{"10.255.0.9"}},
		{"- peer 10.0.0.254", []string{}},
	} {
		s.do(&words{story: s, left: strings.Fields(step.line)})
		out := s.core.Flush(s.now)
		var want []netip.Addr
		if step.want != nil {
			want = []netip.Addr{}
			for _, a := range step.want {
				want = append(want, netip.MustParseAddr(a))
			}
		}
		if !slices.Equal(out.VTEPs, want) || (out.VTEPs == nil) != (want == nil) {
			t.Errorf("%s: watch %v, want %v", step.line, out.VTEPs, want)
		}
	}
}

// TestShared: a VTEP shares the VNIs that import a route of it, whatever the type, and the host to ask is always the same one.
func TestShared(t *testing.T) {
	s := newStory(t, "shared VNIs")
	s.play("+ vni 100\n+ vni 200\n+ vni 300\n+ peer 10.0.0.254\nsynced\n" +
		"+ route type2 vni 100 mac 02:00:00:00:00:02 ip 172.16.0.9 vtep 10.255.0.2\n" +
		"+ route type2 vni 100 mac 02:00:00:00:00:01 ip 172.16.0.2 vtep 10.255.0.2\n" +
		"+ route type2 vni 200 mac 02:00:00:00:00:01 vtep 10.255.0.2\n" +
		"+ route type3 vni 200 vtep 10.255.0.3\n+ route type3 vni 300 vtep 10.255.0.3")
	want := []SharedVNI{{100, netip.MustParseAddr("172.16.0.2"), MAC{2, 0, 0, 0, 0, 1}}, {VNI: 200}}
	if got := s.core.Shared(netip.MustParseAddr("10.255.0.2")); !slices.Equal(got, want) {
		t.Errorf("shared %+v, want %+v", got, want)
	}
	want = []SharedVNI{{VNI: 200}, {VNI: 300}}
	if got := s.core.Shared(netip.MustParseAddr("10.255.0.3")); !slices.Equal(got, want) {
		t.Errorf("shared %+v, want %+v", got, want)
	}
	if got := s.core.Shared(netip.MustParseAddr("10.255.0.9")); got != nil {
		t.Errorf("a VTEP that nobody names shares %+v", got)
	}
}
