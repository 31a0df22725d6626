package dataplane

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	logtest "github.com/sirupsen/logrus/hooks/test"
	"golang.org/x/sys/unix"

	"github.com/evpnd/evpnd/evpn"
)

// newSnoopLab is newLab with snooping.
func newSnoopLab(t testing.TB) (*lab, *core) {
	t.Helper()
	clean(t)
	addVNI(t, 10)
	opt := options()
	opt.Snoop = true
	l := newPlane(t, opt)
	c := l.start()
	l.snooped(1)
	return l, c
}

// snooped waits until so many ports have a ring.
func (l *lab) snooped(n int) {
	l.t.Helper()
	eventually(l.t, fmt.Sprintf("%d ports to be snooped", n), func() bool { return l.Status().Snoop.Ports == n })
}

func (l *lab) packets(proto protocol, v verdict) uint64 {
	return l.snooper.packets[proto][v].Load()
}

// counted waits for a counter.
func (l *lab) counted(proto protocol, v verdict, n uint64) {
	l.t.Helper()
	eventually(l.t, fmt.Sprintf("%d %s frames %s", n, proto, v), func() bool { return l.packets(proto, v) == n })
}

// wire sends and receives frames at the host's end of a port.
type wire struct {
	t  testing.TB
	fd int
}

func newWire(t testing.TB, ifname string) wire {
	t.Helper()
	ifi, err := net.InterfaceByName(ifname)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, int(htons(unix.ETH_P_ALL)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: ifi.Index}); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}); err != nil {
		t.Fatal(err)
	}
	return wire{t, fd}
}

func (w wire) send(frame []byte) {
	w.t.Helper()
	if _, err := unix.Write(w.fd, frame); err != nil {
		w.t.Fatal(err)
	}
}

// receive waits for a frame that comes in and is wanted.
func (w wire) receive(what string, wanted func([]byte) bool) []byte {
	w.t.Helper()
	buf := make([]byte, 2048)
	for end := time.Now().Add(deadline); time.Now().Before(end); {
		n, from, err := unix.Recvfrom(w.fd, buf, 0)
		if err != nil {
			continue
		}
		if l := from.(*unix.SockaddrLinklayer); l.Pkttype != unix.PACKET_OUTGOING && wanted(buf[:n]) {
			return buf[:n]
		}
	}
	w.t.Fatalf("waited %s for %s", deadline, what)
	return nil
}

// binding waits for the word of a frame.
func (c *core) binding(t testing.TB, ip netip.Addr, want evpn.LocalIP) {
	t.Helper()
	want.VNI, want.IP, want.Source = 10, ip, evpn.WitnessFrame
	c.wait(t, fmt.Sprintf("%+v", want), func() bool { return c.toldJustNow(ip, want) })
}

// toldJustNow reports whether the word on an IP is as wanted, from a frame that has just come in by the kernel's clock.
func (c *core) toldJustNow(ip netip.Addr, want evpn.LocalIP) bool {
	got := c.ips[10][ip]
	age := time.Since(got.Heard)
	got.Heard = time.Time{}
	return got == want && age >= 0 && age < time.Minute
}

// TestSnoop: the frames by which hosts make themselves known become facts, on a bridge without an address. The bridge has
// the MAC as well, so that the core can believe them.
func TestSnoop(t *testing.T) {
	l, c := newSnoopLab(t)
	w := newWire(t, "h10")
	if out := run(t, "ip -4 addr show dev br10"); strings.Contains(out, "inet") {
		t.Fatalf("the bridge has an address: %s", out)
	}
	for i, frame := range [][]byte{
		gratuitous(macA, netip.MustParseAddr("10.1.1.10")),
		arp(2, macA, macA, netip.MustParseAddr("10.1.1.11"), macA, netip.MustParseAddr("10.1.1.11")),
		arp(1, macA, macA, netip.MustParseAddr("10.1.1.12"), evpn.MAC{}, hostB),
		arp(2, macA, macA, netip.MustParseAddr("10.1.1.13"), macB, hostB),
	} {
		w.send(frame)
		c.binding(t, netip.AddrFrom4([4]byte{10, 1, 1, byte(10 + i)}), evpn.LocalIP{MAC: macA, Port: "p10"})
	}
	w.send(nd(136, flagOverride|flagRouter, macA, host6, macA))
	c.binding(t, host6, evpn.LocalIP{MAC: macA, Port: "p10", Router: true})
	w.send(gratuitous(macB, hostA))
	c.binding(t, hostA, evpn.LocalIP{MAC: macB, Port: "p10"})
	w.send(nd(135, 0, macC, host6, macC))
	c.wait(t, "sighting of the host that only asks", func() bool { return c.sighted[macC] == "p10" })
	for _, m := range []evpn.MAC{macA, macB, macC} {
		c.wait(t, "the bridge to have "+m.String(), func() bool { return c.macs[10][m].Port == "p10" })
	}
	if n := l.packets(protoARP, verdictAccepted) + l.packets(protoND, verdictAccepted); n != 7 {
		t.Errorf("%d frames accepted, want 7", n)
	}
}

// TestSnoopHostile: frames that lie say nothing, and are counted.
func TestSnoopHostile(t *testing.T) {
	l, c := newSnoopLab(t)
	w := newWire(t, "h10")
	bridge := evpn.MAC{2, 0, 0, 0, 0xaa, 1}
	for _, row := range []struct {
		proto protocol
		v     verdict
		frame []byte
	}{
		{protoARP, verdictSpoofed, arp(1, macA, macB, hostA, evpn.MAC{}, hostA)},
		{protoARP, verdictSpoofed, gratuitous(bridge, hostA)},
		{protoND, verdictSpoofed, nd(136, flagOverride, macA, host6, macB)},
		{protoARP, verdictMalformed, gratuitous(macA, hostA)[:30]},
		{protoARP, verdictMalformed, gratuitous(macA, netip.MustParseAddr("255.255.255.255"))},
		{protoND, verdictMalformed, edit(nd(136, flagOverride, macA, host6, macA), 21, 64)},
		{protoARP, verdictTagged, tagged(gratuitous(macA, hostA), 7)},
		{protoOther, verdictTagged, tagged(tagged(gratuitous(macA, hostA), 7), 8)},
		{protoARP, verdictSpoofed, gratuitous(evpn.MAC{1, 0, 0x5e, 0, 0, 1}, hostA)},
		{protoARP, verdictSpoofed, gratuitous(macA, netip.MustParseAddr(vtepSelf))},
		{protoDHCP, verdictSpoofed, request4(1, bridge, hostA).frame(t)},
		{protoDHCP, verdictTagged, tagged(request4(1, macA, hostA).frame(t), 7)},
		{protoDHCP, verdictMalformed, request4(1, macA, hostA).frame(t)[:60]},
		{protoDHCP, verdictServer, ack4(1, macA, hostA, 3600).frame(t)},
		{protoDHCPv6, verdictServer, reply6(1, macA, lease{ip: host6, valid: time.Hour}).frame(t)},
	} {
		before := l.packets(row.proto, row.v)
		w.send(row.frame)
		l.counted(row.proto, row.v, before+1)
	}
	w.send(gratuitous(macC, hostB))
	c.binding(t, hostB, evpn.LocalIP{MAC: macC, Port: "p10"})
	c.look(func() {
		if len(c.ips[10]) != 1 || len(c.sighted) != 0 {
			t.Errorf("bindings %+v, sighted %v", c.ips[10], c.sighted)
		}
	})
}

// tagged adds a VLAN tag, which the kernel takes out of the frame again before we see it.
func tagged(frame []byte, vlan byte) []byte {
	return slices.Concat(frame[:12], []byte{0x81, 0, 0, vlan}, frame[12:])
}

// TestSnoopPriorityTag: a tag without a VLAN is none (IEEE 802.1Q §6.9.1).
func TestSnoopPriorityTag(t *testing.T) {
	_, c := newSnoopLab(t)
	newWire(t, "h10").send(tagged(gratuitous(macA, hostA), 0))
	c.binding(t, hostA, evpn.LocalIP{MAC: macA, Port: "p10"})
}

// TestSnoopPorts: rings come and go with ports, options and attachments, and the VXLAN device never has one.
func TestSnoopPorts(t *testing.T) {
	l, c := newSnoopLab(t)
	addPort(t, "br10", "p11", "h11")
	l.snooped(2)
	w := newWire(t, "h11")
	w.send(gratuitous(macA, hostA))
	c.binding(t, hostA, evpn.LocalIP{MAC: macA, Port: "p11"})

	// Under another name its hosts are said to be there.
	run(t, "ip link set p11 name p12")
	eventually(t, "the new name", func() (ok bool) {
		w.send(gratuitous(macA, hostA))
		c.look(func() { ok = c.macs[10][macA].Port == "p12" && c.ips[10][hostA].Port == "p12" })
		return ok
	})

	// Down and up again: the ring stays and works.
	run(t, `ip link set p12 down
		ip link set p12 up`)
	eventually(t, "the port to be heard again", func() (ok bool) {
		w.send(gratuitous(macC, hostB))
		c.look(func() { ok = c.ips[10][hostB].MAC == macC })
		return ok
	})

	// On another bridge its frames are for another VNI.
	addVNI(t, 20)
	l.snooped(3)
	run(t, "ip link set p12 master br20")
	eventually(t, "p12 to forward", func() bool {
		return strings.Contains(run(t, "bridge link show dev p12"), "state forwarding")
	})
	eventually(t, "the binding in the other VNI", func() (ok bool) {
		w.send(gratuitous(macB, hostB))
		c.look(func() { ok = c.ips[20][hostB].MAC == macB })
		return ok
	})

	run(t, "ip link set p12 nomaster")
	l.snooped(2)
	run(t, "ip link set vx20 down")
	l.snooped(1)
	run(t, "ip link set vx20 up")
	l.snooped(2)
	run(t, "ip link del p10")
	l.snooped(1)

	opt := options()
	l.Reconfigure(opt)
	l.snooped(0)
	yes := true
	opt.VNIs = map[evpn.VNI]VNIOptions{20: {Snoop: &yes}}
	l.Reconfigure(opt)
	l.snooped(1)
	if out := run(t, "ss -0 -a -n"); strings.Contains(out, ":vx") {
		t.Errorf("a VXLAN device is snooped:\n%s", out)
	}
}

// TestSnoopEachHostSpeaksForItself: while the core is slow, a host that claims an address all the time does not drown what
// the host that has it says, nor does one that gives it back.
func TestSnoopEachHostSpeaksForItself(t *testing.T) {
	l := newLab(t)
	opt := options()
	opt.Snoop = true
	l.topo.configure(opt)
	addPort(t, "br10", "p11", "h11")
	if err := l.readLinks(); err != nil {
		t.Fatal(err)
	}
	l.pending.take()
	on := func(port string) *portReader {
		return &portReader{snooper: l.snooper, port: &snooped{ifindex: l.topo.portIndex(l.topo.vni(10).bridge, port)}}
	}
	r, other := on("p10"), on("p11")
	for range 3 {
		other.report(spoken{mac: macA, ip: hostA}, time.Now())
		r.report(spoken{mac: macA, ip: hostA}, time.Now())
		r.reportLeases(macA, []lease{{ip: hostA, valid: time.Hour}}, ringFrame{outgoing: true})
		r.report(spoken{mac: macB, ip: hostA}, time.Now())
		r.reportLeases(macB, []lease{{ip: hostA, gone: true}}, ringFrame{})
	}
	if words := l.pending.take().hosts; len(words) != 5 {
		t.Errorf("%d words of two hosts, want a frame and a lease of each, and one of what says it is the first: %+v", len(words), words)
	}
}

// TestSnoopSpareRing: there is a ring for a port that comes, and after that one for the next.
func TestSnoopSpareRing(t *testing.T) {
	l, c := newSnoopLab(t)
	for n, ip := range []netip.Addr{hostA, hostB} {
		name := fmt.Sprintf("p%d", 20+n)
		addPort(t, "br10", name, "h"+name)
		l.snooped(2 + n)
		var r *ring
		select {
		case r = <-l.snooper.spare:
		case <-time.After(10 * time.Second):
			t.Fatal("no spare ring")
		}
		r.close()
		newWire(t, "h"+name).send(gratuitous(macA, ip))
		c.binding(t, ip, evpn.LocalIP{MAC: macA, Port: name})
	}
}

// TestSnoopProbe: a host is asked in a way that makes it answer with frames that count, and that does not disturb it.
func TestSnoopProbe(t *testing.T) {
	l, c := newSnoopLab(t)
	// The host's kernel answers: an address on the other end of the veth.
	run(t, `sysctl -qw net.ipv6.conf.h10.disable_ipv6=0
		ip link set h10 address `+macA.String()+`
		ip addr add 10.1.1.1/24 dev h10
		ip addr add 2001:db8::1/64 dev h10 nodad`)
	w := newWire(t, "h10")
	for _, ip := range []netip.Addr{hostA, host6} {
		c.look(func() { delete(c.ips[10], ip) })
		l.Probe([]evpn.Probe{{VNI: 10, Port: "p10", MAC: macA, IP: ip}})
		asked := w.receive("the probe", func(b []byte) bool { return bytes.Equal(b[6:12], []byte{2, 0, 0, 0, 0xaa, 1}) })
		if !bytes.Equal(asked[:6], macA[:]) {
			t.Errorf("asked %x, want the host alone", asked[:6])
		}
		if ip.Is4() && !bytes.Equal(asked[28:32], []byte{0, 0, 0, 0}) {
			t.Errorf("asked in the name of %x", asked[28:32])
		}
		c.binding(t, ip, evpn.LocalIP{MAC: macA, Port: "p10"})
	}
	l.Probe([]evpn.Probe{{VNI: 99, Port: "p10", MAC: macA, IP: hostA}, {VNI: 10, Port: "gone", MAC: macA, IP: hostA}}) // nothing to do, no harm
}

// TestSnoopForbidden: without CAP_NET_RAW everything else works, and it is said once.
func TestSnoopForbidden(t *testing.T) {
	log, hook := logtest.NewNullLogger()
	s := newSnooper(newTopology(options(), newPending()), newPending(), log)
	for range 3 {
		s.refused(&snooped{ifindex: 1}, fmt.Errorf("open packet socket: %w", unix.EPERM))
	}
	if st := s.status(); st.Off == "" || st.Ports != 0 {
		t.Errorf("status %+v", st)
	}
	if n := len(hook.AllEntries()); n != 1 {
		t.Errorf("%d lines logged, want 1", n)
	}
}

// TestSnoopFlood: a port that sends without end is left alone, the others are heard, and the excess is counted.
func TestSnoopFlood(t *testing.T) {
	l, c := newSnoopLab(t)
	addPort(t, "br10", "p11", "h11")
	l.snooped(2)
	flood, quiet := newWire(t, "h10"), newWire(t, "h11")
	frame := gratuitous(macA, hostA)
	const sent = 50_000
	for range sent {
		flood.send(frame)
	}
	quiet.send(gratuitous(macB, hostB))
	c.binding(t, hostB, evpn.LocalIP{MAC: macB, Port: "p11"})
	eventually(t, "every frame of the flood to be counted", func() bool {
		flood.send(frame) // losses are counted with the next frame
		return l.packets(protoARP, verdictLimited)+l.packets(protoARP, verdictAccepted)+l.packets(protoOther, verdictLost) >= sent
	})
	if n := l.packets(protoARP, verdictLimited); n == 0 {
		t.Error("no frame over the limit")
	}
}

// TestSnoopLatency: from the frame on the wire to the fact at the core.
func TestSnoopLatency(t *testing.T) {
	_, c := newSnoopLab(t)
	w := newWire(t, "h10")
	var took []time.Duration
	for i := range 1000 {
		ip := netip.AddrFrom4([4]byte{10, 2, byte(i >> 8), byte(i)})
		start := time.Now()
		w.send(gratuitous(macA, ip))
		c.wait(t, "the fact", func() bool { return c.ips[10][ip].MAC == macA })
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	p50, p99 := took[len(took)/2], took[len(took)*99/100]
	t.Logf("frame to fact: p50 %s, p99 %s, max %s", p50, p99, took[len(took)-1])
	if p50 > 5*time.Millisecond {
		t.Errorf("p50 %s, want less than 5 ms", p50)
	}
}

// TestSnoopManyPorts: a hundred ports cost a known amount of memory, and are let go of together.
func TestSnoopManyPorts(t *testing.T) {
	const ports = 100
	clean(t)
	run(t, `ip link add br10 address 02:00:00:00:aa:01 mtu 1450 type bridge
		ip link add vx10 mtu 1450 type vxlan id 10 dstport 4789 local `+vtepSelf+` nolearning
		ip link set vx10 master br10 up
		ip link set br10 up`)
	for i := range ports {
		run(t, fmt.Sprintf("ip link add p%[1]d master br10 type veth peer name h%[1]d\nip link set p%[1]d up", i))
	}
	opt := options()
	opt.Snoop = true
	l := newPlane(t, opt)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	l.start()
	l.snooped(ports)
	up := time.Since(start)
	runtime.GC()
	runtime.ReadMemStats(&after)
	t.Logf("%d rings in %s: %d KiB of kernel memory, %d KiB of ours", ports, up, ports*ringFrames*slotSize>>10,
		(int64(after.HeapInuse+after.StackInuse)-int64(before.HeapInuse+before.StackInuse))>>10)
	start = time.Now()
	l.Reconfigure(options())
	l.snooped(0)
	t.Logf("gone in %s", time.Since(start))
}
