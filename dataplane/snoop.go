package dataplane

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"github.com/evpnd/evpnd/evpn"
)

// A port may send what secondsAtOnce allow for in one go. When it sends more it is left alone for a while: its ring fills,
// and the kernel drops what comes, which costs us nothing. Until the ring is full each frame wakes our poller, so the pause is
// long enough that it is full for most of the time.
const (
	secondsAtOnce = 2
	limitedPause  = 100 * time.Millisecond
)

// What one port may be sent by DHCP servers. Others flood that, and the host behind the port must be heard all the same: the
// ring hears nothing but its host for a while then.
const (
	answersPerSecond = 100
	answersAtOnce    = 1000
	mutedPause       = time.Second
)

// Keys under which words of frames are coalesced. That of a lease is its own, so that a frame of the host right after does
// not take the lease's place. Each host speaks for itself: one that claims the address of another, or its MAC as well,
// again and again, must not take the place of what that one answers.
type (
	frameKey struct {
		ipKey
		mac  evpn.MAC
		port int // ifindex
	}
	leaseKey frameKey
	sightKey macKey
)

// snooper reads ARP, ND and DHCP of local hosts off the access ports of the bridges that are served, one ring and one
// goroutine for each, and puts what they say into pending.
type snooper struct {
	topo    *topology
	pending *pending
	log     logrus.FieldLogger
	wake    waker        // holds a token when the ports may have changed
	spare   chan *ring   // one that is made and not bound, for the next port
	own     ownAddresses // read by ways, which hears when they change
	packets packetCounts // of all ports since the start

	mu     sync.Mutex
	ports  map[int]*snooped // by ifindex
	failed map[int]bool     // of ports, those to be tried again
	off    error            // why nothing is snooped; nil: it is
}

// snooped is one port. Its goroutine makes the ring, and ends when it is closed.
type snooped struct {
	ifindex int
	ring    atomic.Pointer[ring] // nil: not made yet
	packets packetCounts
	ctx     context.Context
	close   context.CancelFunc
}

func newSnooper(topo *topology, p *pending, log logrus.FieldLogger) *snooper {
	return &snooper{topo: topo, pending: p, log: log, wake: newWaker(), spare: make(chan *ring), ports: map[int]*snooped{}, failed: map[int]bool{}}
}

// changed says that the ports may have changed. It never waits.
func (s *snooper) changed() {
	s.wake.signal()
}

// run keeps one ring on each access port until ctx ends.
func (s *snooper) run(ctx context.Context) {
	var readers sync.WaitGroup
	defer readers.Wait()
	keepSpare := sync.OnceFunc(func() { readers.Go(func() { s.keepSpare(ctx) }) }) // until ctx ends
	for {
		for _, p := range s.adjust(ctx) {
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

// adjust closes the ports that are no longer wanted and returns those that are new, or failed before.
func (s *snooper) adjust(ctx context.Context) []*snooped {
	wanted, gone := s.topo.turnedPorts()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, ifindex := range gone {
		if p := s.ports[ifindex]; p != nil {
			p.close()
			delete(s.ports, ifindex)
		}
		delete(s.failed, ifindex)
	}
	var added []*snooped
	for _, ifindex := range slices.AppendSeq(wanted, maps.Keys(s.failed)) {
		if old := s.ports[ifindex]; old != nil && !s.failed[ifindex] && !old.isLost() {
			continue
		} else if old != nil {
			old.close()
		}
		delete(s.failed, ifindex)
		p := &snooped{ifindex: ifindex}
		p.ctx, p.close = context.WithCancel(ctx)
		s.ports[ifindex] = p
		added = append(added, p)
	}
	return added
}

// isLost reports that the port is gone, whatever has its index now.
func (p *snooped) isLost() bool {
	r := p.ring.Load()
	return r != nil && !r.bound()
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
	reader := newPortReader(s, p, r)
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
	log := s.log.WithError(err).WithField("ifname", s.topo.portName(p.ifindex))
	s.mu.Lock()
	defer s.mu.Unlock()
	if !errors.Is(err, unix.EPERM) {
		if s.ports[p.ifindex] == p {
			s.failed[p.ifindex] = true
		}
		log.Debug("port not snooped")
		return
	}
	if s.off == nil {
		s.off = err
		s.log.WithError(err).Warn("frames of local hosts not snooped, their addresses come from the neighbor table only: grant CAP_NET_RAW")
	}
}

// portReader is what the goroutine of one port works with.
type portReader struct {
	*snooper
	port    *snooped
	ring    *ring
	parser  *frameParser
	dhcp    *dhcpReader
	limit   *rate.Limiter // of what comes in
	answers *rate.Limiter // of what goes out
	muted   time.Time     // until then the ring hears nothing but the host; the zero time: it hears servers too
}

func newPortReader(s *snooper, p *snooped, r *ring) *portReader {
	n := s.topo.snoopRate()
	return &portReader{
		snooper: s, port: p, ring: r, parser: newFrameParser(), dhcp: newDHCPReader(),
		limit:   rate.NewLimiter(rate.Limit(n), secondsAtOnce*n),
		answers: rate.NewLimiter(answersPerSecond, answersAtOnce),
	}
}

// read waits for frames and takes in all there are, or as many as the ring holds. limited says that some were more than
// the port may send.
func (r *portReader) read() (limited bool, err error) {
	if err := r.ring.wait(); err != nil {
		return false, err
	}
	now, lost := time.Now(), false
	if n := r.topo.snoopRate(); rate.Limit(n) != r.limit.Limit() {
		r.limit.SetLimitAt(now, rate.Limit(n))
		r.limit.SetBurstAt(now, secondsAtOnce*n)
	}
	if now.After(r.muted) {
		r.ring.mute(false)
	}
	for range ringFrames {
		f, ok := r.ring.next()
		if !ok {
			break
		}
		limit := r.limit
		if f.outgoing {
			limit = r.answers
		}
		switch {
		case limit.AllowN(now, 1):
			r.take(f, now)
		case f.outgoing:
			r.count(protocolOf(f.data), verdictLimited)
			r.muted = now.Add(mutedPause)
			r.ring.mute(true)
		default:
			r.count(protocolOf(f.data), verdictLimited)
			limited = true
		}
		lost = lost || f.losing
		r.ring.release()
	}
	if lost { // one system call for all of them
		n := r.ring.lost()
		r.packets[protoOther][verdictLost].Add(n)
		r.port.packets[protoOther][verdictLost].Add(n)
	}
	return limited, nil
}

// take judges one frame, and reports what it says.
func (r *portReader) take(f ringFrame, now time.Time) {
	proto := protocolOf(f.data)
	var v verdict
	switch {
	case f.tagged || isTagged(f.data):
		v = verdictTagged
	case proto != protoDHCP && proto != protoDHCPv6:
		var said spoken
		if said, v = r.parser.parse(f.data); v == verdictAccepted {
			v = r.report(said, f.at)
		}
		if v == verdictAccepted {
			r.attend(f.data, said.mac)
		}
	case f.cut:
		v = verdictLost
	default:
		var mac evpn.MAC
		var leases []lease
		if mac, leases, v = r.dhcp.read(f.data, f.outgoing, now); v == verdictAccepted {
			v = r.reportLeases(mac, leases, f)
		}
	}
	r.count(proto, v)
}

// report hands the word of a host to the core, for every VNI of the port's bridge.
func (r *portReader) report(said spoken, heard time.Time) verdict {
	port, ats := r.topo.accessPort(r.port.ifindex)
	for _, at := range ats {
		if said.mac == at.BridgeMAC || said.ip.IsValid() && r.isOurs(at, said.ip) {
			return verdictSpoofed
		}
		if said.ip.IsValid() {
			r.pending.host(frameKey{ipKey{at.VNI, said.ip}, said.mac, r.port.ifindex}, evpn.LocalIP{
				VNI: at.VNI, IP: said.ip, MAC: said.mac, Router: said.router, Source: evpn.WitnessFrame, Port: port,
				Heard: heard,
			})
		} else {
			r.pending.host(sightKey{at.VNI, said.mac}, evpn.Sighted{VNI: at.VNI, MAC: said.mac, Port: port})
		}
	}
	return verdictAccepted
}

// reportLeases does the same for what a host and a DHCP server agreed on, or what the host gave back. A message of the host
// that says nothing of an address is a sign of life.
func (r *portReader) reportLeases(mac evpn.MAC, leases []lease, f ringFrame) verdict {
	if len(leases) == 0 && !f.outgoing {
		return r.report(spoken{mac: mac}, f.at)
	}
	port, ats := r.topo.accessPort(r.port.ifindex)
	for _, at := range ats {
		if mac == at.BridgeMAC || slices.ContainsFunc(leases, func(l lease) bool { return r.isOurs(at, l.ip) }) {
			return verdictSpoofed
		}
		for _, l := range leases {
			r.pending.host(leaseKey{ipKey{at.VNI, l.ip}, mac, r.port.ifindex}, evpn.LocalIP{
				VNI: at.VNI, IP: l.ip, MAC: mac, Source: evpn.WitnessDHCP, Port: port, Lease: l.valid, Gone: l.gone,
				Heard: f.at,
			})
		}
	}
	return verdictAccepted
}

// isOurs reports whether an address is our VTEP's or the bridge's own.
func (s *snooper) isOurs(at *attached, ip netip.Addr) bool {
	return ip == at.Local || s.own.has(at.bridge, ip)
}

func (r *portReader) count(p protocol, v verdict) {
	r.packets[p][v].Add(1)
	r.port.packets[p][v].Add(1)
}
