package speaker

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/evpnd/evpnd/config"
)

// socketOptions are what has to be set before the first segment leaves or arrives.
type socketOptions struct {
	v6     bool
	key    string       // TCP MD5 (RFC 2385); "": none
	peer   netip.Prefix // whose segments the key is for
	ttl    int          // of our packets; 0: the kernel's default
	minTTL int          // of accepted packets (RFC 5082); 0: any
	device string       // SO_BINDTODEVICE; "": none
}

// peerOptions are the options of a connection with p (SE-01, SE-02): TTL 1 for an eBGP peer unless it is multihop; with
// GTSM we send 255, and what comes from further away than the configured hops is dropped.
func peerOptions(p config.Peer, asn uint32) socketOptions {
	o := socketOptions{v6: p.Address.Is6(), key: p.Password, peer: hostPrefix(p.Address), device: p.Interface}
	switch {
	case p.TTLSecurity > 0:
		o.ttl, o.minTTL = 255, 256-int(p.TTLSecurity)
	case p.External, p.ASN != 0 && p.ASN != asn:
		o.ttl = max(int(p.Multihop), 1)
	}
	return o
}

// acceptedOptions are those of a connection that p opened: the listener's TTL is for everybody.
func acceptedOptions(p config.Peer, asn uint32) socketOptions {
	o := peerOptions(p, asn)
	if o.ttl == 0 {
		o.ttl = -1 // the kernel's default
	}
	return o
}

// control sets the options on a new socket.
func control(o socketOptions) func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error { return onSocket(c, o.set) }
}

// onSocket runs f with the descriptor.
func onSocket(c syscall.RawConn, f func(fd int) error) error {
	var err error
	if cerr := c.Control(func(fd uintptr) { err = f(int(fd)) }); cerr != nil {
		return cerr
	}
	return err
}

func (o socketOptions) set(fd int) error {
	if o.key != "" {
		if err := setKey(fd, o.peer, o.key); err != nil {
			return err
		}
	}
	return o.setIP(fd)
}

// setIP sets all but the key, which a connection inherits from its listener.
func (o socketOptions) setIP(fd int) error {
	level, ttl := unix.IPPROTO_IP, unix.IP_TTL
	if o.v6 {
		level, ttl = unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS
	}
	if o.ttl != 0 {
		if err := unix.SetsockoptInt(fd, level, ttl, o.ttl); err != nil {
			return fmt.Errorf("set TTL %d: %w", o.ttl, err)
		}
	}
	if o.minTTL != 0 {
		if err := setMinTTL(fd, o.v6, o.minTTL); err != nil {
			return err
		}
	}
	if o.device != "" {
		if err := unix.BindToDevice(fd, o.device); err != nil {
			return fmt.Errorf("bind to device %s: %w", o.device, err)
		}
	}
	return nil
}

// setMinTTL has the kernel drop packets with a lower TTL; 0 drops none.
func setMinTTL(fd int, v6 bool, ttl int) error {
	level, option := unix.IPPROTO_IP, unix.IP_MINTTL
	if v6 {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_MINHOPCOUNT
	}
	if err := unix.SetsockoptInt(fd, level, option, ttl); err != nil {
		return fmt.Errorf("set least TTL %d: %w", ttl, err)
	}
	return nil
}

// setKey sets the TCP MD5 key for segments of a peer or a prefix of peers; an empty key removes it.
func setKey(fd int, peer netip.Prefix, key string) error {
	sig := unix.TCPMD5Sig{
		Flags: unix.TCP_MD5SIG_FLAG_PREFIX, Prefixlen: uint8(peer.Bits()), Keylen: uint16(len(key)),
	}
	copy(sig.Key[:], key)
	if a := peer.Masked().Addr(); a.Is4() {
		sig.Addr.Family = unix.AF_INET
		b := a.As4()
		copy(sig.Addr.Data[2:], b[:]) // after the port
	} else {
		sig.Addr.Family = unix.AF_INET6
		b := a.As16()
		copy(sig.Addr.Data[6:], b[:]) // after port and flow label
	}
	err := unix.SetsockoptTCPMD5Sig(fd, unix.IPPROTO_TCP, unix.TCP_MD5SIG_EXT, &sig)
	if err != nil && !(key == "" && errors.Is(err, unix.ENOENT)) {
		return fmt.Errorf("set TCP MD5 key for %s: %w", peer, err)
	}
	return nil
}

// checkLoopback says what is wrong in a fresh network namespace, where nothing can use 127/8 until lo is up.
func checkLoopback() error {
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		return fmt.Errorf("look up loopback interface: %w", err)
	}
	if lo.Flags&net.FlagUp == 0 {
		return errors.New("loopback interface is down: ip link set lo up")
	}
	return nil
}
