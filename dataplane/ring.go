package dataplane

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The ring of a port. A slot holds the kernel's header and the part of a frame that matters; the filter cuts frames to
// fit. TPACKET_V2 wakes its reader with every frame. V3 fills blocks and hands them out by a timer of 1 ms at the least,
// which runs on every port whether frames come or not. Of frames that do not fit, which are those of DHCP, the kernel keeps
// a copy on the socket as well (PACKET_COPY_THRESH), as many as its receive buffer holds.
const (
	slotSize    = 256
	ringFrames  = 1024
	blockSize   = 16 << 10
	frameOctets = 184  // what fits into a slot; the largest message of ARP or ND that is understood takes 86
	dhcpOctets  = 2048 // of DHCP

	slotAddress = 32 // where the address stands in a slot: after the header, TPACKET_ALIGN(sizeof(struct tpacket2_hdr))
)

// ring is one packet socket on one port, with its memory shared with the kernel. It is used by one goroutine, but for
// interrupt and send.
type ring struct {
	file  *os.File
	raw   syscall.RawConn
	mem   []byte
	at    int    // slot that comes next
	large []byte // the last frame that did not fit into its slot
	muted bool   // outgoing frames are not wanted
}

// ringFrame is one frame; its octets are good until release.
type ringFrame struct {
	data     []byte
	at       time.Time // when the kernel took it, by its wall clock
	outgoing bool      // towards the host
	tagged   bool      // it carries a VLAN tag, which the kernel keeps outside of the frame
	losing   bool      // the ring was full before
	cut      bool      // the end is missing: it did not fit, and there was no room for a copy
}

// newRing makes a ring that receives nothing before it is bound to a port. The kernel takes 10 ms for it, and more when it is
// busy.
func newRing() (*ring, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open packet socket: %w", err)
	}
	r := &ring{file: os.NewFile(uintptr(fd), "packet")}
	if err := r.setUp(fd); err != nil {
		return nil, errors.Join(err, r.close())
	}
	return r, nil
}

func (r *ring) setUp(fd int) (err error) {
	filter := snoopFilter()
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	request := unix.TpacketReq{
		Block_size: blockSize, Block_nr: ringFrames * slotSize / blockSize, Frame_size: slotSize, Frame_nr: ringFrames,
	}
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"set filter", func() error { return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program) }},
		{"set ring version", func() error { return unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VERSION, unix.TPACKET_V2) }},
		{"keep large frames", func() error { return unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_COPY_THRESH, 1) }},
		{"make ring", func() error { return unix.SetsockoptTpacketReq(fd, unix.SOL_PACKET, unix.PACKET_RX_RING, &request) }},
		{"map ring", func() error {
			r.mem, err = unix.Mmap(fd, 0, ringFrames*slotSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			return err
		}},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("packet socket: %s: %w", step.what, err)
		}
	}
	r.raw, err = r.file.SyscallConn()
	return err
}

// bind has the ring receive the frames of a port that snoopFilter passes, which takes no time.
func (r *ring) bind(ifindex int) error {
	var result error
	err := r.raw.Control(func(fd uintptr) {
		result = unix.Bind(int(fd), &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: ifindex})
	})
	if err := errors.Join(err, result); err != nil {
		return fmt.Errorf("packet socket on link %d: bind: %w", ifindex, err)
	}
	return nil
}

// bound reports whether the link that the ring was bound to is still there. It may have gone, and another have its index.
func (r *ring) bound() (yes bool) {
	_ = r.raw.Control(func(fd uintptr) { // a socket that is closed is bound to nothing
		address, err := unix.Getsockname(int(fd))
		l, ok := address.(*unix.SockaddrLinklayer)
		yes = err == nil && ok && l.Ifindex > 0
	})
	return yes
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

// interrupt ends a wait, now and later.
func (r *ring) interrupt() { _ = r.file.SetReadDeadline(time.Unix(1, 0)) }

func (r *ring) close() error {
	var err error
	if r.mem != nil {
		err = unix.Munmap(r.mem)
	}
	return errors.Join(err, r.file.Close())
}

// wait returns when a frame is there.
func (r *ring) wait() error {
	return r.raw.Read(func(uintptr) bool { return r.ready() })
}

func (r *ring) slot() []byte { return r.mem[r.at*slotSize : (r.at+1)*slotSize] }

func (r *ring) header() *unix.Tpacket2Hdr {
	return (*unix.Tpacket2Hdr)(unsafe.Pointer(&r.mem[r.at*slotSize])) // slots are aligned, and larger than the header
}

func (r *ring) ready() bool { return atomic.LoadUint32(&r.header().Status)&unix.TP_STATUS_USER != 0 }

// next returns the frame in the next slot, if there is one.
func (r *ring) next() (f ringFrame, ok bool) {
	if !r.ready() {
		return f, false
	}
	h := r.header()
	if from, n := int(h.Mac), int(h.Snaplen); from >= unix.SizeofTpacket2Hdr && n <= slotSize-from {
		f.data = r.slot()[from : from+n]
	}
	address := (*unix.RawSockaddrLinklayer)(unsafe.Pointer(&r.slot()[slotAddress]))
	f.outgoing = address.Pkttype == unix.PACKET_OUTGOING
	f.at = time.Unix(int64(h.Sec), int64(h.Nsec))
	f.tagged = h.Status&unix.TP_STATUS_VLAN_VALID != 0 && h.Vlan_tci&vlanID != 0
	f.losing = h.Status&unix.TP_STATUS_LOSING != 0
	f.cut = h.Snaplen < h.Len
	if h.Status&unix.TP_STATUS_COPY != 0 {
		if whole := r.receive(); whole != nil {
			f.data, f.cut = whole, false
		}
	}
	return f, true
}

// receive takes the oldest copy off the socket; nil when there is none.
func (r *ring) receive() (frame []byte) {
	if r.large == nil {
		r.large = make([]byte, dhcpOctets)
	}
	_ = r.raw.Control(func(fd uintptr) { // a socket that is closed has none
		if n, _, err := unix.Recvfrom(int(fd), r.large, unix.MSG_DONTWAIT); err == nil {
			frame = r.large[:n]
		}
	})
	return frame
}

// mute says whether frames towards the hosts are wanted.
func (r *ring) mute(yes bool) {
	if r.muted == yes {
		return
	}
	value := 0
	if yes {
		value = 1
	}
	_ = r.raw.Control(func(fd uintptr) { // a socket that is closed is mute
		if unix.SetsockoptInt(int(fd), unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, value) == nil {
			r.muted = yes
		}
	})
}

// release gives the slot back to the kernel.
func (r *ring) release() {
	atomic.StoreUint32(&r.header().Status, unix.TP_STATUS_KERNEL)
	r.at = (r.at + 1) % ringFrames
}

// lost counts the frames that the ring had no room for since the last call.
func (r *ring) lost() uint64 {
	var n uint64
	_ = r.raw.Control(func(fd uintptr) { // the count of a socket that is closed is of no use
		if st, err := unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
			n = uint64(st.Drops)
		}
	})
	return n
}

// send sends a frame out of the port.
func (r *ring) send(frame []byte) error {
	var result error
	err := r.raw.Control(func(fd uintptr) { _, result = unix.Write(int(fd), frame) })
	return errors.Join(err, result)
}

// sendOn sends a frame out of another link.
func (r *ring) sendOn(ifindex int, frame []byte) error {
	to := &unix.SockaddrLinklayer{Protocol: htons(binary.BigEndian.Uint16(frame[etherTypeAt:])), Ifindex: ifindex}
	var result error
	err := r.raw.Control(func(fd uintptr) { result = unix.Sendto(int(fd), frame, 0, to) })
	return errors.Join(err, result)
}
