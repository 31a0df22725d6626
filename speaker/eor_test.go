package speaker

import (
	"testing"
	"time"

	"github.com/evpnd/evpnd/config"
	"github.com/evpnd/evpnd/evpn"
	"github.com/evpnd/evpnd/evpn/wire"
)

// TestEoRHeld: End-of-RIB goes out after all routes, when the core says so, whether or not the peer does graceful
// restart, and once; R is set until then.
func TestEoRHeld(t *testing.T) {
	for name, caps := range map[string][]byte{"graceful": gr(0, 30, 0), "plain": nil} {
		t.Run(name, func(t *testing.T) {
			n, p := pair(t, func(_ *config.Config, p *raw) { p.caps = caps })
			p.handshake()
			await[evpn.PeerUp](n, nil)
			if g := p.theirs.graceful(); !g.Restarting || !g.Forwarding || !g.EVPN || g.RestartTime != 120*time.Second {
				t.Errorf("%+v", g)
			}
			ops := manyRoutes(n, 3000)
			if err := n.Apply(ops); err != nil {
				t.Fatal(err)
			}
			if got := readRoutes(p, len(ops)); got.eor {
				t.Fatal("End-of-RIB before its time")
			}
			p.c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
			if kind, msg, err := p.r.next(); err == nil {
				t.Fatalf("type %d: %x", kind, msg)
			}
			more := manyRoutes(n, 4000)[3000:]
			if err := n.Apply(more); err != nil {
				t.Fatal(err)
			}
			n.ReleaseEoR()
			n.ReleaseEoR()
			if got := readRoutes(p, -1); got.keys < len(more) {
				t.Errorf("End-of-RIB after %d routes", got.keys)
			}
			p.c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			if kind, msg, err := p.r.next(); err == nil {
				t.Fatalf("after End-of-RIB: type %d: %x", kind, msg)
			}
			p.c.Close()
			await[evpn.PeerDown](n, nil)
			p = dialRetry(n, p.id, p.asn)
			p.caps = append(p.caps, caps...)
			p.handshake()
			if g := p.theirs.graceful(); g.Restarting || !g.Forwarding {
				t.Errorf("%+v", g)
			}
			if got := readRoutes(p, -1); got.keys != 4000 {
				t.Errorf("new session: End-of-RIB after %d routes", got.keys)
			}
			p.send(refreshMessage(familyEVPN))
			if got := readRoutes(p, 4000); got.keys != 4000 || got.eor {
				t.Errorf("refresh: %+v", got)
			}
		})
	}
}

// TestNoGracefulRestart: without it in the configuration our OPEN does not offer it.
func TestNoGracefulRestart(t *testing.T) {
	n, p := pair(t, func(c *config.Config, _ *raw) { c.Peers[0].GracefulRestart, c.Peers[0].HoldTime = 0, 0 })
	p.handshake()
	if p.theirs.graceful().Present || p.theirs.hold != 0 {
		t.Errorf("%+v", p.theirs)
	}
	n.ReleaseEoR()
	readRoutes(p, -1)
}

func manyRoutes(n *node, count int) []evpn.RouteOp {
	a := &evpn.Attrs{NextHop: n.addr, ExtComms: rt(65000, 7)}
	ops := make([]evpn.RouteOp, count)
	for i := range ops {
		ops[i] = announce(macRoute(evpn.NewRD(n.addr, 1), numberedMAC(i), ip4, 7), a)
	}
	return ops
}

type heard struct {
	keys int // distinct routes
	eor  bool
}

// readRoutes reads until want distinct routes have come, or until End-of-RIB if want is negative.
func readRoutes(p *raw, want int) heard {
	p.t.Helper()
	var h heard
	d := wire.NewDecoder(p.opts)
	known := make(map[evpn.RouteKey]bool)
	for want < 0 && !h.eor || h.keys < want && !h.eor {
		kind, msg, err := p.read()
		if err != nil || kind != wire.MessageUpdate {
			p.t.Fatalf("type %d: %v: %x", kind, err, msg)
		}
		var r wire.Result
		if err := d.Update(msg[wire.HeaderLen:], &r); err != nil {
			p.t.Fatal(err)
		}
		for _, route := range r.Reach {
			known[route.Key] = true
		}
		h.keys, h.eor = len(known), r.EndOfRIB
	}
	return h
}

// TestRTConstraint: routes flow only for memberships, both ways, and End-of-RIB waits for them.
func TestRTConstraint(t *testing.T) {
	addr, port := addresses(t, 2)
	cfgA := nodeConfig(65000, addr[0], port, peerConfig(65000, addr[1], port, addr[0]))
	cfgB := nodeConfig(65000, addr[1], port, peerConfig(65000, addr[0], port, addr[1]))
	cfgA.Peers[0].RTConstraint, cfgB.Peers[0].RTConstraint = true, true
	a, b := idleNode(t, cfgA), idleNode(t, cfgB)
	a.run()
	b.run()
	await[evpn.PeerUp](a, nil)
	await[evpn.PeerUp](b, nil)
	attrs := func(n uint32) *evpn.Attrs { return &evpn.Attrs{NextHop: a.addr, ExtComms: rt(65000, n)} }
	if err := a.Apply([]evpn.RouteOp{
		announce(macRoute(evpn.NewRD(a.addr, 1), mac1, ip4, 1), attrs(1)),
		announce(macRoute(evpn.NewRD(a.addr, 2), mac1, ip4, 2), attrs(2)),
	}); err != nil {
		t.Fatal(err)
	}
	quiet[*evpn.Update](b, 100*time.Millisecond)
	if err := b.SetImportRTs([]evpn.RT{evpn.NewRT(65000, 2)}); err != nil {
		t.Fatal(err)
	}
	if u := await[*evpn.Update](b, nil); len(u.Reach) != 1 || u.Reach[0].Label1 != 2 {
		t.Fatalf("%+v", u)
	}
	a.ReleaseEoR()
	await[evpn.EndOfRIB](b, nil)
	if err := b.SetImportRTs([]evpn.RT{evpn.NewRT(65000, 1)}); err != nil {
		t.Fatal(err)
	}
	var gone, come bool
	for !gone || !come {
		u := await[*evpn.Update](b, nil)
		gone = gone || len(u.Unreach) == 1 && u.Unreach[0].RD == evpn.NewRD(a.addr, 2)
		come = come || len(u.Reach) == 1 && u.Reach[0].Label1 == 1
	}
	if i := a.info(b.addr); !i.RTC {
		t.Errorf("%+v", i)
	}
}

// TestRequestRefresh: the peer is asked on the wire.
func TestRequestRefresh(t *testing.T) {
	n, p := pair(t, nil)
	if err := n.RequestRefresh(p.id); err == nil {
		t.Error("refresh without a session")
	}
	p.handshake()
	await[evpn.PeerUp](n, nil)
	if err := n.RequestRefresh(p.id); err != nil {
		t.Fatal(err)
	}
	if kind, msg, err := p.read(); err != nil || kind != wire.MessageRouteRefresh || string(msg[19:]) != "\x00\x19\x00\x46" {
		t.Errorf("%d %x %v", kind, msg, err)
	}
}
