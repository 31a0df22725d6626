package speaker

import (
	"flag"
	"fmt"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/evpnd/evpnd/config"
	"github.com/evpnd/evpnd/evpn"
	"github.com/evpnd/evpnd/evpn/wire"
)

var comeAndGo = flag.Int("come-and-go", 3000, "routes that TestEngineReplaced announces and withdraws; its long form is 1000000")

// view is what a peer makes of our UPDATEs. It keeps a strict account: no route twice with the same octets, no withdraw
// of what it does not have, and none of what comes again.
type view struct {
	routes      map[evpn.RouteKey]evpn.Attrs
	gone        map[evpn.RouteKey]bool // withdrawn
	duplicates  []string
	withdrawals int
	lasting     map[evpn.RouteKey]bool
	eors        int
}

// follow reads what the peer gets until ok, looked at after each message, is true.
func (v *view) follow(p *raw, ok func() bool) {
	p.t.Helper()
	d := wire.NewDecoder(p.opts)
	for !ok() {
		kind, msg, err := p.read()
		if err != nil || kind != wire.MessageUpdate {
			p.t.Fatalf("type %d: %v: %x", kind, err, msg)
		}
		var r wire.Result
		if err := d.Update(msg[wire.HeaderLen:], &r); err != nil {
			p.t.Fatal(err)
		}
		v.take(&r)
	}
}

func (v *view) take(r *wire.Result) {
	if r.EndOfRIB {
		v.eors++
	}
	for _, k := range r.Unreach {
		if _, known := v.routes[k]; !known || v.lasting[k] {
			v.duplicates = append(v.duplicates, "withdraw of "+k.String())
		}
		delete(v.routes, k)
		v.gone[k] = true
		v.withdrawals++
	}
	for _, route := range r.Reach {
		if old, known := v.routes[route.Key]; known && old == *r.Attrs {
			v.duplicates = append(v.duplicates, "announcement of "+route.Key.String())
		}
		if v.gone[route.Key] {
			v.duplicates = append(v.duplicates, "announcement once more of "+route.Key.String())
		}
		v.routes[route.Key] = *r.Attrs
	}
}

func newView() *view {
	return &view{routes: make(map[evpn.RouteKey]evpn.Attrs), gone: make(map[evpn.RouteKey]bool), lasting: make(map[evpn.RouteKey]bool)}
}

// wearing is pair with an engine that wears out after limit routes.
func wearing(t *testing.T, limit int, change func(*config.Config)) (*node, *raw) {
	t.Helper()
	a, port := addresses(t, 2)
	cfg := nodeConfig(65000, a[0], port, peerConfig(65000, a[1], port, a[0]))
	cfg.Peers[0].Passive = true
	if change != nil {
		change(cfg)
	}
	n := idleNode(t, cfg)
	n.wearLimit = limit
	n.run()
	p := dialRetry(n, a[1], 65000)
	return n, p
}

// TestEngineReplaced: routes come and go, the engine is replaced again and again, and the peer sees each of them come and
// go once, and nothing of those that stay.
func TestEngineReplaced(t *testing.T) {
	if raceDetector {
		t.Skip("StartBgp writes package-level variables of GoBGP that the engine before it reads")
	}
	limit := min(max(*comeAndGo/6, 500), leastWear)
	n, p := wearing(t, limit, nil)
	p.handshake()
	await[evpn.PeerUp](n, nil)
	v := newView()
	lasting := manyRoutes(n, 200)
	for _, op := range lasting {
		v.lasting[op.Route.Key] = true
	}
	if err := n.Apply(lasting); err != nil {
		t.Fatal(err)
	}
	n.ReleaseEoR()
	v.follow(p, func() bool { return v.eors == 1 && len(v.routes) == len(lasting) })
	v.duplicates = nil // before End-of-RIB everything is sent once more
	up := n.info(p.id).Since
	running := runtime.NumGoroutine()
	failed := make(chan error, 1)
	go func() { failed <- churn(n, *comeAndGo, 3) }()
	last := macRoute(evpn.NewRD(n.addr, 3), mac1, ip4, 7)
	var heap []uint64 // KiB in use after each replacement
	var routines []int
	alive := time.NewTicker(10 * time.Second)
	defer alive.Stop()
	v.follow(p, func() bool {
		if n := int(n.replaced.Load()); n > len(heap) {
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			heap = append(heap, m.HeapAlloc>>10)
			routines = append(routines, runtime.NumGoroutine())
		}
		select {
		case <-alive.C:
			p.send(wire.AppendKeepalive(nil))
		default:
		}
		_, ended := v.routes[last.Key]
		return ended
	})
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
	until(t, "three replacements", func() bool { i := n.Engine(); return i.Replacements >= 3 && !i.Replacing })
	settled(t, n, p, v, len(lasting)+1)
	t.Logf("%d replacements, %d withdrawals; after each heap in KiB %d, goroutines %d", n.Engine().Replacements, v.withdrawals, heap, routines)
	if last := heap[len(heap)-1]; last > 2*heap[0]+16<<10 {
		t.Errorf("the heap grows: %d KiB after each replacement", heap)
	}
	if i := n.info(p.id); i.State != StateEstablished || i.Since != up || i.Counters.Flaps != 0 {
		t.Errorf("%+v", i)
	}
	until(t, "nothing of the old engines runs", func() bool { return runtime.NumGoroutine() <= running })
	if i := n.Engine(); i.Withdrawn >= limit {
		t.Errorf("%+v", i)
	}
}

// churn announces and withdraws distinct routes, 50 at a time, count of them or more until the engine has been replaced
// so many times, and then announces one that stays.
func churn(n *node, count int, replacements uint64) error {
	a := &evpn.Attrs{NextHop: n.addr, ExtComms: rt(65000, 7)}
	for from := 0; from < count || n.Engine().Replacements < replacements; from += 50 {
		ops := make([]evpn.RouteOp, 0, 50)
		for i := from; i < from+50; i++ {
			ops = append(ops, announce(macRoute(evpn.NewRD(n.addr, 2), numberedMAC(i), ip4, 7), a))
		}
		if err := n.Apply(ops); err != nil {
			return err
		}
		for i := range ops {
			ops[i].Withdraw = true
		}
		if err := n.Apply(ops); err != nil {
			return err
		}
	}
	return n.Apply([]evpn.RouteOp{announce(macRoute(evpn.NewRD(n.addr, 3), mac1, ip4, 7), a)})
}

// settled checks that the peer has what it should have, by its account and by what it gets when it asks for everything.
func settled(t *testing.T, n *node, p *raw, v *view, want int) {
	t.Helper()
	if len(v.duplicates) > 0 {
		t.Errorf("%d superfluous: %v", len(v.duplicates), v.duplicates[:min(len(v.duplicates), 5)])
	}
	p.send(refreshMessage(familyEVPN))
	again := newView()
	again.follow(p, func() bool { return len(again.routes) == want })
	for k := range again.routes {
		delete(v.routes, k)
	}
	v.follow(p, func() bool { return len(v.routes) == 0 }) // withdraws of the last ones may still be on their way
}

// TestEngineReplacedWithMemberships: RT constraint works behind a fresh engine, both ways.
func TestEngineReplacedWithMemberships(t *testing.T) {
	if raceDetector {
		t.Skip("StartBgp writes package-level variables of GoBGP that the engine before it reads")
	}
	n, p := wearing(t, 500, func(c *config.Config) { c.Peers[0].RTConstraint = true })
	p.caps = append(wire.AppendCapability(p.caps, capMultiprotocol, []byte{0, 1, 0, 132}), gr(0, 30, 0)...)
	p.handshake()
	await[evpn.PeerUp](n, nil)
	if err := n.SetImportRTs([]evpn.RT{evpn.NewRT(65000, 1)}); err != nil {
		t.Fatal(err)
	}
	attrs := func(n *node, number uint32) *evpn.Attrs {
		return &evpn.Attrs{NextHop: n.addr, ExtComms: rt(65000, number)}
	}
	first, second := macRoute(evpn.NewRD(n.addr, 1), mac1, ip4, 1), macRoute(evpn.NewRD(n.addr, 2), mac1, ip4, 2)
	if err := n.Apply([]evpn.RouteOp{announce(first, attrs(n, 1)), announce(second, attrs(n, 2))}); err != nil {
		t.Fatal(err)
	}
	n.ReleaseEoR()
	readMemberships(p, -1)
	p.send(membershipUpdate(false, 1))
	p.send(wire.AppendMessage(nil, wire.MessageUpdate, []byte{0, 0, 0, 6, 0x80, 15, 3, 0, 1, 132}))
	v := newView()
	v.follow(p, func() bool { return v.eors == 1 })
	if _, ok := v.routes[first.Key]; !ok || len(v.routes) != 1 {
		t.Fatalf("%v", v.routes)
	}
	v.duplicates = nil                       // before End-of-RIB everything is sent once more
	if err := churn(n, 600, 0); err != nil { // no membership: nothing of it goes out
		t.Fatal(err)
	}
	until(t, "engine is replaced", func() bool { i := n.Engine(); return i.Replacements == 1 && !i.Replacing })
	silent(p, 50*time.Millisecond)
	p.send(membershipUpdate(false, 2))
	v.follow(p, func() bool { _, ok := v.routes[second.Key]; return ok })
	p.send(membershipUpdate(true, 1))
	v.follow(p, func() bool { _, ok := v.routes[first.Key]; return !ok })
	if err := n.SetImportRTs([]evpn.RT{evpn.NewRT(65000, 1), evpn.NewRT(65000, 2)}); err != nil {
		t.Fatal(err)
	}
	if got := readMemberships(p, 1); got.keys != 1 {
		t.Errorf("%+v", got)
	}
	if len(v.duplicates) > 0 {
		t.Error(v.duplicates)
	}
}

// membershipUpdate is the peer's announcement or withdraw of a membership in 65000:n.
func membershipUpdate(withdraw bool, n uint32) []byte {
	nlri := append([]byte{96, 0, 0, 0xfd, 0xe8}, rt(65000, n)...)
	var u update
	if withdraw {
		u.parts = []mpPart{{code: codeMPUnreach, flags: 0x80, family: familyRTC, start: []byte{0, 1, 132}, nlri: nlri}}
	} else {
		u.parts = []mpPart{{
			code: codeMPReach, flags: 0x80, family: familyRTC, start: []byte{0, 1, 132, 4, 127, 0, 0, 9, 0}, nlri: nlri,
		}}
		u.rest = []byte{0x40, 1, 1, 0, 0x40, 2, 0, 0x40, 5, 4, 0, 0, 0, 100}
	}
	return u.message()
}

// TestRefreshDuringReplacement: a peer that asks for our routes gets them all, whenever it asks.
func TestRefreshDuringReplacement(t *testing.T) {
	if raceDetector {
		t.Skip("StartBgp writes package-level variables of GoBGP that the engine before it reads")
	}
	n, p := wearing(t, 1000, nil)
	p.handshake()
	lasting := manyRoutes(n, 300)
	if err := n.Apply(lasting); err != nil {
		t.Fatal(err)
	}
	n.ReleaseEoR()
	if got := readRoutes(p, -1); got.keys != len(lasting) {
		t.Fatalf("%+v", got)
	}
	if err := churn(n, 1200, 0); err != nil {
		t.Fatal(err)
	}
	for i := 0; i < 20 || n.Engine().Replacements == 0; i++ {
		p.send(refreshMessage(familyEVPN))
		v := newView()
		v.follow(p, func() bool { return len(v.routes) >= len(lasting)+1 && missing(v, lasting) == "" })
	}
}

func missing(v *view, ops []evpn.RouteOp) string {
	for i := range ops {
		if _, ok := v.routes[ops[i].Route.Key]; !ok {
			return fmt.Sprint(ops[i].Route.Key)
		}
	}
	return ""
}

// TestMoveRefused: an engine whose OPEN is not the one that the peer has got is not put behind its session, which goes on
// with the one it has.
func TestMoveRefused(t *testing.T) {
	if raceDetector {
		t.Skip("StartBgp writes package-level variables of GoBGP that the engine before it reads")
	}
	n, p := pair(t, nil)
	p.handshake()
	n.ReleaseEoR()
	readRoutes(p, -1)
	other := *n.cfg
	other.RouterID = netip.MustParseAddr("10.9.9.9")
	stranger, err := startEngine(&other, n.log)
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.stop()
	x := n.sessionsOn(n.serving.Load())[0]
	if err := x.moveTo(t.Context(), stranger); err == nil || !strings.Contains(err.Error(), "OPEN") {
		t.Errorf("moved: %v", err)
	}
	if !stranger.retire() {
		t.Error("a neighbour is left")
	}
	ops := manyRoutes(n, 10)
	if err := n.Apply(ops); err != nil {
		t.Fatal(err)
	}
	if got := readRoutes(p, len(ops)); got.keys != len(ops) {
		t.Errorf("%+v", got)
	}
}

// TestSessionEndsWhileMoving: sessions that end while the engine behind them is replaced leave nothing behind, and new
// ones get everything.
func TestSessionEndsWhileMoving(t *testing.T) {
	if raceDetector {
		t.Skip("StartBgp writes package-level variables of GoBGP that the engine before it reads")
	}
	n, p := wearing(t, 0, nil)
	n.ReleaseEoR()
	lasting := manyRoutes(n, 100)
	if err := n.Apply(lasting); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		p.handshake()
		if err := churn(n, 150, 0); err != nil { // more than there are living
			t.Fatal(err)
		}
		if i%2 == 0 {
			readRoutes(p, -1)
		}
		p.c.Close()
		await[evpn.PeerDown](n, nil)
		p = dialRetry(n, p.id, p.asn)
	}
	p.handshake() // an engine goes when the last connection that began with it is up, or ended
	until(t, "replacements are over", func() bool { i := n.Engine(); return i.Replacements > 0 && !i.Replacing })
	v := newView()
	v.follow(p, func() bool { return missing(v, lasting) == "" && v.eors == 1 })
	p.c.Close()
	await[evpn.PeerDown](n, nil)
	until(t, "no neighbour is left", func() bool {
		e := n.serving.Load()
		e.mu.Lock()
		defer e.mu.Unlock()
		return len(e.active) == 0
	})
	n.routing.Lock()
	defer n.routing.Unlock()
	if len(n.engines) != 1 {
		t.Errorf("%d engines", len(n.engines))
	}
}
