package dataplane

import (
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/evpnd/evpnd/evpn"
)

const (
	// tamperedLimit is how many tampered entries of one VNI are named one by one; above it the VNI is read anew.
	tamperedLimit = 1000
	// pendingLimit bounds what waits for a slow core; above it everything is read anew instead.
	pendingLimit = 1 << 20
)

// Keys under which events of local hosts are coalesced.
type (
	macKey struct {
		vni evpn.VNI
		mac evpn.MAC
	}
	ipKey struct {
		vni evpn.VNI
		ip  netip.Addr
	}
)

// pending holds what was seen and not yet reported, the latest word on each thing only: events are levels. So reading
// the socket never waits for the core, and a host that moves a thousand times meanwhile costs one event.
type pending struct {
	wake waker // holds a token when there is something to take

	mu       sync.Mutex
	vnis     map[evpn.VNI]*attached // attachments to report; nil: gone
	index    map[any]int            // key → place in hosts
	hosts    []evpn.Event
	freed    []evpn.IPKey // IPs without a neighbour of a host; what hosts says of them is younger
	tampered map[evpn.VNI]map[evpn.EntryKey]struct{}
	nexthops map[netip.Addr]struct{} // VTEPs whose nexthops someone else deleted
	rereads  map[evpn.VNI]struct{}
	left     []*attached // attachments as they were, whose rows are to be swept up
	taken    []row       // neighbours of others that are to be given back
	overrun  bool        // messages were lost: everything is to be read anew
	doubt    bool        // rows of ours may have been altered unseen
	concerns uint64      // how often something was noted that entries of ours may be affected by
}

// work is what pending held.
type work struct {
	up       []*attached
	down     []evpn.VNI
	hosts    []evpn.Event
	freed    []evpn.IPKey
	tampered []evpn.EntryKey
	nexthops []netip.Addr
	rereads  []evpn.VNI
	left     []*attached
	taken    []row
	overrun  bool
	doubt    bool
	concerns uint64 // ever, up to now
}

func newPending() *pending {
	p := &pending{wake: newWaker()}
	p.clear()
	return p
}

func (p *pending) clear() {
	p.vnis = map[evpn.VNI]*attached{}
	p.index, p.hosts, p.freed = map[any]int{}, nil, nil
	p.tampered = map[evpn.VNI]map[evpn.EntryKey]struct{}{}
	p.nexthops = map[netip.Addr]struct{}{}
	p.rereads, p.left, p.taken = map[evpn.VNI]struct{}{}, nil, nil
	p.overrun, p.doubt = false, false
}

func (p *pending) signal() {
	p.wake.signal()
}

// host notes an event of a local host, in place of an earlier one with the same key.
func (p *pending) host(key any, ev evpn.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer p.signal()
	if i, ok := p.index[key]; ok {
		p.hosts[i] = ev
		return
	}
	if len(p.hosts) >= pendingLimit {
		p.giveUp()
		return
	}
	p.index[key] = len(p.hosts)
	p.hosts = append(p.hosts, ev)
}

// free notes that no neighbour of a host has an IP. Each delete of ours says so as well, by the thousand.
func (p *pending) free(vni evpn.VNI, ip netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer p.signal()
	if i, ok := p.index[ipKey{vni, ip}]; ok {
		p.hosts[i] = evpn.LocalIP{VNI: vni, IP: ip, Gone: true}
		return
	}
	if len(p.freed) >= pendingLimit {
		p.giveUp()
		return
	}
	p.freed = append(p.freed, evpn.IPKey{VNI: vni, IP: ip})
}

// giveUp has everything read anew instead of what is known of hosts. mu is held.
func (p *pending) giveUp() {
	p.index, p.hosts, p.freed, p.overrun = map[any]int{}, nil, nil, true
	p.concerns++
}

// concern has note take down what entries of ours may be affected by.
func (p *pending) concern(note func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer p.signal()
	note()
	p.concerns++
}

// attachment notes an attachment to report; at is nil when the VNI has no device any more.
func (p *pending) attachment(vni evpn.VNI, at *attached) {
	p.concern(func() { p.vnis[vni] = at })
}

// leave notes attachments that went, or went to another bridge or device.
func (p *pending) leave(ats ...*attached) {
	p.concern(func() { p.left = append(p.left, ats...) })
}

// giveBack notes a neighbour of someone else's that went instead of ours.
func (p *pending) giveBack(r row) {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer p.signal()
	p.taken = append(p.taken, r)
}

// tamper notes that someone else changed or removed an entry of ours.
func (p *pending) tamper(k evpn.EntryKey) {
	p.concern(func() {
		if _, ok := p.rereads[k.VNI]; ok {
			return
		}
		keys := p.tampered[k.VNI]
		if keys == nil {
			keys = map[evpn.EntryKey]struct{}{}
			p.tampered[k.VNI] = keys
		}
		keys[k] = struct{}{}
		if len(keys) > tamperedLimit {
			delete(p.tampered, k.VNI)
			p.rereads[k.VNI] = struct{}{}
		}
	})
}

// loseNexthops notes that someone else deleted the nexthops of VTEPs, or a half of them. The table of VTEPs is read before that
// is reported: an addition that follows must not find what is left of them.
func (p *pending) loseNexthops(vteps ...netip.Addr) {
	if len(vteps) == 0 {
		return
	}
	p.concern(func() {
		for _, a := range vteps {
			p.nexthops[a] = struct{}{}
		}
		p.rereads[0] = struct{}{}
	})
}

// reread asks for a fresh look at a VNI.
func (p *pending) reread(vnis ...evpn.VNI) {
	p.concern(func() {
		for _, v := range vnis {
			p.rereads[v] = struct{}{}
		}
	})
}

// lost says that notifications were lost.
func (p *pending) lost() {
	p.concern(func() { p.overrun = true })
}

// doubted says that rows of ours may have been altered unseen.
func (p *pending) doubted() {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer p.signal()
	p.doubt = true
}

// take empties p.
func (p *pending) take() work {
	p.mu.Lock()
	defer p.mu.Unlock()
	w := work{hosts: p.hosts, freed: p.freed, rereads: slices.Sorted(maps.Keys(p.rereads)), left: p.left, taken: p.taken, overrun: p.overrun, doubt: p.doubt, concerns: p.concerns}
	for _, vni := range slices.Sorted(maps.Keys(p.vnis)) {
		if at := p.vnis[vni]; at != nil {
			w.up = append(w.up, at)
		} else {
			w.down = append(w.down, vni)
		}
	}
	for _, vni := range slices.Sorted(maps.Keys(p.tampered)) {
		keys := slices.Collect(maps.Keys(p.tampered[vni]))
		slices.SortFunc(keys, compareKeys)
		w.tampered = append(w.tampered, keys...)
	}
	w.nexthops = slices.SortedFunc(maps.Keys(p.nexthops), netip.Addr.Compare)
	p.clear()
	return w
}

// noted returns how often something was noted that entries of ours may be affected by.
func (p *pending) noted() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.concerns
}

func (p *pending) isLost() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.overrun
}

// again asks once more for the sweeping and reading back that w asked for.
func (p *pending) again(w work) {
	p.leave(w.left...)
	p.reread(w.rereads...)
	if w.overrun {
		p.lost()
	}
}
