package dataplane

import (
	"encoding/binary"
	"math"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/evpnd/evpnd/evpn"
)

var (
	macServer = evpn.MAC{2, 0, 0, 0, 0x5e, 1}
	epochDHCP = time.Unix(1_000_000, 0)
)

func serialize(t testing.TB, parts ...gopacket.SerializableLayer) []byte {
	t.Helper()
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, parts...); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// dhcp4 describes one DHCPv4 message in as many words as a row of a test needs.
type dhcp4 struct {
	src, chaddr evpn.MAC // src: the zero MAC is chaddr for what a host sends, and the server for what it gets
	typ         layers.DHCPMsgType
	xid         uint32
	ciaddr      netip.Addr
	requested   netip.Addr
	yiaddr      netip.Addr
	giaddr      netip.Addr
	lease       uint32
	rapid       bool
	pad         int // octets of options that mean nothing
	reply       bool
}

func (m dhcp4) frame(t testing.TB) []byte {
	eth := &layers.Ethernet{SrcMAC: m.src[:], DstMAC: macAll[:], EthernetType: layers.EthernetTypeIPv4}
	ip := &layers.IPv4{Version: 4, IHL: 5, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: net.IPv4zero.To4(), DstIP: net.IPv4bcast.To4()}
	udp := &layers.UDP{SrcPort: 68, DstPort: 67}
	d := &layers.DHCPv4{
		Operation: layers.DHCPOpRequest, HardwareType: layers.LinkTypeEthernet, Xid: m.xid, ClientHWAddr: m.chaddr[:],
		ClientIP: m.ciaddr.AsSlice(), YourClientIP: m.yiaddr.AsSlice(), RelayAgentIP: m.giaddr.AsSlice(),
	}
	if m.src.IsZero() {
		eth.SrcMAC = m.chaddr[:]
	}
	if m.reply {
		d.Operation, udp.SrcPort, udp.DstPort = layers.DHCPOpReply, 67, 68
		if m.src.IsZero() {
			eth.SrcMAC = macServer[:]
		}
	}
	if m.pad > 0 { // before what matters, so that what matters is far behind
		for range m.pad / 200 {
			d.Options = append(d.Options, layers.NewDHCPOption(250, make([]byte, 198)))
		}
	}
	if m.typ != 0 {
		d.Options = append(d.Options, layers.NewDHCPOption(layers.DHCPOptMessageType, []byte{byte(m.typ)}))
	}
	if m.requested.IsValid() {
		d.Options = append(d.Options, layers.NewDHCPOption(layers.DHCPOptRequestIP, m.requested.AsSlice()))
	}
	if m.lease > 0 {
		d.Options = append(d.Options, layers.NewDHCPOption(layers.DHCPOptLeaseTime, binary.BigEndian.AppendUint32(nil, m.lease)))
	}
	if m.rapid {
		d.Options = append(d.Options, layers.NewDHCPOption(optionRapidCommit4, nil))
	}
	if err := udp.SetNetworkLayerForChecksum(ip); err != nil {
		t.Fatal(err)
	}
	return serialize(t, eth, ip, udp, d)
}

// dhcp6 does the same for DHCPv6: an IA_NA with an address for each lease.
type dhcp6 struct {
	src, dst evpn.MAC // dst: the zero MAC is that of all servers
	typ      layers.DHCPv6MsgType
	id       byte
	leases   []lease
	rapid    bool
	reply    bool
}

func (m dhcp6) frame(t testing.TB) []byte {
	eth := &layers.Ethernet{SrcMAC: m.src[:], DstMAC: m.dst[:], EthernetType: layers.EthernetTypeIPv6}
	if m.dst.IsZero() {
		eth.DstMAC = net.HardwareAddr{0x33, 0x33, 0, 1, 0, 2}
	}
	ip := &layers.IPv6{
		Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolUDP, SrcIP: net.ParseIP("fe80::2"), DstIP: net.ParseIP("ff02::1:2"),
	}
	udp := &layers.UDP{SrcPort: 546, DstPort: 547}
	if m.reply {
		udp.SrcPort, udp.DstPort = 547, 546
	}
	d := &layers.DHCPv6{MsgType: m.typ, TransactionID: []byte{0, 0, m.id}, Options: layers.DHCPv6Options{
		layers.NewDHCPv6Option(layers.DHCPv6OptClientID, []byte{0, 3, 0, 1, 2, 0, 0, 0, 0, 9}),
	}}
	if m.typ == layers.DHCPv6MsgTypeRelayForward || m.typ == layers.DHCPv6MsgTypeRelayReply {
		d.LinkAddr, d.PeerAddr = net.IPv6zero, net.ParseIP("fe80::3")
	}
	if m.rapid {
		d.Options = append(d.Options, layers.NewDHCPv6Option(layers.DHCPv6OptRapidCommit, nil))
	}
	ia := make([]byte, identityOctets)
	for _, l := range m.leases {
		ia = binary.BigEndian.AppendUint16(ia, uint16(layers.DHCPv6OptIAAddr))
		ia = binary.BigEndian.AppendUint16(ia, addressOctets)
		ia = append(ia, l.ip.AsSlice()...)
		ia = binary.BigEndian.AppendUint32(ia, uint32(l.valid/time.Second))
		ia = binary.BigEndian.AppendUint32(ia, uint32(l.valid/time.Second))
	}
	d.Options = append(d.Options, layers.NewDHCPv6Option(layers.DHCPv6OptIANA, ia))
	if err := udp.SetNetworkLayerForChecksum(ip); err != nil {
		t.Fatal(err)
	}
	return serialize(t, eth, ip, udp, d)
}

// Messages of one exchange, as they are when nothing is wrong.
func request4(xid uint32, mac evpn.MAC, ip netip.Addr) dhcp4 {
	return dhcp4{chaddr: mac, typ: layers.DHCPMsgTypeRequest, xid: xid, requested: ip}
}

func ack4(xid uint32, mac evpn.MAC, ip netip.Addr, lease uint32) dhcp4 {
	return dhcp4{chaddr: mac, typ: layers.DHCPMsgTypeAck, xid: xid, yiaddr: ip, lease: lease, reply: true}
}

func request6(id byte, mac evpn.MAC, ips ...netip.Addr) dhcp6 {
	m := dhcp6{src: mac, typ: layers.DHCPv6MsgTypeRequest, id: id}
	for _, ip := range ips {
		m.leases = append(m.leases, lease{ip: ip})
	}
	return m
}

func reply6(id byte, mac evpn.MAC, leases ...lease) dhcp6 {
	return dhcp6{src: macServer, dst: mac, typ: layers.DHCPv6MsgTypeReply, id: id, leases: leases, reply: true}
}

// passed is one frame that passes a port.
type passed struct {
	frame interface{ frame(testing.TB) []byte }
	want  []lease
	v     verdict
}

// TestDHCPExchange: what counts of what passes a port, and what does not.
func TestDHCPExchange(t *testing.T) {
	addr := netip.MustParseAddr
	hour := []lease{{ip: hostA, valid: time.Hour}}
	other6 := addr("2001:db8::77")
	relayed := request4(1, macA, hostA)
	relayed.giaddr = hostB
	renewal := dhcp4{chaddr: macA, typ: layers.DHCPMsgTypeRequest, xid: 2, ciaddr: hostA}
	release := dhcp4{chaddr: macA, typ: layers.DHCPMsgTypeRelease, ciaddr: hostA}
	decline := dhcp4{chaddr: macA, typ: layers.DHCPMsgTypeDecline, requested: hostA}
	forged := release
	forged.src = macB
	long := ack4(1, macA, hostA, 3600)
	long.pad = 1000
	rapid := dhcp4{chaddr: macA, typ: layers.DHCPMsgTypeDiscover, xid: 1, rapid: true}
	nak := dhcp4{chaddr: macA, typ: layers.DHCPMsgTypeNak, xid: 1, reply: true}
	release6, decline6 := request6(4, macA, host6), request6(5, macA, host6, other6)
	release6.typ, decline6.typ = layers.DHCPv6MsgTypeRelease, layers.DHCPv6MsgTypeDecline
	solicit := dhcp6{src: macA, typ: layers.DHCPv6MsgTypeSolicit, id: 1, rapid: true}
	advertise := reply6(1, macA, lease{ip: host6, valid: time.Hour})
	advertise.typ = layers.DHCPv6MsgTypeAdvertise
	for _, row := range []struct {
		name   string
		passes []passed
	}{
		{"a lease", []passed{
			{dhcp4{chaddr: macA, typ: layers.DHCPMsgTypeDiscover, xid: 1}, nil, verdictAccepted},
			{dhcp4{chaddr: macA, typ: layers.DHCPMsgTypeOffer, xid: 1, yiaddr: hostA, lease: 3600, reply: true}, nil, verdictAccepted},
			{request4(1, macA, hostA), nil, verdictAccepted},
			{ack4(1, macA, hostA, 3600), hour, verdictAccepted},
			{ack4(1, macA, hostB, 3600), nil, verdictUnasked}, // once
		}},
		{"a renewal", []passed{{renewal, nil, verdictAccepted}, {ack4(2, macA, hostA, 3600), hour, verdictAccepted}}},
		{"for ever", []passed{
			{request4(1, macA, hostA), nil, verdictAccepted},
			{ack4(1, macA, hostA, math.MaxUint32), []lease{{ip: hostA, valid: math.MaxUint32 * time.Second}}, verdictAccepted},
		}},
		{"no lease time", []passed{{request4(1, macA, hostA), nil, verdictAccepted}, {ack4(1, macA, hostA, 0), []lease{{ip: hostA}}, verdictAccepted}}},
		{"many options", []passed{{request4(1, macA, hostA), nil, verdictAccepted}, {long, hour, verdictAccepted}}},
		{"rapid commit", []passed{{rapid, nil, verdictAccepted}, {ack4(1, macA, hostA, 3600), hour, verdictAccepted}}},
		{"inform", []passed{
			{dhcp4{chaddr: macA, typ: layers.DHCPMsgTypeInform, xid: 1, ciaddr: hostA}, nil, verdictAccepted},
			{ack4(1, macA, zeroHost, 0), nil, verdictAccepted},
		}},
		{"release", []passed{{release, []lease{{ip: hostA, gone: true}}, verdictAccepted}}},
		{"decline", []passed{{decline, []lease{{ip: hostA, gone: true}}, verdictAccepted}}},
		{"refused", []passed{{request4(1, macA, hostA), nil, verdictAccepted}, {nak, nil, verdictAccepted}, {ack4(1, macA, hostA, 60), nil, verdictUnasked}}},
		{"not asked", []passed{{ack4(1, macA, hostA, 3600), nil, verdictUnasked}}},
		{"not asked by this host", []passed{{request4(1, macB, hostA), nil, verdictAccepted}, {ack4(1, macA, hostA, 3600), nil, verdictUnasked}}},
		{"not asked in this exchange", []passed{{request4(1, macA, hostA), nil, verdictAccepted}, {ack4(2, macA, hostA, 3600), nil, verdictUnasked}}},
		{"another address than asked", []passed{{request4(1, macA, hostA), nil, verdictAccepted}, {ack4(1, macA, hostB, 3600), nil, verdictUnasked}}},
		{"discovered only", []passed{
			{dhcp4{chaddr: macA, typ: layers.DHCPMsgTypeDiscover, xid: 1}, nil, verdictAccepted},
			{ack4(1, macA, hostA, 3600), nil, verdictUnasked},
		}},
		{"asked for another", []passed{{dhcp4{src: macB, chaddr: macA, typ: layers.DHCPMsgTypeRequest, requested: hostA}, nil, verdictSpoofed}}},
		{"released for another", []passed{{forged, nil, verdictSpoofed}}},
		{"relayed", []passed{{relayed, nil, verdictRelayed}}},
		{"no address", []passed{{request4(1, macA, netip.Addr{}), nil, verdictMalformed}}},
		{"no host's address", []passed{{request4(1, macA, addr("224.0.0.1")), nil, verdictMalformed}, {request4(1, macA, addr("127.0.0.1")), nil, verdictMalformed}}},
		{"no type", []passed{{dhcp4{chaddr: macA}, nil, verdictMalformed}}},
		{"multicast sender", []passed{{request4(1, evpn.MAC{1, 0, 0x5e, 0, 0, 1}, hostA), nil, verdictSpoofed}}},
		{"zero sender", []passed{{request4(1, evpn.MAC{}, hostA), nil, verdictSpoofed}}},

		{"v6: a lease", []passed{
			{dhcp6{src: macA, typ: layers.DHCPv6MsgTypeSolicit, id: 1}, nil, verdictAccepted},
			{advertise, nil, verdictAccepted},
			{request6(2, macA, host6), nil, verdictAccepted},
			{reply6(2, macA, lease{ip: host6, valid: time.Hour}), []lease{{ip: host6, valid: time.Hour}}, verdictAccepted},
			{reply6(2, macA, lease{ip: host6, valid: time.Hour}), nil, verdictUnasked},
		}},
		{"v6: two, one of which is over, and one that is new", []passed{
			{request6(2, macA, host6, other6), nil, verdictAccepted},
			{
				reply6(2, macA, lease{ip: host6, valid: time.Hour}, lease{ip: other6}, lease{ip: addr("2001:db8::99"), valid: 1}),
				[]lease{{ip: host6, valid: time.Hour}, {ip: other6, gone: true}},
				verdictAccepted,
			},
		}},
		{"v6: rapid commit", []passed{
			{solicit, nil, verdictAccepted},
			{reply6(1, macA, lease{ip: host6, valid: time.Hour}), []lease{{ip: host6, valid: time.Hour}}, verdictAccepted},
		}},
		{"v6: release", []passed{{release6, []lease{{ip: host6, gone: true}}, verdictAccepted}, {reply6(4, macA), nil, verdictAccepted}}},
		{"v6: decline", []passed{{decline6, []lease{{ip: host6, gone: true}, {ip: other6, gone: true}}, verdictAccepted}}},
		{"v6: another address than asked", []passed{
			{request6(2, macA, host6), nil, verdictAccepted},
			{reply6(2, macA, lease{ip: other6, valid: time.Hour}), nil, verdictUnasked},
		}},
		{"v6: for another host", []passed{
			{request6(2, macA, host6), nil, verdictAccepted},
			{reply6(2, macB, lease{ip: host6, valid: time.Hour}), nil, verdictUnasked},
		}},
		{"v6: relay", []passed{{dhcp6{src: macA, typ: layers.DHCPv6MsgTypeRelayForward}, nil, verdictRelayed}}},
		{"v6: no host's address", []passed{{request6(2, macA, addr("ff02::1")), nil, verdictMalformed}}},
	} {
		t.Run(row.name, func(t *testing.T) {
			d := newDHCPReader()
			for i, p := range row.passes {
				frame := p.frame.frame(t)
				mac, got, v := d.read(frame, isReply(p.frame), epochDHCP)
				if v != p.v || !slices.Equal(got, p.want) || v == verdictAccepted && mac != macA && mac != macB {
					t.Fatalf("frame %d: %s %+v, %s; want %+v, %s", i, mac, got, v, p.want, p.v)
				}
			}
		})
	}
}

func isReply(m any) bool {
	switch m := m.(type) {
	case dhcp4:
		return m.reply
	case dhcp6:
		return m.reply
	}
	return false
}

// TestDHCPServerOnPort: an answer on its way in is a server's, and says nothing, whatever it looks like.
func TestDHCPServerOnPort(t *testing.T) {
	d := newDHCPReader()
	for _, frame := range [][]byte{
		request4(1, macA, hostA).frame(t), ack4(1, macA, hostA, 3600).frame(t),
		request6(2, macA, host6).frame(t), reply6(2, macA, lease{ip: host6, valid: time.Hour}).frame(t),
	} {
		_, got, v := d.read(frame, false, epochDHCP)
		if len(got) > 0 || (v == verdictServer) != (frame[6] == macServer[0] && frame[10] == macServer[4]) {
			t.Errorf("%+v, %s", got, v)
		}
	}
}

// TestDHCPQuestionsBounded: a host that asks without end costs a known amount of memory, and what is old makes room.
func TestDHCPQuestionsBounded(t *testing.T) {
	d := newDHCPReader()
	for i := range uint32(questionsPerPort) {
		if _, _, v := d.read(request4(i, macA, hostA).frame(t), false, epochDHCP); v != verdictAccepted {
			t.Fatalf("question %d: %s", i, v)
		}
	}
	last := request4(questionsPerPort, macB, hostB).frame(t)
	if _, _, v := d.read(last, false, epochDHCP.Add(answerWithin)); v != verdictLimited || len(d.questions) != questionsPerPort {
		t.Errorf("%s, %d questions", v, len(d.questions))
	}
	later := epochDHCP.Add(answerWithin + 1)
	if _, _, v := d.read(ack4(1, macA, hostA, 60).frame(t), true, later); v != verdictUnasked {
		t.Errorf("an answer that comes too late: %s", v)
	}
	if _, _, v := d.read(last, false, later); v != verdictAccepted || len(d.questions) != 1 {
		t.Errorf("%s, %d questions", v, len(d.questions))
	}
}

// TestDHCPTruncated: a frame cut anywhere before the end of its options is refused, and leaves nothing behind.
func TestDHCPTruncated(t *testing.T) {
	for _, whole := range [][]byte{
		request4(1, macA, hostA).frame(t), dhcp4{chaddr: macA, typ: layers.DHCPMsgTypeRelease, ciaddr: hostA}.frame(t),
		request6(2, macA, host6).frame(t),
	} {
		d := newDHCPReader()
		for n := range whole {
			if _, got, v := d.read(whole[:n], false, epochDHCP); v == verdictAccepted || len(got) > 0 || len(d.questions) > 0 {
				t.Errorf("%d of %d octets: %+v, %s", n, len(whole), got, v)
			}
		}
	}
}

func FuzzDHCP(f *testing.F) {
	for _, m := range []interface{ frame(testing.TB) []byte }{
		request4(1, macA, hostA), ack4(1, macA, hostA, 3600),
		dhcp4{chaddr: macA, typ: layers.DHCPMsgTypeRelease, ciaddr: hostA},
		request6(1, macA, host6), reply6(1, macA, lease{ip: host6, valid: time.Hour}),
	} {
		f.Add(m.frame(f), false)
		f.Add(m.frame(f), true)
	}
	d := newDHCPReader()
	asked4, asked6 := request4(1, macA, hostA).frame(f), request6(1, macA, host6).frame(f)
	f.Fuzz(func(t *testing.T, b []byte, outgoing bool) {
		clear(d.questions)
		d.read(asked4, false, epochDHCP)
		d.read(asked6, false, epochDHCP)
		mac, leases, v := d.read(b, outgoing, epochDHCP)
		if v != verdictAccepted && (len(leases) > 0 || !mac.IsZero()) {
			t.Errorf("%s, and yet %s %+v", v, mac, leases)
		}
		for _, l := range leases {
			if noHost(l.ip) || l.valid < 0 || l.gone && l.valid > 0 {
				t.Errorf("%+v", l)
			}
			if outgoing && (mac != macA || l.ip != hostA && l.ip != host6) {
				t.Errorf("%s was granted %s, which nobody asked for", mac, l.ip)
			}
			if !outgoing && (!l.gone || mac != evpn.MAC(b[6:12])) {
				t.Errorf("%s said %+v of %x", mac, l, b[6:12])
			}
		}
		if len(d.questions) > 3 {
			t.Errorf("%d questions", len(d.questions))
		}
	})
}
