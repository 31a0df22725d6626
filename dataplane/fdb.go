package dataplane

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/evpnd/evpnd/evpn"
)

// A remote MAC takes two rows: the bridge's says that the MAC is behind the VXLAN port, the VXLAN device's behind which
// VTEP it is. doc.go says why a new one is claimed before it is bound.
const (
	remoteState = unix.NUD_NOARP | unix.NUD_REACHABLE // the VXLAN device refuses NOARP alone
	bothHalves  = unix.NTF_SELF | unix.NTF_MASTER
	ourMark     = unix.NTF_EXT_LEARNED
)

// writeFDB carries out the steps of TableFDB.
func (w *writer) writeFDB() {
	w.locate()
	w.decideTrust()
	for i := range w.steps {
		w.startFDB(&w.steps[i])
	}
	w.send(trust, w.buildTrusted, nil, func(s *step, err error) {
		s.phase = done
		if err != nil { // what stood there went without a word
			w.notDeleted(s)
			s.phase = look
		}
	})
	w.send(claim, w.buildClaim, nil, func(s *step, err error) {
		switch {
		case err == nil:
			s.phase, s.made = bind, true
		case errors.Is(err, unix.EEXIST):
			s.phase = look
		default:
			s.fail(err)
		}
	})
	w.send(bind, func(s *step) { w.putBind(s, netlink.Create|netlink.Excl) }, nil, func(s *step, err error) {
		switch {
		case err == nil:
			s.phase = done
		case errors.Is(err, unix.EEXIST):
			s.phase = look
		default:
			s.fail(err)
			s.phase = undo
		}
	})
	w.send(look, w.buildLook, keepRow, func(s *step, err error) {
		if err != nil && !gone(err) {
			s.fail(err)
			s.phase = undo
		}
	})
	w.decideFDB()
	w.changeFDB()
}

// changeFDB writes what was decided, and takes back what was made in vain.
func (w *writer) changeFDB() {
	w.send(change, w.buildChange, nil, func(s *step, err error) {
		switch {
		case err == nil:
		case gone(err): // a delete that came too late: nothing will be notified
			w.notDeleted(s)
		default:
			w.notDeleted(s)
			s.fail(err)
			s.phase = undo
		}
	})
	w.send(undo, w.buildUndo, nil, func(s *step, err error) {
		if err != nil {
			w.notDeleted(s)
		}
	})
}

// notDeleted takes back that deletes of a MAC's rows are to be notified.
func (w *writer) notDeleted(s *step) {
	w.expected.take(rowKey{ifindex: s.at.device, mac: s.op.Key.MAC})
	w.expected.take(s.deviceKey())
}

func (w *writer) startFDB(s *step) {
	if s.at == nil {
		return
	}
	trusted := w.trusted(s, s.deviceKey())
	switch {
	case s.op.Del && trusted:
		s.phase = trust
		return
	case s.op.Del:
		s.phase = look
		return
	}
	group, ok := w.vteps.groupOf(s.op.Entry.VTEP)
	switch {
	case !ok:
		s.fail(fmt.Errorf("vtep %s has no nexthop", s.op.Entry.VTEP))
		return
	case s.op.Key.MAC.IsZero() || s.op.Key.MAC.IsGroup():
		s.fail(errors.New("not the MAC of a host"))
		return
	}
	s.group, s.phase = group, claim
	if w.vteps.dst {
		s.group = 0
	}
	switch {
	case trusted && s.group != 0:
		s.phase = trust
	case s.op.Replace:
		s.phase = look
	}
}

// buildTrusted adds the message for an entry of ours that stands there. A MAC that moves to another VTEP stays where it is in
// the bridge; its row in the VXLAN device is replaced and not made, should it not be there.
func (w *writer) buildTrusted(s *step) {
	if s.op.Del {
		w.buildDelete(s, true, true)
		return
	}
	w.putMarked(s, unix.NTF_SELF, netlink.Replace)
}

// deviceKey names the row of the VXLAN device.
func (s *step) deviceKey() rowKey {
	return rowKey{ifindex: s.at.device, self: true, mac: s.op.Key.MAC}
}

// nearState is the state and flags of the bridge's row. Local frames move a plain row to their port, which is how a host
// that comes home is noticed; a sticky one they do not.
func nearState(e evpn.Entry) (state uint16, flags uint8) {
	if e.Sticky {
		return remoteState, unix.NTF_MASTER | ntfSticky
	}
	return unix.NUD_REACHABLE, unix.NTF_MASTER
}

func (w *writer) buildClaim(s *step) {
	w.putNear(s, netlink.Create|netlink.Excl)
}

// putNear adds the message for the bridge's row alone, without our mark.
func (w *writer) putNear(s *step, flags netlink.HeaderFlags) {
	state, rowFlags := nearState(s.op.Entry)
	w.batch.add(unix.RTM_NEWNEIGH, flags, func(b []byte) []byte {
		b = putNDM(b, unix.AF_BRIDGE, s.at.device, state, rowFlags)
		return putMAC(b, s.op.Key.MAC)
	})
}

// putBind adds the message that marks the bridge's row and makes the VXLAN device's. The kernel keeps the stickiness of
// the bridge's row as it is, and ignores NLM_F_EXCL there.
func (w *writer) putBind(s *step, flags netlink.HeaderFlags) {
	w.echoes.put(echo{ifindex: s.at.device, sticky: s.op.Entry.Sticky, mac: s.op.Key.MAC})
	w.putMarked(s, bothHalves, flags)
}

// putMarked adds the message that writes the VXLAN device's row, and the bridge's when halves names it, with our mark.
func (w *writer) putMarked(s *step, halves uint8, flags netlink.HeaderFlags) {
	far := echo{ifindex: s.at.device, self: true, mac: s.op.Key.MAC, nhid: s.group}
	if s.group == 0 {
		far.dst = s.op.Entry.VTEP
	}
	w.echoes.put(far)
	w.batch.add(unix.RTM_NEWNEIGH, flags, func(b []byte) []byte {
		b = putNDM(b, unix.AF_BRIDGE, s.at.device, remoteState, halves|ourMark)
		b = putMAC(b, s.op.Key.MAC)
		if s.group != 0 {
			return putAttr32(b, ndaNHID, s.group)
		}
		return putAddr(b, unix.NDA_DST, s.op.Entry.VTEP)
	})
}

func (w *writer) buildLook(s *step) {
	for _, half := range []uint8{unix.NTF_MASTER, unix.NTF_SELF} {
		w.batch.add(unix.RTM_GETNEIGH, 0, func(b []byte) []byte {
			b = putNDM(b, unix.AF_BRIDGE, s.at.device, 0, half)
			return putMAC(b, s.op.Key.MAC)
		})
	}
}

// keepRow keeps what a look found.
func keepRow(s *step, r row) {
	if r.self() {
		s.far = r
	} else {
		s.near = r
	}
}

// owner says whose a row is, as far as an op is concerned.
type owner uint8

const (
	nobody  owner = iota // nothing there, or learned where we may write
	ours                 // carries our marks
	learned              // learned from a local host
	foreign              // put there by someone else
)

// nearOwner judges the bridge's row.
func nearOwner(at *attached, r row) owner {
	switch {
	case r.family == 0:
		return nobody
	case r.ext() && r.ifindex == at.device:
		return ours
	case r.ext() || r.fixed():
		return foreign
	case r.ifindex == at.device: // learned from the overlay, or a claim that was not bound
		return nobody
	default:
		return learned
	}
}

// pinned reports a row of a bridge that someone made static by hand, keeping our mark. Ours are static when they are
// sticky, and only then.
func pinned(r row) bool {
	return r.ext() && r.state&unix.NUD_NOARP != 0 && r.flags&ntfSticky == 0
}

// farOwner judges the VXLAN device's row. Nobody else points rows at our nexthop groups; a dst is ours only where the
// kernel has none.
func farOwner(v *vteps, r row) owner {
	_, known := v.vtepOf(r.nhid)
	switch {
	case r.family == 0:
		return nobody
	case known, r.ext() && r.nhid == 0 && v.dst:
		return ours
	case r.ext():
		return foreign
	case r.fixed():
		return foreign
	default: // learned from the overlay
		return nobody
	}
}

// owners judges both rows of a MAC: the bridge's, which alone says little, is whose the other one is.
func owners(at *attached, v *vteps, h halves) (near, far owner) {
	near, far = nearOwner(at, h.near), farOwner(v, h.far)
	if near == ours && far == foreign {
		near = foreign
	}
	return near, far
}

// cameOfOurs reports whether the row of the VXLAN device is what someone made of ours, given that ours stood there: it
// carries our mark, or was written over ours. What someone wrote by hand after removing ours is theirs.
func (w *writer) cameOfOurs(s *step) bool {
	return s.far.ext() || w.replaced.take(s.deviceKey())
}

// decideFDB judges what the looks found.
func (w *writer) decideFDB() {
	for i := range w.steps {
		s := &w.steps[i]
		if s.phase != look {
			continue
		}
		stoodIn := w.standIns.take(s.deviceKey())
		near, far := owners(s.at, w.vteps, halves{s.near, s.far})
		if far == foreign && s.op.Stood && !stoodIn && w.cameOfOurs(s) {
			near, far = nearOwner(s.at, s.near), ours
		}
		s.nearBy, s.farBy = near, far
		blocked := near == foreign || far == foreign || near == learned && !s.op.Replace
		switch {
		case s.op.Del && near != ours && far != ours:
			s.phase = done
		case s.op.Del || !blocked:
			s.phase = change
			s.made = s.made || near != ours
		case s.made: // someone's row in the VXLAN device: take back our half
			w.obstructed(s)
			s.phase = undo
		case s.near.ifindex == s.at.device && w.vtepBehind(s.far) == s.op.Entry.VTEP:
			s.phase = done // theirs says the same
			w.standIns.put(s.deviceKey())
		default:
			w.obstructed(s)
		}
	}
}

// obstructed fails a step because of rows that are not ours, and says how to take them away.
func (w *writer) obstructed(s *step) {
	var mend []string
	vlan := ""
	if s.at.VLAN != 0 {
		vlan = fmt.Sprintf(" vlan %d", s.at.VLAN)
	}
	if nearOwner(s.at, s.near) == foreign {
		mend = append(mend, fmt.Sprintf("bridge fdb del %s dev %s%s master", s.op.Key.MAC, w.topo.portName(s.near.ifindex), vlan))
	}
	if farOwner(w.vteps, s.far) == foreign {
		mend = append(mend, fmt.Sprintf("bridge fdb del %s dev %s self", s.op.Key.MAC, s.at.Device))
	}
	s.fail(fmt.Errorf("%w: %s", errForeign, w.tell(s)))
	s.mend = strings.Join(mend, " && ")
}

// tell describes the rows that stand in the way.
func (w *writer) tell(s *step) string {
	text := ""
	if s.near.family != 0 && s.near.ifindex != s.at.device {
		text = "bridge port " + w.topo.portName(s.near.ifindex)
	} else if s.near.family != 0 {
		text = "bridge row on " + s.at.Device
	}
	if s.far.family != 0 {
		text += fmt.Sprintf(" vxlan row to %s nexthop %d", s.far.dst, s.far.nhid)
	}
	return text
}

func (w *writer) buildChange(s *step) {
	if s.op.Del {
		w.buildDelete(s, s.nearBy == ours, s.farBy == ours)
		return
	}
	if s.nearBy == ours && pinned(s.near) {
		w.buildDelete(s, true, false)
	}
	if s.op.Entry.Sticky || s.near.flags&ntfSticky != 0 {
		w.putNear(s, netlink.Create|netlink.Replace)
	}
	likeOurs := s.farBy == ours && s.far.ext() && s.far.state == remoteState
	if s.far.family != 0 && (!likeOurs || (s.far.nhid != 0) != (s.group != 0)) {
		// From dst to nexthop the kernel refuses to replace, the other way it says yes and does nothing. Neither mark nor
		// state of a row change when it is replaced by a marked one.
		w.buildDelete(s, false, true)
	}
	w.putBind(s, netlink.Create|netlink.Replace)
}

// buildDelete adds the message that removes the given halves. Asked for both, the kernel does not try the VXLAN
// device's when the bridge's is not there; so only for what a look has found.
func (w *writer) buildDelete(s *step, near, far bool) {
	var halves uint8
	if near {
		halves |= unix.NTF_MASTER
		w.expected.put(rowKey{ifindex: s.at.device, mac: s.op.Key.MAC})
	}
	if far {
		halves |= unix.NTF_SELF
		w.expected.put(s.deviceKey())
	}
	w.batch.add(unix.RTM_DELNEIGH, 0, func(b []byte) []byte {
		b = putNDM(b, unix.AF_BRIDGE, s.at.device, 0, halves)
		return putMAC(b, s.op.Key.MAC)
	})
}

// buildUndo takes the bridge's half away when the VXLAN device's was refused: the kernel does the bridge's first and
// leaves it. A half that was ours before stays.
func (w *writer) buildUndo(s *step) {
	if s.made && !s.op.Del {
		w.buildDelete(s, true, false)
	}
}

// vtepBehind names the VTEP of a VXLAN device's row; the zero Addr when it is not known.
func (w *writer) vtepBehind(r row) (a netip.Addr) {
	if r.nhid == 0 {
		return r.dst
	}
	a, _ = w.vteps.vtepOf(r.nhid)
	return a
}
