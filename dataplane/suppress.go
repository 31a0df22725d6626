package dataplane

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"github.com/evpnd/evpnd/evpn"
)

// The bridge answers ARP requests and neighbour solicitations for remote hosts itself when its VXLAN port has
// neigh_suppress, from the neighbours on the bridge device. But it keeps three kinds of frames off the overlay without
// doing anything for them: ARP probes and solicitations from the unspecified address, by which hosts look for duplicates
// of their address, and whatever is gratuitous. RFC 9161 wants probes answered as requests are (§3.3, PX-08), unknown
// targets flooded and gratuitous frames not suppressed (§3.4, §3.6, PX-10): that part is done here.

// question is what a frame wants of others.
type question uint8

const (
	noQuestion   question = iota
	request               // who has the address
	dadProbe              // does anybody have the address that the sender is about to take
	announcement          // no question: the sender has the address
)

// outcome is what becomes of a question.
type outcome uint8

const (
	outcomeAnswered outcome = iota
	outcomeUnknown
	outcomeFlooded
	outcomes
)

// remoteHost is the host that has an address, as the neighbour on the bridge says.
type remoteHost struct {
	mac    evpn.MAC
	router bool
}

// answers knows what the bridges answer, and counts the questions of local hosts.
type answers struct {
	mu   sync.RWMutex
	vnis map[evpn.VNI]*questions
}

// questions are those of one VNI.
type questions struct {
	counts [outcomes]atomic.Uint64
	known  map[[16]byte]remoteHost // the answers; nil while the bridge suppresses nothing. answers.mu guards it
}

func newAnswers() *answers { return &answers{vnis: map[evpn.VNI]*questions{}} }

// serve has the questions of a VNI counted from now on, or no more when at is nil.
func (a *answers) serve(vni evpn.VNI, at *attached) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if at == nil {
		delete(a.vnis, vni)
		return
	}
	q := a.vnis[vni]
	if q == nil {
		q = &questions{}
		a.vnis[vni] = q
	}
	switch {
	case !at.Suppress:
		q.known = nil
	case q.known == nil:
		q.known = map[[16]byte]remoteHost{}
	}
}

// wrote takes in what the writer made of neighbours.
func (a *answers) wrote(steps []step) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := range steps {
		s := &steps[i]
		q := a.vnis[s.op.Key.VNI]
		switch {
		case s.err != nil || s.at == nil || q == nil || q.known == nil:
		case s.op.Del:
			delete(q.known, s.op.Key.Addr.As16())
		default:
			q.known[s.op.Key.Addr.As16()] = remoteHost{s.op.Entry.MAC, s.op.Entry.Router}
		}
	}
}

// found takes in a complete look at a VNI: neighbours of ours, and those of others whose MAC is behind the VXLAN port.
func (a *answers) found(v *view) {
	a.mu.Lock()
	defer a.mu.Unlock()
	q := a.vnis[v.at.VNI]
	if q == nil || q.known == nil {
		return
	}
	clear(q.known)
	for ip, r := range v.neighbors {
		switch by := neighborOwner(r); {
		case by == ours, by != nobody && v.fdb[r.mac].near.family != 0:
			q.known[ip.As16()] = remoteHost{r.mac, r.flags&unix.NTF_ROUTER != 0}
		}
	}
}

// lookup finds the remote host that has an address, and counts by VNI.
func (a *answers) lookup(vni evpn.VNI, ip netip.Addr) (h remoteHost, known bool, q *questions) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	if q = a.vnis[vni]; q != nil {
		h, known = q.known[ip.As16()]
	}
	return h, known, q
}

// QuestionCount counts what local hosts of a VNI asked of others, ARP requests and neighbour solicitations, since the VNI
// is served. Only what is snooped is counted.
type QuestionCount struct {
	VNI      evpn.VNI
	Answered uint64 // for remote hosts, and answered here
	Unknown  uint64 // suppression is on, but no remote host is known to have the address: flooded
	Flooded  uint64 // suppression is off
}

// status returns the counts in the order of the VNIs.
func (a *answers) status() []QuestionCount {
	a.mu.RLock()
	defer a.mu.RUnlock()
	list := make([]QuestionCount, 0, len(a.vnis))
	for vni, q := range a.vnis {
		list = append(list, QuestionCount{
			vni, q.counts[outcomeAnswered].Load(), q.counts[outcomeUnknown].Load(), q.counts[outcomeFlooded].Load(),
		})
	}
	slices.SortFunc(list, func(a, b QuestionCount) int { return cmp.Compare(a.VNI, b.VNI) })
	return list
}

// question tells what the frame that was parsed last wants, and of which address. Frames to one host are between it and
// the sender.
func (p *frameParser) question() (question, netip.Addr) {
	if len(p.decoded) == 0 || p.eth.DstMAC[0]&1 == 0 {
		return noQuestion, netip.Addr{}
	}
	switch p.decoded[len(p.decoded)-1] {
	case layers.LayerTypeARP:
		source, target := netip.AddrFrom4([4]byte(p.arp.SourceProtAddress)), netip.AddrFrom4([4]byte(p.arp.DstProtAddress))
		switch {
		case source == target && !source.IsUnspecified():
			return announcement, target
		case p.arp.Operation != layers.ARPRequest:
		case source.IsUnspecified():
			return dadProbe, target
		default:
			return request, target
		}
	case layers.LayerTypeICMPv6NeighborAdvertisement:
		target, _ := netip.AddrFromSlice(p.na.TargetAddress)
		if !p.na.Solicited() {
			return announcement, target
		}
	case layers.LayerTypeICMPv6NeighborSolicitation:
		target, _ := netip.AddrFromSlice(p.ns.TargetAddress)
		if p.ip6.SrcIP.IsUnspecified() {
			return dadProbe, target
		}
		return request, target
	}
	return noQuestion, netip.Addr{}
}

// attend does for a frame of a host what the bridge leaves undone, and counts it. It follows a good parse.
func (r *portReader) attend(frame []byte, sender evpn.MAC) {
	q, target := r.parser.question()
	if q == noQuestion {
		return
	}
	_, ats := r.topo.accessPort(r.port.ifindex)
	for _, at := range ats {
		host, known, asked := r.topo.answers.lookup(at.VNI, target)
		known = known && host.mac != sender // who moved here asks for the address it has
		var end outcome
		switch {
		case !at.Suppress:
			end = outcomeFlooded
		case known && q != announcement:
			end = outcomeAnswered
		default:
			end = outcomeUnknown
		}
		if asked != nil && q != announcement {
			asked.counts[end].Add(1)
		}
		switch {
		case !at.Suppress || q == request: // the bridge does it
		case end == outcomeAnswered:
			_ = r.ring.send(answerFrame(sender, target, host)) // a port that is down or full
		case !r.topo.relays(r.port.ifindex, at):
		case len(frame) < frameOctets: // longer ones are not whole
			_ = r.ring.sendOn(at.device, frame)
		}
	}
}

// relays reports whether a frame may be passed from a port into a VXLAN device past their bridge, as it would let it through
// itself. Of hosts behind a locked port it knows which may speak, and we do not, so none is passed on: their routes tell.
func (t *topology) relays(port int, at *attached) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	from, to := t.links[port], t.links[at.device]
	return from != nil && to != nil && !from.port.locked && !(from.port.isolated && to.port.isolated)
}

// answerFrame defends an address in the name of the host that has it. To an IPv6 host without address the answer goes
// to all nodes, unsolicited (RFC 4861 §7.2.4).
func answerFrame(to evpn.MAC, ip netip.Addr, h remoteHost) []byte {
	if ip.Is4() {
		b := append(to[:len(to):len(to)], h.mac[:]...)
		b = binary.BigEndian.AppendUint16(b, unix.ETH_P_ARP)
		b = append(b, 0, 1, 8, 0, 6, 4, 0, byte(layers.ARPReply))
		b = append(append(b, h.mac[:]...), ip.AsSlice()...)
		return append(append(b, to[:]...), 0, 0, 0, 0)
	}
	const override, router = 0x20, 0x80
	flags := byte(override)
	if h.router {
		flags |= router
	}
	all := netip.MustParseAddr("ff02::1")
	icmp := append([]byte{icmpv6Advertisement, 4: flags, 7: 0}, ip.AsSlice()...)
	icmp = append(append(icmp, 2, 1), h.mac[:]...)
	binary.BigEndian.PutUint16(icmp[2:], icmpChecksum(icmp, ip, all))
	b := append([]byte{0x33, 0x33, 0, 0, 0, 1}, h.mac[:]...)
	b = binary.BigEndian.AppendUint16(b, unix.ETH_P_IPV6)
	b = append(b, 0x60, 0, 0, 0, 0, byte(len(icmp)), unix.IPPROTO_ICMPV6, ndHopLimit)
	b = append(append(b, ip.AsSlice()...), all.AsSlice()...)
	return append(b, icmp...)
}
