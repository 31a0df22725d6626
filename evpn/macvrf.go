package evpn

import (
	"iter"
	"maps"
	"math"
	"net/netip"
	"slices"
	"time"
)

// macVRF is one VNI: a MAC-VRF with one bridge table (VLAN-based service, RFC 7432 §6.1).
type macVRF struct {
	vni      VNI
	at       *Attachment // nil: the device is gone, and whatever still names this MAC-VRF must leave it alone
	since    int64       // when it came into service or went out of it, Unix time in ns
	imet     bool        // our IMET route is announced
	gateways []Gateway   // whose routes are announced
	derived

	macs  map[MAC]*macEntry
	ips   ipTable
	flood map[netip.Addr]*floodEntry
	sets  map[setKey]*Attrs // attributes of our own routes

	pinned       map[MAC][]*ipEntry // IPs that are frozen with a MAC
	framed       int                // bindings that frames told of
	waiting      int                // entries in Core.pending and Core.express
	room         room
	refusedHosts uint64 // times that a host claimed what is ours
}

// derived is what the configuration makes of a VNI.
type derived struct {
	policy    VNIPolicy
	rd        RD
	importRTs []RTPattern
	exportRTs []RT
	unfit     string // why it is not served, whatever its devices are like; "" when it may be
}

// macEntry is all that is known of one MAC. There are very many that are remote and never were anything else: what they
// do not have is in home.
type macEntry struct {
	vrf    *macVRF
	home   *home
	routes pathList // type 2, with or without an IP, from all VTEPs and peers
	best   *Path    // the route that forwarding follows; nil: the MAC is local, or nobody's
	since  int64    // when the present owner became it, Unix time in ns
	place  slot
	owner  address // the VTEP that has it, here, or the zero address: nobody
	mac    MAC

	counted bool // best is, in room.remote
}

// home is what is known of a MAC beside the routes for it: as a host of ours, and as one that moved.
type home struct {
	local      *localHost
	reason     string     // why it is not as the best route or the local host would have it; "" when it is
	announced  bool       // our MAC-only route is out
	seq        uint32     // our sequence number; kept while the entry lives (MM-17)
	announcedS mobility   // what our announced route says of it
	moves      uint32     // changes of owner
	ips        []*ipEntry // local bindings of this MAC
	heard      []LocalIP  // from frames, until the bridge says that the MAC is there
	heardOn    string     // the port of the first of them
	flaps      *flaps     // nil: it did not move lately
	left       *leftBehind
	countedOn  string // the port, in room; "": none
	over       bool   // beyond a limit: see admitLocal
}

// noHome is the home of MACs without one; nobody writes to it.
var noHome home

// own is the home of m, to be written to.
func (m *macEntry) own() *home {
	if m.home == nil {
		m.home = &home{}
	}
	return m.home
}

func (m *macEntry) known() *home {
	if m.home == nil {
		return &noHome
	}
	return m.home
}

func (m *macEntry) setReason(why string) {
	if why != m.reason() {
		m.own().reason = why
	}
}

func (m *macEntry) local() *localHost    { return m.known().local }
func (m *macEntry) reason() string       { return m.known().reason }
func (m *macEntry) announced() bool      { return m.known().announced }
func (m *macEntry) announcedS() mobility { return m.known().announcedS }
func (m *macEntry) seq() uint32          { return m.known().seq }
func (m *macEntry) moves() uint32        { return m.known().moves }
func (m *macEntry) over() bool           { return m.known().over }
func (m *macEntry) ips() []*ipEntry      { return m.known().ips }
func (m *macEntry) heard() []LocalIP     { return m.known().heard }
func (m *macEntry) flaps() *flaps        { return m.known().flaps }
func (m *macEntry) left() *leftBehind    { return m.known().left }

// localHost says that the bridge has the MAC on a local port.
type localHost struct {
	port    string
	static  bool
	sighted bool   // seen on the port after what the remotes say was last decided: a move to us (MM-02)
	yielded bool   // a remote route has won, or the MAC is sticky elsewhere; the port's row may still be there
	batch   uint64 // in which our entry is on its way to the row's place; 0: none is
}

// ipEntry is all that is known of one host address. As with macEntry, what a remote one does not have is in home.
type ipEntry struct {
	vrf    *macVRF
	home   *ipHome
	ip     netip.Addr
	routes pathList
	best   *Path
	place  slot
}

// ipHome is what is known of an IP beside the routes for it: as a host of ours has it, and as one that moved.
type ipHome struct {
	local  *binding
	out    *announcedIP
	flaps  *flaps // nil: it did not move lately
	ageing bool   // in Core.ageing
}

// noIPHome is the home of IPs without one; nobody writes to it.
var noIPHome ipHome

// own is the home of e, to be written to.
func (e *ipEntry) own() *ipHome {
	if e.home == nil {
		e.home = &ipHome{}
	}
	return e.home
}

func (e *ipEntry) known() *ipHome {
	if e.home == nil {
		return &noIPHome
	}
	return e.home
}

func (e *ipEntry) local() *binding   { return e.known().local }
func (e *ipEntry) out() *announcedIP { return e.known().out }
func (e *ipEntry) flaps() *flaps     { return e.known().flaps }

// announcedIP is our MAC/IP route as it went out.
type announcedIP struct {
	mac MAC
	mobility
	router bool
}

// floodEntry is one member of the flood list.
type floodEntry struct {
	vrf     *macVRF
	vtep    netip.Addr
	routes  pathList // IMET routes that name it
	flooded bool     // one of them is accepted
	place   slot
}

func (v *macVRF) inService() bool { return v.at != nil && v.at.Usable && v.unfit == "" }

func (v *macVRF) mac(mac MAC) *macEntry {
	m := v.macs[mac]
	if m == nil {
		m = &macEntry{vrf: v, mac: mac}
		v.macs[mac] = m
	}
	return m
}

func (v *macVRF) ip(ip netip.Addr) *ipEntry {
	e := v.ips.get(ip)
	if e == nil {
		e = &ipEntry{vrf: v, ip: ip}
		v.ips.put(e)
	}
	return e
}

func (v *macVRF) floodTo(vtep netip.Addr) *floodEntry {
	f := v.flood[vtep]
	if f == nil {
		f = &floodEntry{vrf: v, vtep: vtep}
		v.flood[vtep] = f
	}
	return f
}

func (v *macVRF) macsInOrder() []*macEntry { return v.macsThat(func(*macEntry) bool { return true }) }
func (v *macVRF) ipsInOrder() []*ipEntry   { return v.ipsThat(func(*ipEntry) bool { return true }) }

// macsThat returns, in order, the MACs for which the condition holds. To sort a few is nothing beside sorting all.
func (v *macVRF) macsThat(are func(*macEntry) bool) []*macEntry {
	return slices.SortedFunc(those(maps.Values(v.macs), are), func(a, b *macEntry) int { return slices.Compare(a.mac[:], b.mac[:]) })
}

// ipsThat is macsThat for IPs.
func (v *macVRF) ipsThat(are func(*ipEntry) bool) []*ipEntry {
	return slices.SortedFunc(those(v.ips.all(), are), func(a, b *ipEntry) int { return a.ip.Compare(b.ip) })
}

// those are the entries for which the condition holds.
func those[E any](all iter.Seq[E], are func(E) bool) iter.Seq[E] {
	return func(yield func(E) bool) {
		for e := range all {
			if are(e) && !yield(e) {
				return
			}
		}
	}
}

func (v *macVRF) floodInOrder() []*floodEntry {
	return slices.SortedFunc(maps.Values(v.flood), func(a, b *floodEntry) int { return a.vtep.Compare(b.vtep) })
}

func (c *Core) dirtyMAC(m *macEntry) {
	if !m.place.is(dirty) {
		m.place.set(dirty, true)
		c.dirtyMACs = append(c.dirtyMACs, m)
	}
}

func (c *Core) dirtyIP(e *ipEntry) {
	if !e.place.is(dirty) {
		e.place.set(dirty, true)
		c.dirtyIPs = append(c.dirtyIPs, e)
	}
}

// dirtyAll has every entry of v decided again.
func (c *Core) dirtyAll(v *macVRF) {
	for _, m := range v.macsInOrder() {
		c.dirtyMAC(m)
	}
	for _, e := range v.ipsInOrder() {
		c.dirtyIP(e)
	}
	for _, f := range v.floodInOrder() {
		c.decideFlood(f)
	}
}

// attachmentUp puts a VNI into service, or takes note of what changed about its devices.
func (c *Core) attachmentUp(at Attachment, now time.Time) {
	if at.VNI.Check() != nil {
		return
	}
	v := c.vrfs[at.VNI]
	if v == nil {
		v = &macVRF{
			vni: at.VNI, derived: c.derive(c.cfg, at.VNI), macs: map[MAC]*macEntry{},
			flood: map[netip.Addr]*floodEntry{}, sets: map[setKey]*Attrs{},
		}
		c.changeImports(func() {
			v.at, c.vrfs[v.vni] = &at, v
			c.importIndex.add(v)
		})
		c.serve(v, now)
		c.noteFaults(v, nil)
		return
	}
	was, inService := v.at, v.inService()
	v.at = &at
	switch {
	case v.inService() != inService:
		c.serve(v, now)
	case at.BridgeMAC != was.BridgeMAC: // the kernel forgets all the bridge's neighbours when its MAC changes
		c.readBack[v.vni] = true
		c.dirtyAll(v)
	}
	if slices.ContainsFunc(was.Faults, func(f string) bool { return !slices.Contains(at.Faults, f) }) {
		c.retrySoon(v.vni, now)
	}
	c.noteFaults(v, was.Faults)
}

// serve announces or withdraws all there is, after the MAC-VRF came into service or went out of it. Kernel entries of a
// MAC-VRF out of service stay as they are: a device that is down keeps them.
func (c *Core) serve(v *macVRF, now time.Time) {
	v.since = now.UnixNano()
	c.advertiseIMET(v)
	c.advertiseGateways(v)
	kind := NoteVNIDown
	if v.inService() {
		kind = NoteVNIUp
		if !c.holding {
			for h := range v.holders() {
				h.slot().set(adopted, false)
			}
		}
		c.readBack[v.vni] = true
	}
	c.dirtyAll(v)
	c.note(Note{Kind: kind, VNI: v.vni, Reason: v.unfit})
}

// noteFaults tells of the faults of v's devices that were not known before.
func (c *Core) noteFaults(v *macVRF, known []string) {
	for _, fault := range v.at.Faults {
		if !slices.Contains(known, fault) {
			c.note(Note{Kind: NoteVNIFault, VNI: v.vni, Reason: fault})
		}
	}
}

// attachmentDown takes a VNI out of service for good: the devices are gone, and the kernel's entries with them.
func (c *Core) attachmentDown(vni VNI) {
	v := c.vrfs[vni]
	if v == nil {
		return
	}
	c.withdrawAll(v)
	c.forgetMoves(v)
	c.changeImports(func() {
		delete(c.vrfs, vni)
		c.importIndex.remove(v)
	})
	for _, h := range c.held(v, func(holder) bool { return true }) {
		c.want(h, place{})
		c.settle(h, place{})
		c.changed(h)
	}
	v.at = nil
	delete(c.readBack, vni)
	delete(c.crowded, v)
	maps.DeleteFunc(c.rivals, func(e *ipEntry, _ *rival) bool { return e.vrf == v })
	maps.DeleteFunc(c.problems, func(k EntryKey, _ *problem) bool { return k.VNI == vni })
	c.note(Note{Kind: NoteVNIDown, VNI: vni, Reason: "device is gone"})
}

// configure takes over a new configuration. Only what changed moves, and no session is touched (RT-07).
func (c *Core) configure(cfg Config, now time.Time) {
	c.manyRoutesChanged()
	vrfs := c.vrfsInOrder()
	next := make([]derived, len(vrfs))
	for i, v := range vrfs {
		d := c.derive(cfg, v.vni)
		if d.unfit != "" || d.rd != v.rd || cfg.VTEP != c.cfg.VTEP {
			c.withdrawAll(v) // under the name that peers know
		}
		next[i] = d
	}
	c.changeImports(func() {
		c.cfg, c.waysChanged = cfg, true
		for i, v := range vrfs {
			c.importIndex.remove(v)
			v.derived, next[i] = next[i], v.derived
			c.importIndex.add(v)
		}
	})
	for i, v := range vrfs {
		was := next[i]
		clear(v.sets)
		if !slices.Equal(was.exportRTs, v.exportRTs) {
			c.announceAgain(v)
		}
		if was.unfit != v.unfit {
			c.serve(v, now)
		} else {
			c.advertiseIMET(v)
			c.advertiseGateways(v)
			c.dirtyAll(v)
		}
		if v.unfit != "" {
			c.clear(v)
		}
	}
}

// clear removes our entries from the devices of a MAC-VRF that is not to be served any more; the devices stay.
func (c *Core) clear(v *macVRF) {
	for _, h := range c.held(v, func(holder) bool { return true }) {
		h.slot().set(adopted, false)
		c.want(h, place{})
		h.forget(c) // what was blocked is settled with that
	}
}

// derive works out what cfg makes of a VNI.
func (c *Core) derive(cfg Config, vni VNI) derived {
	policy, ok := cfg.VNIs[vni]
	if !ok {
		policy = cfg.Default
	}
	d := derived{policy: policy, rd: policy.RD, importRTs: policy.Import, exportRTs: policy.Export}
	if policy.Off {
		d.unfit = "switched off"
		return d
	}
	if d.importRTs == nil || d.exportRTs == nil {
		imports, exports, err := DeriveRTs(cfg.Dialect, cfg.ASN, vni)
		if err != nil {
			d.unfit = err.Error()
		}
		if d.importRTs == nil {
			d.importRTs = imports
		}
		if d.exportRTs == nil {
			d.exportRTs = exports
		}
	}
	// RD-02: the VTEP names us, or the BGP identifier with an IPv6-only underlay.
	admin := cfg.VTEP
	if !admin.Is4() {
		admin = cfg.RouterID
	}
	switch {
	case d.rd != RD{}:
	case admin.Is4():
		d.rd = NewRD(admin, c.rdNumber(cfg, admin, vni))
	default:
		d.unfit = "no route distinguisher: neither VTEP nor router id is an IPv4 address"
	}
	return d
}

// rdNumber is the number of a VNI in its RD: the VNI where it fits and is free, else one that is remembered, so that peers
// see the same routes after a restart (RD-02). A number that cfg gives to another VNI is not free (RD-01).
func (c *Core) rdNumber(cfg Config, admin netip.Addr, vni VNI) uint16 {
	if n, ok := c.rdNumbers[vni]; ok && !configured(cfg, NewRD(admin, n), vni) {
		return n
	}
	free := func(n uint16) bool { return !c.numberTaken(n, vni) && !configured(cfg, NewRD(admin, n), vni) }
	if vni <= math.MaxUint16 && free(uint16(vni)) {
		return uint16(vni)
	}
	n := uint16(math.MaxUint16)
	for n > 0 && (!free(n) || c.vrfs[VNI(n)] != nil) {
		n--
	}
	c.rdNumbers[vni] = n
	c.rdChanged = true
	return n
}

// numberTaken reports whether n is remembered for another VNI.
func (c *Core) numberTaken(n uint16, vni VNI) bool {
	for other, taken := range c.rdNumbers {
		if other != vni && taken == n {
			return true
		}
	}
	return false
}

// configured reports whether cfg gives the RD to another VNI.
func configured(cfg Config, rd RD, vni VNI) bool {
	for other, policy := range cfg.VNIs {
		if other != vni && policy.RD == rd {
			return true
		}
	}
	return false
}
