package evpn

import (
	"net/netip"
	"time"
)

// Path is one route as one peer sent it.
type Path struct {
	Route
	Attrs *Attrs

	peer     *peer
	session  uint32 // the session of the peer that sent it last; older than the peer's is stale
	received int64  // Unix time in ns
	nextKey  *Path  // the same key from another peer
	prev     *Path  // the peer's paths, oldest first
	next     *Path
}

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
	first, last *Path
	paths       int
}

// attrSet is what the core derives from a set of attributes, once for all the paths that share it.
type attrSet struct {
	paths int
	gen   uint32 // importGen the list below was made under
	vrfs  []*macVRF
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
	switch {
	case p.first == nil:
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
	if ev.Retain > 0 && p.first != nil {
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
	p.retainUntil = time.Time{}
	if n := c.sweep(p); n > 0 {
		c.note(Note{Kind: NotePeerRoutes, Peer: p.addr, Count: n, Reason: "stale routes dropped: not announced again"})
	}
}

// sweep removes the paths of p that its present session has not sent, and returns their number.
func (c *Core) sweep(p *peer) int {
	n := 0
	for path := p.first; path != nil; {
		next := path.next
		if path.session != p.session {
			c.remove(path)
			n++
		}
		path = next
	}
	return n
}

// update takes in what one UPDATE says. Withdraws come first: an UPDATE may withdraw a key and announce it again.
func (c *Core) update(u *Update, now time.Time) {
	p := c.peers[u.Peer]
	if p == nil || !p.up {
		return // a straggler of a session whose end we already know
	}
	for _, key := range u.Unreach {
		if path := c.find(key, p); path != nil {
			c.remove(path)
		}
	}
	if len(u.Reach) == 0 {
		return
	}
	for i := range u.Reach {
		c.reach(p, &u.Reach[i], u.Attrs, now)
	}
}

func (c *Core) find(key RouteKey, p *peer) *Path {
	path := c.rib[key]
	for path != nil && path.peer != p {
		path = path.nextKey
	}
	return path
}

// reach stores one announced route. The same key from the same peer replaces (T2-07, T3-04).
func (c *Core) reach(p *peer, r *Route, attrs *Attrs, now time.Time) {
	path := c.find(r.Key, p)
	if path == nil {
		path = &Path{Route: *r, Attrs: attrs, peer: p, nextKey: c.rib[r.Key], prev: p.last}
		c.rib[r.Key] = path
		if p.last == nil {
			p.first = path
		} else {
			p.last.next = path
		}
		p.last = path
		p.paths++
	} else {
		c.takeOut(path)
		path.Route, path.Attrs = *r, attrs
	}
	path.session, path.received = p.session, now.UnixNano()
	c.putIn(path)
}

// remove forgets a path.
func (c *Core) remove(path *Path) {
	c.takeOut(path)
	p := path.peer
	if path.prev == nil {
		p.first = path.next
	} else {
		path.prev.next = path.next
	}
	if path.next == nil {
		p.last = path.prev
	} else {
		path.next.prev = path.prev
	}
	p.paths--
	first := c.rib[path.Key]
	switch {
	case first != path:
		for first.nextKey != path {
			first = first.nextKey
		}
		first.nextKey = path.nextKey
	case path.nextKey != nil:
		c.rib[path.Key] = path.nextKey
	default:
		delete(c.rib, path.Key)
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
	for _, v := range c.importers(set, path.Attrs) {
		c.imported(v, path)
	}
}

func (c *Core) takeOut(path *Path) {
	set := c.attrs[path.Attrs]
	for _, v := range c.importers(set, path.Attrs) {
		c.unimported(v, path)
	}
	if set.paths--; set.paths == 0 {
		delete(c.attrs, path.Attrs)
	}
}
