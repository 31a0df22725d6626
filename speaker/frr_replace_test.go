package speaker

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/evpnd/evpnd/evpn"
)

// frrCounts is what FRR counts of a peer.
type frrCounts struct {
	Established int `json:"connectionsEstablished"`
	Dropped     int `json:"connectionsDropped"`
	Messages    struct {
		Updates       int `json:"updatesRecv"`
		Notifications int `json:"notificationsRecv"`
		Refreshes     int `json:"routeRefreshRecv"`
		Opens         int `json:"opensRecv"`
	} `json:"messageStats"`
}

func (f *frr) counts(peer string) frrCounts {
	f.t.Helper()
	var all map[string]frrCounts
	if err := f.show("show bgp neighbors "+peer+" json", &all); err != nil {
		f.t.Fatal(err)
	}
	return all[peer]
}

// routes counts what FRR has in its EVPN table.
func (f *frr) routes() int {
	var table struct {
		Prefixes int `json:"numPrefix"`
	}
	if f.show("show bgp l2vpn evpn json", &table) != nil {
		return -1
	}
	return table.Prefixes
}

// listeningFRR starts FRR as rr, which waits for the session with a.
func listeningFRR(t *testing.T) (f *frr, a, rr netip.Addr) {
	t.Helper()
	ip(t, "link set lo up")
	for i := range 3 {
		ip(t, fmt.Sprintf("address add 10.99.0.%d/32 dev lo", i+1))
	}
	return startFRR(t, " neighbor 10.99.0.1 passive"), netip.MustParseAddr("10.99.0.1"), netip.MustParseAddr("10.99.0.2")
}

// TestFRREngineReplaced: FRR does not notice that the engine behind its session is another one: not one UPDATE when
// nothing changes, and while routes come and go, the same session and the right table.
func TestFRREngineReplaced(t *testing.T) {
	if !inNamespace(t) || raceDetector {
		return
	}
	f, a, rr := listeningFRR(t)
	n := idleNode(t, nodeConfig(65000, a, 179, peerConfig(65000, rr, 179, a)))
	n.wearLimit = 400
	n.run()
	await[evpn.PeerUp](n, nil)
	if err := n.Apply(manyRoutes(n, 100)); err != nil {
		t.Fatal(err)
	}
	n.ReleaseEoR()
	until(t, "FRR has our routes", func() bool { return f.routes() == 100 })
	start := f.counts("10.99.0.1")
	for range 3 {
		if err := n.replace(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if start.Messages.Updates == 0 || start.Established != 1 {
		t.Fatalf("%+v", start)
	}
	if now := f.counts("10.99.0.1"); now != start {
		t.Errorf("before %+v\nafter  %+v", start, now)
	}
	if err := churn(n, 3000, 6); err != nil {
		t.Fatal(err)
	}
	until(t, "replacements are over", func() bool { return !n.Engine().Replacing })
	until(t, "FRR has what is left", func() bool { return f.routes() == 101 })
	now := f.counts("10.99.0.1")
	sent := int(n.info(rr).Counters.UpdatesOut)
	t.Logf("%d replacements, FRR has got %d UPDATEs", n.Engine().Replacements, now.Messages.Updates)
	if now.Messages.Updates != sent {
		t.Errorf("FRR counts %d UPDATEs, we count %d", now.Messages.Updates, sent)
	}
	now.Messages.Updates = start.Messages.Updates
	if now != start {
		t.Errorf("before %+v\nafter  %+v", start, now)
	}
}
