package speaker

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/evpnd/evpnd/config"
	"github.com/evpnd/evpnd/evpn"
	"github.com/evpnd/evpnd/evpn/wire"
)

// mobility is a MAC mobility community.
func mobility(flags byte, seq byte) string {
	return string([]byte{6, 0, flags, 0, 0, 0, 0, seq})
}

// TestOriginated: what is sent decodes to what was announced, octet for octet where it counts, in any order of mobility
// sequence numbers.
func TestOriginated(t *testing.T) {
	vtep6 := netip.MustParseAddr("2001:db8::2")
	rd := evpn.NewRD(netip.MustParseAddr("10.0.0.1"), 5)
	odd := evpn.RD{0, 9, 1, 2, 3, 4, 5, 6} // a type nobody knows
	esi := evpn.ESI{4, 1, 2, 3, 4, 5, 6, 7, 8, 9}
	base := rt(65000, 100) + vxlanEncap
	imet := func(vtep netip.Addr) evpn.Route {
		return evpn.Route{Key: evpn.RouteKey{Type: evpn.TypeIMET, RD: rd, IP: vtep}}
	}
	ir := func(vtep netip.Addr) evpn.PMSI {
		return evpn.PMSI{Present: true, Tunnel: evpn.TunnelIngressReplication, Label: 0xabcdef, Endpoint: vtep}
	}
	withESI, l3 := macRoute(rd, mac1, ip4, 100), macRoute(rd, mac1, ip6, 100)
	withESI.ESI, l3.Label2 = esi, 5000
	vtep := netip.MustParseAddr("10.0.0.1")
	n, p := pair(t, nil)
	p.handshake()
	for _, c := range []struct {
		name  string
		route evpn.Route
		attrs evpn.Attrs
	}{
		{"mac only", macRoute(rd, mac1, netip.Addr{}, 0xffffff), evpn.Attrs{NextHop: vtep, ExtComms: base}},
		{"mac and ipv4", macRoute(rd, mac1, ip4, 100), evpn.Attrs{NextHop: vtep, ExtComms: base}},
		{"mac and ipv6", macRoute(rd, mac1, ip6, 100), evpn.Attrs{NextHop: vtep, ExtComms: base + "\x06\x08\x01\x00\x00\x00\x00\x00"}},
		{"sequence 5", macRoute(rd, mac1, netip.Addr{}, 100), evpn.Attrs{NextHop: vtep, ExtComms: base + mobility(0, 5)}},
		{"same MAC in another RD, lower", macRoute(odd, mac1, netip.Addr{}, 100), evpn.Attrs{NextHop: vtep, ExtComms: base + mobility(0, 1)}},
		{"equal sequence with ip", macRoute(rd, mac1, ip4, 100), evpn.Attrs{NextHop: vtep, ExtComms: base + mobility(0, 5)}},
		{"lower sequence", macRoute(rd, mac1, netip.Addr{}, 100), evpn.Attrs{NextHop: vtep, ExtComms: base + mobility(0, 3)}},
		{"sticky 0", macRoute(rd, mac1, netip.Addr{}, 100), evpn.Attrs{NextHop: vtep, ExtComms: base + mobility(1, 0)}},
		{"esi", withESI, evpn.Attrs{NextHop: vtep, ExtComms: base}},
		{"layer-3 vni", l3, evpn.Attrs{NextHop: vtep, ExtComms: base + "\x06\x03\x02\x00\x00\x00\x00\x09"}},
		{"ipv6 vtep", macRoute(rd, numberedMAC(9), ip4, 100), evpn.Attrs{NextHop: vtep6, ExtComms: base}},
		{"communities", macRoute(rd, numberedMAC(10), ip4, 100), evpn.Attrs{NextHop: vtep, Origin: 2, MED: 7, LocalPref: 200, Communities: "\xff\xff\xff\x01", ExtComms: base + "\x99\x88\x01\x02\x03\x04\x05\x06"}},
		{"imet", imet(vtep), evpn.Attrs{NextHop: vtep, ExtComms: base, PMSI: ir(vtep)}},
		{"imet ipv6", imet(vtep6), evpn.Attrs{NextHop: vtep6, ExtComms: base, PMSI: ir(vtep6)}},
		{"ethernet segment", evpn.Route{Key: evpn.RouteKey{Type: evpn.TypeES, RD: rd, ESI: esi, IP: vtep}}, evpn.Attrs{NextHop: vtep, ExtComms: "\x06\x02\x01\x02\x03\x04\x05\x06"}},
		{"prefix", evpn.Route{Key: evpn.RouteKey{Type: evpn.TypePrefix, RD: rd, IP: netip.MustParseAddr("10.2.0.0"), PrefixLen: 16}, Label1: 5000}, evpn.Attrs{NextHop: vtep, ExtComms: base + "\x06\x03\x02\x00\x00\x00\x00\x09"}},
	} {
		c.attrs.SetExtComms(c.attrs.ExtComms)
		if c.attrs.LocalPref == 0 {
			c.attrs.LocalPref = 100
		}
		t.Run(c.name, func(t *testing.T) {
			p.t = t
			if err := n.Apply([]evpn.RouteOp{announce(c.route, &c.attrs)}); err != nil {
				t.Fatal(err)
			}
			r := readUpdate(p)
			if len(r.Reach) != 1 || r.Reach[0] != c.route || *r.Attrs != c.attrs {
				t.Fatalf("want %+v %+v\n got %+v %+v", c.route, c.attrs, r.Reach, r.Attrs)
			}
		})
	}
	t.Run("withdraw", func(t *testing.T) {
		p.t = t
		if err := n.Apply([]evpn.RouteOp{{Withdraw: true, Route: imet(vtep)}}); err != nil {
			t.Fatal(err)
		}
		if r := readUpdate(p); len(r.Unreach) != 1 || r.Unreach[0] != imet(vtep).Key {
			t.Fatalf("%+v", r)
		}
	})
	t.Run("errors name the route", func(t *testing.T) {
		p.t = t
		good := macRoute(rd, numberedMAC(77), ip4, 100)
		err := n.Apply([]evpn.RouteOp{
			announce(macRoute(rd, numberedMAC(76), ip4, 100), nil),
			announce(good, &evpn.Attrs{NextHop: vtep}),
			announce(evpn.Route{Key: evpn.RouteKey{Type: 77}}, &evpn.Attrs{NextHop: vtep}),
		})
		if err == nil || !strings.Contains(err.Error(), numberedMAC(76).String()) || !strings.Contains(err.Error(), "77") {
			t.Error(err)
		}
		if r := readUpdate(p); len(r.Reach) != 1 || r.Reach[0] != good {
			t.Errorf("%+v", r)
		}
	})
}

// TestRouteName: routes have the same name if they have the same key, and only then, whatever else they say.
func TestRouteName(t *testing.T) {
	rd := evpn.NewRD(netip.MustParseAddr("10.0.0.1"), 5)
	esi := evpn.ESI{4, 1, 2, 3, 4, 5, 6, 7, 8, 9}
	key := macRoute(rd, mac1, ip4, 1).Key
	keys := []evpn.RouteKey{key}
	for _, change := range []func(*evpn.RouteKey){
		func(k *evpn.RouteKey) { k.RD[7]++ },
		func(k *evpn.RouteKey) { k.MAC[5]++ },
		func(k *evpn.RouteKey) { k.Tag = 1 << 24 },
		func(k *evpn.RouteKey) { k.IP = ip6 },
		func(k *evpn.RouteKey) { k.IP = netip.Addr{} },
		func(k *evpn.RouteKey) { k.Type, k.MAC = evpn.TypeIMET, evpn.MAC{} },
		func(k *evpn.RouteKey) { k.Type, k.MAC, k.ESI = evpn.TypeES, evpn.MAC{}, esi },
		func(k *evpn.RouteKey) {
			k.Type, k.MAC, k.IP, k.ESI = evpn.TypeEthernetAD, evpn.MAC{}, netip.Addr{}, esi
		},
		func(k *evpn.RouteKey) { k.Type, k.MAC, k.PrefixLen = evpn.TypePrefix, evpn.MAC{}, 24 },
		func(k *evpn.RouteKey) { k.Type, k.MAC, k.PrefixLen = evpn.TypePrefix, evpn.MAC{}, 32 },
	} {
		k := key
		change(&k)
		keys = append(keys, k)
	}
	had := make(map[string]evpn.RouteKey)
	for _, k := range keys {
		name := func(r evpn.Route) string {
			raw, err := newRoute(&r)
			if err != nil {
				t.Fatal(err)
			}
			return raw.nlri.String()
		}
		plain := name(evpn.Route{Key: k, Label1: 5})
		if other, ok := had[plain]; ok {
			t.Errorf("%s and %s have the same name", k, other)
		}
		had[plain] = k
		if other := name(evpn.Route{Key: k, Label1: 6, Label2: 7, ESI: evpn.ESI{1}}); other != plain {
			t.Errorf("%s: another label makes another name", k)
		}
	}
}

// TestAllocations: what a route of ours costs before it is GoBGP's, and when it comes back from there. GoBGP's own are 70.
func TestAllocations(t *testing.T) {
	r := macRoute(evpn.NewRD(netip.MustParseAddr("10.0.0.1"), 1), mac1, ip4, 7)
	if n := testing.AllocsPerRun(100, func() {
		if _, err := newRoute(&r); err != nil {
			t.Fatal(err)
		}
	}); n > 3 {
		t.Errorf("%v to make a route, want the data, its octets and its name", n)
	}
	msg, err := wire.AppendUpdate(nil, &evpn.Attrs{NextHop: ip4, LocalPref: 100}, []evpn.Route{r}, wire.Options{AS4: true, IBGP: true})
	if err != nil {
		t.Fatal(err)
	}
	var x told
	x.update(msg)
	if n := testing.AllocsPerRun(100, func() { x.update(msg) }); n > 0 {
		t.Errorf("%v to note what the peer has been told before", n)
	}
}

func readUpdate(p *raw) wire.Result {
	p.t.Helper()
	kind, msg, err := p.read()
	if err != nil || kind != wire.MessageUpdate {
		p.t.Fatalf("type %d: %v: %x", kind, err, msg)
	}
	var r wire.Result
	if err := wire.NewDecoder(p.opts).Update(msg[wire.HeaderLen:], &r); err != nil {
		p.t.Fatal(err)
	}
	return r
}

// TestNoTransit: nothing of one peer reaches another, neither routes nor RT memberships.
func TestNoTransit(t *testing.T) {
	a, port := addresses(t, 3)
	cfg := nodeConfig(65000, a[0], port, peerConfig(65001, a[1], port, a[0]), peerConfig(65002, a[2], port, a[0]))
	for i := range cfg.Peers {
		cfg.Peers[i].Passive, cfg.Peers[i].RTConstraint = true, true
	}
	n := startNode(t, cfg)
	rtc := wire.AppendCapability(nil, capMultiprotocol, []byte{0, 1, 0, 132})
	p, q := dialRetry(n, a[1], 65001), dialRetry(n, a[2], 65002)
	p.caps, q.caps = append(p.caps, rtc...), append(q.caps, rtc...)
	p.handshake()
	q.handshake()
	await[evpn.PeerUp](n, nil)
	await[evpn.PeerUp](n, nil)
	member := rtcUpdate(q, evpn.NewRT(64512, 7))
	q.send(member)
	p.send(rtcUpdate(p, evpn.NewRT(64512, 7)))
	key, msg := sentinel(t, p, 1)
	p.send(msg)
	await(n, reaches(key))
	own := macRoute(evpn.NewRD(n.addr, 1), mac1, ip4, 7)
	if err := n.Apply([]evpn.RouteOp{announce(own, &evpn.Attrs{NextHop: n.addr, ExtComms: rt(64512, 7)})}); err != nil {
		t.Fatal(err)
	}
	for _, peer := range []*raw{p, q} {
		for {
			kind, msg, err := peer.read()
			if err != nil || kind != wire.MessageUpdate {
				t.Fatalf("type %d: %v: %x", kind, err, msg)
			}
			if isEndOfRIB(msg, familyRTC) {
				continue
			}
			var r wire.Result
			if err := wire.NewDecoder(peer.opts).Update(msg[wire.HeaderLen:], &r); err != nil {
				t.Fatal(err)
			}
			if len(r.Reach) != 1 || r.Reach[0] != own {
				t.Fatalf("leaked: %x", msg)
			}
			break
		}
	}
	q.c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if kind, msg, err := q.r.next(); err == nil && !isEndOfRIB(msg, familyRTC) {
		t.Errorf("leaked: type %d %x", kind, msg)
	}
}

// rtcUpdate announces an RT membership.
func rtcUpdate(p *raw, target evpn.RT) []byte {
	nh := p.id.AsSlice()
	reach := append([]byte{0, 1, 132, 4}, nh...)
	reach = append(reach, 0, 96, 0, 0, byte(p.asn>>8), byte(p.asn))
	reach = append(reach, target[:]...)
	attrs := append([]byte{0x80, 14, byte(len(reach))}, reach...)
	path := asSequence(p.asn)
	attrs = append(attrs, 0x40, 1, 1, 0, 0x40, 2, byte(len(path)))
	attrs = append(attrs, path...)
	return wire.AppendMessage(nil, wire.MessageUpdate, append([]byte{0, 0, 0, byte(len(attrs))}, attrs...))
}

// TestTableOnEverySession: a peer that connects again gets the table again.
func TestTableOnEverySession(t *testing.T) {
	n, p := pair(t, func(c *config.Config, _ *raw) { c.Peers[0].GracefulRestart = 0 })
	if err := n.Apply(manyRoutes(n, 500)); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		p.handshake()
		readRoutes(p, 500)
		p.c.Close()
		p = dialRetry(n, p.id, p.asn)
	}
}
