package speaker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/evpnd/evpnd/config"
)

// listeners are the sockets on which peers may connect.
type listeners struct {
	cfg     config.Listen
	sockets []*net.TCPListener
	wg      sync.WaitGroup
}

// listen opens the sockets that cfg asks for, with TCP MD5 keys for peers; accept is called with each connection.
func listen(ctx context.Context, cfg *config.Config, keys map[netip.Prefix]string, log logrus.FieldLogger, accept func(*net.TCPConn)) (*listeners, error) {
	l := cfg.Listen
	ls := &listeners{cfg: l}
	if !l.Enabled {
		return ls, nil
	}
	addrs := l.Addresses
	if len(addrs) == 0 {
		addrs = []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
	}
	for _, a := range addrs {
		s, err := listenAt(ctx, a, l.Port, keys, leastTTL(cfg, a.Is6()))
		if len(l.Addresses) == 0 && a.Is6() && (errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EADDRNOTAVAIL)) {
			log.Debug("host has no IPv6: listening on IPv4 only")
			continue
		}
		if err != nil {
			ls.close()
			return nil, fmt.Errorf("listen for peers: %w", err)
		}
		ls.sockets = append(ls.sockets, s)
	}
	for _, s := range ls.sockets {
		ls.wg.Go(func() { acceptAll(s, log, accept) })
	}
	return ls, nil
}

// listenAt opens one socket. It sends TTL 255, so that a peer with GTSM gets our SYN+ACK; each connection gets its own.
// The keys are there before anybody can connect, and so is GTSM as far as all peers have it: a connection's own limit is
// set when it is accepted, and then the kernel may have let in what came with the handshake.
func listenAt(ctx context.Context, a netip.Addr, port uint16, keys map[netip.Prefix]string, leastTTL int) (*net.TCPListener, error) {
	network := "tcp4"
	if a.Is6() {
		network = "tcp6" // not IPv4 too: keys are set per family
	}
	set := func(fd int) error {
		errs := []error{socketOptions{v6: a.Is6(), ttl: 255, minTTL: leastTTL}.setIP(fd)}
		for peer, key := range keys {
			if peer.Addr().Is6() == a.Is6() {
				errs = append(errs, setKey(fd, peer, key))
			}
		}
		return errors.Join(errs...)
	}
	lc := net.ListenConfig{KeepAlive: -1, Control: func(_, _ string, c syscall.RawConn) error { return onSocket(c, set) }}
	lc.SetMultipathTCP(false) // cannot do MD5
	l, err := lc.Listen(ctx, network, net.JoinHostPort(a.String(), strconv.Itoa(int(port))))
	if err != nil {
		return nil, err
	}
	return l.(*net.TCPListener), nil
}

// acceptAll runs until the socket is closed.
func acceptAll(l *net.TCPListener, log logrus.FieldLogger, accept func(*net.TCPConn)) {
	for {
		c, err := l.AcceptTCP()
		switch {
		case err == nil:
			accept(c)
		case errors.Is(err, net.ErrClosed):
			return
		default: // out of descriptors, most likely
			log.WithError(err).Warn("accept a peer's connection")
			time.Sleep(100 * time.Millisecond)
		}
	}
}

// setKey sets the TCP MD5 key for a peer or a range of peers on the sockets of its family.
func (ls *listeners) setKey(peer netip.Prefix, key string) error {
	return ls.each(func(v6 bool, fd int) error {
		if v6 != peer.Addr().Is6() {
			return nil
		}
		return setKey(fd, peer, key)
	})
}

// each runs f with every socket.
func (ls *listeners) each(f func(v6 bool, fd int) error) error {
	var errs []error
	for _, l := range ls.sockets {
		v6 := l.Addr().(*net.TCPAddr).AddrPort().Addr().Unmap().Is6()
		c, err := l.SyscallConn()
		if err == nil {
			err = onSocket(c, func(fd int) error { return f(v6, fd) })
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (ls *listeners) close() {
	for _, l := range ls.sockets {
		_ = l.Close()
	}
	ls.wg.Wait()
}

// leastTTL is the TTL that packets of every peer of a family must have at least; 0 when one of them is without GTSM.
func leastTTL(cfg *config.Config, v6 bool) int {
	least := 256
	for _, p := range cfg.Peers {
		if p.Address.Is6() == v6 {
			least = min(least, peerOptions(p, cfg.ASN).minTTL)
		}
	}
	for _, d := range cfg.DynamicPeers {
		if d.Prefix.Addr().Is6() == v6 {
			least = min(least, peerOptions(d.Template, cfg.ASN).minTTL)
		}
	}
	return least % 256
}

// keys lists the TCP MD5 keys that a configuration needs on the listening sockets. Peers by interface have theirs for every
// router that is known on the link.
func (s *Speaker) keys(cfg *config.Config) map[netip.Prefix]string {
	m := make(map[netip.Prefix]string)
	for _, d := range cfg.DynamicPeers {
		if d.Template.Password != "" {
			m[d.Prefix.Masked()] = d.Template.Password
		}
	}
	for _, p := range cfg.Peers {
		if p.Password == "" {
			continue
		}
		addrs := []netip.Addr{p.Address}
		if p.Unnumbered() {
			addrs = s.routers(p.Address)
		}
		for _, a := range addrs {
			m[hostPrefix(a)] = p.Password
		}
	}
	return m
}

// hostPrefix is an address as the kernel has it in a TCP MD5 key: without its zone.
func hostPrefix(a netip.Addr) netip.Prefix {
	a = a.WithZone("")
	return netip.PrefixFrom(a, a.BitLen())
}
