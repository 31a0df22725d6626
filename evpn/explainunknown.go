package evpn

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Unknown says what is known that could be a MAC or an IP which Explain knows nothing of, and why that may be, in lines for
// people. It changes nothing, and walks all MACs of vni or, when that is 0, of all VNIs.
func (c *Core) Unknown(vni VNI, mac MAC, ip netip.Addr) []string {
	if !ip.IsValid() {
		return []string{
			"no peer has announced it, and no bridge here has it on a local port",
			"a host is known from the first frame that it sends",
		}
	}
	lines := []string{"no peer has announced a type 2 route with it, and no frame and no neighbour entry here has told of it"}
	for _, v := range c.vrfsFor(vni) {
		lines = append(lines, v.without(ip)...)
	}
	if len(lines) == 1 {
		return append(lines, "every MAC that is known has another one: its host has not sent a frame yet, or is in none of these VNIs")
	}
	return append(lines,
		"if it belongs to one of these it can be reached all the same, since ARP for it is flooded: evpnctl explain MAC goes on from there",
		"a VTEP announces an IP when it has learned it: FRR when the bridge has an address and asks for the host itself, evpnd from a frame of the host")
}

// without tells of the MACs that nobody knows an IP of such a kind of, by where they are. A link-local one says nothing.
func (v *macVRF) without(ip netip.Addr) []string {
	kind := "IPv6"
	if ip.Is4() {
		kind = "IPv4"
	}
	has := make(map[MAC]bool)
	for e := range v.ips.all() {
		if e.ip.Is4() != ip.Is4() || e.ip.IsLinkLocalUnicast() != ip.IsLinkLocalUnicast() {
			continue
		}
		if e.best != nil {
			has[e.best.mac] = true
		}
		if b := e.binding(); b != nil {
			has[b.mac] = true
		}
	}
	type place struct{ who, peer string }
	at := map[place][]MAC{}
	for _, m := range v.macs {
		switch {
		case has[m.mac]:
		case m.isLocal():
			where := place{"local port " + m.local().port + " has", ""}
			at[where] = append(at[where], m.mac)
		case m.best != nil:
			where := place{m.best.Attrs.NextHop.String() + " has announced", " (peer " + PeerName(m.best.peer.addr) + ")"}
			at[where] = append(at[where], m.mac)
		}
	}
	var lines []string
	for where, macs := range at {
		slices.SortFunc(macs, func(a, b MAC) int { return slices.Compare(a[:], b[:]) })
		some, such := macs[:min(len(macs), 3)], ""
		if len(some) < len(macs) {
			such = "such as "
		}
		lines = append(lines, fmt.Sprintf("VNI %d: %s %s without an %s address%s: %s%s", v.vni, where.who, plural(len(macs), "MAC", "MACs"), kind, where.peer, such,
			strings.ReplaceAll(joined(some), " ", ", ")))
	}
	slices.Sort(lines)
	return lines
}
