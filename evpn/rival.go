package evpn

import (
	"net/netip"
	"slices"
	"time"
)

// While a remote VTEP announces an IP of a local host with another MAC, the host is asked again each rivalEvery: often
// enough for two hosts that both stay to be found as duplicates (PX-12) with the defaults of DuplicatePolicy.
const rivalEvery = 20 * time.Second

// rival is a remote host that has the IP of a local one, as far as its VTEP knows.
type rival struct {
	mac      MAC
	vtep     netip.Addr
	answered bool // the local host has spoken since it was last asked, or since the rival was announced
}

// contested is an IP whose host is to be asked again.
type contested struct {
	*ipEntry
	rival *rival
	due   time.Time
}

// confirmAgainst has the local host of an IP asked when a remote VTEP announces the IP with another MAC: an address that
// fails over to another host is announced there before anybody here knows, and the host that had it says nothing. ours
// says that we announce it. What the neighbour table says is confirmed by the kernel.
func (c *Core) confirmAgainst(e *ipEntry, ours bool, now time.Time) {
	var p *Path
	if ours && e.routes.len() > 0 && e.local() != nil && e.local().framed && !e.flaps().frozen() {
		p = c.bestOf(e.vrf, &e.routes, func(p *Path) bool { return p.mac == e.local().mac || e.lost(p) })
	}
	was := c.rivals[e]
	switch {
	case p == nil:
		delete(c.rivals, e)
		return
	case was != nil && was.mac == p.mac && was.vtep == p.Attrs.NextHop:
		return
	case was == nil && len(c.rivals) >= maxAsking:
		return
	}
	r := &rival{mac: p.mac, vtep: p.Attrs.NextHop}
	c.rivals[e] = r
	if r.answered = e.local().heard > p.received; r.answered { // it came to us: now it is the other VTEP's turn to ask
		c.contested = append(c.contested, contested{e, r, now.Add(rivalEvery)})
		return
	}
	c.askAgainst(e, now)
}

func (c *Core) askAgainst(e *ipEntry, now time.Time) {
	if m := e.vrf.macs[e.local().mac]; m != nil && m.isLocal() {
		c.ask(e.vrf, askRival, Probe{Port: m.local().port, MAC: m.mac, IP: e.ip}, now)
	}
}

// answersRival notes that a host has the IP that a remote one has too. That counts like a move (PX-12).
func (c *Core) answersRival(e *ipEntry, now time.Time) {
	r := c.rivals[e]
	if r == nil || r.answered {
		return
	}
	r.answered = true
	c.contested = append(c.contested, contested{e, r, now.Add(rivalEvery)})
	if f := c.moved(e, r.vtep, now); !f.duplicate() {
		f.kept = *e.local()
	}
	c.dirtyIP(e)
}

// yieldsToRival takes back what the frames of a host said of an IP: it does not answer, and a remote host has the IP.
func (c *Core) yieldsToRival(e *ipEntry) {
	if r := c.rivals[e]; r == nil || r.answered {
		return
	}
	delete(c.rivals, e)
	c.unframe(e)
}

// contestAgain asks the hosts whose rivals are still there.
func (c *Core) contestAgain(now time.Time) {
	n := 0
	for ; n < len(c.contested) && !now.Before(c.contested[n].due); n++ {
		e, r := c.contested[n].ipEntry, c.contested[n].rival
		if c.rivals[e] == r && e.local() != nil {
			r.answered = false
			c.askAgainst(e, now)
		}
	}
	c.contested = slices.Delete(c.contested, 0, n)
}
