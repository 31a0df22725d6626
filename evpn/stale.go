package evpn

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// staleness says what becomes of the routes that a peer sent in an earlier session. At first they count like any other
// (RFC 4724 §4.2); when they age they are the least preferred of all (RFC 9494 §4.3), and in the end they go.
type staleness struct {
	ages    time.Time // zero: they have aged, or there are none
	ends    time.Time // zero: there are none
	aged    bool
	refresh bool   // they are not of an earlier session: the peer sends all it has once more, and they have not come yet
	lost    string // why they were not retained at all; "": they were
}

// isFresh reports that the peer has sent the path in its present session.
func (p *Path) isFresh() bool { return p.session == p.peer.session }

// isAged reports a path that any other one is preferred to: the peer it came from is gone for longer than a restart takes,
// or it was already when the route was passed on to us (LL-03).
func (p *Path) isAged() bool {
	return p.peer.stale.aged && !p.isFresh() || p.Attrs.hasCommunity(communityLLGRStale)
}

func (c *Core) peerUp(ev PeerUp, now time.Time) {
	p := c.peerOf(ev.Peer)
	c.dropLost(p)
	p.asn, p.up, p.needEncap, p.complete = ev.ASN, true, ev.NeedEncap, false
	p.limit = limited{RouteLimit: ev.Limit, left: ev.Left}
	c.nextSession(p)
	c.history.session(peerUp, p, recordMore{})
	stays := ev.Forwarding
	if p.stale.aged {
		stays = ev.LongLived
	}
	until := now.Add(cmp.Or(ev.StaleTime, staleTime))
	switch {
	case p.paths == 0:
		p.stale = staleness{}
	case ev.Keep:
		p.stale.ages, p.stale.ends = time.Time{}, latest(p.stale.ends, until)
	case stays && p.stale.aged: // the long-lived stale time runs on (LL-04)
	case stays: // back in time: from here on End-of-RIB decides, or the stale timer (RFC 4724 §4.2, GR-09)
		p.stale.ages, p.stale.ends = time.Time{}, until
	default:
		c.dropStale(p, "stale routes dropped: peer did not keep its forwarding state")
	}
}

func (c *Core) peerDown(ev PeerDown, now time.Time) {
	p := c.peers[ev.Peer]
	if p == nil {
		return
	}
	c.dropLost(p)
	if p.up && !ev.Again && !p.stale.ends.IsZero() && !p.stale.refresh {
		c.dropStale(p, "stale routes dropped: peer failed again before its End-of-RIB")
	}
	if p.stale.refresh { // what has not come once more is retained with the rest
		p.stale = staleness{}
	}
	p.up = false
	c.nextSession(p)
	c.history.session(peerDown, p, recordMore{text: ev.Reason})
	keep := max(ev.Retain+ev.LongLived, ev.Keep)
	if keep == 0 || p.paths == 0 {
		p.stale = staleness{ends: now, lost: "routes dropped: " + ev.Reason} // by the next Flush, see expire
		return
	}
	switch {
	case p.stale.ends.IsZero() || !p.stale.aged && ev.LongLived > 0:
		p.stale.ends = now.Add(keep)
	default: // a second loss must not lengthen what the first allowed (GR-09), but for what is ours to decide
		p.stale.ends = latest(p.stale.ends, now.Add(ev.Keep))
	}
	if keep > ev.Retain && !p.stale.aged && p.stale.ages.IsZero() {
		p.stale.ages = now.Add(ev.Retain)
	}
	c.note(Note{Kind: NotePeerRoutes, Peer: p.addr, Count: p.paths, Reason: "routes retained: " + ev.Reason})
}

func (c *Core) endOfRIB(ev EndOfRIB) {
	p := c.peers[ev.Peer]
	if p == nil || !p.up {
		return
	}
	p.eor, p.complete = true, true
	c.history.session(peerEndOfRIB, p, recordMore{count: p.paths})
	if !p.stale.refresh {
		c.dropStale(p, "stale routes dropped: not announced again")
	}
}

// refreshBegin takes all routes of the peer for stale that it does not send again. Before End-of-RIB that is what they are
// anyway, if they are of an earlier session.
func (c *Core) refreshBegin(ev RefreshBegin, now time.Time) {
	p := c.peers[ev.Peer]
	if p == nil || !p.up || !p.stale.ends.IsZero() && !p.stale.refresh {
		return
	}
	c.nextSession(p)
	p.limit.left = 0
	p.stale = staleness{ends: now.Add(staleTime), refresh: true}
}

func (c *Core) refreshEnd(ev RefreshEnd) {
	if p := c.peers[ev.Peer]; p != nil && p.up && p.stale.refresh {
		c.dropStale(p, "routes dropped: not announced again")
	}
}

// nextSession makes all routes of p stale.
func (c *Core) nextSession(p *peer) {
	if p.paths > 0 {
		c.manyRoutesChanged()
	}
	p.session++
	p.fresh = 0
}

// expire lets what was retained age, and drops it when its time is over (GR-06, GR-09, LL-02).
func (c *Core) expire(now time.Time) {
	var due []*peer // none, nearly always, and this is part of every Flush
	for _, p := range c.peers {
		if p.isDue(now) {
			due = append(due, p)
		}
	}
	slices.SortFunc(due, func(a, b *peer) int { return a.addr.Compare(b.addr) })
	for _, p := range due {
		if over(p.stale.ends, now) && !c.leave(p) {
			c.dropStale(p, cmp.Or(p.stale.lost, "stale routes dropped: their time is over"))
		}
		if over(p.stale.ages, now) {
			c.age(p)
		}
		c.takeAgain(p, now)
		if !p.up && p.paths == 0 {
			delete(c.peers, p.addr)
		}
	}
}

// isDue reports that expire has something to do about p.
func (p *peer) isDue(now time.Time) bool {
	return over(p.stale.ends, now) || over(p.stale.ages, now) || p.limit.left > 0 || !p.up && p.paths == 0
}

// age makes the stale routes of p the least preferred, and drops those whose origin does not want that (RFC 9494 §4.2).
func (c *Core) age(p *peer) {
	p.stale.ages, p.stale.aged = time.Time{}, true
	stale, dropped := c.stalePaths(p), 0
	if len(stale) > 0 {
		c.manyRoutesChanged()
	}
	for _, path := range stale {
		if path.Attrs.hasCommunity(communityNoLLGR) {
			c.history.route(routeDropped, path)
			c.remove(path)
			dropped++
			continue
		}
		c.takeOut(path) // whatever follows it is decided anew
		c.putIn(path)
	}
	c.note(Note{Kind: NotePeerRoutes, Peer: p.addr, Count: len(stale) - dropped, Reason: "stale routes are least preferred from now on"})
	if dropped > 0 {
		c.note(Note{Kind: NotePeerRoutes, Peer: p.addr, Count: dropped, Reason: "stale routes dropped: they are marked NO_LLGR"})
	}
}

// withdrawnElsewhere drops what is kept of a route from peers that are gone for long, when a peer that is there withdraws
// it: it is the same route of the same origin, and nobody is left to say otherwise.
func (c *Core) withdrawnElsewhere(k *RouteKey) {
	for _, q := range c.peers {
		if !q.stale.aged || q.up {
			continue
		}
		if path := c.rib.find(k, q); path != nil {
			c.history.route(routeDropped, path)
			c.remove(path)
		}
	}
}

// dropLost forgets routes that were not retained and that no Flush has come to yet.
func (c *Core) dropLost(p *peer) {
	if p.stale.lost != "" {
		c.dropStale(p, p.stale.lost)
	}
}

// dropStale forgets the stale routes of p.
func (c *Core) dropStale(p *peer, why string) {
	p.stale = staleness{}
	stale := c.stalePaths(p)
	for _, path := range stale {
		c.history.route(routeDropped, path)
		c.remove(path)
	}
	if len(stale) > 0 {
		c.note(Note{Kind: NotePeerRoutes, Peer: p.addr, Count: len(stale), Reason: why})
	}
}

// stalePaths returns the paths of p that its present session has not sent, in a fixed order.
func (c *Core) stalePaths(p *peer) []*Path {
	if p.paths == p.fresh {
		return nil
	}
	return c.rib.from(func(path *Path) bool { return path.peer == p && !path.isFresh() })
}

func over(t, now time.Time) bool { return !t.IsZero() && !now.Before(t) }

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// limited is how the routes of a peer stand to their limit.
type limited struct {
	RouteLimit
	left   int       // routes that were not taken
	warned bool      // that the limit is near
	said   bool      // that it is reached
	reset  bool      // the session is to end
	again  time.Time // when the peer may be asked for what was not taken
}

// refreshPause is how long a peer is left alone before it is asked once more for routes that were not taken.
const refreshPause = time.Minute

// isFull reports that no further route of p is to be taken.
func (p *peer) isFull() bool {
	l := &p.limit
	return l.Most > 0 && p.fresh >= l.Most && l.Action != LimitWarn
}

// checkLimit tells of a peer that nears its limit or has reached it, and has its session reset if that is what to do.
func (c *Core) checkLimit(p *peer, now time.Time) {
	l := &p.limit
	if l.Most == 0 {
		return
	}
	if !l.warned && l.Warn > 0 && p.fresh >= l.Warn {
		l.warned = true
		c.noteLimit(p, fmt.Sprintf("%d routes, the limit is %d", p.fresh, l.Most))
	}
	if l.left == 0 && p.fresh <= l.Most || l.said {
		return
	}
	l.said = true
	switch l.Action {
	case LimitReset:
		l.reset = true
		c.resets = append(c.resets, PeerReset{Peer: p.addr, Most: l.Most})
		c.noteLimit(p, fmt.Sprintf("more than %d routes: session is reset", l.Most))
	case LimitWarn:
		c.noteLimit(p, fmt.Sprintf("more than %d routes: they are taken all the same", l.Most))
	default:
		l.again = now.Add(refreshPause)
		c.noteLimit(p, fmt.Sprintf("more than %d routes: further ones are not taken", l.Most))
	}
}

func (c *Core) noteLimit(p *peer, why string) {
	c.note(Note{Kind: NoteRouteLimit, Peer: p.addr, Count: p.fresh, Reason: why})
}

// peerLimit takes over another limit for a session that goes on.
func (c *Core) peerLimit(ev PeerLimit, now time.Time) {
	p := c.peers[ev.Peer]
	if p == nil || !p.up || p.limit.reset || p.limit.RouteLimit == ev.Limit {
		return
	}
	p.limit = limited{RouteLimit: ev.Limit, left: p.limit.left, again: now}
	if p.limit.left == 0 || p.isFull() {
		c.checkLimit(p, now)
	}
}

// takeAgain asks a peer for its routes when some of them were not taken and there is room now: nothing else of what a peer
// sends is ever thrown away, so that no change of route targets needs it (RT-07, RR-01).
func (c *Core) takeAgain(p *peer, now time.Time) {
	l := &p.limit
	if l.left == 0 || !p.up || l.reset || l.Most > 0 && p.fresh > l.Most-l.Most/10 || now.Before(l.again) {
		return
	}
	l.left, l.said, l.warned, l.again = 0, false, false, now.Add(refreshPause)
	c.refreshes = append(c.refreshes, p.addr)
}

// PeerReset asks for the end of a session with a Cease, maximum number of prefixes reached (6/1).
type PeerReset struct {
	Peer netip.Addr
	Most int // routes that it may have
}

// staleness names the state of a route for RouteView.
func (p *Path) staleness() string {
	switch {
	case p.isAged():
		return "long-lived"
	case p.isFresh() || p.peer.stale.refresh:
		return ""
	default:
		return "stale"
	}
}

// wake is when takeAgain has something to do; zero: not before the peer withdraws routes.
func (l *limited) wake(p *peer) time.Time {
	if l.Most > 0 && p.fresh > l.Most-l.Most/10 {
		return time.Time{}
	}
	return l.again
}
