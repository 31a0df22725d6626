package speaker

import (
	"bytes"
	"runtime/pprof"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/evpnd/evpnd/evpn"
)

// sendQueues counts the goroutines of GoBGP's send queues, one of each neighbour. Those of neighbours that were deleted with
// something in the queue never end (v4.8.0).
func sendQueues() int {
	var b bytes.Buffer
	_ = pprof.Lookup("goroutine").WriteTo(&b, 2)
	return strings.Count(b.String(), "created by github.com/eapache/channels.NewInfiniteChannel")
}

// TestSessionsLeaveNoQueue: sessions that end while routes come and go leave nothing of theirs in GoBGP. Two of thirty may, on
// a machine that is so busy that GoBGP needs longer than lastWords.
func TestSessionsLeaveNoQueue(t *testing.T) {
	n, p := wearing(t, 1<<30, nil)
	n.ReleaseEoR()
	if err := n.Apply(manyRoutes(n, 3000)); err != nil {
		t.Fatal(err)
	}
	var routes sync.WaitGroup
	stop := make(chan struct{})
	routes.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			if err := churn(n, 50, 0); err != nil {
				t.Error(err)
				return
			}
		}
	})
	before := sendQueues()
	for i := range 30 {
		p.handshake()
		await[evpn.PeerUp](n, nil)
		if i%3 == 0 {
			readRoutes(p, 100)
		}
		p.c.Close()
		await[evpn.PeerDown](n, nil)
		p = dialRetry(n, p.id, p.asn)
	}
	close(stop)
	routes.Wait()
	until(t, "nothing is left but the neighbour of a session that begins", func() bool { return sendQueues() <= before+2 })
}
