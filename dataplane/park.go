package dataplane

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/evpnd/evpnd/evpn"
)

// A VTEP is parked by giving its group another member: a nexthop without gateway, for which the VXLAN device drops frames.
// That is one operation, however many MACs there are behind the VTEP, and its own nexthop still tells a later life which
// VTEP the group is for. Groups of both families need a sink of their own family.
const (
	sinkIPv4 = firstID + 2*maxVTEPs + 2 // the id above the range is that of probeNexthops
	sinkIPv6 = firstID + 2*maxVTEPs + 4
)

func sinkFor(vtep netip.Addr) uint32 {
	if vtep.Is4() {
		return sinkIPv4
	}
	return sinkIPv6
}

func isSink(id uint32) bool { return id == sinkIPv4 || id == sinkIPv6 }

// isOurSink reports whether n is a sink as we write it.
func (n nexthop) isOurSink() bool {
	return isSink(n.id) && n.proto == protocolBGP && n.fdb && (!n.gateway.IsValid() || n.gateway.IsUnspecified())
}

// parks reports whether a group drops what is sent to it.
func (n nexthop) parks() bool { return len(n.members) == 1 && isSink(n.members[0]) }

// park notes whether a VTEP is parked, and returns what was noted before.
func (v *vteps) park(a netip.Addr, yes bool) (was bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	was = v.parked[a]
	delete(v.parked, a)
	if yes {
		v.parked[a] = true
	}
	return was
}

func (v *vteps) isParked(a netip.Addr) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.parked[a]
}

// idleSinks returns the sinks that no parked VTEP needs, and forgets them.
func (v *vteps) idleSinks() (ids []uint32) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.takeIdleSinks()
}

// takeIdleSinks is idleSinks for a caller that holds mu.
func (v *vteps) takeIdleSinks() (ids []uint32) {
	needed := map[uint32]bool{}
	for a := range v.parked {
		needed[sinkFor(a)] = true
	}
	for _, id := range []uint32{sinkIPv4, sinkIPv6} {
		if v.sinks[id] && !needed[id] {
			delete(v.sinks, id)
			ids = append(ids, id)
		}
	}
	return ids
}

// makeSink makes the sink for a VTEP's family, if it is not there.
func (w *writer) makeSink(a netip.Addr) error {
	id, nowhere := sinkFor(a), netip.IPv4Unspecified()
	if !a.Is4() {
		nowhere = netip.IPv6Unspecified()
	}
	err := w.rtnl.do(unix.RTM_NEWNEXTHOP, netlink.Create|netlink.Excl, func(b []byte) []byte { return putNexthop(b, id, nowhere) })
	w.vteps.mu.Lock()
	defer w.vteps.mu.Unlock()
	switch {
	case err == nil:
		w.vteps.sinks[id] = true
	case errors.Is(err, unix.EEXIST) && w.vteps.sinks[id]:
	case errors.Is(err, unix.EEXIST):
		return fmt.Errorf("add nexthop %d: %w", id, errForeign)
	default:
		return fmt.Errorf("add nexthop %d: %w", id, err)
	}
	return nil
}

// dropSinks removes the sinks that nothing needs.
func (w *writer) dropSinks() error {
	for _, id := range w.vteps.idleSinks() {
		err := w.rtnl.do(unix.RTM_DELNEXTHOP, 0, func(b []byte) []byte { return putNexthopID(b, id) })
		if err != nil && !gone(err) {
			return fmt.Errorf("delete nexthop %d: %w", id, err)
		}
	}
	return nil
}

// putVTEP writes the pair of a VTEP over what stands there, parked or not.
func (w *writer) putVTEP(op evpn.KernelOp, group uint32) error {
	a, parked := op.Key.Addr, op.Entry.Parked
	if w.vteps.dst { // each MAC carries its VTEP, and the kernel drops what it has no route for
		w.vteps.park(a, parked)
		return nil
	}
	member := group - 1
	if parked {
		if err := w.makeSink(a); err != nil {
			return fmt.Errorf("park vtep %s: %w", a, err)
		}
		member = sinkFor(a)
	}
	was := w.vteps.park(a, parked) // first, so that the watcher takes the notification for ours
	err := w.putPair(a, group-1, member, netlink.Create|netlink.Replace)
	if err == nil {
		err = errors.Join(w.batch.errs...)
	}
	if err != nil {
		w.vteps.park(a, was)
		return fmt.Errorf("replace nexthop of vtep %s: %w", a, err)
	}
	w.vteps.mended(a)
	return w.dropSinks()
}
