package speaker

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/evpnd/evpnd/config"
	"github.com/evpnd/evpnd/evpn"
	"github.com/evpnd/evpnd/evpn/wire"
)

// hear has a core take in what a speaker has told so far.
func (n *node) hear(c *evpn.Core) {
	for {
		for _, ev := range n.rest {
			c.Handle(ev, time.Now())
		}
		select {
		case n.rest = <-n.events:
		default:
			n.rest = nil
			return
		}
	}
}

// handOver takes all sessions off a node, which ends, and carries them the way a file does.
func (n *node) handOver(c *evpn.Core) []*Handover {
	n.t.Helper()
	all := n.HandOver(n.t.Context())
	n.hear(c)
	estate := map[netip.Addr]evpn.PeerEstate{}
	for _, p := range c.Estate().Peers {
		estate[p.Peer] = p
	}
	for i, h := range all {
		if err := h.Say(estate[h.Peer]); err != nil {
			n.t.Fatal(err)
		}
		text, err := json.Marshal(h)
		if err != nil {
			n.t.Fatal(err)
		}
		all[i] = &Handover{File: h.File}
		if err := json.Unmarshal(text, all[i]); err != nil {
			n.t.Fatal(err)
		}
	}
	n.stop()
	return all
}

// succeed makes the node that goes on with the sessions; it has been told facts and does not run yet.
func succeed(t testing.TB, cfg *config.Config, all []*Handover) (*node, []evpn.Event) {
	t.Helper()
	next := idleNode(t, cfg)
	var facts []evpn.Event
	for _, h := range all {
		f, err := next.Adopt(h)
		if err != nil {
			t.Fatal(err)
		}
		facts = append(facts, f...)
	}
	return next, facts
}

// said is an UPDATE of a peer with routes of its own.
func said(p *raw, macs ...int) []byte {
	p.t.Helper()
	a := &evpn.Attrs{
		NextHop: p.id, LocalPref: 100, ExtComms: rt(65000, 9) + vxlanEncap, OriginatorID: netip.MustParseAddr("10.8.8.8"),
		ClusterList: "\x0a\x07\x07\x07", Communities: "\xff\xff\xff\x01",
	}
	if !p.opts.IBGP {
		a.ASPath = "\x02\x01\x00\x00" + string([]byte{byte(p.asn >> 8), byte(p.asn)})
	}
	var routes []evpn.Route
	for _, i := range macs {
		routes = append(routes, macRoute(evpn.NewRD(p.id, 9), numberedMAC(i), ip4, 9))
	}
	b, err := wire.AppendUpdate(nil, a, routes, p.opts)
	if err != nil {
		p.t.Fatal(err)
	}
	return b
}

func newCore(n *node) *evpn.Core {
	return evpn.New(evpn.Config{ASN: n.asn, VTEP: n.addr, RouterID: n.routerID})
}

func notRaced(t *testing.T) {
	t.Helper()
	if raceDetector {
		t.Skip("StartBgp writes package-level variables of GoBGP that another one reads")
	}
}

// TestHandedOver: another speaker goes on with a session. The peer gets what has changed, and nothing else; what it was
// saying in the middle of a message is heard to the end; the facts are those that it would have told anew.
func TestHandedOver(t *testing.T) {
	notRaced(t)
	for name, asn := range map[string]uint32{"ibgp": 65000, "ebgp": 65001} {
		t.Run(name, func(t *testing.T) { testHandedOver(t, asn) })
	}
}

func testHandedOver(t *testing.T, asn uint32) {
	n, p := pair(t, func(c *config.Config, p *raw) {
		p.asn = asn
		c.Peers[0].ASN, c.Peers[0].MaxRoutes.Most = asn, 2 // of three
	})
	p.handshake()
	ours := manyRoutes(n, 200)
	if err := n.Apply(ours); err != nil {
		t.Fatal(err)
	}
	n.ReleaseEoR()
	v := newView()
	v.follow(p, func() bool { return v.eors == 1 && len(v.routes) == len(ours) })
	v.duplicates = nil // before End-of-RIB everything is sent once more
	p.send(said(p, 1, 2, 3))
	p.send(wire.AppendEoR(nil))
	c := newCore(n)
	until(t, "the core has all", func() bool {
		n.hear(c)
		peers := c.Peers()
		return len(peers) == 1 && peers[0].EoR
	})
	up := n.info(p.id)
	begun := said(p, 4)
	p.send(begun[:30])
	until(t, "the start of the message is read", func() bool { return unreadOctets(t, n.find1(p.id)) == 0 })
	all := n.handOver(c)
	if len(all) != 1 || len(all[0].Unread) != 30 {
		t.Fatalf("%+v", all)
	}
	silent(p, 20*time.Millisecond)
	next, facts := succeed(t, n.cfg, all)
	again := newCore(next)
	for _, ev := range facts {
		again.Handle(ev, time.Now())
	}
	if got, want := again.Estate(), c.Estate(); !reflect.DeepEqual(got, want) {
		t.Errorf("the core is told %+v, not %+v", got, want)
	}
	again.Handle(evpn.PeerLimit{Peer: p.id, Limit: evpn.RouteLimit{Most: 10}}, time.Now())
	if out := again.Flush(time.Now()); !slices.Equal(out.Refreshes, []netip.Addr{p.id}) {
		t.Errorf("there is room for the third route, but %v is asked for it", out.Refreshes)
	}
	if probes := option(t, next.find1(p.id), unix.SOL_SOCKET, unix.SO_KEEPALIVE); probes != 0 {
		t.Error("the kernel probes the peer; it did not before")
	}
	next.run()
	p.send(begun[30:])
	u := await[*evpn.Update](next, nil)
	if len(u.Reach) != 1 || u.Reach[0].Key.MAC != numberedMAC(4) {
		t.Errorf("%+v", u)
	}
	changed := append([]evpn.RouteOp(nil), ours[1:]...)
	changed[0].Attrs = &evpn.Attrs{NextHop: n.addr, ExtComms: rt(65000, 77)}
	added := announce(macRoute(evpn.NewRD(n.addr, 7), mac1, ip4, 7), ours[0].Attrs)
	if err := next.Apply(append(changed, added)); err != nil {
		t.Fatal(err)
	}
	silent(p, 20*time.Millisecond) // nothing before all is there
	next.ReleaseEoR()
	seen := 0
	v.follow(p, func() bool {
		_, gone := v.routes[ours[0].Route.Key]
		_, here := v.routes[added.Route.Key]
		seen++
		return !gone && here && v.routes[changed[0].Route.Key].ExtComms == rt(65000, 77)
	})
	if len(v.duplicates) > 0 || seen > 4 {
		t.Errorf("%d messages, superfluous %v", seen, v.duplicates)
	}
	silent(p, 20*time.Millisecond)
	settled(t, next, p, v, len(ours))
	if i := next.info(p.id); i.State != StateEstablished || !i.Since.Equal(up.Since) || i.Counters.Established != 1 || i.Counters.Flaps != 0 {
		t.Errorf("%+v", i)
	}
}

// unreadOctets is what waits in the kernel for a session to read.
func unreadOctets(t *testing.T, s *session) int {
	t.Helper()
	raw, err := s.outer.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	if err := onSocket(raw, func(fd int) (err error) { n, err = unix.IoctlGetInt(fd, unix.TIOCINQ); return err }); err != nil {
		t.Fatal(err)
	}
	return n
}

// option is what is set on the connection of a session.
func option(t *testing.T, s *session, level, name int) (value int) {
	t.Helper()
	raw, err := s.outer.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := onSocket(raw, func(fd int) (err error) { value, err = unix.GetsockoptInt(fd, level, name); return err }); err != nil {
		t.Fatal(err)
	}
	return value
}

// TestHandedOverMemberships: RT constraint and a ROUTE-REFRESH that waits are carried over.
func TestHandedOverMemberships(t *testing.T) {
	notRaced(t)
	n, p := pair(t, func(c *config.Config, p *raw) {
		c.Peers[0].RTConstraint = true
		p.caps = append(wire.AppendCapability(nil, capMultiprotocol, []byte{0, 1, 0, 132}), gr(0, 30, 0)...)
	})
	p.handshake()
	imports := []evpn.RT{evpn.NewRT(65000, 1)}
	routes := []evpn.RouteOp{
		announce(macRoute(evpn.NewRD(n.addr, 1), mac1, ip4, 1), &evpn.Attrs{NextHop: n.addr, ExtComms: rt(65000, 1)}),
		announce(macRoute(evpn.NewRD(n.addr, 2), mac1, ip4, 2), &evpn.Attrs{NextHop: n.addr, ExtComms: rt(65000, 2)}),
	}
	tell := func(n *node) {
		if err := errors.Join(n.SetImportRTs(imports), n.Apply(routes)); err != nil {
			t.Fatal(err)
		}
		n.ReleaseEoR()
	}
	tell(n)
	readMemberships(p, -1)
	p.send(membershipUpdate(false, 1))
	p.send(wire.AppendMessage(nil, wire.MessageUpdate, []byte{0, 0, 0, 6, 0x80, 15, 3, 0, 1, 132}))
	v := newView()
	v.follow(p, func() bool { return v.eors == 1 })
	v.duplicates = nil
	next, _ := succeed(t, n.cfg, n.handOver(newCore(n)))
	next.run()
	p.send(refreshMessage(familyEVPN)) // nobody is there to answer yet
	until(t, "it is taken note of", func() bool { x := next.find1(p.id); return x != nil && x.asks(familyEVPN) })
	tell(next)
	again := newView()
	again.follow(p, func() bool { return len(again.routes) == 1 })
	p.send(membershipUpdate(false, 2))
	v.follow(p, func() bool { _, ok := v.routes[routes[1].Route.Key]; return ok })
	p.send(membershipUpdate(true, 1))
	v.follow(p, func() bool { _, ok := v.routes[routes[0].Route.Key]; return !ok })
}

// TestHandedOverRetuned: the options of the connection become what the next configuration says, whatever they were made by: here
// a reload has changed them before.
func TestHandedOverRetuned(t *testing.T) {
	notRaced(t)
	for name, password := range map[string]string{"as it was": "first", "other password": "second", "no password": ""} {
		t.Run(name, func(t *testing.T) {
			n, p := pair(t, nil)
			p.handshake()
			n.ReleaseEoR()
			readRoutes(p, -1)
			core := newCore(n)
			exchange := func(n *node, key string, i int) {
				t.Helper()
				raw, err := p.c.SyscallConn()
				if err == nil {
					err = onSocket(raw, func(fd int) error { return setKey(fd, netip.PrefixFrom(n.addr, 32), key) })
				}
				if err != nil {
					t.Fatal(err)
				}
				p.send(said(p, i))
				u := await[*evpn.Update](n, nil)
				if u.Reach[0].Key.MAC != numberedMAC(i) {
					t.Errorf("%+v", u)
				}
				core.Handle(u, time.Now())
			}
			core.Handle(await[evpn.PeerUp](n, nil), time.Now())
			with := func(password string) *config.Config {
				cfg := *n.cfg
				cfg.Peers = slices.Clone(cfg.Peers)
				cfg.Peers[0].Password = password
				return &cfg
			}
			if err := n.Configure(with("first")); err != nil {
				t.Fatal(err)
			}
			exchange(n, "first", 1)
			next, _ := succeed(t, with(password), n.handOver(core))
			next.run()
			exchange(next, password, 2)
			next.ReleaseEoR()
			op := manyRoutes(next, 1)
			if err := next.Apply(op); err != nil {
				t.Fatal(err)
			}
			v := newView()
			v.follow(p, func() bool { return len(v.routes) == 1 })
			if i := next.info(p.id); i.Counters.Established != 1 || i.Counters.Flaps != 0 {
				t.Errorf("%+v", i)
			}
			p.c.Close()
		})
	}
}

// find1 is the session with a peer, nil when there is none.
func (n *node) find1(addr netip.Addr) *session {
	p, err := n.find(addr)
	if err != nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.current
}

// TestHandedOverLongLived: a route that comes marked LLGR_STALE is the last choice after the take-over as well (LL-03). While
// routes of an earlier session wait to be confirmed, in their long-lived time too, the session is not handed over: the next
// process would take what the peer does not send again for confirmed.
func TestHandedOverLongLived(t *testing.T) {
	notRaced(t)
	n, p := pair(t, func(c *config.Config, p *raw) {
		c.Peers[0].LongLived = time.Hour
		p.caps = append(gr(0, 30, grForwarding), llgr(50, grForwarding)...)
	})
	p.handshake()
	n.ReleaseEoR()
	readRoutes(p, -1)
	marked := func(p *raw, i int) []byte {
		a := &evpn.Attrs{NextHop: p.id, LocalPref: 100, ExtComms: rt(65000, 9) + vxlanEncap, Communities: "\xff\xff\x00\x06"}
		b, err := wire.AppendUpdate(nil, a, []evpn.Route{macRoute(evpn.NewRD(p.id, 9), numberedMAC(i), ip4, 9)}, p.opts)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	aged := func(c *evpn.Core) (all []string) {
		for _, r := range c.Routes(p.id) {
			all = append(all, r.Stale)
		}
		return all
	}
	p.send(slices.Concat(marked(p, 1), said(p, 2), wire.AppendEoR(nil)))
	core := newCore(n)
	want := []string{"long-lived", ""}
	until(t, "the core has both", func() bool { n.hear(core); return slices.Equal(aged(core), want) && core.Peers()[0].EoR })
	next, facts := succeed(t, n.cfg, n.handOver(core))
	again := newCore(next)
	for _, ev := range facts {
		again.Handle(ev, time.Now())
	}
	if got := aged(again); !slices.Equal(got, want) {
		t.Errorf("the next core has %q", got)
	}
	next.run()
	next.ReleaseEoR()
	p.c.Close()
	back := dialRetry(next, p.id, p.asn)
	back.caps = p.caps
	back.handshake()
	back.send(said(back, 3))
	readRoutes(back, -1)
	until(t, "one of three is confirmed", func() bool {
		next.hear(again)
		return len(again.Peers()) == 1 && again.Peers()[0].Up && again.Peers()[0].Stale == 2
	})
	h := next.HandOver(t.Context())[0]
	defer h.File.Close()
	if err := h.Say(again.Estate().Peers[0]); err == nil || !strings.Contains(err.Error(), "not confirmed") {
		t.Errorf("handed over: %v", err)
	}
}

// TestFrozenPeerNotHandedOver: a peer that reads nothing does not keep the others waiting, to whom nobody talks meanwhile.
func TestFrozenPeerNotHandedOver(t *testing.T) {
	parallel(t)
	n, p := pair(t, nil)
	p.handshake()
	n.ReleaseEoR()
	readRoutes(p, -1)
	x := n.find1(p.id)
	written := make(chan struct{})
	go func() { // as the relay does
		defer close(written)
		x.gate.Lock()
		defer x.gate.Unlock()
		x.send(slices.Repeat(wire.AppendKeepalive(nil), 2<<20)) // more than the kernel keeps
	}()
	until(t, "the peer's window is full", func() bool { return unsent(t, x) > 1<<20 })
	start := time.Now()
	if all := n.HandOver(t.Context()); len(all) > 0 || time.Since(start) > 2*drainTime {
		t.Errorf("%d sessions after %s", len(all), time.Since(start))
	}
	<-written
}

// TestMovingNotHandedOver: nor does a session that another engine is being put behind, which may take a minute.
func TestMovingNotHandedOver(t *testing.T) {
	n, p := pair(t, nil)
	p.handshake()
	n.ReleaseEoR()
	readRoutes(p, -1)
	x := n.find1(p.id)
	x.moving.Lock()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	handed := make(chan int, 1)
	go func() { handed <- len(n.HandOver(ctx)) }()
	select {
	case got := <-handed:
		if got != 0 {
			t.Errorf("%d sessions", got)
		}
	case <-time.After(patience):
		t.Error("it waits")
	}
	x.moving.Unlock()
}

// unsent is what the kernel has of a session that the peer has not taken.
func unsent(t *testing.T, s *session) (n int) {
	t.Helper()
	raw, err := s.outer.SyscallConn()
	if err == nil {
		err = onSocket(raw, func(fd int) (err error) { n, err = unix.IoctlGetInt(fd, unix.TIOCOUTQ); return err })
	}
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestHandedOverWhileReplaced: the successor replaces its engine while its first one is put behind the session.
func TestHandedOverWhileReplaced(t *testing.T) {
	notRaced(t)
	n, p := pair(t, nil)
	p.handshake()
	n.ReleaseEoR()
	lasting := manyRoutes(n, 300)
	if err := n.Apply(lasting); err != nil {
		t.Fatal(err)
	}
	v := newView()
	v.follow(p, func() bool { return v.eors == 1 && len(v.routes) == len(lasting) })
	v.duplicates = nil // before End-of-RIB everything may be sent once more
	next, _ := succeed(t, n.cfg, n.handOver(newCore(n)))
	next.wearLimit = 1
	next.run()
	if err := next.Apply(lasting); err != nil {
		t.Fatal(err)
	}
	failed := make(chan error, 1)
	go func() { failed <- churn(next, 400, 1) }()
	until(t, "a replacement begins", func() bool { return next.Engine().Replacing })
	next.ReleaseEoR()
	last := macRoute(evpn.NewRD(n.addr, 3), mac1, ip4, 7)
	v.follow(p, func() bool { _, ok := v.routes[last.Key]; return ok })
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
	settled(t, next, p, v, len(lasting)+1)
	if i := next.info(p.id); i.Counters.Established != 1 || i.Counters.Flaps != 0 {
		t.Errorf("%+v", i)
	}
	p.c.Close()
}

// TestNotAdopted: a hand-over that does not fit is refused whole, and the peer starts anew.
func TestNotAdopted(t *testing.T) {
	notRaced(t)
	for name, c := range map[string]struct {
		spoil  func(*Handover)
		change func(*config.Config)
		want   string
	}{
		"other hold time": {change: func(c *config.Config) { c.Peers[0].HoldTime = 30 * time.Second }, want: "configuration of the peer has changed"},
		"peer removed":    {change: func(c *config.Config) { c.Peers = nil }, want: "not in the configuration"},
		"other AS":        {change: func(c *config.Config) { c.ASN = 65009 }, want: "AS number"},
		"other router id": {change: func(c *config.Config) { c.RouterID = netip.MustParseAddr("10.9.9.9") }, want: "router id"},
		"broken OPEN":     {spoil: func(h *Handover) { h.PeerOpen = h.PeerOpen[:20] }, want: "OPEN"},
		"broken digests":  {spoil: func(h *Handover) { h.Told = h.Told[:len(h.Told)-1] }, want: "ends early"},
		"broken routes":   {spoil: func(h *Handover) { h.Said = h.Said[:len(h.Said)-1] }, want: "ends within"},
		"missing routes":  {spoil: func(h *Handover) { h.Routes++ }, want: "routes of"},
		"wrong message":   {spoil: func(h *Handover) { h.Said = wire.AppendKeepalive(h.Said) }, want: "message type"},
		"long rest":       {spoil: func(h *Handover) { h.Unread = make([]byte, 1<<20) }, want: "more unread"},
		"other peer":      {spoil: func(h *Handover) { h.Peer = netip.MustParseAddr("127.9.9.9") }, want: "not in the configuration"},
		"no connection": {spoil: func(h *Handover) {
			h.File.Close()
			h.File, _ = os.Open(os.DevNull)
		}, want: "non-socket"},
	} {
		t.Run(name, func(t *testing.T) {
			n, p := pair(t, nil)
			p.handshake()
			if err := n.Apply(manyRoutes(n, 10)); err != nil {
				t.Fatal(err)
			}
			n.ReleaseEoR()
			readRoutes(p, -1)
			p.send(said(p, 1))
			core := newCore(n)
			until(t, "the core has the route", func() bool { n.hear(core); return len(core.Peers()) == 1 && core.Peers()[0].Routes == 1 })
			h := n.handOver(core)[0]
			cfg := *n.cfg
			cfg.Peers = slices.Clone(cfg.Peers)
			if c.change != nil {
				c.change(&cfg)
			}
			if c.spoil != nil {
				c.spoil(h)
			}
			next := idleNode(t, &cfg)
			facts, err := next.Adopt(h)
			if err == nil || !strings.Contains(err.Error(), c.want) || facts != nil {
				t.Errorf("%v, %v", err, facts)
			}
			if name != "no connection" {
				if kind, msg, err := p.read(); err == nil {
					t.Errorf("the peer gets type %d: %x", kind, msg)
				}
			}
			next.run()
			if len(cfg.Peers) == 0 || cfg.ASN != p.asn {
				return
			}
			anew := dialRetry(next, p.id, p.asn)
			anew.handshake()
			await[evpn.PeerUp](next, nil)
		})
	}
}
