package evpn

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Mark says how one step of an explanation stands.
type Mark uint8

// Marks.
const (
	MarkOK   Mark = iota
	MarkInfo      // neither good nor bad: who else laid claim, and why that lost
	MarkWait      // on its way
	MarkFault
)

// Step is one thing that the forwarding of a MAC or an IP depends on, or a claim that lost.
type Step struct {
	Mark  Mark
	Topic string    // service, learned, imported, best, lost, duplicate, announced, fdb, neigh, nexthop, probe, gone
	Text  string    // what is so and why, in plain words; no moments
	Since time.Time // since when, where that is known
	Took  time.Duration
	Mend  string // a command that mends it; "": none does, or nothing is wrong
}

// Explanation says why a MAC, or an IP and its MAC, are where they are in one VNI. Records are the last ones about it.
type Explanation struct {
	VNI     VNI // 0: routes for it came, and no VNI here imports them
	MAC     MAC
	IP      netip.Addr // the zero Addr when a MAC was asked for
	Steps   []Step
	Records []Record
}

// Well reports that nothing is wrong.
func (x *Explanation) Well() bool {
	return !slices.ContainsFunc(x.Steps, func(s Step) bool { return s.Mark == MarkFault })
}

const explainRecords = 10

// Explain says what is known of a MAC or of an IP, in vni or, when that is 0, wherever it is known; nothing when it is
// known nowhere and was not lately. It changes nothing, and walks the received routes once.
func (c *Core) Explain(vni VNI, mac MAC, ip netip.Addr) []Explanation {
	var all []Explanation
	for _, v := range c.vrfsFor(vni) {
		var x *explaining
		if ip.IsValid() {
			x = c.explainIP(v, ip)
		} else {
			x = c.explainMAC(v, mac)
		}
		if x != nil {
			all = append(all, x.Explanation)
		}
	}
	if x := c.explainAlien(vni, mac, ip); x != nil {
		all = append(all, x.Explanation)
	}
	if len(all) == 0 {
		if x := c.explainGone(vni, mac, ip); x != nil {
			all = append(all, x.Explanation)
		}
	}
	for i := range all {
		f := RecordFilter{VNI: all[i].VNI, IP: ip}
		if !ip.IsValid() {
			f.MAC = mac
		}
		all[i].Records = c.History(f, explainRecords)
	}
	return all
}

// explaining is an explanation in the making.
type explaining struct {
	Explanation
	c *Core
}

func (x *explaining) say(m Mark, topic, format string, args ...any) *Step {
	x.Steps = append(x.Steps, Step{Mark: m, Topic: topic, Text: fmt.Sprintf(format, args...)})
	return &x.Steps[len(x.Steps)-1]
}

// explainMAC is nil when the MAC-VRF knows nothing of the MAC.
func (c *Core) explainMAC(v *macVRF, mac MAC) *explaining {
	m := v.macs[mac]
	if m == nil || m.local() == nil && m.routes.len() == 0 && !m.place.have.there() && len(m.heard()) == 0 && !m.flaps().duplicate() {
		return nil
	}
	x := &explaining{c: c, Explanation: Explanation{VNI: v.vni, MAC: mac}}
	x.service(v)
	x.owner(m)
	x.losers(c.candidates(m))
	x.flapped(m.flaps(), "MAC", mac.String(), v.vni)
	if m.isLocal() {
		x.announced(v, m)
	} else {
		x.remote(m)
	}
	return x
}

// explainIP is nil when the MAC-VRF knows nothing of the IP.
func (c *Core) explainIP(v *macVRF, ip netip.Addr) *explaining {
	e := v.ips.get(ip)
	if e == nil || e.binding() == nil && e.routes.len() == 0 && !e.place.have.there() {
		return nil
	}
	x := &explaining{c: c, Explanation: Explanation{VNI: v.vni, IP: ip}}
	x.service(v)
	switch {
	case e.best != nil:
		x.MAC = e.best.mac
		x.learnedBy(e.best, fmt.Sprintf("%s → %s", ip, x.MAC))
		x.imported(v, e.best)
	case e.binding() != nil:
		x.MAC = e.binding().mac
		x.bound(e, e.binding())
	case e.routes.len() > 0:
		x.unusable(v, &e.routes)
	case e.place.have.there():
		x.MAC = e.place.have.mac()
		x.say(MarkWait, "learned", "%s → %s was left in the kernel by an earlier life; no peer has confirmed it yet", ip, x.MAC)
	}
	if e.best != nil {
		x.best(e.best, &e.routes)
	}
	x.losers(c.ipCandidates(e))
	x.flapped(e.flaps(), "IP", ip.String(), v.vni)
	m := v.macs[x.MAC]
	switch {
	case e.best != nil:
		x.kernel(e, v)
		if m != nil {
			x.remote(m)
		}
	case e.out() != nil:
		x.say(MarkOK, "announced", "type 2 with the IP, sequence %d, RD %s", e.out().seq, v.rd)
	case e.local() != nil:
		x.unannouncedIP(e, m)
	}
	return x
}

func (x *explaining) service(v *macVRF) {
	switch {
	case v.inService():
		return
	case v.unfit != "":
		x.say(MarkFault, "service", "VNI %d is not served: %s", v.vni, v.unfit)
	case len(v.at.Faults) == 0:
		x.say(MarkFault, "service", "VNI %d is not served: %s is down", v.vni, v.at.Device).Mend = "ip link set dev " + v.at.Device + " up"
	}
	for _, fault := range v.at.Faults { // each names the command that mends it
		x.say(MarkFault, "service", "VNI %d is not served: %s", v.vni, fault)
	}
}

// explainAlien tells of routes that came and that no VNI here imports; nil when there are none.
func (c *Core) explainAlien(vni VNI, mac MAC, ip netip.Addr) *explaining {
	x := &explaining{c: c, Explanation: Explanation{MAC: mac, IP: ip}}
	alien := c.rib.from(func(p *Path) bool {
		return p.kind == TypeMACIP && (ip.IsValid() && p.ip == addressOf(ip) || !ip.IsValid() && p.mac == mac) &&
			(vni == 0 || VNI(p.label1) == vni) && len(c.importers(c.attrs[p.Attrs], p.Attrs)) == 0
	})
	for _, p := range alien {
		x.MAC = p.mac
		x.learnedBy(p, p.Key().String())
		rts := p.Attrs.RTs()
		v := c.vrfs[VNI(p.label1)]
		if v == nil || v.at == nil {
			x.say(MarkFault, "imported", "no VNI here imports RT %s, and VNI %d has no device here", cmp.Or(joined(rts), "(none)"), p.label1)
			continue
		}
		s := x.say(MarkFault, "imported", "no VNI here imports RT %s; its label names VNI %d, which imports %s", cmp.Or(joined(rts), "(none)"), v.vni, joined(v.importRTs))
		if len(rts) > 0 {
			s.Mend = fmt.Sprintf("evpnctl reload, with %s added to vnis: {%d: {import: [%s]}} in the configuration", rts[0], v.vni, quoted(v.importRTs))
		}
	}
	if len(x.Steps) == 0 {
		return nil
	}
	return x
}

// quoted lists patterns as the configuration has them.
func quoted(patterns []RTPattern) string {
	out := make([]string, len(patterns))
	for i, p := range patterns {
		out[i] = strconv.Quote(p.String())
	}
	return strings.Join(out, ", ")
}

// explainGone tells when something went that is known no more; nil when it was not there lately.
func (c *Core) explainGone(vni VNI, mac MAC, ip netip.Addr) *explaining {
	f := RecordFilter{VNI: vni, IP: ip}
	if !ip.IsValid() {
		f.MAC = mac
	}
	var x *explaining
	for _, r := range slices.Backward(c.History(f, routineRecords)) {
		switch {
		case r.What == "gone" && x == nil:
			x = &explaining{c: c, Explanation: Explanation{VNI: r.VNI, MAC: r.MAC, IP: ip}}
			x.say(MarkFault, "gone", "it was %s, and nobody has it now", placedAt(r.From)).Since = r.At
		case r.Topic == "route" && (r.What == "withdrawn" || r.What == "dropped"):
			if x == nil {
				x = &explaining{c: c, Explanation: Explanation{VNI: r.VNI, MAC: r.MAC, IP: ip}}
			}
			x.say(MarkFault, "gone", "its last route was %s: %s (peer %s, RD %s, seq %d)", r.What, r.To, PeerName(r.Peer), r.RD, r.Seq).Since = r.At
			return x
		}
	}
	return x
}

func placedAt(from string) string {
	if from == "local" {
		return "on a local port"
	}
	return "behind " + from
}
