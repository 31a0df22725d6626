package labs

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"
)

// testDHCP: a VM behind h1 gets a lease from a DHCP server behind h2 and says nothing beyond that: everyone has its address,
// although VNI 100 has none on our hosts' bridges. Client and server are busybox's.
func testDHCP(t *testing.T, ctx context.Context, lab *Lab) {
	const mac, ip = "02:00:00:64:77:02", "172.16.100.180"
	file := func(node, name, text string) string { // nodes have a /tmp of their own
		t.Helper()
		if _, _, err := lab.Exec(ctx, node, "sh", "-c", `printf '%s\n' "$2" >/tmp/$1; chmod +x /tmp/$1`, "sh", name, text); err != nil {
			t.Fatal(err)
		}
		return "/tmp/" + name
	}
	conf := file("vm21", "udhcpd.conf", "interface eth1\nstart "+ip+"\nend "+ip+"\nstatic_lease "+mac+" "+ip+
		"\noption lease 3600\nlease_file /tmp/leases\npidfile /tmp/pid")
	file("vm21", "leases", "")
	// The client needs the address to give it back, and no more of the network than that.
	script := file("vm11", "script", "#!/bin/sh\n[ $1 != bound ] || ip addr add $ip/24 dev dhcp0 noprefixroute")
	run(t, ctx, lab, "vm11", "ip link add dhcp0 link eth1 address "+mac+" type macvlan mode private")
	run(t, ctx, lab, "vm11", "sysctl -qw net.ipv6.conf.dhcp0.disable_ipv6=1 net.ipv4.conf.all.arp_ignore=1")
	run(t, ctx, lab, "vm11", "ip link set dhcp0 up")
	start := func(node, name string, argv ...string) *Process {
		t.Helper()
		p, err := lab.Start(node, name, argv...)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	server := start("vm21", "udhcpd", "busybox", "udhcpd", "-f", conf)
	client := start("vm11", "udhcpc", "busybox", "udhcpc", "-f", "-R", "-i", "dhcp0", "-s", script)
	wantBinding(t, ctx, lab, mac, ip)
	type leased struct {
		LeaseEnd time.Time `json:"leaseEnd"`
	}
	rows, err := list[leased](ctx, lab, "h1", "show", "arp", "--ip", ip)
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) != 1 || time.Until(rows[0].LeaseEnd) < 50*time.Minute || time.Until(rows[0].LeaseEnd) > time.Hour {
		t.Errorf("h1 has %+v, want a lease of an hour", rows)
	}
	if err := client.Stop(ctx, unix.SIGTERM); err != nil { // it gives the address back first
		t.Fatal(err)
	}
	wantNoBinding(t, ctx, lab, ip)
	if err := server.Stop(ctx, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	run(t, ctx, lab, "vm11", "ip link del dhcp0")
}

// testDHCPv6 is the same for DHCPv6, with the frames of client and server made here: no client that takes addresses and
// no more fits a lab.
func testDHCPv6(t *testing.T, ctx context.Context, lab *Lab) {
	const mac, ip = "02:00:00:64:77:03", "fd00:100::180"
	hw, addr := net.HardwareAddr{2, 0, 0, 0x64, 0x77, 3}, netip.MustParseAddr(ip)
	host, server := newVMPort(t, lab, "vm11", "eth1"), newVMPort(t, lab, "vm21", "eth1")
	exchange := func() {
		host.send(dhcpv6(t, layers.DHCPv6MsgTypeRequest, hw, addr))
		server.send(dhcpv6(t, layers.DHCPv6MsgTypeReply, hw, addr))
	}
	within(t, ctx, 20*time.Second, "h1 has the lease", func() error {
		exchange() // the request may be read when the answer has passed: a client asks again
		return wantARP(ctx, lab, "h1", 100, ip, mac, "local", "")
	})
	wantBinding(t, ctx, lab, mac, ip)
	host.send(dhcpv6(t, layers.DHCPv6MsgTypeRelease, hw, addr))
	wantNoBinding(t, ctx, lab, ip)
}

// wantBinding waits until FRR has the route of a host behind h1, and h2's kernel its entries.
func wantBinding(t *testing.T, ctx context.Context, lab *Lab, mac, ip string) {
	t.Helper()
	bits := netip.MustParseAddr(ip).BitLen()
	within(t, ctx, 20*time.Second, "everyone has "+ip, func() error {
		return all(
			wantARP(ctx, lab, "h1", 100, ip, mac, "local", ""),
			wantFRRARP(ctx, lab, "tor", 100, ip, mac, vteps02["h1"]),
			wantNextHop(ctx, lab, "tor", fmt.Sprintf("[2]:[0]:[48]:[%s]:[%d]:[%s]", mac, bits, ip), vteps02["h1"]),
			wantNeighbor(ctx, lab, "h2", "br100", ip, mac),
			wantFDB(ctx, lab, "h2", "vxlan100", mac, vteps02["h1"]),
		)
	})
}

func wantNoBinding(t *testing.T, ctx context.Context, lab *Lab, ip string) {
	t.Helper()
	within(t, ctx, 20*time.Second, "nobody has "+ip, func() error {
		entries, err := frrARP(ctx, lab, "tor", 100)
		if err != nil {
			return err
		}
		if e, ok := entries[ip]; ok {
			return fmt.Errorf("tor: FRR has %s as %+v", ip, e)
		}
		return all(
			want(ctx, lab, "h1", false, func(a ctlARP) bool { return a.IP == ip }, "show", "arp"),
			want(ctx, lab, "h2", false, func(a ctlARP) bool { return a.IP == ip }, "show", "arp"),
			wantNoNeighbor(ctx, lab, "h2", "br100", ip),
		)
	})
}

// dhcpv6 makes one message about one address: from the host with that MAC, or to it when it is a Reply.
func dhcpv6(t *testing.T, typ layers.DHCPv6MsgType, mac net.HardwareAddr, ip netip.Addr) []byte {
	t.Helper()
	eth := &layers.Ethernet{SrcMAC: mac, DstMAC: net.HardwareAddr{0x33, 0x33, 0, 1, 0, 2}, EthernetType: layers.EthernetTypeIPv6}
	ip6 := &layers.IPv6{Version: 6, HopLimit: 1, NextHeader: layers.IPProtocolUDP, SrcIP: net.ParseIP("fe80::77:3"), DstIP: net.ParseIP("ff02::1:2")}
	udp := &layers.UDP{SrcPort: 546, DstPort: 547}
	if typ == layers.DHCPv6MsgTypeReply {
		eth.SrcMAC, eth.DstMAC = net.HardwareAddr{2, 0, 0, 0x64, 2, 1}, mac
		ip6.SrcIP, ip6.DstIP = net.ParseIP("fe80::2:1"), ip6.SrcIP
		udp.SrcPort, udp.DstPort = 547, 546
	}
	ia := make([]byte, 12) // IAID, T1, T2
	ia = append(ia, 0, 5, 0, 24)
	ia = append(ia, ip.AsSlice()...)
	ia = binary.BigEndian.AppendUint32(ia, 1800)
	ia = binary.BigEndian.AppendUint32(ia, 3600)
	message := &layers.DHCPv6{MsgType: typ, TransactionID: []byte{0, 7, 7}, Options: layers.DHCPv6Options{
		layers.NewDHCPv6Option(layers.DHCPv6OptClientID, append([]byte{0, 3, 0, 1}, mac...)),
		layers.NewDHCPv6Option(layers.DHCPv6OptIANA, ia),
	}}
	if err := udp.SetNetworkLayerForChecksum(ip6); err != nil {
		t.Fatal(err)
	}
	buf := gopacket.NewSerializeBuffer()
	opts := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(buf, opts, eth, ip6, udp, message); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}
