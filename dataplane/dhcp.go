package dataplane

import (
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/evpnd/evpnd/evpn"
)

// Anyone can send what looks like a DHCP server's answer, so an answer says nothing by itself. It counts on its way out to
// a host, where it also comes by when the server is behind another port or another VTEP; when that host asked, on that
// port and under its own MAC, in the same exchange; once; and for the addresses that the host named, unless it left the
// choice to the server (rapid commit). So the best that a false server can do is to grant what the host itself claims, for
// which an ARP frame of that host would do as well.
const (
	questionsPerPort = 1024            // exchanges of one port that wait for an answer
	answerWithin     = 2 * time.Minute // a client asks again by then (RFC 2131 §4.1: 64 s and 1 more; RFC 8415 §7.6: 120 s)
)

const optionRapidCommit4 layers.DHCPOpt = 80 // RFC 4039

// exchange names what a host and a server have under way.
type exchange struct {
	kind protocol
	id   uint32
	mac  evpn.MAC
}

// wish is what a host asked for.
type wish struct {
	named []netip.Addr
	open  bool // the server may choose
	until time.Time
}

// lease is what an exchange says of one address of a host.
type lease struct {
	ip    netip.Addr
	valid time.Duration // 0: not told
	gone  bool          // the host no longer has it
}

// dhcpReader follows the exchanges that the hosts of one port have with DHCP servers. It is used by one goroutine, and
// keeps pointers into the frame until the next one.
type dhcpReader struct {
	parser  *gopacket.DecodingLayerParser
	decoded []gopacket.LayerType
	eth     layers.Ethernet
	ip4     layers.IPv4
	ip6     layers.IPv6
	udp     layers.UDP
	v4      layers.DHCPv4
	v6      layers.DHCPv6

	questions map[exchange]wish
	leases    []lease // of the last frame
}

func newDHCPReader() *dhcpReader {
	d := &dhcpReader{questions: map[exchange]wish{}}
	d.parser = gopacket.NewDecodingLayerParser(layers.LayerTypeEthernet, &d.eth, &d.ip4, &d.ip6, &d.udp, &d.v4, &d.v6)
	d.parser.IgnoreUnsupported = true
	return d
}

// read takes in one frame, from its Ethernet header on. outgoing: it goes to the host. mac is the host, and leases what is
// said of it; they are good until the next frame.
func (d *dhcpReader) read(frame []byte, outgoing bool, now time.Time) (mac evpn.MAC, leases []lease, v verdict) {
	if outgoing && len(d.questions) == 0 {
		return evpn.MAC{}, nil, verdictUnasked
	}
	d.leases = d.leases[:0]
	if err := d.parser.DecodeLayers(frame, &d.decoded); err != nil || d.parser.Truncated || len(d.decoded) != 4 {
		return evpn.MAC{}, nil, verdictMalformed
	}
	kind := d.decoded[3]
	switch {
	case kind == layers.LayerTypeDHCPv4 && d.decoded[1] == layers.LayerTypeIPv4 && outgoing:
		mac, v = d.answered4(now)
	case kind == layers.LayerTypeDHCPv4 && d.decoded[1] == layers.LayerTypeIPv4:
		mac, v = d.asked4(now)
	case kind == layers.LayerTypeDHCPv6 && d.decoded[1] == layers.LayerTypeIPv6 && outgoing:
		mac, v = d.answered6(now)
	case kind == layers.LayerTypeDHCPv6 && d.decoded[1] == layers.LayerTypeIPv6:
		mac, v = d.asked6(now)
	default:
		v = verdictMalformed
	}
	if v != verdictAccepted {
		return evpn.MAC{}, nil, v
	}
	return mac, d.leases, v
}

// sender is the host that a frame comes from.
func (d *dhcpReader) sender() (evpn.MAC, verdict) {
	mac := evpn.MAC(d.eth.SrcMAC)
	if mac.IsGroup() || mac.IsZero() {
		return mac, verdictSpoofed
	}
	return mac, verdictAccepted
}

// asked4 takes in what a host sends to a server (RFC 2131 §4.4).
func (d *dhcpReader) asked4(now time.Time) (evpn.MAC, verdict) {
	mac, v := d.sender()
	relay, _ := netip.AddrFromSlice(d.v4.RelayAgentIP)
	switch {
	case v != verdictAccepted:
		return mac, v
	case d.udp.DstPort != dhcp4ServerPort || d.v4.Operation == layers.DHCPOpReply:
		return mac, verdictServer
	case d.v4.Operation != layers.DHCPOpRequest || d.v4.HardwareType != layers.LinkTypeEthernet || d.v4.HardwareLen != 6:
		return mac, verdictMalformed
	case !relay.IsUnspecified():
		return mac, verdictRelayed
	case mac != evpn.MAC(d.v4.ClientHWAddr):
		return mac, verdictSpoofed
	}
	current, _ := netip.AddrFromSlice(d.v4.ClientIP)
	requested, _ := netip.AddrFromSlice(d.option4(layers.DHCPOptRequestIP, 4))
	var q wish
	switch d.type4() {
	case layers.DHCPMsgTypeDiscover:
		q.open = d.option4(optionRapidCommit4, 0) != nil
	case layers.DHCPMsgTypeRequest:
		if !requested.IsValid() { // it has the address, and wants to keep it
			requested = current
		}
		q.named = []netip.Addr{requested}
	case layers.DHCPMsgTypeInform:
	case layers.DHCPMsgTypeRelease:
		return mac, d.end(current)
	case layers.DHCPMsgTypeDecline:
		return mac, d.end(requested)
	default:
		return mac, verdictMalformed
	}
	return mac, d.ask(exchange{protoDHCP, d.v4.Xid, mac}, q, now)
}

// answered4 takes in what a server sends to a host.
func (d *dhcpReader) answered4(now time.Time) (evpn.MAC, verdict) {
	if d.v4.Operation != layers.DHCPOpReply || d.v4.HardwareType != layers.LinkTypeEthernet || d.v4.HardwareLen != 6 {
		return evpn.MAC{}, verdictMalformed
	}
	x := exchange{protoDHCP, d.v4.Xid, evpn.MAC(d.v4.ClientHWAddr)}
	q, ok := d.questions[x]
	if !ok || now.After(q.until) {
		return x.mac, verdictUnasked
	}
	switch d.type4() {
	case layers.DHCPMsgTypeAck:
		delete(d.questions, x)
		given, _ := netip.AddrFromSlice(d.v4.YourClientIP)
		seconds := d.option4(layers.DHCPOptLeaseTime, 4)
		if given.IsUnspecified() { // to an INFORM
			return x.mac, verdictAccepted
		}
		l := lease{ip: given}
		if seconds != nil {
			l.valid = time.Duration(binary.BigEndian.Uint32(seconds)) * time.Second
		}
		return x.mac, d.grant(q, l)
	case layers.DHCPMsgTypeNak:
		delete(d.questions, x)
	}
	return x.mac, verdictAccepted
}

func (d *dhcpReader) type4() layers.DHCPMsgType {
	if o := d.option4(layers.DHCPOptMessageType, 1); o != nil {
		return layers.DHCPMsgType(o[0])
	}
	return layers.DHCPMsgTypeUnspecified
}

// option4 returns the first option of a kind, unless it has another length; not nil when it is there.
func (d *dhcpReader) option4(kind layers.DHCPOpt, octets int) []byte {
	for i := range d.v4.Options {
		if o := &d.v4.Options[i]; o.Type == kind {
			if len(o.Data) != octets {
				return nil
			}
			return o.Data
		}
	}
	return nil
}

// ask remembers what a host asked for, for a while.
func (d *dhcpReader) ask(x exchange, q wish, now time.Time) verdict {
	q.until = now.Add(answerWithin)
	if slices.ContainsFunc(q.named, noHost) {
		return verdictMalformed
	}
	if _, ok := d.questions[x]; !ok && len(d.questions) >= questionsPerPort {
		maps.DeleteFunc(d.questions, func(_ exchange, old wish) bool { return now.After(old.until) })
		if len(d.questions) >= questionsPerPort {
			return verdictLimited
		}
	}
	d.questions[x] = q
	return verdictAccepted
}

// grant notes an address that a server gave to a host, if it is what the host wants.
func (d *dhcpReader) grant(q wish, l lease) verdict {
	switch {
	case noHost(l.ip):
		return verdictMalformed
	case !q.open && !slices.Contains(q.named, l.ip):
		return verdictUnasked
	case !l.ip.IsLinkLocalUnicast(): // it does not leave the link (T2-12)
		d.leases = append(d.leases, l)
	}
	return verdictAccepted
}

// end notes an address that a host gave back.
func (d *dhcpReader) end(ip netip.Addr) verdict {
	if noHost(ip) {
		return verdictMalformed
	}
	d.leases = append(d.leases, lease{ip: ip, gone: true})
	return verdictAccepted
}
