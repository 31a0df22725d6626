package evpn

import (
	"net/netip"
	"slices"
)

// setKey names a set of attributes of our own type-2 routes within a MAC-VRF.
type setKey struct {
	mobility
	gateway bool
	ipv6    bool
	router  bool
}

// tell puts out what BGP is to be told of a route. Room is made by doubling: append grows a long slice by a quarter each time,
// which of a flood of hosts leaves five times as much behind as it needs.
func (c *Core) tell(op RouteOp) {
	if n := len(c.routes); n == cap(c.routes) {
		c.routes = slices.Grow(c.routes, max(n, 1))
	}
	c.routes = append(c.routes, op)
}

// advertiseIMET announces our inclusive multicast route while the MAC-VRF is in service, hosts or not (T3-01, T3-07).
func (c *Core) advertiseIMET(v *macVRF) {
	want := v.inService()
	if want == v.imet {
		return
	}
	v.imet = want
	op := RouteOp{Withdraw: !want, Route: c.ownIMET(v)}
	if want {
		op.Attrs = c.imetAttrs(v)
	}
	c.tell(op)
}

func (c *Core) ownIMET(v *macVRF) Route {
	return Route{Key: RouteKey{Type: TypeIMET, RD: v.rd, IP: c.cfg.VTEP}} // T3-02, T3-03
}

func (c *Core) imetAttrs(v *macVRF) *Attrs {
	a := c.newAttrs()
	a.SetExtComms(c.extComms(v, setKey{}))
	a.PMSI = PMSI{Present: true, Tunnel: TunnelIngressReplication, Label: uint32(v.vni), Endpoint: c.cfg.VTEP} // PM-01
	return a
}

// advertiseMAC keeps our MAC-only route in step with who owns the MAC (T2-01, T2-09, T2-10).
func (c *Core) advertiseMAC(m *macEntry) {
	v := m.vrf
	want := v.inService() && m.isLocal() && !m.flaps().dropped()
	if want == m.announced() && (!want || m.mobility() == m.announcedS()) {
		return
	}
	c.resequenced = c.resequenced || m.announcedS().seq != 0 || m.seq() != 0
	m.own().announced, m.own().announcedS = want, m.mobility()
	op := RouteOp{Withdraw: !want, Route: c.ownRoute(v, m.mac, netip.Addr{})}
	if want {
		op.Attrs = c.ownAttrs(v, setKey{mobility: m.announcedS()})
	}
	c.tell(op)
}

// advertiseIP keeps our MAC/IP route in step. It carries the number of its MAC (MM-12), and is announced only while the
// MAC is.
func (c *Core) advertiseIP(e *ipEntry, ours bool) {
	v := e.vrf
	var want *announcedIP
	if ours && v.inService() {
		b := e.binding()
		want = &announcedIP{mac: b.mac, mobility: v.macs[b.mac].mobility(), router: b.router}
	}
	was := e.out()
	if want == was || want != nil && was != nil && *want == *was {
		return
	}
	// Another MAC is another route: the old one is withdrawn after the new one is out, so that the IP is never unknown.
	e.own().out = want
	if want != nil {
		c.tell(RouteOp{
			Route: c.ownRoute(v, want.mac, e.ip),
			Attrs: c.ownAttrs(v, want.setKey(e.ip)),
		})
	}
	if was != nil && (want == nil || want.mac != was.mac) {
		c.tell(RouteOp{Withdraw: true, Route: c.ownRoute(v, was.mac, e.ip)})
	}
}

func (o announcedIP) setKey(ip netip.Addr) setKey {
	return setKey{mobility: o.mobility, ipv6: ip.Is6(), router: o.router}
}

// announceAgain sends every route of v once more, with new attributes: peers see a replacement, no withdraw.
func (c *Core) announceAgain(v *macVRF) {
	send := func(r Route, a *Attrs) { c.tell(RouteOp{Route: r, Attrs: a}) }
	if v.imet {
		send(c.ownIMET(v), c.imetAttrs(v))
	}
	for _, g := range v.gateways {
		send(c.ownRoute(v, g.MAC, g.IP), c.ownAttrs(v, g.setKey()))
	}
	for _, m := range v.macsInOrder() {
		if m.announced() {
			send(c.ownRoute(v, m.mac, netip.Addr{}), c.ownAttrs(v, setKey{mobility: m.announcedS()}))
		}
	}
	for _, e := range v.ipsInOrder() {
		if e.out() != nil {
			send(c.ownRoute(v, e.out().mac, e.ip), c.ownAttrs(v, e.out().setKey(e.ip)))
		}
	}
}

// withdrawAll takes back every route of v.
func (c *Core) withdrawAll(v *macVRF) {
	for _, e := range v.ipsInOrder() {
		c.advertiseIP(e, false)
	}
	for _, m := range v.macsInOrder() {
		if m.announced() {
			m.own().announced = false
			c.tell(RouteOp{Withdraw: true, Route: c.ownRoute(v, m.mac, netip.Addr{})})
		}
	}
	for _, g := range v.gateways {
		c.tell(RouteOp{Withdraw: true, Route: c.ownRoute(v, g.MAC, g.IP)})
	}
	v.gateways = nil
	if v.imet {
		v.imet = false
		c.tell(RouteOp{Withdraw: true, Route: c.ownIMET(v)})
	}
}

func (c *Core) ownRoute(v *macVRF, mac MAC, ip netip.Addr) Route {
	return Route{Key: RouteKey{Type: TypeMACIP, RD: v.rd, MAC: mac, IP: ip}, Label1: uint32(v.vni)}
}

// ownAttrs returns the attributes of a type-2 route of ours; equal ones are shared, so that BGP packs their routes
// together (CB-13).
func (c *Core) ownAttrs(v *macVRF, k setKey) *Attrs {
	if a := v.sets[k]; a != nil {
		return a
	}
	a := c.newAttrs()
	a.SetExtComms(c.extComms(v, k))
	if len(v.sets) >= maxSharedSets {
		clear(v.sets)
	}
	v.sets[k] = a
	return a
}

func (c *Core) newAttrs() *Attrs {
	return &Attrs{NextHop: c.cfg.VTEP, LocalPref: 100} // NH-01
}

// extComms builds the communities of a route of ours: route targets and encapsulation (RT-01, EN-01), the sequence number
// from the first move on (MM-01), that it is a gateway (DG-01), and the ND flags of an IPv6 or immutable binding (ND-02).
func (c *Core) extComms(v *macVRF, k setKey) string {
	var ec []byte
	for _, rt := range v.exportRTs {
		ec = AppendRT(ec, rt)
	}
	ec = AppendEncapVXLAN(ec)
	if k.mobility != (mobility{}) {
		ec = AppendMobility(ec, k.seq, k.sticky)
	}
	var nd uint8
	if k.ipv6 {
		nd = NDOverride | routerFlag(k.router)
	}
	if k.gateway {
		ec, nd = AppendDefaultGateway(ec), nd|NDImmutable
	}
	if nd != 0 {
		ec = AppendNDFlags(ec, nd)
	}
	return string(ec)
}

func routerFlag(router bool) uint8 {
	if router {
		return NDRouter
	}
	return 0
}

// isRouter reports what a received route says of an IPv6 host (ND-03). A gateway is one, also when it does not say so.
func (p *Path) isRouter() bool {
	a := p.Attrs
	if !(p.ip.len == 16) {
		return false
	}
	return a.HasNDFlags && a.NDFlags&NDRouter != 0 || !a.HasNDFlags && a.DefaultGateway
}

// usableHostIP reports whether an address can be a host's and may leave the link (T2-12).
func usableHostIP(ip netip.Addr) bool {
	return ip.IsValid() && ip.Zone() == "" && !ip.IsUnspecified() && !ip.IsMulticast() && !ip.IsLoopback() && !ip.IsLinkLocalUnicast()
}
