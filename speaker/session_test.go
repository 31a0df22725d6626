package speaker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/evpnd/evpnd/config"
	"github.com/evpnd/evpnd/evpn"
	"github.com/evpnd/evpnd/evpn/wire"
)

// gr is a graceful restart capability for EVPN.
func gr(flags byte, seconds byte, forwarding byte) []byte {
	return wire.AppendCapability(nil, capGracefulRestart, []byte{flags, seconds, 0, 25, 70, forwarding})
}

// TestWrongOpens: what is wrong with an OPEN is said with the right code.
func TestWrongOpens(t *testing.T) {
	for name, c := range map[string]struct {
		change        func(*raw)
		code, subcode uint8
	}{
		"AS":         {func(p *raw) { p.asn = 65001 }, 2, 2},
		"identifier": {func(p *raw) { p.id = netip.MustParseAddr("127.3.0.1") }, 2, 3},
		"hold time":  {func(p *raw) { p.hold = 2 }, 2, 6},
	} {
		t.Run(name, func(t *testing.T) {
			n, p := pair(t, func(cfg *config.Config, _ *raw) { cfg.RouterID = netip.MustParseAddr("127.3.0.1") })
			c.change(p)
			p.sendOpen()
			p.expect(wire.MessageOpen)
			p.expectNotification(c.code, c.subcode)
			until(t, "reason is shown", func() bool {
				return strings.HasPrefix(n.info(n.cfg.Peers[0].Address).LastSent, fmt.Sprintf("%d/%d", c.code, c.subcode))
			})
			quiet[evpn.PeerUp](n, 10*time.Millisecond)
		})
	}
}

// TestMessagesOutOfOrder: the state machine errors that GoBGP does not report (RFC 6608).
func TestMessagesOutOfOrder(t *testing.T) {
	t.Run("no OPEN", func(t *testing.T) {
		_, p := pair(t, nil)
		p.expect(wire.MessageOpen)
		p.send(wire.AppendKeepalive(nil))
		p.expectNotification(5, 1)
	})
	t.Run("no KEEPALIVE", func(t *testing.T) {
		_, p := pair(t, nil)
		p.sendOpen()
		p.send(wire.AppendEoR(nil))
		p.expect(wire.MessageOpen)
		p.expectNotification(5, 2)
	})
	t.Run("second OPEN", func(t *testing.T) {
		n, p := pair(t, nil)
		p.handshake()
		await[evpn.PeerUp](n, nil)
		p.sendOpen()
		p.expectNotification(5, 3)
	})
	t.Run("garbage", func(t *testing.T) {
		_, p := pair(t, nil)
		p.expect(wire.MessageOpen)
		p.send(make([]byte, 100))
		p.expectNotification(1, 1)
	})
}

// TestOpenTolerates: unknown capabilities and one capability per parameter are fine (CB-02).
func TestOpenTolerates(t *testing.T) {
	n, p := pair(t, nil)
	p.caps = append(p.caps, wire.AppendCapability(nil, 200, []byte{1, 2, 3})...)
	msg := wire.AppendOpen(nil, wire.Open{ASN: p.asn, HoldTime: 90, RouterID: p.id, More: p.caps}, p.opts)
	var params []byte
	for caps := msg[openOpts+2:]; len(caps) > 0; {
		size := 2 + int(caps[1])
		params = append(append(params, 2, byte(size)), caps[:size]...)
		caps = caps[size:]
	}
	p.send(sealOpen(append(msg[:openOpts:openOpts], params...)))
	p.expect(wire.MessageOpen)
	p.send(wire.AppendKeepalive(nil))
	await[evpn.PeerUp](n, nil)
}

// TestNoEVPN: without the family the session stays, and the core hears nothing (CB-01).
func TestNoEVPN(t *testing.T) {
	n, p := pair(t, nil)
	body := append([]byte{4, 0xfd, 0xe8, 0, 90}, p.id.AsSlice()...)
	p.send(wire.AppendMessage(nil, wire.MessageOpen, append(body, 4, 2, 2, capRefresh, 0)))
	p.expect(wire.MessageOpen)
	p.send(wire.AppendKeepalive(nil))
	until(t, "session is up", func() bool { return n.info(p.id).State == StateEstablished })
	quiet[evpn.PeerUp](n, 50*time.Millisecond)
	if n.info(p.id).EVPN {
		t.Error("EVPN shown as negotiated")
	}
}

// TestShutdown: the last word reaches the peer, also under a flood; a peer that keeps our routes gets none.
func TestShutdown(t *testing.T) {
	t.Run("cease", func(t *testing.T) {
		n, p := pair(t, nil)
		p.handshake()
		await[evpn.PeerUp](n, nil)
		go n.stop()
		if got := p.expectNotification(codeCease, ceaseShutdown); !strings.Contains(got.String(), "evpnd is stopping") {
			t.Error(got)
		}
	})
	t.Run("graceful", func(t *testing.T) {
		n, p := pair(t, func(_ *config.Config, p *raw) { p.caps = gr(0, 30, 0) })
		p.handshake()
		await[evpn.PeerUp](n, nil)
		n.ReleaseEoR()
		go n.stop()
		for {
			kind, msg, err := p.read()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil || kind == wire.MessageNotification {
				t.Fatalf("%v %x", err, msg)
			}
		}
	})
	t.Run("graceful, but forwarding stops", func(t *testing.T) {
		n, p := pair(t, func(c *config.Config, p *raw) { c.FlushOnExit, p.caps = true, gr(grNotification, 30, 0) })
		p.handshake()
		await[evpn.PeerUp](n, nil)
		if g := p.theirs.graceful(); g.Forwarding {
			t.Errorf("%+v", g)
		}
		go n.stop()
		if got := p.expectNotification(codeCease, ceaseHardReset); got.data[0] != codeCease || got.data[1] != ceaseShutdown {
			t.Error(got)
		}
	})
	for i := range 20 {
		t.Run(fmt.Sprint("flood", i), func(t *testing.T) {
			n, p := pair(t, nil)
			p.handshake()
			await[evpn.PeerUp](n, nil)
			_, msg := sentinel(t, p, 1)
			go func() {
				for {
					if _, err := p.c.Write(msg); err != nil {
						return
					}
				}
			}()
			await[*evpn.Update](n, nil)
			go n.stop()
			p.expectNotification(codeCease, ceaseShutdown)
		})
	}
}

// TestClosePeer: an administrative reset carries its reason, and the session may come up again.
func TestClosePeer(t *testing.T) {
	n, p := pair(t, nil)
	p.handshake()
	await[evpn.PeerUp](n, nil)
	n.ClosePeer(p.id, "because")
	if got := p.expectNotification(codeCease, ceaseReset); !strings.Contains(got.String(), `"because"`) {
		t.Error(got)
	}
	await[evpn.PeerDown](n, nil)
	p = dialRetry(n, p.id, p.asn)
	p.handshake()
	await[evpn.PeerUp](n, nil)
}

// TestHoldTimer: UPDATEs alone keep a session up, we send KEEPALIVEs, and silence ends it with 4/0.
func TestHoldTimer(t *testing.T) {
	parallel(t)
	n, p := pair(t, nil)
	p.hold = 3
	p.handshake()
	await[evpn.PeerUp](n, nil)
	for i := range 4 {
		time.Sleep(time.Second)
		key, msg := sentinel(t, p, i)
		p.send(msg)
		await(n, reaches(key))
	}
	last := time.Now()
	p.expectNotification(codeHold, 0)
	if silent := time.Since(last); silent < 2900*time.Millisecond || silent > 4*time.Second {
		t.Errorf("ended after %s", silent)
	}
	await[evpn.PeerDown](n, nil)
	if in := n.info(p.id).Counters; in.MessagesOut < 7 {
		t.Errorf("too few KEEPALIVEs: %+v", in)
	}
}

// TestFrozenPeer: a peer that takes nothing any more does not hold its session for longer than the hold time.
func TestFrozenPeer(t *testing.T) {
	parallel(t)
	n, p := pair(t, func(c *config.Config, p *raw) { p.hold = 3 })
	p.handshake()
	await[evpn.PeerUp](n, nil)
	a := &evpn.Attrs{NextHop: n.addr, ExtComms: rt(65000, 7)}
	start := time.Now()
	for i := 0; n.info(p.id).State == StateEstablished && time.Since(start) < patience; i++ {
		ops := make([]evpn.RouteOp, 500)
		for j := range ops {
			ops[j] = announce(macRoute(evpn.NewRD(n.addr, 1), numberedMAC(500*i+j), ip4, 7), a)
		}
		if err := n.Apply(ops); err != nil {
			t.Fatal(err)
		}
	}
	await[evpn.PeerDown](n, nil)
	if took := time.Since(start); took > 6*time.Second {
		t.Errorf("took %s", took)
	}
}

// TestSlowCore: a core that takes nothing for longer than the hold time costs no session, and loses no fact.
func TestSlowCore(t *testing.T) {
	parallel(t)
	a, port := addresses(t, 2)
	cfg := nodeConfig(65000, a[0], port, peerConfig(65000, a[1], port, a[0]))
	cfg.Peers[0].Passive = true
	events := make(chan []evpn.Event) // nobody reads
	sp, err := New(cfg, events, testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	n := &node{Speaker: sp, t: t, addr: a[0], port: port, cfg: cfg, events: events, cancel: cancel, ran: make(chan error, 1)}
	go func() { n.ran <- sp.Run(ctx) }()
	t.Cleanup(n.stop)
	p := dialRetry(n, a[1], 65000)
	p.hold = 3
	p.handshake()
	for i := range 9 {
		time.Sleep(500 * time.Millisecond)
		_, msg := sentinel(t, p, i)
		p.send(append(msg, wire.AppendKeepalive(nil)...))
	}
	await[evpn.PeerUp](n, nil)
	seen := 0
	for seen < 9 {
		seen += len(await[*evpn.Update](n, nil).Reach)
	}
	if i := n.info(p.id); i.State != StateEstablished || i.Counters.Flaps != 0 {
		t.Errorf("%+v", i)
	}
}

// TestReturn: a peer that comes back without its forwarding state loses its stale routes first (GR-06).
func TestReturn(t *testing.T) {
	n, p := pair(t, func(_ *config.Config, p *raw) { p.caps = gr(0, 30, grForwarding) })
	for i, forwarding := range []byte{grForwarding, grForwarding, 0} {
		if i > 0 {
			p = dialRetry(n, p.id, p.asn)
			p.caps = append(p.caps, gr(grRestarting, 30, forwarding)...)
		}
		p.handshake()
		if up, ok := n.next().(evpn.PeerUp); !ok || up.Forwarding != (forwarding != 0) {
			t.Fatalf("return %d: %+v", i, up)
		}
		p.c.Close()
		if d := n.next().(evpn.PeerDown); d.Retain == 0 {
			t.Fatalf("return %d: %+v", i, d)
		}
	}
}

// TestReconnectReplaces: with graceful restart a new connection replaces the session without a word (GR-07); without it
// the session that lives stays, and a dead one gives way.
func TestReconnectReplaces(t *testing.T) {
	t.Run("graceful", func(t *testing.T) {
		n, p := pair(t, func(_ *config.Config, p *raw) { p.caps = gr(0, 30, grForwarding) })
		p.handshake()
		await[evpn.PeerUp](n, nil)
		again := dialRetry(n, p.id, p.asn)
		again.caps = p.caps
		again.handshake()
		if d := await[evpn.PeerDown](n, nil); d.Retain != 30*time.Second {
			t.Errorf("%+v", d)
		}
		await[evpn.PeerUp](n, nil)
		for {
			kind, msg, err := p.read()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil || kind == wire.MessageNotification {
				t.Fatalf("%v %x", err, msg)
			}
		}
	})
	t.Run("alive", func(t *testing.T) {
		n, p := pair(t, nil)
		p.handshake()
		await[evpn.PeerUp](n, nil)
		again := dialRetry(n, p.id, p.asn)
		again.sendOpen()
		again.expectNotification(codeCease, ceaseCollision)
		key, msg := sentinel(t, p, 1)
		p.send(msg)
		await(n, reaches(key))
	})
}

// TestConfigure: only the peers that changed notice.
func TestConfigure(t *testing.T) {
	a, port := addresses(t, 4)
	cfg := nodeConfig(65000, a[0], port)
	for _, addr := range a[1:] {
		p := peerConfig(65000, addr, port, a[0])
		p.Passive = true
		cfg.Peers = append(cfg.Peers, p)
	}
	n := startNode(t, cfg)
	kept, changed, removed := dialRetry(n, a[1], 65000), dialRetry(n, a[2], 65000), dialRetry(n, a[3], 65000)
	for _, p := range []*raw{kept, changed, removed} {
		p.handshake()
		await[evpn.PeerUp](n, nil)
	}
	next := *cfg
	next.Peers = []config.Peer{cfg.Peers[0], cfg.Peers[1]}
	next.Peers[0].Description = "says nothing to the session"
	next.Peers[1].HoldTime = 30 * time.Second
	if err := n.Configure(&next); err != nil {
		t.Fatal(err)
	}
	changed.expectNotification(codeCease, ceaseConfigChange)
	removed.expectNotification(codeCease, ceaseDeconfigured)
	if got := n.info(a[1]); got.State != StateEstablished || got.Description == "" || got.Counters.Flaps != 0 {
		t.Errorf("%+v", got)
	}
	changed = dialRetry(n, a[2], 65000)
	changed.handshake()
	if changed.theirs.hold != 30*time.Second {
		t.Errorf("hold time %s", changed.theirs.hold)
	}
	before := n.Refused()
	c, err := tryDial(n, a[3])
	if err == nil {
		_, err = c.Read(make([]byte, 1))
	}
	if err == nil || n.Refused() != before+1 {
		t.Errorf("removed peer can connect: %v", err)
	}
	next.ASN++
	if n.Configure(&next) == nil {
		t.Error("change of AS accepted")
	}
}

// TestConfigureFails: when the sockets cannot be made what a configuration needs, no peer notices, and no key of it stays.
func TestConfigureFails(t *testing.T) {
	a, port := addresses(t, 4)
	cfg := nodeConfig(65000, a[0], port)
	for _, addr := range a[1:] {
		p := peerConfig(65000, addr, port, a[0])
		p.Passive = true
		cfg.Peers = append(cfg.Peers, p)
	}
	n := startNode(t, cfg)
	changed, removed := dialRetry(n, a[1], 65000), dialRetry(n, a[3], 65000)
	for _, p := range []*raw{changed, removed} {
		p.handshake()
		await[evpn.PeerUp](n, nil)
	}
	next := *cfg
	next.Peers = slices.Clone(cfg.Peers[:2])
	next.Peers[0].HoldTime, next.Peers[0].Password = 30*time.Second, strings.Repeat("x", 81) // longer than the kernel takes
	next.Peers[1].Password = "secret"
	if err := n.Configure(&next); err == nil || !strings.Contains(err.Error(), "set TCP MD5 key for "+a[1].String()) {
		t.Fatalf("got %v", err)
	}
	quiet[evpn.PeerDown](n, 50*time.Millisecond)
	for _, addr := range []netip.Addr{a[1], a[3]} {
		if got := n.info(addr); got.State != StateEstablished || got.Counters.Flaps != 0 {
			t.Errorf("%+v", got)
		}
	}
	other, err := dialWith(n, a[2], socketOptions{})
	if err != nil {
		t.Fatalf("a peer without a key: %v", err)
	}
	other.handshake()
	await[evpn.PeerUp](n, nil)
}

// TestListenFails: Run says why it cannot listen, and ends cleanly.
func TestListenFails(t *testing.T) {
	n, _ := pair(t, nil)
	cfg := *n.cfg
	cfg.RouterID = netip.MustParseAddr("10.0.0.9")
	sp, err := New(&cfg, make(chan []evpn.Event, 10), testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := sp.Run(context.Background()); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("got %v", err)
	}
}

// TestDynamicPeers: a range of addresses may connect, up to its limit, whatever AS they have.
func TestDynamicPeers(t *testing.T) {
	a, port := addresses(t, 5)
	cfg := nodeConfig(65000, a[0], port)
	template := peerConfig(0, netip.Addr{}, 0, netip.Addr{})
	cfg.DynamicPeers = []config.DynamicPeers{{Prefix: netip.PrefixFrom(a[0], 24).Masked(), Limit: 2, Template: template}}
	n := startNode(t, cfg)
	first, second := dialRetry(n, a[1], 65000), dialRetry(n, a[2], 65777)
	first.handshake()
	await[evpn.PeerUp](n, nil)
	second.handshake()
	if up := await[evpn.PeerUp](n, nil); up.ASN != 65777 {
		t.Errorf("%+v", up)
	}
	third := dialRetry(n, a[3], 65000)
	if _, _, err := third.read(); err == nil {
		t.Error("limit of the range does not hold")
	}
	first.c.Close()
	await[evpn.PeerDown](n, nil)
	until(t, "dynamic peer is forgotten", func() bool { return len(n.Sessions()) == 1 })
	dialRetry(n, a[3], 65000).handshake()
	await[evpn.PeerUp](n, nil)
}

// TestDynamicPeerUnfit: a connection whose socket options cannot be set takes none of the places of its range, and the
// next one is made by the configuration of then.
func TestDynamicPeerUnfit(t *testing.T) {
	a, port := addresses(t, 2)
	cfg := nodeConfig(65000, a[0], port)
	template := peerConfig(0, netip.Addr{}, 0, netip.Addr{})
	template.Interface = "nowhere0"
	cfg.DynamicPeers = []config.DynamicPeers{{Prefix: netip.PrefixFrom(a[0], 24).Masked(), Limit: 1, Template: template}}
	n := startNode(t, cfg)
	if _, _, err := dialRetry(n, a[1], 65000).read(); err == nil {
		t.Error("was served")
	}
	until(t, "the place is given back", func() bool { return len(n.Sessions()) == 0 })
	next := *cfg
	next.DynamicPeers = slices.Clone(cfg.DynamicPeers)
	next.DynamicPeers[0].Template.Interface = ""
	if err := n.Configure(&next); err != nil {
		t.Fatal(err)
	}
	dialRetry(n, a[1], 65000).handshake()
	await[evpn.PeerUp](n, nil)
}
