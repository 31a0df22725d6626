package dataplane

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// pingSocket is a socket of our tunnel address, for ICMP echo or for UDP. It never fragments and ignores what the kernel has
// learned of the way's MTU. One that is connected to another VTEP also reads the ICMP errors that come back.
type pingSocket struct {
	file *os.File
	raw  syscall.RawConn
	v4   bool
}

// dialPing opens a socket from self to vtep, for ICMP or, with a port, for UDP. bound is the device that packets must leave
// by; "": what routes say. ICMP needs CAP_NET_RAW.
func dialPing(self, vtep netip.Addr, port uint16, bound string) (*pingSocket, error) {
	s, err := openPing(self, port == 0)
	if err != nil {
		return nil, err
	}
	err = s.control(func(fd int) error {
		if err := s.readErrors(fd); err != nil {
			return fmt.Errorf("have errors queued: %w", err)
		}
		if bound != "" {
			if err := unix.BindToDevice(fd, bound); err != nil {
				return fmt.Errorf("bind to %s: %w", bound, err)
			}
		}
		if err := unix.Bind(fd, sockaddr(self, 0)); err != nil {
			return fmt.Errorf("bind to %s: %w", self, err)
		}
		if err := unix.Connect(fd, sockaddr(vtep, port)); err != nil {
			return fmt.Errorf("connect to %s: %w", vtep, err)
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("ping socket: %w", err), s.close())
	}
	return s, nil
}

// listenPing opens a socket that receives the ICMP echo requests of other evpnds to self.
func listenPing(self netip.Addr) (*pingSocket, error) { return listenEcho(self, false, "") }

// listenProbes opens a socket that receives the answers to ICMP echo requests that it sends from self, to whomever.
func listenProbes(self netip.Addr, bound string) (*pingSocket, error) {
	s, err := listenEcho(self, true, bound)
	if err == nil {
		_ = s.control(func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, probeBuffer) }) // the default will do
	}
	return s, err
}

// listenEcho opens a socket for the ICMP echo requests, or replies, with our messages. It does not fail with the errors that
// come back from one of those it sends to.
func listenEcho(self netip.Addr, replies bool, bound string) (*pingSocket, error) {
	s, err := openPing(self, true)
	if err != nil {
		return nil, err
	}
	filter := pingFilter(self.Is4(), replies)
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	err = s.control(func(fd int) error {
		if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program); err != nil {
			return fmt.Errorf("set filter: %w", err)
		}
		if bound != "" {
			if err := unix.BindToDevice(fd, bound); err != nil {
				return fmt.Errorf("bind to %s: %w", bound, err)
			}
		}
		if err := unix.Bind(fd, sockaddr(self, 0)); err != nil {
			return fmt.Errorf("bind to %s: %w", self, err)
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("ping socket: %w", err), s.close())
	}
	return s, nil
}

func openPing(self netip.Addr, icmp bool) (*pingSocket, error) {
	domain, typ, protocol := unix.AF_INET, unix.SOCK_DGRAM, 0
	if self.Is6() {
		domain = unix.AF_INET6
	}
	switch {
	case icmp && self.Is4():
		typ, protocol = unix.SOCK_RAW, unix.IPPROTO_ICMP
	case icmp:
		typ, protocol = unix.SOCK_RAW, unix.IPPROTO_ICMPV6
	}
	fd, err := unix.Socket(domain, typ|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return nil, fmt.Errorf("open ping socket: %w", err)
	}
	s := &pingSocket{file: os.NewFile(uintptr(fd), "ping"), v4: self.Is4()}
	if s.raw, err = s.file.SyscallConn(); err == nil {
		err = s.control(s.options)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("ping socket: %w", err), s.close())
	}
	return s, nil
}

func (s *pingSocket) options(fd int) error {
	if s.v4 {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE)
	}
	return errors.Join(
		unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE),
		unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_DONTFRAG, 1))
}

func (s *pingSocket) readErrors(fd int) error {
	if s.v4 {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_RECVERR, 1)
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 1)
}

func sockaddr(a netip.Addr, port uint16) unix.Sockaddr {
	if a.Is4() {
		return &unix.SockaddrInet4{Addr: a.As4(), Port: int(port)}
	}
	return &unix.SockaddrInet6{Addr: a.As16(), Port: int(port)}
}

func (s *pingSocket) control(f func(fd int) error) error {
	var result error
	err := s.raw.Control(func(fd uintptr) { result = f(int(fd)) })
	return errors.Join(err, result)
}

func (s *pingSocket) close() error { return s.file.Close() }

// interrupt ends a read, now and later.
func (s *pingSocket) interrupt() { _ = s.file.SetReadDeadline(time.Unix(1, 0)) }

// send sends one packet on a connected socket. An error may be that of an earlier packet, which the kernel tells at the
// next call, and then does not send: it is tried twice.
func (s *pingSocket) send(b []byte) error {
	return s.control(func(fd int) error {
		_, err := unix.Write(fd, b)
		if err != nil && !errors.Is(err, unix.EMSGSIZE) {
			_, err = unix.Write(fd, b)
		}
		return err
	})
}

// pingRead is what a socket received: a packet, or an ICMP error.
type pingRead struct {
	data []byte // good until the next one is read
	from netip.Addr
	err  *pingError // instead of data
}

// read hands over what comes until take returns true or the deadline of the socket is over.
func (s *pingSocket) read(take func(pingRead) bool) error {
	var result error
	buf, oob := make([]byte, datagram), make([]byte, 512)
	err := s.raw.Read(func(fd uintptr) bool {
		for {
			r, err := receivePing(int(fd), buf, oob)
			switch {
			case errors.Is(err, unix.EAGAIN):
				return false
			case errors.Is(err, unix.EINTR):
			case err != nil:
				result = fmt.Errorf("receive: %w", err)
				return true
			case take(r):
				return true
			}
		}
	})
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = nil
	}
	return errors.Join(err, result)
}

// readUntil is read with a deadline.
func (s *pingSocket) readUntil(end time.Time, take func(pingRead) bool) error {
	if err := s.file.SetReadDeadline(end); err != nil {
		return fmt.Errorf("set deadline: %w", err)
	}
	return s.read(take)
}

// drain hands over what is there, and does not wait.
func (s *pingSocket) drain(take func(pingRead) bool) {
	buf, oob := make([]byte, datagram), make([]byte, 512)
	_ = s.control(func(fd int) error {
		for {
			r, err := receivePing(fd, buf, oob)
			if err != nil && !errors.Is(err, unix.EINTR) {
				return err // EAGAIN: that was all
			}
			if err == nil && take(r) {
				return nil
			}
		}
	})
}

// receivePing reads one error or, when there is none, one packet. An error that a packet caused makes the socket fail once
// as well, which says nothing new.
func receivePing(fd int, buf, oob []byte) (pingRead, error) {
	_, n, _, _, err := unix.Recvmsg(fd, buf, oob, unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
	if err == nil {
		if e, ok := parsePingError(oob[:n]); ok {
			return pingRead{err: &e}, nil
		}
		return pingRead{}, unix.EINTR // of no interest
	}
	size, from, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT)
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EBADF):
		return pingRead{}, err
	case err != nil:
		return pingRead{}, unix.EINTR
	}
	return pingRead{data: buf[:size], from: addrOf(from)}, nil
}

func addrOf(sa unix.Sockaddr) netip.Addr {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrFrom4(sa.Addr)
	case *unix.SockaddrInet6:
		return netip.AddrFrom16(sa.Addr)
	}
	return netip.Addr{}
}

// pingError is why a packet did not arrive, as an ICMP error or our own kernel says.
type pingError struct {
	errno     unix.Errno
	local     bool // our kernel refused to send it
	typ, code uint8
	v4        bool
	mtu       int        // of the next link, where it was too big; 0: not told
	from      netip.Addr // who says so; the zero Addr: our kernel
}

// parsePingError reads the control messages of an error queue: struct sock_extended_err and the address of who sent it.
func parsePingError(oob []byte) (e pingError, ok bool) {
	const size = 16
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return e, false
	}
	for _, m := range messages {
		e.v4 = m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_RECVERR
		if !e.v4 && (m.Header.Level != unix.IPPROTO_IPV6 || m.Header.Type != unix.IPV6_RECVERR) || len(m.Data) < size {
			continue
		}
		d := m.Data
		e.errno, e.local = unix.Errno(binary.NativeEndian.Uint32(d)), d[4] == unix.SO_EE_ORIGIN_LOCAL
		e.typ, e.code = d[5], d[6]
		if e.errno == unix.EMSGSIZE {
			e.mtu = int(binary.NativeEndian.Uint32(d[8:]))
		}
		switch from := d[size:]; {
		case e.local:
		case e.v4 && len(from) >= 8:
			e.from = netip.AddrFrom4([4]byte(from[4:8]))
		case !e.v4 && len(from) >= 24:
			e.from = netip.AddrFrom16([16]byte(from[8:24]))
		}
		return e, true
	}
	return e, false
}

// pingReason is what an error means.
type pingReason uint8

const (
	reasonUnreachable pingReason = iota // no way from there on
	reasonTooBig
	reasonPort       // nobody has the port
	reasonProhibited // by somebody's rules
	reasonLoop       // the packet went too far
)

// reason sorts an error (RFC 792, RFC 1812 §5.2.7.1, RFC 4443 §3).
func (e pingError) reason() pingReason {
	switch {
	case e.errno == unix.EMSGSIZE:
		return reasonTooBig
	case e.local && (e.errno == unix.EPERM || e.errno == unix.EACCES):
		return reasonProhibited
	case e.local:
		return reasonUnreachable
	case e.v4 && e.typ == 11, !e.v4 && e.typ == 3:
		return reasonLoop
	case e.v4 && e.code == 3, !e.v4 && e.code == 4:
		return reasonPort
	case e.v4 && (e.code == 9 || e.code == 10 || e.code == 13), !e.v4 && (e.code == 1 || e.code == 5 || e.code == 6):
		return reasonProhibited
	}
	return reasonUnreachable
}

// says names who tells of the error.
func (e pingError) says() string {
	if e.from.IsValid() {
		return e.from.String()
	}
	return "this host"
}

// errorsOf takes errors and leaves packets.
func errorsOf(take func(pingError)) func(pingRead) bool {
	return func(r pingRead) bool {
		if r.err != nil {
			take(*r.err)
		}
		return false
	}
}
