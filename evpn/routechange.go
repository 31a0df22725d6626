package evpn

import (
	"cmp"
	"net/netip"
	"slices"
)

// routeChangeRecords is how many changes of routes are remembered for those who follow them: 8 MB, once somebody does.
const routeChangeRecords = 1 << 16

// RouteName names a row of the route table: a route that a peer sent, or one of ours.
type RouteName struct {
	Key  RouteKey
	Peer netip.Addr // the zero Addr: ours
}

// compare puts received routes first, then ours, each by key and peer.
func (n RouteName) compare(o RouteName) int {
	if own := !n.Peer.IsValid(); own != !o.Peer.IsValid() {
		if own {
			return 1
		}
		return -1
	}
	return cmp.Or(n.Key.compare(o.Key), n.Peer.Compare(o.Peer))
}

// pathChanged takes down that the row of a received route may be different.
func (c *Core) pathChanged(p *Path) {
	if c.routeChanges != nil {
		c.routeChanges.Add(RouteName{Key: p.Key(), Peer: p.peer.addr})
	}
}

// choiceChanged takes down that another one of these routes may be chosen.
func (c *Core) choiceChanged(routes *pathList) {
	if c.routeChanges == nil {
		return
	}
	for p := range routes.all() {
		c.pathChanged(p)
	}
}

// announcedChanged takes down which rows of ours are different.
func (c *Core) announcedChanged(ops []RouteOp) {
	if c.routeChanges == nil {
		return
	}
	for i := range ops {
		c.routeChanges.Add(RouteName{Key: ops[i].Route.Key})
	}
}

// manyRoutesChanged takes down that there are too many to name them: whoever follows starts over.
func (c *Core) manyRoutesChanged() {
	if c.routeChanges != nil {
		c.routeChanges.Forget()
	}
}

// FollowRoutes is Follow for the route table.
func (c *Core) FollowRoutes() uint64 {
	if c.routeChanges == nil {
		c.routeChanges = NewChangeLog[RouteName](routeChangeRecords)
	}
	return c.routeChanges.Last()
}

// RouteChanges returns the number of the last change; 0 also when nobody follows.
func (c *Core) RouteChanges() uint64 { return c.routeChanges.Last() }

// ChangedRoutes is which routes may have become different.
type ChangedRoutes struct {
	Routes []RouteName // received ones first, each once
	UpTo   uint64      // the number of the last change that is in it
	Lost   uint64      // changes that are forgotten, or were too many to be named: the reader must start over
}

// RouteChangesAfter returns the names in the next changes behind a number, at most limit of them.
func (c *Core) RouteChangesAfter(number uint64, limit int) ChangedRoutes {
	names, upTo, lost := c.routeChanges.After(number, limit)
	SortRouteNames(names)
	return ChangedRoutes{Routes: slices.Compact(names), UpTo: upTo, Lost: lost}
}

// SortRouteNames puts names into the order of the table: received routes first, then ours, each by key and peer.
func SortRouteNames(names []RouteName) { slices.SortFunc(names, RouteName.compare) }

// ReceivedRoutes returns the names of the received routes for whose keys want is true, or with peer a valid address those of
// this peer, in no order: sorting them is left to those who have the time.
func (c *Core) ReceivedRoutes(peer netip.Addr, want func(*RouteKey) bool) []RouteName {
	var out []RouteName
	for _, path := range c.rib.paths {
		for ; path != nil; path = path.nextKey {
			if peer.IsValid() && path.peer.addr != peer {
				continue
			}
			if k := path.Key(); want(&k) {
				out = append(out, RouteName{Key: k, Peer: path.peer.addr})
			}
		}
	}
	return out
}

// AnnouncedRoutes is ReceivedRoutes for those of ours.
func (c *Core) AnnouncedRoutes(want func(*RouteKey) bool) []RouteName {
	var out []RouteName
	for _, v := range c.vrfsFor(0) {
		add := func(r Route) {
			if want(&r.Key) {
				out = append(out, RouteName{Key: r.Key})
			}
		}
		if v.imet {
			add(c.ownIMET(v))
		}
		for _, g := range v.gateways {
			add(c.ownRoute(v, g.MAC, g.IP))
		}
		for _, m := range v.macs {
			if m.announced() {
				add(c.ownRoute(v, m.mac, netip.Addr{}))
			}
		}
		for e := range v.ips.all() {
			if o := e.out(); o != nil {
				add(c.ownRoute(v, o.mac, e.ip))
			}
		}
	}
	return out
}

// RouteRows hands over the rows of the route table that names name, in their order; false where there is none.
func (c *Core) RouteRows(names []RouteName, take func(RouteName, RouteView, bool)) {
	var byRD map[RD]*macVRF // ours have RDs of their own (RD-01)
	for _, n := range names {
		if n.Peer.IsValid() {
			view, ok := c.receivedRow(n)
			take(n, view, ok)
			continue
		}
		if byRD == nil {
			byRD = make(map[RD]*macVRF, len(c.vrfs))
			for _, v := range c.vrfsFor(0) {
				byRD[v.rd] = v
			}
		}
		v := byRD[n.Key.RD]
		if v == nil {
			take(n, RouteView{}, false)
			continue
		}
		r, a := c.announcedRow(v, n.Key)
		if a == nil {
			take(n, RouteView{}, false)
			continue
		}
		take(n, RouteView{Route: r, Attrs: *a, Best: true, VNIs: []VNI{v.vni}}, true)
	}
}

func (c *Core) receivedRow(n RouteName) (RouteView, bool) {
	p := c.peers[n.Peer]
	if p == nil {
		return RouteView{}, false
	}
	path := c.rib.find(&n.Key, p)
	if path == nil {
		return RouteView{}, false
	}
	return c.routeView(path), true
}

// announcedRow returns a route that v announces; nil attributes: it does not.
func (c *Core) announcedRow(v *macVRF, k RouteKey) (r Route, a *Attrs) {
	switch g := (Gateway{MAC: k.MAC, IP: k.IP}); {
	case k.Type == TypeIMET:
		if r = c.ownIMET(v); v.imet {
			a = c.imetAttrs(v)
		}
	case slices.Contains(v.gateways, g):
		r, a = c.ownRoute(v, g.MAC, g.IP), c.ownAttrs(v, g.setKey())
	case k.IP.IsValid():
		if e := v.ips.get(k.IP); e != nil && e.out() != nil && e.out().mac == k.MAC {
			r, a = c.ownRoute(v, k.MAC, k.IP), c.ownAttrs(v, e.out().setKey(k.IP))
		}
	default:
		if m := v.macs[k.MAC]; m != nil && m.announced() {
			r, a = c.ownRoute(v, k.MAC, netip.Addr{}), c.ownAttrs(v, setKey{mobility: m.announcedS()})
		}
	}
	if r.Key != k {
		return Route{}, nil
	}
	return r, a
}
