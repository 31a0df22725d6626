package evpn

import (
	"cmp"
	"encoding/binary"
	"iter"
	"net/netip"
	"slices"
	"time"
)

// place is what we want of, or believe about, one kernel entry; the zero place is "no entry". There are two for each of
// very many entries, so a VTEP is named by its number.
type place struct {
	target [6]byte // TableFDB: the number of the VTEP; TableNeighbor: the MAC
	flags  placeFlags
}

type placeFlags uint8

const (
	there  placeFlags = 1 << iota
	behind            // TableFDB: target is a VTEP
	sticky            // TableFDB
	router            // TableNeighbor
	parked            // TableVTEP
)

func (p place) there() bool  { return p.flags&there != 0 }
func (p place) sticky() bool { return p.flags&sticky != 0 }
func (p place) router() bool { return p.flags&router != 0 }
func (p place) parked() bool { return p.flags&parked != 0 }
func (p place) mac() MAC     { return MAC(p.target) }

func (f placeFlags) with(g placeFlags, yes bool) placeFlags {
	if yes {
		return f | g
	}
	return f
}

// placeBehind is the place of a MAC behind a VTEP.
func placeBehind(t *vtep, isSticky bool) place {
	p := place{flags: (there | behind).with(sticky, isSticky)}
	binary.NativeEndian.PutUint32(p.target[:], t.number)
	return p
}

// placeAt is the place of an IP at a MAC.
func placeAt(mac MAC, isRouter bool) place {
	return place{target: mac, flags: there.with(router, isRouter)}
}

// vtepAt is the VTEP that p names, nil when it names none.
func (c *Core) vtepAt(p place) *vtep {
	if p.flags&behind == 0 {
		return nil
	}
	return c.numbered[binary.NativeEndian.Uint32(p.target[:])]
}

// slot is one kernel entry: what is wanted against what was last sent or seen.
type slot struct {
	batch      uint64 // in which have was sent; the kernel has acknowledged it when it is not above Core.acked
	want, have place
	state      slotState
}

type slotState uint8

const (
	queued  slotState = 1 << iota
	dirty             // want is to be decided anew
	unknown           // the kernel may hold something else than have: a write failed, or something interfered
	adopted           // left by an earlier life and not wanted yet; kept while the core is holding
	altered           // someone else interfered with have, which the kernel had acknowledged
	seen              // in what the kernel was observed to hold; while that is compared
)

func (s *slot) is(x slotState) bool { return s.state&x != 0 }

func (s *slot) set(x slotState, yes bool) {
	s.state &^= x
	if yes {
		s.state |= x
	}
}

// settled reports that the kernel holds what is wanted, as far as we know.
func (s *slot) settled() bool { return s.want == s.have && !s.is(unknown) }

// stands reports that the kernel has acknowledged an entry, and that we know of nothing that happened to it since.
func (s *slot) stands(c *Core) bool { return s.have.there() && !s.is(unknown) && s.batch <= c.acked }

// onlyMoves reports that an entry is to go, or to stay as sticky as it is.
func (s *slot) onlyMoves() bool { return !s.want.there() || s.have.sticky() == s.want.sticky() }

// missing reports that an entry of the batches up to asOf was not seen, and takes the mark of having been seen away.
func (s *slot) missing(asOf uint64) bool {
	was := s.is(seen)
	s.set(seen, false)
	return !was && s.have.there() && s.batch <= asOf
}

// idle reports that there is no entry, that none is wanted, and that nothing about it is on its way or to be decided.
func (s *slot) idle(c *Core) bool {
	return s.settled() && !s.want.there() && !s.is(queued|dirty) && s.batch <= c.acked
}

// holder is what stands behind a kernel entry.
type holder interface {
	key() EntryKey
	slot() *slot
	forget(c *Core) // drop it if it says nothing any more
}

// vtep is a remote VTEP: an FDB nexthop shared by every MAC behind it, in all VNIs.
type vtep struct {
	addr   netip.Addr
	number uint32 // its index in Core.numbered; another's once it is forgotten
	refs   int    // places that name it, wanted or held
	leaves bool   // all routes that name it are about to go, see leave
	place  slot
}

func (t *vtep) key() EntryKey { return EntryKey{Table: TableVTEP, Addr: t.addr} }
func (t *vtep) slot() *slot   { return &t.place }
func (t *vtep) forget(c *Core) {
	if t.refs == 0 && t.place.idle(c) && c.vteps[t.addr] == t {
		delete(c.vteps, t.addr)
		c.numbered[t.number] = nil
		c.unnumbered = append(c.unnumbered, t.number)
	}
}

func (f *floodEntry) key() EntryKey {
	return EntryKey{Table: TableFlood, VNI: f.vrf.vni, Addr: f.vtep}
}
func (f *floodEntry) slot() *slot { return &f.place }
func (f *floodEntry) forget(c *Core) {
	if f.routes.len() == 0 && f.place.idle(c) && f.vrf.flood[f.vtep] == f {
		delete(f.vrf.flood, f.vtep)
	}
}

func (m *macEntry) key() EntryKey  { return EntryKey{Table: TableFDB, VNI: m.vrf.vni, MAC: m.mac} }
func (m *macEntry) slot() *slot    { return &m.place }
func (m *macEntry) forget(c *Core) { c.forgetMAC(m) }

func (e *ipEntry) key() EntryKey  { return EntryKey{Table: TableNeighbor, VNI: e.vrf.vni, Addr: e.ip} }
func (e *ipEntry) slot() *slot    { return &e.place }
func (e *ipEntry) forget(c *Core) { c.forgetIP(e) }

// holders walks the entries of a MAC-VRF, in no particular order.
func (v *macVRF) holders() iter.Seq[holder] {
	return func(yield func(holder) bool) {
		for _, f := range v.flood {
			if !yield(f) {
				return
			}
		}
		for _, m := range v.macs {
			if !yield(m) {
				return
			}
		}
		for e := range v.ips.all() {
			if !yield(e) {
				return
			}
		}
	}
}

func (c *Core) vtepOf(addr netip.Addr) *vtep {
	t := c.vteps[addr]
	if t == nil {
		t = &vtep{addr: addr}
		if n := len(c.unnumbered) - 1; n >= 0 {
			t.number, c.unnumbered = c.unnumbered[n], c.unnumbered[:n]
			c.numbered[t.number] = t
		} else {
			t.number = uint32(len(c.numbered))
			c.numbered = append(c.numbered, t)
		}
		c.vteps[addr] = t
	}
	return t
}

// holderOf finds the entry that key names, and makes it if need be; nil when its VNI is not served.
func (c *Core) holderOf(key EntryKey) holder {
	if key.Table == TableVTEP {
		return c.vtepOf(key.Addr)
	}
	v := c.vrfs[key.VNI]
	if v == nil {
		return nil
	}
	switch key.Table {
	case TableFlood:
		return v.floodTo(key.Addr)
	case TableFDB:
		return v.mac(key.MAC)
	case TableNeighbor:
		return v.ip(key.Addr)
	}
	return nil
}

// decideFlood wants a flood entry while an accepted IMET route names the VTEP, and there is a way to it (T3-05, T3-07, NH-05).
func (c *Core) decideFlood(f *floodEntry) {
	was := f.flooded
	f.flooded = false
	for p := range f.routes.all() {
		if why := c.refuse(f.vrf, p); why != "" {
			c.noteRefused(f.vrf, p, why)
		} else {
			f.flooded = !c.cutOff(f.vtep) && !c.leaves(f.vtep)
		}
	}
	c.history.floods(f, was)
	if f.vrf.inService() {
		c.want(f, place{flags: placeFlags(0).with(there, f.flooded)})
	}
	f.forget(c)
}

// placeOf is the FDB entry that follows a route. A static row on a local port stays in the kernel; ours would be refused.
func (c *Core) placeOf(m *macEntry) place {
	if m.best == nil || m.local() != nil && m.local().static {
		return place{}
	}
	return placeBehind(c.vtepOf(m.best.Attrs.NextHop), m.best.Attrs.Sticky)
}

// want sets what the kernel is to hold for h.
func (c *Core) want(h holder, p place) {
	s := h.slot()
	if s.want != p {
		old := s.want
		s.want = p
		c.refer(c.vtepAt(p), c.vtepAt(old))
		if len(c.problems) > 0 {
			delete(c.problems, h.key())
		}
	}
	if p.there() {
		s.set(adopted, false)
	}
	if !s.settled() && !s.is(adopted) && !c.waits(h) {
		c.enqueue(h)
	}
}

// settle records what the kernel holds for h.
func (c *Core) settle(h holder, p place) {
	s := h.slot()
	old := s.have
	s.have = p
	s.set(unknown|altered, false)
	c.refer(c.vtepAt(p), c.vtepAt(old))
}

// refer moves one reference between VTEPs. A VTEP is wanted as long as anything names it.
func (c *Core) refer(to, from *vtep) {
	if to == from {
		return
	}
	if to != nil {
		to.refs++
		if to.refs == 1 {
			c.want(to, c.placeOfVTEP(to))
		}
	}
	if from != nil {
		from.refs--
		if from.refs == 0 {
			c.want(from, place{})
			from.forget(c)
		}
	}
}

func (c *Core) enqueue(h holder) {
	s := h.slot()
	if s.is(queued) {
		return
	}
	s.set(queued, true)
	t := h.key().Table
	q := &c.pending[t]
	if v := vrfOf(h); v != nil {
		if v.waiting < expressWaiting {
			q = &c.express[t]
		}
		v.waiting++
	}
	q.add(h)
}

// nextBatch takes the next ops off the queues, in the order in which the kernel must see them: a VTEP before the MACs
// behind it, and after them when it goes.
func (c *Core) nextBatch() KernelBatch {
	if c.batch-c.acked >= maxInFlight {
		return KernelBatch{}
	}
	b := KernelBatch{Seq: c.batch + 1, AsOf: c.reported}
	if n := c.waiting(); n > 0 {
		b.Ops = c.history.kernel.room(min(n, maxBatchOps))
	}
	leaving := c.takeVTEPs(&b)
	const half = maxBatchOps / 2 // many VNIs that always have a little to write must not keep the others from it
	for _, t := range hostTables {
		c.take(&b, &c.express[t], half)
	}
	for _, t := range hostTables {
		c.take(&b, &c.pending[t], maxBatchOps)
	}
	for _, t := range leaving { // nothing names them: what did was sent earlier, or just now
		c.send(&b, t)
	}
	if len(b.Ops) == 0 {
		return KernelBatch{}
	}
	c.batch = b.Seq
	c.flying = append(c.flying, sentBatch{seq: b.Seq, at: c.history.now, ops: b.Ops})
	return b
}

// waiting is the number of entries in the queues.
func (c *Core) waiting() int {
	n := 0
	for t := range c.pending {
		n += c.pending[t].len() + c.express[t].len()
	}
	return n
}

// takeVTEPs sends the VTEPs that come and returns those that go.
func (c *Core) takeVTEPs(b *KernelBatch) (leaving []*vtep) {
	queue := &c.pending[TableVTEP]
	for range queue.len() {
		t := queue.next().(*vtep)
		switch {
		case t.place.settled():
			t.place.set(queued, false)
			t.forget(c)
		case t.place.want.there():
			c.send(b, t)
		default:
			leaving = append(leaving, t)
		}
	}
	return leaving
}

// hostTables are those with entries of VNIs, in the order in which they are written.
var hostTables = [...]Table{TableFlood, TableFDB, TableNeighbor}

// vrfOf is the MAC-VRF whose entry h is, nil for a VTEP.
func vrfOf(h holder) *macVRF {
	switch h := h.(type) {
	case *macEntry:
		return h.vrf
	case *ipEntry:
		return h.vrf
	case *floodEntry:
		return h.vrf
	}
	return nil
}

// take sends what waits in a queue, until the batch has most ops.
func (c *Core) take(b *KernelBatch, waiting *queue, most int) {
	for waiting.len() > 0 && len(b.Ops) < most {
		h := waiting.next()
		vrfOf(h).waiting--
		if s := h.slot(); s.settled() {
			s.set(queued, false)
			h.forget(c)
			continue
		}
		c.send(b, h)
	}
}

// send puts h's entry into the batch and takes it for done until the kernel says otherwise.
func (c *Core) send(b *KernelBatch, h holder) {
	s, key := h.slot(), h.key()
	m, isMAC := h.(*macEntry)
	takeover := isMAC && s.want.there() && m.givenUp() && m.local().batch == 0
	stands := s.stands(c)
	b.Ops = append(b.Ops, KernelOp{
		Key:   key,
		Entry: c.entry(s.want),
		Del:   !s.want.there(),
		// What is not acknowledged may have failed because of an entry that is not ours.
		Replace: takeover || stands,
		Intact:  stands && !takeover && s.onlyMoves(),
		Stood:   s.is(altered),
	})
	p := c.problems[key]
	if p != nil {
		p.batch, p.retryAt = b.Seq, time.Time{}
	}
	if p != nil || takeover || !s.want.there() {
		c.sent = append(c.sent, sentOp{h, b.Seq})
	}
	if takeover {
		m.local().batch = b.Seq
	}
	c.settle(h, s.want)
	c.changed(h)
	s.batch = b.Seq
	s.set(queued, false)
}

// entry is what p says of the entry with that key.
func (c *Core) entry(p place) Entry {
	if t := c.vtepAt(p); t != nil {
		return Entry{VTEP: t.addr, Sticky: p.sticky()}
	}
	return Entry{MAC: p.mac(), Router: p.router(), Parked: p.parked()}
}

// placeFrom is the opposite of entry.
func (c *Core) placeFrom(e Entry) place {
	if e.VTEP.IsValid() {
		return placeBehind(c.vtepOf(e.VTEP), e.Sticky)
	}
	p := placeAt(e.MAC, e.Router)
	p.flags = p.flags.with(parked, e.Parked)
	return p
}

func (k EntryKey) compare(o EntryKey) int {
	return cmp.Or(cmp.Compare(k.Table, o.Table), cmp.Compare(k.VNI, o.VNI), slices.Compare(k.MAC[:], o.MAC[:]), k.Addr.Compare(o.Addr))
}
