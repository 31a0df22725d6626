package speaker

import (
	"bytes"
	"sync"
	"time"

	"github.com/evpnd/evpnd/evpn/wire"
)

// membershipTime bounds how long End-of-RIB waits for a peer to finish sending its RT memberships (RC-04).
const membershipTime = 60 * time.Second

// endOfRIB decides when EVPN End-of-RIB goes out on a session: once, after every route we have (GR-04). After a restart
// of ours "every route" is known to the core only, and a peer that has kept our routes drops at End-of-RIB what is not
// announced again; so what GoBGP sends before the core's word is swallowed, and then GoBGP is asked, by a ROUTE-REFRESH
// in the peer's name, to send the table again, with a fresh End-of-RIB behind the last route.
type endOfRIB struct {
	mu      sync.Mutex
	marked  bool // GoBGP ends each dump of its table with End-of-RIB (engineOpen); else ours may precede routes
	held    bool // the first one is not to be passed on
	seen    bool // GoBGP's first one has come
	members bool // the peer's RT memberships are complete
	asked   bool
	sent    bool
	timer   *time.Timer
}

// start is called before GoBGP can send anything.
func (e *endOfRIB) start(marked, held bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.marked, e.held = marked, held
}

// dumped reports whether GoBGP has sent its table, as far as that can be seen.
func (e *endOfRIB) dumped() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.seen || !e.marked
}

func (e *endOfRIB) stop() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.sent = true
	if e.timer != nil {
		e.timer.Stop()
	}
}

// passEoR decides about an EVPN End-of-RIB of GoBGP. It runs on the relay's goroutine.
func (s *session) passEoR() bool {
	e := &s.eor
	e.mu.Lock()
	e.seen = true
	pass := !e.sent && (!e.held || e.asked)
	if pass {
		e.sent = true
	}
	e.mu.Unlock()
	if !pass {
		s.catchUpEoR()
	}
	return pass
}

// catchUpEoR asks GoBGP for a dump that End-of-RIB may follow, if it is time. Called whenever one of the conditions has
// become true.
func (s *session) catchUpEoR() {
	e := &s.eor
	e.mu.Lock()
	due := e.held && !e.asked && !e.sent && s.p.sp.released.Load() && (e.seen || !e.marked) && (e.members || !s.neg.rtc)
	due = due || !e.held && !e.marked && !e.sent
	if due {
		e.asked = true
		e.sent = !e.marked
	}
	marked := e.marked
	e.mu.Unlock()
	switch {
	case !due:
	case marked:
		if err := s.toEngine(refreshMessage(familyEVPN)); err != nil {
			s.log.WithError(err).Debug("session ends before End-of-RIB")
		}
	default:
		s.send(wire.AppendEoR(nil))
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
