package evpn

import (
	"net/netip"
	"reflect"
	"testing"

	"pgregory.net/rapid"
)

// follower rebuilds the tables from keys, rows and changes, as somebody far away would.
type follower struct {
	seen uint64
	macs map[MACKey]MACView
	ips  map[IPKey]NeighborView

	seenRoutes uint64
	routes     map[RouteName]RouteView
}

// startOver reads all rows.
func (f *follower) startOver(c *Core) {
	f.seen = c.Follow()
	f.macs, f.ips = map[MACKey]MACView{}, map[IPKey]NeighborView{}
	for _, vni := range c.ServedVNIs() {
		for _, k := range c.MACKeys(vni) {
			f.mac(c, k)
		}
		for _, k := range c.IPKeys(vni) {
			f.ip(c, k)
		}
	}
	f.startRoutesOver(c)
}

// startRoutesOver reads all routes.
func (f *follower) startRoutesOver(c *Core) {
	f.seenRoutes, f.routes = c.FollowRoutes(), map[RouteName]RouteView{}
	every := func(*RouteKey) bool { return true }
	f.readRoutes(c, append(c.ReceivedRoutes(netip.Addr{}, every), c.AnnouncedRoutes(every)...))
}

func (f *follower) readRoutes(c *Core, names []RouteName) {
	c.RouteRows(names, func(n RouteName, view RouteView, ok bool) {
		if ok {
			f.routes[n] = view
		} else {
			delete(f.routes, n)
		}
	})
}

// catchUpRoutes reads which routes have changed, or all when they were too many.
func (f *follower) catchUpRoutes(c *Core) {
	for f.seenRoutes < c.RouteChanges() {
		ch := c.RouteChangesAfter(f.seenRoutes, 3)
		if ch.Lost > 0 {
			f.startRoutesOver(c)
			return
		}
		f.readRoutes(c, ch.Routes)
		f.seenRoutes = ch.UpTo
	}
}

func (f *follower) mac(c *Core, k MACKey) {
	if view, ok := c.MACRow(k, false); ok {
		f.macs[k] = view
	} else {
		delete(f.macs, k)
	}
}

func (f *follower) ip(c *Core, k IPKey) {
	if view, ok := c.NeighborRow(k, false); ok {
		f.ips[k] = view
	} else {
		delete(f.ips, k)
	}
}

// catchUp reads what has changed, a few changes at a time.
func (f *follower) catchUp(c *Core) (lost uint64) {
	for f.seen < c.Changes() {
		ch := c.ChangesAfter(f.seen, 0, 3)
		for _, k := range ch.MACs {
			f.mac(c, k)
		}
		for _, k := range ch.IPs {
			f.ip(c, k)
		}
		f.seen, lost = ch.UpTo, lost+ch.Lost
	}
	f.catchUpRoutes(c)
	return lost
}

// TestFollower: whatever happens, somebody who read the tables once and then only what changed has the tables as they are.
func TestFollower(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x, f := newChaos(t), follower{}
		f.startOver(x.core)
		for range rapid.IntRange(1, 100).Draw(t, "steps") {
			drawStep(t, lastStep)(x)
			x.flush()
			if rapid.IntRange(0, 3).Draw(t, "read") == 0 {
				continue
			}
			f.catchUp(x.core)
			f.compare(t, x.core)
		}
		x.rest()
		f.catchUp(x.core)
		f.compare(t, x.core)
	})
}

func (f *follower) compare(t *rapid.T, c *Core) {
	macs, ips := map[MACKey]MACView{}, map[IPKey]NeighborView{}
	for _, v := range c.MACs(0, false) {
		macs[MACKey{v.VNI, v.MAC}] = v
	}
	for _, v := range c.Neighbors(0, false) {
		ips[IPKey{v.VNI, v.IP}] = v
	}
	for k, v := range macs {
		if !reflect.DeepEqual(f.macs[k], v) {
			t.Fatalf("row %v:\nread     %+v\nit is    %+v", k, f.macs[k], v)
		}
	}
	for k, v := range ips {
		if !reflect.DeepEqual(f.ips[k], v) {
			t.Fatalf("row %v:\nread     %+v\nit is    %+v", k, f.ips[k], v)
		}
	}
	f.compareRoutes(t, c)
	if len(f.macs) != len(macs) || len(f.ips) != len(ips) {
		t.Fatalf("%d MACs and %d IPs, want %d and %d", len(f.macs), len(f.ips), len(macs), len(ips))
	}
}

func (f *follower) compareRoutes(t *rapid.T, c *Core) {
	routes := append(c.Routes(netip.Addr{}), c.OwnRoutes()...)
	for _, v := range routes {
		if was := f.routes[RouteName{v.Key, v.Peer}]; !reflect.DeepEqual(was, v) {
			t.Fatalf("route %v of %v:\nread     %+v\nit is    %+v", v.Key, v.Peer, was, v)
		}
	}
	if len(f.routes) != len(routes) {
		t.Fatalf("%d routes, want %d", len(f.routes), len(routes))
	}
}

// TestFollowerLeftBehind: who is too far behind is told how much it missed.
func TestFollowerLeftBehind(t *testing.T) {
	c := benchCore()
	var f follower
	f.startOver(c)
	feed(c, benchUpdates(1000))
	if lost := f.catchUp(c); lost != 0 || len(f.macs) != 1000 || len(f.ips) != 1000 {
		t.Errorf("%d lost, %d MACs, %d IPs", lost, len(f.macs), len(f.ips))
	}
	feed(c, benchUpdates(50_000))
	behind := c.Changes() - f.seen
	if lost := f.catchUp(c); lost != behind-changeRecords {
		t.Errorf("%d lost of %d", lost, behind)
	}
	f.startOver(c)
	feed(c, withdraws(benchUpdates(1000)))
	if lost := f.catchUp(c); lost != 0 || len(f.macs) != 49_000 {
		t.Errorf("after starting over %d lost, %d MACs", lost, len(f.macs))
	}
	if ch := c.ChangesAfter(f.seen+9, 0, 5); ch.UpTo != c.Changes() || ch.Lost != 0 {
		t.Errorf("ahead of time: %+v", ch)
	}
}
