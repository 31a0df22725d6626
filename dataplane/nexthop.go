package dataplane

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/evpnd/evpnd/evpn"
)

const (
	// protocolBGP marks what is ours in tables that keep a protocol number (RTPROT_BGP).
	protocolBGP = unix.RTPROT_BGP
	// firstID begins our range of nexthop ids: VTEP n has nexthop firstID+2n and group firstID+2n+1.
	firstID uint32 = 0x4556_0000
	// maxVTEPs bounds our range of ids.
	maxVTEPs = 1 << 15
)

var errNoID = fmt.Errorf("all %d nexthop ids of our range are taken", maxVTEPs)

// vteps knows the FDB nexthop group of each remote VTEP. In dst mode, on kernels without FDB nexthops, it knows the VTEPs
// only. Written by the goroutine that writes the kernel; read and corrected by the watcher.
type vteps struct {
	dst bool // dst mode; set once

	mu      sync.Mutex
	group   map[netip.Addr]uint32 // VTEP → group id
	vtep    map[uint32]netip.Addr // group id → VTEP
	parked  map[netip.Addr]bool   // VTEPs whose group drops what it is sent
	sinks   map[uint32]bool       // sinks of ours that are there
	spoiled map[netip.Addr]bool   // VTEPs whose pair someone changed; the next addition mends it
	foreign map[uint32]bool       // first ids of pairs in our range that someone else uses
	next    uint32                // where to look for a free pair
}

func newVTEPs(dst bool) *vteps {
	return &vteps{
		dst: dst, group: map[netip.Addr]uint32{}, vtep: map[uint32]netip.Addr{}, spoiled: map[netip.Addr]bool{},
		parked: map[netip.Addr]bool{}, sinks: map[uint32]bool{}, foreign: map[uint32]bool{}, next: firstID,
	}
}

// groupOf returns the group of a VTEP; in dst mode ok says only that the VTEP is known.
func (v *vteps) groupOf(a netip.Addr) (id uint32, ok bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	id, ok = v.group[a]
	return id, ok
}

// vtepOf returns the VTEP behind a group of ours.
func (v *vteps) vtepOf(group uint32) (netip.Addr, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	a, ok := v.vtep[group]
	return a, ok
}

// reserve finds a free pair of ids for a VTEP and returns its first.
func (v *vteps) reserve(a netip.Addr) (uint32, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for range maxVTEPs {
		id := v.next
		if v.next += 2; v.next >= firstID+2*maxVTEPs {
			v.next = firstID
		}
		if _, used := v.vtep[id+1]; !used && !v.foreign[id] {
			v.group[a], v.vtep[id+1] = id+1, a
			return id, nil
		}
	}
	return 0, errNoID
}

// forget drops a VTEP; foreign says that someone else has its ids.
func (v *vteps) forget(a netip.Addr, foreign bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if id, ok := v.group[a]; ok {
		delete(v.group, a)
		delete(v.vtep, id)
		delete(v.spoiled, a)
		delete(v.parked, a)
		if foreign {
			v.foreign[id-1] = true
		}
	}
}

// mended notes that the pair of a VTEP is as we write it.
func (v *vteps) mended(a netip.Addr) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.spoiled, a)
}

// adopt replaces what is known by a dump: a pair is ours when nexthop and group have our protocol, the FDB flag and ids
// of our range that belong together; the gateway names the VTEP. A pair that was known keeps its VTEP, since rows of ours
// point to it, but is spoiled when it says something else now. Halves of pairs and second pairs of one VTEP are returned as
// leftovers to be removed; lost are the VTEPs whose pair was known and is not there any more, of which the watcher will not
// tell: their notifications may be under way, and name nothing that is known.
func (v *vteps) adopt(dump []nexthop) (leftovers []uint32, lost []netip.Addr) {
	if v.dst {
		return nil, nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	was := maps.Clone(v.vtep)
	clear(v.group)
	clear(v.vtep)
	clear(v.spoiled)
	clear(v.foreign)
	clear(v.parked)
	clear(v.sinks)
	there := map[uint32]bool{}
	gateways := map[uint32]netip.Addr{}
	groups, parked := map[uint32]bool{}, map[uint32]bool{}
	for _, n := range dump {
		if n.isOurSink() {
			v.sinks[n.id] = true
		}
		if n.id < firstID || n.id >= firstID+2*maxVTEPs {
			continue
		}
		there[n.id] = true
		switch first := n.id &^ 1; {
		case n.id == first && n.isFor(n.gateway):
			gateways[n.id] = n.gateway
		case n.id != first && n.isFor(netip.Addr{}):
			groups[n.id], parked[n.id] = true, n.parks()
		default:
			v.foreign[first] = true
		}
	}
	for group, a := range was {
		first := group - 1
		if !there[first] || !there[group] {
			lost = append(lost, a)
			continue
		}
		v.group[a], v.vtep[group] = group, a
		if gateways[first] != a || !groups[group] {
			v.spoiled[a] = true
		}
		delete(gateways, first)
		delete(v.foreign, first)
	}
	for _, id := range slices.Sorted(maps.Keys(gateways)) {
		a := gateways[id]
		if _, twice := v.group[a]; twice || !groups[id+1] || v.foreign[id] {
			if !v.foreign[id] {
				leftovers = append(leftovers, id) // its group goes with it
			}
			continue
		}
		v.group[a], v.vtep[id+1] = id+1, a
	}
	for _, group := range slices.Sorted(maps.Keys(parked)) {
		switch a, known := v.vtep[group]; {
		case !parked[group]: // goes with its nexthop
		case known:
			v.parked[a] = true
		case !v.foreign[group-1]:
			leftovers = append(leftovers, group)
		}
	}
	return append(leftovers, v.takeIdleSinks()...), lost
}

// inUse is the number of pairs of our range that someone else uses, as last read.
func (v *vteps) inUse() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.foreign)
}

// all returns the known VTEPs in order, but for those whose pair is spoiled.
func (v *vteps) all() []netip.Addr {
	v.mu.Lock()
	defer v.mu.Unlock()
	spoiled := func(a netip.Addr) bool { return v.spoiled[a] }
	return slices.DeleteFunc(slices.SortedFunc(maps.Keys(v.group), netip.Addr.Compare), spoiled)
}

// matches reports whether what a notification says of an id of ours is what we made, parked or not: we may have changed our
// mind since. ok is false for ids not ours.
func (v *vteps) matches(n nexthop) (a netip.Addr, same, ok bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	a, ok = v.vtep[n.id|1]
	return a, ok && n.isFor(a), ok
}

// isFor reports whether n is what we would write under its id for a VTEP; of a group, which does not name the VTEP, a is
// not looked at.
func (n nexthop) isFor(a netip.Addr) bool {
	switch {
	case n.proto != protocolBGP || !n.fdb:
		return false
	case n.id&1 == 0:
		return n.gateway.IsValid() && n.gateway == a
	default:
		return n.parks() || len(n.members) == 1 && n.members[0] == n.id-1
	}
}

func putNexthop(b []byte, id uint32, gateway netip.Addr) []byte {
	b = append(b, family(gateway), 0, protocolBGP, 0, 0, 0, 0, 0)
	b = putAttr32(b, unix.NHA_ID, id)
	b = putAddr(b, unix.NHA_GATEWAY, gateway)
	return putAttr(b, nhaFDB, nil)
}

func putGroup(b []byte, id, member uint32) []byte {
	b = append(b, unix.AF_UNSPEC, 0, protocolBGP, 0, 0, 0, 0, 0)
	b = putAttr32(b, unix.NHA_ID, id)
	entry := append(binary.NativeEndian.AppendUint32(nil, member), 0, 0, 0, 0) // a weight of 1 is written as 0
	b = putAttr(b, unix.NHA_GROUP, entry)
	return putAttr(b, nhaFDB, nil)
}

func putNexthopID(b []byte, id uint32) []byte {
	b = append(b, make([]byte, unix.SizeofNhmsg)...)
	return putAttr32(b, unix.NHA_ID, id)
}

// probeNexthops reports whether the kernel has FDB nexthops (Linux 5.8), by making one and removing it. A kernel that finds
// the id taken has understood the request; what stands there is not ours to remove.
func probeNexthops(r *rtnl) (bool, error) {
	id := firstID + 2*maxVTEPs // just above the range
	err := r.do(unix.RTM_NEWNEXTHOP, netlink.Create|netlink.Excl, func(b []byte) []byte {
		return putNexthop(b, id, netip.AddrFrom4([4]byte{192, 0, 2, 1})) // RFC 5737; nothing is sent to it
	})
	switch {
	case errors.Is(err, unix.EPERM):
		return false, fmt.Errorf("create nexthop (CAP_NET_ADMIN is needed): %w", err)
	case errors.Is(err, unix.EEXIST):
		return true, nil
	case err != nil:
		return false, nil
	}
	err = r.do(unix.RTM_DELNEXTHOP, 0, func(b []byte) []byte { return putNexthopID(b, id) })
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return false, fmt.Errorf("delete probe nexthop: %w", err)
	}
	return true, nil
}

// writeVTEP applies one op of TableVTEP.
func (w *writer) writeVTEP(op evpn.KernelOp) error {
	a := op.Key.Addr
	group, known := w.vteps.groupOf(a)
	switch {
	case op.Del && !known:
		return nil
	case op.Del:
		return w.deleteVTEP(a)
	case known:
		return w.putVTEP(op, group)
	case !a.IsValid() || a.IsUnspecified() || a.IsMulticast():
		return fmt.Errorf("add vtep %s: not an address of a VTEP", a)
	default:
		if err := w.addVTEP(a); err != nil || !op.Entry.Parked {
			return err
		}
		group, _ = w.vteps.groupOf(a)
		return w.putVTEP(op, group)
	}
}

// putPair writes both halves of a pair; batch.errs has what became of each.
func (w *writer) putPair(a netip.Addr, id, member uint32, flags netlink.HeaderFlags) error {
	w.batch.reset()
	w.batch.add(unix.RTM_NEWNEXTHOP, flags, func(b []byte) []byte { return putNexthop(b, id, a) })
	w.batch.add(unix.RTM_NEWNEXTHOP, flags, func(b []byte) []byte { return putGroup(b, id+1, member) })
	return w.rtnl.exchange(&w.batch, nil)
}

// addVTEP makes a pair with ids that nobody uses.
func (w *writer) addVTEP(a netip.Addr) error {
	for {
		id, err := w.vteps.reserve(a)
		if err != nil {
			return fmt.Errorf("add vtep %s: %w", a, err)
		}
		if w.vteps.dst {
			return nil
		}
		if err := w.putPair(a, id, id, netlink.Create|netlink.Excl); err != nil {
			w.vteps.forget(a, false)
			return fmt.Errorf("add vtep %s: %w", a, err)
		}
		nhErr, groupErr := w.batch.errs[0], w.batch.errs[1]
		if nhErr == nil && groupErr == nil {
			return nil
		}
		taken := errors.Is(nhErr, unix.EEXIST) || errors.Is(groupErr, unix.EEXIST)
		w.vteps.forget(a, taken)
		if err := w.undoPair(id, nhErr == nil, groupErr == nil); err != nil {
			return fmt.Errorf("add vtep %s: %w", a, err)
		}
		if !taken {
			return fmt.Errorf("add vtep %s: %w", a, errors.Join(nhErr, groupErr))
		}
	}
}

// undoPair removes the half of a pair that was made before the other was refused. A group that was made on a nexthop of
// someone else's is ours to remove, the nexthop is not.
func (w *writer) undoPair(id uint32, madeNexthop, madeGroup bool) error {
	w.batch.reset()
	if madeGroup {
		w.batch.add(unix.RTM_DELNEXTHOP, 0, func(b []byte) []byte { return putNexthopID(b, id+1) })
	}
	if madeNexthop {
		w.batch.add(unix.RTM_DELNEXTHOP, 0, func(b []byte) []byte { return putNexthopID(b, id) })
	}
	return w.rtnl.exchange(&w.batch, nil)
}

// deleteVTEP removes a pair. FDB entries that still use the group go with it, without notification.
func (w *writer) deleteVTEP(a netip.Addr) error {
	id, _ := w.vteps.groupOf(a)
	w.vteps.forget(a, false) // first, so that the watcher takes the notification for ours
	if w.vteps.dst {
		return nil
	}
	w.batch.reset()
	w.batch.add(unix.RTM_DELNEXTHOP, 0, func(b []byte) []byte { return putNexthopID(b, id) })
	w.batch.add(unix.RTM_DELNEXTHOP, 0, func(b []byte) []byte { return putNexthopID(b, id-1) })
	if err := w.rtnl.exchange(&w.batch, nil); err != nil {
		return fmt.Errorf("delete vtep %s: %w", a, err)
	}
	for _, err := range w.batch.errs {
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("delete vtep %s: %w", a, err)
		}
	}
	return w.dropSinks()
}
