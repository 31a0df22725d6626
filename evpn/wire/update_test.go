package wire

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/evpnd/evpnd/evpn"
)

var (
	ibgp   = Options{AS4: true, IBGP: true}
	vtep   = netip.MustParseAddr("192.0.2.1")
	hostA  = evpn.MAC{0, 0, 0x5e, 0, 0x53, 1}
	router = evpn.MAC{2, 0, 0xc0, 0, 2, 1}
)

// testRoute is a MAC-only route that differs by n.
func testRoute(n int) evpn.Route {
	mac := hostA
	binary.BigEndian.PutUint16(mac[4:], uint16(n))
	return evpn.Route{Key: evpn.RouteKey{Type: evpn.TypeMACIP, RD: evpn.NewRD(vtep, 100), MAC: mac}, Label1: 10100}
}

func testRoutes(n int) []evpn.Route {
	routes := make([]evpn.Route, n)
	for i := range routes {
		routes[i] = testRoute(i)
	}
	return routes
}

func prefixRoute(esi byte, gw netip.Addr, vni uint32) evpn.Route {
	return evpn.Route{
		Key:    evpn.RouteKey{Type: evpn.TypePrefix, IP: netip.MustParseAddr("203.0.113.0"), PrefixLen: 24},
		ESI:    evpn.ESI{9: esi},
		GW:     gw,
		Label1: vni,
	}
}

// octets of an attribute of up to 255 octets
func att(flags, code uint8, value ...byte) []byte {
	return append([]byte{flags, code, byte(len(value))}, value...)
}

func mpReach(t testing.TB, nextHop string, routes ...evpn.Route) []byte {
	t.Helper()
	nh := netip.MustParseAddr(nextHop).AsSlice()
	v := append(append([]byte{0, 25, 70, byte(len(nh))}, nh...), 0)
	for i := range routes {
		var err error
		if v, err = AppendNLRI(v, &routes[i]); err != nil {
			t.Fatal(err)
		}
	}
	return att(0x80, codeMPReach, v...)
}

func mpUnreach(t testing.TB, routes ...evpn.Route) []byte {
	t.Helper()
	v := []byte{0, 25, 70}
	for i := range routes {
		var err error
		if v, err = AppendNLRI(v, &routes[i]); err != nil {
			t.Fatal(err)
		}
	}
	return att(0x80, codeMPUnreach, v...)
}

// body of an UPDATE that has attributes only
func body(attrs ...[]byte) []byte {
	all := slices.Concat(attrs...)
	return append(binary.BigEndian.AppendUint16([]byte{0, 0}, uint16(len(all))), all...)
}

var (
	origin    = att(0x40, codeOrigin, 0)
	asPath    = att(0x40, codeASPath)
	localPref = att(0x40, codeLocalPref, 0, 0, 0, 100)
	// the attributes that must stand with a route
	plain = slices.Concat(origin, asPath, localPref)
)

func decode(t testing.TB, o Options, body []byte) (Result, error) {
	t.Helper()
	var r Result
	err := NewDecoder(o).Update(body, &r)
	checkConsistent(t, &r, err)
	return r, err
}

// TestReactions covers the rules that have no vector of their own.
func TestReactions(t *testing.T) {
	reach := mpReach(t, "192.0.2.1", testRoute(1))
	ec := func(comms ...byte) []byte { return att(0xc0, codeExtComms, comms...) }
	none := netip.Addr{}
	tests := []struct {
		name  string
		body  []byte
		opts  Options
		class Class
		reset string // code/subcode
	}{
		{"plain", body(reach, plain), ibgp, Accept, ""},
		{"partial bit on an optional attribute", body(reach, plain, att(0xe0, codeExtComms, make([]byte, 8)...)), ibgp, Accept, ""},
		{"unknown optional attribute", body(reach, plain, att(0x80, 99, 1, 2)), ibgp, Accept, ""},
		{"unknown well-known attribute", body(reach, plain, att(0x40, 99)), ibgp, SessionReset, "3/2"},
		{"flags of ORIGIN", body(reach, att(0xc0, codeOrigin, 0), asPath, localPref), ibgp, TreatAsWithdraw, ""},
		{"flags of communities", body(reach, plain, att(0x80, codeExtComms, make([]byte, 8)...)), ibgp, TreatAsWithdraw, ""},
		{"ORIGIN twice, the second one bad", body(reach, plain, att(0x40, codeOrigin, 9)), ibgp, AttributeDiscard, ""},
		{"stray NEXT_HOP", body(reach, plain, att(0x40, codeNextHop, 1, 2, 3, 4)), ibgp, Accept, ""},
		{"MED of 3 octets", body(reach, plain, att(0x80, codeMED, 1, 2, 3)), ibgp, TreatAsWithdraw, ""},
		{"LOCAL_PREF of 5 octets", body(reach, origin, asPath, att(0x40, codeLocalPref, 0, 0, 0, 0, 1)), ibgp, TreatAsWithdraw, ""},
		{"LOCAL_PREF from outside", body(reach, plain), Options{AS4: true}, AttributeDiscard, ""},
		{"no LOCAL_PREF from outside", body(reach, origin, asPath), Options{AS4: true}, Accept, ""},
		{"CLUSTER_LIST from outside", body(reach, origin, asPath, att(0x80, codeClusterList, 1)), Options{AS4: true}, AttributeDiscard, ""},
		{"CLUSTER_LIST of 5 octets", body(reach, plain, att(0x80, codeClusterList, 1, 2, 3, 4, 5)), ibgp, TreatAsWithdraw, ""},
		{"ORIGINATOR_ID of 3 octets", body(reach, plain, att(0x80, codeOriginatorID, 1, 2, 3)), ibgp, TreatAsWithdraw, ""},
		{"ATOMIC_AGGREGATE not empty", body(reach, plain, att(0x40, codeAtomic, 1)), ibgp, AttributeDiscard, ""},
		{"AGGREGATOR of 6 octets", body(reach, plain, att(0xc0, codeAggregator, make([]byte, 6)...)), ibgp, AttributeDiscard, ""},
		{"COMMUNITIES empty", body(reach, plain, att(0xc0, codeCommunities)), ibgp, TreatAsWithdraw, ""},
		{"large communities of 11 octets", body(reach, plain, att(0xc0, codeLargeComms, make([]byte, 11)...)), ibgp, TreatAsWithdraw, ""},
		{"IPv6 communities of 19 octets", body(reach, plain, att(0xc0, codeIPv6ExtComms, make([]byte, 19)...)), ibgp, TreatAsWithdraw, ""},
		{"AS_PATH with an empty segment", body(reach, origin, localPref, att(0x40, codeASPath, 2, 0)), ibgp, TreatAsWithdraw, ""},
		{"AS_PATH with segment type 5", body(reach, origin, localPref, att(0x40, codeASPath, 5, 1, 0, 0, 0, 1)), ibgp, TreatAsWithdraw, ""},
		{"AS_PATH cut short", body(reach, origin, localPref, att(0x40, codeASPath, 2, 2, 0, 0, 0, 1)), ibgp, TreatAsWithdraw, ""},
		{"AS 0", body(reach, origin, localPref, att(0x40, codeASPath, 2, 1, 0, 0, 0, 0)), ibgp, TreatAsWithdraw, ""},
		{"next hop 0.0.0.0", body(mpReach(t, "0.0.0.0", testRoute(1)), plain), ibgp, TreatAsWithdraw, ""},
		{"next hop multicast", body(mpReach(t, "ff02::1", testRoute(1)), plain), ibgp, TreatAsWithdraw, ""},
		{"next hop IPv4-mapped", body(mpReach(t, "::ffff:192.0.2.1", testRoute(1)), plain), ibgp, TreatAsWithdraw, ""},
		{"PMSI without identifier, PIM", body(reach, plain, att(0xc0, codePMSI, 0, 4, 0, 0, 1)), ibgp, TreatAsWithdraw, ""},
		{"PMSI on a type 2 route", body(reach, plain, att(0xc0, codePMSI, 0, 6, 0, 0, 1, 192, 0, 2, 1)), ibgp, Accept, ""},
		{"PMSI of assisted replication", body(reach, plain, att(0xc0, codePMSI, 0, 10, 0, 0, 1, 192, 0, 2, 1)), ibgp, Accept, ""},
		{"PMSI endpoint multicast", body(reach, plain, att(0xc0, codePMSI, 0, 6, 0, 0, 1, 224, 0, 0, 1)), ibgp, TreatAsWithdraw, ""},
		{"tunnel attribute cut short", body(reach, plain, att(0xc0, codeTunnelEncap, 0, 8, 0, 1)), ibgp, TreatAsWithdraw, ""},
		{"tunnel attribute, sub-TLV cut short", body(reach, plain, att(0xc0, codeTunnelEncap, 0, 8, 0, 1, 6)), ibgp, TreatAsWithdraw, ""},
		{"three octets left after the attributes", body(reach, plain, []byte{0xd0, codeMPReach, 0}), ibgp, TreatAsWithdraw, ""},
		{"last attribute cut short is MP_UNREACH", body(reach, plain, []byte{0x80, codeMPUnreach, 9, 0, 25, 70}), ibgp, SessionReset, "3/9"},
		{"no routes before the attribute that is cut short", body(origin, []byte{0x40, codeASPath, 9}, reach), ibgp, SessionReset, "3/1"},
		{"bad ORIGIN and NLRI overrun", body(att(0x80, codeMPReach, 0, 25, 70, 4, 192, 0, 2, 1, 0, 2, 33), att(0x40, codeOrigin, 9), asPath, localPref), ibgp, SessionReset, "3/9"},
		{"bad withdraw beside a good route", body(mpUnreachRaw(2, badMACLength(t)), reach, plain), ibgp, TreatAsWithdraw, ""},
		{"two MP_REACH_NLRI of two families", body(reach, plain, att(0x80, codeMPReach, 0, 1, 1, 4, 192, 0, 2, 1, 0)), ibgp, SessionReset, "3/1"},
		{"withdrawn field exceeds the message", []byte{0, 9, 0, 0}, ibgp, SessionReset, "3/1"},
		{"type 5 with gateway and group router MAC", body(mpReach(t, "192.0.2.1", prefixRoute(0, vtep, 0)), plain,
			ec(evpn.AppendRouterMAC(nil, evpn.MAC{1})...)), ibgp, TreatAsWithdraw, ""},
		{"type 5 without VNI, router MAC as overlay index", body(mpReach(t, "192.0.2.1", prefixRoute(0, none, 0)), plain,
			ec(evpn.AppendRouterMAC(nil, router)...)), ibgp, Accept, ""},
		{"type 5 with ESI", body(mpReach(t, "192.0.2.1", prefixRoute(1, none, 0)), plain), ibgp, Accept, ""},
		{"type 2 with a group router MAC", body(reach, plain, ec(evpn.AppendRouterMAC(nil, evpn.MAC{1})...)), ibgp, Accept, ""},
		{"type 3 of 29 octets with an IPv4 address", body(mpReachRaw(3, append(make([]byte, 12), append([]byte{32}, make([]byte, 16)...)...)), plain), ibgp, SessionReset, "3/9"},
		{"type 2 with IP length 200", body(mpReachRaw(2, type2(48, 200, 7)), plain), ibgp, SessionReset, "3/9"},
		{"type 2 with IP length 40 in 36 octets: no room for a label", body(mpReachRaw(2, type2(48, 40, 6)), plain), ibgp, SessionReset, "3/9"},
		{"type 2 with IP length 25 in 36 octets: no room for a label", body(mpReachRaw(2, type2(48, 25, 6)), plain), ibgp, SessionReset, "3/9"},
		{"type 2 with IP length 16 in 36 octets", body(mpReachRaw(2, type2(48, 16, 6)), plain), ibgp, TreatAsWithdraw, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, err := decode(t, tt.opts, tt.body)
			if r.Verdict.Class != tt.class {
				t.Errorf("verdict %+v, want %s", r.Verdict, tt.class)
			}
			var re *ResetError
			if errors.As(err, &re) != (tt.class == SessionReset) {
				t.Fatalf("error %v", err)
			}
			if re != nil && !strings.Contains(re.Error(), " "+tt.reset+":") {
				t.Errorf("error %v, want %s", re, tt.reset)
			}
			if tt.class == SessionReset {
				return
			}
			if n := len(r.Reach); (n == 1) != (tt.class < TreatAsWithdraw) {
				t.Errorf("%d routes announced", n)
			}
		})
	}
}

// type2 is a type 2 NLRI with the given length fields and so many octets after the IP length.
func type2(macLength, ipLength byte, after int) []byte {
	v := make([]byte, 30+after)
	v[22], v[29] = macLength, ipLength
	return v
}

func badMACLength(t testing.TB) []byte { t.Helper(); return type2(40, 0, 3) }

func mpUnreachRaw(kind byte, nlri []byte) []byte {
	return att(0x80, codeMPUnreach, append([]byte{0, 25, 70, kind, byte(len(nlri))}, nlri...)...)
}

func mpReachRaw(kind byte, nlri []byte) []byte {
	return att(0x80, codeMPReach, append([]byte{0, 25, 70, 4, 192, 0, 2, 1, 0, kind, byte(len(nlri))}, nlri...)...)
}

// TestWithdrawIgnoresTheRest: only the key counts in a withdraw (T2-07, T5-10), so rules about the rest do not apply.
func TestWithdrawIgnoresTheRest(t *testing.T) {
	odd := testRoute(1)
	odd.ESI = evpn.ESI{6}
	zero := prefixRoute(1, vtep, 0)
	r, err := decode(t, ibgp, body(mpUnreach(t, odd, zero)))
	if err != nil || (r.Verdict != Verdict{}) {
		t.Fatalf("error %v, verdict %+v", err, r.Verdict)
	}
	if want := []evpn.RouteKey{odd.Key, zero.Key}; !slices.Equal(r.Unreach, want) {
		t.Errorf("withdrawn %v, want %v", r.Unreach, want)
	}
}

// TestTreatAsWithdrawTakesAll: every route of the UPDATE goes, those that are sound included (ER-17).
func TestTreatAsWithdrawTakesAll(t *testing.T) {
	bad := testRoute(2)
	bad.ESI = evpn.ESI{6}
	r, err := decode(t, ibgp, body(mpUnreach(t, testRoute(3)), mpReach(t, "192.0.2.1", testRoute(1), bad), plain))
	want := []evpn.RouteKey{testRoute(3).Key, testRoute(1).Key, bad.Key}
	if err != nil || len(r.Reach) != 0 || !slices.Equal(r.Unreach, want) {
		t.Errorf("error %v, announced %v, withdrawn %v, want %v", err, r.Reach, r.Unreach, want)
	}
}

func TestAttributes(t *testing.T) {
	reach := mpReach(t, "192.0.2.1", testRoute(1))
	comms := func(b ...[]byte) []byte { return att(0xc0, codeExtComms, slices.Concat(b...)...) }
	tunnel := func(v ...byte) []byte { return att(0xc0, codeTunnelEncap, v...) }
	tests := []struct {
		name string
		body []byte
		opts Options
		ok   func(*evpn.Attrs) bool
	}{
		{
			"gateways do not move: DG-04", body(reach, plain, comms(evpn.AppendDefaultGateway(nil), evpn.AppendMobility(nil, 7, true))), ibgp,
			func(a *evpn.Attrs) bool { return a.DefaultGateway && !a.HasMobility && a.Seq == 0 && !a.Sticky },
		},
		{
			"first ARP/ND community counts: ND-05", body(reach, plain, comms(evpn.AppendNDFlags(nil, 1), evpn.AppendNDFlags(nil, 2))), ibgp,
			func(a *evpn.Attrs) bool { return a.HasNDFlags && a.NDFlags == evpn.NDRouter },
		},
		{
			"undefined ARP/ND flags: ND-01", body(reach, plain, comms([]byte{6, 8, 0xff, 1, 2, 3, 4, 5})), ibgp,
			func(a *evpn.Attrs) bool { return a.NDFlags == 0x0b },
		},
		{
			"tunnel attribute for another UDP port: EN-07", body(reach, plain, tunnel(0, 8, 0, 4, 8, 2, 0x21, 0x18)), ibgp,
			func(a *evpn.Attrs) bool { return a.Encap == evpn.EncapOther },
		},
		{
			"tunnel attribute before the communities", body(reach, plain, tunnel(0, 8, 0, 0), comms(make([]byte, 8))), ibgp,
			func(a *evpn.Attrs) bool { return a.Encap == evpn.EncapVXLAN },
		},
		{
			"tunnel attribute with a long sub-TLV", body(reach, plain, tunnel(0, 9, 0, 4, 200, 0, 1, 0xff, 0, 8, 0, 0)), ibgp,
			func(a *evpn.Attrs) bool { return a.Encap == evpn.EncapVXLAN },
		},
		{
			"2-octet AS path", body(reach, origin, localPref, att(0x40, codeASPath, 2, 2, 0xfc, 0, 0, 1, 1, 1, 0, 2)),
			Options{IBGP: true},
			func(a *evpn.Attrs) bool {
				return a.ASPath == "\x02\x02\x00\x00\xfc\x00\x00\x00\x00\x01\x01\x01\x00\x00\x00\x02" && a.ASPathLen() == 3
			},
		},
		{
			"LOCAL_PREF, MED, COMMUNITIES", body(reach, origin, asPath, att(0x40, codeLocalPref, 0, 0, 1, 0), att(0x80, codeMED, 0, 0, 0, 9),
				att(0xc0, codeCommunities, 1, 2, 3, 4)), ibgp,
			func(a *evpn.Attrs) bool {
				return a.LocalPref == 256 && a.MED == 9 && a.Communities == "\x01\x02\x03\x04"
			},
		},
		{
			"LOCAL_PREF from outside does not count", body(reach, origin, asPath, att(0x40, codeLocalPref, 0, 0, 1, 0)),
			Options{AS4: true},
			func(a *evpn.Attrs) bool { return a.LocalPref == 100 },
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, err := decode(t, tt.opts, tt.body)
			if err != nil || r.Attrs == nil {
				t.Fatalf("error %v, verdict %+v", err, r.Verdict)
			}
			if !tt.ok(r.Attrs) {
				t.Errorf("attributes %+v", *r.Attrs)
			}
		})
	}
}

func TestLabel2Zero(t *testing.T) {
	r, err := decode(t, ibgp, body(mpReachRaw(2, type2(48, 0, 6)), plain))
	if err != nil || len(r.Reach) != 1 || r.Reach[0].Label2 != 0 {
		t.Errorf("error %v, %+v", err, r)
	}
}

func TestSkippedIsCounted(t *testing.T) {
	v := []byte{0, 25, 70}
	for _, kind := range []byte{6, 200, 6, 11, 6} {
		v = append(v, kind, 1, 0xff)
	}
	r, err := decode(t, ibgp, body(att(0x80, codeMPUnreach, v...)))
	want := []Skipped{{6, 3}, {200, 1}, {11, 1}}
	if err != nil || (r.Verdict != Verdict{}) || !slices.Equal(r.Skipped, want) || r.EndOfRIB {
		t.Errorf("error %v, %+v", err, r)
	}
}

// TestMixed: an UPDATE may speak of several families; each part goes to who knows it.
func TestMixed(t *testing.T) {
	reach, rtc := mpReach(t, "192.0.2.1", testRoute(1)), att(0x80, codeMPUnreach, 0, 1, 132)
	b := body(reach, plain, rtc)
	r, err := decode(t, ibgp, b)
	if err != nil || !r.Mixed || len(r.Reach) != 1 || r.EndOfRIB {
		t.Fatalf("error %v, %+v", err, r)
	}
	if got, want := AppendWithoutEVPN(nil, b), body(plain, rtc); !slices.Equal(got, want) {
		t.Errorf("rest %x, want %x", got, want)
	}
	ipv4 := slices.Concat([]byte{0, 2, 8, 10}, body(mpUnreach(t, testRoute(1)), plain)[2:], []byte{8, 11})
	if r, err = decode(t, ibgp, ipv4); err != nil || !r.Mixed || len(r.Unreach) != 1 || !IsEVPN(ipv4) {
		t.Fatalf("error %v, %+v", err, r)
	}
	want := slices.Concat([]byte{0, 2, 8, 10}, body(plain)[2:], []byte{8, 11})
	if got := AppendWithoutEVPN(nil, ipv4); !slices.Equal(got, want) || IsEVPN(got) {
		t.Errorf("rest %x, want %x", got, want)
	}
}

// TestEndOfRIB: an empty MP_UNREACH_NLRI and nothing else (GR-04).
func TestEndOfRIB(t *testing.T) {
	eor := mpUnreach(t)
	tests := []struct {
		name string
		body []byte
		want bool
	}{
		{"the marker", AppendEoR(nil)[HeaderLen:], true},
		{"with attributes", body(eor, origin), false},
		{"with a withdrawn route", body(mpUnreach(t, testRoute(1))), false},
		{"with an announced route", body(eor, mpReach(t, "192.0.2.1", testRoute(1)), plain), false},
		{"with IPv4 routes withdrawn", append([]byte{0, 2, 8, 10}, body(eor)[2:]...), false},
		{"with MP_REACH_NLRI of another family", body(eor, att(0x80, codeMPReach, 0, 1, 132, 4, 192, 0, 2, 1, 0)), false},
	}
	for _, tt := range tests {
		r, err := decode(t, ibgp, tt.body)
		if err != nil || r.EndOfRIB != tt.want {
			t.Errorf("%s: error %v, EndOfRIB %v", tt.name, err, r.EndOfRIB)
		}
	}
}

// TestVerdict: the strongest reaction counts, and of equals the first is what the log says (ER-18).
func TestVerdict(t *testing.T) {
	var v Verdict
	v.strongest(Verdict{AttributeDiscard, "a"})
	v.strongest(Verdict{TreatAsWithdraw, "b"})
	v.strongest(Verdict{TreatAsWithdraw, "c"})
	v.strongest(Verdict{AttributeDiscard, "d"})
	if want := (Verdict{TreatAsWithdraw, "b"}); v != want {
		t.Errorf("verdict %+v, want %+v", v, want)
	}
}

func TestIsEVPN(t *testing.T) {
	tests := []struct {
		name string
		body []byte
		want bool
	}{
		{"empty", nil, false},
		{"End-of-RIB of IPv4", body(), false},
		{"behind other attributes", body(plain, mpUnreach(t)), true},
		{"AFI 25 without SAFI", body(att(0x80, codeMPUnreach, 0, 25)), true},
		{"AFI 25, SAFI 65", body(att(0x80, codeMPUnreach, 0, 25, 65)), false},
		{"MP_REACH_NLRI cut short", body([]byte{0x80, codeMPReach, 90, 0, 25, 70, 4}), true},
		{"attribute section exceeds the message", []byte{0, 0, 0, 90, 0x80, codeMPReach, 90, 0, 25, 70}, true},
		{"withdrawn routes exceed the message", []byte{0, 90, 0, 0, 0x80, codeMPReach, 90, 0, 25, 70}, false},
		{"octets of another attribute", body(att(0xc0, 99, mpUnreach(t)...)), false},
	}
	for _, tt := range tests {
		if got := IsEVPN(tt.body); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}

func TestInterning(t *testing.T) {
	d := NewDecoder(ibgp)
	attrs := func(nextHop string, rest ...[]byte) *evpn.Attrs {
		t.Helper()
		var r Result
		if err := d.Update(body(append([][]byte{mpReach(t, nextHop, testRoute(1)), plain}, rest...)...), &r); err != nil {
			t.Fatal(err)
		}
		return r.Attrs
	}
	first := attrs("192.0.2.1")
	if attrs("192.0.2.1") != first {
		t.Error("the same octets again: other attributes")
	}
	other := attrs("192.0.2.3")
	if other == first || other.NextHop == first.NextHop {
		t.Error("another next hop: the same attributes")
	}
	if attrs("192.0.2.1") != first {
		t.Error("the same octets after others: other attributes")
	}
	// A repeated attribute is remembered with its verdict, a malformed one is not remembered.
	for range 2 {
		var r Result
		if err := d.Update(body(mpReach(t, "192.0.2.1", testRoute(1)), plain, localPref), &r); err != nil {
			t.Fatal(err)
		}
		if r.Verdict.Class != AttributeDiscard || r.Discarded != 1 {
			t.Errorf("verdict %+v, %d discarded", r.Verdict, r.Discarded)
		}
		if attrs("192.0.2.1", att(0xc0, codeExtComms)) != nil {
			t.Error("malformed, yet attributes")
		}
	}
	for i := range 2 * maxInterned {
		attrs("192.0.2.1", att(0xc0, codeExtComms, evpn.AppendMobility(nil, uint32(i), false)...))
		if len(d.interned) > maxInterned {
			t.Fatalf("%d sets remembered", len(d.interned))
		}
	}
}

// TestTake: what was handed on is not written to by the next UPDATE.
func TestTake(t *testing.T) {
	d, r := NewDecoder(ibgp), Result{}
	peer := netip.MustParseAddr("192.0.2.250")
	for i := range 2 {
		if err := d.Update(body(mpUnreach(t, testRoute(100+i)), mpReach(t, "192.0.2.1", testRoute(i)), plain), &r); err != nil {
			t.Fatal(err)
		}
		u := r.Take(peer)
		if err := d.Update(body(mpUnreach(t, testRoute(9)), mpReach(t, "192.0.2.3", testRoute(9)), plain), &r); err != nil {
			t.Fatal(err)
		}
		if u.Peer != peer || u.Reach[0] != testRoute(i) || u.Unreach[0] != testRoute(100+i).Key || u.Attrs.NextHop != vtep {
			t.Errorf("handed on: %+v", u)
		}
	}
	if err := d.Update(body(mpUnreach(t)), &r); err != nil || !r.EndOfRIB || r.Take(peer) != nil {
		t.Errorf("End-of-RIB: error %v, %+v", err, r)
	}
}

func TestHeader(t *testing.T) {
	header := func(length uint16, kind byte) []byte {
		b := appendHeader(nil, MessageType(kind))
		binary.BigEndian.PutUint16(b[16:], length)
		return b
	}
	extended := Options{Extended: true}
	tests := []struct {
		name string
		b    []byte
		opts Options
		want string // "" or code/subcode
	}{
		{"keepalive", AppendKeepalive(nil), Options{}, ""},
		{"keepalive with body", header(20, 4), Options{}, "1/2"},
		{"4096 octets", header(4096, 2), Options{}, ""},
		{"4097 octets", header(4097, 2), Options{}, "1/2"},
		{"65535 octets, extended", header(65535, 2), extended, ""},
		{"open of 4097 octets, extended", header(4097, 1), extended, "1/2"},
		{"open of 28 octets", header(28, 1), Options{}, "1/2"},
		{"update of 22 octets", header(22, 2), Options{}, "1/2"},
		{"notification of 20 octets", header(20, 3), Options{}, "1/2"},
		{"refresh of 22 octets", header(22, 5), Options{}, "1/2"},
		{"type 6", header(30, 6), Options{}, "1/3"},
		{"type 0", header(30, 0), Options{}, "1/3"},
		{"type 6 and too short", header(3, 6), Options{}, "1/2"},
		{"marker", append([]byte{0xfe}, header(19, 4)[1:]...), Options{}, "1/1"},
		{"cut short", header(19, 4)[:18], Options{}, "1/2"},
	}
	for _, tt := range tests {
		kind, length, err := Header(tt.b, tt.opts)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), " "+tt.want+":") {
			t.Errorf("%s: error %v, want %q", tt.name, err, tt.want)
		}
		if err == nil && (kind != MessageType(tt.b[18]) || length != int(binary.BigEndian.Uint16(tt.b[16:]))) {
			t.Errorf("%s: type %d, length %d", tt.name, kind, length)
		}
	}
}

// TestResetData: a NOTIFICATION with the data fits into 4096 octets, and the data outlives the buffer.
func TestResetData(t *testing.T) {
	huge := append([]byte{0x90, codeMPReach, 0xf0, 0, 0, 25, 70, 9}, make([]byte, 0xf000-4)...)
	b := body(huge)
	_, err := decode(t, ibgp, b)
	var re *ResetError
	if !errors.As(err, &re) {
		t.Fatalf("error %v", err)
	}
	clear(b)
	n := AppendNotification(nil, re.Code, re.Subcode, re.Data)
	if _, _, err := Header(n, Options{}); err != nil || len(n) != 4096 || re.Data[1] != codeMPReach {
		t.Errorf("error %v, %d octets, data %x…", err, len(n), re.Data[:4])
	}
}
