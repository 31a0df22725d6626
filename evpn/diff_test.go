package evpn

import (
	"slices"
	"testing"
)

// TestObservedAgain: each read-back is compared by itself. What one showed and the next does not is gone and is written
// again, in the tables of VNIs as in that of the VTEPs.
func TestObservedAgain(t *testing.T) {
	c, k := benchCore(), newMapKernel()
	for _, u := range benchUpdates(100) {
		c.Handle(u, epoch)
		flushAndWrite(c, k)
	}
	for _, vni := range []VNI{100, 0} {
		whole := k.observe(vni, c.batch)
		if len(whole.Entries) == 0 {
			t.Fatalf("nothing is in the table of VNI %d", vni)
		}
		for i, lost := range whole.Entries {
			for range 2 {
				c.Handle(whole, epoch)
				if ops := c.Flush(epoch).Kernel.Ops; len(ops) != 0 {
					t.Fatalf("all is there, but for %v", ops)
				}
			}
			part := whole
			part.Entries = slices.Delete(slices.Clone(whole.Entries), i, i+1)
			c.Handle(part, epoch)
			b := c.Flush(epoch).Kernel
			if len(b.Ops) != 1 || b.Ops[0].Key != lost.Key || b.Ops[0].Del || !b.Ops[0].Stood {
				t.Fatalf("%s is gone, and is followed by %v", lost.Key, b.Ops)
			}
			c.Handle(k.apply(b), epoch)
			whole.AsOf = c.batch
		}
	}
}
