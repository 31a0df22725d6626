package speaker

import (
	"strings"
	"testing"
	"time"

	"github.com/osrg/gobgp/v4/api"

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
	b.ReleaseEoR() // its memberships are complete
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

// TestMembershipsHeld: the session is up before we know what we import. End-of-RIB of the memberships waits for them: a
// reflector that got it earlier would send no route and call that all.
func TestMembershipsHeld(t *testing.T) {
	n, p := pair(t, func(c *config.Config, p *raw) {
		c.Peers[0].RTConstraint = true
		p.caps = append(wire.AppendCapability(nil, capMultiprotocol, []byte{0, 1, 0, 132}), gr(0, 30, 0)...)
	})
	p.handshake()
	await[evpn.PeerUp](n, nil)
	silent(p, 100*time.Millisecond)
	if err := n.SetImportRTs([]evpn.RT{evpn.NewRT(65000, 1), evpn.NewRT(65000, 2)}); err != nil {
		t.Fatal(err)
	}
	if got := readMemberships(p, 2); got.eor {
		t.Fatal("End-of-RIB before the core's word")
	}
	silent(p, 100*time.Millisecond)
	n.ReleaseEoR()
	if got := readMemberships(p, -1); got.keys != 2 {
		t.Errorf("End-of-RIB after %d memberships", got.keys)
	}
	silent(p, 50*time.Millisecond) // EVPN's waits for those of the peer
	p.send(wire.AppendMessage(nil, wire.MessageUpdate, []byte{0, 0, 0, 6, 0x80, 15, 3, 0, 1, 132}))
	readRoutes(p, -1)
	p.c.Close()
	await[evpn.PeerDown](n, nil)
	again := dialRetry(n, p.id, p.asn)
	again.caps = p.caps
	again.handshake()
	if got := readMemberships(again, -1); got.keys != 2 {
		t.Errorf("new session: End-of-RIB after %d memberships", got.keys)
	}
}

// silent fails the test if anything but a KEEPALIVE comes within d.
func silent(p *raw, d time.Duration) {
	p.t.Helper()
	p.c.SetReadDeadline(time.Now().Add(d))
	for {
		kind, msg, err := p.r.next()
		if err != nil {
			return
		}
		if kind != wire.MessageKeepalive {
			p.t.Fatalf("unexpected type %d: %x", kind, msg)
		}
	}
}

// readMemberships is readRoutes for RT memberships.
func readMemberships(p *raw, want int) heard {
	p.t.Helper()
	var h heard
	known := make(map[string]bool)
	for want < 0 && !h.eor || h.keys < want && !h.eor {
		kind, msg, err := p.read()
		if err != nil || kind != wire.MessageUpdate {
			p.t.Fatalf("type %d: %v: %x", kind, err, msg)
		}
		if h.eor = isEndOfRIB(msg, familyRTC); h.eor {
			break
		}
		if fs, _ := mpFamilies(msg[wire.HeaderLen:]); len(fs) != 1 || fs[0] != familyRTC {
			p.t.Fatalf("no membership: %x", msg)
		}
		for n := range 10 { // memberships share an UPDATE
			if target := rt(65000, uint32(n)); strings.Contains(string(msg), target) {
				known[target] = true
			}
		}
		h.keys = len(known)
	}
	return h
}

// TestMembershipsTriedAgain: what the engine has refused, the next call tries again.
func TestMembershipsTriedAgain(t *testing.T) {
	a, port := addresses(t, 2)
	cfg := nodeConfig(65000, a[0], port, peerConfig(65000, a[1], port, a[0]))
	cfg.Peers[0].Passive, cfg.Peers[0].RTConstraint = true, true
	n := idleNode(t, cfg)
	stopped := n.serving.Load()
	if err := stopped.srv.StopBgp(t.Context(), &api.StopBgpRequest{}); err != nil {
		t.Fatal(err)
	}
	rts := []evpn.RT{evpn.NewRT(65000, 1), evpn.NewRT(65000, 2)}
	if err := n.SetImportRTs(rts); err == nil || !strings.Contains(err.Error(), "65000:1:") || !strings.Contains(err.Error(), "65000:2:") {
		t.Errorf("engine is stopped: %v", err)
	}
	stopped.stop()
	fresh, err := startEngine(cfg, n.log)
	if err != nil {
		t.Fatal(err)
	}
	n.serving.Store(fresh)
	n.engines = []*engine{fresh}
	if err := n.SetImportRTs(rts); err != nil {
		t.Fatal(err)
	}
	n.ReleaseEoR()
	n.run()
	p := dialRetry(n, a[1], 65000)
	p.caps = append(p.caps, wire.AppendCapability(nil, capMultiprotocol, []byte{0, 1, 0, 132})...)
	p.handshake()
	if got := readMemberships(p, -1); got.keys != 2 {
		t.Errorf("%d memberships", got.keys)
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
