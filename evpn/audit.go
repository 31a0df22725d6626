package evpn

import (
	"slices"
	"time"
)

// An audit compares everything in the kernel with what it acknowledged. Small MAC-VRFs are read back whole, which shows
// rows too many as well. To read a large one back takes time that grows with the square of its size (Linux walks an FDB from
// its head for every 32 KiB), all of it behind the lock that every network device shares; so where there is a large one, all
// entries are looked up, some at a time. A look at a flood entry writes it once more: the kernel shows the first one only.
const (
	auditPeriod  = 10 * time.Minute
	auditAtOnce  = 8192 // entries of a MAC-VRF from which on it is a large one
	auditChunk   = 512  // entries looked up together, in about 2 ms
	auditPause   = 10 * time.Millisecond
	auditMinimum = time.Second // that a chunk waits for a quiet moment
	// A doubt comes with each flood of our own. The audit for it waits for the flood to be over, and until the last one is long ago.
	doubtPause = 3 * time.Second
	doubtEvery = 30 * time.Second
)

// auditor is where an audit stands.
type auditor struct {
	next    time.Time // when the next audit begins; zero before the first fact
	doubted time.Time // when someone last may have altered something unseen; zero: not since the last one began
	last    time.Time // when the last one began
	vrfs    []*macVRF // still to be looked up
	entries []holder  // of the one that is being looked at
	asked   bool      // a chunk is being looked up
	due     time.Time // when the next chunk is

	// The room that one chunk took serves the next, so that looking at a million entries leaves no garbage.
	keys   []EntryKey
	places map[EntryKey]place
}

// audit begins an audit when it is time to, and returns what is to be looked up next.
func (c *Core) audit(now time.Time) []EntryKey {
	a := &c.auditor
	if c.synced && a.done() && !now.Before(a.begin()) {
		a.next, a.last, a.doubted = now.Add(auditPeriod), now, time.Time{}
		c.readBack[0] = true
		vrfs := slices.DeleteFunc(c.vrfsInOrder(), func(v *macVRF) bool { return v.at == nil })
		if slices.ContainsFunc(vrfs, func(v *macVRF) bool { return v.size() >= auditAtOnce }) {
			a.vrfs = vrfs
		} else {
			for _, v := range vrfs {
				c.readBack[v.vni] = true
			}
		}
	}
	if a.asked || now.Before(c.nextLook()) {
		return nil
	}
	keys := c.auditChunk()
	if len(keys) > 0 {
		a.asked, a.due = true, now.Add(auditPause)
	}
	return keys
}

// begin is when the next audit begins.
func (a *auditor) begin() time.Time {
	if a.doubted.IsZero() {
		return a.next
	}
	if soon := latest(a.doubted.Add(doubtPause), a.last.Add(doubtEvery)); soon.Before(a.next) {
		return soon
	}
	return a.next
}

// done reports that there is nothing left to look up.
func (a *auditor) done() bool { return len(a.entries)+len(a.vrfs) == 0 }

// nextLook is when the next chunk is to be looked up: writing comes first.
func (c *Core) nextLook() time.Time {
	if c.batch != c.acked || c.waiting() > 0 {
		return c.auditor.due.Add(auditMinimum)
	}
	return c.auditor.due
}

// auditWake is when the auditor has something to do; zero: only an answer can change that.
func (c *Core) auditWake() time.Time {
	switch a := &c.auditor; {
	case a.done():
		return a.begin()
	case a.asked:
		return time.Time{}
	default:
		return c.nextLook()
	}
}

// auditChunk takes the next entries that the kernel is known to hold.
func (c *Core) auditChunk() []EntryKey {
	a := &c.auditor
	a.keys = a.keys[:0]
	for len(a.keys) < auditChunk {
		if len(a.entries) == 0 {
			if len(a.vrfs) == 0 {
				a.entries = nil
				break
			}
			v := a.vrfs[0]
			a.vrfs = a.vrfs[1:]
			if c.vrfs[v.vni] == v {
				a.entries = slices.AppendSeq(make([]holder, 0, v.size()), v.holders())
			}
			continue
		}
		h := a.entries[0]
		a.entries = a.entries[1:]
		if h.slot().stands(c) {
			a.keys = append(a.keys, h.key())
		}
	}
	return a.keys
}

// size is the number of entries of a MAC-VRF.
func (v *macVRF) size() int { return len(v.flood) + len(v.macs) + v.ips.len() }

// looked compares what was looked up with what we believe.
func (c *Core) looked(ev Looked) {
	a := &c.auditor
	a.asked = false
	asOf := min(ev.AsOf, c.acked)
	if a.places == nil {
		a.places = make(map[EntryKey]place, len(ev.Entries))
	}
	clear(a.places)
	for i := range ev.Entries {
		if e := &ev.Entries[i]; e.Ours {
			a.places[e.Key] = c.placeFrom(e.Entry)
		}
	}
	drift := map[VNI]int{}
	for _, key := range ev.Keys {
		v := c.vrfs[key.VNI]
		if v == nil {
			continue
		}
		h := c.holderOf(key)
		if s := h.slot(); !s.stands(c) || s.batch > asOf {
			h.forget(c)
			continue
		}
		if c.found(h, a.places[key]) > 0 {
			h.slot().set(altered, true)
			drift[key.VNI]++
		}
	}
	c.noteDrift(drift)
	if a.done() {
		a.keys, a.places = nil, nil
	}
}
