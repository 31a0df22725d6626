package evpn

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// owner says where the MAC was learned, and why that counts.
func (x *explaining) owner(m *macEntry) {
	v := m.vrf
	switch {
	case m.isLocal():
		how := "by the bridge " + v.at.Bridge + " from a frame"
		if m.local().static {
			how = "by a static row of the bridge " + v.at.Bridge
		}
		s := x.say(MarkOK, "learned", "%s on local port %s, %s", m.mac, m.local().port, how)
		s.Since = time.Unix(0, m.since)
		x.say(MarkOK, "best", "%s", cmp.Or(x.against(m), "no VTEP claims it"))
	case m.best != nil:
		x.learnedBy(m.best, m.mac.String())
		x.imported(v, m.best)
		x.best(m.best, &m.routes)
	case m.local() != nil && m.reason() != "":
		x.say(MarkFault, "learned", "%s is on local port %s and does not count: %s", m.mac, m.local().port, m.reason())
	case m.routes.len() > 0 && m.local() == nil && !m.flaps().frozen():
		x.unusable(v, &m.routes)
	case len(m.heard()) > 0:
		x.say(MarkWait, "learned", "a frame on %s told of it; the bridge %s does not have it", m.heard()[0].Port, v.at.Bridge)
	case m.place.have.there():
		x.say(MarkWait, "learned", "%s was left in the kernel by an earlier life; no peer has confirmed it yet", m.mac)
	}
}

// against says by what a local MAC holds against remote claims.
func (x *explaining) against(m *macEntry) string {
	if m.routes.len() == 0 {
		return ""
	}
	if m.flaps().frozen() {
		return "held here as a duplicate, remote claims have no say"
	}
	if m.isSticky() {
		return "static here, before " + plural(m.routes.len(), "remote route", "remote routes")
	}
	return fmt.Sprintf("local with sequence %d, before %s", m.seq(), plural(m.routes.len(), "remote route", "remote routes"))
}

func (x *explaining) learnedBy(p *Path, what string) {
	a := p.Attrs
	sticky := ""
	if a.Sticky {
		sticky = ", sticky"
	}
	s := x.say(MarkOK, "learned", "%s by type %d from %s (peer %s, RD %s, seq %d%s)", what, p.kind, a.NextHop, PeerName(p.peer.addr), p.rd, a.Seq, sticky)
	s.Since = time.Unix(0, p.received)
	if p.session != p.peer.session || !p.peer.up {
		x.say(MarkWait, "learned", "the session with %s has ended, its routes are kept for now", PeerName(p.peer.addr))
	}
}

// imported says which route target brought a path into a MAC-VRF.
func (x *explaining) imported(v *macVRF, p *Path) {
	for _, rt := range p.Attrs.RTs() {
		for _, pattern := range v.importRTs {
			if pattern.Matches(rt) {
				x.say(MarkOK, "imported", "RT %s matches import %s of VNI %d", rt, pattern, v.vni)
				return
			}
		}
	}
}

// best says by which rules a path was chosen among others.
func (x *explaining) best(p *Path, routes *pathList) {
	if routes.len() == 1 {
		x.say(MarkOK, "best", "only route")
		return
	}
	var rules []string
	for other := range routes.all() {
		rule := wonBy[p.claim().beats(other.claim())]
		if x.c.cutOff(other.Attrs.NextHop) && !x.c.cutOff(p.Attrs.NextHop) {
			rule = "being reachable"
		}
		if other != p && rule != "" && !slices.Contains(rules, rule) {
			rules = append(rules, rule)
		}
	}
	slices.Sort(rules)
	why := ""
	if len(rules) > 0 {
		why = ", by " + strings.Join(rules, " and ")
	}
	x.say(MarkOK, "best", "best of %s%s", plural(routes.len(), "route", "routes"), why)
}

// wonBy puts a rule of choose.go into words; lostBy does so for the other side.
var wonBy = map[string]string{
	"long stale": "its peer being there", "sequence": "its higher sequence number", "sticky": "being sticky", "lowest VTEP": "the lowest VTEP at equal sequence numbers",
}

// unusable says why none of the routes gives forwarding state: they are refused, or have no say, which losers tells.
func (x *explaining) unusable(v *macVRF, routes *pathList) {
	for p := range routes.all() {
		why := x.c.refuse(v, p)
		if why == "" {
			continue
		}
		x.learnedBy(p, p.Key().String())
		s := x.say(MarkFault, "refused", "%s", why)
		if why == ownNextHop {
			s.Text += " " + x.c.cfg.VTEP.String() + ": another host uses our tunnel address, or the peer sends our routes back"
		}
	}
	if !slices.ContainsFunc(x.Steps, func(s Step) bool { return s.Topic == "refused" }) {
		x.say(MarkFault, "best", "none of %s has a say", plural(routes.len(), "route", "routes"))
	}
}

// losers lists the claims that were not chosen, with the rule they lost by.
func (x *explaining) losers(claims []Candidate) {
	for _, cand := range claims {
		if cand.Best || x.refused(cand.Lost) {
			continue
		}
		who := "local port " + cand.Port
		if !cand.Local {
			who = fmt.Sprintf("%s (peer %s, RD %s)", cand.VTEP, PeerName(cand.Peer), cand.RD)
		} else if cand.Port == "" {
			who = "the local binding to " + cand.MAC.String()
		}
		what := ""
		if cand.IP.IsValid() && !x.IP.IsValid() {
			what = " with " + cand.IP.String()
		}
		s := x.say(MarkInfo, "lost", "%s%s, seq %d: %s", who, what, cand.Seq, lostBy(cand.Lost))
		s.Since = cand.Since
	}
}

// refused reports that unusable has said it already.
func (x *explaining) refused(why string) bool {
	return slices.ContainsFunc(x.Steps, func(s Step) bool { return s.Topic == "refused" && strings.HasPrefix(s.Text, why) })
}

func lostBy(rule string) string {
	switch rule {
	case "sequence":
		return "lost by its lower sequence number"
	case "long stale":
		return "lost because its peer is gone for long"
	case "sticky":
		return "lost to a sticky MAC"
	case "lowest VTEP":
		return "lost the tie: equal sequence numbers, the lowest VTEP wins"
	}
	return rule
}

// flapped tells of a duplicate.
func (x *explaining) flapped(f *flaps, kind, name string, vni VNI) {
	if !f.duplicate() {
		return
	}
	d := f.view()
	s := x.say(MarkFault, "duplicate", "two hosts have this %s: %s, action %s until %s", kind, plural(d.Moves, "move", "moves"), d.Action,
		d.Until.UTC().Format(time.RFC3339))
	s.Since = d.Since
	s.Mend = fmt.Sprintf("evpnctl clear duplicate %s --vni %d", name, vni)
}

// announced says whether peers were told of a local MAC.
func (x *explaining) announced(v *macVRF, m *macEntry) {
	if !m.announced() {
		if v.inService() && !m.flaps().dropped() {
			x.say(MarkWait, "announced", "not yet")
			return
		}
		x.say(MarkFault, "announced", "not announced")
		return
	}
	said := fmt.Sprintf("sequence %d", m.announcedS().seq)
	if m.announcedS().sticky {
		said = "sticky"
	}
	x.say(MarkOK, "announced", "type 2, %s, RD %s, RT %s", said, v.rd, joined(v.exportRTs))
	for _, e := range m.ips() {
		if e.out() != nil {
			x.say(MarkOK, "announced", "type 2 with %s, sequence %d", e.ip, e.out().seq)
		}
	}
}

func joined[T fmt.Stringer](items []T) string {
	out := make([]string, len(items))
	for i, it := range items {
		out[i] = it.String()
	}
	return strings.Join(out, " ")
}

// remote says how the kernel stands to a MAC behind a VTEP.
func (x *explaining) remote(m *macEntry) {
	v := m.vrf
	switch {
	case m.local() != nil && m.local().yielded && m.local().static:
		s := x.say(MarkFault, "fdb", "%s", m.reason())
		s.Mend = fmt.Sprintf("bridge fdb del %s dev %s master", m.mac, m.local().port)
		if v.at.VLAN != 0 {
			s.Mend += fmt.Sprintf(" vlan %d", v.at.VLAN)
		}
	case m.place.want.there() || m.place.have.there():
		x.kernel(m, v)
	}
	if m.best == nil {
		return
	}
	if t := x.c.vteps[m.best.Attrs.NextHop]; t != nil {
		if st := x.c.kernelStatus(t); st.State == "failed" || st.State == "blocked" {
			x.say(MarkFault, "nexthop", "the kernel has none to %s: %s", t.addr, st.Reason)
		}
	}
}

// kernel says how one kernel entry stands.
func (x *explaining) kernel(h holder, v *macVRF) {
	topic, what := "fdb", v.at.Device+" dst"
	switch h := h.(type) {
	case *macEntry:
		if h.best != nil {
			what += " " + h.best.Attrs.NextHop.String()
		}
	case *ipEntry:
		topic, what = "neigh", fmt.Sprintf("%s %s lladdr %s", v.at.Bridge, h.ip, x.MAC)
	}
	problem := x.c.problems[h.key()]
	switch st := x.c.kernelStatus(h); st.State {
	case "installed":
		s := x.say(MarkOK, topic, "%s, acknowledged by the kernel", what)
		s.Since, s.Took = x.c.written(h.key())
	case "parked":
		x.say(MarkOK, topic, "%s, acknowledged by the kernel, parked", what)
		x.unreachable(h.(*macEntry).best)
	case "blocked":
		x.say(MarkFault, topic, "%s: %s", what, st.Reason).Mend = problem.mend
	case "failed":
		x.say(MarkFault, topic, "%s: the kernel refuses it, tried %s so far: %s", what, plural(problem.tries, "time", "times"), st.Reason).Mend = problem.mend
	case "adopted":
		x.say(MarkWait, topic, "%s, left by an earlier life and kept until peers have said what they know", what)
	case "pending":
		x.say(MarkWait, topic, "%s, on its way to the kernel", what)
	}
}

// unreachable says why nothing is sent to the next hop of a path.
func (x *explaining) unreachable(p *Path) {
	if p == nil || !x.c.cutOff(p.Attrs.NextHop) {
		return
	}
	w := x.c.ways[p.Attrs.NextHop]
	if !w.missing {
		x.say(MarkWait, "nexthop", "%s: %s; used again at %s", w.vtep, x.c.whyCutOff(w.vtep), w.until.UTC().Format(time.RFC3339)).Since = w.since
		return
	}
	x.say(MarkFault, "nexthop", "%s: %s, nothing is sent there", w.vtep, x.c.whyCutOff(w.vtep)).Since = w.since
}

// written finds when the kernel acknowledged an entry last, as far as that is remembered.
func (c *Core) written(key EntryKey) (at time.Time, took time.Duration) {
	for i := len(c.history.kernel.batches) - 1; i >= 0; i-- {
		b := &c.history.kernel.batches[i]
		for j := range b.ops {
			if b.ops[j].Key == key && !b.ops[j].Del && !b.failed[key] {
				return time.Unix(0, b.done), time.Duration(b.done - b.at)
			}
		}
	}
	return at, took
}

// bound says who told of the IP of a local host, and whether it still answers.
func (x *explaining) bound(e *ipEntry, b *binding) {
	m := e.vrf.macs[b.mac]
	port := "a port"
	if m != nil && m.local() != nil {
		port = m.local().port
	}
	if !b.framed {
		s := x.say(MarkOK, "learned", "%s → %s from the kernel's neighbour table on %s, port %s", e.ip, b.mac, e.vrf.at.Bridge, port)
		s.Since = time.Unix(0, b.since)
		return
	}
	s := x.say(MarkOK, "learned", "%s → %s by an ARP or ND frame on %s", e.ip, b.mac, port)
	s.Since = time.Unix(0, b.since)
	if b.asked > 0 {
		s := x.say(MarkWait, "probe", "silent: asked %s on %s, no answer yet; gone %s after its last frame",
			plural(int(b.asked), "time", "times"), port, probeAfter*(probeTries+1))
		s.Since = time.Unix(0, b.heard)
	}
}

// unannouncedIP says why the IP of a local host is not announced.
func (x *explaining) unannouncedIP(e *ipEntry, m *macEntry) {
	fixed := x.c.fixedElsewhere(e, e.local().mac)
	switch {
	case !e.vrf.inService():
	case e.vrf.isGatewayIP(e.ip):
		x.say(MarkFault, "announced", "not announced: %s", whyGatewayIP)
	case fixed != nil:
		x.say(MarkFault, "announced", "not announced: fixed at %s with %s", fixed.Attrs.NextHop, fixed.mac)
	case m == nil || m.local() == nil:
		x.say(MarkFault, "announced", "not announced: the bridge %s has %s on no local port", e.vrf.at.Bridge, e.local().mac)
	case m.reason() != "":
		x.say(MarkFault, "announced", "not announced: its MAC does not count: %s", m.reason())
	default:
		x.say(MarkWait, "announced", "not yet")
	}
}
