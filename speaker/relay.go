package speaker

import (
	"slices"
	"time"

	"github.com/evpnd/evpnd/evpn/wire"
)

// relayChunk is how much is collected for one write to the peer while more is at hand.
const relayChunk = 32 << 10

// relay reads GoBGP's messages on an inner leg until GoBGP closes it. What becomes of them is the leg's role's affair.
func (s *session) relay(l *leg) {
	defer close(l.gone)
	r := newMessageReader(l.conn, wire.Options{Extended: true})
	for {
		kind, msg, err := r.next()
		if err != nil {
			s.gate.Lock()
			mute := l.role == legWaiting || l.done.Load()
			s.gate.Unlock()
			if !mute {
				s.end(&ending{reason: "bgp engine closed the session"})
			}
			return
		}
		l.heardAt.Store(time.Now().UnixNano())
		marks := endsDump(kind, msg)
		if l.done.Load() { // reading on lets GoBGP end cleanly
			l.over(marks)
			continue
		}
		s.fromEngine(l, kind, msg, marks, r.ready())
	}
}

// fromEngine deals with one message of GoBGP; marks is the family whose dump it ends, and more says that another message
// is at hand.
func (s *session) fromEngine(l *leg, kind wire.MessageType, msg []byte, marks family, more bool) {
	s.gate.Lock()
	defer s.gate.Unlock()
	if l.done.Load() {
		l.over(marks)
		return
	}
	switch l.role {
	case legServing:
		s.pass(l, kind, msg, marks)
		if marks != 0 {
			s.flushLeg(l) // the end of one answer goes out before the next begins
			l.over(marks)
			s.askHeld(marks)
		}
	case legWaiting:
		l.over(marks)
		s.overhear(l, kind, msg)
	case legComparing:
		l.over(marks)
		if kind == wire.MessageUpdate && marks == 0 {
			l.out = append(l.out, s.told.update(msg)...)
		} else if kind == wire.MessageNotification {
			s.pass(l, kind, msg, marks)
		}
		s.compared(l)
	}
	if !more || len(l.out) >= relayChunk {
		s.flushLeg(l)
	}
}

// endsDump tells the family of an End-of-RIB; 0: it is none.
func endsDump(kind wire.MessageType, msg []byte) family {
	if kind == wire.MessageUpdate {
		for _, f := range []family{familyEVPN, familyRTC} {
			if isEndOfRIB(msg, f) {
				return f
			}
		}
	}
	return 0
}

// ask has GoBGP send its table of a family once more, on behalf of the peer or of our own End-of-RIB. One at a time: the
// End-of-RIBs of two dumps that wait in GoBGP's queue together become one (v4.8.0).
func (s *session) ask(f family) error {
	s.legMu.Lock()
	defer s.legMu.Unlock()
	return s.askNow(f)
}

// askNow is ask with s.legMu held.
func (s *session) askNow(f family) error {
	if !s.holding && !s.leg.dumps(f).due() {
		s.beginAnswer(f)
		return s.leg.write(refreshMessage(f))
	}
	if !slices.Contains(s.held, f) {
		s.held = append(s.held, f)
	}
	return nil
}

// asks reports whether GoBGP is still to be asked for a family.
func (s *session) asks(f family) bool {
	s.legMu.Lock()
	defer s.legMu.Unlock()
	return slices.Contains(s.held, f)
}

// askHeld asks for a family that had to wait for the dump that is over now.
func (s *session) askHeld(f family) {
	s.legMu.Lock()
	defer s.legMu.Unlock()
	if at := slices.Index(s.held, f); at >= 0 {
		s.held = slices.Delete(s.held, at, at+1)
		s.askLater(f)
	}
}

// askLater is askNow where nobody can do anything about a leg that is going down. s.legMu is held.
func (s *session) askLater(f family) {
	if err := s.askNow(f); err != nil {
		s.log.WithError(err).Debug("session ends before the answer to a ROUTE-REFRESH")
	}
}

// pass passes a message to the peer: unchanged, but for GoBGP's OPEN and its End-of-RIB markers.
func (s *session) pass(l *leg, kind wire.MessageType, msg []byte, marks family) {
	switch kind {
	case wire.MessageOpen:
		l.open = append([]byte(nil), msg...)
		l.began.open = true
		restarted := s.p.restarted()
		msg = ownOpen(msg, manner{
			hold: s.cfg.HoldTime, graceful: s.cfg.GracefulRestart > 0, longLived: s.cfg.LongLived,
			restarted: restarted, preserved: !s.p.sp.flushOnExit.Load() && !(restarted && s.p.sp.lost.Load()),
		})
	case wire.MessageUpdate:
		if marks == 0 {
			msg = s.told.update(msg)
		} else if !s.passEoR(marks) {
			msg = s.endAnswer(marks)
		}
	case wire.MessageKeepalive:
		l.began.keepalive = true
	case wire.MessageNotification:
		s.flushLeg(l)
		n := parseNotification(msg)
		s.end(&ending{reason: "sent NOTIFICATION " + n.String(), sent: n})
		return
	}
	l.out = append(l.out, msg...)
}

// flushLeg writes what the leg has for the peer. s.gate is held, so that a leg never stops serving inside a message.
func (s *session) flushLeg(l *leg) {
	s.send(l.out)
	l.out = l.out[:0]
	if l.began.open {
		closeOnce(l.opened)
	}
	if l.began.keepalive { // GoBGP has accepted the peer's OPEN
		closeOnce(l.greeted)
	}
	l.began.open, l.began.keepalive = false, false
}

// closeOnce closes a channel that only the calling goroutine closes.
func closeOnce(c chan struct{}) {
	select {
	case <-c:
	default:
		close(c)
	}
}
