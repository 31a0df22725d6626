package speaker

import (
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/evpnd/evpnd/config"
	"github.com/evpnd/evpnd/evpn"
	"github.com/evpnd/evpnd/evpn/wire"
)

// report logs the spread of the times that sessions took to come up.
func report(t *testing.T, took []time.Duration) {
	slices.Sort(took)
	median := took[len(took)/2]
	t.Logf("n %d: median %s, p90 %s, max %s", len(took), median, took[len(took)*9/10], took[len(took)-1])
	if median > 100*time.Millisecond {
		t.Errorf("median %s is above 100 ms", median)
	}
}

// TestSimultaneousStart starts two speakers that both dial, at once, again and again: no session is stuck.
func TestSimultaneousStart(t *testing.T) {
	var took []time.Duration
	collisions := uint64(0)
	for range 50 {
		addr, port := addresses(t, 2)
		cfgs := []*config.Config{
			nodeConfig(65000, addr[0], port, peerConfig(65000, addr[1], port, addr[0])),
			nodeConfig(65000, addr[1], port, peerConfig(65000, addr[0], port, addr[1])),
		}
		nodes := make([]*node, 2)
		var wg sync.WaitGroup
		for i, cfg := range cfgs {
			wg.Go(func() { nodes[i] = idleNode(t, cfg) })
		}
		wg.Wait()
		start := time.Now()
		for _, n := range nodes {
			n.run()
		}
		for _, n := range nodes {
			await[evpn.PeerUp](n, nil)
		}
		took = append(took, time.Since(start))
		for i, n := range nodes {
			if n.info(addr[1-i]).LastSent != "" {
				collisions++
			}
		}
		until(t, "both call it established", func() bool {
			return nodes[0].info(addr[1]).State == StateEstablished && nodes[1].info(addr[0]).State == StateEstablished
		})
		for _, n := range nodes {
			n.stop()
		}
	}
	t.Logf("%d collisions decided", collisions)
	report(t, took)
}

// TestRestarts restarts one of two speakers, in turn, and measures from both being ready to the session being up. Under
// the race detector both restart: StartBgp of one GoBGP writes package-level variables that another one reads.
func TestRestarts(t *testing.T) {
	addr, port := addresses(t, 2)
	cfgs := []*config.Config{
		nodeConfig(65000, addr[0], port, peerConfig(65000, addr[1], port, addr[0])),
		nodeConfig(65001, addr[1], port, peerConfig(65000, addr[0], port, addr[1])),
	}
	cfgs[0].Peers[0].ASN = 65001
	nodes := []*node{idleNode(t, cfgs[0]), idleNode(t, cfgs[1])}
	nodes[0].run()
	nodes[1].run()
	await[evpn.PeerUp](nodes[0], nil)
	await[evpn.PeerUp](nodes[1], nil)
	var took []time.Duration
	for i := range 100 {
		restart := []int{i % 2}
		nodes[i%2].stop()
		if await[evpn.PeerDown](nodes[1-i%2], nil); raceDetector {
			restart = []int{0, 1}
			nodes[1-i%2].stop()
		}
		for _, j := range restart {
			nodes[j] = idleNode(t, cfgs[j])
		}
		start := time.Now()
		for _, j := range restart {
			nodes[j].run()
		}
		await[evpn.PeerUp](nodes[0], nil)
		await[evpn.PeerUp](nodes[1], nil)
		took = append(took, time.Since(start))
	}
	nodes[0].stop()
	nodes[1].stop()
	report(t, took)
}

// TestFlapsLeaveNothing: 50 flaps with routes, however they end, leave no goroutine and no GoBGP neighbour.
func TestFlapsLeaveNothing(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	n, p := pair(t, nil)
	if err := n.Apply(manyRoutes(n, 1000)); err != nil {
		t.Fatal(err)
	}
	var routines int
	for i := range 50 {
		p.handshake()
		await[evpn.PeerUp](n, nil)
		_, msg := sentinel(t, p, i)
		p.send(msg)
		switch i % 4 {
		case 0:
			p.c.Close()
		case 1:
			p.c.SetLinger(0) // RST
			p.c.Close()
		case 2:
			readRoutes(p, 1000)
			p.send(cease(ceaseShutdown, "flap").message())
			p.c.Close()
		case 3:
			n.ClosePeer(p.id, "flap")
		}
		await[evpn.PeerDown](n, nil)
		p.c.Close()
		if i == 10 {
			routines = runtime.NumGoroutine()
		}
		p = dialRetry(n, p.id, p.asn)
	}
	p.c.Close()
	until(t, "goroutines are as before", func() bool { return runtime.NumGoroutine() <= routines })
	until(t, "no neighbour is left", func() bool {
		e := n.serving.Load()
		e.mu.Lock()
		defer e.mu.Unlock()
		return len(e.active) == 0
	})
	n.stop()
}

// TestCollision: of two connections in OpenConfirm the one dialed by the side with the higher identifier stays, of two
// in the same direction the newer one; the other gets 6/7 (RFC 4271 §6.8).
func TestCollision(t *testing.T) {
	for name, c := range map[string]struct {
		id       string // of the peer; ours is 127.3.x.1
		oursWins bool
	}{"we rank higher": {"1.1.1.1", true}, "the peer ranks higher": {"200.1.1.1", false}} {
		t.Run(name, func(t *testing.T) {
			a, port := addresses(t, 2)
			l, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(netip.AddrPortFrom(a[1], port)))
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			n := startNode(t, nodeConfig(65000, a[0], port, peerConfig(65000, a[1], port, a[0])))
			id := netip.MustParseAddr(c.id)
			conn, err := l.AcceptTCP()
			if err != nil {
				t.Fatal(err)
			}
			ours, theirs := newRaw(t, conn, 65000, id), dialRetry(n, a[1], 65000)
			theirs.id = id
			for _, p := range []*raw{ours, theirs} {
				p.expect(wire.MessageOpen)
			}
			ours.sendOpen()
			ours.expect(wire.MessageKeepalive) // it is in OpenConfirm
			theirs.sendOpen()
			winner, loser := ours, theirs
			if !c.oursWins {
				winner, loser = theirs, ours
			}
			loser.expectNotification(codeCease, ceaseCollision)
			winner.send(wire.AppendKeepalive(nil))
			await[evpn.PeerUp](n, nil)
		})
	}
	t.Run("same direction", func(t *testing.T) {
		n, old := pair(t, nil)
		old.expect(wire.MessageOpen)
		old.sendOpen()
		old.expect(wire.MessageKeepalive)
		newer := dialRetry(n, old.id, 65000)
		newer.handshake()
		old.expectNotification(codeCease, ceaseCollision)
		await[evpn.PeerUp](n, nil)
	})
}
