package evpn

import "net/netip"

// How much is remembered of what happened. What comes in masses is kept apart, so that a peer that sends its table does not
// wash away who moved last.
const (
	routineRecords = 1 << 14
	notableRecords = 1 << 12
	kernelRecords  = 1 << 14
	blockRecords   = 1 << 10
)

// recordKind says what happened.
type recordKind uint8

const (
	routeReceived recordKind = iota + 1
	routeWithdrawn
	routeDropped // by the end of its session
	macLearned
	macMoved
	macGone
	ipLearned
	ipMoved
	ipGone
	vtepJoined // a flood list
	vtepLeft
	peerUp
	peerDown
	peerEndOfRIB
	noted // see record.detail
)

// record is one thing that happened: values only, so that taking down what comes in masses allocates nothing and costs the
// garbage collector little. Words are made of it when someone reads.
type record struct {
	id     uint64
	at     int64 // Unix time in ns
	rd     RD
	vni    VNI
	seq    uint32
	mac    MAC
	kind   recordKind
	detail uint8 // the type of a route, the NoteKind of what is noted
	ip     address
	place  address     // the VTEP it is about, or here; where it was, of what is gone
	peer   *netip.Addr // nil: no peer has to do with it
	more   *recordMore // nil: that was all
}

// recordMore is what only some records say.
type recordMore struct {
	from  netip.Addr // where it was before, of what has moved
	text  string     // a reason; the port of what is local
	count int
}

// ring keeps the last records that were added, by id. It grows by blocks.
type ring struct {
	blocks [][]record
	size   int // that it grows to: a multiple of blockRecords
	length int
	next   int // where the next one goes once it has that size
}

// add makes room for a record, which is zero.
func (r *ring) add() *record {
	if r.length == r.size {
		rec := &r.blocks[r.next/blockRecords][r.next%blockRecords]
		if r.next++; r.next == r.size {
			r.next = 0
		}
		*rec = record{}
		return rec
	}
	if r.length%blockRecords == 0 {
		r.blocks = append(r.blocks, make([]record, blockRecords))
	}
	r.length++
	return &r.blocks[(r.length-1)/blockRecords][(r.length-1)%blockRecords]
}

// at returns the i-th record, the oldest being number 0.
func (r *ring) at(i int) *record {
	i += r.next
	if i >= r.length {
		i -= r.length
	}
	return &r.blocks[i/blockRecords][i%blockRecords]
}

// writes are the batches that the kernel has carried out, as they were given to it. Each op counts as one record.
type writes struct {
	batches []carriedOut // oldest first
	ops     int
	spare   [][]KernelOp // of full batches that are forgotten
}

// room is for the ops of a batch. That of full ones is used again and again: a flood would leave more garbage of them than it
// leaves routes.
func (w *writes) room(ops int) []KernelOp {
	last := len(w.spare) - 1
	if ops < maxBatchOps || last < 0 {
		return make([]KernelOp, 0, ops)
	}
	room := w.spare[last]
	w.spare = w.spare[:last]
	return room[:0]
}

// forget lets go of the oldest batches beyond what is remembered.
func (w *writes) forget() {
	n := 0
	for ; w.ops > kernelRecords; n++ {
		old := w.batches[n].ops
		w.ops -= len(old)
		if cap(old) == maxBatchOps && len(w.spare) < maxInFlight {
			w.spare = append(w.spare, old)
		}
	}
	clear(w.batches[:n])
	w.batches = w.batches[n:]
}

// carriedOut is one batch that the kernel has acknowledged; its first op has the id first.
type carriedOut struct {
	sentBatch
	first  uint64
	done   int64 // Unix time in ns
	failed map[EntryKey]bool
}

// sentBatch is a batch on its way to the kernel.
type sentBatch struct {
	seq uint64
	at  int64
	ops []KernelOp
}

// history is what happened lately. Ids count up from 1 over all of it.
type history struct {
	routine, notable ring
	kernel           writes
	last             uint64
	now              int64 // of the fact that is being taken in
}

func newHistory() history {
	return history{routine: ring{size: routineRecords}, notable: ring{size: notableRecords}}
}

// add takes down that something happened. The caller says the rest.
func (h *history) add(r *ring, kind recordKind, vni VNI) *record {
	h.last++
	rec := r.add()
	rec.id, rec.at, rec.kind, rec.vni = h.last, h.now, kind, vni
	return rec
}

// route takes down what became of a received route.
func (h *history) route(kind recordKind, p *Path) {
	rec := h.add(&h.routine, kind, VNI(p.label1))
	rec.mac, rec.ip, rec.detail = p.mac, p.ip, uint8(p.kind)
	rec.says(p)
}

// says fills in who says so: the route that is followed.
func (rec *record) says(p *Path) {
	rec.rd, rec.seq, rec.place, rec.peer = p.rd, p.Attrs.Seq, addressOf(p.Attrs.NextHop), &p.peer.addr
}

// owner takes down that a MAC has another owner; the zero Addr is nobody.
func (h *history) owner(m *macEntry, was, is netip.Addr) {
	r, kind := &h.routine, macLearned
	switch {
	case !is.IsValid():
		kind = macGone
	case was.IsValid():
		r, kind = &h.notable, macMoved
	}
	rec := h.add(r, kind, m.vrf.vni)
	rec.mac = m.mac
	switch {
	case kind == macGone:
		rec.place, rec.seq = addressOf(was), m.seq()
	case is == here:
		rec.place, rec.seq, rec.more = addressOf(here), m.seq(), &recordMore{text: m.local().port}
	default:
		rec.says(m.best)
	}
	if kind == macMoved {
		rec.tell().from = was
	}
}

func (rec *record) tell() *recordMore {
	if rec.more == nil {
		rec.more = &recordMore{}
	}
	return rec.more
}

// holds is who has an IP.
type holds struct {
	mac  MAC
	vtep netip.Addr // here, a VTEP, or the zero Addr: nobody has it
}

// holds says who has the IP, as it was decided last.
func (e *ipEntry) holds() holds {
	switch {
	case e.best != nil:
		return holds{e.best.mac, e.best.Attrs.NextHop}
	case e.out() != nil:
		return holds{e.out().mac, here}
	}
	return holds{}
}

// holder takes down that an IP is with another MAC, or on another side.
func (h *history) holder(e *ipEntry, was holds) {
	is := e.holds()
	if was == is {
		return
	}
	r, kind := &h.routine, ipLearned
	switch {
	case !is.vtep.IsValid():
		kind = ipGone
	case was.vtep.IsValid():
		r, kind = &h.notable, ipMoved
	}
	rec := h.add(r, kind, e.vrf.vni)
	rec.ip, rec.mac = addressOf(e.ip), is.mac
	switch {
	case kind == ipGone:
		rec.mac, rec.place = was.mac, addressOf(was.vtep)
	case e.best != nil:
		rec.says(e.best)
	default:
		rec.place, rec.seq = addressOf(here), e.out().seq
	}
	if kind == ipMoved {
		rec.tell().from = was.vtep
		if was.mac != is.mac {
			rec.tell().text = "was with " + was.mac.String()
		}
	}
}

// floods takes down that a VTEP has come to a flood list, or has left it.
func (h *history) floods(f *floodEntry, was bool) {
	switch {
	case f.flooded && !was:
		h.add(&h.routine, vtepJoined, f.vrf.vni).place = addressOf(f.vtep)
	case was && !f.flooded:
		h.add(&h.routine, vtepLeft, f.vrf.vni).place = addressOf(f.vtep)
	}
}

// session takes down what became of the session with a peer.
func (h *history) session(kind recordKind, p *peer, more recordMore) {
	rec := h.add(&h.notable, kind, 0)
	rec.peer, rec.more = &p.addr, &more
}

// acknowledged takes down a batch that the kernel has carried out, apart from what has failed.
func (h *history) acknowledged(b sentBatch, failed map[EntryKey]bool) {
	w := &h.kernel
	w.batches = append(w.batches, carriedOut{sentBatch: b, first: h.last + 1, done: h.now, failed: failed})
	w.ops += len(b.ops)
	h.last += uint64(len(b.ops))
	w.forget()
}

// noted takes down a note. Those about single kernel entries may come in masses.
func (h *history) noted(n *Note) {
	r := &h.notable
	switch n.Kind {
	case NoteMACMoved:
		return // owner has taken it down, and more of it
	case NoteForeign, NoteKernel, NoteDrift, NoteLimit:
		r = &h.routine
	}
	rec := h.add(r, noted, n.VNI)
	rec.detail, rec.mac, rec.ip, rec.place = uint8(n.Kind), n.MAC, addressOf(n.IP), addressOf(n.VTEP)
	rec.more = &recordMore{text: n.Reason, count: n.Count}
	if peer := n.Peer; peer.IsValid() {
		rec.peer = &peer
	}
}
