package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/evpnd/evpnd/evpn"
)

// packetSocket opens a packet socket on a device of the host; protocol 0 receives nothing.
func packetSocket(h *host, device string, protocol uint16) (fd int, err error) {
	err = h.inside(func() error {
		link, err := net.InterfaceByName(device)
		if err != nil {
			return err
		}
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		proto := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, protocol))
		if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: proto, Ifindex: link.Index}); err != nil {
			return errors.Join(err, unix.Close(fd))
		}
		return nil
	})
	if err != nil {
		return -1, fmt.Errorf("packet socket on %s: %w", device, err)
	}
	return fd, nil
}

const (
	etherTypeARP  = 0x0806
	etherTypeTest = 0x88b5 // for experiments: IEEE 802
)

var broadcast = evpn.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// frame is the shortest frame of Ethernet.
func frame(dst, src evpn.MAC, kind uint16, payload []byte) []byte {
	b := append(append(make([]byte, 0, 64), dst[:]...), src[:]...)
	b = append(binary.BigEndian.AppendUint16(b, kind), payload...)
	return append(b, make([]byte, max(0, 60-len(b)))...)
}

// gratuitousARP is the request by which a host tells its own address.
func gratuitousARP(mac evpn.MAC, ip netip.Addr) []byte {
	p := append([]byte{0, 1, 8, 0, 6, 4, 0, 1}, mac[:]...)
	p = append(append(p, ip.AsSlice()...), make([]byte, 6)...)
	return frame(broadcast, mac, etherTypeARP, append(p, ip.AsSlice()...))
}

// guestMAC is a local host.
func guestMAC(i int) evpn.MAC {
	m := evpn.MAC{2, 2}
	binary.BigEndian.PutUint32(m[2:], uint32(i))
	return m
}

// traffic is a guest that sends frames to remote hosts in turn, at a steady pace, and a count of those that leave for a VTEP.
type traffic struct {
	sender, tap int
	interval    time.Duration // between frames
	frames      [][]byte
	vtep        [4]byte

	stop  chan struct{}
	ended func() error
	wait  sync.WaitGroup
	mu    sync.Mutex
	sent  int
	left  int
	last  time.Time // when the last one left, by the kernel's clock
}

// startTraffic begins to send: a frame each interval to the first hosts of l.
func startTraffic(h *host, l load, hosts int, interval time.Duration) (*traffic, error) {
	t := &traffic{interval: interval, vtep: l.VTEP.As4(), stop: make(chan struct{})}
	var err error
	if t.sender, err = packetSocket(h, "guest", 0); err != nil {
		return nil, err
	}
	if t.tap, err = packetSocket(h, "under", unix.ETH_P_ALL); err != nil {
		return nil, errors.Join(err, unix.Close(t.sender))
	}
	err = errors.Join(unix.SetsockoptInt(t.tap, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
		unix.SetsockoptInt(t.tap, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20),
		unix.SetsockoptTimeval(t.tap, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 20_000}))
	if err != nil {
		return nil, errors.Join(err, unix.Close(t.sender), unix.Close(t.tap))
	}
	for i := range hosts {
		t.frames = append(t.frames, frame(l.MAC(i), guestMAC(0), etherTypeTest, nil))
	}
	t.wait.Go(t.send) // both end with stop
	t.wait.Go(t.count)
	t.ended = sync.OnceValue(func() error {
		close(t.stop)
		t.wait.Wait()
		return errors.Join(unix.Close(t.sender), unix.Close(t.tap))
	})
	return t, nil
}

// send keeps the pace: what a late wake-up missed is made good.
func (t *traffic) send() {
	tick := time.NewTicker(max(t.interval, time.Millisecond))
	defer tick.Stop()
	began := time.Now()
	for n := 0; ; {
		select {
		case <-t.stop:
			return
		case <-tick.C:
		}
		for ; n < int(time.Since(began)/t.interval); n++ {
			if _, err := unix.Write(t.sender, t.frames[n%len(t.frames)]); err == nil {
				t.mu.Lock()
				t.sent++
				t.mu.Unlock()
			}
		}
	}
}

// count reads what leaves, until a while after stop nothing more does.
func (t *traffic) count() {
	buf, oob := make([]byte, 2048), make([]byte, 128)
	for {
		n, oobn, _, _, err := unix.Recvmsg(t.tap, buf, oob, 0)
		if err != nil {
			select {
			case <-t.stop:
				return
			default:
				continue
			}
		}
		// Ethernet, IPv4 with the VTEP as its destination, UDP to the port of VXLAN.
		if n < 42 || [4]byte(buf[30:34]) != t.vtep || binary.BigEndian.Uint16(buf[36:38]) != 4789 {
			continue
		}
		at := stamp(oob[:oobn])
		t.mu.Lock()
		t.left++
		t.last = at
		t.mu.Unlock()
	}
}

// stamp is the kernel's time of a packet.
func stamp(oob []byte) time.Time {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(messages) == 0 || len(messages[0].Data) < 16 {
		return time.Now()
	}
	d := messages[0].Data
	return time.Unix(int64(binary.NativeEndian.Uint64(d)), int64(binary.NativeEndian.Uint64(d[8:])))
}

// counts is how many frames were sent and how many left, so far, and when the last one left.
func (t *traffic) counts() (sent, left int, last time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.sent, t.left, t.last
}

// close ends it, when all that is on its way has been counted. Closing it again does nothing.
func (t *traffic) close() error { return t.ended() }
