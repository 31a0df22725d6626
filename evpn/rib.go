package evpn

import (
	"net/netip"
	"time"
)

// peer is one BGP neighbour, kept while it is up or has routes that are retained.
type peer struct {
	addr        netip.Addr
	asn         uint32
	up          bool
	eor         bool // End-of-RIB arrived in this life of the daemon
	complete    bool // End-of-RIB arrived in this session
	needEncap   bool
	session     uint32
	retainUntil time.Time // stale routes are dropped then; zero: none are retained
	paths       int
}

// attrSet is what the core derives from a set of attributes, once for all the paths that share it.
type attrSet struct {
	paths int
	gen   uint32 // importGen the list below was made under
	vrfs  []*macVRF
	named bool // its VTEPs are counted in Core.ways
}

func (c *Core) peerOf(addr netip.Addr) *peer {
	p := c.peers[addr]
	if p == nil {
		p = &peer{addr: addr}
		c.peers[addr] = p
	}
	return p
}

func (c *Core) peerUp(ev PeerUp, now time.Time) {
	p := c.peerOf(ev.Peer)
	p.asn, p.up, p.needEncap, p.complete = ev.ASN, true, ev.NeedEncap, false
	p.session++
	c.history.session(peerUp, p, recordMore{})
	switch {
	case p.paths == 0:
	case ev.Forwarding: // back in time: from here on End-of-RIB decides, or the stale timer (RFC 4724 §4.2, GR-09)
		p.retainUntil = now.Add(staleTime)
	default:
		p.retainUntil = time.Time{}
		n := c.sweep(p)
		c.note(Note{Kind: NotePeerRoutes, Peer: p.addr, Count: n, Reason: "stale routes dropped: peer did not keep its forwarding state"})
	}
}

func (c *Core) peerDown(ev PeerDown, now time.Time) {
	p := c.peers[ev.Peer]
	if p == nil {
		return
	}
	p.up = false
	p.session++
	c.history.session(peerDown, p, recordMore{text: ev.Reason})
	if ev.Retain > 0 && p.paths > 0 {
		// A second loss must not lengthen what the first allowed (GR-09).
		if p.retainUntil.IsZero() {
			p.retainUntil = now.Add(ev.Retain)
		}
		c.note(Note{Kind: NotePeerRoutes, Peer: p.addr, Count: p.paths, Reason: "routes retained: " + ev.Reason})
		return
	}
	p.retainUntil = time.Time{}
	n := c.sweep(p)
	c.note(Note{Kind: NotePeerRoutes, Peer: p.addr, Count: n, Reason: "routes dropped: " + ev.Reason})
}

func (c *Core) endOfRIB(ev EndOfRIB) {
	p := c.peers[ev.Peer]
	if p == nil || !p.up {
		return
	}
	p.eor, p.complete = true, true
	c.history.session(peerEndOfRIB, p, recordMore{count: p.paths})
	p.retainUntil = time.Time{}
	if n := c.sweep(p); n > 0 {
		c.note(Note{Kind: NotePeerRoutes, Peer: p.addr, Count: n, Reason: "stale routes dropped: not announced again"})
	}
}

// sweep removes the paths of p that its present session has not sent, and returns their number.
func (c *Core) sweep(p *peer) int {
	if p.paths == 0 {
		return 0
	}
	stale := c.rib.from(func(path *Path) bool { return path.peer == p && path.session != p.session })
	for _, path := range stale {
		c.history.route(routeDropped, path)
		c.remove(path)
	}
	return len(stale)
}

// update takes in what one UPDATE says. Withdraws come first: an UPDATE may withdraw a key and announce it again.
func (c *Core) update(u *Update, now time.Time) {
	p := c.peers[u.Peer]
	if p == nil || !p.up {
		return // a straggler of a session whose end we already know
	}
	for i := range u.Unreach {
		if path := c.rib.find(&u.Unreach[i], p); path != nil {
			c.history.route(routeWithdrawn, path)
			c.remove(path)
		}
	}
	for i := range u.Reach {
		c.reach(p, &u.Reach[i], u.Attrs, now)
	}
}

// reach stores one announced route. The same key from the same peer replaces (T2-07, T3-04).
func (c *Core) reach(p *peer, r *Route, attrs *Attrs, now time.Time) {
	path := c.rib.find(&r.Key, p)
	if path == nil {
		path = newPath(p, r, attrs)
		c.rib.put(path)
		p.paths++
		c.received[r.Key.Type]++
		c.history.route(routeReceived, path)
	} else {
		changed := path.Attrs != attrs && *path.Attrs != *attrs || path.Route() != *r
		c.takeOut(path)
		path.say(r, attrs)
		if changed {
			c.history.route(routeReceived, path)
		}
	}
	path.session, path.received = p.session, now.UnixNano()
	c.putIn(path)
}

// remove forgets a path.
func (c *Core) remove(path *Path) {
	c.takeOut(path)
	path.peer.paths--
	c.rib.drop(path)
	if c.received[path.kind]--; c.received[path.kind] == 0 {
		delete(c.received, path.kind)
	}
}

// putIn hands a path to every MAC-VRF that imports it; takeOut is the opposite.
func (c *Core) putIn(path *Path) {
	set := c.attrs[path.Attrs]
	if set == nil {
		set = &attrSet{gen: c.importGen - 1}
		c.attrs[path.Attrs] = set
	}
	set.paths++
	vrfs := c.importers(set, path.Attrs)
	c.named(set, path.Attrs, len(vrfs) > 0)
	for _, v := range vrfs {
		c.imported(v, path)
	}
}

func (c *Core) takeOut(path *Path) {
	set := c.attrs[path.Attrs]
	for _, v := range c.importers(set, path.Attrs) {
		c.unimported(v, path)
	}
	if set.paths--; set.paths == 0 {
		c.named(set, path.Attrs, false)
		delete(c.attrs, path.Attrs)
	}
}
