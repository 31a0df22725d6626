package evpn

import (
	"net/netip"
	"time"
)

// claimant is a MAC on a local port whose frames claim an IP that another local host has.
type claimant struct {
	binding // that it would have
	port    string
}

// claimed reports that another MAC wants the IP of a local host, which is being asked.
func (c *Core) claimed(e *ipEntry) bool {
	_, claimed := c.claimants[e]
	return claimed
}

// confirmFirst reports that a claim to an IP has to wait until the MAC that has it was asked (PX-13). RFC 9161 §3.7 has
// it wait for 30 s, during which an address that fails over is lost; a host that is there answers well within the tries
// of a question. What is not on a local port cannot be asked.
func (c *Core) confirmFirst(e *ipEntry, b binding, now time.Time) bool {
	if e == nil || e.local() == nil || e.local().mac == b.mac || len(c.asking) >= maxAsking {
		return false
	}
	former := e.vrf.macs[e.local().mac]
	if former == nil || !former.isLocal() {
		return false
	}
	again := c.claimed(e)
	c.claimants[e] = claimant{binding: b, port: e.vrf.macs[b.mac].local().port}
	if !again {
		c.ask(e.vrf, askFormer, Probe{Port: former.local().port, MAC: former.mac, IP: e.ip}, now)
	}
	return true
}

// formerAnswers refuses a claim: the MAC that has the IP is there. That two have it counts like a move (PX-12), one that
// leaves it where it is.
func (c *Core) formerAnswers(e *ipEntry, now time.Time) {
	if !c.claimed(e) {
		return
	}
	delete(c.claimants, e)
	if f := c.moved(e, netip.Addr{}, now); !f.duplicate() {
		f.kept = *e.local()
	}
	c.dirtyIP(e)
}

// formerIsSilent gives an IP to the MAC that claims it, as far as that is still where it was and its VNI is served.
func (c *Core) formerIsSilent(e *ipEntry, served bool, now time.Time) {
	claim, claimed := c.claimants[e]
	if !claimed {
		return
	}
	delete(c.claimants, e)
	if !served {
		return
	}
	c.dirtyIP(e)
	if m := e.vrf.macs[claim.mac]; m != nil && m.local() != nil && m.local().port == claim.port {
		c.bindFramed(e, claim.binding, now, now.Add(probeAfter))
	}
}
