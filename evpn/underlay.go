package evpn

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// A VTEP that comes and goes is used again after a pause that doubles with each loss, from firstHold on. Losses are
// forgotten once it has been there for calmAfter.
const (
	firstHold = time.Second
	calmAfter = 2 * time.Minute
)

// way is what is known of the underlay's way to a VTEP that routes name (NH-05). It is taken to be there until a fact
// says otherwise.
type way struct {
	vtep    netip.Addr
	uses    int       // attribute sets of imported routes that name the VTEP
	missing bool      // what the last fact said
	down    bool      // no frames are sent there: it is missing, or has come back too often
	reason  string    // of the last loss; "" before the first
	since   time.Time // when down changed last; zero: never
	losses  int       // since it was calm
	until   time.Time // it is there again, and used from then on; zero: it is missing, or in use
}

// named counts the VTEPs that a set of attributes names, when a VNI imports routes that have it, and stops when none does.
func (c *Core) named(set *attrSet, a *Attrs, yes bool) {
	if yes == set.named {
		return
	}
	set.named = yes
	c.countWay(a.NextHop, yes)
	if e := a.PMSI.Endpoint; e != a.NextHop {
		c.countWay(e, yes)
	}
}

func (c *Core) countWay(vtep netip.Addr, yes bool) {
	if !isVTEP(vtep) {
		return
	}
	w := c.ways[vtep]
	if w == nil {
		w = &way{vtep: vtep}
		c.ways[vtep] = w
	}
	if yes {
		w.uses++
		c.waysChanged = c.waysChanged || w.uses == 1
		c.stay(vtep)
	} else {
		w.uses--
		c.waysChanged = c.waysChanged || w.uses == 0
	}
}

// watched lists the VTEPs whose ways are to be watched, and forgets the others.
func (c *Core) watched() []netip.Addr {
	list := []netip.Addr{} // not nil, also when there are none any more
	for _, vtep := range slices.SortedFunc(maps.Keys(c.ways), netip.Addr.Compare) {
		switch w := c.ways[vtep]; {
		case w.uses == 0:
			c.forgetWay(w)
		case vtep != c.cfg.VTEP && vtep.Is4() == c.cfg.VTEP.Is4():
			list = append(list, vtep)
		}
	}
	return list
}

func (c *Core) forgetWay(w *way) {
	delete(c.ways, w.vtep)
	if !w.down {
		return
	}
	c.waysDown--
	if t := c.vteps[w.vtep]; t != nil && t.refs > 0 { // its last entries are on their way out
		c.want(t, c.placeOfVTEP(t))
	}
}

// vtepReachable takes in whether there is a way to a VTEP. A loss counts at once, a return when it is not one of many.
func (c *Core) vtepReachable(ev VTEPReachable, now time.Time) {
	w := c.ways[ev.VTEP]
	if w == nil || w.uses == 0 {
		return
	}
	was := w.missing
	w.missing = !ev.Reachable
	switch {
	case w.missing:
		w.reason = ev.Reason
		if was {
			return
		}
		if !w.down && now.Sub(w.since) >= calmAfter {
			w.losses = 0
		}
		w.losses, w.until = w.losses+1, time.Time{}
		if !w.down {
			c.turn(w, true, now)
		}
	case was:
		if hold := c.holdFor(w.losses); hold > 0 {
			w.until = now.Add(hold)
			return
		}
		c.turn(w, false, now)
	}
}

// holdFor is the pause before a VTEP is used again that was lost so many times.
func (c *Core) holdFor(losses int) time.Duration {
	if losses <= 1 {
		return 0
	}
	return min(firstHold<<min(losses-2, 16), c.cfg.LongestHold)
}

// releaseWays uses the VTEPs again whose pause is over.
func (c *Core) releaseWays(now time.Time) {
	for _, vtep := range c.heldWays() {
		if w := c.ways[vtep]; !now.Before(w.until) {
			c.turn(w, false, now)
		}
	}
}

// heldWays lists the VTEPs that are back and not used yet, in order.
func (c *Core) heldWays() []netip.Addr {
	var held []netip.Addr
	if c.waysDown == 0 {
		return nil
	}
	for vtep, w := range c.ways {
		if !w.until.IsZero() {
			held = append(held, vtep)
		}
	}
	slices.SortFunc(held, netip.Addr.Compare)
	return held
}

// turn takes a VTEP out of use, or into use again: with one operation for all the MACs behind it, and one for each flood
// list. MACs and IPs that others claim as well are decided afterwards, see review.
func (c *Core) turn(w *way, down bool, now time.Time) {
	w.down, w.since, w.until = down, now, time.Time{}
	if down {
		c.waysDown++
		c.waysLost++
		c.note(Note{Kind: NoteVTEPLost, VTEP: w.vtep, Count: w.losses, Reason: w.reason})
	} else {
		c.waysDown--
		c.note(Note{Kind: NoteVTEPBack, VTEP: w.vtep})
	}
	c.steer(w.vtep)
	c.turned = append(c.turned, w.vtep)
}

// steer has frames sent to a VTEP or not, as is decided now.
func (c *Core) steer(vtep netip.Addr) {
	if t := c.vteps[vtep]; t != nil && t.refs > 0 {
		c.want(t, c.placeOfVTEP(t))
	}
	for _, v := range c.vrfsInOrder() {
		if f := v.flood[vtep]; f != nil {
			c.decideFlood(f)
		}
	}
}

// placeOfVTEP is the entry of a VTEP that something names.
func (c *Core) placeOfVTEP(t *vtep) place {
	return place{flags: there.with(parked, t.leaves || c.cutOff(t.addr))}
}

// cutOff reports that no frames are sent to a VTEP, whatever routes say.
func (c *Core) cutOff(vtep netip.Addr) bool {
	if c.waysDown == 0 {
		return false
	}
	w := c.ways[vtep]
	return w != nil && w.down
}

// whyCutOff says why no frames are sent to a VTEP; "" when they are.
func (c *Core) whyCutOff(vtep netip.Addr) string {
	if !c.cutOff(vtep) {
		return ""
	}
	return "next hop unreachable: " + c.ways[vtep].why()
}

func (w *way) why() string {
	if w.missing {
		return w.reason
	}
	return "back, but it came and went too often"
}

// review decides anew what VTEPs that turned are not alone to claim, and takes down for those who follow the tables that the
// others are parked or not any more. The former may be few among very many, so it waits until
// the operation that stops or starts the frames to that VTEP is out.
func (c *Core) review() {
	if len(c.turned) == 0 || c.pending[TableVTEP].len() > 0 {
		return
	}
	for _, v := range c.vrfsInOrder() {
		contested := c.held(v, func(h holder) bool {
			m, isMAC := h.(*macEntry)
			if t := c.vtepAt(h.slot().have); t != nil && slices.Contains(c.turned, t.addr) {
				c.changed(h)
			}
			e, isIP := h.(*ipEntry)
			return isMAC && m.routes.contested(c.turned) || isIP && e.routes.contested(c.turned)
		})
		for _, h := range contested {
			switch h := h.(type) {
			case *macEntry:
				c.dirtyMAC(h)
			case *ipEntry:
				c.dirtyIP(h)
			}
		}
	}
	c.turned = nil
}

// contested reports that the list names several VTEPs, one of vteps among them.
func (l *pathList) contested(vteps []netip.Addr) bool {
	if l.more == nil {
		return false
	}
	one, several := false, false
	for p := range l.all() {
		one = one || slices.Contains(vteps, p.Attrs.NextHop)
		several = several || p.Attrs.NextHop != l.first.Attrs.NextHop
	}
	return one && several
}

// passable is the path to follow where best is preferred: the best of those whose next hop can be reached, or best itself
// when none can, whose entry then waits for the way to come back (NH-05). Who has a MAC is not decided by that: all VTEPs
// must agree on it, and others may see another underlay.
func (c *Core) passable(v *macVRF, paths *pathList, best *Path, leftOut func(*Path) bool) *Path {
	if best == nil || paths.more == nil || !c.cutOff(best.Attrs.NextHop) {
		return best
	}
	return cmp.Or(c.bestOf(v, paths, func(p *Path) bool { return leftOut(p) || c.cutOff(p.Attrs.NextHop) }), best)
}

func (c *Core) wayView(vtep netip.Addr) WayView {
	w := c.ways[vtep]
	if w == nil {
		return WayView{}
	}
	view := WayView{Down: w.down, Since: w.since, Losses: w.losses, Until: w.until}
	view.Reason = c.whyCutOff(vtep)
	return view
}
