package dataplane

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

const (
	// probeTick is the shortest time between two looks of the prober: of very many VTEPs several have their turn at once.
	probeTick = 5 * time.Millisecond
	// probeBuffer is the room for answers, in octets.
	probeBuffer = 1 << 20
)

// prober asks the VTEPs that the core names, one after the other within each interval, by ICMP echo from our tunnel address,
// which needs nothing at the other end. One that has answered before and then misses so many in a row counts as unreachable
// until it answers again. One that never answered is left in peace: its ICMP may be filtered. So are all of them when they
// fall silent together: what fails is this host's then, or there is nobody left to send to.
type prober struct {
	topo    *topology
	log     logrus.FieldLogger
	changed func() // what why says has changed
	wake    waker  // holds a token when there may be something to do

	sent, answers, misses atomic.Uint64

	mu       sync.Mutex
	vteps    []netip.Addr
	each     map[netip.Addr]*probed
	turn     int       // index of who is asked next
	heard    time.Time // when the youngest request that was answered had been sent
	endRound context.CancelFunc
	off      error // why nobody can be asked; nil: nothing is against it
}

// probed is what is known of one VTEP.
type probed struct {
	nonce    uint64
	seq      uint16
	sent     time.Time
	waiting  bool      // for the answer to seq
	misses   int       // in a row
	first    time.Time // when the first of these was sent
	answered bool      // ever
	silent   bool      // counts as unreachable
	limit    int       // misses that made it silent
	rtt      time.Duration
}

func newProber(t *topology, changed func(), log logrus.FieldLogger) *prober {
	return &prober{
		topo: t, log: log, changed: changed, wake: newWaker(), each: map[netip.Addr]*probed{}, endRound: func() {},
	}
}

// watch replaces the VTEPs. What is known of those that stay is kept.
func (p *prober) watch(vteps []netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	each := make(map[netip.Addr]*probed, len(vteps))
	for _, a := range vteps {
		s := p.each[a]
		if s == nil {
			s = &probed{nonce: rand.Uint64()}
		}
		each[a] = s
	}
	p.vteps, p.each = slices.Clone(vteps), each
	p.poke()
}

// reconfigured says that the options may have changed.
func (p *prober) reconfigured() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.endRound()
	p.poke()
}

func (p *prober) poke() {
	p.wake.signal()
}

// why says why a VTEP counts as unreachable; "" when it does not.
func (p *prober) why(vtep netip.Addr) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.each[vtep]; s != nil && s.silent {
		return fmt.Sprintf("no answer to %d ICMP echo requests", s.limit)
	}
	return ""
}

// run probes while the options say so, until ctx ends.
func (p *prober) run(ctx context.Context) {
	for ctx.Err() == nil {
		p.mu.Lock()
		opt := p.topo.options() // under mu, so that reconfigured ends a round with older ones
		idle := opt.Probe <= 0 || !opt.VTEP.IsValid() || len(p.vteps) == 0
		if opt.Probe <= 0 {
			p.forget()
		}
		round, end := context.WithCancel(ctx)
		p.endRound = end
		p.mu.Unlock()
		if idle {
			select {
			case <-p.wake:
			case <-ctx.Done():
			}
		} else if err := p.round(round, opt); err != nil {
			p.failed(err)
			pause(ctx, retryAfter)
		}
		end()
	}
}

// forget lets go of what was found; mu is held.
func (p *prober) forget() {
	silent := false
	for a, s := range p.each {
		silent = silent || s.silent
		p.each[a] = &probed{nonce: s.nonce}
	}
	p.off = nil
	if silent {
		p.changed()
	}
}

// failed notes why nobody can be asked, and says it once.
func (p *prober) failed(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.off == nil {
		p.log.WithError(err).Warn("vteps not probed")
	}
	p.off = err
}

// round probes with the same options until ctx ends.
func (p *prober) round(ctx context.Context, opt Options) error {
	s, err := listenProbes(opt.VTEP, p.topo.portName(p.topo.boundTo()[0]))
	if err != nil {
		return err
	}
	defer s.close()
	defer context.AfterFunc(ctx, s.interrupt)()
	take := func(r pingRead) bool { p.take(r, s.v4); return false }
	p.restart()
	for next := time.Now(); ctx.Err() == nil; {
		if err := s.file.SetReadDeadline(next); err != nil {
			return fmt.Errorf("set deadline: %w", err)
		}
		if ctx.Err() != nil { // before the deadline was set, so that nothing would interrupt
			break
		}
		if err := s.read(take); err != nil && ctx.Err() == nil {
			return err
		}
		s.drain(take) // answers that came while we had no time must not count as missed
		pause := p.ask(s, opt, time.Now())
		if next = next.Add(pause); next.Before(time.Now()) {
			next = time.Now()
		}
	}
	return nil
}

// restart has no answer waited for: the socket that it would come to is gone.
func (p *prober) restart() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.off = nil
	for _, s := range p.each {
		s.waiting = false
	}
}

// ask judges and asks those whose turn it is, and returns how long the next ones wait.
func (p *prober) ask(s *pingSocket, opt Options, now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.vteps)
	if n == 0 {
		return opt.Probe
	}
	step := opt.Probe / time.Duration(n)
	some := 1
	if step < probeTick {
		some = min(n, int((probeTick+max(step, 1)-1)/max(step, 1)))
	}
	for range some {
		p.turn = (p.turn + 1) % n
		a := p.vteps[p.turn]
		at := p.each[a]
		if at.waiting && now.Sub(at.sent) >= opt.Probe/2 { // less when the list became much shorter
			p.missed(a, at, opt.ProbeMisses)
		} else if at.waiting {
			continue
		}
		at.seq++
		at.sent = now
		m := pingMessage{kind: pingCall, nonce: at.nonce, vtep: opt.VTEP}
		at.waiting = p.send(s, a, echoMessage(a, false, uint16(at.nonce), at.seq, m.put(nil, pingOctets)))
	}
	return time.Duration(some) * step
}

// send reports whether an answer may be expected. What the kernel has no room for says nothing about the VTEP.
func (p *prober) send(s *pingSocket, to netip.Addr, b []byte) bool {
	p.sent.Add(1)
	err := s.control(func(fd int) error { return unix.Sendto(fd, b, unix.MSG_DONTWAIT, sockaddr(to, 0)) })
	return !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.ENOMEM)
}

// missed counts a request without answer; mu is held.
func (p *prober) missed(a netip.Addr, at *probed, limit int) {
	p.misses.Add(1)
	if at.misses++; at.misses == 1 {
		at.first = at.sent
	}
	if !at.answered || at.silent || at.misses < limit || p.others(a) && !p.heard.After(at.first) {
		return
	}
	at.silent, at.limit = true, limit
	p.changed()
}

// others reports whether another VTEP has ever answered; mu is held.
func (p *prober) others(a netip.Addr) bool {
	for b, s := range p.each {
		if s.answered && b != a {
			return true
		}
	}
	return false
}

// take takes in an answer, of the kernel there or of the evpnd.
func (p *prober) take(r pingRead, v4 bool) {
	e, ok := parseEcho(r.data, v4)
	m, err := parsePing(e.data)
	if !ok || !e.reply || err != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	at := p.each[r.from]
	if at == nil || at.nonce != m.nonce {
		return
	}
	if at.waiting && e.seq == at.seq {
		p.answers.Add(1)
		at.waiting, at.rtt = false, time.Since(at.sent)
		if at.sent.After(p.heard) {
			p.heard = at.sent
		}
	}
	at.misses, at.answered = 0, true
	if at.silent {
		at.silent = false
		p.changed()
	}
}

// ProbeState says what the probe knows of a VTEP.
type ProbeState string

// What the probe knows.
const (
	ProbeAnswers ProbeState = "answers"
	ProbeMisses  ProbeState = "misses" // the last answers are missing, and it still counts as reachable
	ProbeSilent  ProbeState = "silent" // it counts as unreachable
	ProbeNever   ProbeState = "never"  // it has not answered yet, so that its silence means nothing
)

// VTEPProbe is the probe of one VTEP.
type VTEPProbe struct {
	State ProbeState
	RTT   time.Duration // of the last answer; 0: there was none
}

// ProbeStatus tells of the probes of remote VTEPs.
type ProbeStatus struct {
	Sent, Answered, Missed uint64                   // since the start
	Off                    string                   // why nobody can be asked; "": nothing is against it
	Each                   map[netip.Addr]VTEPProbe // empty while none is to be probed
}

// status returns a snapshot.
func (p *prober) status() ProbeStatus {
	st := ProbeStatus{Sent: p.sent.Load(), Answered: p.answers.Load(), Missed: p.misses.Load()}
	if p.topo.options().Probe <= 0 {
		return st
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.off != nil {
		st.Off = p.off.Error()
	}
	st.Each = make(map[netip.Addr]VTEPProbe, len(p.each))
	for a, s := range p.each {
		v := VTEPProbe{State: ProbeAnswers, RTT: s.rtt}
		switch {
		case s.silent:
			v.State = ProbeSilent
		case !s.answered:
			v.State = ProbeNever
		case s.misses > 0:
			v.State = ProbeMisses
		}
		st.Each[a] = v
	}
	return st
}
