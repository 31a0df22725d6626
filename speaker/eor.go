package speaker

import (
	"bytes"
	"sync"
	"time"

	"github.com/evpnd/evpnd/evpn/wire"
)

// membershipTime bounds how long End-of-RIB waits for a peer to finish sending its RT memberships (RC-04).
const membershipTime = 60 * time.Second

// endOfRIB decides when the End-of-RIB markers go out on a session: each once, EVPN's after every route we have (GR-04).
// After a restart of ours "every route" is known to the core only, and a peer that has kept our routes drops at
// End-of-RIB what is not announced again; so what GoBGP sends before the core's word is swallowed, and then GoBGP is
// asked, by a ROUTE-REFRESH in the peer's name, to send the table again, with a fresh End-of-RIB behind the last route.
//
// It is the same with our RT memberships, which the core knows once it has seen the kernel: at their End-of-RIB a peer
// sends the routes we asked for so far and EVPN End-of-RIB behind them (RFC 4684 §6). Too early that is no route at all,
// and the core takes every entry it has adopted for an orphan.
type endOfRIB struct {
	mu      sync.Mutex
	marked  bool // GoBGP ends each dump of its table with End-of-RIB (engineOpen); else ours may precede routes
	evpn    marker
	rtc     marker
	members bool // the peer's RT memberships are complete
	timer   *time.Timer
}

// marker is End-of-RIB of one family on its way to the peer.
type marker struct {
	held  bool // the first one is not to be passed on
	seen  bool // GoBGP's first one has come
	asked bool // GoBGP, for another one
	sent  bool
}

// pass decides about a marker that GoBGP has sent. pending says that what it was asked for is still to come.
func (m *marker) pass(pending bool) bool {
	m.seen = true
	pass := !m.sent && (!m.held || m.asked && !pending)
	m.sent = m.sent || pass
	return pass
}

// start is called before GoBGP can send anything. released says that the core has given its word already, waits that the
// peer's RT memberships come first.
func (e *endOfRIB) start(marked, released, waits bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.marked = marked
	e.evpn.held = !released || waits
	e.rtc.held = !released && marked // GoBGP cannot be asked for another one when there was no room to say so
}

// settled reports whether all End-of-RIBs have gone out: from then on GoBGP's are for us alone.
func (e *endOfRIB) settled(n *negotiated) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return (e.evpn.sent || !n.evpn) && (e.rtc.sent || !n.rtc)
}

func (e *endOfRIB) stop() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.evpn.sent, e.rtc.sent = true, true
	if e.timer != nil {
		e.timer.Stop()
	}
}

// passEoR decides about an End-of-RIB of GoBGP. It runs on the relay's goroutine.
func (s *session) passEoR(f family) bool {
	e := &s.eor
	m := &e.evpn
	if f == familyRTC {
		m = &e.rtc
	}
	pending := s.asks(f)
	e.mu.Lock()
	pass := m.pass(pending)
	e.mu.Unlock()
	if !pass {
		s.catchUpEoR()
	}
	return pass
}

// catchUpEoR asks GoBGP for the dumps that End-of-RIB may follow, if it is time. Called whenever one of the conditions
// has become true.
func (s *session) catchUpEoR() {
	e := &s.eor
	e.mu.Lock()
	released := s.p.sp.released.Load()
	rtc := e.rtc.held && !e.rtc.asked && !e.rtc.sent && released && e.rtc.seen
	e.rtc.asked = e.rtc.asked || rtc
	m := &e.evpn
	due := m.held && !m.asked && !m.sent && released && (m.seen || !e.marked) && (e.members || !s.neg.rtc)
	due = due || !m.held && !e.marked && !m.sent
	if due {
		m.asked = true
		m.sent = !e.marked
	}
	marked := e.marked
	e.mu.Unlock()
	if rtc {
		s.askAgain(familyRTC)
	}
	switch {
	case !due:
	case marked:
		s.askAgain(familyEVPN)
	default:
		s.send(wire.AppendEoR(nil))
	}
}

// askAgain has GoBGP send what it has of a family once more, with End-of-RIB behind it.
func (s *session) askAgain(f family) {
	if err := s.ask(f); err != nil {
		s.log.WithError(err).Debug("session ends before End-of-RIB")
	}
}

// waitForMemberships starts the clock for a peer that uses RT constraint: GoBGP sends it no route before its membership.
func (s *session) waitForMemberships() {
	s.eor.mu.Lock()
	defer s.eor.mu.Unlock()
	if !s.eor.members {
		s.eor.timer = time.AfterFunc(membershipTime, s.membershipsComplete)
	}
}

func (s *session) membershipsComplete() {
	s.eor.mu.Lock()
	s.eor.members = true
	s.eor.mu.Unlock()
	s.catchUpEoR()
}

// isEndOfRIB recognizes End-of-RIB of a family: an UPDATE with nothing but an empty MP_UNREACH_NLRI (RFC 4724 §2).
func isEndOfRIB(msg []byte, f family) bool {
	body := msg[wire.HeaderLen:]
	id := []byte{byte(f >> 24), byte(f >> 16), byte(f)}
	switch len(body) {
	case 10:
		return bytes.Equal(body[:7], []byte{0, 0, 0, 6, 0x80, 15, 3}) && bytes.Equal(body[7:], id)
	case 11: // with the length in two octets
		return bytes.Equal(body[:8], []byte{0, 0, 0, 7, 0x90, 15, 0, 3}) && bytes.Equal(body[8:], id)
	default:
		return false
	}
}
