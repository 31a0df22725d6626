package evpn

import (
	"testing"
	"time"
)

// TestLargeMACVRFIsLookedUp: the audit of a large MAC-VRF asks for some entries at a time, when nothing is being written, and
// has what differs written again. Nothing is dumped but the table of VTEPs.
func TestLargeMACVRFIsLookedUp(t *testing.T) {
	const routes = auditAtOnce/100*100 + 100
	c := benchCore()
	feed(c, benchUpdates(routes))
	now := epoch.Add(auditPeriod)
	var lost, kept []KernelOp
	asked, looks := 0, 0
	for looks == 0 || !c.auditor.done() || c.auditor.asked {
		out := c.Flush(now)
		for _, vni := range out.ReadBack {
			if vni != 0 {
				t.Fatalf("VNI %d is read back", vni)
			}
			c.Handle(ReadBackDone{}, now)
		}
		for _, op := range out.Kernel.Ops {
			if !op.Stood {
				t.Fatalf("%+v is written without the right to put it right", op)
			}
		}
		kept = append(kept, out.Kernel.Ops...)
		if len(out.Look) > 0 {
			if looks++; len(out.Look) > auditChunk {
				t.Fatalf("%d entries looked up at once", len(out.Look))
			}
			if len(out.Kernel.Ops) > 0 {
				t.Fatal("looked up beside writing")
			}
			asked += len(out.Look)
			answer := Looked{AsOf: c.acked, Keys: out.Look}
			for i, key := range out.Look {
				if i == 0 { // one in each chunk is gone
					lost = append(lost, KernelOp{Key: key})
					continue
				}
				answer.Entries = append(answer.Entries, ObservedEntry{Key: key, Entry: c.entry(c.holderOf(key).slot().have), Ours: true})
			}
			c.Handle(answer, now)
		}
		if len(out.Kernel.Ops) > 0 {
			c.Handle(Applied{Batch: out.Kernel.Seq}, now)
		}
		now = now.Add(time.Millisecond)
	}
	for out := c.Flush(now); len(out.Kernel.Ops) > 0; out = c.Flush(now) {
		kept = append(kept, out.Kernel.Ops...)
		c.Handle(Applied{Batch: out.Kernel.Seq}, now)
	}
	if asked != 2*routes {
		t.Errorf("%d entries looked up, want a MAC and an IP for each of %d routes", asked, routes)
	}
	if len(lost) != looks || len(kept) != len(lost) {
		t.Errorf("%d entries lost in %d looks, %d written again", len(lost), looks, len(kept))
	}
	took := now.Sub(epoch.Add(auditPeriod))
	if least := time.Duration(looks-1) * auditPause; took < least {
		t.Errorf("all looked up in %s, want pauses of %s", took, auditPause)
	}
}
