package evpn

import (
	"math"
	"slices"
	"time"
)

// Limits on what frames may make us remember: hosts write frames as they please (invariant 6).
const (
	maxFramedPerMAC = 64      // addresses of one MAC
	maxFramedPerVNI = 1 << 16 // addresses in one VNI
	maxAwaiting     = 4096    // MACs that the bridge has not confirmed yet, in all VNIs
	maxPortAwaiting = 1024    // likewise on one port: a locked one makes no MAC known to the bridge, whatever its host sends

	// confirmWithin is how long a frame waits for the bridge. The bridge learns from the same frame, so this is much, even
	// when notifications were lost and must be read back.
	confirmWithin = 5 * time.Second
)

// A binding that was not heard of for probeAfter is probed, and again each probeAfter. After probeTries of them without
// an answer it is over. RFC 9161 §3.5 (PX-11): probes at a third of the age time, here that of the Linux bridge, 300 s,
// so that the answer of a silent host also keeps its MAC in the bridge. Probes go out during a DHCP lease as well, for the
// MAC's sake, but silence counts from the end of the lease on.
const (
	probeAfter = 100 * time.Second
	probeTries = 2
)

// portKey names a port of the bridge of a VNI.
type portKey struct {
	vni  VNI
	port string
}

// awaited is a MAC whose frames wait for the bridge.
type awaited struct {
	*macEntry
	until time.Time
}

// aged is a binding that is to be looked at again.
type aged struct {
	*ipEntry
	due time.Time
}

// frame takes in what a host says of itself. Only the bridge says where a MAC is: it may have dropped the very frame we
// saw, because the port is locked, the entry sticky or a filter against it. So a word counts while the bridge has the MAC
// on that port, and waits a little until it has.
func (c *Core) frame(v *macVRF, ev LocalIP, now time.Time) {
	m := v.macs[ev.MAC]
	if !m.isAt(ev.Port) {
		c.await(v, ev, now)
		c.sightedMAC(Sighted{VNI: ev.VNI, MAC: ev.MAC, Port: ev.Port})
		return
	}
	c.sightedMAC(Sighted{VNI: ev.VNI, MAC: ev.MAC, Port: ev.Port})
	e := v.ips.get(ev.IP)
	b := binding{said: said{mac: ev.MAC, router: ev.Router}}
	if e != nil && e.local() != nil && e.local().mac == ev.MAC {
		c.formerAnswers(e, now)
		c.answersRival(e, now)
		b.leased = e.local().leased
		if ev.Source == WitnessDHCP { // which does not know of routers
			b.router = e.local().router
		}
	}
	if ev.Lease > 0 {
		b.leased = now.Add(ev.Lease).UnixNano()
	}
	if e != nil && e.local() != nil && e.local().framed && e.local().said == b.said {
		e.local().heard, e.local().leased, e.local().asked = now.UnixNano(), b.leased, 0
		return
	}
	if why := v.tooMany(m, e); why != "" {
		if c.isNews(refusal{vni: v.vni, why: m.mac.String() + " " + why}) {
			c.note(Note{Kind: NoteLimit, VNI: v.vni, MAC: m.mac, IP: ev.IP, Reason: why})
		}
		return
	}
	if c.confirmFirst(e, b, now) {
		return
	}
	c.bindFramed(v.ip(ev.IP), b, now, now.Add(probeAfter))
}

// bindFramed has the word of a frame count, with the lease in b; due is when it is to be looked at again.
func (c *Core) bindFramed(e *ipEntry, b binding, now, due time.Time) {
	b.framed, b.heard = true, due.Add(-probeAfter).UnixNano()
	if e.local() != nil {
		b.neighbor = e.local().neighbor
	}
	c.bind(e, b, now)
	if !e.known().ageing {
		e.own().ageing = true
		c.ageing = append(c.ageing, aged{e, due})
	}
}

// tooMany says which limit stands against one more binding of m from a frame; e is the address, nil when it is new.
func (v *macVRF) tooMany(m *macEntry, e *ipEntry) string {
	was := e != nil && e.local() != nil && e.local().framed
	if !was && v.framed >= maxFramedPerVNI {
		return "too many addresses in this VNI"
	}
	if was && e.local().mac == m.mac {
		return ""
	}
	n := 0
	for _, e := range m.ips() {
		if e.local().framed {
			n++
		}
	}
	if n >= maxFramedPerMAC {
		return "too many addresses for one MAC"
	}
	return ""
}

// sightedMAC takes in that a host spoke. Of what the bridge learns by itself it tells; it is silent where a static row
// stands that was given up to a remote VTEP, and where the MAC is sticky elsewhere (MM-02, MM-10).
func (c *Core) sightedMAC(ev Sighted) {
	v := c.vrfs[ev.VNI]
	if v == nil || v.at == nil {
		return
	}
	m := v.macs[ev.MAC]
	if m != nil && m.left() != nil {
		m.left().port = ev.Port // also where no row can be
	}
	switch {
	case m == nil:
	case m.local() != nil:
		if h := m.local(); h.static && h.yielded && h.port == ev.Port {
			h.sighted = true
			c.dirtyMAC(m)
		}
	case m.best != nil && m.best.Attrs.fixed():
		why := "seen on " + ev.Port
		if c.isNews(refusal{vni: v.vni, why: m.mac.String() + " " + why}) {
			c.note(Note{Kind: NoteStickyMAC, VNI: v.vni, MAC: m.mac, VTEP: m.best.Attrs.NextHop, Reason: why})
		}
	}
}

// await keeps the word of a frame until the bridge has the MAC on that port.
func (c *Core) await(v *macVRF, ev LocalIP, now time.Time) {
	m := v.macs[ev.MAC]
	if m == nil || len(m.heard()) == 0 {
		port := portKey{v.vni, ev.Port}
		if len(c.awaiting) >= maxAwaiting || c.unconfirmed[port] >= maxPortAwaiting {
			why := "too many MACs in frames that the bridge does not have, on " + ev.Port
			if c.isNews(refusal{vni: v.vni, why: why}) {
				c.note(Note{Kind: NoteLimit, VNI: v.vni, MAC: ev.MAC, IP: ev.IP, Reason: why})
			}
			return
		}
		m = v.mac(ev.MAC)
		m.own().heardOn = ev.Port
		c.unconfirmed[port]++
		c.awaiting = append(c.awaiting, awaited{m, now.Add(confirmWithin)})
	}
	if i := slices.IndexFunc(m.heard(), func(h LocalIP) bool { return h.IP == ev.IP }); i >= 0 {
		m.heard()[i] = ev
	} else if len(m.heard()) < maxFramedPerMAC {
		m.own().heard = append(m.heard(), ev)
	}
}

// confirm has the words count that waited for the bridge.
func (c *Core) confirm(m *macEntry, now time.Time) {
	words := m.heard()
	if len(words) == 0 {
		return
	}
	c.dropHeard(m)
	for _, ev := range words {
		if ev.Port == m.local().port {
			c.frame(m.vrf, ev, now)
		} else {
			c.await(m.vrf, ev, now)
		}
	}
}

// dropHeard forgets the words that waited for the bridge.
func (c *Core) dropHeard(m *macEntry) {
	if len(m.heard()) == 0 {
		return
	}
	port := portKey{m.vrf.vni, m.known().heardOn}
	if c.unconfirmed[port]--; c.unconfirmed[port] == 0 {
		delete(c.unconfirmed, port)
	}
	m.own().heard, m.own().heardOn = nil, ""
}

// expireAwaited drops what the bridge did not confirm.
func (c *Core) expireAwaited(now time.Time) {
	n := 0
	for ; n < len(c.awaiting) && !now.Before(c.awaiting[n].until); n++ {
		m := c.awaiting[n].macEntry
		c.dropHeard(m)
		c.forgetMAC(m)
	}
	c.awaiting = slices.Delete(c.awaiting, 0, n)
}

// ageBindings probes what was not heard of for a while, and lets go of what does not answer.
func (c *Core) ageBindings(now time.Time) {
	n := 0
	for ; n < len(c.ageing) && !now.Before(c.ageing[n].due); n++ {
		e := c.ageing[n].ipEntry
		e.own().ageing = false
		if e.local() == nil || !e.local().framed || e.vrf.ips.get(e.ip) != e || c.vrfs[e.vrf.vni] != e.vrf {
			continue
		}
		m := e.vrf.macs[e.local().mac]
		silent := now.Sub(time.Unix(0, max(e.local().heard, e.local().leased))) // below zero while the lease lasts
		switch {
		case m == nil || m.local() == nil || silent > (probeTries+1)*probeAfter-probeAfter/2:
			c.unframe(e)
			continue
		case now.Sub(time.Unix(0, e.local().heard)) > probeAfter/2 && m.isLocal():
			e.local().asked = min(e.local().asked, math.MaxUint8-1) + 1
			c.probes = append(c.probes, Probe{VNI: e.vrf.vni, Port: m.local().port, MAC: m.mac, IP: e.ip})
		}
		e.own().ageing = true
		c.ageing = append(c.ageing, aged{e, now.Add(probeAfter)})
	}
	c.ageing = slices.Delete(c.ageing, 0, n)
}

// unframe takes back what a frame said of an IP.
func (c *Core) unframe(e *ipEntry) {
	b := e.local()
	switch {
	case !b.framed:
	case b.neighbor == said{}:
		c.unbind(e)
	default:
		c.bind(e, binding{said: b.neighbor, neighbor: b.neighbor}, time.Unix(0, b.heard))
	}
}

// unhear takes back all that the frames of a MAC said: it is gone.
func (c *Core) unhear(m *macEntry) {
	for _, e := range slices.Clone(m.ips()) {
		c.unframe(e)
	}
}
