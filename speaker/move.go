package speaker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/evpnd/evpnd/evpn/wire"
)

// moveTime bounds how long a fresh engine may take to send its table on a new leg.
const moveTime = time.Minute

// holdTime bounds how long a move waits for GoBGP to answer what it has been asked for.
const holdTime = 10 * time.Second

var (
	errUnsettled = errors.New("End-of-RIB or an answer to a ROUTE-REFRESH is still under way")
	errUnmarked  = errors.New("the peer's OPEN leaves no room for what makes GoBGP mark the end of its table")
	errUnread    = errors.New("an UPDATE went out that could not be read")
)

// moveTo puts another engine, which has all our routes, behind a living session; the peer sees nothing of it. The fresh
// GoBGP is shown the peer's OPEN and KEEPALIVE and must answer as the one before did; that and its first table go
// nowhere. Then its leg takes the place of the old one between two messages, it is given the peer's RT memberships and
// asked for its table once more, and of that the peer gets what differs from what it has been told: as a rule nothing.
// An error means that the session goes on as before.
func (s *session) moveTo(ctx context.Context, e *engine) error {
	s.moving.Lock()
	defer s.moving.Unlock()
	if s.isEnding() {
		return nil
	}
	if !s.marked {
		return errUnmarked
	}
	next, err := e.attach(ctx, s.cfg)
	if err != nil {
		return err
	}
	next.role = legWaiting
	s.expectDumps(next)
	go s.relay(next)
	if err := s.introduce(ctx, next); err != nil {
		next.close(&s.p.sp.routing, next.settle)
		return err
	}
	s.hold()
	old, err := s.switchTo(next)
	if err != nil {
		s.resume()
		next.close(&s.p.sp.routing, next.settle)
		return err
	}
	old.close(&s.p.sp.routing, func() { old.drain(holdTime) })
	return nil
}

func (s *session) isEnding() bool {
	select {
	case <-s.ending:
		return true
	default:
		return false
	}
}

// expectDumps says which dumps GoBGP sends by itself on a leg.
func (s *session) expectDumps(l *leg) {
	if s.neg.evpn && s.marked {
		l.evpn.expect()
	}
	if s.neg.rtc {
		l.rtc.expect()
	}
}

// introduce plays the peer's part of the handshake on a waiting leg and waits until GoBGP has sent its table.
func (s *session) introduce(ctx context.Context, l *leg) error {
	limit := time.NewTimer(moveTime)
	defer limit.Stop()
	wait := func(done <-chan struct{}) error {
		select {
		case <-done:
			return nil
		case <-l.gone:
			return errors.New("bgp engine closed the new leg")
		case <-s.ending:
			return errEnded
		case <-ctx.Done():
			return ctx.Err()
		case <-limit.C:
			return errors.New("bgp engine does not answer on the new leg")
		}
	}
	if err := wait(l.opened); err != nil {
		return err
	}
	l.offered, l.running = true, true
	msg, _ := engineOpen(s.peerOpen, &s.open)
	if err := errors.Join(l.write(msg), l.write(wire.AppendKeepalive(nil))); err != nil {
		return err
	}
	return wait(l.caughtUp)
}

// overhear takes note of what GoBGP says on a waiting leg. s.gate is held.
func (s *session) overhear(l *leg, kind wire.MessageType, msg []byte) {
	switch kind {
	case wire.MessageOpen:
		l.open = bytes.Clone(msg)
		if !bytes.Equal(msg, s.leg.open) {
			l.fault = fmt.Errorf("bgp engine's OPEN %x is not the one that the peer has got, %x", msg, s.leg.open)
		}
		closeOnce(l.opened)
	case wire.MessageKeepalive:
		closeOnce(l.greeted)
	case wire.MessageNotification:
		l.fault = fmt.Errorf("bgp engine refuses the session: NOTIFICATION %s", parseNotification(msg))
		closeOnce(l.caughtUp)
	}
	select {
	case <-l.greeted:
		if !l.due() {
			closeOnce(l.caughtUp)
		}
	default:
	}
}

// hold has ROUTE-REFRESHes of the peer wait, and waits until GoBGP has answered those it has got: a peer that never stops
// asking shall not keep its session from being moved.
func (s *session) hold() {
	s.legMu.Lock()
	s.holding = true
	l := s.leg
	s.legMu.Unlock()
	limit := time.After(holdTime)
	for l.due() {
		select {
		case <-s.ending:
			return
		case <-limit: // switchTo will see it
			return
		case <-time.After(time.Millisecond):
		}
	}
}

// resume has GoBGP answer the ROUTE-REFRESHes that waited.
func (s *session) resume() {
	s.legMu.Lock()
	defer s.legMu.Unlock()
	s.holding = false
	held := s.held
	s.held = nil
	for _, f := range held {
		s.askLater(f)
	}
}

// switchTo makes the leg that waits the one that serves, between two messages in either direction, and returns the one
// that has served so far.
func (s *session) switchTo(next *leg) (old *leg, err error) {
	s.gate.Lock()
	defer s.gate.Unlock()
	old = s.leg
	switch {
	case s.isEnding():
		return nil, errEnded
	case next.fault != nil:
		return nil, next.fault
	case s.told.lost:
		return nil, errUnread
	case old.due() || !s.eor.settled(&s.neg):
		return nil, errUnsettled
	}
	s.flushLeg(old)
	if err := s.handOver(next); err != nil {
		s.end(&ending{reason: err.Error()})
		return old, nil
	}
	s.compared(next)
	return old, nil
}

// handOver turns what the peer says to next from here on, after what it has said before. s.gate is held.
func (s *session) handOver(next *leg) error {
	s.legMu.Lock()
	defer s.legMu.Unlock()
	s.leg.done.Store(true)
	next.role = legComparing
	s.leg = next
	s.told.compare()
	for _, msg := range s.members.replay() {
		if err := next.write(msg); err != nil {
			return err
		}
	}
	if s.neg.rtc {
		if err := next.write(refreshMessage(familyRTC)); err != nil {
			return err
		}
	}
	if s.neg.evpn {
		return next.write(refreshMessage(familyEVPN))
	}
	return nil
}

// compared ends the comparison when GoBGP has sent all it has: what it no longer announces is withdrawn, and it gets the
// ROUTE-REFRESHes that came meanwhile, the answer to which the comparison would have kept from the peer. s.gate is held.
func (s *session) compared(l *leg) {
	if l.due() {
		return
	}
	l.out = append(l.out, s.told.leftovers()...)
	l.role = legServing
	s.flushLeg(l)
	s.resume()
}
