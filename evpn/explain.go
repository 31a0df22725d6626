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
	e := v.ips[ip]
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
	x.flapped(e.flaps, "IP", ip.String(), v.vni)
	m := v.macs[x.MAC]
	switch {
	case e.best != nil:
		x.kernel(e, v)
		if m != nil {
			x.remote(m)
		}
	case e.out != nil:
		x.say(MarkOK, "announced", "type 2 with the IP, sequence %d, RD %s", e.out.seq, v.rd)
	case e.local != nil:
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
	return fmt.Sprintf("local with sequence %d, before %s", m.seq(), plural(m.routes.len(), "remote route"))
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func (x *explaining) learnedBy(p *Path, what string) {
	a := p.Attrs
	sticky := ""
	if a.Sticky {
		sticky = ", sticky"
	}
	s := x.say(MarkOK, "learned", "%s by type %d from %s (peer %s, RD %s, seq %d%s)", what, p.kind, a.NextHop, p.peer.addr, p.rd, a.Seq, sticky)
	s.Since = time.Unix(0, p.received)
	if p.session != p.peer.session || !p.peer.up {
		x.say(MarkWait, "learned", "the session with %s has ended, its routes are kept for now", p.peer.addr)
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
		if other != p && rule != "" && !slices.Contains(rules, rule) {
			rules = append(rules, rule)
		}
	}
	slices.Sort(rules)
	why := ""
	if len(rules) > 0 {
		why = ", by " + strings.Join(rules, " and ")
	}
	x.say(MarkOK, "best", "best of %s%s", plural(routes.len(), "route"), why)
}

// wonBy puts a rule of choose.go into words; lostBy does so for the other side.
var wonBy = map[string]string{
	"sequence": "its higher sequence number", "sticky": "being sticky", "lowest VTEP": "the lowest VTEP at equal sequence numbers",
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
		x.say(MarkFault, "best", "none of %s has a say", plural(routes.len(), "route"))
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
			who = fmt.Sprintf("%s (peer %s, RD %s)", cand.VTEP, cand.Peer, cand.RD)
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
	s := x.say(MarkFault, "duplicate", "two hosts have this %s: %s, action %s until %s", kind, plural(d.Moves, "move"), d.Action,
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
	x.say(MarkOK, "announced", "type 2, sequence %d, RD %s, RT %s", m.announcedS(), v.rd, joined(v.exportRTs))
	for _, e := range m.ips() {
		if e.out != nil {
			x.say(MarkOK, "announced", "type 2 with %s, sequence %d", e.ip, e.out.seq)
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
	case "blocked":
		x.say(MarkFault, topic, "%s: %s", what, st.Reason).Mend = problem.mend
	case "failed":
		x.say(MarkFault, topic, "%s: the kernel refuses it, tried %s so far: %s", what, plural(problem.tries, "time"), st.Reason).Mend = problem.mend
	case "adopted":
		x.say(MarkWait, topic, "%s, left by an earlier life and kept until peers have said what they know", what)
	case "pending":
		x.say(MarkWait, topic, "%s, on its way to the kernel", what)
	}
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
			plural(int(b.asked), "time"), port, probeAfter*(probeTries+1))
		s.Since = time.Unix(0, b.heard)
	}
}

// unannouncedIP says why the IP of a local host is not announced.
func (x *explaining) unannouncedIP(e *ipEntry, m *macEntry) {
	switch {
	case !e.vrf.inService():
	case m == nil || m.local() == nil:
		x.say(MarkFault, "announced", "not announced: the bridge %s has %s on no local port", e.vrf.at.Bridge, e.local.mac)
	case m.local().yielded:
		x.say(MarkFault, "announced", "not announced: its MAC %s", m.reason())
	default:
		x.say(MarkWait, "announced", "not yet")
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
			x.say(MarkFault, "gone", "its last route was %s: %s (peer %s, RD %s, seq %d)", r.What, r.To, r.Peer, r.RD, r.Seq).Since = r.At
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
