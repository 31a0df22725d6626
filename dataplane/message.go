package dataplane

import (
	"encoding/binary"
	"fmt"
	"iter"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/evpnd/evpnd/evpn"
)

// Constants that golang.org/x/sys/unix does not have.
const (
	ndaProtocol = 12
	ndaNHID     = 13
	nhaFDB      = 11
	ntfSticky   = 0x40
)

// message is one netlink message; data is valid until the next datagram is read.
type message struct {
	typ   uint16
	flags uint16
	seq   uint32
	data  []byte
}

// messages walks the messages of a datagram and stops where they no longer make sense.
func messages(b []byte) iter.Seq[message] {
	return func(yield func(message) bool) {
		for len(b) >= unix.NLMSG_HDRLEN {
			n := int(binary.NativeEndian.Uint32(b))
			if n < unix.NLMSG_HDRLEN || n > len(b) {
				return
			}
			m := message{
				typ:   binary.NativeEndian.Uint16(b[4:]),
				flags: binary.NativeEndian.Uint16(b[6:]),
				seq:   binary.NativeEndian.Uint32(b[8:]),
				data:  b[unix.NLMSG_HDRLEN:n],
			}
			if !yield(m) {
				return
			}
			b = b[min((n+3)&^3, len(b)):]
		}
	}
}

// err reads an acknowledgement, or the end of a dump: nil, or the error number with the kernel's own explanation.
func (m message) err() error {
	if len(m.data) < 4 {
		return errShort
	}
	code := int32(binary.NativeEndian.Uint32(m.data))
	if code == 0 {
		return nil
	}
	errno := unix.Errno(-code)
	if errno == unix.EEXIST || errno == unix.ENOENT || m.flags&unix.NLM_F_ACK_TLVS == 0 {
		return errno // the first two are answers we ask for, by the thousand
	}
	const explanation = 1 // NLMSGERR_ATTR_MSG
	tail := m.data[4:]
	if m.typ == unix.NLMSG_ERROR { // behind the header of the request, which NETLINK_CAP_ACK cuts there
		tail = tail[min(unix.NLMSG_HDRLEN, len(tail)):]
	}
	for typ, v := range attrs(tail) {
		if typ == explanation {
			return fmt.Errorf("%w: %s", errno, text(v))
		}
	}
	return errno
}

// Payload builders. Numbers in rtnetlink are in the machine's byte order.

func putNDM(b []byte, family uint8, ifindex int, state uint16, flags uint8) []byte {
	b = append(b, family, 0, 0, 0)
	b = binary.NativeEndian.AppendUint32(b, uint32(ifindex))
	b = binary.NativeEndian.AppendUint16(b, state)
	return append(b, flags, 0)
}

func putAttr(b []byte, typ uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(4+len(value)))
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = append(b, value...)
	for len(b)%4 != 0 { // batches are built of payloads whose length is a multiple of four
		b = append(b, 0)
	}
	return b
}

func putAttr32(b []byte, typ uint16, v uint32) []byte {
	b = binary.NativeEndian.AppendUint16(b, 8)
	b = binary.NativeEndian.AppendUint16(b, typ)
	return binary.NativeEndian.AppendUint32(b, v)
}

func putAddr(b []byte, typ uint16, a netip.Addr) []byte {
	if a.Is4() {
		v := a.As4()
		return putAttr(b, typ, v[:])
	}
	v := a.As16()
	return putAttr(b, typ, v[:])
}

func putMAC(b []byte, m evpn.MAC) []byte { return putAttr(b, unix.NDA_LLADDR, m[:]) }

func family(a netip.Addr) uint8 {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}
