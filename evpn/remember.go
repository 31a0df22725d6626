package evpn

import "time"

// Bindings that are remembered from an earlier life are confirmed by a probe each, spread over recallOver but no slower
// than one each recallPace.
const (
	recallOver = 50 * time.Second
	recallPace = time.Millisecond
)

// FramedBindings returns what frames told of local hosts, in a fixed order: what the next life has to be
// told by Remembered. Until Synced that is what this one was told.
func (c *Core) FramedBindings() []LocalIP {
	if !c.synced {
		return c.recalled
	}
	var out []LocalIP
	for _, v := range c.vrfsInOrder() {
		for _, e := range v.ipsThat(func(e *ipEntry) bool { return e.local() != nil && e.local().framed }) {
			b := e.local()
			if m := v.macs[b.mac]; m != nil && m.local() != nil {
				out = append(out, LocalIP{VNI: v.vni, IP: e.ip, MAC: b.mac, Port: m.local().port, Source: WitnessFrame, Router: b.router})
			}
		}
	}
	return out
}

// recall has the words of an earlier life count, once all is known that the bridges have: those of MACs that are where they
// were, on addresses of which nobody has said anything since; the others are asked. So the routes of silent hosts outlive a restart; each host is
// asked soon, and one that does not answer goes as if it had fallen silent at the end of that life.
func (c *Core) recall(now time.Time) {
	words := c.recalled
	c.recalled = nil
	heard := c.ageing
	c.ageing = nil
	due, pace := now, min(recallPace, recallOver/time.Duration(max(1, len(words))))
	for _, ev := range words {
		v := c.vrfs[ev.VNI]
		if v == nil || v.at == nil || !usableHostIP(ev.IP) || v.claimsOurs(ev) != "" {
			continue
		}
		m, e := v.macs[ev.MAC], v.ips.get(ev.IP)
		switch {
		case !v.canBeHost(ev.MAC) || e != nil && e.local() != nil:
		case m == nil || m.local() == nil: // its row has gone meanwhile, which does not say that the host has
			c.ask(v, askStayed, Probe{Port: ev.Port, MAC: ev.MAC, IP: ev.IP}, now)
		case m.local().port != ev.Port:
			c.ask(v, askFollows, Probe{Port: m.local().port, MAC: ev.MAC, IP: ev.IP}, now)
		case v.tooMany(m, e) == "":
			c.bindFramed(v.ip(ev.IP), binding{said: said{mac: ev.MAC, router: ev.Router}}, now, due)
			due = due.Add(pace)
		}
	}
	c.ageing = append(c.ageing, heard...)
}
