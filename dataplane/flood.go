package dataplane

import (
	"errors"
	"net/netip"
	"slices"
	"sync"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/evpnd/evpnd/evpn"
)

// floods knows whose the dsts of each VXLAN device's all-zero MAC are, which the kernel cannot say (see doc.go), and
// which a look-up could not even list: it returns the first dst only.
type floods struct {
	mu   sync.Mutex
	list map[int]map[netip.Addr]owner // VXLAN ifindex → dst → ours or foreign
	// left are the dsts that went since a dump of their device began, which may list them all the same.
	left map[int]map[netip.Addr]bool
}

func newFloods() *floods {
	return &floods{list: map[int]map[netip.Addr]owner{}, left: map[int]map[netip.Addr]bool{}}
}

func (f *floods) owner(ifindex int, dst netip.Addr) owner {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.list[ifindex][dst]
}

// set notes whose a dst is; nobody forgets it.
func (f *floods) set(ifindex int, dst netip.Addr, o owner) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if o == nobody {
		delete(f.list[ifindex], dst)
		if left := f.left[ifindex]; left != nil {
			left[dst] = true
		}
		return
	}
	if f.list[ifindex] == nil {
		f.list[ifindex] = map[netip.Addr]owner{}
	}
	f.list[ifindex][dst] = o
}

// foreign returns the dsts of a device that are not ours, in order.
func (f *floods) foreign(ifindex int) []netip.Addr {
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []netip.Addr
	for dst, o := range f.list[ifindex] {
		if o == foreign {
			list = append(list, dst)
		}
	}
	slices.SortFunc(list, netip.Addr.Compare)
	return list
}

// dumping says that a dump of a device begins.
func (f *floods) dumping(ifindex int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.left[ifindex] = map[netip.Addr]bool{}
}

// adopt takes in the whole list of a device as dumped. remote is the dst that the device was made with.
func (f *floods) adopt(ifindex int, rows []row, remote netip.Addr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	old, left := f.list[ifindex], f.left[ifindex]
	delete(f.left, ifindex)
	list := make(map[netip.Addr]owner, len(rows))
	for _, r := range rows {
		switch known := old[r.dst]; {
		case known != nobody:
			list[r.dst] = known
		case left[r.dst]: // nobody's: had it come back, that would be notified
		case r.ext() && r.dst != remote:
			list[r.dst] = ours
		default:
			list[r.dst] = foreign
		}
	}
	if len(list) == 0 {
		delete(f.list, ifindex)
		return
	}
	f.list[ifindex] = list
}

// drop forgets the list of a device that was removed.
func (f *floods) drop(m linkMessage) {
	if m.family != unix.AF_UNSPEC { // it left its bridge, or IPv6
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.list, m.index)
	delete(f.left, m.index)
}

// writeFlood carries out the steps of TableFlood.
func (w *writer) writeFlood() {
	w.locate()
	for i := range w.steps {
		s := &w.steps[i]
		if s.at == nil {
			continue
		}
		switch o := w.floods.owner(s.at.device, s.op.Key.Addr); {
		case !s.op.Key.Addr.IsValid() || s.op.Key.Addr.IsUnspecified() || s.op.Key.Addr.IsMulticast():
			s.fail(errors.New("not the address of a VTEP"))
		case s.op.Del && o != ours, !s.op.Del && o == foreign: // theirs floods there as well, and stays
		case s.op.Del:
			s.phase = change
			w.expected.put(rowKey{ifindex: s.at.device, self: true, addr: s.op.Key.Addr.As16()})
		default:
			s.phase = change
			w.floods.set(s.at.device, s.op.Key.Addr, ours) // before the notification comes
		}
	}
	w.send(change, w.buildFlood, nil, func(s *step, err error) {
		s.phase = done
		if s.op.Del && err != nil { // nothing will be notified
			w.expected.take(rowKey{ifindex: s.at.device, self: true, addr: s.op.Key.Addr.As16()})
		}
		switch {
		case s.op.Del && (err == nil || gone(err)):
			w.floods.set(s.at.device, s.op.Key.Addr, nobody)
		case err != nil:
			s.fail(err)
			if !s.op.Del {
				w.floods.set(s.at.device, s.op.Key.Addr, nobody)
			}
		}
	})
}

func (w *writer) buildFlood(s *step) {
	typ, flags := netlink.HeaderType(unix.RTM_NEWNEIGH), netlink.Create|netlink.Append
	if s.op.Del {
		typ, flags = unix.RTM_DELNEIGH, 0
	} else {
		w.echoes.put(echo{ifindex: s.at.device, self: true, dst: s.op.Key.Addr})
	}
	w.putFlood(s, typ, flags)
}

// putFlood adds the message about one dst of a flood list.
func (w *writer) putFlood(s *step, typ netlink.HeaderType, flags netlink.HeaderFlags) {
	w.batch.add(typ, flags, func(b []byte) []byte {
		b = putNDM(b, unix.AF_BRIDGE, s.at.device, unix.NUD_NOARP|unix.NUD_PERMANENT, unix.NTF_SELF|ourMark)
		b = putMAC(b, evpn.MAC{})
		return putAddr(b, unix.NDA_DST, s.op.Key.Addr)
	})
}
