package dataplane

import (
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/evpnd/evpnd/evpn"
)

// writeNeighbors carries out the steps of TableNeighbor.
func (w *writer) writeNeighbors() {
	w.locate()
	w.decideTrust()
	for i := range w.steps {
		w.startNeighbor(&w.steps[i])
	}
	w.send(claim, func(s *step) { w.putNeighbor(s, netlink.Create|netlink.Excl) }, nil, func(s *step, err error) {
		switch {
		case err == nil:
			s.phase = done
		case errors.Is(err, unix.EEXIST):
			s.phase = look
		default:
			s.fail(err)
		}
	})
	w.send(look, w.buildNeighborLook, keepRow, func(s *step, err error) {
		if err != nil && !gone(err) {
			s.fail(err)
		}
	})
	w.decideNeighbors()
	w.send(yield, w.buildNeighborDelete, nil, func(s *step, err error) {
		s.phase = change
		if err != nil {
			w.expected.take(s.neighborKey())
		}
		if err != nil && !gone(err) {
			s.fail(err)
		}
	})
	w.send(change, w.buildNeighborChange, nil, func(s *step, err error) {
		if s.op.Del && err != nil { // nothing will be notified
			w.expected.take(s.neighborKey())
		}
		if err != nil && !(s.op.Del && gone(err)) {
			s.fail(err)
		}
	})
	w.topo.answers.wrote(w.steps)
}

func (w *writer) startNeighbor(s *step) {
	switch {
	case s.at == nil:
		return
	case !s.op.Key.Addr.IsValid():
		s.fail(errors.New("not the address of a host"))
		return
	case w.trusted(s, s.neighborKey()):
		s.phase = change
	case s.op.Del || s.op.Replace:
		s.phase = look
	default:
		s.phase = claim
	}
	if s.op.Key.Addr.Is6() && !s.op.Del {
		w.topo.wantsIPv6(s.op.Key.VNI)
	}
}

// putNeighbor adds the message for the row. NOARP keeps the kernel from probing it, NTF_EXT_LEARNED from evicting it
// when the table is full.
func (w *writer) putNeighbor(s *step, flags netlink.HeaderFlags) {
	mark := uint8(ourMark)
	if s.op.Entry.Router {
		mark |= unix.NTF_ROUTER
	}
	w.batch.add(unix.RTM_NEWNEIGH, flags, func(b []byte) []byte {
		b = putNDM(b, family(s.op.Key.Addr), s.at.bridge, unix.NUD_NOARP, mark)
		b = putAddr(b, unix.NDA_DST, s.op.Key.Addr)
		b = putMAC(b, s.op.Entry.MAC)
		return putAttr(b, ndaProtocol, []byte{protocolBGP})
	})
}

func (w *writer) buildNeighborLook(s *step) {
	w.batch.add(unix.RTM_GETNEIGH, 0, func(b []byte) []byte {
		b = putNDM(b, family(s.op.Key.Addr), s.at.bridge, 0, 0)
		return putAddr(b, unix.NDA_DST, s.op.Key.Addr)
	})
}

// neighborOwner judges a neighbour.
func neighborOwner(r row) owner {
	const unresolved = unix.NUD_INCOMPLETE | unix.NUD_FAILED
	switch {
	case r.family == 0 || r.state == unix.NUD_NONE || r.state&unresolved != 0:
		return nobody
	case r.ext() && r.proto == protocolBGP:
		return ours
	case r.ext() || r.fixed():
		return foreign
	default:
		return learned
	}
}

// decideNeighbors judges what the looks found.
func (w *writer) decideNeighbors() {
	for i := range w.steps {
		s := &w.steps[i]
		if s.phase != look {
			continue
		}
		o := neighborOwner(s.near)
		same := s.near.mac == s.op.Entry.MAC
		stoodIn := w.standIns.take(s.neighborKey())
		switch {
		case s.op.Del && o != ours:
			s.phase = done
		case s.op.Del, o == nobody, o == ours:
			s.phase = change
		case o == learned && (s.op.Replace || s.op.Stood || same): // a cache of the kernel's, nobody's word
			s.phase = yield
		case o == foreign && s.op.Stood && !stoodIn && (s.near.ext() || s.near.proto == protocolBGP): // what someone made of ours
			w.expected.put(s.neighborKey())
			s.phase = yield
		case o == foreign && same:
			s.phase = done // theirs says the same
			w.standIns.put(s.neighborKey())
		default:
			s.fail(fmt.Errorf("%w: %s on %s", errForeign, s.near.mac, s.at.Bridge))
			s.mend = fmt.Sprintf("ip neigh del %s dev %s", s.op.Key.Addr, s.at.Bridge)
		}
	}
}

func (w *writer) buildNeighborChange(s *step) {
	if !s.op.Del {
		w.putNeighbor(s, netlink.Create|netlink.Replace)
		return
	}
	w.expected.put(s.neighborKey())
	w.buildNeighborDelete(s)
}

// buildNeighborDelete adds the message that removes the row. A row that the kernel learned is removed before ours takes
// its place, for the sake of the notification: of a row that is overwritten we would not hear, since the echo of our own
// rows is not let through, and the host's IP would be taken for local for ever.
func (w *writer) buildNeighborDelete(s *step) {
	w.batch.add(unix.RTM_DELNEIGH, 0, func(b []byte) []byte {
		b = putNDM(b, family(s.op.Key.Addr), s.at.bridge, 0, 0)
		return putAddr(b, unix.NDA_DST, s.op.Key.Addr)
	})
}

func (s *step) neighborKey() rowKey { return rowKey{ifindex: s.at.bridge, addr: s.op.Key.Addr.As16()} }

// isHost reports whether a neighbour may be a host to announce, as opposed to groups, broadcast, the bridge itself and
// addresses that mean nothing outside of one link.
func isHost(at *attached, r row) bool {
	return r.dst.IsGlobalUnicast() && !r.mac.IsZero() && !r.mac.IsGroup() && r.mac != at.BridgeMAC
}

// localIP says what a neighbour that is not ours means.
func localIP(at *attached, r row) evpn.LocalIP {
	return evpn.LocalIP{VNI: at.VNI, IP: r.dst, MAC: r.mac, Router: r.flags&unix.NTF_ROUTER != 0}
}
