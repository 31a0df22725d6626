package labs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// VMs of 01-two-hosts: one behind each host, and addresses that nobody has.
const (
	near4, near6 = "172.16.100.11", "fd00:100::11"
	far4, far6   = "172.16.100.21", "fd00:100::21"
	far12        = "172.16.100.22"
)

var (
	nearMAC = []byte{2, 0, 0, 0x64, 1, 1}
	farMAC  = []byte{2, 0, 0, 0x64, 2, 1}
)

// asking counts, in the kernel, the ARP frames and neighbour solicitations to everybody that pass an interface inside of
// VXLAN over IPv4. Unicast ones are between two hosts, who check that the other one is still there (RFC 9161 §3.3).
type asking struct {
	vmPort
}

func newAsking(t *testing.T, lab *Lab, node, ifname string) asking {
	t.Helper()
	const inner, ip6 = 14 + 20 + 8 + 8, 14 + 20 + 8 + 8 + 14
	program, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: 23, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_UDP, SkipTrue: 12},
		bpf.LoadAbsolute{Off: 36, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 4789, SkipTrue: 10},
		bpf.LoadAbsolute{Off: inner, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpBitsNotSet, Val: 1, SkipTrue: 8},
		bpf.LoadAbsolute{Off: inner + 12, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.ETH_P_ARP, SkipTrue: 5},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.ETH_P_IPV6, SkipTrue: 5},
		bpf.LoadAbsolute{Off: ip6 + 6, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_ICMPV6, SkipTrue: 3},
		bpf.LoadAbsolute{Off: ip6 + 40, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 135, SkipTrue: 1},
		bpf.RetConstant{Val: 1},
		bpf.RetConstant{Val: 0},
	})
	if err != nil {
		t.Fatal(err)
	}
	filter := make([]unix.SockFilter, len(program))
	for i, ins := range program {
		filter[i] = unix.SockFilter{Code: ins.Op, Jt: ins.Jt, Jf: ins.Jf, K: ins.K}
	}
	a := asking{newVMPort(t, lab, node, ifname)}
	if err := unix.SetsockoptSockFprog(a.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}); err != nil {
		t.Fatal(err)
	}
	a.hearing()
	a.since()
	return a
}

// since counts the frames since the last call.
func (a asking) since() int {
	a.t.Helper()
	st, err := unix.GetsockoptTpacketStats(a.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		a.t.Fatal(err)
	}
	return int(st.Packets)
}

// hearing has the port receive frames.
func (w vmPort) hearing() {
	w.t.Helper()
	local, err := unix.Getsockname(w.fd)
	if err != nil {
		w.t.Fatal(err)
	}
	all := uint16(unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8)
	if err := unix.Bind(w.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: local.(*unix.SockaddrLinklayer).Ifindex}); err != nil {
		w.t.Fatal(err)
	}
	if err := unix.SetsockoptTimeval(w.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}); err != nil {
		w.t.Fatal(err)
	}
}

// awaits returns the first frame that comes in and is wanted; an error after five seconds without any.
func (w vmPort) awaits(wanted func([]byte) bool) error {
	buf := make([]byte, 2048)
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		n, from, err := unix.Recvfrom(w.fd, buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		if from.(*unix.SockaddrLinklayer).Pkttype != unix.PACKET_OUTGOING && wanted(buf[:n]) {
			return nil
		}
	}
	return errors.New("only other frames")
}

// whoHas is an ARP request; with the zero address as source it is a probe (RFC 5227).
func whoHas(mac []byte, source, target string) []byte {
	from, to := netip.MustParseAddr(source), netip.MustParseAddr(target)
	return slices.Concat(broadcast, mac, []byte{8, 6, 0, 1, 8, 0, 6, 4, 0, 1}, mac, from.AsSlice(), make([]byte, 6), to.AsSlice())
}

// solicit is a neighbour solicitation to the group of the target; from "::" it looks for a duplicate (RFC 4862).
func solicit(mac []byte, source, target string) []byte {
	from, to := netip.MustParseAddr(source), netip.MustParseAddr(target).As16()
	group := []byte{0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, to[13], to[14], to[15]}
	icmp := slices.Concat([]byte{135, 0, 0, 0, 0, 0, 0, 0}, to[:])
	if !from.IsUnspecified() {
		icmp = slices.Concat(icmp, []byte{1, 1}, mac)
	}
	sum := uint32(len(icmp) + 58)
	for b := slices.Concat(from.AsSlice(), group, icmp); len(b) > 0; b = b[2:] {
		sum += uint32(b[0])<<8 | uint32(b[1])
	}
	sum = sum>>16 + sum&0xffff
	sum = ^(sum>>16 + sum)
	icmp[2], icmp[3] = byte(sum>>8), byte(sum)
	head := slices.Concat([]byte{0x33, 0x33, 0xff}, to[13:], mac, []byte{0x86, 0xdd, 0x60, 0, 0, 0, 0, byte(len(icmp)), 58, 255})
	return slices.Concat(head, from.AsSlice(), group, icmp)
}

// answer4 and answer6 tell whether a frame says that mac has ip.
func answer4(mac []byte, ip string) func([]byte) bool {
	says := slices.Concat([]byte{8, 6, 0, 1, 8, 0, 6, 4, 0, 2}, mac, netip.MustParseAddr(ip).AsSlice())
	return func(b []byte) bool { return len(b) > 12 && bytes.HasPrefix(b[12:], says) }
}

func answer6(mac []byte, ip string) func([]byte) bool {
	target, option := netip.MustParseAddr(ip).AsSlice(), slices.Concat([]byte{2, 1}, mac)
	return func(b []byte) bool {
		return len(b) >= 86 && b[54] == 136 && bytes.Equal(b[62:78], target) && bytes.Equal(b[78:86], option)
	}
}

// suppress writes what hosts shall do and has them read it.
func suppress(t *testing.T, ctx context.Context, lab *Lab, on bool, hosts ...string) {
	t.Helper()
	flag := map[bool]string{true: "neigh_suppress on", false: "neigh_suppress off"}[on]
	for _, host := range hosts {
		conf := fmt.Sprintf("mkdir -p /etc/evpnd/conf.d; echo '{manage-devices: true, arp-suppression: %t}' >/etc/evpnd/conf.d/suppress.yaml", on)
		shell(t, ctx, lab, host, conf)
		run(t, ctx, lab, host, "evpnctl reload")
		within(t, ctx, 10*time.Second, host+" has "+flag, func() error {
			out, _, err := lab.Exec(ctx, host, "bridge", "-d", "link", "show", "dev", "vxlan100")
			if err == nil && !strings.Contains(out, flag) {
				err = errors.New(out)
			}
			return all(err, want(ctx, lab, host, true, func(v ctlVNI) bool { return v.Suppression == on }, "show", "vni"))
		})
	}
}

// shell runs a script in a node and returns its output; it must succeed.
func shell(t *testing.T, ctx context.Context, lab *Lab, node, script string) string {
	t.Helper()
	out, _, err := lab.Exec(ctx, node, "sh", "-ec", script)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

type ctlVNI struct {
	VNI         int    `json:"vni"`
	Suppression bool   `json:"arpSuppression"`
	Answered    uint64 `json:"requestsAnswered,string"`
	Unknown     uint64 `json:"requestsUnknown,string"`
	Flooded     uint64 `json:"requestsFlooded,string"`
}

func countsOf(t *testing.T, ctx context.Context, lab *Lab, node string) ctlVNI {
	t.Helper()
	vnis, err := list[ctlVNI](ctx, lab, node, "show", "vni", "100")
	if err != nil || len(vnis) != 1 {
		t.Fatalf("show vni: %v, %v", vnis, err)
	}
	return vnis[0]
}

// remoteNeighbors wants the neighbours that h1 needs to answer for h2's hosts.
func remoteNeighbors(ctx context.Context, lab *Lab) error {
	return all(wantNeighbor(ctx, lab, "h1", "br100", far4, "02:00:00:64:02:01"),
		wantNeighbor(ctx, lab, "h1", "br100", far6, "02:00:00:64:02:01"),
		wantNeighbor(ctx, lab, "h1", "br100", far12, "02:00:00:64:02:02"))
}

// TestARPSuppression: two hosts whose bridges have no address.
func TestARPSuppression(t *testing.T) {
	ctx := testContext(t, 3*time.Minute)
	lab := bringUp(t, ctx, "01-two-hosts")
	within(t, ctx, 30*time.Second, "h1 and h2 have a session", func() error {
		return all(wantEstablished(ctx, lab, "h1", "10.0.0.1"), wantVTEP(ctx, lab, "h1", true, 100, "10.255.0.2"),
			wantVTEP(ctx, lab, "h2", true, 100, "10.255.0.1"))
	})
	suppress(t, ctx, lab, true, "h1", "h2")
	for _, ip := range []string{far4, far6, far12} {
		ping(t, ctx, lab, "vm11", ip)
	}
	within(t, ctx, 10*time.Second, "h1 knows h2's hosts", func() error { return remoteNeighbors(ctx, lab) })
	within(t, ctx, 10*time.Second, "no VM looks for duplicates of its link-local address any more", func() error {
		for _, vm := range []string{"vm11", "vm12", "vm21", "vm22"} {
			switch tentative, _, err := lab.Exec(ctx, vm, "ip", "-6", "addr", "show", "dev", "eth1", "tentative"); {
			case err != nil:
				return err
			case tentative != "":
				return fmt.Errorf("%s: %s", vm, tentative)
			}
		}
		return nil
	})
	w, underlay := newVMPort(t, lab, "vm11", "eth1"), newAsking(t, lab, "h1", "eth1")
	w.hearing()
	t.Run("requests for remote hosts stay here", func(t *testing.T) { testAnswered(t, ctx, lab, w, underlay) })
	t.Run("unknown targets are flooded once", func(t *testing.T) { testUnknown(t, ctx, lab, w, underlay) })
	t.Run("duplicate addresses are found", func(t *testing.T) { testDAD(t, ctx, lab, w, underlay) })
	t.Run("gratuitous frames move an address", func(t *testing.T) { testGratuitousMove(t, ctx, lab, w) })
	t.Run("neighbours come back", func(t *testing.T) { testWiped(t, ctx, lab) })
	t.Run("off", func(t *testing.T) { testNotSuppressed(t, ctx, lab, w, underlay) })
}

func testAnswered(t *testing.T, ctx context.Context, lab *Lab, w vmPort, underlay asking) {
	const rounds, each = 10, 100
	before := countsOf(t, ctx, lab, "h1")
	underlay.since()
	for round := range rounds {
		for range each {
			w.send(whoHas(nearMAC, near4, far4))
			if err := w.awaits(answer4(farMAC, far4)); err != nil {
				t.Fatalf("no answer for %s: %v", far4, err)
			}
			w.send(solicit(nearMAC, near6, far6))
			if err := w.awaits(answer6(farMAC, far6)); err != nil {
				t.Fatalf("no answer for %s: %v", far6, err)
			}
		}
		within(t, ctx, 5*time.Second, "the requests are counted", func() error { // and no more are sent than the ring holds
			now := countsOf(t, ctx, lab, "h1")
			if n := now.Answered - before.Answered; n < 2*each*uint64(round+1) || now.Flooded != before.Flooded {
				return fmt.Errorf("%+v, before %+v", now, before)
			}
			return nil
		})
	}
	shell(t, ctx, lab, "vm11", "for i in 1 2 3 4 5 6 7 8 9 10; do"+
		" ip neigh flush dev eth1 nud all; ping -qnc1 -W2 "+far4+"; ping -qnc1 -W2 "+far6+"; done")
	if n := underlay.since(); n != 0 {
		t.Errorf("%d frames on the underlay for %d requests", n, 2*rounds*each+20)
	}
}

// testAnsweredForFRR: in 02-frr-rr, for a host behind FRR, which learns its addresses by an address of its own.
func testAnsweredForFRR(t *testing.T, ctx context.Context, lab *Lab) {
	const ip4, ip6 = "172.16.100.31", "fd00:100::31"
	mac := []byte{2, 0, 0, 0x64, 3, 1}
	suppress(t, ctx, lab, true, "h1")
	ping(t, ctx, lab, "vm31", "172.16.100.253")
	ping(t, ctx, lab, "vm31", "fd00:100::253")
	within(t, ctx, 20*time.Second, "h1 knows the host behind FRR", func() error {
		return all(wantNeighbor(ctx, lab, "h1", "br100", ip4, "02:00:00:64:03:01"), wantNeighbor(ctx, lab, "h1", "br100", ip6, "02:00:00:64:03:01"))
	})
	w, underlay := newVMPort(t, lab, "vm11", "eth1"), newAsking(t, lab, "h1", "eth1")
	w.hearing()
	for range 100 {
		w.send(whoHas(nearMAC, near4, ip4))
		w.send(solicit(nearMAC, near6, ip6))
		if err := all(w.awaits(answer4(mac, ip4)), w.awaits(answer6(mac, ip6))); err != nil {
			t.Fatal(err)
		}
	}
	if n := underlay.since(); n != 0 {
		t.Errorf("%d frames on the underlay", n)
	}
	w.send(whoHas(nearMAC, near4, "172.16.100.200"))
	underlay.wants(ctx, len(vteps02)-1) // once to each VTEP
	suppress(t, ctx, lab, false, "h1")
}

func testUnknown(t *testing.T, ctx context.Context, lab *Lab, w vmPort, underlay asking) {
	before := countsOf(t, ctx, lab, "h1").Unknown
	for i := range 10 {
		for _, frame := range [][]byte{
			whoHas(nearMAC, near4, fmt.Sprintf("172.16.100.%d", 200+i)), solicit(nearMAC, near6, fmt.Sprintf("fd00:100::2:%d", i)),
		} {
			underlay.since()
			w.send(frame)
			underlay.wants(ctx, 1)
		}
	}
	within(t, ctx, 5*time.Second, "the requests are counted", func() error {
		if n := countsOf(t, ctx, lab, "h1").Unknown - before; n != 20 {
			return fmt.Errorf("%d unknown", n)
		}
		return nil
	})
}

// wants waits for n frames, and sees that no more come.
func (a asking) wants(ctx context.Context, n int) {
	a.t.Helper()
	got := 0
	within(a.t, ctx, 5*time.Second, fmt.Sprintf("%d frames on the underlay", n), func() error {
		if got += a.since(); got < n {
			return fmt.Errorf("%d frames", got)
		}
		return nil
	})
	if got += a.since(); got != n {
		a.t.Errorf("%d frames on the underlay, want %d", got, n)
	}
}

// testDAD: what the bridge alone would swallow. An address that a remote host has is defended in its name, one that
// nobody is known to have is asked for everywhere.
func testDAD(t *testing.T, ctx context.Context, lab *Lab, w vmPort, underlay asking) {
	underlay.since()
	newcomer := []byte{2, 0, 0, 0x64, 0x77, 9}
	w.send(whoHas(newcomer, "0.0.0.0", far4))
	if err := w.awaits(answer4(farMAC, far4)); err != nil {
		t.Errorf("probe for %s: %v", far4, err)
	}
	w.send(solicit(newcomer, "::", far6))
	if err := w.awaits(answer6(farMAC, far6)); err != nil {
		t.Errorf("probe for %s: %v", far6, err)
	}
	if n := underlay.since(); n != 0 {
		t.Errorf("%d frames on the underlay", n)
	}
	w.send(whoHas(newcomer, "0.0.0.0", "172.16.100.230"))
	underlay.wants(ctx, 1)
	w.send(solicit(newcomer, "::", "fd00:100::230"))
	underlay.wants(ctx, 1)
	w.send(whoHas(farMAC, "0.0.0.0", far4)) // the host itself, which has moved here
	underlay.wants(ctx, 1)
	far := newVMPort(t, lab, "vm21", "eth1")
	far.send(gratuitousARP(farMAC, netip.MustParseAddr(far4))) // and back
	far.send(unsolicitedNA(farMAC, netip.MustParseAddr(far6)))
	within(t, ctx, 10*time.Second, "h1 knows where it is", func() error { return remoteNeighbors(ctx, lab) })

	for ip, failed := range map[string]bool{far6: true, "fd00:100::231": false} {
		run(t, ctx, lab, "vm11", "ip addr add "+ip+"/64 dev eth1")
		within(t, ctx, 10*time.Second, "the kernel of vm11 judges "+ip, func() error {
			out, _, err := lab.Exec(ctx, "vm11", "ip", "-6", "addr", "show", "dev", "eth1", "to", ip)
			if err == nil && (strings.Contains(out, "dadfailed") != failed || !failed && strings.Contains(out, "tentative")) {
				err = errors.New(out)
			}
			return err
		})
		run(t, ctx, lab, "vm11", "ip addr del "+ip+"/64 dev eth1")
	}
}

// testGratuitousMove: a host goes from h2 to h1 and back, and says so by gratuitous frames only, which the bridges keep to
// themselves. The kernels know, and so do the other hosts.
func testGratuitousMove(t *testing.T, ctx context.Context, lab *Lab, w vmPort) {
	const mac = "02:00:00:64:77:01"
	octets := []byte{2, 0, 0, 0x64, 0x77, 1}
	far := newVMPort(t, lab, "vm21", "eth1")
	far.hearing()
	for _, c := range []struct {
		ip   string
		tell func([]byte, netip.Addr) []byte
	}{{"172.16.100.177", gratuitousARP}, {"fd00:100::177", unsolicitedNA}} {
		frame := c.tell(octets, netip.MustParseAddr(c.ip))
		for _, move := range []struct {
			from, to vmPort
			at, not  string
		}{{w, far, "h2", "h1"}, {far, w, "h1", "h2"}, {w, far, "h2", "h1"}} {
			move.to.send(frame)
			if err := move.from.awaits(func(b []byte) bool { return bytes.HasPrefix(b, frame) }); err != nil {
				t.Errorf("hosts behind %s are not told of %s: %v", move.not, c.ip, err)
			}
			within(t, ctx, 10*time.Second, c.ip+" to be at "+move.at, func() error {
				return all(wantNeighbor(ctx, lab, move.not, "br100", c.ip, mac), wantNoNeighbor(ctx, lab, move.at, "br100", c.ip))
			})
		}
	}
}

// testWiped: what makes the kernel throw neighbours away.
func testWiped(t *testing.T, ctx context.Context, lab *Lab) {
	for _, script := range []string{
		"ip link set br100 down; ip link set br100 up",
		"ip link set br100 address 02:00:00:64:01:fd",
		"ip link set br100 down; ip link set br100 address 02:00:00:64:01:fe; ip link set br100 up",
		"ip neigh flush dev br100 nud all || true", // not done for good: they come back meanwhile
		"ip neigh del " + far4 + " dev br100",
		"ip link set eth2 down; ip link set eth3 down; ip link set vxlan100 down; ip link set vxlan100 up; ip link set eth2 up; ip link set eth3 up",
		"ip link set vxlan100 nomaster; ip link set vxlan100 master br100",
		"ip addr add 192.0.2.1/24 dev br100; ip addr del 192.0.2.1/24 dev br100",
		"ip addr add fd00:9::1/64 dev br100; ip addr flush dev br100",
		"sysctl -qw net.ipv6.conf.br100.disable_ipv6=1; sysctl -qw net.ipv6.conf.br100.disable_ipv6=0",
		"ip link set br100 mtu 1200; ip link set br100 mtu 1500", // no IPv6 below 1280
	} {
		out := shell(t, ctx, lab, "h1", script+"; ip neigh show dev br100")
		start := time.Now()
		within(t, ctx, 10*time.Second, "neighbours after "+script, func() error { return remoteNeighbors(ctx, lab) })
		took := time.Since(start)
		t.Logf("%s: %d rows right after, all there %s later", script, strings.Count(out, "\n"), took)
		if took > time.Second {
			t.Errorf("%s: neighbours are back after %s", script, took)
		}
		within(t, ctx, 10*time.Second, "the flag and the FDB", func() error {
			return all(wantFDB(ctx, lab, "h1", "vxlan100", "02:00:00:64:02:01", "10.255.0.2"),
				want(ctx, lab, "h1", true, func(v ctlVNI) bool { return v.Suppression }, "show", "vni"))
		})
	}
}

// testNotSuppressed: switched off by a reload, which touches nothing else.
func testNotSuppressed(t *testing.T, ctx context.Context, lab *Lab, w vmPort, underlay asking) {
	m := startMonitor(t, ctx, lab, "h1")
	suppress(t, ctx, lab, false, "h1", "h2")
	before := countsOf(t, ctx, lab, "h1").Flooded
	for _, frame := range [][]byte{whoHas(nearMAC, near4, far4), solicit(nearMAC, near6, far6)} {
		underlay.since()
		w.send(frame)
		underlay.wants(ctx, 1)
	}
	within(t, ctx, 5*time.Second, "the requests are counted", func() error {
		if n := countsOf(t, ctx, lab, "h1").Flooded - before; n != 2 {
			return fmt.Errorf("%d flooded", n)
		}
		return nil
	})
	m.wantNothingDeleted(t, ctx)
	if err := all(remoteNeighbors(ctx, lab), wantEstablished(ctx, lab, "h1", "10.0.0.1")); err != nil {
		t.Error(err)
	}
}
