package dataplane

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/evpnd/evpnd/evpn"
)

// vniPing is the ping in one VNI.
type vniPing struct {
	PingVNI
	at     *attached
	port   uint16 // of our VXLAN device
	nonce  uint64
	sent   time.Time
	answer *pingMessage // nil: none came
	rtt    time.Duration
}

// vnis asks in each VNI, first with small frames.
func (p *pinger) vnis(ctx context.Context) error {
	list := p.sortedVNIs()
	p.leftOut(list)
	refused, err := p.ask(ctx, list, pingOctets)
	switch {
	case err != nil && ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		p.say(PingInfo, "vni", "not asked: %v", err)
		return nil
	case len(list) == 0:
		return nil
	}
	answers := 0
	for _, v := range list {
		if v.answer != nil {
			answers++
		}
	}
	switch {
	case answers == 0 && refused != nil:
		p.unreachable("port", fmt.Sprintf("UDP port %d", list[0].port), *refused)
	case answers == 0:
		p.say(PingInfo, "port", "nobody says anything against UDP port %d, which is as it should be", list[0].port)
	}
	if p.evpnd != nil && !p.evpnd.has(pingKnown) {
		p.fault(PingStep{
			Topic: "vni", Code: evpn.FaultPingUnknown, Text: "the evpnd there imports no route of ours, and answers in no VNI",
			Remedy: fmt.Sprintf("evpnctl show route --type 3 on %s, and compare import route targets there with export route targets here", p.target.VTEP),
		})
	}
	for _, v := range list {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		p.judge(ctx, v, answers > 0, refused)
	}
	return p.full(ctx, list)
}

// leftOut says which VNIs are not asked in.
func (p *pinger) leftOut(list []*vniPing) {
	switch n := len(p.target.VNIs); {
	case n == 0:
		p.say(PingInfo, "vni", "no VNI is served here and there: no route that is imported names this VTEP")
	case len(list) == 0:
		p.say(PingInfo, "vni", "none of its VNIs has a device here: evpnctl doctor")
	case len(list) < n:
		p.say(PingInfo, "vni", "asked in %d of %d VNIs", len(list), n)
	}
}

// ask sends each VNI a call with so many octets of payload, 0 being the largest frame, and again to those that do not answer.
// refused is what ICMP says against UDP.
func (p *pinger) ask(ctx context.Context, list []*vniPing, octets int) (refused *pingError, err error) {
	if len(list) == 0 {
		return nil, nil
	}
	byNonce := make(map[uint64]*vniPing, len(list))
	var nonces []uint64
	for _, v := range list {
		v.nonce, v.answer = rand.Uint64(), nil
		byNonce[v.nonce] = v
		nonces = append(nonces, v.nonce)
	}
	answers := make(chan pingMessage, 2*len(list)*pingTries)
	forget, err := p.d.answerer.expect(answers, nonces)
	if err != nil {
		return nil, err
	}
	defer forget()
	sockets := map[uint16]*pingSocket{}
	defer func() {
		for _, s := range sockets {
			_ = s.close()
		}
	}()
	note := func(e pingError) { refused = &e }
	for range pingTries {
		for _, v := range list {
			if v.answer != nil {
				continue
			}
			if sockets[v.port] == nil {
				if sockets[v.port], err = dialPing(p.self, p.target.VTEP, v.port, p.bound); err != nil {
					return nil, err
				}
			}
			if err := p.pace.Wait(ctx); err != nil {
				return nil, err
			}
			p.call(v, sockets[v.port], p.sizeIn(v, octets), note)
		}
		if p.collect(ctx, byNonce, answers) {
			break
		}
		for _, s := range sockets {
			s.drain(errorsOf(note))
		}
	}
	return refused, ctx.Err()
}

// sizeIn is how many octets that means in a VNI.
func (p *pinger) sizeIn(v *vniPing, octets int) int {
	if octets != 0 {
		return octets
	}
	return p.d.topo.mtu(v.at.device)
}

func (p *pinger) call(v *vniPing, s *pingSocket, octets int, note func(pingError)) {
	m := pingMessage{kind: pingCall, vni: v.VNI, nonce: v.nonce, vtep: p.self, device: v.at.Device, bridge: v.at.Bridge}
	v.sent = time.Now()
	if err := s.send(pingDatagram(p.self, m, octets)); err != nil {
		note(*p.refusal(s, err))
	}
}

// collect waits for answers, and reports whether all have come.
func (p *pinger) collect(ctx context.Context, byNonce map[uint64]*vniPing, answers <-chan pingMessage) bool {
	end := time.NewTimer(p.wait)
	defer end.Stop()
	missing := 0
	for _, v := range byNonce {
		if v.answer == nil {
			missing++
		}
	}
	for missing > 0 {
		select {
		case m := <-answers:
			if v := byNonce[m.nonce]; v != nil && v.answer == nil && m.vni == v.VNI {
				v.answer, v.rtt = &m, time.Since(v.sent)
				missing--
			}
		case <-end.C:
			return false
		case <-ctx.Done():
			return true
		}
	}
	return true
}

// judge says what the silence, or the answer, in a VNI means. others says that other VNIs answer.
func (p *pinger) judge(ctx context.Context, v *vniPing, others bool, refused *pingError) {
	s := PingStep{Topic: "vni", VNI: v.VNI}
	known := p.evpnd != nil && p.evpnd.has(pingKnown)
	switch {
	case v.answer != nil:
		s.Mark, s.RTT = PingOK, v.rtt
		s.Text = fmt.Sprintf("evpnd answers by %s in %s, MTU %d", v.answer.device, v.answer.bridge, v.answer.mtu)
		p.report(s)
		p.compare(v, *v.answer)
		return
	case p.evpnd != nil && !known:
		return // said once for all
	case known:
		r := p.echo(ctx, pingMessage{vni: v.VNI, nonce: v.nonce}, pingSmall, pingTries, true)
		if r.evpnd != nil {
			p.explain(v, *r.evpnd, refused)
			return
		}
		fallthrough
	case others || known:
		s.Code = evpn.FaultPingVNISilent
		s.Text = "no answer, and there is an evpnd: the VNI is not served there, or its device there is down or in no bridge"
		s.Remedy = fmt.Sprintf("on %s: evpnctl show vni %d, and evpnctl doctor", p.target.VTEP, v.VNI)
		p.fault(s)
		return
	}
	s.Mark, s.Text = PingInfo, "no evpnd answered: a foreign VTEP, or the VNI is not served there, or a firewall drops VXLAN on the way"
	if refused != nil {
		s.Text = "no evpnd answered"
	}
	if v.IP.IsValid() && refused == nil && p.askHost(ctx, v) {
		s.Mark = PingOK
		s.Text = fmt.Sprintf("frames pass there and back: host %s behind it answers; no evpnd does, so it is a foreign VTEP", v.IP)
	}
	p.report(s)
}

// explain says why there was no answer in a VNI, from what the evpnd there knows.
func (p *pinger) explain(v *vniPing, m pingMessage, refused *pingError) {
	there := fmt.Sprintf("on %s: ", p.target.VTEP)
	s := PingStep{Topic: "vni", VNI: v.VNI}
	switch {
	case !m.has(pingServed):
		s.Code, s.Text = evpn.FaultPingVNIMissing, "the evpnd there has no VXLAN device in a bridge for this VNI"
		s.Remedy = there + fmt.Sprintf("set create: true for VNI %d, or ip link add vxlan%d type vxlan id %d dstport %d local %s nolearning, and evpnctl doctor",
			v.VNI, v.VNI, v.VNI, v.port, p.target.VTEP)
	case m.port != v.port:
		s.Code, s.Text = evpn.FaultPingOtherPort, fmt.Sprintf("%s there uses UDP port %d, %s here %d", m.device, m.port, v.at.Device, v.port)
		s.Remedy = fmt.Sprintf("make one of them again with ip link add type vxlan id %d dstport %d", v.VNI, vxlanPort)
	case !m.has(pingUsable): // which compare says
		p.compare(v, m)
		return
	case m.has(pingSeen):
		s.Code = evpn.FaultPingLostHere
		s.Text = fmt.Sprintf("our frames come to %s there, its answers do not come back", m.device)
		s.Remedy = fmt.Sprintf("let UDP port %d from %s pass the firewall of this host, and those on the way", v.port, p.target.VTEP)
	case refused != nil:
		s.Mark, s.Text = PingInfo, fmt.Sprintf("our frames do not come to %s there, for the reason above", m.device)
		p.report(s)
		p.compare(v, m)
		return
	default:
		s.Code = evpn.FaultPingLostThere
		s.Text = fmt.Sprintf("our frames do not come to %s there, while ICMP does: a firewall drops them", m.device)
		s.Remedy = fmt.Sprintf("let UDP port %d from %s pass the firewall of %s, and those on the way", v.port, p.self, p.target.VTEP)
	}
	p.fault(s)
	p.compare(v, m)
}

// compare finds what differs between the VNI here and there.
func (p *pinger) compare(v *vniPing, m pingMessage) {
	if !m.has(pingServed) {
		return
	}
	if !m.has(pingUsable) {
		p.fault(PingStep{
			Topic: "vni", VNI: v.VNI, Code: evpn.FaultPingVNIFaulty, Text: fmt.Sprintf("something stands against serving it by %s in %s there", m.device, m.bridge),
			Remedy: fmt.Sprintf("on %s: evpnctl doctor", p.target.VTEP),
		})
	}
	if !m.has(pingFloods) {
		p.fault(PingStep{
			Topic: "vni", VNI: v.VNI, Code: evpn.FaultPingNotFlooded, Text: "broadcast and unknown frames do not come here: its flood list lacks us",
			Remedy: fmt.Sprintf("on %s: evpnctl show vtep %d, and evpnctl show route --type 3", p.target.VTEP, v.VNI),
		})
	}
	if here := p.d.topo.mtu(v.at.device); uint32(here) != m.mtu {
		p.fault(PingStep{
			Topic: "vni", VNI: v.VNI, Code: evpn.FaultPingOtherMTU,
			Text:   fmt.Sprintf("%s here has MTU %d, %s there %d: frames that one takes the other drops", v.at.Device, here, m.device, m.mtu),
			Remedy: "on the one with more: " + setMTU("DEVICE", min(here, int(m.mtu))),
		})
	}
}

// full asks once more, with the largest frame of each VNI that answered. Where the way is known to be too narrow it says
// nothing new.
func (p *pinger) full(ctx context.Context, list []*vniPing) error {
	var again []*vniPing
	for _, v := range list {
		if v.answer != nil && !p.narrow && int(v.answer.mtu) >= p.d.topo.mtu(v.at.device) {
			again = append(again, v)
		}
	}
	refused, err := p.ask(ctx, again, 0)
	if err != nil {
		return err
	}
	for _, v := range again {
		mtu := p.d.topo.mtu(v.at.device)
		if v.answer != nil {
			p.report(PingStep{Mark: PingOK, Topic: "vni", VNI: v.VNI, RTT: v.rtt, Text: fmt.Sprintf("frames with %d octets of payload pass", mtu)})
			continue
		}
		s := PingStep{
			Topic: "vni", VNI: v.VNI, Code: evpn.FaultPingVNIMTU, Text: fmt.Sprintf("frames with %d octets of payload get lost, small ones pass", mtu),
			Remedy: fmt.Sprintf("raise the MTU of the underlay to %d, or lower that of %s and %s there", mtu+overheadOf(p.self), v.at.Device, p.target.VTEP),
		}
		if refused != nil && refused.reason() == reasonTooBig {
			s.Text += fmt.Sprintf(": the next link of %s has MTU %d", refused.says(), refused.mtu)
		} else if r := p.echo(ctx, pingMessage{vni: v.VNI, nonce: v.nonce}, pingSmall, 1, true); r.evpnd != nil {
			s.Text += map[bool]string{true: ": they get there, and do not come back", false: " on their way there"}[r.evpnd.has(pingSeen)]
		}
		p.fault(s)
	}
	return nil
}

// askHost asks a host behind the VTEP for its address, from the VTEP and not from the bridge, where suppression would
// answer, and reports whether the host did.
func (p *pinger) askHost(ctx context.Context, v *vniPing) bool {
	s, err := dialPing(p.self, p.target.VTEP, v.port, p.bound)
	if err != nil {
		return false
	}
	defer s.close()
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	wait := unix.NsecToTimeval(int64(pingWait))
	filter := assembled(slices.Concat(load(etherTypeAt, 2), when(unix.ETH_P_ARP, returns(frameOctets)),
		when(unix.ETH_P_IPV6, slices.Concat(load(payload6At, 1), when(icmpv6Advertisement, returns(frameOctets)), returns(0))), returns(0)))
	err = errors.Join(
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait),
		unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: v.at.device}))
	if err != nil {
		return false
	}
	question := append(vxlanHeader(v.VNI), probeFrame(v.at.BridgeMAC, evpn.Probe{VNI: v.VNI, MAC: v.MAC, IP: v.IP})...)
	buf := make([]byte, frameOctets)
	for range pingTries {
		if p.pace.Wait(ctx) != nil || s.send(question) != nil {
			return false
		}
		for end := time.Now().Add(pingWait); time.Now().Before(end); {
			n, from, err := unix.Recvfrom(fd, buf, 0)
			if err != nil {
				break
			}
			link, ok := from.(*unix.SockaddrLinklayer)
			if ok && link.Pkttype != unix.PACKET_OUTGOING && saysAddress(buf[:n], v.IP) {
				return true
			}
		}
	}
	return false
}

// saysAddress reports whether a frame is an ARP reply or a neighbour advertisement of the host that has ip.
func saysAddress(b []byte, ip netip.Addr) bool {
	if len(b) < networkAt+28 {
		return false
	}
	if ip.Is4() {
		return binary.BigEndian.Uint16(b[etherTypeAt:]) == unix.ETH_P_ARP && b[21] == 2 && netip.AddrFrom4([4]byte(b[28:32])) == ip
	}
	return len(b) >= payload6At+24 && binary.BigEndian.Uint16(b[etherTypeAt:]) == unix.ETH_P_IPV6 && b[nextHeader6At] == unix.IPPROTO_ICMPV6 &&
		b[payload6At] == icmpv6Advertisement && netip.AddrFrom16([16]byte(b[payload6At+8:payload6At+24])) == ip
}
