package evpn

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// Limits on what is on its way to the kernel. A batch is what one writer call takes in about 1 ms; two in flight keep
// the writer busy while the next is made. What is new waits for those two, and larger ones write no faster. Everything else
// waits here, where it can still change its mind.
const (
	maxBatchOps  = 160
	maxInFlight  = 2
	staleTime    = 180 * time.Second // that a peer which came back may take for its End-of-RIB
	readBackWait = 5 * time.Second   // that a read-back waits for a quiet moment before it gets one
	firstRetry   = 100 * time.Millisecond
	longestRetry = 30 * time.Second

	// expressWaiting is how many entries of one VNI may wait beside the long queue, so that a VNI whose hosts all move does not
	// keep the few changes of the others waiting.
	expressWaiting = 64
	maxSharedSets  = 4096 // attribute sets remembered per MAC-VRF for routes of our own
)

// Core holds the EVPN state of one VTEP and takes every decision. It does no I/O, keeps no clock and no goroutine: its
// owner hands it facts and carries out what Flush returns. Not safe for concurrent use.
type Core struct {
	cfg     Config
	started time.Time

	peers map[netip.Addr]*peer
	rib   rib
	attrs map[*Attrs]*attrSet
	vrfs  map[VNI]*macVRF
	vteps map[netip.Addr]*vtep
	// numbered holds the VTEPs by number, and nil for the numbers that are free: those of unnumbered.
	numbered   []*vtep
	unnumbered []uint32

	received map[RouteType]int // routes of all peers; no zeros

	ways        map[netip.Addr]*way
	waysChanged bool         // other VTEPs are to be watched
	waysDown    int          // ways that are down
	waysLost    uint64       // times that one went down
	turned      []netip.Addr // VTEPs that came or went, and whose contested MACs are to be decided anew

	importGen   uint32 // counts changes of route targets; attribute sets remember which one they were matched under
	importIndex importIndex
	rdNumbers   map[VNI]uint16
	imports     []RT   // that ImportRTs last said
	importsSent uint32 // importGen of that

	dirtyMACs []*macEntry
	dirtyIPs  []*ipEntry
	pending   [TableNeighbor + 1]queue
	express   [TableNeighbor + 1]queue // entries of VNIs that have little to write; they go before those of pending
	problems  map[EntryKey]*problem
	nextRetry time.Time // no problem is to be tried again before; zero: none is to be
	retries   uint64    // writes that were tried again
	batch     uint64    // last batch handed out
	acked     uint64    // last batch reported back
	reported  uint64    // Number of the last Reported
	sent      []sentOp  // deletes, takeovers and second tries on their way
	readBack  map[VNI]bool
	reading   bool // a read-back is under way
	// readBackSince is when the first of readBack began to wait; zero: none waits.
	readBackSince time.Time
	auditor       auditor

	flapping  map[flapper]bool // what moved lately, or is a duplicate
	nextSweep time.Time        // when to look at these; zero: there are none

	recalled    []LocalIP             // bindings of an earlier life, until Synced
	sequences   []Sequence            // likewise, in order
	inherited   numbers               // of hosts of a predecessor, likewise
	awaiting    []awaited             // hosts that frames told of before the bridge did, oldest first
	unconfirmed map[portKey]int       // of these, how many the bridge still does not have; no zeros
	ageing      []aged                // bindings from frames, in the order in which they are looked at again
	asking      []asked               // questions to hosts, likewise
	claimants   map[*ipEntry]claimant // who wants an IP while the host that has it is asked
	rivals      map[*ipEntry]*rival   // remote hosts with an IP of a local one
	contested   []contested           // hosts that are to be asked again because of these, in the order of their turns

	synced   bool // the adapter has reported all there was
	holding  bool // entries of an earlier life are kept although nobody wants them yet
	released bool // ReleaseEoR went out
	refused  map[refusal]int

	history history
	changes *ChangeLog[change] // of rows, for those who follow; nil: nobody does

	routeChanges *ChangeLog[RouteName] // nil: nobody follows the routes
	flying       []sentBatch           // kernel batches on their way, oldest first

	routes      []RouteOp
	crowded     map[*macVRF]struct{} // with MACs that are beyond a limit
	nextRoom    time.Time            // MACs beyond a limit are not looked at before
	resets      []PeerReset
	refreshes   []netip.Addr
	notes       []Note
	probes      []Probe
	rdChanged   bool
	resequenced bool // Sequences changed
}

// New returns a core with nothing in it, which serves nothing before AttachmentUp and PeerUp say so.
func New(cfg Config) *Core {
	c := &Core{
		peers:       map[netip.Addr]*peer{},
		rib:         newRIB(),
		received:    map[RouteType]int{},
		attrs:       map[*Attrs]*attrSet{},
		vrfs:        map[VNI]*macVRF{},
		vteps:       map[netip.Addr]*vtep{},
		ways:        map[netip.Addr]*way{},
		problems:    map[EntryKey]*problem{},
		readBack:    map[VNI]bool{},
		refused:     map[refusal]int{},
		flapping:    map[flapper]bool{},
		claimants:   map[*ipEntry]claimant{},
		unconfirmed: map[portKey]int{},
		rivals:      map[*ipEntry]*rival{},
		crowded:     map[*macVRF]struct{}{},
		holding:     true,
		history:     newHistory(),
	}
	c.importIndex = newImportIndex()
	c.cfg = cfg
	c.rdNumbers = maps.Clone(cfg.RDNumbers)
	if c.rdNumbers == nil {
		c.rdNumbers = map[VNI]uint16{}
	}
	return c
}

// Handle takes in one fact. What follows from it comes out of the next Flush.
func (c *Core) Handle(ev Event, now time.Time) {
	if c.started.IsZero() {
		c.started, c.auditor.next = now, now.Add(auditPeriod)
	}
	c.history.now = now.UnixNano()
	switch ev := ev.(type) {
	case *Update:
		c.update(ev, now)
	case PeerUp:
		c.peerUp(ev, now)
	case PeerDown:
		c.peerDown(ev, now)
	case PeerLimit:
		c.peerLimit(ev, now)
	case EndOfRIB:
		c.endOfRIB(ev)
	case RefreshBegin:
		c.refreshBegin(ev, now)
	case RefreshEnd:
		c.refreshEnd(ev)
	case AttachmentUp:
		c.attachmentUp(ev.Attachment, now)
	case AttachmentDown:
		c.attachmentDown(ev.VNI)
	case LocalMAC:
		c.localMAC(ev, now)
	case LocalIP:
		c.localIP(ev, now)
	case NeighborsGone:
		for _, k := range ev.IPs {
			c.localIP(LocalIP{VNI: k.VNI, IP: k.IP, Gone: true}, now)
		}
	case Sighted:
		c.sightedMAC(ev)
	case VTEPReachable:
		c.vtepReachable(ev, now)
	case Observed:
		c.observed(ev, now)
	case Applied:
		c.applied(ev, now)
	case ReadBackDone:
		c.reading = false
	case Tampered:
		c.tampered(ev)
	case NexthopsGone:
		c.nexthopsGone(ev)
	case Doubt:
		c.auditor.doubted = now
	case Reported:
		c.reported = ev.Number
	case Looked:
		c.looked(ev)
	case Remembered:
		c.recalled, c.sequences = ev.IPs, slices.SortedFunc(slices.Values(ev.Sequences), Sequence.compare)
		c.inherited = numbersOf(ev.Hosts)
	case Synced:
		c.synced, c.inherited = true, nil
		c.recall(now)
		c.sequences = nil
	case Configure:
		c.configure(ev.Config, now)
	}
}

// Flush returns what must be done now, and when to call again if nothing happens before.
func (c *Core) Flush(now time.Time) Output {
	c.history.now = now.UnixNano()
	c.expire(now)
	c.recoverDuplicates(now)
	c.expireAwaited(now)
	c.ageBindings(now)
	c.askAgain(now)
	c.contestAgain(now)
	c.releaseWays(now)
	c.review()
	c.makeRoom(now)
	c.decide(now)
	c.reap(now)
	c.retry(now)
	look := c.audit(now)
	out := Output{
		Routes:    c.routes,
		Resets:    c.resets,
		Refreshes: c.refreshes,
		Notes:     c.notes,
		Probes:    c.probes,
		Look:      look,
	}
	if !c.quiet(now) {
		out.Kernel = c.nextBatch()
	}
	c.announcedChanged(out.Routes)
	c.routes, c.resets, c.refreshes, c.notes, c.probes = nil, nil, nil, nil, nil
	if c.rdChanged {
		out.RDNumbers, c.rdChanged = maps.Clone(c.rdNumbers), false
	}
	out.Resequenced, c.resequenced = c.resequenced, false
	if c.importsSent != c.importGen {
		rts := c.importRTs()
		if c.importsSent == 0 || !slices.Equal(rts, c.imports) {
			out.ImportRTs = rts
		}
		c.imports, c.importsSent = rts, c.importGen
	}
	if len(c.readBack) > 0 && !c.reading && len(out.Kernel.Ops) == 0 && c.batch == c.acked {
		out.ReadBack = slices.Sorted(maps.Keys(c.readBack))
		clear(c.readBack)
		c.reading, c.readBackSince = true, time.Time{}
	}
	if c.waysChanged {
		out.VTEPs, c.waysChanged = c.watched(), false
	}
	if c.synced && !c.released {
		out.ReleaseEoR, c.released = true, true
	}
	out.Backlog = c.waiting()
	out.Wake = c.wake(now)
	return out
}

// quiet reports that no more is to be written until what is under way is acknowledged: a read-back has waited long enough.
func (c *Core) quiet(now time.Time) bool {
	if len(c.readBack) == 0 || c.reading {
		return false
	}
	if c.readBackSince.IsZero() {
		c.readBackSince = now
	}
	return now.Sub(c.readBackSince) >= readBackWait
}

// decide works off what changed: MACs first, since an IP follows its MAC.
func (c *Core) decide(now time.Time) {
	for i := 0; i < len(c.dirtyMACs); i++ {
		m := c.dirtyMACs[i]
		m.place.set(dirty, false)
		c.decideMAC(m, now)
		c.choiceChanged(&m.routes)
	}
	for i := 0; i < len(c.dirtyIPs); i++ {
		e := c.dirtyIPs[i]
		e.place.set(dirty, false)
		c.decideIP(e, now)
		c.choiceChanged(&e.routes)
	}
	clear(c.dirtyMACs)
	clear(c.dirtyIPs)
	c.dirtyMACs, c.dirtyIPs = emptied(c.dirtyMACs), emptied(c.dirtyIPs)
}

// emptied is a list with nothing in it that keeps its room, unless that is more than one burst of UPDATEs needs.
func emptied[T any](list []T) []T {
	const most = 2048
	if cap(list) > most {
		return nil
	}
	return list[:0]
}

// reap lets go of what an earlier life left in the kernel once every expected peer has said all it knows, or has had its
// time.
func (c *Core) reap(now time.Time) {
	if !c.holding || !c.synced || (now.Before(c.reapAt()) && !c.heardAll()) {
		return
	}
	c.holding = false
	left := func(h holder) bool { return h.slot().is(adopted) }
	stale := c.held(nil, left)
	for _, v := range c.vrfsInOrder() {
		if v.inService() || v.unfit != "" { // the others are down: serve lets go of theirs when they are up again
			stale = append(stale, c.held(v, left)...)
		}
	}
	for _, h := range stale {
		h.slot().set(adopted, false)
		c.want(h, h.slot().want)
	}
	if len(stale) > 0 {
		c.note(Note{Kind: NoteReaped, Count: len(stale), Reason: "no peer announces them any more"})
	}
}

func (c *Core) reapAt() time.Time { return c.started.Add(cmp.Or(c.cfg.ReapAfter, DefaultReapAfter)) }

// heardAll reports whether all configured peers have sent their End-of-RIB. Without configured peers only time tells.
func (c *Core) heardAll() bool {
	for _, addr := range c.cfg.Peers {
		if p := c.peers[addr]; p == nil || !p.eor {
			return false
		}
	}
	return len(c.cfg.Peers) > 0
}

// wake is the earliest time at which Flush has something to do by itself.
func (c *Core) wake(now time.Time) time.Time {
	if c.batch-c.acked < maxInFlight && !c.quiet(now) && c.waiting() > 0 {
		return now
	}
	if len(c.turned) > 0 && c.pending[TableVTEP].len() == 0 {
		return now
	}
	next := c.nextRetry
	soonest := func(t time.Time) {
		if !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	if c.synced {
		soonest(c.auditWake())
		if c.holding {
			soonest(c.reapAt())
		}
	}
	soonest(c.nextSweep)
	for _, p := range c.peers {
		soonest(p.stale.ages)
		if !over(p.stale.ends, now) || c.pending[TableVTEP].len() == 0 {
			soonest(p.stale.ends)
		}
		if p.limit.left > 0 {
			soonest(p.limit.wake(p))
		}
	}
	for v := range c.crowded {
		if v.room.freed {
			soonest(latest(c.nextRoom, now))
		}
	}
	for _, vtep := range c.heldWays() {
		soonest(c.ways[vtep].until)
	}
	if len(c.awaiting) > 0 {
		soonest(c.awaiting[0].until)
	}
	if len(c.ageing) > 0 {
		soonest(c.ageing[0].due)
	}
	if len(c.contested) > 0 {
		soonest(c.contested[0].due)
	}
	if len(c.asking) > 0 {
		soonest(c.asking[0].due)
	}
	return next
}

// note tells the operator, and takes it down.
func (c *Core) note(n Note) {
	c.notes = append(c.notes, n)
	c.history.noted(&n)
}

// vrfsInOrder returns the MAC-VRFs by VNI, for work that must come out in a fixed order.
func (c *Core) vrfsInOrder() []*macVRF {
	return inVNIOrder(slices.Collect(maps.Values(c.vrfs)))
}

func inVNIOrder(vrfs []*macVRF) []*macVRF {
	slices.SortFunc(vrfs, func(a, b *macVRF) int { return cmp.Compare(a.vni, b.vni) })
	return vrfs
}

func (c *Core) peerAddrs() []netip.Addr {
	return slices.SortedFunc(maps.Keys(c.peers), netip.Addr.Compare)
}
