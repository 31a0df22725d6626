package speaker

import (
	"bytes"
	"encoding/hex"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/evpnd/evpnd/config"
	"github.com/evpnd/evpnd/evpn"
	"github.com/evpnd/evpnd/evpn/wire"
)

// llgr is a long-lived graceful restart capability for EVPN.
func llgr(seconds, forwarding byte) []byte {
	return wire.AppendCapability(nil, capLongLived, []byte{0, 25, 70, forwarding, 0, 0, seconds})
}

// TestLoss: who keeps whose routes for how long (RFC 4724 §4.2, RFC 8538, RFC 9494, GR-05 to GR-09, on-peer-loss).
func TestLoss(t *testing.T) {
	const s = time.Second
	hangUp := func(p *raw) { p.c.Close() }
	say := func(n *notification) func(*raw) { return func(p *raw) { p.send(n.message()) } }
	keep := config.PeerLoss{Keep: 600 * s}
	for name, c := range map[string]struct {
		caps   []byte
		policy config.PeerLoss
		end    func(*raw)
		want   evpn.PeerDown
	}{
		"no graceful restart":    {nil, config.PeerLoss{}, hangUp, evpn.PeerDown{}},
		"connection lost":        {gr(0, 30, 0), config.PeerLoss{}, hangUp, evpn.PeerDown{Retain: 30 * s}},
		"notification":           {gr(0, 30, 0), config.PeerLoss{}, say(cease(ceaseShutdown, "")), evpn.PeerDown{}},
		"notification, N":        {gr(grNotification, 30, 0), config.PeerLoss{}, say(cease(ceaseReset, "")), evpn.PeerDown{Retain: 30 * s, Again: true}},
		"hard reset, N":          {gr(grNotification, 30, 0), config.PeerLoss{}, say(cease(ceaseShutdown, "").hardened()), evpn.PeerDown{Again: true}},
		"our fault, N":           {gr(grNotification, 30, 0), config.PeerLoss{}, func(p *raw) { p.send(make([]byte, 19)) }, evpn.PeerDown{Retain: 30 * s, Again: true}},
		"long-lived":             {append(gr(0, 30, 0), llgr(50, 0)...), config.PeerLoss{}, hangUp, evpn.PeerDown{Retain: 30 * s, LongLived: 50 * s, Again: true}},
		"long-lived, bounded":    {append(gr(0, 30, 0), llgr(200, 0)...), config.PeerLoss{}, hangUp, evpn.PeerDown{Retain: 30 * s, LongLived: 100 * s, Again: true}},
		"long-lived alone":       {llgr(50, 0), config.PeerLoss{}, hangUp, evpn.PeerDown{}},
		"long-lived, no restart": {append(gr(0, 0, 0), llgr(50, 0)...), config.PeerLoss{}, hangUp, evpn.PeerDown{LongLived: 50 * s, Again: true}},
		"withdraw":               {append(gr(grNotification, 30, 0), llgr(50, 0)...), config.PeerLoss{Withdraw: true}, hangUp, evpn.PeerDown{}},
		"keep-for":               {nil, keep, hangUp, evpn.PeerDown{Keep: 600 * s, Again: true}},
		"keep-for, notification": {gr(0, 30, 0), keep, say(cease(ceaseDeconfigured, "")), evpn.PeerDown{Keep: 600 * s, Again: true}},
		"keep-for, hard reset":   {gr(grNotification, 30, 0), keep, say(cease(ceaseShutdown, "").hardened()), evpn.PeerDown{Again: true}},
	} {
		t.Run(name, func(t *testing.T) {
			n, p := pair(t, func(cfg *config.Config, p *raw) {
				p.caps, cfg.Peers[0].OnPeerLoss, cfg.Peers[0].LongLived = c.caps, c.policy, 100*s
			})
			p.handshake()
			if up := await[evpn.PeerUp](n, nil); up.Keep != (c.policy.Keep > 0) {
				t.Errorf("%+v", up)
			}
			c.end(p)
			got := await[evpn.PeerDown](n, nil)
			c.want.Peer, c.want.Reason = got.Peer, got.Reason
			if got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

// TestOwnCapabilities: what our OPEN says of graceful restart, in both forms, and of refresh (GR-01, LL-01, RR-03).
func TestOwnCapabilities(t *testing.T) {
	for name, c := range map[string]struct {
		graceful, longLived time.Duration
		flush, released     bool
		lost                bool
		want                graceful
		wantLong            longLived
	}{
		"restarted":     {120 * time.Second, 0, false, false, false, graceful{true, 120 * time.Second, true, true, true, true}, longLived{}},
		"announced":     {120 * time.Second, time.Hour, false, true, false, graceful{true, 120 * time.Second, true, true, true, true}, longLived{time.Hour, true}},
		"and rebooted":  {120 * time.Second, time.Hour, false, true, true, graceful{true, 120 * time.Second, true, true, true, false}, longLived{time.Hour, false}},
		"rebooted":      {120 * time.Second, time.Hour, false, false, true, graceful{true, 120 * time.Second, true, true, true, false}, longLived{time.Hour, false}},
		"flush-on-exit": {120 * time.Second, time.Hour, true, true, false, graceful{true, 120 * time.Second, true, true, true, false}, longLived{time.Hour, false}},
		"off":           {0, 0, false, true, false, graceful{}, longLived{}},
	} {
		t.Run(name, func(t *testing.T) {
			a, port := addresses(t, 2)
			cfg := nodeConfig(65000, a[0], port, peerConfig(65000, a[1], port, a[0]))
			cfg.FlushOnExit = c.flush
			cfg.Peers[0].Passive, cfg.Peers[0].GracefulRestart, cfg.Peers[0].LongLived = true, c.graceful, c.longLived
			n := idleNode(t, cfg)
			if c.lost {
				n.ForwardingLost()
			}
			if c.released {
				n.ReleaseEoR()
			}
			n.run()
			p := dialRetry(n, a[1], 65000)
			p.handshake()
			if got := p.theirs.graceful(); got != c.want {
				t.Errorf("graceful restart %+v, want %+v", got, c.want)
			}
			if got := p.theirs.longLived(); got != c.wantLong {
				t.Errorf("long-lived %+v, want %+v", got, c.wantLong)
			}
			if !p.theirs.has(capEnhancedRefresh) || !p.theirs.has(capRefresh) {
				t.Error("no enhanced route refresh")
			}
		})
	}
}

// TestLongLivedReturn: the F bit of both capabilities reaches the core (GR-06, LL-01).
func TestLongLivedReturn(t *testing.T) {
	for _, forwarding := range []byte{0, grForwarding} {
		n, p := pair(t, func(c *config.Config, p *raw) {
			c.Peers[0].LongLived, c.Peers[0].StaleTime = time.Minute, 7*time.Second
			p.caps = append(gr(0, 30, 0), llgr(50, forwarding)...)
		})
		p.handshake()
		up := await[evpn.PeerUp](n, nil)
		if up.Forwarding || up.LongLived != (forwarding != 0) || up.StaleTime != 7*time.Second {
			t.Errorf("%+v", up)
		}
		if i := n.info(p.id).Graceful; i.LongLived != 50*time.Second {
			t.Errorf("%+v", i)
		}
	}
}

// enhanced is a pair that both know where an answer to a ROUTE-REFRESH begins and ends.
func enhanced(t *testing.T) (*node, *raw) {
	n, p := pair(t, func(_ *config.Config, p *raw) { p.caps = wire.AppendCapability(nil, capEnhancedRefresh, nil) })
	return n, p
}

// TestEnhancedRefreshReceived: begin and end reach the core in their place among the routes, and what is wrong with them is
// said with the right code (RFC 7313 §5, RR-03, RR-04).
func TestEnhancedRefreshReceived(t *testing.T) {
	n, p := enhanced(t)
	p.handshake()
	key, msg := sentinel(t, p, 1)
	unknown := refreshMarker(familyEVPN, 77)
	p.send(slices.Concat(refreshMarker(familyEVPN, refreshBegin), msg, unknown, refreshMarker(familyEVPN, refreshEnd)))
	await[evpn.PeerUp](n, nil)
	if b, ok := n.next().(evpn.RefreshBegin); !ok || b.Peer != p.id {
		t.Errorf("%+v", b)
	}
	if u, ok := n.next().(*evpn.Update); !ok || !reaches(key)(u) {
		t.Errorf("%+v", u)
	}
	if e, ok := n.next().(evpn.RefreshEnd); !ok || e.Peer != p.id {
		t.Errorf("%+v", e)
	}
	bad := wire.AppendMessage(nil, wire.MessageRouteRefresh, []byte{0, 25, refreshBegin, 70, 0})
	p.send(bad)
	if got := p.expectNotification(codeRefresh, 1); !bytes.Equal(got.data, bad) {
		t.Errorf("%x", got.data)
	}

	_, p = enhanced(t) // more than a NOTIFICATION can carry (RFC 8654 §5)
	p.handshake()
	bad = wire.AppendMessage(nil, wire.MessageRouteRefresh, append([]byte{0, 25, refreshEnd, 70}, make([]byte, 65535-wire.HeaderLen-4)...))
	p.send(bad)
	if got := p.expectNotification(codeRefresh, 1); len(got.data) == 0 || !bytes.HasPrefix(bad, got.data) {
		t.Errorf("%d octets of data", len(got.data))
	}

	n, p = pair(t, nil) // one that has not said it knows them
	p.handshake()
	key, msg = sentinel(t, p, 1)
	p.send(append(refreshMarker(familyEVPN, refreshBegin), msg...))
	await[evpn.PeerUp](n, nil)
	if u, ok := n.next().(*evpn.Update); !ok || !reaches(key)(u) {
		t.Errorf("%+v", u)
	}
}

// TestEnhancedRefreshAnswered: the answer to a ROUTE-REFRESH is all our routes between begin and end, however often it is
// asked for; before our End-of-RIB it is what that ends.
func TestEnhancedRefreshAnswered(t *testing.T) {
	n, p := enhanced(t)
	a := &evpn.Attrs{NextHop: n.addr, ExtComms: rt(65000, 7)}
	const routes = 20
	for i := range routes {
		if err := n.Apply([]evpn.RouteOp{announce(macRoute(evpn.NewRD(n.addr, 1), numberedMAC(i), ip4, 7), a)}); err != nil {
			t.Fatal(err)
		}
	}
	p.handshake()
	p.send(refreshMessage(familyEVPN))
	n.ReleaseEoR()
	readTo := func(isEnd func(kind wire.MessageType, msg []byte) bool) (kinds []wire.MessageType, reach map[evpn.RouteKey]bool) {
		t.Helper()
		reach = map[evpn.RouteKey]bool{}
		d := wire.NewDecoder(p.opts)
		for {
			kind, msg, err := p.read()
			if err != nil {
				t.Fatal(err)
			}
			kinds = append(kinds, kind)
			if kind == wire.MessageUpdate {
				var r wire.Result
				if err := d.Update(msg[wire.HeaderLen:], &r); err != nil {
					t.Fatal(err)
				}
				for i := range r.Reach {
					reach[r.Reach[i].Key] = true
				}
			}
			if isEnd(kind, msg) {
				return kinds, reach
			}
		}
	}
	marker := func(subtype byte) func(wire.MessageType, []byte) bool {
		return func(kind wire.MessageType, msg []byte) bool {
			return kind == wire.MessageRouteRefresh && msg[wire.HeaderLen+2] == subtype
		}
	}
	kinds, _ := readTo(func(_ wire.MessageType, msg []byte) bool { return isEndOfRIB(msg, familyEVPN) })
	if slices.Contains(kinds, wire.MessageRouteRefresh) {
		t.Error("the answer begins before End-of-RIB")
	}
	for range 3 {
		p.send(refreshMessage(familyEVPN))
		readTo(marker(refreshBegin))
		if _, reach := readTo(marker(refreshEnd)); len(reach) != routes {
			t.Errorf("%d of %d routes between begin and end", len(reach), routes)
		}
	}
}

// TestEnhancedRefreshTwice: a peer that asks again before it has its answer gets two, one behind the other. An end within
// the second would have it drop all that it got in the first (RFC 7313 §4.2).
func TestEnhancedRefreshTwice(t *testing.T) {
	n, p := enhanced(t)
	const routes = 2000
	if err := n.Apply(manyRoutes(n, routes)); err != nil {
		t.Fatal(err)
	}
	n.ReleaseEoR()
	p.handshake()
	readRoutes(p, -1)
	p.send(slices.Repeat(refreshMessage(familyEVPN), 2))
	d := wire.NewDecoder(p.opts)
	begun, reach := false, map[evpn.RouteKey]bool{}
	for ends := 0; ends < 2; {
		kind, msg, err := p.read()
		var r wire.Result
		switch {
		case err != nil:
			t.Fatal(err)
		case kind == wire.MessageUpdate:
			if err := d.Update(msg[wire.HeaderLen:], &r); err != nil {
				t.Fatal(err)
			}
			for i := range r.Reach {
				reach[r.Reach[i].Key] = true
			}
		case msg[wire.HeaderLen+2] == refreshBegin:
			if begun {
				t.Error("an answer begins within another")
			}
			begun, reach = true, map[evpn.RouteKey]bool{}
		default:
			if !begun || len(reach) != routes {
				t.Errorf("%d of %d routes between begin and end", len(reach), routes)
			}
			begun = false
			ends++
		}
	}
}

// TestLimitPeer: the session ends with 6/1 and its limit (RFC 4486 §4), and no other is allowed before its time is over,
// or until the operator says so (SE-04).
func TestLimitPeer(t *testing.T) {
	n, p := pair(t, func(c *config.Config, _ *raw) {
		c.Peers[0].MaxRoutes = config.MaxRoutes{Most: 10, Warn: 50, Action: evpn.LimitReset, IdleHold: time.Hour}
		c.Peers[0].OnPeerLoss.Keep = time.Hour
	})
	p.handshake()
	if up := await[evpn.PeerUp](n, nil); up.Limit != (evpn.RouteLimit{Most: 10, Warn: 5, Action: evpn.LimitReset}) {
		t.Errorf("%+v", up.Limit)
	}
	n.LimitPeer(p.id, 10)
	if got := p.expectNotification(codeCease, ceaseMaxRoutes); !strings.HasSuffix(got.String(), hex.EncodeToString([]byte{0, 25, 70, 0, 0, 0, 10})) {
		t.Error(got)
	}
	if down := await[evpn.PeerDown](n, nil); down.Keep != 0 || down.Retain != 0 {
		t.Errorf("%+v", down)
	}
	if i := n.info(p.id); time.Until(i.Held) < 59*time.Minute {
		t.Errorf("held until %s", i.Held)
	}
	again := dialRetry(n, p.id, p.asn)
	if _, _, err := again.read(); err == nil {
		t.Error("a session during idle hold")
	}
	n.ClosePeer(p.id, "enough")
	again = dialRetry(n, p.id, p.asn)
	again.handshake()
	await[evpn.PeerUp](n, nil)
}

// TestConfigureLimit: another limit of routes, or another fate of them, costs no session; the core hears of the limit.
func TestConfigureLimit(t *testing.T) {
	n, p := pair(t, nil)
	p.handshake()
	await[evpn.PeerUp](n, nil)
	next := *n.cfg
	next.Peers = slices.Clone(next.Peers)
	next.Peers[0].MaxRoutes = config.MaxRoutes{Most: 200, Warn: 10}
	next.Peers[0].OnPeerLoss.Keep = time.Minute
	next.Peers[0].StaleTime = time.Minute
	if err := n.Configure(&next); err != nil {
		t.Fatal(err)
	}
	want := evpn.PeerLimit{Peer: p.id, Limit: evpn.RouteLimit{Most: 200, Warn: 20}}
	if got := await[evpn.PeerLimit](n, nil); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	p.c.Close()
	if down := await[evpn.PeerDown](n, nil); down.Keep != time.Minute {
		t.Errorf("%+v", down)
	}
}
