package evpn

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

var noteNames = map[NoteKind]string{
	NoteVNIUp: "vni-up", NoteVNIDown: "vni-down", NoteVNIFault: "vni-fault", NoteMACMoved: "mac-moved",
	NoteStickyMAC: "sticky-mac", NoteRefused: "refused", NoteForeign: "foreign", NoteKernel: "kernel",
	NoteDrift: "drift", NoteReaped: "reaped", NotePeerRoutes: "peer-routes", NoteLimit: "limit", NoteRouteLimit: "route-limit", NoteMACLimit: "mac-limit",
	NoteDuplicateMAC: "duplicate-mac", NoteDuplicateIP: "duplicate-ip", NoteDuplicateOver: "duplicate-over",
	NoteVTEPLost: "vtep-lost", NoteVTEPBack: "vtep-back",
	NoteGateway: "gateway", NoteFixedIP: "fixed-ip",
}

// print writes one output in the order notes, routes, kernel, the rest.
func (s *story) print(out Output) {
	for _, n := range out.Notes {
		s.printf("note %s", describeNote(n))
	}
	if out.RDNumbers != nil {
		for _, vni := range slices.Sorted(maps.Keys(out.RDNumbers)) {
			s.printf("remember rd-number %d for vni %d", out.RDNumbers[vni], vni)
		}
		s.cfg.RDNumbers = out.RDNumbers
	}
	if out.ImportRTs != nil {
		text := ""
		for _, rt := range out.ImportRTs {
			text += " " + rt.String()
		}
		s.printf("import%s", text)
	}
	for _, op := range out.Routes {
		s.printf("%s", describeRoute(op))
	}
	for _, op := range out.Kernel.Ops {
		s.printf("%s", describeOp(op))
	}
	for _, p := range out.Probes {
		s.printf("probe vni %d port %s mac %s ip %s", p.VNI, p.Port, p.MAC, p.IP)
	}
	for _, r := range out.Resets {
		s.printf("reset peer %s, most %d", r.Peer, r.Most)
	}
	for _, p := range out.Refreshes {
		s.printf("refresh from peer %s", p)
	}
	if out.ReleaseEoR {
		s.printf("release-eor")
	}
	if len(out.ReadBack) > 0 {
		s.printf("read-back %s", strings.Trim(fmt.Sprint(out.ReadBack), "[]"))
	}
}

func describeNote(n Note) string {
	var b strings.Builder
	b.WriteString(noteNames[n.Kind])
	if n.VNI != 0 {
		fmt.Fprintf(&b, " vni %d", n.VNI)
	}
	if !n.MAC.IsZero() {
		fmt.Fprintf(&b, " mac %s", n.MAC)
	}
	if n.IP.IsValid() {
		fmt.Fprintf(&b, " ip %s", n.IP)
	}
	if n.VTEP.IsValid() {
		fmt.Fprintf(&b, " vtep %s", n.VTEP)
	}
	if n.Peer.IsValid() {
		fmt.Fprintf(&b, " peer %s", n.Peer)
	}
	if n.Count != 0 {
		fmt.Fprintf(&b, " count %d", n.Count)
	}
	if n.Reason != "" {
		fmt.Fprintf(&b, ": %s", n.Reason)
	}
	return b.String()
}

func describeRoute(op RouteOp) string {
	verb := "announce"
	if op.Withdraw {
		verb = "withdraw"
	}
	return verb + describeKey(op.Route) + describeAttrs(op.Route, op.Attrs)
}

func describeKey(r Route) string {
	k := r.Key
	switch k.Type {
	case TypeMACIP:
		s := fmt.Sprintf(" type2 vni %d mac %s", r.Label1, k.MAC)
		if k.IP.IsValid() {
			s += fmt.Sprintf(" ip %s", k.IP)
		}
		return s
	case TypeIMET:
		return fmt.Sprintf(" type3 rd %s originator %s", k.RD, k.IP)
	default:
		return " " + k.String()
	}
}

func describeAttrs(r Route, a *Attrs) string {
	if a == nil {
		return ""
	}
	var b strings.Builder
	if r.Key.Type == TypeIMET {
		fmt.Fprintf(&b, " vni %d endpoint %s", a.PMSI.Label, a.PMSI.Endpoint)
	}
	if a.NextHop != r.Key.IP {
		fmt.Fprintf(&b, " vtep %s", a.NextHop)
	}
	for _, rt := range a.RTs() {
		fmt.Fprintf(&b, " rt %s", rt)
	}
	if a.HasMobility {
		fmt.Fprintf(&b, " seq %d", a.Seq)
	}
	if a.Sticky {
		b.WriteString(" sticky")
	}
	if a.DefaultGateway {
		b.WriteString(" gateway")
	}
	if a.NDFlags&NDRouter != 0 {
		b.WriteString(" router")
	}
	if a.NDFlags&NDImmutable != 0 {
		b.WriteString(" immutable")
	}
	return b.String()
}

func describeOp(op KernelOp) string {
	if op.Del {
		return "del " + op.Key.String()
	}
	s := "set " + op.Key.String() + op.Entry.describe()
	if op.Replace {
		s += " replace"
	}
	return s
}

func (s *story) show(w *words) {
	switch what := w.next(); what {
	case "macs":
		s.showMACs()
	case "ips":
		for _, n := range s.core.Neighbors(0, false) {
			where := "local"
			if n.VTEP.IsValid() {
				where = "vtep " + n.VTEP.String()
			}
			s.printf("ip %s vni %d mac %s %s seq %d%s kernel %s%s", n.IP, n.VNI, n.MAC, where, n.Seq, flags("announced", n.Announced, "router", n.Router), kernelWords(n.Kernel), s.duplicateWords(n.Duplicate))
		}
	case "vteps":
		for _, v := range s.core.VTEPs(0) {
			way := ""
			if v.Way.Down {
				way = ": " + v.Way.Reason
			}
			s.printf("vtep %s vni %d macs %d%s kernel %s%s", v.VTEP, v.VNI, v.MACs, flags("flood", v.Flood), kernelWords(v.Kernel), way)
		}
	case "vnis":
		for _, v := range s.core.VNIs() {
			reason := ""
			if v.Reason != "" {
				reason = ": " + v.Reason
			}
			s.printf("vni %d rd %s local %d macs %d ips remote %d macs %d ips%s%s", v.VNI, v.RD, v.LocalMACs, v.LocalIPs, v.RemoteMACs, v.RemoteIPs, flags("in-service", v.InService), reason)
		}
	case "routes":
		for _, r := range s.core.Routes(w.optionalAddr()) {
			rejected := ""
			if r.Rejected != "" {
				rejected = ": " + r.Rejected
			}
			s.printf("route %s peer %s vtep %s%s%s", r.Key, r.Peer, r.Attrs.NextHop, flags("best", r.Best, r.Stale, r.Stale != ""), rejected)
		}
	case "own":
		for _, r := range s.core.OwnRoutes() {
			s.printf("own%s%s", describeKey(r.Route), describeAttrs(r.Route, &r.Attrs))
		}
	case "kernel":
		for _, key := range s.kernel.keys() {
			r := s.kernel.rows[key]
			s.printf("kernel %s%s%s", key, r.entry.describe(), flags("foreign", r.foreign(), "learned", r.learned))
		}
	default:
		s.fatalf("cannot show %q", what)
	}
}

func (w *words) optionalAddr() (a netip.Addr) {
	if w.more() {
		return w.addr()
	}
	return a
}

func (s *story) showMACs() {
	for _, m := range s.core.MACs(0, true) {
		where := "nobody"
		switch {
		case m.Local:
			where = "local " + m.Port
		case m.VTEP.IsValid():
			where = "vtep " + m.VTEP.String()
		}
		reason := ""
		if m.Reason != "" {
			reason = ": " + m.Reason
		}
		s.printf("mac %s vni %d %s seq %d%s kernel %s%s", m.MAC, m.VNI, where, m.Seq,
			flags("sticky", m.Sticky, "static", m.Static, "announced", m.Announced), kernelWords(m.Kernel), s.duplicateWords(m.Duplicate)+reason)
		for _, c := range m.Candidates {
			who := "local"
			if !c.Local {
				who = "peer " + c.Peer.String()
			}
			lost := "best"
			if !c.Best {
				lost = "lost: " + c.Lost
			}
			s.printf("  candidate %s vtep %s seq %d%s %s", who, c.VTEP, c.Seq, flags("sticky", c.Sticky), lost)
		}
	}
}

func (s *story) duplicateWords(d *Duplicate) string {
	if d == nil {
		return ""
	}
	return fmt.Sprintf(" duplicate %s moves %d for %s", d.Action, d.Moves, d.Until.Sub(s.now))
}

func kernelWords(k KernelStatus) string {
	if k.Reason != "" {
		return k.State + " (" + k.Reason + ")"
	}
	return k.State
}

// flags names those of the pairs that are true.
func flags(pairs ...any) string {
	s := ""
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1].(bool) {
			s += " " + pairs[i].(string)
		}
	}
	return s
}
