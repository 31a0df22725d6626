package evpn

import (
	"math/rand/v2"
	"testing"
)

// TestQueue: what goes in comes out in the same order, however the two alternate, and an emptied queue keeps one block.
func TestQueue(t *testing.T) {
	var q queue
	var want []holder
	random := rand.New(rand.NewPCG(1, 2))
	for _, most := range []int{3, 5000, 40, 2 * queueBlock, 1} {
		for range random.IntN(most) + most {
			h := &macEntry{}
			q.add(h)
			want = append(want, h)
		}
		for range random.IntN(len(want) + 1) {
			if got := q.next(); got != want[0] {
				t.Fatalf("another entry than the first of %d", len(want))
			}
			want = want[1:]
		}
		if q.len() != len(want) {
			t.Fatalf("%d entries, want %d", q.len(), len(want))
		}
	}
	for ; q.len() > 0; want = want[1:] {
		if got := q.next(); got != want[0] {
			t.Fatalf("another entry than the first of %d", len(want))
		}
	}
	if len(want) != 0 || len(q.blocks) != 1 || q.taken != 0 {
		t.Fatalf("%d entries are lost, and %d blocks are kept with %d taken", len(want), len(q.blocks), q.taken)
	}
	for i, h := range q.blocks[0][:queueBlock] {
		if h != nil {
			t.Fatalf("entry %d is not let go", i)
		}
	}
}

// TestQueueAllocations: entries that come and go one by one take no room anew.
func TestQueueAllocations(t *testing.T) {
	var q queue
	h := &macEntry{}
	if n := testing.AllocsPerRun(1000, func() { q.add(h); q.next() }); n > 0 {
		t.Errorf("%v allocations for an entry", n)
	}
}
