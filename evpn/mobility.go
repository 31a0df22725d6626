package evpn

import (
	"cmp"
	"net/netip"
	"time"
)

// localMAC takes in a sighting of a MAC on a local port, or the end of one.
func (c *Core) localMAC(ev LocalMAC, now time.Time) {
	v := c.vrfs[ev.VNI]
	if v == nil || v.at == nil || !v.canBeHost(ev.MAC) {
		return
	}
	if ev.Gone {
		if m := v.macs[ev.MAC]; m != nil && m.local() != nil {
			c.lose(m)
		}
		return
	}
	m := v.mac(ev.MAC)
	c.sight(m, ev)
	c.confirm(m, now)
}

// lose forgets that a MAC is on a local port, and with it what its frames said; but not yet where it was: that the row has
// aged, was removed or had to make room for ours does not say that the host is gone (MM-16).
func (c *Core) lose(m *macEntry) {
	if len(m.ips()) > 0 {
		m.own().left = &leftBehind{port: m.local().port, ips: m.addresses()}
	}
	m.own().local = nil
	c.dirtyMAC(m)
	c.unhear(m)
}

// sight records on which port the bridge has a MAC.
func (c *Core) sight(m *macEntry, ev LocalMAC) {
	switch h := m.local(); {
	case h == nil:
		m.own().local = &localHost{port: ev.Port, static: ev.Static, sighted: true}
		c.resume(m)
		c.inherit(m)
	case h.port != ev.Port:
		// From one of our ports to another is no EVPN move (MM-15), unless the MAC was elsewhere in between.
		m.own().local = &localHost{port: ev.Port, static: ev.Static, sighted: h.sighted || h.yielded}
	case h.yielded && !(h.static && ev.Static): // a row that was given up is there again
		h.static, h.sighted, h.batch = ev.Static, true, 0
	case h.static != ev.Static:
		h.static = ev.Static
	default:
		return
	}
	if m.place.have.there() {
		m.place.set(unknown, true) // the row took the place of ours
	}
	c.dirtyMAC(m)
}

// localMACs replaces all the local hosts of v by what a complete dump shows.
func (c *Core) localMACs(v *macVRF, seen []LocalMAC, asOf uint64, now time.Time) {
	there := make(map[MAC]bool, len(seen))
	for _, ev := range seen {
		there[ev.MAC] = true
		if m := v.macs[ev.MAC]; m != nil && m.givenUp() && (m.local().batch == 0 || m.local().batch > asOf) {
			continue // not seen again: the dump is older than the entry that takes the row's place
		}
		c.localMAC(ev, now)
	}
	for _, m := range v.macsThat(func(m *macEntry) bool { return m.local() != nil && !there[m.mac] }) {
		c.lose(m)
	}
}

// decideMAC works out who owns a MAC, announces or withdraws it, and says where the kernel is to send its frames.
func (c *Core) decideMAC(m *macEntry, now time.Time) {
	v := m.vrf
	if v.at == nil {
		c.forgetMAC(m)
		return
	}
	remote := c.bestPath(v, &m.routes)
	m.setReason("")
	over := c.admitLocal(m)
	c.setOver(m, over)
	switch {
	case over != "":
	case m.flaps().frozen():
		m.frozen()
	case m.local() != nil && v.isGatewayMAC(m.mac):
		m.setReason(whyGatewayMAC)
		c.refusedHost(v, m.mac, netip.Addr{}, m.local().port, whyGatewayMAC)
	case m.local() != nil:
		c.contest(m, remote, now)
	}
	if m.isLocal() || m.flaps().frozen() {
		m.best = nil
	} else {
		m.best = c.passable(v, &m.routes, remote, noPath)
	}
	c.setOver(m, cmp.Or(over, c.admitRemote(m)))
	c.noteMove(m, now)
	c.noteContenders(m)
	c.judge(m, now)
	c.seek(m, now)
	c.advertiseMAC(m)
	if v.inService() {
		c.want(m, c.placeOf(m))
	}
	c.changed(m)
	for _, e := range m.ips() {
		c.dirtyIP(e)
	}
	for _, e := range v.pinned[m.mac] {
		c.dirtyIP(e)
	}
	for p := range m.routes.all() {
		if e := v.ips.get(p.ip.addr()); e != nil {
			c.dirtyIP(e)
		}
	}
	c.forgetMAC(m)
}

// contest settles a MAC that is local, and perhaps remote as well: RFC 7432 §15.
func (c *Core) contest(m *macEntry, remote *Path, now time.Time) {
	h := m.local()
	sighted, yielded := h.sighted, h.yielded
	h.sighted = false
	if sighted || remote == nil && h.batch == 0 {
		h.yielded = false
	}
	switch {
	case remote == nil:
	case m.isSticky():
		c.contestSticky(m, remote)
	case remote.Attrs.fixed():
		// MM-10: sticky elsewhere beats whatever we see, and so does a gateway (DG-04).
		if sighted {
			c.note(Note{Kind: NoteStickyMAC, VNI: m.vrf.vni, MAC: m.mac, VTEP: remote.Attrs.NextHop, Reason: "seen on " + h.port})
		}
		m.yield(remote.Attrs.fixedAs() + " at " + remote.Attrs.NextHop.String())
	case sighted:
		// MM-02: it came to us, whatever number it had. Nothing to outbid when the remote number is the lower one.
		if !newer(m.seq(), remote.Attrs.Seq) {
			m.own().seq = remote.Attrs.Seq + 1
		}
		if c.outdone(m, remote) {
			m.own().seq = c.bestOfCircle(m.vrf, &m.routes, noPath).Attrs.Seq + 1
		}
		if !h.static && m.owner != addressHere { // a static row is not learned
			c.moved(m, remote.Attrs.NextHop, now)
		}
		c.follow(m, now)
	case h.yielded || c.outdone(m, remote):
		m.yield("moved to " + remote.Attrs.NextHop.String())
		if h.static && !yielded { // a learned row is asked for when ours has taken its place: seek
			c.askStatic(m, now)
		}
	}
}

// contestSticky settles a MAC that is static here by configuration: only another one that does not move may have it
// (MM-09, BP-03).
func (c *Core) contestSticky(m *macEntry, remote *Path) {
	m.local().yielded = false
	a := remote.Attrs
	if a.fixed() && c.outdone(m, remote) {
		m.yield(a.fixedAs() + " at " + a.NextHop.String())
	}
	why := "static on " + m.local().port + ", claimed by " + a.NextHop.String()
	if c.isNews(refusal{peer: remote.peer.addr, vni: m.vrf.vni, why: m.mac.String() + " " + why}) {
		c.note(Note{Kind: NoteStickyMAC, VNI: m.vrf.vni, MAC: m.mac, VTEP: a.NextHop, Peer: remote.peer.addr, Reason: why})
	}
}

// askStatic asks for a host whose static row was given up: the row stays, whether the host does or not.
func (c *Core) askStatic(m *macEntry, now time.Time) {
	for _, ip := range m.addresses() {
		c.ask(m.vrf, askStayed, Probe{Port: m.local().port, MAC: m.mac, IP: ip}, now)
	}
}

// frozen lets a duplicate be ours exactly while the bridge has it on a local port: remotes have no say, and neither the
// bridge's row nor our number changes hands (MM-13). A row that goes is no move, so its announcement goes as well.
func (m *macEntry) frozen() {
	if m.flaps().dropped() {
		m.setReason(m.flaps().verdict())
	}
	if m.local() != nil {
		m.local().sighted, m.local().yielded = false, false
	}
}

// yield gives a local MAC up to a remote VTEP (MM-06, MM-07). A row that the bridge learned is to be overwritten by our
// entry, and counts again if the remote route goes before that is done; a static row stays, whatever happens.
func (m *macEntry) yield(why string) {
	h := m.local()
	if h.static {
		why += ", but a static row on " + h.port + " is not ours to remove"
	}
	m.setReason(why)
	h.yielded = true
}

// givenUp reports that the row on the local port is to be overwritten by our entry.
func (m *macEntry) givenUp() bool { return m.local() != nil && m.local().yielded && !m.local().static }

// takenOver takes in what became of the write that was to take the place of the row on the local port.
func (c *Core) takenOver(m *macEntry, batch uint64, failed bool) {
	switch {
	case m.local() == nil || m.local().batch != batch:
		return
	case failed:
		m.local().batch = 0
	default:
		c.lose(m)
	}
	c.dirtyMAC(m)
}

// isSticky reports that the MAC is here by configuration (MM-09).
func (m *macEntry) isSticky() bool {
	return m.local() != nil && m.local().static && m.vrf.policy.StickyStatic
}

// mobility is what we say of a MAC in the routes for it: what is static has no number (MM-09).
func (m *macEntry) mobility() mobility {
	if m.isSticky() {
		return mobility{sticky: true}
	}
	return mobility{seq: m.seq()}
}

func (c *Core) ownClaim(m *macEntry) claim { return claim{vtep: c.cfg.VTEP, mobility: m.mobility()} }

// isLocal reports whether the MAC is ours to announce.
func (m *macEntry) isLocal() bool {
	return m.local() != nil && !m.over() && !m.local().yielded && !m.vrf.isGatewayMAC(m.mac)
}

// isAt reports whether the bridge has the MAC on that port; m may be nil.
func (m *macEntry) isAt(port string) bool {
	return m != nil && m.local() != nil && m.local().port == port
}

// here stands for ourselves among the owners of a MAC; no VTEP has this address.
var (
	here        = netip.IPv4Unspecified()
	addressHere = addressOf(here)
)

// noteMove remembers who has the MAC now, and tells when it was someone else's.
func (c *Core) noteMove(m *macEntry, now time.Time) {
	var owner netip.Addr // zero: nobody
	switch {
	case m.isLocal():
		owner = here
	case m.best != nil:
		owner = m.best.Attrs.NextHop
	}
	was := m.owner.addr()
	if owner == was {
		return
	}
	m.owner, m.since = addressOf(owner), now.UnixNano()
	c.history.owner(m, was, owner)
	if !was.IsValid() || !owner.IsValid() {
		return
	}
	m.own().moves++
	n := Note{Kind: NoteMACMoved, VNI: m.vrf.vni, MAC: m.mac, Count: int(m.moves()), Reason: "from " + ownerName(was) + " to " + ownerName(owner)}
	if owner != here {
		n.VTEP = owner
	}
	c.note(n)
}

// noteContenders tells of VTEPs that say a MAC has moved to them although it is sticky elsewhere (RFC 7432 §15.2).
func (c *Core) noteContenders(m *macEntry) {
	if m.best == nil || !m.best.Attrs.fixed() {
		return
	}
	for p := range m.routes.all() {
		a, owner := p.Attrs, m.best.Attrs.NextHop
		if a.fixed() || a.NextHop == owner || !newer(a.Seq, m.best.Attrs.Seq) || c.refuse(m.vrf, p) != "" {
			continue
		}
		why := m.best.Attrs.fixedAs() + " at " + owner.String() + ", claimed by " + a.NextHop.String()
		if c.isNews(refusal{peer: p.peer.addr, vni: m.vrf.vni, why: m.mac.String() + " " + why}) {
			c.note(Note{Kind: NoteStickyMAC, VNI: m.vrf.vni, MAC: m.mac, VTEP: a.NextHop, Peer: p.peer.addr, Reason: why})
		}
	}
}

func ownerName(owner netip.Addr) string {
	if owner == here {
		return "local"
	}
	return owner.String()
}

// forgetMAC drops an entry that says nothing any more.
func (c *Core) forgetMAC(m *macEntry) {
	if m.local() == nil && m.routes.len() == 0 && len(m.ips()) == 0 && len(m.heard()) == 0 && m.left() == nil && m.flaps() == nil && m.place.idle(c) && m.vrf.macs[m.mac] == m {
		delete(m.vrf.macs, m.mac)
	}
}

// decideIP works out who has an IP: a local host whose MAC is ours, or else the best remote route.
func (c *Core) decideIP(e *ipEntry, now time.Time) {
	v := e.vrf
	if v.at == nil {
		c.forgetIP(e)
		return
	}
	c.judgeIP(e, now)
	was := e.holds()
	ours := false
	if b := e.binding(); b != nil && v.macs[b.mac] != nil {
		m := v.macs[b.mac]
		ours = m.isLocal() && !m.flaps().dropped() && !e.flaps().dropped() && c.mayHave(e, m)
	}
	c.confirmAgainst(e, ours, now)
	c.advertiseIP(e, ours)
	e.best = nil
	if !ours {
		e.best = c.bestIPPath(e)
		c.noteGateway(e)
	}
	c.history.holder(e, was)
	if v.inService() {
		p := place{}
		if e.best != nil {
			p = placeAt(e.best.mac, e.best.isRouter())
		}
		c.want(e, p)
	}
	c.changed(e)
	c.forgetIP(e)
}

// mayHave reports that nothing stands against a local host with an IP.
func (c *Core) mayHave(e *ipEntry, m *macEntry) bool {
	if e.vrf.isGatewayIP(e.ip) {
		c.refusedHost(e.vrf, m.mac, e.ip, m.local().port, whyGatewayIP)
		return false
	}
	p := c.fixedElsewhere(e, m.mac)
	if p == nil {
		return true
	}
	why := "fixed at " + p.Attrs.NextHop.String() + " with " + p.mac.String() + ", claimed on " + m.local().port
	if c.isNews(refusal{peer: p.peer.addr, vni: e.vrf.vni, why: e.ip.String() + " " + why}) {
		c.note(Note{Kind: NoteFixedIP, VNI: e.vrf.vni, MAC: m.mac, IP: e.ip, VTEP: p.Attrs.NextHop, Peer: p.peer.addr, Reason: why})
	}
	return false
}

// bestIPPath is the best route for an IP, routes for a MAC that is local left aside: their sender has lost it.
func (c *Core) bestIPPath(e *ipEntry) *Path {
	leftOut := e.lost
	if c.fixedElsewhere(e, MAC{}) != nil {
		// ND-04, with one departure: of several immutable ones the best counts, not the latest, so that all VTEPs choose alike.
		leftOut = func(p *Path) bool { return !p.isFixed() || e.lost(p) }
	}
	return c.passable(e.vrf, &e.routes, c.bestOf(e.vrf, &e.routes, leftOut), leftOut)
}

// lost reports that a route for the IP does not count: its MAC is on a local port or frozen, or the IP is frozen with
// another MAC.
func (e *ipEntry) lost(p *Path) bool {
	m := e.vrf.macs[p.mac]
	if m != nil && (m.isLocal() || m.flaps().frozen() || m.isBeyond()) {
		return true
	}
	return e.flaps().dropped() || e.flaps().frozen() && p.mac != e.flaps().kept.mac
}

func (c *Core) forgetIP(e *ipEntry) {
	if e.local() == nil && e.routes.len() == 0 && !c.claimed(e) && e.flaps() == nil && e.place.idle(c) && e.vrf.ips.get(e.ip) == e {
		e.vrf.ips.drop(e.ip)
	}
}
