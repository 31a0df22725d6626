package dataplane

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"github.com/evpnd/evpnd/evpn"
)

// How long a ping waits and how often it tries. The longest one, of a VTEP that is silent in MaxPingVNIs VNIs, takes some 20 s.
const (
	pingWait  = 400 * time.Millisecond
	pingLeast = 50 * time.Millisecond  // that it waits where the first answer was quick
	pingGrace = 200 * time.Millisecond // for evpnd, after the kernel has answered
	pingTries = 3
	pingPace  = 500 // packets a second
	pingBurst = 50
	pingSmall = 128 // octets of an IP packet that passes everywhere

	// MaxPingVNIs is how many VNIs one ping asks in.
	MaxPingVNIs = 256
)

// PingTarget is a VTEP to be pinged.
type PingTarget struct {
	VTEP netip.Addr
	VNIs []PingVNI // to ask in, at most MaxPingVNIs
}

// PingVNI is a VNI to ask in. Where no evpnd answers, a host that is known to be behind the VTEP is asked for its address.
type PingVNI struct {
	VNI evpn.VNI
	IP  netip.Addr // of that host; the zero Addr: none is known
	MAC evpn.MAC
}

// PingMark says what a step found.
type PingMark string

// Marks.
const (
	PingOK    PingMark = "ok"
	PingInfo  PingMark = "info" // neither good nor bad
	PingFault PingMark = "fault"
)

// PingStep is one thing that was tried, and what came of it.
type PingStep struct {
	Mark   PingMark
	Topic  string         // route, icmp, mtu, port, vni
	Code   evpn.FaultCode // of a fault
	VNI    evpn.VNI       // 0: of none
	Text   string
	RTT    time.Duration // 0: none was measured
	Remedy string        // of a fault: the command that mends it, or what is to be done
}

// pinger is one ping.
type pinger struct {
	d      *Dataplane
	self   netip.Addr
	target PingTarget
	report func(PingStep)
	pace   *rate.Limiter
	seq    uint16
	id     uint16

	bound  string // device that packets must leave by; ""
	need   int    // octets of the largest IP packet of a VNI
	widest *attached
	icmp   *pingSocket
	evpnd  *pingMessage // what the evpnd there said of us; nil: none answered by ICMP
	narrow bool         // the way is known to be too narrow
	wait   time.Duration
}

// PingVTEP tries what lies between our VTEP and another one: the route, ICMP echo in two sizes, UDP to VXLAN's port, and each
// VNI, and reports step by step what it finds. It needs CAP_NET_RAW, and Run to be running. The error is that of ctx, or what
// kept it from trying at all; faults that it finds are steps. It may be called from any goroutine.
func (d *Dataplane) PingVTEP(ctx context.Context, target PingTarget, report func(PingStep)) error {
	p := &pinger{
		d: d, self: d.topo.options().VTEP, target: target, report: report,
		wait: pingWait, pace: rate.NewLimiter(pingPace, pingBurst), id: uint16(rand.Uint32()),
	}
	p.measure()
	if !p.route() {
		return ctx.Err()
	}
	var err error
	if p.icmp, err = dialPing(p.self, target.VTEP, 0, p.bound); err != nil {
		return p.notDialled(err)
	}
	defer p.icmp.close()
	answers, dead := p.echoSmall(ctx)
	if dead {
		return ctx.Err()
	}
	if answers && !p.narrow {
		p.echoFull(ctx)
	}
	if err := p.vnis(ctx); err != nil {
		return err
	}
	return ctx.Err()
}

// notDialled says why there is no socket.
func (p *pinger) notDialled(err error) error {
	if !errors.Is(err, unix.EADDRNOTAVAIL) {
		return fmt.Errorf("ping vtep %s: %w", p.target.VTEP, err)
	}
	p.fault(PingStep{
		Topic: "route", Code: evpn.FaultVTEPNotHere, Text: fmt.Sprintf("our tunnel address %s is on no device of this host", p.self),
		Remedy: fmt.Sprintf("ip addr add %s dev lo", p.self),
	})
	return nil
}

func (p *pinger) fault(s PingStep) {
	s.Mark = PingFault
	p.report(s)
}

func (p *pinger) say(mark PingMark, topic, format string, args ...any) {
	p.report(PingStep{Mark: mark, Topic: topic, Text: fmt.Sprintf(format, args...)})
}

// measure finds out how large the packets of the VNIs may become, and which device they leave by.
func (p *pinger) measure() {
	for i, v := range p.target.VNIs {
		at := p.d.topo.vni(v.VNI)
		if at == nil {
			continue
		}
		if i == 0 {
			p.bound = p.d.topo.portName(p.d.topo.tunnel(at).bound)
		}
		if need := p.d.topo.mtu(at.device) + overheadOf(p.self); need > p.need {
			p.need, p.widest = need, at
		}
	}
}

// route looks at the way that our own kernel takes. false: there is none.
func (p *pinger) route() bool {
	vtep := p.target.VTEP
	found, err := p.d.ways.lookUp([]netip.Addr{vtep})
	if err != nil {
		p.say(PingInfo, "route", "not looked up: %v", err)
		return true
	}
	if why := found[0].unusable(p.d.topo.options().Reachability); why != "" {
		p.fault(PingStep{
			Topic: "route", Code: evpn.FaultVTEPUnreachable, Text: fmt.Sprintf("%s to %s", why, vtep),
			Remedy: fmt.Sprintf("ip route get %s, and mend the underlay's routing", vtep),
		})
		return found[0].why == "" && found[0].carrier // a default route, which the policy does not accept, may lead there
	}
	device, mtu := p.d.topo.portName(found[0].oif), cmp.Or(found[0].mtu, p.d.topo.mtu(found[0].oif))
	if p.need <= mtu || mtu == 0 {
		p.say(PingOK, "route", "by %s, MTU %d, from %s", device, mtu, p.self)
		p.learned(mtu)
		return true
	}
	p.narrow = true
	p.fault(PingStep{
		Topic: "route", Code: evpn.FaultUnderlayMTU, VNI: p.widest.VNI,
		Text:   fmt.Sprintf("by %s, MTU %d, from %s; full frames of %s need %d", device, mtu, p.self, p.widest.Device, p.need),
		Remedy: fmt.Sprintf("raise the MTU of %s, or %s", device, setMTU(p.widest.Device, mtu-overheadOf(p.self))),
	})
	return true
}

// learned tells of what the kernel goes by until it forgets it: ICMP errors that have come lately.
func (p *pinger) learned(mtu int) {
	if w, err := p.d.wayTo(p.target.VTEP); p.bound == "" && err == nil && w.mtu != 0 && w.mtu < mtu {
		p.say(PingInfo, "route", "this kernel has heard of a link with MTU %d on the way, for up to ten minutes; ip route flush cache forgets it", w.mtu)
	}
}

// echo is what came of an ICMP echo request.
type echoed struct {
	answered bool
	rtt      time.Duration
	evpnd    *pingMessage // that answered as well
	err      *pingError   // the last one
}

// echo sends an ICMP echo request of so many octets, with IP header. Where evpnd is wanted it waits for its answer too.
func (p *pinger) echo(ctx context.Context, m pingMessage, octets, tries int, evpnd bool) (r echoed) {
	header := 20
	if p.self.Is6() {
		header = 40
	}
	m.kind, m.vtep = pingCall, p.self
	data := m.put(nil, octets-header-icmpHeader)
	p.icmp.drain(func(pingRead) bool { return false }) // of what was given up
	for range tries {
		if p.pace.Wait(ctx) != nil || r.answered && (!evpnd || r.evpnd != nil) {
			break
		}
		p.seq++
		start := time.Now()
		if err := p.icmp.send(echoMessage(p.target.VTEP, false, p.id, p.seq, data)); err != nil {
			r.err = p.refusal(p.icmp, err)
			return r
		}
		p.awaitEcho(&r, m.nonce, start, start.Add(p.wait), !evpnd)
		if evpnd && r.answered && r.evpnd == nil {
			p.awaitEcho(&r, m.nonce, start, time.Now().Add(pingGrace), false)
		}
		if r.err != nil && !r.answered {
			return r
		}
	}
	return r
}

// awaitEcho waits for the answer of the kernel there, which repeats what was sent, or of the evpnd.
func (p *pinger) awaitEcho(r *echoed, nonce uint64, start, end time.Time, kernelOnly bool) {
	_ = p.icmp.readUntil(end, func(got pingRead) bool { // what cannot be received counts as silence
		if got.err != nil {
			r.err = got.err
			return true
		}
		e, ok := parseEcho(got.data, p.icmp.v4)
		m, err := parsePing(e.data)
		if !ok || !e.reply || err != nil || m.nonce != nonce || e.id != p.id {
			return false
		}
		if m.kind == pingAnswer {
			r.evpnd = &m
			return !kernelOnly
		}
		if !r.answered {
			r.answered, r.rtt = true, time.Since(start)
		}
		return true
	})
}

// refusal is what our own kernel says to a packet; the error queue may know more.
func (p *pinger) refusal(s *pingSocket, err error) *pingError {
	e := pingError{local: true, v4: s.v4}
	if !errors.As(err, &e.errno) {
		e.errno = unix.EIO
	}
	s.drain(errorsOf(func(queued pingError) { e = queued }))
	return &e
}

// echoSmall finds out whether the VTEP answers ICMP, and whether an evpnd is there. dead says that nothing gets there.
func (p *pinger) echoSmall(ctx context.Context) (answers, dead bool) {
	r := p.echo(ctx, pingMessage{nonce: rand.Uint64()}, pingSmall, pingTries, true)
	p.evpnd = r.evpnd
	switch {
	case r.answered:
		p.wait = min(pingWait, pingLeast+4*r.rtt)
		p.report(PingStep{Mark: PingOK, Topic: "icmp", RTT: r.rtt, Text: "answers ICMP echo"})
	case r.evpnd != nil:
		p.say(PingOK, "icmp", "its evpnd answers, its kernel ignores ICMP echo")
	case r.err == nil:
		p.say(PingInfo, "icmp", "no answer to ICMP echo: it is down, or ICMP is filtered")
	default:
		p.unreachable("icmp", "ICMP echo", *r.err)
		dead = r.err.reason() == reasonUnreachable || r.err.reason() == reasonLoop
	}
	return r.answered, dead
}

// unreachable reports an ICMP error that is not about size.
func (p *pinger) unreachable(topic, what string, e pingError) {
	s := PingStep{Topic: topic, Code: evpn.FaultPingUnreachable}
	switch e.reason() {
	case reasonProhibited:
		s.Code, s.Text = evpn.FaultPingFiltered, fmt.Sprintf("%s is rejected by rule, says %s", what, e.says())
		s.Remedy = fmt.Sprintf("let %s pass the firewall or the routing rules of %s", what, e.says())
	case reasonPort:
		s.Code, s.Text = evpn.FaultPingPort, fmt.Sprintf("%s is unreachable, says %s: no VXLAN device there is up with this port, or a firewall rejects it", what, e.says())
		s.Remedy = fmt.Sprintf("on %s: ip -d link show type vxlan, and its firewall", e.says())
	case reasonLoop:
		s.Text, s.Remedy = fmt.Sprintf("%s goes round in circles, says %s", what, e.says()), fmt.Sprintf("traceroute %s, and mend the underlay's routing", p.target.VTEP)
	case reasonTooBig:
		s.Code, s.Text = evpn.FaultPingMTU, fmt.Sprintf("%s does not fit into MTU %d of the next link, says %s", what, e.mtu, e.says())
		s.Remedy = "raise the MTU of that link"
	default:
		s.Text = fmt.Sprintf("%s finds no way on (%v), says %s", what, e.errno, e.says())
		s.Remedy = fmt.Sprintf("mend routing or neighbors at %s: ip route get %s", e.says(), p.target.VTEP)
		if p.ownAddress(e) {
			s.Text = fmt.Sprintf("%s is not sent: the next hop does not answer ARP or neighbor discovery", what)
			s.Remedy = fmt.Sprintf("ip route get %s, and look at its next hop in ip neigh", p.target.VTEP)
		}
	}
	p.fault(s)
}

// ownAddress reports whether an error comes from this host.
func (p *pinger) ownAddress(e pingError) bool {
	hosts, err := p.d.addresses()
	return e.local || err == nil && hosts.has(e.from)
}

// echoFull finds out whether the largest packets of the VNIs pass.
func (p *pinger) echoFull(ctx context.Context) {
	if p.need == 0 {
		return
	}
	r := p.echo(ctx, pingMessage{nonce: rand.Uint64()}, p.need, pingTries, false)
	remedy := func(mtu int) string {
		return fmt.Sprintf("raise the MTU there to %d, or %s", p.need, setMTU(p.widest.Device, mtu-overheadOf(p.self)))
	}
	s := PingStep{Topic: "mtu", VNI: p.widest.VNI}
	switch {
	case r.answered:
		p.say(PingOK, "mtu", "packets of %d octets pass, as full frames of %s need", p.need, p.widest.Device)
		return
	case r.err != nil && r.err.reason() == reasonTooBig:
		s.Code = evpn.FaultPingMTU
		s.Text = fmt.Sprintf("packets of more than %d octets do not pass %s, full frames of %s need %d", r.err.mtu, r.err.says(), p.widest.Device, p.need)
		s.Remedy = remedy(r.err.mtu)
	case r.err != nil:
		p.unreachable("mtu", "ICMP echo", *r.err)
		return
	default:
		largest := p.bisect(ctx)
		s.Code = evpn.FaultPingBlackHole
		s.Text = fmt.Sprintf("packets of more than %d octets get lost and nobody says so, there or back; full frames of %s need %d", largest, p.widest.Device, p.need)
		s.Remedy = remedy(largest)
	}
	p.narrow = true
	p.fault(s)
}

// bisect finds the largest packet that is answered.
func (p *pinger) bisect(ctx context.Context) int {
	low, high := pingSmall, p.need
	for high-low > 1 && ctx.Err() == nil {
		middle := (low + high) / 2
		if p.echo(ctx, pingMessage{nonce: rand.Uint64()}, middle, 2, false).answered {
			low = middle
		} else {
			high = middle
		}
	}
	return low
}

// sortedVNIs are the VNIs to ask in that are served here.
func (p *pinger) sortedVNIs() []*vniPing {
	var list []*vniPing
	for _, v := range p.target.VNIs {
		if at := p.d.topo.vni(v.VNI); at != nil && len(list) < MaxPingVNIs {
			list = append(list, &vniPing{PingVNI: v, at: at, port: p.d.topo.tunnel(at).port})
		}
	}
	slices.SortFunc(list, func(a, b *vniPing) int { return int(a.VNI) - int(b.VNI) })
	return list
}
