package evpn

import (
	"net/netip"
	"time"
)

// peer is one BGP neighbour, kept while it is up or has routes that are retained.
type peer struct {
	addr      netip.Addr
	asn       uint32
	up        bool
	eor       bool // End-of-RIB arrived in this life of the daemon
	complete  bool // End-of-RIB arrived in this session
	needEncap bool
	session   uint32
	paths     int
	fresh     int // of paths: sent in the present session, or since the peer began to send them all once more
	stale     staleness
	limit     limited
}

// attrSet is what the core derives from a set of attributes, once for all the paths that share it.
type attrSet struct {
	paths int
	gen   uint32 // importGen the list below was made under
	vrfs  []*macVRF
	named bool  // its VTEPs are counted in Core.ways
	peer  *peer // whose routes they all are; nil: of several
}

func (c *Core) peerOf(addr netip.Addr) *peer {
	p := c.peers[addr]
	if p == nil {
		p = &peer{addr: addr}
		c.peers[addr] = p
	}
	return p
}

// update takes in what one UPDATE says. Withdraws come first: an UPDATE may withdraw a key and announce it again.
func (c *Core) update(u *Update, now time.Time) {
	p := c.peers[u.Peer]
	if p == nil || !p.up || p.limit.reset {
		return // a straggler of a session whose end we already know
	}
	for i := range u.Unreach {
		if path := c.rib.find(&u.Unreach[i], p); path != nil {
			c.history.route(routeWithdrawn, path)
			fresh := path.isFresh()
			c.remove(path)
			if fresh {
				c.withdrawnElsewhere(&u.Unreach[i])
			}
		}
	}
	for i := range u.Reach {
		c.reach(p, &u.Reach[i], u.Attrs, now)
	}
	c.checkLimit(p, now)
}

// reach stores one announced route. The same key from the same peer replaces (T2-07, T3-04).
func (c *Core) reach(p *peer, r *Route, attrs *Attrs, now time.Time) {
	path := c.rib.find(&r.Key, p)
	switch {
	case path != nil:
		changed := path.Attrs != attrs && *path.Attrs != *attrs || path.Route() != *r
		c.takeOut(path)
		path.say(r, attrs)
		if changed {
			c.history.route(routeReceived, path)
		}
	case p.isFull():
		p.limit.left++
		return
	default:
		path = newPath(p, r, attrs)
		c.rib.put(path)
		p.paths++
		c.received[r.Key.Type]++
		c.history.route(routeReceived, path)
	}
	if !path.isFresh() {
		p.fresh++
	}
	path.session, path.received = p.session, now.UnixNano()
	c.putIn(path)
	c.pathChanged(path)
}

// remove forgets a path.
func (c *Core) remove(path *Path) {
	c.pathChanged(path)
	c.takeOut(path)
	path.peer.paths--
	if path.isFresh() {
		path.peer.fresh--
	}
	c.rib.drop(path)
	if c.received[path.kind]--; c.received[path.kind] == 0 {
		delete(c.received, path.kind)
	}
}

// putIn hands a path to every MAC-VRF that imports it; takeOut is the opposite.
func (c *Core) putIn(path *Path) {
	set := c.attrs[path.Attrs]
	if set == nil {
		set = &attrSet{gen: c.importGen - 1, peer: path.peer}
		c.attrs[path.Attrs] = set
	}
	if set.peer != path.peer {
		set.peer = nil
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
