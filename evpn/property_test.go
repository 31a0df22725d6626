package evpn

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// TestOrderDoesNotMatter: what peers say ends in the same wanted state however their UPDATEs are interleaved, whenever the
// devices appear, and however often the core is flushed in between (invariant 1).
func TestOrderDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var streams [][]Event
		for _, peer := range worldPeers {
			stream := []Event{PeerUp{Peer: peer}}
			for range rapid.IntRange(0, 15).Draw(t, "facts") {
				stream = append(stream, drawPeerFact(t, peer)...)
			}
			streams = append(streams, stream)
		}
		for _, vni := range worldVNIs {
			streams = append(streams, []Event{attachment(vni)})
		}
		one, other := New(worldConfig()), New(worldConfig())
		for _, stream := range streams {
			for _, ev := range stream {
				one.Handle(ev, epoch)
			}
		}
		one.Flush(epoch)
		for _, ev := range interleave(t, streams) {
			other.Handle(ev, epoch)
			if rapid.IntRange(0, 3).Draw(t, "flush") == 0 {
				flushAndWrite(other, newMapKernel())
			}
		}
		other.Flush(epoch)
		if a, b := one.wanted(), other.wanted(); !maps.Equal(a, b) {
			t.Fatalf("peer by peer: %v\ninterleaved: %v", a, b)
		}
	})
}

func interleave(t *rapid.T, streams [][]Event) []Event {
	streams = slices.Clone(streams)
	var out []Event
	for len(streams) > 0 {
		i := rapid.IntRange(0, len(streams)-1).Draw(t, "next")
		if len(streams[i]) == 0 {
			streams = slices.Delete(streams, i, i+1)
			continue
		}
		out = append(out, streams[i][0])
		streams[i] = streams[i][1:]
	}
	return out
}

// flushAndWrite flushes until nothing is left to write.
func flushAndWrite(c *Core, k *mapKernel) {
	for {
		out := c.Flush(epoch)
		if len(out.Kernel.Ops) == 0 {
			return
		}
		c.Handle(k.apply(out.Kernel), epoch)
	}
}

// TestReplay: the same facts give the same outputs, to the last detail and in the same order (invariant 1).
func TestReplay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := newChaos(t), newChaos(t)
		var record []func(*chaos)
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			record = append(record, drawStep(t, lastStep))
		}
		for _, step := range record {
			step(a)
			step(b)
		}
		a.rest()
		b.rest()
		if !reflect.DeepEqual(a.outputs, b.outputs) {
			for i := range a.outputs {
				if !reflect.DeepEqual(a.outputs[i], b.outputs[i]) {
					t.Fatalf("output %d:\n%+v\n%+v", i, a.outputs[i], b.outputs[i])
				}
			}
			t.Fatalf("%d and %d outputs", len(a.outputs), len(b.outputs))
		}
	})
}

// TestVTEPOrder: a VTEP is there before the FDB entries behind it and leaves after them, whatever happens to routes and hosts
// and however late results come.
func TestVTEPOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := newChaos(t)
		for range rapid.IntRange(1, 150).Draw(t, "steps") {
			drawStep(t, lastOrderly)(x)
		}
		x.rest()
		if len(x.kernel.disorder) > 0 {
			t.Fatalf("out of order: %v", x.kernel.disorder)
		}
	})
}

// TestKernelConverges: whatever peers, hosts, the kernel and other programs do, and however late results come: once all is
// quiet the kernel holds what is wanted, nothing that is not ours was touched, and a host that the bridge knows is ours to
// announce or its row has been overwritten (invariant 2). When everything is withdrawn then, the core remembers
// nothing (invariant 6).
func TestKernelConverges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := newChaos(t)
		for range rapid.IntRange(1, 120).Draw(t, "steps") {
			drawStep(t, lastStep)(x)
			if len(x.kernel.trampled) > 0 {
				t.Fatalf("overwrote what is not ours: %v", x.kernel.trampled)
			}
		}
		x.calm()
		x.rest()
		x.check(t)
		x.withdrawAll()
		x.rest()
		x.checkEmpty(t)
	})
}

// chaos is a core, a kernel that answers late, and others who meddle with it.
type chaos struct {
	t       *rapid.T
	core    *Core
	kernel  *mapKernel
	cfg     Config
	now     time.Time
	last    Output
	outputs []Output

	handed  []KernelBatch // not written yet
	results []Event       // written or read, not told yet
	written uint64
	up      map[VNI]bool
	peers   map[netip.Addr]bool
}

func newChaos(t *rapid.T) *chaos {
	x := &chaos{t: t, core: New(worldConfig()), kernel: newMapKernel(), cfg: worldConfig(), now: epoch, up: map[VNI]bool{}, peers: map[netip.Addr]bool{}}
	for _, vni := range worldVNIs {
		x.attach(vni)
	}
	for _, p := range worldPeers {
		x.tell(PeerUp{Peer: p})
		x.peers[p] = true
	}
	x.tell(Synced{})
	return x
}

func (x *chaos) tell(ev Event) {
	x.t.Logf("%s fact %s", x.now.Sub(epoch), describeEvent(ev))
	x.core.Handle(ev, x.now)
}

func describeEvent(ev Event) string {
	u, ok := ev.(*Update)
	if !ok {
		return fmt.Sprintf("%T%+v", ev, ev)
	}
	s := fmt.Sprintf("update from %s", u.Peer)
	for _, key := range u.Unreach {
		s += fmt.Sprintf(" - %s rd %s", key, key.RD)
	}
	for _, r := range u.Reach {
		s += fmt.Sprintf(" + %s rd %s vtep %s%s", r.Key, r.Key.RD, u.Attrs.NextHop, describeAttrs(r, u.Attrs))
	}
	return s
}

func (x *chaos) attach(vni VNI) {
	x.up[vni] = true
	x.tell(attachment(vni))
}

func (x *chaos) detach(vni VNI) {
	x.up[vni] = false
	maps.DeleteFunc(x.kernel.rows, func(k EntryKey, _ row) bool { return k.VNI == vni })
	x.tell(AttachmentDown{VNI: vni})
}

func (x *chaos) flush() {
	x.last = x.core.Flush(x.now)
	x.outputs = append(x.outputs, x.last)
	for _, op := range x.last.Routes {
		x.t.Logf("  %s", describeRoute(op))
	}
	for _, op := range x.last.Kernel.Ops {
		x.t.Logf("  batch %d: %s", x.last.Kernel.Seq, describeOp(op))
	}
	if len(x.last.Kernel.Ops) > 0 {
		x.handed = append(x.handed, x.last.Kernel)
	}
	if len(x.last.ReadBack) > 0 { // nothing is on its way, so they are as of the last batch
		for _, vni := range x.last.ReadBack {
			x.results = append(x.results, x.kernel.observe(vni, x.written))
		}
		x.results = append(x.results, ReadBackDone{})
	}
}

// write writes the oldest batch; its result comes later.
func (x *chaos) write() {
	if len(x.handed) == 0 {
		return
	}
	b := x.handed[0]
	x.handed = x.handed[1:]
	for vni, up := range x.up {
		if !up {
			for _, op := range b.Ops {
				if op.Key.VNI == vni {
					x.kernel.refuse[op.Key] = errNoDevice
				}
			}
		}
	}
	applied := x.kernel.apply(b)
	x.t.Logf("  batch %d written, failed %+v", b.Seq, applied.Failed)
	x.results = append(x.results, applied)
	maps.DeleteFunc(x.kernel.refuse, func(_ EntryKey, err error) bool { return errors.Is(err, errNoDevice) })
	x.written = b.Seq
}

var errNoDevice = errors.New("no such device")

func (x *chaos) answer() {
	if len(x.results) > 0 {
		x.tell(x.results[0])
		x.results = x.results[1:]
	}
}

// untouched reports that no op for key is on its way, so that what happens to it now is known before the next one.
func (x *chaos) untouched(key EntryKey) bool {
	for _, b := range x.handed {
		if slices.ContainsFunc(b.Ops, func(op KernelOp) bool { return op.Key == key }) {
			return false
		}
	}
	return true
}

// The steps that drawStep knows; up to lastOrderly nobody meddles with the kernel.
const (
	lastOrderly = 75
	lastStep    = 106
)

// drawStep draws the next thing that happens.
func drawStep(t *rapid.T, last int) func(*chaos) {
	key := func() EntryKey { return drawKey(t) }
	peer := rapid.SampledFrom(worldPeers).Draw(t, "peer")
	vni := rapid.SampledFrom(worldVNIs).Draw(t, "vni")
	mac := rapid.SampledFrom(worldMACs[:3]).Draw(t, "mac")
	ip := rapid.SampledFrom(worldIPs).Draw(t, "ip")
	port := rapid.SampledFrom([]string{"tap1", "tap2"}).Draw(t, "port")
	switch n := rapid.IntRange(0, last).Draw(t, "step"); {
	case n < 30:
		facts := drawPeerFact(t, peer)
		return func(x *chaos) {
			for _, ev := range facts {
				x.tell(ev)
			}
			x.peers[peer] = true
		}
	case n < 50:
		return (*chaos).flush
	case n < 58:
		return (*chaos).write
	case n < 66:
		return (*chaos).answer
	case n < 70:
		return func(x *chaos) { x.local(vni, mac, port, n == 69) }
	case n < 72:
		return func(x *chaos) { x.localGone(vni, mac) }
	case n < 73:
		return func(x *chaos) { x.tell(LocalIP{VNI: vni, IP: ip, MAC: mac}) }
	case n < 74:
		word := LocalIP{VNI: vni, IP: ip, MAC: mac, Source: WitnessFrame, Port: port}
		switch rapid.IntRange(0, 3).Draw(t, "witness") {
		case 0:
			word.Source, word.Lease = WitnessDHCP, time.Minute
		case 1:
			word.Source, word.Gone = WitnessDHCP, true
		}
		return func(x *chaos) { x.tell(word) }
	case n < 75:
		return func(x *chaos) { x.tell(LocalIP{VNI: vni, IP: ip, Gone: true}) }
	case n <= lastOrderly:
		return func(x *chaos) { x.reconfigure(vni, func(p *VNIPolicy) { p.Off = !p.Off }) }
	case n < 77:
		k := key()
		return func(x *chaos) {
			x.t.Logf("  kernel refuses %s", k)
			x.kernel.refuse[k] = errors.New("refused")
		}
	case n < 79:
		k := key()
		return func(x *chaos) { delete(x.kernel.refuse, k) }
	case n < 82:
		k := key()
		return func(x *chaos) { x.lose(k, n == 81) }
	case n < 84:
		k := key()
		return func(x *chaos) { x.meddle(k) }
	case n < 85:
		k := key()
		return func(x *chaos) {
			if x.kernel.rows[k].foreign() && k.Table != TableFDB {
				delete(x.kernel.rows, k)
			}
		}
	case n < 87:
		d := time.Duration(rapid.IntRange(1, 60).Draw(t, "seconds")) * time.Second
		return func(x *chaos) { x.now = x.now.Add(d) }
	case n < 89:
		return func(x *chaos) {
			if x.up[vni] {
				x.detach(vni)
			} else {
				x.attach(vni)
			}
		}
	case n < 91:
		return func(x *chaos) { x.reconfigure(vni, func(p *VNIPolicy) { p.Off = !p.Off }) }
	case n < 92:
		return func(x *chaos) {
			x.reconfigure(vni, func(p *VNIPolicy) { p.Import = []RTPattern{{RT: NewRT(65000, uint32(300-vni))}} })
		}
	case n < 94:
		return func(x *chaos) { x.tell(PeerDown{Peer: peer, Retain: 30 * time.Second}); x.peers[peer] = false }
	case n < 96:
		return func(x *chaos) { x.tell(PeerUp{Peer: peer, Forwarding: n == 95}); x.peers[peer] = true }
	case n < 98:
		at := attachment(vni)
		at.Usable = n == 97
		return func(x *chaos) {
			if x.up[vni] {
				x.tell(at)
			}
		}
	case n < 100:
		return func(x *chaos) {
			if x.up[vni] {
				x.results = append(x.results, x.kernel.observe(vni, x.written))
			}
		}
	case n < 102:
		return func(x *chaos) { x.reconfigure(vni, func(p *VNIPolicy) { p.StickyStatic = !p.StickyStatic }) }
	case n < 104:
		return func(x *chaos) {
			x.reconfigure(vni, func(p *VNIPolicy) {
				if p.Gateways == nil {
					p.Gateways = []Gateway{{MAC: mac, IP: ip}}
				} else {
					p.Gateways = nil
				}
			})
		}
	default:
		return func(x *chaos) { x.dumpHosts(vni, mac, ip) }
	}
}

// dumpHosts has the notification of a local row lost, and all of them told in a dump.
func (x *chaos) dumpHosts(vni VNI, mac MAC, ip netip.Addr) {
	key := EntryKey{Table: TableFDB, VNI: vni, MAC: mac}
	if !x.up[vni] || !x.untouched(key) {
		return
	}
	switch r, there := x.kernel.rows[key]; {
	case !there || r.ours:
		x.kernel.rows[key] = row{learned: true}
	case r.learned:
		delete(x.kernel.rows, key)
	}
	o := x.kernel.observe(vni, x.written)
	o.MACs, o.IPs = []LocalMAC{}, []LocalIP{{VNI: vni, IP: ip, MAC: mac}}
	for key, r := range x.kernel.rows {
		if key.VNI == vni && key.Table == TableFDB && !r.ours {
			o.MACs = append(o.MACs, LocalMAC{VNI: vni, MAC: key.MAC, Port: "tap1", Static: !r.learned})
		}
	}
	slices.SortFunc(o.MACs, func(a, b LocalMAC) int { return slices.Compare(a.MAC[:], b.MAC[:]) })
	x.tell(o)
}

// local is a frame of a host, or a row that an orchestrator puts there.
func (x *chaos) local(vni VNI, mac MAC, port string, static bool) {
	key := EntryKey{Table: TableFDB, VNI: vni, MAC: mac}
	r, there := x.kernel.rows[key]
	if !x.up[vni] || !x.untouched(key) || there && !r.ours && !r.learned && !static {
		return
	}
	x.kernel.rows[key] = row{learned: !static}
	x.tell(LocalMAC{VNI: vni, MAC: mac, Port: port, Static: static})
}

func (x *chaos) localGone(vni VNI, mac MAC) {
	key := EntryKey{Table: TableFDB, VNI: vni, MAC: mac}
	if r, there := x.kernel.rows[key]; there && !r.ours {
		delete(x.kernel.rows, key)
		x.tell(LocalMAC{VNI: vni, MAC: mac, Gone: true})
	}
}

// lose takes an entry of ours away, noticed or not.
func (x *chaos) lose(key EntryKey, yes bool) {
	if !x.kernel.rows[key].ours {
		return
	}
	x.kernel.remove(key)
	x.t.Logf("  lost %s", key)
	if yes {
		x.tell(noticed(key))
	}
}

// noticed is the fact that someone else removed an entry of ours.
func noticed(key EntryKey) Event {
	if key.Table == TableVTEP {
		return NexthopsGone{VTEPs: []netip.Addr{key.Addr}}
	}
	return Tampered{Keys: []EntryKey{key}}
}

// meddle puts an entry of someone else where ours is or may come.
func (x *chaos) meddle(key EntryKey) {
	// In the bridge's FDB a row of someone else is a local host, and nexthop ids are the adapter's to choose.
	if key.Table == TableFDB || key.Table == TableVTEP || !x.untouched(key) || !x.up[key.VNI] {
		return
	}
	x.kernel.rows[key] = row{}
	x.tell(Tampered{Keys: []EntryKey{key}})
}

func (x *chaos) reconfigure(vni VNI, change func(*VNIPolicy)) {
	p := x.cfg.VNIs[vni]
	change(&p)
	x.cfg.VNIs = cloneWith(x.cfg.VNIs, vni, p)
	x.tell(Configure{Config: x.cfg})
}

// calm lets nobody stand in the way any longer.
func (x *chaos) calm() {
	clear(x.kernel.refuse)
	for _, vni := range worldVNIs {
		x.attach(vni)
	}
}

// rest lets time pass until all is written, answered, tried again and audited.
func (x *chaos) rest() {
	rounds := 0
	for end := x.now.Add(2*auditPeriod + time.Minute); ; {
		for {
			if rounds++; rounds > 100_000 {
				x.t.Fatalf("the core does not come to rest")
			}
			x.flush()
			if len(x.handed) == 0 && len(x.results) == 0 && (x.last.Wake.IsZero() || x.last.Wake.After(x.now)) {
				break
			}
			x.write()
			x.answer()
		}
		if x.last.Wake.IsZero() || x.last.Wake.After(end) {
			return
		}
		x.now = x.last.Wake
	}
}

func (x *chaos) check(t *rapid.T) {
	want := x.core.wanted()
	for key, e := range want {
		if r := x.kernel.rows[key]; r.foreign() && r != (row{}) || !r.ours && isPresent(x.kernel, key) && r.foreign() {
			continue // blocked
		}
		if r := x.kernel.rows[key]; !r.ours || r.entry != e {
			t.Fatalf("want %s%s, kernel has %+v", key, e.describe(), r)
		}
	}
	for key := range x.kernel.ours() {
		if _, ok := want[key]; !ok {
			t.Fatalf("left over: %s", key)
		}
	}
	for key, r := range x.kernel.rows {
		if key.Table != TableFDB || r.ours {
			continue
		}
		m := x.core.vrfs[key.VNI].macs[key.MAC]
		if m == nil || m.local() == nil || r.learned && !m.isLocal() && !m.vrf.isGatewayMAC(m.mac) {
			t.Fatalf("the bridge has %s on a local port, the core does not know: %+v", key, m)
		}
	}
	for vni, v := range x.core.vrfs {
		for mac, m := range v.macs {
			key := EntryKey{Table: TableFDB, VNI: vni, MAC: mac}
			if r, there := x.kernel.rows[key]; m.local() != nil && (!there || r.ours) {
				t.Fatalf("%s is a local host, the bridge has %+v", key, r)
			}
		}
	}
	for key := range x.core.problems {
		if r, there := x.kernel.rows[key]; !there || !r.foreign() {
			t.Fatalf("still a problem: %s: %+v", key, x.core.problems[key])
		}
	}
	x.checkOwnRoutes(t)
}

func isPresent(k *mapKernel, key EntryKey) bool {
	_, there := k.rows[key]
	return there
}

// checkOwnRoutes plays all announcements and compares the result with what the core says it announces.
func (x *chaos) checkOwnRoutes(t *rapid.T) {
	out := map[RouteKey]Attrs{}
	for _, o := range x.outputs {
		for _, op := range o.Routes {
			if _, there := out[op.Route.Key]; op.Withdraw && !there {
				t.Fatalf("withdrawn without having been announced: %s", op.Route.Key)
			}
			if op.Withdraw {
				delete(out, op.Route.Key)
			} else {
				out[op.Route.Key] = *op.Attrs
			}
		}
	}
	want := map[RouteKey]Attrs{}
	for _, r := range x.core.OwnRoutes() {
		want[r.Key] = r.Attrs
	}
	if !maps.Equal(out, want) {
		t.Fatalf("peers know %v\nthe core announces %v", out, want)
	}
	for _, vni := range worldVNIs {
		v := x.core.vrfs[vni]
		for _, m := range v.macs {
			if m.announced() != (m.isLocal() && v.inService()) || m.announced() && m.announcedS() != m.mobility() {
				t.Fatalf("announcement of %s is out of step: %+v", m.mac, m)
			}
		}
	}
}

// withdrawAll takes back every fact but the devices.
func (x *chaos) withdrawAll() {
	for _, p := range worldPeers {
		x.tell(PeerDown{Peer: p})
	}
	for _, vni := range worldVNIs {
		for _, mac := range worldMACs {
			x.tell(LocalMAC{VNI: vni, MAC: mac, Gone: true})
		}
		for _, ip := range worldIPs {
			x.tell(NeighborsGone{IPs: []IPKey{{vni, ip}}})
		}
	}
	x.now = x.now.Add(confirmWithin) // frames of hosts that the bridge never had
	x.flush()
}

func (x *chaos) checkEmpty(t *rapid.T) {
	for what, n := range x.core.remembered() {
		if n > 0 {
			t.Errorf("%s: %d left", what, n)
		}
	}
	if n := len(x.kernel.ours()); n > 0 {
		t.Errorf("kernel entries: %d left", n)
	}
}

// remembered counts what the core keeps because of facts about peers, routes and hosts.
func (c *Core) remembered() map[string]int {
	left := map[string]int{
		"peers": len(c.peers), "rib": len(c.rib.paths), "attrs": len(c.attrs), "vteps": len(c.vteps), "numbered": len(c.numbered) - len(c.unnumbered),
		"problems": len(c.problems), "sent": len(c.sent), "readBack": len(c.readBack),
		"dirtyMACs": len(c.dirtyMACs), "dirtyIPs": len(c.dirtyIPs), "flapping": len(c.flapping),
		"awaiting": len(c.awaiting), "unconfirmed": len(c.unconfirmed), "asking": len(c.asking), "claimants": len(c.claimants), "crowded": len(c.crowded), "rivals": len(c.rivals), "contested": len(c.contested), "recalled": len(c.recalled),
	}
	for table, q := range c.pending {
		left[fmt.Sprintf("pending %d", table)] = q.len() + c.express[table].len()
	}
	for vni, v := range c.vrfs {
		left[fmt.Sprintf("macs %d", vni)] = len(v.macs)
		left[fmt.Sprintf("ips %d", vni)] = v.ips.len()
		left[fmt.Sprintf("framed %d", vni)] = v.framed
		left[fmt.Sprintf("waiting %d", vni)] = v.waiting
		left[fmt.Sprintf("flood %d", vni)] = len(v.flood)
		left[fmt.Sprintf("pinned %d", vni)] = len(v.pinned)
	}
	return left
}

// TestForeignNexthop: a nexthop that is not ours blocks a VTEP; when nothing is behind it any more it is forgotten.
func TestForeignNexthop(t *testing.T) {
	c, k := benchCore(), newMapKernel()
	u := benchUpdates(100)[0]
	k.rows[EntryKey{Table: TableVTEP, Addr: u.Attrs.NextHop}] = row{}
	for _, u := range []*Update{u, withdraws([]*Update{u})[0]} {
		c.Handle(u, epoch)
		flushAndWrite(c, k)
	}
	c.Handle(PeerDown{Peer: u.Peer}, epoch)
	c.Flush(epoch)
	for what, n := range c.remembered() {
		if n > 0 && what != "readBack" {
			t.Errorf("%s: %d left", what, n)
		}
	}
}
