package evpn

import (
	"net/netip"
	"slices"
	"time"
)

// said is a word of a witness: the host with this MAC has the address. The zero said: the witness knows nothing.
type said struct {
	mac    MAC
	router bool
}

// binding is an IP of a local host, as its witnesses have it. A frame is an event and always younger than what was
// known, so a word of a frame counts until the neighbour table has a new one; that of the neighbour table is a level, and
// counts again when no frame stands against it any more.
type binding struct {
	said          // the word that counts
	neighbor said // what the neighbour table says, also while a frame says otherwise
	framed   bool // the word is a frame's
	since    int64
	heard    int64 // when the last frame said so
	leased   int64 // when the host's lease of the address ends, 0 when none is known; all are Unix times in ns
	asked    uint8 // probes since then
}

// canBeHost reports whether a local host may have the address.
func (v *macVRF) canBeHost(mac MAC) bool {
	return !mac.IsGroup() && !mac.IsZero() && mac != v.at.BridgeMAC
}

// localIP takes in a word on an IP of a host on our side, or the end of one.
func (c *Core) localIP(ev LocalIP, now time.Time) {
	v := c.vrfs[ev.VNI]
	if v == nil || v.at == nil || !usableHostIP(ev.IP) {
		return
	}
	if !ev.Gone && ev.Source != WitnessNeighbor {
		if why := v.claimsOurs(ev); why != "" {
			c.refusedHost(v, ev.MAC, ev.IP, ev.Port, why)
			return
		}
	}
	if !ev.Gone && !v.canBeHost(ev.MAC) {
		return
	}
	e := v.ips.get(ev.IP)
	switch {
	case ev.Source != WitnessNeighbor && ev.Gone:
		if m := v.macs[ev.MAC]; e != nil && e.local() != nil && e.local().mac == ev.MAC && m.isAt(ev.Port) {
			c.unframe(e)
		}
	case ev.Source != WitnessNeighbor:
		c.frame(v, ev, now)
	case !ev.Gone:
		c.neighbor(v.ip(ev.IP), said{mac: ev.MAC, router: ev.Router}, now)
	case e != nil && e.local() != nil:
		c.neighborGone(e)
	}
}

// neighbor takes in what the kernel's neighbour table says of an IP.
func (c *Core) neighbor(e *ipEntry, s said, now time.Time) {
	b := e.local()
	switch {
	case b == nil || b.neighbor != s && b.mac != s.mac:
		c.bind(e, binding{said: s, neighbor: s}, now)
	case b.neighbor == s:
	default:
		next := *b
		next.said, next.neighbor = s, s
		c.bind(e, next, now)
	}
}

func (c *Core) neighborGone(e *ipEntry) {
	if !e.local().framed {
		c.unbind(e)
		return
	}
	e.local().neighbor = said{}
}

// localIPs replaces all that the neighbour table says by what a complete dump of it shows.
func (c *Core) localIPs(v *macVRF, seen []LocalIP, now time.Time) {
	there := make(map[netip.Addr]MAC, len(seen))
	for _, ev := range seen {
		there[ev.IP] = ev.MAC
		c.localIP(ev, now)
	}
	for _, e := range v.ipsThat(func(e *ipEntry) bool {
		mac, ok := there[e.ip]
		return e.local() != nil && e.local().neighbor != (said{}) && !(ok && mac == e.local().neighbor.mac)
	}) {
		c.neighborGone(e)
	}
}

// bind makes b the binding of an IP.
func (c *Core) bind(e *ipEntry, b binding, now time.Time) {
	if e.local() != nil && e.local().mac == b.mac {
		b.since = e.local().since
		e.vrf.countFramed(e.local(), -1)
	} else {
		c.ipMoved(e, b, now)
		c.unbind(e)
		b.since = now.UnixNano()
		m := e.vrf.mac(b.mac)
		m.own().ips = append(m.ips(), e)
		c.changed(m)
	}
	e.own().local = &b
	delete(c.claimants, e)
	e.vrf.countFramed(e.local(), 1)
	c.dirtyIP(e)
}

// unbind forgets the local binding of an IP.
func (c *Core) unbind(e *ipEntry) {
	if e.local() == nil {
		return
	}
	if m := e.vrf.macs[e.local().mac]; m != nil {
		if i := slices.Index(m.ips(), e); i >= 0 {
			m.own().ips = slices.Delete(m.ips(), i, i+1)
		}
		c.dirtyMAC(m)
	}
	e.vrf.countFramed(e.local(), -1)
	e.own().local = nil
	delete(c.rivals, e)
	c.dirtyIP(e)
}

func (v *macVRF) countFramed(b *binding, n int) {
	if b.framed {
		v.framed += n
	}
}
