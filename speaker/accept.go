package speaker

import (
	"context"
	"net"
	"net/netip"

	"github.com/evpnd/evpnd/config"
	"github.com/evpnd/evpnd/evpn"
)

// accepted finds out whose connection c is. Strangers' are closed at once and counted (SE-04).
func (s *Speaker) accepted(ctx context.Context, c *net.TCPConn) {
	remote := c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
	p := s.peerFor(remote)
	if p == nil {
		s.refused.Add(1)
		s.log.WithField("peer", remote.String()).Debug("connection from a stranger refused")
		_ = c.Close()
		return
	}
	raw, err := c.SyscallConn()
	if err == nil {
		err = onSocket(raw, acceptedOptions(p.config(), s.asn).setIP)
	}
	if err != nil {
		p.log.WithError(err).Warn("set options of the peer's connection")
		_ = c.Close()
		s.abandon(p)
		return
	}
	if !p.start(ctx, c, false) {
		_ = c.Close() // the peer is on its way out; it will try again
		return
	}
	if p.dynamic.IsValid() {
		s.adopt(ctx, p)
	}
}

// adopt starts a dynamic peer once its first connection is there.
func (s *Speaker) adopt(ctx context.Context, p *peer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case p.stop != nil:
	case s.spawn != nil:
		s.spawn(p)
	default: // Run is ending
		p.shutdown(ctx)
	}
}

// abandon gives back the place of a dynamic peer that never got a connection.
func (s *Speaker) abandon(p *peer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stop != nil || len(p.conns) > 0 {
		return
	}
	p.closed = true // another connection of it may be on its way to start
	if s.peers[p.addr] == p {
		delete(s.peers, p.addr)
	}
}

// peerFor returns the peer with an address; one within a dynamic range is made, within the limit of the range. nil means
// that the address is a stranger's.
func (s *Speaker) peerFor(addr netip.Addr) *peer {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.peers[addr]; p != nil {
		return p
	}
	if addr.IsLinkLocalUnicast() {
		if p := s.peers[evpn.InterfacePeer(addr.Zone())]; p != nil && p.knows(addr) {
			return p
		}
	}
	d := matchDynamic(s.cfg, addr)
	if d == nil || s.spawn == nil {
		return nil
	}
	n := 0
	for _, p := range s.peers {
		if p.dynamic == d.Prefix {
			n++
		}
	}
	if n >= d.Limit {
		return nil
	}
	p := newPeer(s, dynamicPeer(d, addr), d.Prefix)
	s.peers[addr] = p
	return p
}

// matchDynamic finds the longest range that addr is in.
func matchDynamic(cfg *config.Config, addr netip.Addr) *config.DynamicPeers {
	var best *config.DynamicPeers
	for i := range cfg.DynamicPeers {
		d := &cfg.DynamicPeers[i]
		if d.Prefix.Contains(addr.WithZone("")) && (best == nil || d.Prefix.Bits() > best.Prefix.Bits()) {
			best = d
		}
	}
	return best
}

func dynamicPeer(d *config.DynamicPeers, addr netip.Addr) config.Peer {
	p := d.Template
	p.Address, p.Passive = addr, true
	return p
}
