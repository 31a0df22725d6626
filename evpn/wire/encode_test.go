package wire

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"slices"
	"testing"

	"github.com/evpnd/evpnd/evpn"
)

// unlike are the well-formed vectors that come back other than they were: for each the reason.
var unlike = map[string]string{
	"t2-ext-length-attr":        "extended length where it is not needed",
	"t2-mpreach-last":           "order of attributes",
	"t2-reach-and-unreach":      "two messages",
	"t2-withdraw-two-labels":    "labels of a withdraw are zero",
	"t5-host-bits":              "host bits are masked",
	"t3-imet-pim-sm":            "identifier of the tunnel is not kept",
	"t3-imet-tunnel-encap-attr": "sub-TLVs are not kept",
	"t6-smet":                   "no routes",
	"t9-per-region-ipmsi":       "no routes",
	"t6-then-t2":                "route type that is not kept",
	"t8-then-t2-withdraw":       "route type that is not kept",
	"t200-unassigned":           "route type that is not kept",
	"t0-reserved-empty":         "route type that is not kept",
	"t2-withdraw":               "labels of a withdraw are zero",
	"t2-withdraw-ip":            "labels of a withdraw are zero",
	"t2-withdraw-unknown":       "labels of a withdraw are zero",
	"multi-withdraw":            "labels of a withdraw are zero",
	"t5-withdraw":               "labels of a withdraw are zero",
}

// TestRoundTrip: a well-formed message comes back octet for octet, unless unlike says why not.
func TestRoundTrip(t *testing.T) {
	vectors := loadVectors(t)
	for name := range unlike {
		byName(t, vectors, name)
	}
	for _, v := range vectors {
		b := v.octets(t)
		body, ok := v.body(t)
		if !ok || v.Decoded == nil || !IsEVPN(body) {
			continue
		}
		t.Run(v.Name, func(t *testing.T) {
			o := v.options()
			r, err := decode(t, o, body)
			if err != nil {
				t.Fatal(err)
			}
			checkStable(t, &r, o)
			var got []byte
			switch {
			case r.EndOfRIB:
				got = AppendEoR(nil)
			case len(r.Reach) > 0:
				got, err = AppendUpdate(nil, r.Attrs, r.Reach, o)
			default:
				got, err = AppendWithdraw(nil, r.Unreach, o)
			}
			if err != nil {
				t.Fatal(err)
			}
			if why := unlike[v.Name]; bytes.Equal(got, b) == (why != "") {
				t.Errorf("encoded %x\nvector  %x\nreason to differ: %q", got, b, why)
			}
		})
	}
}

// TestPacking: as many routes in a message as fit, none lost, none twice, order kept (CB-13).
func TestPacking(t *testing.T) {
	a := &evpn.Attrs{NextHop: vtep, LocalPref: 100}
	a.SetExtComms(string(evpn.AppendEncapVXLAN(evpn.AppendRT(nil, evpn.NewRT(64512, 10100)))))
	routes := testRoutes(10000)
	keys := make([]evpn.RouteKey, len(routes))
	for i := range routes {
		keys[i] = routes[i].Key
	}
	for _, o := range []Options{ibgp, {AS4: true, IBGP: true, Extended: true}} {
		for _, withdraw := range []bool{false, true} {
			var b []byte
			var err error
			if withdraw {
				b, err = AppendWithdraw(nil, keys, o)
			} else {
				b, err = AppendUpdate(nil, a, routes, o)
			}
			if err != nil {
				t.Fatal(err)
			}
			var got []evpn.RouteKey
			d := NewDecoder(o)
			for len(b) > 0 {
				_, n, err := Header(b, o)
				if err != nil || n > len(b) {
					t.Fatalf("length %d of %d, error %v", n, len(b), err)
				}
				var r Result
				if err := d.Update(b[HeaderLen:n], &r); err != nil || r.Attrs != nil && *r.Attrs != *a {
					t.Fatalf("error %v, attributes %+v", err, r.Attrs)
				}
				for _, route := range r.Reach {
					got = append(got, route.Key)
				}
				got = append(got, r.Unreach...)
				if b = b[n:]; len(b) > 0 && n < o.maxLen()-36 {
					t.Errorf("message of %d octets where one more route of 35 had fitted", n)
				}
			}
			if !slices.Equal(got, keys) {
				t.Errorf("%+v withdraw %v: %d routes came back other than they went", o, withdraw, len(got))
			}
		}
	}
}

func TestEncodeErrors(t *testing.T) {
	a := evpn.Attrs{NextHop: vtep}
	noHop, huge := evpn.Attrs{}, evpn.Attrs{NextHop: vtep, Communities: string(make([]byte, 4060))}
	v6gw := prefixRoute(0, netip.MustParseAddr("2001:db8::1"), 1)
	long := prefixRoute(0, netip.Addr{}, 1)
	long.Key.PrefixLen = 33
	tests := []struct {
		name  string
		attrs *evpn.Attrs
		route evpn.Route
	}{
		{"no next hop", &noHop, testRoute(1)},
		{"no room", &huge, testRoute(1)},
		{"route type 6", &a, evpn.Route{Key: evpn.RouteKey{Type: 6}}},
		{"IMET without originator", &a, evpn.Route{Key: evpn.RouteKey{Type: evpn.TypeIMET}}},
		{"prefix without address", &a, evpn.Route{Key: evpn.RouteKey{Type: evpn.TypePrefix}}},
		{"gateway of another family", &a, v6gw},
		{"prefix too long", &a, long},
	}
	for _, tt := range tests {
		got, err := AppendUpdate([]byte("before"), tt.attrs, []evpn.Route{testRoute(0), tt.route}, ibgp)
		if err == nil || string(got) != "before" {
			t.Errorf("%s: error %v, %d octets", tt.name, err, len(got))
		}
	}
}

func TestAppendOpen(t *testing.T) {
	p := Open{ASN: 4200000001, HoldTime: 90, RouterID: vtep, More: AppendCapability(nil, 2, nil)}
	got := AppendOpen(nil, p, Options{AS4: true, Extended: true})
	want := "ffffffffffffffffffffffffffffffff" + "002f01" + "04" + "5ba0" + "005a" + "c0000201" + "12" + "0210" +
		"010400190046" + "4104fa56ea01" + "0600" + "0200"
	if hex.EncodeToString(got) != want {
		t.Errorf("got  %x\nwant %s", got, want)
	}
	if kind, n, err := Header(got, Options{}); kind != MessageOpen || n != len(got) || err != nil {
		t.Errorf("type %d, length %d, error %v", kind, n, err)
	}
}

// TestTwoOctetAS: a path goes to an old peer as 2-octet numbers, those that do not fit as 23456.
func TestTwoOctetAS(t *testing.T) {
	o := Options{}
	a := evpn.Attrs{NextHop: vtep, LocalPref: 100, ASPath: sequence([]uint32{64512, 4200000001})}
	b, err := AppendUpdate(nil, &a, testRoutes(1), o)
	if err != nil {
		t.Fatal(err)
	}
	r, err := decode(t, o, b[HeaderLen:])
	if err != nil || r.Attrs == nil || r.Attrs.ASPath != sequence([]uint32{64512, 23456}) {
		t.Errorf("error %v, %+v", err, r.Attrs)
	}
}
