package evpn

import (
	"cmp"
	"container/heap"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// The network of the simulator: cores of several VTEPs, each with a bridge and a kernel that answers late, and a route
// reflector that they all have a session with. Everything happens at a virtual time, and the same schedule always plays
// the same.
//
// What is modelled of Linux: a frame makes a row on the port it comes in by; it takes over a row of ours, unless that is
// sticky; a row that is not refreshed ages; a write of ours that may replace overwrites a learned row without a word. A host
// answers a probe that comes out of the port it is behind. A static row of an orchestrator keeps frames from moving nothing
// but its port.
// What is modelled of BGP: sessions that deliver in order, each with delays of its own; the reflector keeps next hops,
// forgets the routes of a session that ends or keeps them (graceful restart), and says End-of-RIB after all it has.
type sim struct {
	now    time.Time
	rand   *rand.Rand // delays only
	queue  simQueue
	nth    int
	vteps  []*simVTEP
	routes map[RouteKey]simRoute // of the reflector

	lastFault time.Time // of a session or a daemon; once all is up again, when that was
	lastGone  time.Time // when a port went: its hosts may be withdrawn after another VTEP has yielded to them
	faults    bool
	fixed     bool      // there were static rows
	messages  int       // route ops that VTEPs sent to the reflector, sessions that came up left aside
	changes   int       // of rows on local ports, or frames where a static one stands, which is what they may speak for
	delivered int       // routes that the reflector sent to VTEPs
	most      int       // things that may happen in one run, before it counts as a storm
	wrote     time.Time // when a kernel was last written to
	log       func(string, ...any)
	tripped   map[MAC]bool // found to be duplicates somewhere
	err       error
}

type simRoute struct {
	op    RouteOp
	from  *simVTEP
	stale bool
}

type simEvent struct {
	at  time.Time
	nth int
	do  func()
}

// simQueue is what is going to happen, soonest first.
type simQueue []simEvent

func (q simQueue) Len() int { return len(q) }
func (q simQueue) Less(i, j int) bool {
	return q[i].at.Before(q[j].at) || q[i].at.Equal(q[j].at) && q[i].nth < q[j].nth
}
func (q simQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *simQueue) Push(x any)   { *q = append(*q, x.(simEvent)) }
func (q *simQueue) Pop() any {
	x := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return x
}

const (
	simVNI    VNI = 100
	simAgeing     = 300 * time.Second
	simSettle     = 100 * time.Millisecond // longer than a move takes from the frame to all kernels
)

var simReflector = netip.MustParseAddr("10.0.0.254")

func newSim(vteps, moves int, sticky bool, seed uint64, log func(string, ...any)) *sim {
	s := &sim{
		now: epoch, rand: rand.New(rand.NewPCG(seed, 1)), routes: map[RouteKey]simRoute{}, tripped: map[MAC]bool{}, log: log,
		most: 200_000,
	}
	for i := range vteps {
		v := &simVTEP{
			sim: s, addr: netip.AddrFrom4([4]byte{10, 255, byte((i + 1) >> 8), byte(i + 1)}), kernel: newMapKernel(),
			ports: map[MAC]string{}, behind: map[MAC]string{}, seen: map[MAC]time.Time{}, out: map[RouteKey]RouteOp{},
		}
		v.cfg = Config{
			ASN: 65000, RouterID: v.addr, VTEP: v.addr, Peers: []netip.Addr{simReflector}, Duplicates: DuplicatePolicy{Moves: moves},
			VNIs: map[VNI]VNIPolicy{simVNI: {StickyStatic: sticky}},
		}
		v.kernel.looks = true
		s.vteps = append(s.vteps, v)
		v.start()
		v.sessionUp()
	}
	return s
}

// after has something happen later.
func (s *sim) after(d time.Duration, do func()) { s.at(s.now.Add(d), do) }

func (s *sim) at(t time.Time, do func()) {
	s.nth++
	heap.Push(&s.queue, simEvent{t, s.nth, do})
}

// delay draws one below most.
func (s *sim) delay(most time.Duration) time.Duration {
	return time.Duration(s.rand.Int64N(int64(most)))
}

// run lets time pass.
func (s *sim) run(d time.Duration) {
	end := s.now.Add(d)
	for n := 0; s.err == nil && len(s.queue) > 0 && !s.queue[0].at.After(end); n++ {
		e := heap.Pop(&s.queue).(simEvent)
		s.now = e.at
		e.do()
		if n > s.most {
			s.fail("a storm: %d things within %s", n, d)
		}
	}
	s.now = end
}

func (s *sim) fail(format string, args ...any) {
	if s.err == nil {
		s.err = fmt.Errorf("at %s: %s", s.now.Sub(epoch), fmt.Sprintf(format, args...))
	}
}

// fifo delivers in order.
type fifo struct{ last time.Time }

func (f *fifo) send(s *sim, most time.Duration, do func()) {
	if at := s.now.Add(s.delay(most)); at.After(f.last) {
		f.last = at
	}
	s.at(f.last, do)
}

// simVTEP is one host: core, kernel, bridge ports, and the daemon's end of the session.
type simVTEP struct {
	*sim
	addr    netip.Addr
	cfg     Config
	core    *Core
	life    int // counts starts of the daemon; what is under way for an earlier one is lost
	lost    int // counts overruns; notifications under way then are lost
	kernel  *mapKernel
	written uint64
	writes  [TableNeighbor + 1]int // by table
	ports   map[MAC]string         // of the bridge's own rows
	behind  map[MAC]string         // the ports that hosts are behind, whether the bridge knows or not
	saved   []LocalIP              // what the daemon remembers for its next life
	seen    map[MAC]time.Time      // when a frame refreshed them
	wake    time.Time

	session  int  // counts sessions
	up       bool // the session is
	stopped  bool // the daemon is
	out      map[RouteKey]RouteOp
	upward   fifo
	downward fifo
	notices  fifo // of the kernel
	writer   fifo
	script   []string // what the core was told, in the words of the scripts
	told     time.Time
}

// start begins a life of the daemon, which reads what there is.
func (v *simVTEP) start() {
	v.core, v.stopped, v.wake, v.written = New(v.cfg), false, time.Time{}, 0
	v.life++
	clear(v.out)
	v.notices, v.writer = fifo{}, fifo{}
	v.script, v.told = nil, v.now
	v.tell(AttachmentUp{Attachment{
		VNI: simVNI, Device: "vxlan100", Bridge: "br100", BridgeMAC: MAC{2, 0xbb, 0, 0, 0, 1}, Local: v.addr, Usable: true,
	}})
	v.tell(v.kernel.observe(0, 0))
	v.tell(v.readBack(0))
	v.tell(Remembered{IPs: v.saved})
	v.tell(Synced{})
}

// readBack is a dump of the VNI.
func (v *simVTEP) readBack(asOf uint64) Observed {
	o := v.kernel.observe(simVNI, asOf)
	o.MACs = []LocalMAC{}
	for _, key := range v.kernel.keys() {
		if r := v.kernel.rows[key]; key.Table == TableFDB && !r.ours {
			o.MACs = append(o.MACs, LocalMAC{VNI: simVNI, MAC: key.MAC, Port: v.ports[key.MAC], Static: !r.learned})
		}
	}
	return o
}

// stop ends a life of the daemon. One that crashes remembers what it did when it last stopped.
func (v *simVTEP) stop(crash bool) {
	if !crash {
		v.saved = v.core.FramedBindings()
	}
	v.stopped = true
	v.life++
}

// later has something happen to this life of the daemon.
func (v *simVTEP) later(f *fifo, most time.Duration, do func()) {
	life := v.life
	f.send(v.sim, most, func() {
		if v.life == life {
			do()
		}
	})
}

// tell hands a fact to the core and carries out what comes of it.
func (v *simVTEP) tell(ev Event) {
	if words := v.scriptWords(ev); words != "" {
		if d := v.now.Sub(v.told); d > 0 {
			v.script, v.told = append(v.script, "wait "+d.String()), v.now
		}
		v.script = append(v.script, words)
	}
	if v.log != nil {
		v.log("%s %s fact %s", v.now.Sub(epoch), v.addr, describeEvent(ev))
	}
	v.core.Handle(ev, v.now)
	v.flush()
}

func (v *simVTEP) flush() {
	o := v.core.Flush(v.now)
	for _, n := range o.Notes {
		if n.Kind == NoteDuplicateMAC || n.Kind == NoteDuplicateIP {
			v.tripped[n.MAC] = true
		}
		if v.log != nil {
			v.log("%s %s   note %s", v.now.Sub(epoch), v.addr, describeNote(n))
		}
	}
	for _, op := range o.Routes {
		if v.log != nil {
			v.log("%s %s   %s", v.now.Sub(epoch), v.addr, describeRoute(op))
		}
		if op.Withdraw {
			delete(v.out, op.Route.Key)
		} else {
			v.out[op.Route.Key] = op
		}
		if v.up {
			v.messages++
			v.announce(op)
		}
	}
	for _, p := range o.Probes {
		v.after(v.delay(5*time.Millisecond), func() { v.asked(p) })
	}
	if len(o.Kernel.Ops) > 0 {
		v.later(&v.writer, 5*time.Millisecond, func() { v.write(o.Kernel) })
	}
	if len(o.ReadBack) > 0 {
		v.later(&v.notices, 5*time.Millisecond, func() { v.answer(o.ReadBack) })
	}
	if w := o.Wake; !w.IsZero() && (v.wake.IsZero() || w.Before(v.wake) || !v.wake.After(v.now)) {
		v.wake = w
		life := v.life
		v.at(w, func() {
			if v.life == life && v.wake.Equal(w) {
				v.flush()
			}
		})
	}
}

func (v *simVTEP) answer(vnis []VNI) {
	for _, vni := range vnis {
		if vni == simVNI {
			v.tell(v.readBack(v.written))
		} else {
			v.tell(v.kernel.observe(vni, v.written))
		}
	}
	v.tell(ReadBackDone{})
}

func (v *simVTEP) write(b KernelBatch) {
	if v.log != nil {
		for _, op := range b.Ops {
			v.log("%s %s   writes %s", v.now.Sub(epoch), v.addr, describeOp(op))
		}
	}
	for _, op := range b.Ops {
		v.writes[op.Key.Table]++
		v.wrote = v.now
	}
	applied := v.kernel.apply(b)
	v.written = b.Seq
	if len(v.kernel.trampled) > 0 || len(v.kernel.disorder) > 0 {
		v.fail("%s: trampled %v, out of order %v", v.addr, v.kernel.trampled, v.kernel.disorder)
	}
	v.later(&v.writer, 5*time.Millisecond, func() { v.tell(applied) })
}

// announce sends one route to the reflector.
func (v *simVTEP) announce(op RouteOp) {
	session := v.session
	v.upward.send(v.sim, 30*time.Millisecond, func() {
		if v.session == session {
			v.reflect(op, v)
		}
	})
}

// hears delivers what the reflector says.
func (v *simVTEP) hears(ev Event) {
	if _, ok := ev.(*Update); ok {
		v.delivered++
	}
	session := v.session
	v.downward.send(v.sim, 30*time.Millisecond, func() {
		if v.session == session && !v.stopped {
			v.tell(ev)
		}
	})
}

func (v *simVTEP) sessionUp() {
	v.up = true
	v.session++
	v.upward, v.downward = fifo{}, fifo{}
	v.tell(PeerUp{Peer: simReflector, ASN: 65000, Forwarding: true})
	for _, key := range sortedKeys(v.out) {
		v.announce(v.out[key])
	}
	session := v.session
	v.upward.send(v.sim, time.Millisecond, func() {
		if v.session == session {
			v.sweep(v)
		}
	})
	for _, key := range sortedKeys(v.routes) {
		if r := v.routes[key]; r.from != v {
			v.hears(updateOf(r.op))
		}
	}
	v.hears(EndOfRIB{Peer: simReflector})
}

// sessionDown ends the session on both sides; graceful: both keep what they have for a while.
func (v *simVTEP) sessionDown(graceful bool) {
	if !v.up {
		return
	}
	v.up = false
	v.session++
	for key, r := range v.routes {
		if r.from == v {
			r.stale = true
			v.routes[key] = r
		}
	}
	if !graceful {
		v.sweep(v)
	}
	if !v.stopped {
		down := PeerDown{Peer: simReflector, Reason: "lost"}
		if graceful {
			down.Retain = 2 * time.Minute
		}
		v.tell(down)
	}
}

// reflect takes in a route at the reflector and passes it on.
func (s *sim) reflect(op RouteOp, from *simVTEP) {
	if op.Withdraw {
		if _, there := s.routes[op.Route.Key]; !there {
			return
		}
		delete(s.routes, op.Route.Key)
	} else {
		s.routes[op.Route.Key] = simRoute{op: op, from: from}
	}
	for _, v := range s.vteps {
		if v != from && v.up {
			v.hears(updateOf(op))
		}
	}
}

// sweep withdraws what a VTEP has not announced in its present session.
func (s *sim) sweep(from *simVTEP) {
	for _, key := range sortedKeys(s.routes) {
		if r := s.routes[key]; r.from == from && r.stale {
			s.reflect(RouteOp{Withdraw: true, Route: r.op.Route}, from)
		}
	}
}

// strange has a VTEP that is not played claim a host for a second.
func (s *sim) strange(host int, seq uint32) {
	addr := netip.AddrFrom4([4]byte{10, 255, 0, 99})
	a := &Attrs{NextHop: addr, LocalPref: 100}
	a.SetExtComms(string(AppendMobility(AppendEncapVXLAN(AppendRT(nil, NewRT(65000, uint32(simVNI)))), seq, false)))
	r := Route{Key: RouteKey{Type: TypeMACIP, RD: NewRD(addr, uint16(simVNI)), MAC: simMAC(host)}, Label1: uint32(simVNI)}
	s.reflect(RouteOp{Route: r, Attrs: a}, nil)
	s.after(time.Second, func() { s.reflect(RouteOp{Withdraw: true, Route: r}, nil) })
}

func updateOf(op RouteOp) *Update {
	if op.Withdraw {
		return &Update{Peer: simReflector, Unreach: []RouteKey{op.Route.Key}}
	}
	return &Update{Peer: simReflector, Attrs: op.Attrs, Reach: []Route{op.Route}}
}

func sortedKeys[V any](m map[RouteKey]V) []RouteKey {
	keys := make([]RouteKey, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, RouteKey.compare)
	return keys
}

func simMAC(host int) MAC { return MAC{2, 0, 0, byte(host >> 8), 1, byte(host)} }

func simIP(host int) netip.Addr {
	return netip.AddrFrom4([4]byte{172, 16, byte((host + 1) >> 8), byte(host + 1)})
}

// frame is a gratuitous ARP of a host coming in by a port. It reports whether the bridge's row changed.
func (v *simVTEP) frame(host int, port string) bool {
	mac := simMAC(host)
	key := EntryKey{Table: TableFDB, VNI: simVNI, MAC: mac}
	r, there := v.kernel.rows[key]
	v.behind[mac] = port
	defer v.notice(LocalIP{VNI: simVNI, MAC: mac, IP: simIP(host), Source: WitnessFrame, Port: port})
	if r.ours && r.entry.Sticky {
		return false
	}
	v.seen[mac] = v.now
	changed := !there || r.ours || v.ports[mac] != port
	if v.log != nil {
		v.log("%s %s frame of %s on %s, changed %v", v.now.Sub(epoch), v.addr, mac, port, changed)
	}
	static := there && r.foreign()
	if changed || static {
		v.changes++
	}
	if changed {
		v.kernel.rows[key], v.ports[mac] = row{learned: !static}, port
		v.notice(LocalMAC{VNI: simVNI, MAC: mac, Port: port, Static: static})
		v.age(mac)
	}
	return changed
}

// asked is a probe that leaves by a port.
func (v *simVTEP) asked(p Probe) {
	host := int(p.MAC[3])<<8 | int(p.MAC[5])
	if v.behind[p.MAC] == p.Port && p.IP == simIP(host) {
		v.frame(host, p.Port)
	}
}

// fix has an orchestrator make a static row, over whatever is there, and remove it after a while.
func (v *simVTEP) fix(host int, port string, d time.Duration) {
	mac := simMAC(host)
	key := EntryKey{Table: TableFDB, VNI: simVNI, MAC: mac}
	v.changes++
	v.kernel.rows[key], v.ports[mac] = row{}, port
	v.notice(LocalMAC{VNI: simVNI, MAC: mac, Port: port, Static: true})
	v.after(d, func() {
		if r, there := v.kernel.rows[key]; there && r.foreign() {
			v.changes++
			delete(v.kernel.rows, key)
			v.notice(LocalMAC{VNI: simVNI, MAC: mac, Gone: true})
		}
	})
}

// notice tells the daemon what happened, when there is one.
func (v *simVTEP) notice(ev Event) {
	if v.stopped {
		return
	}
	lost := v.lost
	v.later(&v.notices, 5*time.Millisecond, func() {
		if v.lost == lost {
			v.tell(ev)
		}
	})
}

// overrun loses the notifications that are under way; everything is read back then.
func (v *simVTEP) overrun() {
	if v.stopped {
		return
	}
	v.lost++
	v.later(&v.notices, 5*time.Millisecond, func() {
		o := v.readBack(v.written)
		v.later(&v.notices, 5*time.Millisecond, func() { v.tell(o) })
	})
}

// age removes the row of a host that has been silent for long.
func (v *simVTEP) age(mac MAC) {
	seen := v.seen[mac]
	v.at(seen.Add(simAgeing), func() {
		switch {
		case !v.seen[mac].Equal(seen):
			v.age(mac)
		default:
			v.unlearn(mac)
		}
	})
}

// unlearn removes a row of the bridge's own.
func (v *simVTEP) unlearn(mac MAC) {
	key := EntryKey{Table: TableFDB, VNI: simVNI, MAC: mac}
	if !v.kernel.rows[key].learned {
		return
	}
	v.changes++
	delete(v.kernel.rows, key)
	v.notice(LocalMAC{VNI: simVNI, MAC: mac, Gone: true})
}

// unplug takes a port away, and with it what was learned there.
func (v *simVTEP) unplug(port string) {
	for mac, p := range v.behind {
		if p == port {
			delete(v.behind, mac)
		}
	}
	for _, key := range v.kernel.keys() {
		if key.Table == TableFDB && v.kernel.rows[key].learned && v.ports[key.MAC] == port {
			v.unlearn(key.MAC)
		}
	}
}

// owner is where a core has a MAC: a VTEP, or the zero Addr.
func (v *simVTEP) owner(mac MAC) netip.Addr {
	m := v.core.vrfs[simVNI].macs[mac]
	switch {
	case m == nil:
		return netip.Addr{}
	case m.isLocal():
		return v.addr
	case m.best != nil:
		return m.best.Attrs.NextHop
	}
	return netip.Addr{}
}

// knows reports that a host is here, and that the core has it and its IP.
func (v *simVTEP) knows(host int) bool {
	e := v.core.vrfs[simVNI].ips.get(simIP(host))
	port := v.behind[simMAC(host)]
	return !v.stopped && port != "" && port == v.ports[simMAC(host)] && v.owner(simMAC(host)) == v.addr && e != nil && e.local() != nil
}

// agreed finds the one owner of a host that all cores have, and fails when they differ about it or its IP.
func (s *sim) agreed(host int) netip.Addr {
	mac, owner := simMAC(host), s.vteps[0].owner(simMAC(host))
	for _, v := range s.vteps[1:] {
		if o := v.owner(mac); o != owner {
			s.fail("%s is behind %s for %s, behind %s for %s", mac, owner, s.vteps[0].addr, o, v.addr)
		}
	}
	for _, o := range s.vteps {
		if o.addr != owner {
			continue
		}
		e := o.core.vrfs[simVNI].ips.get(simIP(host))
		announced := e != nil && e.out() != nil
		for _, v := range s.vteps {
			if v == o {
				continue
			}
			e := v.core.vrfs[simVNI].ips.get(simIP(host))
			if known := e != nil && e.best != nil; known != announced || known && e.best.mac != mac {
				s.fail("%s of %s: announced by %s: %v, known to %s: %v", simIP(host), mac, o.addr, announced, v.addr, known)
			}
		}
	}
	return owner
}

// checkKernels compares what kernels hold with what the cores want, and hosts that bridges know with what cores know.
func (s *sim) checkKernels() {
	for _, v := range s.vteps {
		want, have := v.core.wanted(), v.kernel.ours()
		for key, e := range want {
			if have[key] != e || !v.kernel.rows[key].ours {
				s.fail("%s: want %s%s, kernel has %+v", v.addr, key, e.describe(), v.kernel.rows[key])
			}
		}
		for key := range have {
			if _, ok := want[key]; !ok {
				s.fail("%s: left over: %s", v.addr, key)
			}
		}
		for key, r := range v.kernel.rows {
			if key.Table != TableFDB {
				continue
			}
			if m := v.core.vrfs[simVNI].macs[key.MAC]; r.learned && (m == nil || !m.isLocal()) {
				s.fail("%s: the bridge has %s on a local port, the core does not", v.addr, key.MAC)
			}
		}
		if n := len(v.core.problems); n > 0 {
			s.fail("%s: %d problems", v.addr, n)
		}
	}
}

// scriptWords puts a fact into the words of the scripts, as far as they have some and somebody reads them.
func (s *sim) scriptWords(ev Event) string {
	if s.log == nil {
		return ""
	}
	switch ev := ev.(type) {
	case AttachmentUp:
		return "+ vni 100"
	case Synced:
		return "synced"
	case PeerUp:
		return "+ peer " + ev.Peer.String()
	case PeerDown:
		if ev.Retain > 0 {
			return "- peer " + ev.Peer.String() + " retain " + ev.Retain.String()
		}
		return "- peer " + ev.Peer.String()
	case EndOfRIB:
		return "eor " + ev.Peer.String()
	case LocalMAC:
		words := sign(ev.Gone) + " local mac " + ev.MAC.String() + " port " + cmp.Or(ev.Port, "tap1")
		if ev.Static {
			words += " static"
		}
		return words
	case LocalIP:
		return sign(ev.Gone) + " ip " + ev.IP.String() + " mac " + ev.MAC.String() + " port " + ev.Port
	case *Update:
		return updateWords(ev)
	}
	return ""
}

func sign(gone bool) string {
	if gone {
		return "-"
	}
	return "+"
}

func updateWords(u *Update) string {
	var lines []string
	add := func(sign string, k RouteKey, a *Attrs) {
		line := fmt.Sprintf("%s route type%d rd %s", sign, k.Type, k.RD)
		vtep := netip.AddrFrom4([4]byte(k.RD[2:6]))
		if k.Type == TypeMACIP {
			line += " mac " + k.MAC.String()
			if k.IP.IsValid() {
				line += " ip " + k.IP.String()
			}
		}
		line += " vtep " + vtep.String()
		if a != nil && a.HasMobility {
			line += fmt.Sprintf(" seq %d", a.Seq)
			if a.Sticky {
				line += " sticky"
			}
		}
		lines = append(lines, line)
	}
	for _, k := range u.Unreach {
		add("-", k, nil)
	}
	for _, r := range u.Reach {
		add("+", r.Key, u.Attrs)
	}
	return strings.Join(lines, "\n")
}
