package labs

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"
)

// guest is the VM that moves: a MAC and addresses, which are wherever the test says.
type guest struct {
	mac      string
	octets   net.HardwareAddr
	ip4, ip6 netip.Addr
	place    atomic.Int32 // index of the place it is at, or nowhere
}

// nowhere is the place of a guest that is gone.
const nowhere = -1

// data is a UDP packet between the guest and the peer with room for a sequence number at seqAt.
func data(t *testing.T, from, to net.HardwareAddr, source, destination netip.Addr) []byte {
	t.Helper()
	udp := make([]byte, 8+22)
	binary.BigEndian.PutUint16(udp[0:], 7000)
	binary.BigEndian.PutUint16(udp[2:], 7000)
	binary.BigEndian.PutUint16(udp[4:], uint16(len(udp))) // and no checksum: the sequence number changes
	b := gopacket.NewSerializeBuffer()
	err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
		&layers.Ethernet{SrcMAC: from, DstMAC: to, EthernetType: layers.EthernetTypeIPv4},
		&layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: source.AsSlice(), DstIP: destination.AsSlice()},
		gopacket.Payload(udp))
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// seqAt is where the UDP payload begins.
const seqAt = 14 + 20 + 8

// probes are packets that the peer sends to the guest every millisecond, and which of them came.
type probes struct {
	mu    sync.Mutex
	frame []byte // nil: none are sent
	guest *guest
	next  uint64      // sequence number
	first uint64      // number of the first packet of the window
	sent  []time.Time // in the window
	came  []bool
}

const probeInterval = time.Millisecond

// send is the peer's side. It runs until done is closed.
func (p *probes) send(w vmPort, done <-chan struct{}) {
	tick := time.NewTicker(probeInterval)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case <-tick.C:
		}
		p.mu.Lock()
		if p.frame != nil {
			binary.BigEndian.PutUint64(p.frame[seqAt:], p.next)
			p.next++
			p.sent, p.came = append(p.sent, time.Now()), append(p.came, false)
			_, _ = unix.Write(w.fd, p.frame) // one that does not leave is lost
		}
		p.mu.Unlock()
	}
}

// receive takes what arrives at a place until the socket is closed. A guest that is elsewhere hears nothing of it.
func (p *probes) receive(f *os.File, place int32) error { return p.receiveFrom(f, place, nil) }

// receiveFrom is receive of what one sender has sent, nil: anyone.
func (p *probes) receiveFrom(f *os.File, place int32, sender net.HardwareAddr) error {
	b := make([]byte, 2048)
	for {
		n, err := f.Read(b)
		if errors.Is(err, os.ErrClosed) {
			return nil
		}
		if err != nil {
			continue // the link went down
		}
		if n < seqAt+8 || binary.BigEndian.Uint16(b[12:]) != 0x0800 || b[23] != unix.IPPROTO_UDP ||
			sender != nil && [6]byte(b[6:12]) != [6]byte(sender) {
			continue
		}
		p.mu.Lock()
		if g := p.guest; g != nil && g.place.Load() == place && [6]byte(b[:6]) == [6]byte(g.octets) {
			if i := binary.BigEndian.Uint64(b[seqAt:]) - p.first; i < uint64(len(p.came)) {
				p.came[i] = true
			}
		}
		p.mu.Unlock()
	}
}

// aim sends to another guest from now on; frame nil: to nobody.
func (p *probes) aim(g *guest, frame []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.guest, p.frame = g, frame
	p.open()
}

// window begins to count anew.
func (p *probes) window() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open()
}

func (p *probes) open() { p.first, p.sent, p.came = p.next, nil, nil }

// arrivedSince reports whether a packet sent after a time has come, or none is sent.
func (p *probes) arrivedSince(at time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.frame == nil {
		return true
	}
	for i := len(p.sent) - 1; i >= 0 && p.sent[i].After(at); i-- {
		if p.came[i] {
			return true
		}
	}
	return false
}

// count is how many packets of the window were sent, without those sent last that may be on their way, and how many of them
// have not come.
func (p *probes) count() (lost, sent int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, came := range p.came {
		if came {
			sent = i + 1
		}
	}
	for _, came := range p.came[:sent] {
		if !came {
			lost++
		}
	}
	return lost, sent
}

// healed is when the packet after the last lost one was sent; the zero time: none of the window is lost.
func (p *probes) healed() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	came := false
	for i := len(p.came) - 1; i >= 0; i-- {
		if came && !p.came[i] {
			return p.sent[i+1]
		}
		came = came || p.came[i]
	}
	return time.Time{}
}

// lost is the time that the lost packets of the window stand for. What was sent last may be on its way.
func (p *probes) lost() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	last := len(p.came) - 1
	for last >= 0 && !p.came[last] {
		last--
	}
	var sum time.Duration
	for i := range max(last, 0) {
		if !p.came[i] {
			sum += p.sent[i+1].Sub(p.sent[i])
		}
	}
	return sum
}
