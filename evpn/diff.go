package evpn

import (
	"maps"
	"slices"
	"time"
)

// problem is a kernel entry that could not be made so. It is tried again, with growing pauses.
type problem struct {
	why     string
	mend    string // the command that takes away what is in the way; "": there is none
	foreign bool   // an entry that is not ours is in the way; ours follows when it goes
	tries   int
	batch   uint64    // of the last try
	retryAt time.Time // zero: the next try is on its way
}

// sentOp is a write whose end is to be noticed.
type sentOp struct {
	holder
	batch uint64
}

// waits reports that h failed before and its next try is not due.
func (c *Core) waits(h holder) bool {
	return len(c.problems) > 0 && c.problems[h.key()] != nil
}

// applied takes in what became of a batch.
func (c *Core) applied(ev Applied, now time.Time) {
	c.acked = max(c.acked, ev.Batch)
	var failed map[EntryKey]bool // nil: most often nothing has, and the history keeps it
	if len(ev.Failed) > 0 {
		failed = make(map[EntryKey]bool, len(ev.Failed))
	}
	for _, f := range ev.Failed {
		failed[f.Op.Key] = true
		c.failed(f, ev.Batch, now)
	}
	for len(c.flying) > 0 && c.flying[0].seq <= c.acked {
		c.history.acknowledged(c.flying[0], failed)
		c.rowsWritten(c.flying[0].ops)
		c.flying = slices.Delete(c.flying, 0, 1)
	}
	c.sent = slices.DeleteFunc(c.sent, func(op sentOp) bool {
		if op.batch > c.acked {
			return false
		}
		key := op.key()
		if p := c.problems[key]; p != nil && p.retryAt.IsZero() && p.batch <= c.acked && !op.slot().is(queued) {
			delete(c.problems, key)
		}
		if m, ok := op.holder.(*macEntry); ok {
			c.takenOver(m, op.batch, failed[key])
		}
		op.forget(c)
		return true
	})
}

// failed takes back the belief that an op worked.
func (c *Core) failed(f OpError, batch uint64, now time.Time) {
	h := c.holderOf(f.Op.Key)
	if h == nil {
		return // its VNI is gone
	}
	s := h.slot()
	if s.batch > batch {
		return // a later write is under way and will tell
	}
	c.settle(h, place{})
	s.set(unknown, !f.Foreign)
	s.set(altered, f.Op.Stood && !f.Foreign) // the next try is for the same place
	p := c.problems[f.Op.Key]
	if p == nil {
		p = &problem{}
		c.problems[f.Op.Key] = p
	}
	first := p.tries == 0
	p.why, p.mend, p.foreign, p.batch = f.Err.Error(), f.Mend, f.Foreign, batch
	p.retryAt = now.Add(min(firstRetry<<min(p.tries, 16), longestRetry))
	if c.nextRetry.IsZero() || p.retryAt.Before(c.nextRetry) {
		c.nextRetry = p.retryAt
	}
	p.tries++
	if s.settled() {
		delete(c.problems, f.Op.Key)
		h.forget(c)
		return
	}
	if first {
		kind := NoteKernel
		if f.Foreign {
			kind = NoteForeign
		}
		k := f.Op.Key
		c.note(Note{Kind: kind, VNI: k.VNI, MAC: k.MAC, IP: k.Addr, VTEP: f.Op.Entry.VTEP, Reason: p.why})
	}
}

// retry puts entries whose pause is over back into the queue.
func (c *Core) retry(now time.Time) {
	if c.nextRetry.IsZero() || now.Before(c.nextRetry) {
		return
	}
	c.nextRetry = time.Time{}
	for _, key := range slices.SortedFunc(maps.Keys(c.problems), EntryKey.compare) {
		p := c.problems[key]
		if p.retryAt.After(now) {
			if c.nextRetry.IsZero() || p.retryAt.Before(c.nextRetry) {
				c.nextRetry = p.retryAt
			}
			continue
		}
		if p.retryAt.IsZero() {
			continue
		}
		p.retryAt = time.Time{}
		switch h := c.holderOf(key); {
		case h == nil:
			delete(c.problems, key)
		case h.slot().settled():
			delete(c.problems, key)
			h.forget(c)
		default:
			c.retries++
			c.enqueue(h)
		}
	}
}

// retrySoon has what failed in a VNI tried again at once: what stood against it may be mended.
func (c *Core) retrySoon(vni VNI, now time.Time) {
	for key, p := range c.problems {
		if key.VNI == vni && !p.foreign && p.retryAt.After(now) {
			p.retryAt, c.nextRetry = now, now
		}
	}
}

// RetryBlocked has what waits behind entries of others in a VNI tried again with the next Flush: someone removed them.
func (c *Core) RetryBlocked(vni VNI) {
	now := time.Unix(0, c.history.now)
	for key, p := range c.problems {
		if key.VNI == vni && p.foreign && p.retryAt.After(now) {
			p.retryAt, c.nextRetry = now, now
		}
	}
}

// observed compares what the kernel holds with what we believe, and queues the difference to what we want. Start, crash,
// overrun, tampering and audit all come through here.
func (c *Core) observed(ev Observed, now time.Time) {
	v := c.vrfs[ev.VNI]
	if ev.VNI != 0 && v == nil {
		return
	}
	if !c.synced { // the first report names a VNI before it says what the kernel holds there: that need not be read again
		delete(c.readBack, ev.VNI)
	}
	asOf := min(ev.AsOf, c.acked) // what is not acknowledged will be, and tells more
	drift := 0
	for i := range ev.Entries {
		e := &ev.Entries[i]
		if !e.Ours || e.Key.VNI != ev.VNI {
			continue
		}
		h := c.holderOf(e.Key)
		if h == nil || h.slot().batch > asOf {
			continue
		}
		h.slot().set(seen, true)
		drift += c.found(h, c.placeFrom(e.Entry))
	}
	for _, h := range c.held(v, func(h holder) bool { return h.slot().missing(asOf) }) {
		stood := h.slot().stands(c)
		drift += c.found(h, place{})
		h.slot().set(altered, stood)
	}
	c.noteDrift(map[VNI]int{ev.VNI: drift})
	if v == nil {
		return
	}
	if ev.MACs != nil {
		c.localMACs(v, ev.MACs, ev.AsOf, now)
	}
	if ev.IPs != nil {
		c.localIPs(v, ev.IPs, now)
	}
}

// noteDrift tells how many entries were found to be other than acknowledged.
func (c *Core) noteDrift(drift map[VNI]int) {
	for _, vni := range slices.Sorted(maps.Keys(drift)) {
		if n := drift[vni]; n > 0 && c.synced {
			c.note(Note{Kind: NoteDrift, VNI: vni, Count: n, Reason: "kernel differed from what it had acknowledged"})
		}
	}
}

// held lists the entries of v, or the VTEPs when v is nil, for which the condition holds, in a fixed order.
func (c *Core) held(v *macVRF, is func(holder) bool) []holder {
	var all []holder
	add := func(h holder) {
		if is(h) {
			all = append(all, h)
		}
	}
	if v == nil {
		for _, t := range c.vteps {
			add(t)
		}
	} else {
		for h := range v.holders() {
			add(h)
		}
	}
	slices.SortFunc(all, func(a, b holder) int { return a.key().compare(b.key()) })
	return all
}

// found records that the kernel holds p for h, and returns 1 when that is news.
func (c *Core) found(h holder, p place) int {
	s := h.slot()
	if s.have == p && !s.is(unknown) {
		return 0
	}
	c.settle(h, p)
	s.set(adopted, c.holding && p.there() && !s.want.there())
	if s.settled() {
		delete(c.problems, h.key())
	}
	c.want(h, s.want)
	c.changed(h)
	h.forget(c)
	return 1
}

// tampered has entries written again that someone else changed.
func (c *Core) tampered(ev Tampered) {
	for _, key := range ev.Keys {
		h := c.holderOf(key)
		if h == nil {
			continue
		}
		s := h.slot()
		if !s.have.there() && !s.want.there() {
			h.forget(c)
			continue
		}
		if s.stands(c) {
			s.set(altered, true)
		}
		s.set(unknown, true)
		c.want(h, s.want)
		c.changed(h)
		c.note(Note{Kind: NoteDrift, VNI: key.VNI, MAC: key.MAC, IP: key.Addr, Count: 1, Reason: "changed by someone else"})
	}
}

// nexthopsGone has VTEPs written again, and what was behind them, in one walk for all of them.
func (c *Core) nexthopsGone(ev NexthopsGone) {
	gone := map[*vtep]bool{}
	for _, addr := range ev.VTEPs {
		if t := c.vteps[addr]; t != nil {
			gone[t] = true
			c.tampered(Tampered{Keys: []EntryKey{t.key()}})
		}
	}
	for _, v := range c.vrfsInOrder() {
		lost := c.held(v, func(h holder) bool { return gone[c.vtepAt(h.slot().have)] })
		for _, h := range lost {
			s := h.slot()
			s.set(altered, s.stands(c))
			s.set(unknown, true)
			c.want(h, s.want)
			c.changed(h)
		}
		c.noteDrift(map[VNI]int{v.vni: len(lost)})
	}
}
