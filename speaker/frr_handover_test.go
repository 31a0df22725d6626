package speaker

import (
	"testing"
	"time"

	"github.com/evpnd/evpnd/evpn"
)

// TestFRRHandedOver: FRR does not notice that another process has its session: the same session, not one UPDATE while
// nothing changes, and then those of what does.
func TestFRRHandedOver(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	notRaced(t)
	f, a, rr := listeningFRR(t)
	n := startNode(t, nodeConfig(65000, a, 179, peerConfig(65000, rr, 179, a)))
	c := newCore(n)
	until(t, "session is up", func() bool {
		n.hear(c)
		peers := c.Peers()
		return len(peers) == 1 && peers[0].EoR
	})
	ours := manyRoutes(n, 100)
	if err := n.Apply(ours); err != nil {
		t.Fatal(err)
	}
	n.ReleaseEoR()
	until(t, "FRR has our routes", func() bool { return f.routes() == 100 })
	start := f.counts("10.99.0.1")
	for range 3 {
		all := n.handOver(c)
		next, facts := succeed(t, n.cfg, all)
		c = newCore(next)
		for _, ev := range facts {
			c.Handle(ev, time.Now())
		}
		next.run()
		if err := next.Apply(ours); err != nil {
			t.Fatal(err)
		}
		next.ReleaseEoR()
		until(t, "an engine is behind the session", func() bool { return len(next.sessionsOn(next.serving.Load())) == 1 })
		n = next
	}
	if now := f.counts("10.99.0.1"); now != start || start.Messages.Updates == 0 || start.Established != 1 {
		t.Errorf("before %+v\nafter  %+v", start, now)
	}
	if err := n.Apply([]evpn.RouteOp{{Withdraw: true, Route: ours[0].Route}, announce(macRoute(evpn.NewRD(a, 3), mac1, ip4, 7), ours[0].Attrs)}); err != nil {
		t.Fatal(err)
	}
	until(t, "FRR has what changed", func() bool {
		return f.counts("10.99.0.1").Messages.Updates == start.Messages.Updates+2 && f.routes() == 100
	})
}
