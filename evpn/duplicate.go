package evpn

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// DuplicateAction says what becomes of a MAC or IP that two hosts have.
type DuplicateAction uint8

// The actions. Whatever the action, the operator is told, and it ends by itself (DuplicatePolicy.RecoverAfter).
const (
	// DuplicateHold freezes it: a MAC stays where its last move left it, here, whatever remotes say, and is announced as
	// long as the bridge has it on a local port, with the number it had; an IP stays with the MAC it moved to last.
	DuplicateHold DuplicateAction = iota
	// DuplicateAlarm does nothing more than telling.
	DuplicateAlarm
	// DuplicateDrop freezes it and announces it no more, and no kernel entry of ours is kept for it. The bridge's own row
	// stays the bridge's: local frames to the MAC still reach the local port, remote VTEPs that know no other owner flood.
	DuplicateDrop
)

func (a DuplicateAction) String() string {
	switch a {
	case DuplicateHold:
		return "hold"
	case DuplicateAlarm:
		return "alarm"
	case DuplicateDrop:
		return "drop"
	default:
		return fmt.Sprintf("action %d", uint8(a))
	}
}

// Defaults of DuplicatePolicy (MM-13, MM-14, PX-12), and how long a hold may grow by itself.
const (
	DefaultDuplicateMoves   = 5
	DefaultDuplicateWithin  = 180 * time.Second
	DefaultDuplicateRecover = 540 * time.Second
	longestHold             = time.Hour
	sweepPause              = time.Second // between two looks at all that moved lately
)

// DuplicatePolicy says when a MAC or IP counts as a duplicate: after that many moves within that time, found by local
// learning (RFC 7432 §15.1, RFC 9161 §3.7). Zero fields have the defaults. A change is taken over from the next move on;
// what is held stays held. A restart forgets all of it.
type DuplicatePolicy struct {
	Moves  int
	Within time.Duration
	// RecoverAfter is how long it is held. When it moves again as often within the same time after that, it is held for
	// twice as long, up to an hour.
	RecoverAfter time.Duration
	Action       DuplicateAction
}

func (p DuplicatePolicy) withDefaults() DuplicatePolicy {
	if p.Moves == 0 {
		p.Moves = DefaultDuplicateMoves
	}
	if p.Within == 0 {
		p.Within = DefaultDuplicateWithin
	}
	if p.RecoverAfter == 0 {
		p.RecoverAfter = DefaultDuplicateRecover
	}
	return p
}

// flaps are the moves of one MAC or IP that local learning found. Only what moved lately has one.
type flaps struct {
	times     []time.Time // of the last moves, oldest first; at most DuplicatePolicy.Moves
	rival     netip.Addr  // the VTEP it came from last; the zero Addr: from a local port
	since     time.Time   // when it was found to be a duplicate; zero: it is none
	moves     int         // that made it one
	action    DuplicateAction
	hold      time.Duration // how long it is held, or was
	recovered time.Time     // when the last hold ended by itself; zero: none did
	kept      binding       // of an IP: the MAC it moved to last
}

// duplicate reports whether two hosts have it.
func (f *flaps) duplicate() bool { return f != nil && !f.since.IsZero() }

// frozen reports whether remotes and further moves have no say.
func (f *flaps) frozen() bool { return f.duplicate() && f.action != DuplicateAlarm }

// dropped reports whether we neither announce it nor write it.
func (f *flaps) dropped() bool { return f.duplicate() && f.action == DuplicateDrop }

// due is when something is to be done: to let go, or to forget that it moved.
func (f *flaps) due(p DuplicatePolicy) time.Time {
	if f.duplicate() {
		return f.since.Add(f.hold)
	}
	var due time.Time
	if n := len(f.times); n > 0 {
		due = f.times[n-1].Add(p.Within)
	}
	if after := f.recovered.Add(f.hold); !f.recovered.IsZero() && after.After(due) {
		due = after
	}
	return due
}

// flapper is a MAC or an IP.
type flapper interface {
	holder
	flapping() *flaps
	setFlaps(f *flaps)
	again(c *Core) // decide it again
}

func (m *macEntry) flapping() *flaps  { return m.flaps() }
func (m *macEntry) setFlaps(f *flaps) { m.own().flaps = f }
func (m *macEntry) again(c *Core)     { c.dirtyMAC(m) }
func (e *ipEntry) flapping() *flaps   { return e.flaps() }
func (e *ipEntry) setFlaps(f *flaps)  { e.own().flaps = f }
func (e *ipEntry) again(c *Core)      { c.dirtyIP(e) }

// moved counts a move of h to a local port, or to another MAC. What follows from too many is decided by judge, once the
// move itself has been decided.
func (c *Core) moved(h flapper, from netip.Addr, now time.Time) *flaps {
	f := h.flapping()
	if f == nil {
		f = &flaps{}
		h.setFlaps(f)
		c.flapping[h] = true
	}
	f.rival = from
	if f.duplicate() {
		return f
	}
	p := c.cfg.Duplicates.withDefaults()
	f.times = slices.DeleteFunc(f.times, func(t time.Time) bool { return now.Sub(t) > p.Within })
	f.times = append(f.times, now)
	if n := len(f.times) - p.Moves; n > 0 {
		f.times = slices.Delete(f.times, 0, n)
	}
	c.sweepAt(f.due(p), now)
	return f
}

// judge finds h to be a duplicate when it has moved too often.
func (c *Core) judge(h flapper, now time.Time) {
	f, p := h.flapping(), c.cfg.Duplicates.withDefaults()
	if f == nil || f.duplicate() || len(f.times) < p.Moves {
		return
	}
	took := f.times[len(f.times)-1].Sub(f.times[0])
	hold := p.RecoverAfter
	if !f.recovered.IsZero() { // not quiet since: else that would be forgotten
		hold = max(hold, min(2*f.hold, longestHold))
	}
	f.since, f.moves, f.action, f.hold, f.times = now, len(f.times), p.Action, hold, nil
	c.sweepAt(f.due(p), now)
	what := "held"
	switch p.Action {
	case DuplicateAlarm:
		what = "left alone"
	case DuplicateDrop:
		what = "dropped"
	}
	n := duplicateNote(h, fmt.Sprintf("%d moves in %s, %s for %s", f.moves, took.Round(time.Second), what, hold))
	n.Count, n.VTEP = f.moves, f.rival
	c.note(n)
	h.again(c)
}

// duplicateNote names h.
func duplicateNote(h flapper, why string) Note {
	if e, ok := h.(*ipEntry); ok {
		return Note{Kind: NoteDuplicateIP, VNI: e.vrf.vni, IP: e.ip, MAC: e.flaps().kept.mac, Reason: why}
	}
	key := h.key()
	return Note{Kind: NoteDuplicateMAC, VNI: key.VNI, MAC: key.MAC, Reason: why}
}

// sweepAt has recoverDuplicates look at t, though not more often than once per sweepPause.
func (c *Core) sweepAt(t, now time.Time) {
	if soonest := now.Add(sweepPause); t.Before(soonest) {
		t = soonest
	}
	if c.nextSweep.IsZero() || t.Before(c.nextSweep) {
		c.nextSweep = t
	}
}

// recoverDuplicates lets go of what has been held for long enough, and forgets what has not moved for a while (MM-14).
func (c *Core) recoverDuplicates(now time.Time) {
	if c.nextSweep.IsZero() || now.Before(c.nextSweep) {
		return
	}
	c.nextSweep = time.Time{}
	p := c.cfg.Duplicates.withDefaults()
	var due []flapper
	for h := range c.flapping {
		if at := h.flapping().due(p); now.Before(at) {
			c.sweepAt(at, now)
		} else {
			due = append(due, h)
		}
	}
	for _, h := range inOrder(due) {
		f := h.flapping()
		if !f.duplicate() {
			c.forgetFlaps(h)
			continue
		}
		c.note(recoveredNote(h, fmt.Sprintf("after %s", f.hold)))
		c.release(h)
		f.since, f.recovered = time.Time{}, now
		c.sweepAt(f.due(p), now)
	}
}

func recoveredNote(h flapper, why string) Note {
	n := duplicateNote(h, why)
	n.Kind = NoteDuplicateOver
	return n
}

func inOrder(hs []flapper) []flapper {
	slices.SortFunc(hs, func(a, b flapper) int { return a.key().compare(b.key()) })
	return hs
}

// release has what is no duplicate any more decided by what hosts and remotes say now.
func (c *Core) release(h flapper) {
	if e, ok := h.(*ipEntry); ok {
		e.vrf.unpin(e)
	}
	h.again(c)
}

// forgetFlaps forgets that h ever moved.
func (c *Core) forgetFlaps(h flapper) {
	h.setFlaps(nil)
	delete(c.flapping, h)
	h.forget(c)
}

// ClearDuplicates ends every hold that the arguments name, and its back-off: zero ones name all. It returns how many there
// were; their MACs and IPs are decided again by the next Flush (MM-14).
func (c *Core) ClearDuplicates(vni VNI, mac MAC, ip netip.Addr) int {
	var named []flapper
	for h := range c.flapping {
		f, key := h.flapping(), h.key()
		e, isIP := h.(*ipEntry)
		switch {
		case !f.duplicate() || vni != 0 && key.VNI != vni:
		case ip.IsValid() && (!isIP || e.ip != ip):
		case !mac.IsZero() && (isIP || key.MAC != mac):
		default:
			named = append(named, h)
		}
	}
	for _, h := range inOrder(named) {
		c.note(recoveredNote(h, "cleared by operator"))
		c.release(h)
		c.forgetFlaps(h)
	}
	return len(named)
}

// forgetMoves forgets all moves in a MAC-VRF that is gone.
func (c *Core) forgetMoves(v *macVRF) {
	maps.DeleteFunc(c.flapping, func(h flapper, _ bool) bool {
		if h.key().VNI != v.vni {
			return false
		}
		h.setFlaps(nil)
		return true
	})
	v.pinned = nil
}

// ipMoved counts the move of an IP to another MAC that a local witness saw (PX-12). An immutable binding does not count.
func (c *Core) ipMoved(e *ipEntry, to binding, now time.Time) {
	var was MAC
	var from netip.Addr
	switch {
	case e.local() != nil:
		was = e.local().mac
	case e.best != nil && e.best.Attrs.NDFlags&NDImmutable == 0:
		was, from = e.best.mac, e.best.Attrs.NextHop
	}
	if was.IsZero() || was == to.mac {
		return
	}
	if f := c.moved(e, from, now); !f.duplicate() {
		f.kept, f.kept.since = to, now.UnixNano()
	}
	c.dirtyIP(e)
}

// binding is the MAC that a local witness saw with the IP, or while the IP is frozen the one that it has to stay with.
func (e *ipEntry) binding() *binding {
	if e.flaps().frozen() {
		return &e.flaps().kept
	}
	return e.local()
}

// pin has e decided again whenever the MAC is that it is frozen with.
func (v *macVRF) pin(e *ipEntry) {
	mac := e.flaps().kept.mac
	if v.pinned == nil {
		v.pinned = map[MAC][]*ipEntry{}
	}
	if !slices.Contains(v.pinned[mac], e) {
		v.pinned[mac] = append(v.pinned[mac], e)
	}
}

func (v *macVRF) unpin(e *ipEntry) {
	mac := e.flaps().kept.mac
	switch left := slices.DeleteFunc(v.pinned[mac], func(o *ipEntry) bool { return o == e }); len(left) {
	case 0:
		delete(v.pinned, mac)
	default:
		v.pinned[mac] = left
	}
}

// Duplicate says that two hosts have a MAC or an IP.
type Duplicate struct {
	Since  time.Time
	Until  time.Time // when it ends by itself
	Moves  int       // that made it one
	Action DuplicateAction
}

// view is nil for what is no duplicate.
func (f *flaps) view() *Duplicate {
	if !f.duplicate() {
		return nil
	}
	return &Duplicate{Since: f.since, Until: f.since.Add(f.hold), Moves: f.moves, Action: f.action}
}

// verdict is why routes for what is frozen do not count; "" when they do.
func (f *flaps) verdict() string {
	if f.frozen() {
		return "duplicate: " + f.action.String()
	}
	return ""
}

// judgeIP finds an IP to be a duplicate when it has moved too often, and freezes it with the MAC it moved to last.
func (c *Core) judgeIP(e *ipEntry, now time.Time) {
	if c.judge(e, now); e.flaps().frozen() {
		e.vrf.pin(e)
	}
}
