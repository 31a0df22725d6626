package dataplane

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"github.com/evpnd/evpnd/evpn"
)

// What one port may send before the rest is not looked at, and how long the port is left alone then. Meanwhile its ring
// fills and the kernel drops what comes, which costs us nothing.
const (
	framesPerSecond = 2000
	framesAtOnce    = 4000
	limitedPause    = 10 * time.Millisecond
)

// Keys under which words of frames are coalesced.
type (
	frameKey ipKey
	sightKey macKey
)

// snooper reads ARP and ND of local hosts off the access ports of the bridges that are served, one ring and one goroutine
// for each, and puts what they say into pending.
type snooper struct {
	topo    *topology
	pending *pending
	log     logrus.FieldLogger
	wake    chan struct{} // holds a token when the ports may have changed
	spare   chan *ring    // one that is made and not bound, for the next port
	packets [protocols][verdicts]atomic.Uint64

	mu    sync.Mutex
	ports map[int]*snooped // by ifindex
	off   error            // why nothing is snooped; nil: it is
}

// snooped is one port. Its goroutine makes the ring, and ends when it is closed.
type snooped struct {
	ifindex int
	ring    atomic.Pointer[ring] // nil: not made yet
	failed  atomic.Bool
	ctx     context.Context
	close   context.CancelFunc
}

func newSnooper(topo *topology, p *pending, log logrus.FieldLogger) *snooper {
	return &snooper{topo: topo, pending: p, log: log, wake: make(chan struct{}, 1), spare: make(chan *ring), ports: map[int]*snooped{}}
}

// changed says that the ports may have changed. It never waits.
func (s *snooper) changed() {
	select {
	case s.wake <- struct{}{}:
	default: // a token is there already
	}
}

// run keeps one ring on each access port until ctx ends.
func (s *snooper) run(ctx context.Context) {
	var readers sync.WaitGroup
	defer readers.Wait()
	keepSpare := sync.OnceFunc(func() { readers.Go(func() { s.keepSpare(ctx) }) }) // until ctx ends
	for {
		for _, p := range s.adjust(ctx, s.topo.accessPorts()) {
			keepSpare()
			readers.Go(func() { s.snoop(p) }) // reads the port's ring until it is closed
		}
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		}
	}
}

// keepSpare has a ring ready for the next port: a host may tell its address as soon as its port is there, and does so once.
func (s *snooper) keepSpare(ctx context.Context) {
	for ctx.Err() == nil {
		r, err := newRing()
		switch {
		case errors.Is(err, unix.EPERM):
			return
		case err != nil: // the next port tries as well, and says so
			pause(ctx, retryAfter)
			continue
		}
		select {
		case s.spare <- r:
		case <-ctx.Done():
			r.close()
		}
	}
}

// takeRing returns a ring on a port: the spare one, or when many ports come at once a new one.
func (s *snooper) takeRing(ifindex int) (*ring, error) {
	var r *ring
	select {
	case r = <-s.spare:
	default:
		var err error
		if r, err = newRing(); err != nil {
			return nil, err
		}
	}
	if err := r.bind(ifindex); err != nil {
		return nil, errors.Join(err, r.close())
	}
	return r, nil
}

// adjust closes the ports that are no longer wanted and returns those that are new.
func (s *snooper) adjust(ctx context.Context, wanted map[int]bool) []*snooped {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ifindex, p := range s.ports {
		if !wanted[ifindex] || p.failed.Load() {
			p.close()
			delete(s.ports, ifindex)
		}
	}
	var added []*snooped
	for _, ifindex := range slices.Sorted(maps.Keys(wanted)) {
		if s.ports[ifindex] == nil {
			p := &snooped{ifindex: ifindex}
			p.ctx, p.close = context.WithCancel(ctx)
			s.ports[ifindex] = p
			added = append(added, p)
		}
	}
	return added
}

// snoop reads one port until it is closed.
func (s *snooper) snoop(p *snooped) {
	defer p.close()
	r, err := s.takeRing(p.ifindex)
	if err != nil {
		s.refused(p, err)
		return
	}
	defer r.close()
	p.ring.Store(r)
	stop := context.AfterFunc(p.ctx, r.interrupt)
	defer stop()
	reader := portReader{snooper: s, ifindex: p.ifindex, ring: r, parser: newFrameParser(), limit: rate.NewLimiter(framesPerSecond, framesAtOnce)}
	for p.ctx.Err() == nil {
		limited, err := reader.read()
		switch {
		case err != nil && p.ctx.Err() == nil:
			s.refused(p, err)
			return
		case limited:
			pause(p.ctx, limitedPause)
		}
	}
}

// refused takes note of a port that cannot be snooped. It is tried again when something about the ports changes: most
// often it is gone, and the kernel is about to say so.
func (s *snooper) refused(p *snooped, err error) {
	p.failed.Store(true)
	log := s.log.WithError(err).WithField("ifname", s.topo.portName(p.ifindex))
	if !errors.Is(err, unix.EPERM) {
		log.Debug("port not snooped")
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.off == nil {
		s.off = err
		s.log.WithError(err).Warn("frames of local hosts not snooped, their addresses come from the neighbor table only: grant CAP_NET_RAW")
	}
}

// portReader is what the goroutine of one port works with.
type portReader struct {
	*snooper
	ifindex int
	ring    *ring
	parser  *frameParser
	limit   *rate.Limiter
}

// read waits for frames and takes in all there are, or as many as the ring holds. limited says that some were more than
// the port may send.
func (r *portReader) read() (limited bool, err error) {
	if err := r.ring.wait(); err != nil {
		return false, err
	}
	now, lost := time.Now(), false
	for range ringFrames {
		frame, tagged, losing, ok := r.ring.next()
		if !ok {
			break
		}
		if !r.limit.AllowN(now, 1) {
			limited = true
			r.count(protocolOf(frame), verdictLimited)
		} else {
			r.take(frame, tagged)
		}
		lost = lost || losing
		r.ring.release()
	}
	if lost { // one system call for all of them
		r.packets[protoOther][verdictLost].Add(r.ring.lost())
	}
	return limited, nil
}

// take judges one frame, and reports what it says.
func (r *portReader) take(frame []byte, tagged bool) {
	proto := protocolOf(frame)
	if tagged {
		r.count(proto, verdictTagged)
		return
	}
	said, v := r.parser.parse(frame)
	if v == verdictAccepted {
		v = r.report(said)
	}
	if v == verdictAccepted {
		r.attend(frame, said.mac)
	}
	r.count(proto, v)
}

// report hands the word of a host to the core, for every VNI of the port's bridge.
func (r *portReader) report(said spoken) verdict {
	port, ats := r.topo.accessPort(r.ifindex)
	for _, at := range ats {
		if said.mac == at.BridgeMAC {
			return verdictSpoofed
		}
		if said.ip.IsValid() {
			r.pending.host(frameKey{at.VNI, said.ip}, evpn.LocalIP{
				VNI: at.VNI, IP: said.ip, MAC: said.mac, Router: said.router, Source: evpn.WitnessFrame, Port: port,
			})
		} else {
			r.pending.host(sightKey{at.VNI, said.mac}, evpn.Sighted{VNI: at.VNI, MAC: said.mac, Port: port})
		}
	}
	return verdictAccepted
}

func (s *snooper) count(p protocol, v verdict) { s.packets[p][v].Add(1) }

// SnoopStatus says what is read off the access ports.
type SnoopStatus struct {
	Ports   int    // with a ring
	Off     string // why none can be had, in plain words; "": they can
	Packets []SnoopCount
}

// SnoopCount counts the frames of one kind since the start. Of frames that the ring did not hold the protocol is not
// known.
type SnoopCount struct {
	Proto   string // arp, rarp, nd, other
	Verdict string // accepted, malformed, spoofed, tagged, limited, lost
	Packets uint64
}

func (s *snooper) status() SnoopStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	var st SnoopStatus
	if s.off != nil {
		st.Off = s.off.Error()
	}
	for _, p := range s.ports {
		if p.ring.Load() != nil && !p.failed.Load() {
			st.Ports++
		}
	}
	for proto := range protocols {
		for v := range verdicts {
			if n := s.packets[proto][v].Load(); n > 0 {
				st.Packets = append(st.Packets, SnoopCount{proto.String(), v.String(), n})
			}
		}
	}
	return st
}
