package dataplane

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"

	"github.com/evpnd/evpnd/evpn"
)

// newDHCPLab has a host behind p10 and a server behind p11, of one bridge.
func newDHCPLab(t testing.TB) (l *lab, c *core, host, server wire) {
	t.Helper()
	l, c = newSnoopLab(t)
	addPort(t, "br10", "p11", "h11")
	l.snooped(2)
	return l, c, newWire(t, "h10"), newWire(t, "h11")
}

// granted waits for the word of DHCP.
func (c *core) granted(t testing.TB, ip netip.Addr, want evpn.LocalIP) {
	t.Helper()
	want.VNI, want.IP, want.Source, want.Port = 10, ip, evpn.WitnessDHCP, "p10"
	c.wait(t, fmt.Sprintf("%+v", want), func() bool { return c.toldJustNow(ip, want) })
}

// TestSnoopDHCP: a host and a server behind another port agree on an address; the answer is a broadcast or not, and larger
// than a slot of the ring or not.
func TestSnoopDHCP(t *testing.T) {
	l, c, host, server := newDHCPLab(t)
	for i := range uint32(8) {
		ip := netip.AddrFrom4([4]byte{10, 1, 1, byte(100 + i)})
		host.send(request4(i, macA, ip).frame(t))
		l.counted(protoDHCP, verdictAccepted, uint64(2*i+1))
		ack := ack4(i, macA, ip, 3600)
		ack.pad = int(i) * 160
		frame := ack.frame(t)
		if i%2 == 0 {
			copy(frame, macA[:])
		}
		server.send(frame)
		c.granted(t, ip, evpn.LocalIP{MAC: macA, Lease: time.Hour})
		c.wait(t, "the bridge to have the host", func() bool { return c.macs[10][macA].Port == "p10" })
	}
	host.send(dhcp4{chaddr: macA, typ: layers.DHCPMsgTypeRelease, ciaddr: netip.MustParseAddr("10.1.1.100")}.frame(t))
	c.wait(t, "the address to be given back", func() bool { _, ok := c.ips[10][netip.MustParseAddr("10.1.1.100")]; return !ok })

	host.send(request6(1, macA, host6).frame(t))
	l.counted(protoDHCPv6, verdictAccepted, 1)
	server.send(reply6(1, macA, lease{ip: host6, valid: time.Minute}).frame(t))
	c.granted(t, host6, evpn.LocalIP{MAC: macA, Lease: time.Minute})
	release := request6(2, macA, host6)
	release.typ = layers.DHCPv6MsgTypeRelease
	host.send(release.frame(t))
	c.wait(t, "the IPv6 address to be given back", func() bool { _, ok := c.ips[10][host6]; return !ok })
}

// TestSnoopDHCPFalseServer: a host that answers as if it were a server moves nobody's address: not one that did not ask,
// not with another address than was asked for, and not to itself.
func TestSnoopDHCPFalseServer(t *testing.T) {
	l, c, host, liar := newDHCPLab(t)
	host.send(request4(1, macA, hostA).frame(t))
	l.counted(protoDHCP, verdictAccepted, 1)
	for i, ack := range []dhcp4{
		ack4(1, macA, hostB, 3600), // what it did not ask for
		ack4(2, macA, hostB, 3600), // in an exchange of which it does not know
		ack4(1, macB, hostB, 3600), // for a host that is not there
		{src: macB, chaddr: macB, typ: layers.DHCPMsgTypeAck, xid: 1, yiaddr: hostB, lease: 60, reply: true}, // for itself
	} {
		if i > 0 { // the first one was the answer, right or wrong
			host.send(request4(1, macA, hostA).frame(t))
			l.counted(protoDHCP, verdictAccepted, uint64(1+i))
		}
		before := l.packets(protoDHCP, verdictUnasked)
		liar.send(ack.frame(t))
		l.counted(protoDHCP, verdictServer, uint64(1+i))
		l.counted(protoDHCP, verdictUnasked, before+1)
	}
	c.look(func() {
		if len(c.ips[10]) > 0 {
			t.Errorf("believed: %+v", c.ips[10])
		}
	})
	liar.send(ack4(1, macA, hostA, 60).frame(t)) // what the host asked for: it has it now, whoever said so
	c.granted(t, hostA, evpn.LocalIP{MAC: macA, Lease: time.Minute})
}

// TestSnoopDHCPFlood: answers that one port floods do not keep another from being heard, and DHCP is heard again after.
func TestSnoopDHCPFlood(t *testing.T) {
	l, c, host, liar := newDHCPLab(t)
	flood := ack4(9, macB, hostB, 60).frame(t)
	for range 20_000 {
		liar.send(flood)
	}
	eventually(t, "answers to be limited", func() bool { return l.packets(protoDHCP, verdictLimited) > 0 })
	eventually(t, "the host to be heard", func() (ok bool) {
		host.send(gratuitous(macC, hostB))
		c.look(func() { ok = c.ips[10][hostB].MAC == macC })
		return ok
	})
	eventually(t, "DHCP to be heard again", func() (ok bool) {
		host.send(request4(1, macA, hostA).frame(t))
		liar.send(ack4(1, macA, hostA, 60).frame(t))
		c.look(func() { ok = c.ips[10][hostA].MAC == macA })
		return ok
	})
}
