package evpn

import (
	"net/netip"
	"slices"
)

// Gateway is an address that this host has in the subnet of a VNI, and the MAC it answers with (RFC 7432 §10.1).
type Gateway struct {
	MAC MAC
	IP  netip.Addr
}

// Why a host, or a route, does not count.
const (
	whyGatewayMAC = "MAC of our own gateway"
	whyGatewayIP  = "address of our own gateway"
	whyBridgeMAC  = "MAC of our own bridge"
)

func (v *macVRF) isGatewayMAC(mac MAC) bool {
	return slices.ContainsFunc(v.policy.Gateways, func(g Gateway) bool { return g.MAC == mac })
}

func (v *macVRF) isGatewayIP(ip netip.Addr) bool {
	return slices.ContainsFunc(v.policy.Gateways, func(g Gateway) bool { return g.IP == ip })
}

// advertiseGateways announces the gateways of a MAC-VRF in service: one MAC/IP route each, whose community says that it
// does not move (DG-01, DG-04), and whose binding is immutable (PX-05). A route of a host with the same key gives way.
func (c *Core) advertiseGateways(v *macVRF) {
	var want []Gateway
	if v.inService() {
		want = v.policy.Gateways
	}
	for _, g := range want {
		if slices.Contains(v.gateways, g) {
			continue
		}
		if e := v.ips.get(g.IP); e != nil && e.out() != nil && e.out().mac == g.MAC {
			e.own().out = nil
		}
		c.tell(RouteOp{Route: c.ownRoute(v, g.MAC, g.IP), Attrs: c.ownAttrs(v, g.setKey())})
	}
	for _, g := range v.gateways {
		if !slices.Contains(want, g) {
			c.tell(RouteOp{Withdraw: true, Route: c.ownRoute(v, g.MAC, g.IP)})
		}
	}
	v.gateways = want
}

func (g Gateway) setKey() setKey {
	return setKey{gateway: true, ipv6: g.IP.Is6(), router: g.IP.Is6()}
}

// claimsOurs says what of ours the frame of a host claims; "" when it claims nothing.
func (v *macVRF) claimsOurs(ev LocalIP) string {
	switch {
	case ev.MAC == v.at.BridgeMAC:
		return whyBridgeMAC
	case v.isGatewayMAC(ev.MAC):
		return whyGatewayMAC
	case v.isGatewayIP(ev.IP):
		return whyGatewayIP
	}
	return ""
}

// refusedHost counts a host that claims what is ours, and tells the operator the first time it does.
func (c *Core) refusedHost(v *macVRF, mac MAC, ip netip.Addr, port, why string) {
	v.refusedHosts++
	if c.isNews(refusal{vni: v.vni, why: mac.String() + " " + ip.String() + " " + why}) {
		c.note(Note{Kind: NoteGateway, VNI: v.vni, MAC: mac, IP: ip, Reason: why + " claimed by a host on " + port})
	}
}

// noteGateway tells of a remote gateway of the same subnet under an address that is not ours (DG-02).
func (c *Core) noteGateway(e *ipEntry) {
	v, p := e.vrf, e.best
	if p == nil || !p.Attrs.DefaultGateway {
		return
	}
	sameFamily := func(g Gateway) bool { return g.IP.Is4() == e.ip.Is4() }
	if !slices.ContainsFunc(v.policy.Gateways, sameFamily) {
		return
	}
	why := "a gateway that is not configured here"
	if c.isNews(refusal{peer: p.peer.addr, vni: v.vni, why: why + p.mac.String() + e.ip.String()}) {
		c.note(Note{Kind: NoteGateway, VNI: v.vni, MAC: p.mac, IP: e.ip, VTEP: p.Attrs.NextHop, Peer: p.peer.addr, Reason: why})
	}
}

// isFixed reports a binding that no other one replaces, whatever its number: immutable, or a gateway's (ND-04).
func (p *Path) isFixed() bool {
	a := p.Attrs
	return a.DefaultGateway || a.HasNDFlags && a.NDFlags&NDImmutable != 0
}

// fixedElsewhere finds a route that gives the IP to another MAC than mac for good; nil when there is none.
func (c *Core) fixedElsewhere(e *ipEntry, mac MAC) *Path {
	for p := range e.routes.all() {
		if p.isFixed() && p.mac != mac && !e.lost(p) && c.refuse(e.vrf, p) == "" {
			return p
		}
	}
	return nil
}
