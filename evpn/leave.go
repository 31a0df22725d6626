package evpn

import (
	"maps"
	"net/netip"
	"slices"
)

// leave stops the frames to VTEPs that nothing will name once the routes of p are gone, all of which are stale: with one
// operation for each VTEP, since taking away the entries of many hosts one after the other takes long. It reports that such
// an operation is not out yet. Where one batch has room for all the entries, there is nothing to gain.
func (c *Core) leave(p *peer) bool {
	if p.fresh > 0 || p.paths <= maxBatchOps {
		return false
	}
	waits := false
	named := c.namedBy(p)
	for _, vtep := range slices.SortedFunc(maps.Keys(named), netip.Addr.Compare) {
		t, w := c.vteps[vtep], c.ways[vtep]
		if t == nil || w == nil || w.uses > named[vtep] || t.refs <= maxBatchOps {
			continue
		}
		if !t.leaves {
			t.leaves = true
			c.steer(vtep)
		}
		waits = waits || t.place.is(queued)
	}
	return waits
}

// namedBy counts the sets of attributes by the VTEPs that they name, of those that only routes of p have.
func (c *Core) namedBy(p *peer) map[netip.Addr]int {
	named := map[netip.Addr]int{}
	for a, set := range c.attrs {
		if !set.named || set.peer != p {
			continue
		}
		named[a.NextHop]++
		if e := a.PMSI.Endpoint; e != a.NextHop {
			named[e]++
		}
	}
	return named
}

// leaves reports that no frames are sent to a VTEP any more since all routes that name it are about to go.
func (c *Core) leaves(vtep netip.Addr) bool {
	t := c.vteps[vtep]
	return t != nil && t.leaves
}

// stay takes a VTEP into use again that another route names, before the last of its entries is gone.
func (c *Core) stay(vtep netip.Addr) {
	if t := c.vteps[vtep]; t != nil && t.leaves {
		t.leaves = false
		c.steer(vtep)
	}
}
