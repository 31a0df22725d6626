package speaker

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/evpnd/evpnd/evpn"
	"github.com/evpnd/evpnd/evpn/wire"
)

// TestTold: while comparing only news goes out, of an UPDATE that is half news the half; what is not said again is
// withdrawn at the end, and what the peer does not have is never withdrawn.
func TestTold(t *testing.T) {
	a := netip.MustParseAddr("10.0.0.1")
	route := func(i int, label uint32) evpn.Route { return macRoute(evpn.NewRD(a, 1), numberedMAC(i), ip4, label) }
	attrs := func(vni uint32) *evpn.Attrs { return &evpn.Attrs{NextHop: a, ExtComms: rt(65000, vni), LocalPref: 100} }
	o := wire.Options{AS4: true, IBGP: true}
	say := func(a *evpn.Attrs, routes ...evpn.Route) []byte {
		msg, err := wire.AppendUpdate(nil, a, routes, o)
		if err != nil {
			t.Fatal(err)
		}
		return msg
	}
	unsay := func(routes ...evpn.Route) []byte {
		var keys []evpn.RouteKey
		for _, r := range routes {
			keys = append(keys, r.Key)
		}
		msg, err := wire.AppendWithdraw(nil, keys, o)
		if err != nil {
			t.Fatal(err)
		}
		return msg
	}
	heard := func(msg []byte) (r wire.Result) {
		if len(msg) == 0 {
			return r
		}
		if err := wire.NewDecoder(o).Update(msg[wire.HeaderLen:], &r); err != nil {
			t.Fatalf("%v: %x", err, msg)
		}
		return r
	}
	var x told
	first := say(attrs(1), route(1, 1), route(2, 1), route(3, 1))
	if got := x.update(bytes.Clone(first)); !bytes.Equal(got, first) {
		t.Errorf("changed to %x", got)
	}
	if got := x.update(unsay(route(9, 1))); got != nil {
		t.Errorf("withdraw of what the peer never had: %x", got)
	}
	if r := heard(x.update(unsay(route(3, 1), route(9, 1)))); len(r.Unreach) != 1 || r.Unreach[0] != route(3, 1).Key {
		t.Errorf("%v", r.Unreach)
	}
	x.compare()
	if got := x.update(say(attrs(1), route(1, 1))); got != nil {
		t.Errorf("the same again: %x", got)
	}
	if r := heard(x.update(say(attrs(1), route(1, 1), route(4, 1)))); len(r.Reach) != 1 || r.Reach[0] != route(4, 1) {
		t.Errorf("half of it is news: %v", r.Reach)
	}
	if r := heard(x.update(say(attrs(1), route(1, 7)))); len(r.Reach) != 1 || r.Reach[0] != route(1, 7) {
		t.Errorf("another label: %v", r.Reach)
	}
	if r := heard(x.update(say(attrs(2), route(1, 7)))); len(r.Reach) != 1 {
		t.Errorf("other attributes: %v", r.Reach)
	}
	if r := heard(x.leftovers()); len(r.Unreach) != 1 || r.Unreach[0] != route(2, 1).Key {
		t.Errorf("at the end: %v", r.Unreach)
	}
	if got := x.leftovers(); got != nil {
		t.Errorf("and once more: %x", got)
	}
}

// TestAppendRoute: an NLRI is known again by its name, whatever else it says, and its name withdraws it.
func TestAppendRoute(t *testing.T) {
	rd := evpn.NewRD(netip.MustParseAddr("10.0.0.1"), 1)
	esi := evpn.ESI{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}
	prefix := evpn.RouteKey{Type: evpn.TypePrefix, RD: rd, IP: netip.MustParseAddr("10.2.0.0"), PrefixLen: 16}
	for name, routes := range map[string][2]evpn.Route{
		"type 1":       {{Key: evpn.RouteKey{Type: evpn.TypeEthernetAD, RD: rd, ESI: esi}, Label1: 5}, {Key: evpn.RouteKey{Type: evpn.TypeEthernetAD, RD: rd, ESI: esi}}},
		"type 2":       {{Key: macRoute(rd, mac1, ip6, 1).Key, ESI: esi, Label1: 5, Label2: 6}, macRoute(rd, mac1, ip6, 7)},
		"type 2 no ip": {{Key: macRoute(rd, mac1, netip.Addr{}, 1).Key, ESI: esi, Label1: 5}, macRoute(rd, mac1, netip.Addr{}, 0)},
		"type 5":       {{Key: prefix, ESI: esi, Label1: 5, GW: netip.MustParseAddr("10.9.9.9")}, {Key: prefix, Label1: 6}},
		"type 3":       {{Key: evpn.RouteKey{Type: evpn.TypeIMET, RD: rd, IP: ip4}}, {Key: evpn.RouteKey{Type: evpn.TypeIMET, RD: rd, IP: ip4}}},
	} {
		t.Run(name, func(t *testing.T) {
			var names [2]string
			for i := range routes {
				nlri, err := wire.AppendNLRI(nil, &routes[i])
				if err != nil {
					t.Fatal(err)
				}
				names[i] = string(appendRoute(nil, familyEVPN, nlri))
			}
			if names[0] != names[1] {
				t.Errorf("%x is not %x", names[0], names[1])
			}
			var r wire.Result
			msg := withdrawal(toldKey{familyEVPN, names[0]})
			if err := wire.NewDecoder(wire.Options{}).Update(msg[wire.HeaderLen:], &r); err != nil || len(r.Unreach) != 1 || r.Unreach[0] != routes[0].Key {
				t.Errorf("%v %v", r.Unreach, err)
			}
		})
	}
}

// FuzzTold: whatever an UPDATE holds, nothing panics, and what is made of it can be read.
func FuzzTold(f *testing.F) {
	f.Add(membershipUpdate(false, 1)[wire.HeaderLen:])
	f.Add(membershipUpdate(true, 1)[wire.HeaderLen:])
	f.Add([]byte{0, 0, 0, 6, 0x80, 15, 3, 0, 1, 132})
	f.Add([]byte{0, 0, 0, 16, 0x80, 14, 13, 0, 25, 70, 4, 1, 2, 3, 4, 0, 2, 1, 0})
	f.Fuzz(func(t *testing.T, body []byte) {
		if len(body) < 4 || len(body) > 4000 {
			return
		}
		msg := wire.AppendMessage(nil, wire.MessageUpdate, body)
		var m members
		m.update(msg)
		for _, one := range m.replay() {
			if !new(update).split(one) {
				t.Errorf("replayed %x", one)
			}
		}
		var x told
		x.update(bytes.Clone(msg))
		x.compare()
		if again := x.update(bytes.Clone(msg)); !x.lost && len(again) > 0 {
			if !new(update).split(again) {
				t.Errorf("made %x of %x", again, msg)
			}
		}
		x.leftovers()
	})
}
