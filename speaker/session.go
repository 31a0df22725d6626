package speaker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/evpnd/evpnd/config"
	"github.com/evpnd/evpnd/evpn"
	"github.com/evpnd/evpnd/evpn/wire"
)

// openTime is how long a peer may take to send its OPEN.
const openTime = 30 * time.Second

// phase says how far a session is; the states of RFC 4271 §8.2.2 that need a connection. Guarded by peer.mu.
type phase uint8

const (
	openSent phase = iota
	openConfirm
	established
)

// ending says why a session ended.
type ending struct {
	reason   string
	sent     *notification
	received *notification
}

func (e *ending) Error() string { return e.reason }

// session is one TCP connection with a peer and the inner leg to its GoBGP neighbour. run owns it; the two legs end
// together, and everything the core hears of it comes from the goroutine of run, in order.
type session struct {
	p      *peer
	cfg    config.Peer
	log    logrus.FieldLogger
	dialed bool       // we connected; else the peer did
	remote netip.Addr // the other end, with zone
	outer  *outerConn
	in     *messageReader

	moving sync.Mutex // leg is being exchanged, or taken down
	gate   sync.Mutex // what goes to the peer from GoBGP; taken before legMu
	told   told       // guarded by gate

	legMu   sync.Mutex // what goes to GoBGP, one whole message at a time
	leg     *leg       // nil before it is attached; changed with both gate and legMu held
	members members
	holding bool     // GoBGP is not to be asked for its table
	held    []family // what it is to be asked for later
	answer  answer   // to a ROUTE-REFRESH of the peer

	timers   sync.WaitGroup
	phase    phase
	open     open   // the peer's
	peerOpen []byte // as it came
	marked   bool   // GoBGP marks the end of each dump of its table (engineOpen)
	neg      negotiated
	eor      endOfRIB

	decoder *wire.Decoder
	result  wire.Result
	batch   []evpn.Event
	batched int  // routes in batch
	up      bool // the core knows
	adopted bool // established by another process

	mu       sync.Mutex
	patience time.Duration // how long the peer may be silent; 0: for ever
	ended    *ending
	parking  bool          // the reader is to stop: the session is handed over
	parked   bool          // another process has it from now on
	halted   chan struct{} // closed when the reader has stopped
	ending   chan struct{} // closed with ended
	done     chan struct{} // closed when nothing more comes of this session
}

// negotiated is what both OPENs allow.
type negotiated struct {
	evpn, rtc, as4, extended, refresh bool
	enhanced                          bool          // ROUTE-REFRESH with begin and end (RFC 7313)
	notification                      bool          // N on both sides (RFC 8538)
	hold                              time.Duration // 0: no timer
	retain                            time.Duration // how long the peer's routes outlive the session; 0: not
	longLived                         time.Duration // how long beyond that (RFC 9494)
	stays                             bool          // the peer takes part in graceful restart and so may keep ours
}

func newSession(p *peer, cfg config.Peer, c *net.TCPConn, dialed bool) *session {
	s := &session{
		p: p, cfg: cfg, dialed: dialed, outer: newOuterConn(c), patience: openTime, remote: remoteOf(c),
		log:    p.log.WithField("local", c.LocalAddr().String()),
		halted: make(chan struct{}), ending: make(chan struct{}), done: make(chan struct{}),
	}
	if cfg.Unnumbered() {
		s.log = s.log.WithField("remote", s.remote.String())
	}
	s.in = newMessageReader(s, wire.Options{})
	return s
}

// run is the session's life.
func (s *session) run(ctx context.Context) {
	s.end(s.why(s.live(ctx)))
	s.finish()
}

// live is the session until something ends it. A panic over a peer's message is a bug of ours, but costs only that
// peer's session (ER-19).
func (s *session) live(ctx context.Context) (err error) {
	defer func() {
		if r := recover(); r != nil {
			s.log.WithField("stack", string(debug.Stack())).Errorf("panic over a message of the peer: %v", r)
			err = &ending{reason: fmt.Sprintf("internal error: %v", r), sent: cease(ceaseResources, "")}
		}
	}()
	if s.adopted {
		s.goOn(ctx)
	} else if err := s.establish(ctx); err != nil {
		return err
	}
	return s.receive()
}

// keepAlive sends a KEEPALIVE three times per hold time or as configured, until the session ends. GoBGP has been told
// that there is no hold time: it would measure what we pass on, which EVPN UPDATEs are not.
func (s *session) keepAlive() {
	every := func() time.Duration {
		pause := s.neg.hold / 3
		if configured := s.p.config().Keepalive; configured > 0 { // a reload may change it
			pause = min(pause, configured)
		}
		return max(pause, time.Second/2)
	}
	t := time.NewTimer(every())
	defer t.Stop()
	msg := wire.AppendKeepalive(nil)
	for {
		select {
		case <-t.C:
			s.send(msg)
			t.Reset(every())
		case <-s.ending:
			return
		}
	}
}

// send writes whole messages to the peer; the session ends if that is impossible.
func (s *session) send(b []byte) {
	if len(b) == 0 {
		return
	}
	switch err := s.outer.write(b); {
	case err == nil:
		s.p.sent(b)
	case !errors.Is(err, errFinal):
		s.end(&ending{reason: fmt.Sprintf("send: %v", err)})
	}
}

// toEngine hands one message to GoBGP.
func (s *session) toEngine(msg []byte) error {
	s.legMu.Lock()
	defer s.legMu.Unlock()
	return s.leg.write(msg)
}

// Read reads from the peer, which may be silent for patience. It is for the messageReader.
func (s *session) Read(b []byte) (int, error) {
	s.mu.Lock()
	if s.ended == nil && !s.parking {
		var deadline time.Time
		if s.patience > 0 {
			deadline = time.Now().Add(s.patience)
		}
		_ = s.outer.SetReadDeadline(deadline)
	}
	s.mu.Unlock()
	return s.outer.Read(b)
}

// setPatience says how long the peer may be silent from now on; 0 is for ever.
func (s *session) setPatience(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.patience = d
}

// next reads one message of the peer.
func (s *session) next() (wire.MessageType, []byte, error) {
	kind, msg, err := s.in.next()
	if err == nil {
		s.p.received(kind)
	}
	return kind, msg, err
}

// notified makes the ending of a NOTIFICATION from the peer. GoBGP must not see it: it would end its side first.
func (s *session) notified(msg []byte) error {
	n := parseNotification(msg)
	return &ending{reason: "peer sent NOTIFICATION " + n.String(), received: n}
}

// why turns what ended the reading of a session into its ending.
func (s *session) why(err error) *ending {
	var e *ending
	var bad *wire.ResetError
	switch {
	case errors.As(err, &e):
		return e
	case errors.As(err, &bad):
		return &ending{
			reason: bad.Reason, sent: &notification{bad.Code, bad.Subcode, bad.Data},
		}
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &ending{reason: "hold timer expired", sent: &notification{code: codeHold}}
	case errors.Is(err, io.EOF):
		return &ending{reason: "peer closed the connection"}
	default:
		return &ending{reason: err.Error()}
	}
}

// end ends the session; only the first call counts. The peer hears it at once, whatever run is waiting for.
func (s *session) end(e *ending) {
	s.mu.Lock()
	if s.ended != nil {
		s.mu.Unlock()
		return
	}
	if e.sent != nil && s.neg.notification {
		e.sent = e.sent.hardened()
	}
	s.ended = e
	close(s.ending)
	_ = s.outer.SetReadDeadline(time.Unix(1, 0))
	s.mu.Unlock()
	if e.sent == nil {
		s.outer.finish(nil)
		return
	}
	msg := e.sent.message()
	s.outer.finish(msg)
	s.p.sent(msg)
}

// finish tells the core, lets the next connection of the peer go on, and takes the legs down.
func (s *session) finish() {
	e := s.ended
	if s.parked {
		_ = s.outer.Close() // the other process has it too
	} else {
		s.p.wg.Go(s.outer.drain)
	}
	if s.up && !s.parked {
		s.batch = append(s.batch, s.loss(e))
	}
	s.flush()
	s.p.ended(s, e)
	close(s.done)
	s.timers.Wait()
	s.eor.stop()
	s.moving.Lock()
	defer s.moving.Unlock()
	if s.leg != nil {
		s.leg.close(&s.p.sp.routing, s.quieten)
	}
}

const (
	// lastWords bounds how long the end of a session may keep new routes from GoBGP.
	lastWords = time.Second
	// digested is when GoBGP has surely passed on a route, unless it owes a dump.
	digested = 200 * time.Millisecond
)

// quieten has GoBGP say all it has for a session that is over. When everything ends nobody minds what is left behind.
func (s *session) quieten() {
	sp := s.p.sp
	select {
	case <-sp.quit:
		s.leg.settle()
		return
	default:
	}
	busy := s.leg.due() || time.Since(time.Unix(0, sp.toldAt.Load())) < digested
	if busy && s.leg.running && s.marked {
		s.leg.drain(lastWords)
		return
	}
	s.leg.settle()
}

// loss is what the core is to know of the end of a session. What was agreed does not hold when either side gave notice,
// unless both agreed that only a Hard Reset counts (RFC 4724 §4.2, RFC 8538 §4); on-peer-loss may go beyond it.
func (s *session) loss(e *ending) evpn.PeerDown {
	down := evpn.PeerDown{Peer: s.p.addr, Reason: e.reason}
	policy := s.p.config().OnPeerLoss
	if policy.Withdraw {
		return down
	}
	agreed, kept := true, true
	for _, n := range []*notification{e.sent, e.received} {
		agreed = agreed && (n == nil || s.neg.notification && !n.hardReset())
	}
	switch n := e.sent.unwrapped(); {
	case e.received != nil && e.received.hardReset():
		kept = false
	case n != nil && n.code == codeCease:
		kept = n.subcode != ceaseMaxRoutes && n.subcode != ceaseDeconfigured
	}
	if agreed {
		down.Retain, down.LongLived = s.neg.retain, s.neg.longLived
	}
	if kept {
		down.Keep = policy.Keep
	}
	down.Again = s.neg.notification || down.LongLived > 0 || down.Keep > 0
	return down
}
