package evpn

import "net/netip"

// claim is what counts when several VTEPs say a MAC is behind them.
type claim struct {
	vtep    netip.Addr
	aged    bool // the least preferred, see Path.isAged
	gateway bool
	mobility
}

// mobility is what a route says of how its MAC moves (RFC 7432 §15).
type mobility struct {
	seq    uint32
	sticky bool
}

// beats reports whether a is preferred over b for the same MAC, and by which rule: "" when it is not.
func (a claim) beats(b claim) string {
	switch {
	case a.aged != b.aged: // RFC 9494 §4.3: below every fresh one, also one with a lower sequence number (LL-05)
		return choice(b.aged, "long stale")
	case a.gateway != b.gateway: // BP-01
		return choice(a.gateway, "gateway")
	case a.sticky != b.sticky: // a static MAC never moves: RFC 7432 §15.2, BP-03
		return choice(a.sticky, "sticky")
	case a.seq != b.seq: // the last move wins: RFC 7432 §15
		return choice(newer(a.seq, b.seq), "sequence")
	default: // all must choose alike without talking: lowest VTEP, IPv4 before IPv6: RFC 7432 §15, MM-07
		return choice(a.vtep.Less(b.vtep), "lowest VTEP")
	}
}

// movesLike reports that sequence numbers decide between a and b.
func (a claim) movesLike(b claim) bool {
	return a.aged == b.aged && a.gateway == b.gateway && a.sticky == b.sticky
}

func choice(yes bool, rule string) string {
	if yes {
		return rule
	}
	return ""
}

// newer compares sequence numbers as RFC 1982 does, so that 0 follows 4294967295 (MM-08). Numbers exactly half the
// circle apart are ordered by size.
func newer(a, b uint32) bool {
	if d := a - b; d != 1<<31 {
		return int32(d) > 0
	}
	return a > b
}

func (p *Path) claim() claim {
	a := p.Attrs
	return claim{vtep: a.NextHop, aged: p.isAged(), gateway: a.DefaultGateway, mobility: mobility{seq: a.Seq, sticky: a.Sticky}}
}

// betterPath reports whether a is preferred over b. Copies of one VTEP's claim that came by several peers are told apart
// as BGP does, with the peer's address last (BP-04, RFC 4271 §9.1.2.2).
func betterPath(a, b *Path) bool {
	if ca, cb := a.claim(), b.claim(); ca != cb {
		return ca.beats(cb) != ""
	}
	switch {
	case a.Attrs.LocalPref != b.Attrs.LocalPref:
		return a.Attrs.LocalPref > b.Attrs.LocalPref
	case a.Attrs.ASPathLen() != b.Attrs.ASPathLen():
		return a.Attrs.ASPathLen() < b.Attrs.ASPathLen()
	case a.Attrs.Origin != b.Attrs.Origin:
		return a.Attrs.Origin < b.Attrs.Origin
	case a.ip != b.ip: // MAC-only first: the order in which a MAC's routes arrive must not show
		return a.ip.addr().Less(b.ip.addr())
	default:
		return a.compare(b) < 0
	}
}

// bestPath returns the preferred path among those that give forwarding state, nil when there is none.
func (c *Core) bestPath(v *macVRF, paths *pathList) *Path {
	return c.bestOf(v, paths, noPath)
}

func noPath(*Path) bool { return false }

// bestOf is bestPath without those that are left out.
func (c *Core) bestOf(v *macVRF, paths *pathList, leftOut func(*Path) bool) *Path {
	var best *Path
	for p := range paths.all() {
		if leftOut(p) {
			continue
		}
		if why := c.refuse(v, p); why != "" {
			c.noteRefused(v, p, why)
			continue
		}
		if best == nil || betterPath(p, best) {
			best = p
		}
	}
	if best == nil || paths.len() <= 2 {
		return best
	}
	for p := range paths.all() {
		if !leftOut(p) && betterPath(p, best) && c.refuse(v, p) == "" {
			return c.bestOfCircle(v, paths, leftOut)
		}
	}
	return best
}

// outdone reports whether a remote claim wins over our own, when remote is the best of them. All who know the same claims
// must choose alike, so ours is one more among those that may be spread over the whole circle.
func (c *Core) outdone(m *macEntry, remote *Path) bool {
	own := c.ownClaim(m)
	won, lost, best := false, false, remote.claim().beats(own) != ""
	for p := range m.routes.all() {
		switch {
		case c.refuse(m.vrf, p) != "":
			continue
		case p.claim().beats(own) != "":
			lost = true
		default:
			won = true
		}
		best = best && !betterPath(p, remote)
	}
	if !lost || !won || best {
		return lost
	}
	largest := c.bestOfCircle(m.vrf, &m.routes, noPath).claim()
	if largest.movesLike(own) && largest.seq != own.seq {
		return largest.seq > own.seq
	}
	return largest.beats(own) != ""
}

// bestOfCircle chooses when the sequence numbers are spread over the whole circle, so that each is newer than some other
// one. Then they count by size: all must choose alike, in whatever order the routes came.
func (c *Core) bestOfCircle(v *macVRF, paths *pathList, leftOut func(*Path) bool) *Path {
	var best *Path
	for p := range paths.all() {
		switch {
		case leftOut(p), c.refuse(v, p) != "":
		case best == nil:
			best = p
		case p.claim().movesLike(best.claim()) && p.Attrs.Seq != best.Attrs.Seq:
			if p.Attrs.Seq > best.Attrs.Seq {
				best = p
			}
		case betterPath(p, best):
			best = p
		}
	}
	return best
}
