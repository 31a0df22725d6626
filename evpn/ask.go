package evpn

import (
	"net/netip"
	"slices"
	"time"
)

// A host is asked so often, with so much time for each answer; on a local port that takes a millisecond or two. Beyond
// maxAsking of them at a time a host is asked once.
const (
	askTries  = 3
	askEvery  = 250 * time.Millisecond
	maxAsking = 1 << 16
)

// question is why a host is asked for one of its addresses. Its answer is a frame like any other.
type question uint8

const (
	// askStayed: the MAC was given up to a remote VTEP, or has been withdrawn by it since, or its row is gone. When the host is
	// still behind our port, its answer takes the MAC back (MM-06, MM-16).
	askStayed question = iota
	// askFollows: the MAC came to us, or came back, and had the address before, of which the host has said nothing since
	// (MM-16; the VTEP that has the host asks, not the one that had it: the answer is a frame on a port of ours).
	askFollows
	// askFormer: another MAC claims the address, and gets it when the one that has it does not answer (PX-13).
	askFormer
	// askRival: a remote VTEP announces the address with another MAC (PX-13).
	askRival
)

// asked is a question that has not been answered.
type asked struct {
	vrf   *macVRF
	why   question
	probe Probe
	tries int
	due   time.Time
}

// leftBehind is where a host was when its row was taken away, by us or by someone else, and its addresses: it may be there
// still. It is kept while a remote VTEP has the MAC, or the host is asked.
type leftBehind struct {
	port  string
	ips   []netip.Addr
	asked bool // while a remote VTEP had the MAC
	again bool // and since nobody has
}

// ask asks the host with a MAC, on a port, for an address.
func (c *Core) ask(v *macVRF, why question, p Probe, now time.Time) {
	p.VNI = v.vni
	c.probes = append(c.probes, p)
	if len(c.asking) < maxAsking {
		c.asking = append(c.asking, asked{vrf: v, why: why, probe: p, tries: 1, due: now.Add(askEvery)})
	}
}

// askAgain repeats the questions that still stand.
func (c *Core) askAgain(now time.Time) {
	n := 0
	for ; n < len(c.asking) && !now.Before(c.asking[n].due); n++ {
		a := c.asking[n]
		served := c.vrfs[a.vrf.vni] == a.vrf
		switch stands := served && c.stands(&a); {
		case stands && a.tries < askTries:
			c.probes = append(c.probes, a.probe)
			a.tries, a.due = a.tries+1, now.Add(askEvery)
			c.asking = append(c.asking, a)
		case a.why == askFormer:
			c.formerIsSilent(a.vrf.ips.get(a.probe.IP), served, now)
		case a.why == askRival && served:
			if e := a.vrf.ips.get(a.probe.IP); e != nil {
				c.yieldsToRival(e)
			}
		case a.why == askStayed:
			c.stayedAway(a.vrf.macs[a.probe.MAC])
		}
	}
	c.asking = slices.Delete(c.asking, 0, n)
}

// stayedAway forgets where a host was that does not answer, once no remote VTEP has its MAC either.
func (c *Core) stayedAway(m *macEntry) {
	if m != nil && m.best == nil && m.left() != nil {
		m.own().left = nil
		c.forgetMAC(m)
	}
}

// stands reports that a question has not been answered yet, and has not become idle.
func (c *Core) stands(a *asked) bool {
	m, e := a.vrf.macs[a.probe.MAC], a.vrf.ips.get(a.probe.IP)
	switch a.why {
	case askFollows:
		return m != nil && m.isLocal() && m.local().port == a.probe.Port && (e == nil || e.local() == nil)
	case askRival:
		r := c.rivals[e]
		return r != nil && !r.answered && e.local().mac == a.probe.MAC
	case askFormer:
		return c.claimed(e) && e.local() != nil && e.local().mac == a.probe.MAC
	default:
		return m == nil || !m.isLocal()
	}
}

// seek asks for a host whose row is gone, and once more when no remote VTEP has its MAC any more.
func (c *Core) seek(m *macEntry, now time.Time) {
	l := m.left()
	switch {
	case l == nil || m.flaps().frozen():
		return
	case m.isLocal():
		m.own().left = nil
		for _, ip := range l.ips { // those that it has not told of again by itself
			if e := m.vrf.ips.get(ip); e == nil || e.local() == nil {
				c.ask(m.vrf, askFollows, Probe{Port: m.local().port, MAC: m.mac, IP: ip}, now)
			}
		}
		return
	case m.local() != nil: // a row that does not count: it will go as well, and then nobody may have the MAC once more
		l.again = false
		return
	case m.best == nil && l.again:
		return
	case m.best == nil:
		l.again = true
	case l.asked || m.best.Attrs.fixed(): // MM-10: nothing to be had from what does not move
		l.again = false
		return
	default:
		l.asked, l.again = true, false
	}
	if len(c.asking)+len(l.ips) > maxAsking {
		m.own().left = nil // nobody would forget it
	}
	for _, ip := range l.ips {
		c.ask(m.vrf, askStayed, Probe{Port: l.port, MAC: m.mac, IP: ip}, now)
	}
}

// follow asks a host that came to us for the addresses that it had where it came from.
func (c *Core) follow(m *macEntry, now time.Time) {
	seen := map[netip.Addr]bool{}
	for p := range m.routes.all() {
		ip := p.ip.addr()
		if !usableHostIP(ip) || seen[ip] || c.refuse(m.vrf, p) != "" {
			continue
		}
		seen[ip] = true
		if e := m.vrf.ips.get(ip); e == nil || e.local() == nil {
			c.ask(m.vrf, askFollows, Probe{Port: m.local().port, MAC: m.mac, IP: ip}, now)
		}
	}
}

// addresses are those of m's local bindings.
func (m *macEntry) addresses() []netip.Addr {
	ips := make([]netip.Addr, len(m.ips()))
	for i, e := range m.ips() {
		ips[i] = e.ip
	}
	return ips
}
