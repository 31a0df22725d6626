package speaker

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/evpnd/evpnd/config"
	"github.com/evpnd/evpnd/evpn"
	"github.com/evpnd/evpnd/evpn/wire"
	"github.com/evpnd/evpnd/rtadv"
)

const (
	maxUnfinished = 4                      // accepted connections of one peer that are not established
	dialTimeout   = 5 * time.Second        // of one attempt to connect
	redial        = 50 * time.Millisecond  // after a session that was up
	firstBackoff  = 200 * time.Millisecond // after the first failure
	faultMemory   = time.Minute            // a session that lived longer was not brought down by what it started with
	malformedLog  = 10 * time.Second       // least time between two log lines about malformed UPDATEs
)

// farewell is how a peer's sessions are ended when it is stopped; it is the cause of its context.
type farewell struct {
	subcode  uint8 // of Cease
	text     string
	most     int  // ceaseMaxRoutes: the limit
	graceful bool // say nothing to a peer that takes part in graceful restart: it shall keep our routes
	removed  bool // the peer left the configuration
}

func (f *farewell) Error() string { return f.text }

// peer is one configured or dynamic peer and its connections. run dials; sessions run on goroutines of their own.
type peer struct {
	sp      *Speaker
	log     logrus.FieldLogger
	addr    netip.Addr   // with zone; what evpn.InterfacePeer made for an unnumbered peer
	dynamic netip.Prefix // the range it came from; the zero Prefix for a configured peer
	stop    context.CancelCauseFunc
	stopped chan struct{}  // closed when nothing of the peer runs any more
	wake    chan struct{}  // something changed for run
	wg      sync.WaitGroup // sessions, and closed connections that drain

	deciding sync.Mutex // one collision at a time

	advertise atomic.Bool // of link

	mu      sync.Mutex
	cfg     config.Peer
	conns   map[*session]struct{}
	current *session // the one whose OPEN went to GoBGP
	closed  bool     // no new connections
	dialing bool
	pause   time.Duration // between attempts to dial
	next    time.Time     // of the next attempt
	held    time.Time     // no session before, whoever connects: too many routes
	lastLog time.Time
	link    rtadv.Status // of an unnumbered peer
	target  netip.Addr   // who is dialled; the zero Addr while nobody is known on the link

	since                  time.Time
	shown                  State
	counters               Counters
	lastError              string
	lastErrorAt            time.Time
	lastCause              error
	lastSent, lastReceived string
}

func newPeer(sp *Speaker, cfg config.Peer, dynamic netip.Prefix) *peer {
	p := &peer{
		sp: sp, cfg: cfg, addr: cfg.Address, dynamic: dynamic,
		log:     sp.log.WithField("peer", evpn.PeerName(cfg.Address)),
		stopped: make(chan struct{}), wake: make(chan struct{}, 1), conns: make(map[*session]struct{}),
		since: time.Now(), shown: StateIdle,
	}
	if !cfg.Unnumbered() {
		p.target = cfg.Address
	}
	p.advertise.Store(!cfg.NoAdvertisements)
	return p
}

// run dials whenever there is no connection, until ctx ends; then it ends every session and waits for all of them.
func (p *peer) run(ctx context.Context) {
	defer close(p.stopped)
	if cfg := p.config(); cfg.Unnumbered() {
		p.wg.Go(func() { p.watchLink(ctx) })
	}
	for ctx.Err() == nil && !p.retired() {
		var due <-chan time.Time
		if at, ok := p.dialAt(); ok {
			pause := time.Until(at)
			if pause <= 0 {
				p.dial(ctx)
				continue
			}
			due = time.After(pause)
		} else if hold := p.idleHold(); hold > 0 {
			due = time.After(hold)
		}
		select {
		case <-due:
		case <-p.wake:
		case <-ctx.Done():
		}
	}
	p.shutdown(ctx)
}

func (p *peer) config() config.Peer {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cfg
}

// dialAt says when to dial next; never while there is a connection of the peer, or when it is the one to dial.
func (p *peer) dialAt() (at time.Time, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.next, len(p.conns) == 0 && !p.cfg.Passive && p.target.IsValid()
}

// retired closes a dynamic peer that has no connection any more. The one it was made for is there before run starts.
func (p *peer) retired() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = p.closed || p.dynamic.IsValid() && len(p.conns) == 0 && !time.Now().Before(p.held)
	return p.closed
}

// idleHold is how long no session is allowed.
func (p *peer) idleHold() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Until(p.held)
}

// dial makes one attempt.
func (p *peer) dial(ctx context.Context) {
	cfg := p.dialled()
	p.setDialing(true)
	p.lengthenPause()
	c, err := connect(ctx, cfg, p.sp.asn)
	p.setDialing(false)
	if err != nil {
		if ctx.Err() == nil {
			p.failed(err)
			p.log.WithError(err).Debug("peer does not answer")
			p.tryOther()
		}
		return
	}
	if !p.start(ctx, c, true) {
		_ = c.Close()
	}
}

// connect opens a TCP connection with a peer.
func connect(ctx context.Context, cfg config.Peer, asn uint32) (*net.TCPConn, error) {
	d := net.Dialer{Timeout: dialTimeout, KeepAlive: -1, Control: control(peerOptions(cfg, asn))}
	if cfg.LocalAddress.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(cfg.LocalAddress, 0))
	}
	d.SetMultipathTCP(false) // cannot do MD5
	c, err := d.DialContext(ctx, "tcp", netip.AddrPortFrom(cfg.Address, cfg.Port).String())
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// lengthenPause doubles the pause before the next attempt.
func (p *peer) lengthenPause() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.setPause(min(max(2*p.pause, firstBackoff), max(p.cfg.ConnectRetry, firstBackoff)))
}

// setPause sets the time of the next attempt, with 25 % jitter: peers that lost each other shall not meet in step. p.mu
// is held.
func (p *peer) setPause(d time.Duration) {
	p.pause = d
	p.next = time.Now().Add(d - d/4 + rand.N(d/2))
}

// start runs a session on a connection. false means that the peer is closed.
func (p *peer) start(ctx context.Context, c *net.TCPConn, dialed bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	if time.Now().Before(p.held) {
		p.log.Debug("connection during idle hold refused")
		_ = c.Close()
		return true
	}
	unfinished := 0
	for s := range p.conns {
		if !s.dialed && s.phase != established {
			unfinished++
		}
	}
	if !dialed && unfinished >= maxUnfinished {
		p.log.Debug("too many unfinished connections of this peer")
		_ = c.Close()
		return true
	}
	s := newSession(p, p.cfg, c, dialed)
	p.conns[s] = struct{}{}
	p.show()
	p.wg.Go(func() { s.run(ctx) })
	return true
}

// establish notes that s is up, unless it has ended already.
func (p *peer) establish(s *session) bool {
	select {
	case <-s.ending:
		return false
	default:
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	s.phase = established
	p.counters.Established++
	p.show()
	return true
}

// restarted reports whether the peer is to hear that we have restarted: until our routes are announced, and, however fast that
// was, in the first session of this life (RFC 4724 §4.1). A dynamic peer is forgotten between its sessions.
func (p *peer) restarted() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.sp.released.Load() || !p.dynamic.IsValid() && p.counters.Established == 0
}

// ended notes that a session is over and the core has heard it; the next one may go on.
func (p *peer) ended(s *session, e *ending) {
	p.mu.Lock()
	was := s.phase == established
	if was {
		p.counters.Flaps++
		switch {
		case !e.sent.fault() && !e.received.fault():
			p.setPause(redial)
		case time.Since(p.since) > faultMemory:
			p.setPause(firstBackoff)
		default: // what ended it will end the next one
			p.setPause(max(p.pause, firstBackoff))
		}
	}
	if n := e.sent.unwrapped(); n != nil && n.code == codeCease && n.subcode == ceaseMaxRoutes && p.cfg.MaxRoutes.IdleHold > 0 {
		p.held = time.Now().Add(p.cfg.MaxRoutes.IdleHold)
		p.pause, p.next = firstBackoff, p.held
	}
	delete(p.conns, s)
	if p.current == s {
		p.current = nil
	}
	p.lastError, p.lastErrorAt, p.lastCause = e.reason, time.Now(), nil
	if e.sent.isBadPeerAS() || e.received.isBadPeerAS() {
		p.lastCause = ErrPeerAS
	}
	if e.sent != nil {
		p.lastSent = e.sent.String()
	}
	if e.received != nil {
		p.lastReceived = e.received.String()
	}
	p.show()
	p.mu.Unlock()
	log := s.log.WithField("reason", e.reason)
	if e.sent != nil {
		log = log.WithField("sent", e.sent.String())
	}
	switch {
	case s.parked:
		log.Info("session handed over")
	case was:
		log.Info("session down")
	case e.sent.mattersEarly() || e.received.mattersEarly():
		if p.mayLog() {
			log.Warn("session does not come up")
		}
	default:
		log.Debug("connection ended before a session was up")
	}
	p.poke()
}

func (p *peer) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// unhold lets a peer come up again that had too many routes.
func (p *peer) unhold() {
	p.mu.Lock()
	if !p.held.IsZero() {
		p.held, p.next = time.Time{}, time.Now()
	}
	p.mu.Unlock()
	p.poke()
}

// reset ends all connections of the peer with a Cease.
func (p *peer) reset(f *farewell) {
	p.mu.Lock()
	var all []*session
	for s := range p.conns {
		all = append(all, s)
	}
	p.mu.Unlock()
	for _, s := range all {
		p.wg.Go(func() { s.dismiss(f) })
	}
}

// dismiss ends one session as f says.
func (s *session) dismiss(f *farewell) {
	e := &ending{reason: f.text}
	if !f.graceful || !s.p.keepsRoutes(s) {
		e.sent = cease(f.subcode, f.text)
	}
	if f.subcode == ceaseMaxRoutes {
		e.sent.data = binary.BigEndian.AppendUint32([]byte{0, 25, 70}, uint32(min(f.most, math.MaxUint32))) // RFC 4486 §4
	}
	s.end(e)
}

// keepsRoutes reports whether the peer keeps our routes when an established session just ends.
func (p *peer) keepsRoutes(s *session) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return s.phase == established && s.neg.stays
}

func (p *peer) shutdown(ctx context.Context) {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	var f *farewell
	if !errors.As(context.Cause(ctx), &f) {
		f = &farewell{subcode: ceaseShutdown, text: "evpnd is stopping", graceful: !p.sp.flushOnExit.Load()}
	}
	p.reset(f)
	p.wg.Wait()
	if f.removed {
		p.sp.emit([]evpn.Event{evpn.PeerDown{Peer: p.addr, Reason: f.text}})
	}
}

func (p *peer) failed(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lastError, p.lastErrorAt, p.lastCause = fmt.Sprintf("connect: %v", err), time.Now(), err
}

func (p *peer) setDialing(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dialing = on
	p.show()
}

// state gives the state of the peer's most advanced connection. p.mu is held.
func (p *peer) state() State {
	best := StateIdle
	switch {
	case p.dialing:
		best = StateConnect
	case p.cfg.Passive:
		best = StateActive
	}
	for s := range p.conns {
		switch {
		case s.phase == established:
			return StateEstablished
		case s.phase == openConfirm:
			best = StateOpenConfirm
		case best != StateOpenConfirm:
			best = StateOpenSent
		}
	}
	return best
}

// show remembers when the state changed. p.mu is held.
func (p *peer) show() {
	if now := p.state(); now != p.shown {
		p.shown, p.since = now, time.Now()
	}
}

func (p *peer) count(f func(*Counters)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f(&p.counters)
}

// received counts a message from the peer.
func (p *peer) received(kind wire.MessageType) {
	p.count(func(c *Counters) {
		c.MessagesIn++
		if kind == wire.MessageUpdate {
			c.UpdatesIn++
		}
	})
}

// sent counts the messages in b.
func (p *peer) sent(b []byte) {
	p.count(func(c *Counters) {
		for len(b) >= wire.HeaderLen {
			c.MessagesOut++
			if wire.MessageType(b[18]) == wire.MessageUpdate {
				c.UpdatesOut++
			}
			b = b[min(len(b), max(wire.HeaderLen, int(binary.BigEndian.Uint16(b[16:])))):]
		}
	})
}

// mayLog limits log lines that a peer can cause as often as it likes.
func (p *peer) mayLog() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Since(p.lastLog) < malformedLog {
		return false
	}
	p.lastLog = time.Now()
	return true
}

func localIP(s *session) net.IP { return s.outer.LocalAddr().(*net.TCPAddr).IP }
