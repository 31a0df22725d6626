package dataplane

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"
)

const (
	// answersOfPings bounds what is answered in a second, and in one go.
	answersOfPings = 1000
	// pingsSeen is how many nonces of calls are remembered, twice.
	pingsSeen = 4096
	// pingPause is how long calls wait when there were more than may be answered. The kernel drops what its socket has no
	// room for meanwhile.
	pingPause = 10 * time.Millisecond
)

// pingAnswerer answers the pings of other evpnds, and hands the answers to ours to whom they are for. One packet socket
// hears the frames of all VNIs, since nothing else has their EtherType.
type pingAnswerer struct {
	topo   *topology
	floods *floods
	ways   *ways
	log    logrus.FieldLogger
	limit  *rate.Limiter // of answers
	noise  *rate.Limiter // of frames that are none of an evpnd's, such as a host may send

	mu        sync.Mutex
	off       error // why nothing is heard; nil: it is
	waiting   map[uint64]chan<- pingMessage
	seen, old map[uint64]struct{}
}

var errNotListening = errors.New("not running yet")

func newPingAnswerer(t *topology, f *floods, w *ways, log logrus.FieldLogger) *pingAnswerer {
	return &pingAnswerer{
		topo: t, floods: f, ways: w, log: log, off: errNotListening,
		limit: rate.NewLimiter(answersOfPings, answersOfPings), noise: rate.NewLimiter(answersOfPings, answersOfPings),
		waiting: map[uint64]chan<- pingMessage{}, seen: map[uint64]struct{}{}, old: map[uint64]struct{}{},
	}
}

// run answers until ctx ends, in VNIs and by ICMP.
func (a *pingAnswerer) run(ctx context.Context) {
	self := a.topo.options().VTEP
	if !self.IsValid() {
		return
	}
	frames, err := openPingFrames()
	if err != nil {
		a.refused(err)
		return
	}
	defer frames.file.Close()
	a.refused(nil)
	defer a.refused(errNotListening)
	defer context.AfterFunc(ctx, func() { _ = frames.file.SetReadDeadline(time.Unix(1, 0)) })()
	var readers sync.WaitGroup
	defer readers.Wait()
	readers.Go(func() { a.answerEchoes(ctx, self) }) // reads ICMP until ctx ends
	for ctx.Err() == nil {
		limited, err := frames.read(a.takeFrame)
		switch {
		case err != nil && ctx.Err() == nil: // such as a link that went down
			pause(ctx, retryAfter)
		case limited:
			pause(ctx, pingPause)
		}
	}
}

// refused notes why nothing is heard.
func (a *pingAnswerer) refused(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.off = err
	if err != nil && !errors.Is(err, errNotListening) {
		a.log.WithError(err).Warn("pings of other vteps not answered")
	}
}

// state says why nothing is heard; nil: it is.
func (a *pingAnswerer) state() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.off
}

// answerEchoes answers ICMP. The address may come to this host later than we do.
func (a *pingAnswerer) answerEchoes(ctx context.Context, self netip.Addr) {
	for said := false; ctx.Err() == nil; pause(ctx, retryAfter) {
		s, err := listenPing(self)
		if err != nil {
			if !said {
				a.log.WithError(err).Debug("icmp pings of other vteps not answered yet")
			}
			said = true
			continue
		}
		stop := context.AfterFunc(ctx, s.interrupt)
		for err == nil && ctx.Err() == nil {
			limited := false
			err = s.read(func(r pingRead) bool { limited = !a.takeEcho(r, self); return limited })
			if limited {
				pause(ctx, pingPause)
			}
		}
		stop()
		_ = s.close()
	}
}

// expect has answers with any of the nonces sent to c, which must have room for them, until the function returned is called.
func (a *pingAnswerer) expect(c chan<- pingMessage, nonces []uint64) (forget func(), err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.off != nil {
		return nil, a.off
	}
	for _, n := range nonces {
		a.waiting[n] = c
	}
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		for _, n := range nonces {
			delete(a.waiting, n)
		}
	}, nil
}

// takeFrame takes in a frame from a link. false: it is one too many.
func (a *pingAnswerer) takeFrame(b []byte, ifindex int) bool {
	at := a.topo.onDevice(ifindex)
	m, err := parsePingFrame(b)
	if at == nil || err != nil || m.vni != at.VNI {
		return a.noise.Allow()
	}
	if m.kind == pingAnswer {
		a.deliver(m)
		return true
	}
	a.saw(m.nonce)
	if !a.limit.Allow() {
		return false
	}
	self := a.topo.options().VTEP
	if !a.ways.watches(m.vtep) || m.vtep.Is4() != self.Is4() { // so that nobody has us send to somebody else
		return true
	}
	tunnel := a.topo.tunnel(at)
	s, err := dialPing(self, m.vtep, tunnel.port, a.topo.portName(tunnel.bound))
	if err != nil {
		return true
	}
	defer s.close()
	_ = s.send(pingDatagram(self, a.about(m, m.vtep), len(b)-networkAt)) // who called hears nothing, and says so
	return true
}

// takeEcho takes in an ICMP echo request. false: it is one too many.
func (a *pingAnswerer) takeEcho(r pingRead, self netip.Addr) bool {
	e, ok := parseEcho(r.data, self.Is4())
	m, err := parsePing(e.data)
	if !ok || e.reply || err != nil || m.kind != pingCall {
		return true // also our own error queue
	}
	if !a.limit.Allow() {
		return false
	}
	bound := a.topo.boundTo()[0]
	if at := a.topo.vni(m.vni); at != nil {
		bound = a.topo.tunnel(at).bound
	}
	s, err := dialPing(self, r.from, 0, a.topo.portName(bound))
	if err != nil {
		return true
	}
	defer s.close()
	_ = s.send(echoMessage(r.from, true, e.id, e.seq, a.about(m, r.from).put(nil, len(e.data))))
	return true
}

// about answers a call of a VTEP. One that we know no route of learns only that we do not.
func (a *pingAnswerer) about(m pingMessage, caller netip.Addr) pingMessage {
	m.kind, m.flags = pingAnswer, 0
	m.device, m.bridge, m.mtu, m.port = "", "", 0, 0
	if a.hasSeen(m.nonce) {
		m.flags |= pingSeen
	}
	if !a.ways.watches(caller) {
		return m
	}
	m.flags |= pingKnown
	at := a.topo.vni(m.vni)
	if at == nil {
		return m
	}
	m.flags |= pingServed
	if at.Usable {
		m.flags |= pingUsable
	}
	if a.floods.owner(at.device, caller) != nobody {
		m.flags |= pingFloods
	}
	m.device, m.bridge = at.Device, at.Bridge
	m.mtu, m.port = uint32(a.topo.mtu(at.device)), a.topo.tunnel(at).port
	return m
}

func (a *pingAnswerer) deliver(m pingMessage) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c := a.waiting[m.nonce]; c != nil {
		select {
		case c <- m:
		default: // it has had one
		}
	}
}

func (a *pingAnswerer) saw(nonce uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.seen) >= pingsSeen {
		a.seen, a.old = map[uint64]struct{}{}, a.seen
	}
	a.seen[nonce] = struct{}{}
}

func (a *pingAnswerer) hasSeen(nonce uint64) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, young := a.seen[nonce]
	_, old := a.old[nonce]
	return young || old
}

// watches reports whether a route that is imported names the VTEP.
func (w *ways) watches(vtep netip.Addr) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, found := slices.BinarySearchFunc(w.vteps, vtep, netip.Addr.Compare)
	return found
}

// tunnel returns the settings of an attachment's VXLAN device.
func (t *topology) tunnel(at *attached) vxlanDevice {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if l := t.links[at.device]; l != nil {
		return l.vxlan
	}
	return vxlanDevice{vni: at.VNI, local: at.Local, port: vxlanPort}
}

// pingFrames is the packet socket of all links.
type pingFrames struct {
	file *os.File
	raw  syscall.RawConn
	buf  []byte
}

func openPingFrames() (*pingFrames, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(htons(etherTypePing)))
	if err != nil {
		return nil, fmt.Errorf("open packet socket: %w", err)
	}
	f := &pingFrames{file: os.NewFile(uintptr(fd), "packet"), buf: make([]byte, datagram)}
	if f.raw, err = f.file.SyscallConn(); err != nil {
		return nil, errors.Join(fmt.Errorf("packet socket: %w", err), f.file.Close())
	}
	return f, nil
}

// read hands over frames until take returns false, which is limited.
func (f *pingFrames) read(take func(frame []byte, ifindex int) bool) (limited bool, err error) {
	var result error
	err = f.raw.Read(func(fd uintptr) bool {
		for {
			n, from, err := unix.Recvfrom(int(fd), f.buf, unix.MSG_DONTWAIT)
			switch {
			case errors.Is(err, unix.EAGAIN):
				return false
			case errors.Is(err, unix.EINTR):
				continue
			case err != nil:
				result = fmt.Errorf("receive: %w", err)
				return true
			}
			if link, ok := from.(*unix.SockaddrLinklayer); ok && link.Pkttype != unix.PACKET_OUTGOING {
				if limited = !take(f.buf[:n], link.Ifindex); limited {
					return true
				}
			}
		}
	})
	return limited, errors.Join(err, result)
}

// pingFilter passes ICMP echo requests, or replies, with our message. IPv4 comes with its header.
func pingFilter(v4, replies bool) []unix.SockFilter {
	typ4, typ6 := uint32(icmp4EchoRequest), uint32(icmp6EchoRequest)
	if replies {
		typ4, typ6 = icmp4EchoReply, icmp6EchoReply
	}
	magic := uint32(pingMagic[0])<<24 | uint32(pingMagic[1])<<16 | uint32(pingMagic[2])<<8 | uint32(pingMagic[3])
	program := slices.Concat(load(0, 1), when(typ6, slices.Concat(load(icmpHeader, 4), when(magic, returns(datagram)), returns(0))), returns(0))
	if v4 {
		at := func(off uint32, octets int) []bpf.Instruction {
			return []bpf.Instruction{bpf.LoadMemShift{Off: 0}, bpf.LoadIndirect{Off: off, Size: octets}}
		}
		program = slices.Concat(at(0, 1), when(typ4, slices.Concat(at(icmpHeader, 4), when(magic, returns(datagram)), returns(0))), returns(0))
	}
	return assembled(program)
}
