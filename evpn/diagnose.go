package evpn

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// Diagnose looks for what the routes, the kernel's answers and the moves of hosts tell of wrong set-ups, here or at peers.
// One fault stands for all routes or entries with the same cause. The faults are in a fixed order; the cost grows with the
// routes. Devices and sessions are not looked at: dataplane and daemon know them.
func (c *Core) Diagnose() []Fault {
	faults := c.diagnoseRoutes()
	for _, v := range c.vrfsInOrder() {
		if v.at == nil {
			continue
		}
		faults = append(faults, c.diagnoseFlood(v)...)
		faults = append(faults, diagnoseDuplicates(v)...)
	}
	return append(faults, c.diagnoseEntries()...)
}

// cause is what routes of one fault have in common.
type cause struct {
	code FaultCode
	peer netip.Addr
	vni  VNI
	why  string
}

func (a cause) compare(b cause) int {
	return cmp.Or(strings.Compare(string(a.code), string(b.code)), a.peer.Compare(b.peer), cmp.Compare(a.vni, b.vni), strings.Compare(a.why, b.why))
}

// diagnoseRoutes walks the received routes. Those that no VNI here is meant to import are none of our business: peers send
// us those of other VNIs, unless RT constraint keeps them away.
func (c *Core) diagnoseRoutes() (faults []Fault) {
	counts := map[cause]int{}
	for _, p := range c.rib.paths {
		for ; p != nil; p = p.nextKey {
			if why, ok := c.misfit(p); ok {
				counts[why]++
			}
		}
	}
	for _, why := range slices.SortedFunc(maps.Keys(counts), cause.compare) {
		faults = append(faults, c.routeFault(why, counts[why]))
	}
	return faults
}

// misfit says why a path that should be of use here is of none.
func (c *Core) misfit(p *Path) (cause, bool) {
	vni := p.vni()
	vrfs := c.importers(c.attrs[p.Attrs], p.Attrs)
	switch {
	case p.Attrs.NextHop == c.cfg.VTEP:
		return cause{code: FaultOwnVTEP, peer: p.peer.addr}, true
	case p.kind != TypeMACIP && p.kind != TypeIMET:
		return cause{}, false
	case len(vrfs) > 0:
		why := c.rejected(p)
		return cause{FaultRouteRefused, p.peer.addr, vrfs[0].vni, why}, why != ""
	case c.vrfs[vni] != nil && c.vrfs[vni].inService():
		return cause{FaultRTMismatch, p.peer.addr, vni, cmp.Or(list(p.Attrs.RTs()), "none")}, true
	}
	return cause{}, false
}

// vni is what the label of a path says.
func (p *Path) vni() VNI {
	if p.kind == TypeIMET {
		return VNI(p.Attrs.PMSI.Label)
	}
	return VNI(p.label1)
}

// list prints values with blanks between them.
func list[T fmt.Stringer](values []T) string {
	words := make([]string, 0, len(values))
	for _, v := range values {
		words = append(words, v.String())
	}
	return strings.Join(words, " ")
}

func (c *Core) routeFault(why cause, count int) Fault {
	f := Fault{Code: why.code, Severity: SeverityError, VNI: why.vni, Peer: why.peer}
	routes := plural(count, "route", "routes")
	switch why.code {
	case FaultOwnVTEP:
		f.Detail = fmt.Sprintf("%s sends %s with our VTEP %s as next hop: another host has the address", PeerName(why.peer), routes, c.cfg.VTEP)
		f.Remedy = "give one of the two another vtep; evpnctl show route has their RDs"
	case FaultRTMismatch:
		f.Detail = fmt.Sprintf("%s sends %s of VNI %d with RT %s, and VNI %d imports %s",
			PeerName(why.peer), routes, why.vni, why.why, why.vni, list(c.vrfs[why.vni].importRTs))
		f.Remedy = fmt.Sprintf("add the RT to import of VNI %d, or have the sender export another one", why.vni)
	case FaultRouteRefused:
		f.Severity = SeverityWarning
		f.Detail = fmt.Sprintf("%s of %s into VNI %d refused (%s)", routes, PeerName(why.peer), why.vni, why.why)
		f.Remedy = fmt.Sprintf("mend the sender; evpnctl show route --peer %s --vni %d tells which", PeerName(why.peer), why.vni)
	}
	return f
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// diagnoseFlood finds VTEPs that send MACs and no IMET route. They are judged when their peer has sent all it had.
func (c *Core) diagnoseFlood(v *macVRF) (faults []Fault) {
	silent := map[netip.Addr]int{}
	for _, m := range v.macs {
		if p := m.best; p != nil && p.peer.complete && v.flood[p.Attrs.NextHop].silent() {
			silent[p.Attrs.NextHop]++
		}
	}
	for _, vtep := range slices.SortedFunc(maps.Keys(silent), netip.Addr.Compare) {
		faults = append(faults, Fault{
			Code: FaultNoIMET, Severity: SeverityError, VNI: v.vni, Peer: vtep,
			Detail: fmt.Sprintf("VTEP %s announces %s of VNI %d and no IMET route, so it gets no broadcast", vtep, plural(silent[vtep], "MAC", "MACs"), v.vni),
			Remedy: "have that VTEP announce ingress replication for the VNI",
		})
	}
	return faults
}

// silent reports that no IMET route names the VTEP, also none that is refused.
func (f *floodEntry) silent() bool { return f == nil || f.routes.len() == 0 }

func diagnoseDuplicates(v *macVRF) (faults []Fault) {
	var names []string
	for _, m := range v.macsInOrder() {
		if m.flaps().duplicate() {
			names = append(names, m.mac.String())
		}
	}
	for _, e := range v.ipsInOrder() {
		if e.flaps().duplicate() {
			names = append(names, e.ip.String())
		}
	}
	if len(names) == 0 {
		return nil
	}
	return []Fault{{
		Code: FaultDuplicate, VNI: v.vni,
		Detail: fmt.Sprintf("two hosts have %s in VNI %d, such as %s", plural(len(names), "address", "addresses"), v.vni, names[0]),
		Remedy: fmt.Sprintf("end one of them, then evpnctl clear duplicate --vni %d", v.vni),
	}}
}

// diagnoseEntries tells of kernel entries that could not be written, one for each VNI and reason.
func (c *Core) diagnoseEntries() (faults []Fault) {
	counts := map[cause]int{}
	for _, key := range slices.SortedFunc(maps.Keys(c.problems), EntryKey.compare) {
		p := c.problems[key]
		why := cause{code: FaultEntryRefused, vni: key.VNI, why: p.why}
		if p.foreign {
			why = cause{code: FaultEntryBlocked, vni: key.VNI}
		}
		if counts[why]++; counts[why] == 1 {
			faults = append(faults, c.entryFault(why, key, p))
		}
	}
	for i, f := range faults {
		why := cause{code: f.Code, vni: f.VNI, why: f.Detail}
		if f.Code == FaultEntryBlocked {
			why.why = ""
		}
		faults[i].Detail = fmt.Sprintf("%s of VNI %d: %s", plural(counts[why], "kernel entry", "kernel entries"), f.VNI, f.Detail)
	}
	return faults
}

// entryFault makes a fault whose detail is the reason alone.
func (c *Core) entryFault(why cause, key EntryKey, p *problem) Fault {
	f := Fault{Code: why.code, Severity: SeverityError, VNI: key.VNI, Detail: p.why, Remedy: "see the log of the kernel; it is tried again every 30 s"}
	if v := c.vrfs[key.VNI]; v != nil && v.at != nil {
		f.Ifname = v.at.Bridge
	}
	if !p.foreign {
		return f
	}
	f.Severity = SeverityWarning
	f.Remedy = cmp.Or(p.mend, fmt.Sprintf("find it with bridge fdb show | grep %s and delete it", key.MAC))
	if key.Table == TableNeighbor {
		f.Remedy = cmp.Or(p.mend, fmt.Sprintf("ip neigh del %s dev %s", key.Addr, f.Ifname))
	}
	f.Remedy += fmt.Sprintf("; evpnctl clear foreign --vni %d lists all that another daemon left", key.VNI)
	return f
}
