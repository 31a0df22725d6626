package evpn

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"
)

// importers returns the MAC-VRFs that import routes with these attributes (RT-02), in order, matched once per attribute
// set and change of the route targets.
func (c *Core) importers(set *attrSet, a *Attrs) []*macVRF {
	if set.gen != c.importGen {
		set.gen, set.vrfs = c.importGen, c.importIndex.find(a.RTs())
	}
	return set.vrfs
}

// importIndex finds the MAC-VRFs that import a route target: what RTPattern.Matches says, without asking each of them.
type importIndex struct {
	exact map[RT][]*macVRF
	any   map[uint32][]*macVRF // *:Local, for route targets with 32 bits beside the administrator
	any16 map[uint16][]*macVRF // *:Local, for those with 16
}

func newImportIndex() importIndex {
	return importIndex{exact: map[RT][]*macVRF{}, any: map[uint32][]*macVRF{}, any16: map[uint16][]*macVRF{}}
}

func (x importIndex) add(v *macVRF) {
	if v.policy.Off {
		return
	}
	for _, p := range v.importRTs {
		if p.AnyAdmin {
			x.any[p.Local] = append(x.any[p.Local], v)
			x.any16[uint16(p.Local)] = append(x.any16[uint16(p.Local)], v)
		} else {
			x.exact[p.RT] = append(x.exact[p.RT], v)
		}
	}
}

// remove takes out a MAC-VRF whose route targets are those it was added with.
func (x importIndex) remove(v *macVRF) {
	for _, p := range v.importRTs {
		if p.AnyAdmin {
			removeFrom(x.any, p.Local, v)
			removeFrom(x.any16, uint16(p.Local), v)
		} else {
			removeFrom(x.exact, p.RT, v)
		}
	}
}

func removeFrom[K comparable](m map[K][]*macVRF, key K, v *macVRF) {
	rest := slices.DeleteFunc(m[key], func(other *macVRF) bool { return other == v })
	if len(rest) == 0 {
		delete(m, key)
	} else {
		m[key] = rest
	}
}

func (x importIndex) find(rts []RT) []*macVRF {
	var vrfs []*macVRF
	for _, rt := range rts {
		vrfs = append(vrfs, x.exact[rt]...)
		if rt[0] == 0 {
			vrfs = append(vrfs, x.any[binary.BigEndian.Uint32(rt[4:])]...)
		} else {
			vrfs = append(vrfs, x.any16[binary.BigEndian.Uint16(rt[6:])]...)
		}
	}
	slices.SortFunc(vrfs, func(a, b *macVRF) int { return cmp.Compare(a.vni, b.vni) })
	return slices.Compact(vrfs)
}

// changeImports runs change, which alters what MAC-VRFs import and brings importIndex along, and moves the stored paths to where they belong now
// (RT-07: no session is touched).
func (c *Core) changeImports(change func()) {
	type move struct{ from, to []*macVRF }
	moves := make(map[*Attrs]move)
	for a, set := range c.attrs {
		moves[a] = move{from: c.importers(set, a)}
	}
	change()
	c.importGen++
	for a, m := range moves {
		if m.to = c.importers(c.attrs[a], a); slices.Equal(m.from, m.to) {
			delete(moves, a)
		} else {
			moves[a] = m
			c.named(c.attrs[a], a, len(m.to) > 0)
		}
	}
	if len(moves) == 0 {
		return
	}
	for _, path := range c.rib.from(func(p *Path) bool { _, moves := moves[p.Attrs]; return moves }) {
		c.pathChanged(path)
		m := moves[path.Attrs]
		for _, v := range m.from {
			if !slices.Contains(m.to, v) {
				c.unimported(v, path)
			}
		}
		for _, v := range m.to {
			if !slices.Contains(m.from, v) {
				c.imported(v, path)
			}
		}
	}
}

// imported adds a path to a MAC-VRF. Types 1, 4 and 5 are stored but move nothing yet.
func (c *Core) imported(v *macVRF, path *Path) {
	switch path.kind {
	case TypeMACIP:
		m := v.mac(path.mac)
		m.routes.add(path)
		c.dirtyMAC(m)
		if path.hasIP() {
			e := v.ip(path.ip.addr())
			e.routes.add(path)
			c.dirtyIP(e)
		}
	case TypeIMET:
		f := v.floodTo(path.floodEndpoint())
		f.routes.add(path)
		c.decideFlood(f)
	}
}

// unimported takes a path out of a MAC-VRF again.
func (c *Core) unimported(v *macVRF, path *Path) {
	switch path.kind {
	case TypeMACIP:
		if m := v.macs[path.mac]; m != nil {
			m.routes.remove(path)
			c.dirtyMAC(m)
		}
		if e := v.ips.get(path.ip.addr()); e != nil {
			e.routes.remove(path)
			c.dirtyIP(e)
		}
	case TypeIMET:
		if f := v.flood[path.floodEndpoint()]; f != nil {
			f.routes.remove(path)
			c.decideFlood(f)
		}
	}
}

// floodEndpoint is where BUM frames for the sender go: the PMSI tunnel identifier, or the next hop when that field is
// unspecified (PM-04).
func (p *Path) floodEndpoint() netip.Addr {
	if e := p.Attrs.PMSI.Endpoint; e.IsValid() && !e.IsUnspecified() {
		return e
	}
	return p.Attrs.NextHop
}

const ownNextHop = "next hop is our own VTEP"

// refuse says why an imported path gives no forwarding state in v; "" when it does.
func (c *Core) refuse(v *macVRF, path *Path) string {
	a := path.Attrs
	switch {
	case a.NextHop == c.cfg.VTEP:
		return ownNextHop // NH-04
	case a.NextHop.Is4() != c.cfg.VTEP.Is4():
		return "next hop is not of the address family of our VTEP"
	case !isVTEP(a.NextHop):
		return "next hop is no VTEP address"
	case a.Encap == EncapOther:
		return "encapsulation is not VXLAN" // EN-04
	case a.Encap == EncapNone && path.peer.needEncap:
		return "no encapsulation given" // EN-03
	case path.rest != nil && path.rest.tag != 0 && v.policy.StrictTag:
		return fmt.Sprintf("ethernet tag %d in a VLAN-based EVI", path.tag()) // ET-04
	}
	if path.kind == TypeIMET {
		return c.refuseIMET(v, path)
	}
	switch {
	case path.label1 == 0:
		return "VNI 0" // EN-06
	case VNI(path.label1) != v.vni:
		return fmt.Sprintf("label names VNI %d", path.label1) // FW-04
	case path.mac.IsGroup() || path.mac.IsZero():
		return "no host's MAC" // T2-08
	case path.mac == v.at.BridgeMAC:
		return whyBridgeMAC // T2-08
	case v.isGatewayMAC(path.mac): // BP-01
		return whyGatewayMAC
	case v.isGatewayIP(path.ip.addr()):
		return whyGatewayIP
	}
	return ""
}

func (c *Core) refuseIMET(v *macVRF, path *Path) string {
	pmsi, endpoint := path.Attrs.PMSI, path.floodEndpoint()
	switch {
	case !pmsi.Present:
		return "no PMSI tunnel attribute" // PM-06
	case pmsi.Tunnel != TunnelIngressReplication:
		return fmt.Sprintf("PMSI tunnel type %d is not ingress replication", pmsi.Tunnel) // PM-05
	case VNI(pmsi.Label) != v.vni:
		return fmt.Sprintf("PMSI label names VNI %d", pmsi.Label) // FW-04, PM-08
	case endpoint == c.cfg.VTEP:
		return "tunnel endpoint is our own VTEP"
	case endpoint.Is4() != c.cfg.VTEP.Is4():
		return "tunnel endpoint is not of the address family of our VTEP"
	case !isVTEP(endpoint):
		return "tunnel endpoint is no VTEP address"
	}
	return ""
}

// isVTEP reports whether an address can be another host's tunnel address.
func isVTEP(a netip.Addr) bool {
	return a.IsValid() && !a.Is4In6() && !a.IsUnspecified() && !a.IsMulticast() && !a.IsLoopback()
}

// refusal is what refused routes are counted by.
type refusal struct {
	peer netip.Addr
	vni  VNI
	why  string
}

// isNews counts a refusal and reports whether it is the first of its kind.
func (c *Core) isNews(r refusal) bool {
	if len(c.refused) >= maxSharedSets {
		clear(c.refused)
	}
	c.refused[r]++
	return c.refused[r] == 1
}

// noteRefused counts a refusal, and tells the operator the first time it happens.
func (c *Core) noteRefused(v *macVRF, path *Path, why string) {
	if path.Attrs.DefaultGateway && slices.Contains(v.policy.Gateways, Gateway{MAC: path.mac, IP: path.ip.addr()}) {
		return // an anycast gateway: all announce the same (DG-05)
	}
	r := refusal{peer: path.peer.addr, vni: v.vni, why: why}
	if c.isNews(r) {
		c.note(Note{Kind: NoteRefused, VNI: v.vni, MAC: path.mac, IP: path.ip.addr(), VTEP: path.Attrs.NextHop, Peer: r.peer, Reason: why})
	}
}

// importRTs lists what peers with RT constraint should send us (RC-01). A wildcard cannot be said in RFC 4684 terms; it
// is asked for under our own AS.
func (c *Core) importRTs() []RT {
	set := map[RT]bool{}
	for _, v := range c.vrfs {
		if v.policy.Off {
			continue
		}
		for _, p := range v.importRTs {
			if p.AnyAdmin {
				set[NewRT(c.cfg.ASN, p.Local)] = true
			} else {
				set[p.RT] = true
			}
		}
	}
	rts := slices.AppendSeq([]RT{}, maps.Keys(set)) // not nil, even when nothing is imported any more
	slices.SortFunc(rts, func(a, b RT) int { return slices.Compare(a[:], b[:]) })
	return rts
}
