package dataplane

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/evpnd/evpnd/evpn"
)

func park(op evpn.KernelOp) evpn.KernelOp {
	op.Entry.Parked = true
	return op
}

// packetSocket reads and writes what passes a device.
type packetSocket struct {
	t  testing.TB
	fd int
	to unix.SockaddrLinklayer
}

func openPacket(t testing.TB, ifname string) *packetSocket {
	t.Helper()
	ifi, err := net.InterfaceByName(ifname)
	if err != nil {
		t.Fatal(err)
	}
	protocol := binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL}) // in network order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(protocol))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	s := &packetSocket{t: t, fd: fd, to: unix.SockaddrLinklayer{Ifindex: ifi.Index, Protocol: protocol}}
	wait := unix.NsecToTimeval(deadline.Nanoseconds())
	if err := errors.Join(unix.Bind(fd, &s.to), unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait)); err != nil {
		t.Fatal(err)
	}
	return s
}

// send sends a frame to a MAC.
func (s *packetSocket) send(to evpn.MAC) {
	frame := make([]byte, 60)
	copy(frame, to[:])
	copy(frame[6:], []byte{2, 0, 0, 0, 9, 9, 0x88, 0xb5})
	if err := unix.Sendto(s.fd, frame, 0, &s.to); err != nil && !errors.Is(err, unix.ENOBUFS) {
		s.t.Errorf("send frame: %v", err)
	}
}

// next waits for the next VXLAN packet and returns whom its frame is for.
func (s *packetSocket) next() (evpn.MAC, error) {
	const headers = 14 + 20 + 8 + 8
	b := make([]byte, 2048)
	for {
		n, err := unix.Read(s.fd, b)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return evpn.MAC{}, fmt.Errorf("read a frame: %w", err)
		}
		if n >= headers+14 && b[23] == unix.IPPROTO_UDP && binary.BigEndian.Uint16(b[36:]) == vxlanPort {
			return evpn.MAC(b[headers : headers+6]), nil
		}
	}
}

// newUnderlay is newHost with two VTEPs behind und0, whose packets are seen on und1.
func newUnderlay(t *testing.T) *lab {
	l := newHost(t, options())
	run(t, "ip route add 10.0.0.3 via 192.0.2.1")
	mac, err := net.InterfaceByName("und1")
	if err != nil {
		t.Fatal(err)
	}
	run(t, "ip neigh replace 192.0.2.1 lladdr "+mac.HardwareAddr.String()+" dev und0")
	return l
}

// TestParkedVTEPGetsNoFrames also over a restart, which finds what is parked and lets it go.
func TestParkedVTEPGetsNoFrames(t *testing.T) {
	l := newUnderlay(t)
	host, wire := openPacket(t, "h10"), openPacket(t, "und1")
	l.must(addVTEP(vtep2), addVTEP(vtep3), addFDB(macA, vtep2), addFDB(macB, vtep3))
	// macB comes last: when it is seen, whatever was sent for macA before has come, or never will.
	expect := func(what string, l *lab, parked bool) {
		t.Helper()
		for range 3 {
			host.send(macA)
		}
		host.send(macB)
		for seen := 0; ; {
			got, err := wire.next()
			switch {
			case err != nil:
				t.Fatalf("%s: %v", what, err)
			case got == macA:
				seen++
				continue
			case got != macB:
				continue
			case seen > 0 && parked, seen != 3 && !parked:
				t.Errorf("%s: saw %d of 3 frames", what, seen)
			}
			break
		}
		e, ok := l.entry(addVTEP(vtep2).Key)
		if !ok || !e.Ours || e.Entry.Parked != parked {
			t.Errorf("%s: read back %+v, %v", what, e, ok)
		}
		if e, ok := l.entry(addFDB(macA, vtep2).Key); !ok || !e.Ours || e.Entry.VTEP != vtep2 {
			t.Errorf("%s: MAC read back %+v, %v", what, e, ok)
		}
	}
	expect("before", l, false)
	l.must(park(addVTEP(vtep2)))
	expect("parked", l, true)
	l.must(park(addVTEP(vtep2)))
	expect("parked twice", l, true)
	next := newPlane(t, options())
	expect("after a restart", next, true)
	next.must(addVTEP(vtep2))
	expect("back", next, false)
	next.must(del(addFDB(macA, vtep2)), del(addVTEP(vtep2)), park(addVTEP(vtep2)), addFDB(macA, vtep2))
	expect("added as parked", next, true)
	next.must(del(addFDB(macA, vtep2)), del(addFDB(macB, vtep3)), del(addVTEP(vtep2)), del(addVTEP(vtep3)))
	if left := run(t, "ip nexthop"); left != "" {
		t.Errorf("nexthops left:\n%s", left)
	}
}

// TestParkingIsNoTampering: our own writes are not taken for someone else's, however late their notifications are read.
func TestParkingIsNoTampering(t *testing.T) {
	l := newUnderlay(t)
	c := l.start()
	l.must(addVTEP(vtep2), addVTEP(vtep3), addFDB(macA, vtep2))
	for range 100 {
		l.must(park(addVTEP(vtep2)), addVTEP(vtep2))
	}
	other, _ := l.vteps.groupOf(vtep3)
	run(t, fmt.Sprintf("ip nexthop del id %d", other)) // a notification behind all of ours
	c.wait(t, "the deletion to be noticed", func() bool { return c.gone[vtep3] })
	c.look(func() {
		if c.tampered[addVTEP(vtep2).Key] || c.gone[vtep2] {
			t.Error("our own writes were taken for tampering")
		}
	})
}

// TestParkedGroupGoesWithoutItsNexthop: a parked group does not go with the nexthop that says whose it is. It is removed when
// that is found to be gone, so that its ids can be used again.
func TestParkedGroupGoesWithoutItsNexthop(t *testing.T) {
	l := newUnderlay(t)
	l.must(addVTEP(vtep2), addFDB(macA, vtep2), park(addVTEP(vtep2)))
	group, _ := l.vteps.groupOf(vtep2)
	run(t, fmt.Sprintf("ip nexthop del id %d", group-1))
	if e, ok := l.entry(addVTEP(vtep2).Key); ok {
		t.Errorf("read back %+v", e)
	}
	if left := run(t, "ip nexthop"); left != "" {
		t.Errorf("nexthops left:\n%s", left)
	}
	l.must(park(addVTEP(vtep2)), addFDB(macA, vtep2))
	if e, ok := l.entry(addFDB(macA, vtep2).Key); !ok || e.Entry.VTEP != vtep2 {
		t.Errorf("written again: %+v, %v", e, ok)
	}
}

func TestParkingIPv6(t *testing.T) {
	clean(t)
	l := newPlane(t, options())
	vtep := netip.MustParseAddr("2001:db8::2")
	l.must(park(addVTEP(vtep)))
	if e, ok := l.entry(addVTEP(vtep).Key); !ok || !e.Entry.Parked {
		t.Errorf("read back %+v, %v", e, ok)
	}
	if got := run(t, "ip nexthop"); !strings.Contains(got, "via :: ") {
		t.Errorf("no sink of IPv6 in\n%s", got)
	}
	l.must(addVTEP(vtep), del(addVTEP(vtep)))
	if left := run(t, "ip nexthop"); left != "" {
		t.Errorf("nexthops left:\n%s", left)
	}
}

// TestParkingLeavesForeignNexthops: an id that someone else uses is not taken, and the entry stays as it is.
func TestParkingLeavesForeignNexthops(t *testing.T) {
	clean(t)
	run(t, fmt.Sprintf("ip nexthop add id %d via 192.0.2.9 fdb", sinkIPv4))
	l := newPlane(t, options())
	l.must(addVTEP(vtep2))
	failed := l.write(park(addVTEP(vtep2)))
	if len(failed) != 1 || !failed[0].Foreign {
		t.Errorf("parking: %+v, want it refused as foreign", failed)
	}
	if e, ok := l.entry(addVTEP(vtep2).Key); !ok || e.Entry.Parked {
		t.Errorf("read back %+v, %v", e, ok)
	}
	l.must(del(addVTEP(vtep2)))
	if left := run(t, "ip nexthop"); !strings.Contains(left, "192.0.2.9") {
		t.Error("the nexthop of someone else is gone")
	}
}

// TestLastFrameToParkedVTEP parks a VTEP with 100 000 MACs behind it while frames are on their way to them: none comes
// later than the ones that were being sent.
func TestLastFrameToParkedVTEP(t *testing.T) {
	l := newUnderlay(t)
	host, wire := openPacket(t, "h10"), openPacket(t, "und1")
	ops := []evpn.KernelOp{addVTEP(vtep2), addVTEP(vtep3), addFDB(macB, vtep3)}
	for i := range 100_000 {
		ops = append(ops, addFDB(evpn.MAC{2, 1, 0, byte(i >> 16), byte(i >> 8), byte(i)}, vtep2))
	}
	l.must(ops...)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() { // ends by stop
		defer close(stopped)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				host.send(evpn.MAC{2, 1, 0, byte(i % 100_000 >> 16), byte(i >> 8), byte(i)})
			}
		}
	}()
	for range 100 {
		if got, err := wire.next(); err != nil || got[1] != 1 {
			t.Fatalf("frame for %s, %v", got, err)
		}
	}
	start := time.Now()
	l.must(park(addVTEP(vtep2)))
	took := time.Since(start)
	close(stop)
	<-stopped
	marker := openPacket(t, "h10")
	quiet := openPacket(t, "und1") // sees only what comes from here on
	for i := range 1000 {
		marker.send(evpn.MAC{2, 1, 0, 0, byte(i >> 8), byte(i)})
	}
	marker.send(macB)
	if got, err := quiet.next(); err != nil || got != macB {
		t.Errorf("after parking: frame for %s, %v; want the one for %s", got, err, macB)
	}
	t.Logf("parked 100 000 MACs in %s", took)
}
