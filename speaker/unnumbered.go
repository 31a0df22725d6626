package speaker

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/evpnd/evpnd/config"
	"github.com/evpnd/evpnd/evpn"
	"github.com/evpnd/evpnd/rtadv"
)

// An unnumbered peer is whoever is at the other end of a link. Its name is the interface, for the core too, so that another
// address is not another peer; which address it has is known from its Router Advertisements.

// watchLink runs until ctx ends.
func (p *peer) watchLink(ctx context.Context) {
	l := rtadv.Link{
		Name: evpn.PeerInterface(p.addr), Advertise: &p.advertise, Changed: p.linkChanged, Log: p.log,
	}
	l.Watch(ctx)
}

// linkChanged takes in who is there. Sessions end with the link, as in FRR (fast external failover), and with the address of
// the peer when another one is there instead; graceful restart then says what becomes of the routes.
func (p *peer) linkChanged(now rtadv.Status) {
	p.mu.Lock()
	was := p.link
	p.link = now
	if !slices.Contains(now.Routers, p.target) && (now.Why != "" || len(now.Routers) > 0) {
		p.target = netip.Addr{}
		if len(now.Routers) > 0 {
			p.target = now.Routers[0]
			p.pause, p.next = 0, p.held // at once, but for an idle hold
		}
	}
	over := map[*session]string{}
	for s := range p.conns {
		switch {
		case now.Why != "":
			over[s] = now.Why
		case was.Local.IsValid() && was.Local != now.Local:
			over[s] = fmt.Sprintf("our link-local address has changed to %s", now.Local)
		case slices.Contains(was.Routers, s.remote) && !slices.Contains(now.Routers, s.remote):
			over[s] = fmt.Sprintf("peer %s is gone from the link, %s is there", s.remote, now.Routers[0])
		}
	}
	p.mu.Unlock()
	p.setLinkKeys(was.Routers, now.Routers)
	if was.Why != now.Why || !slices.Equal(was.Routers, now.Routers) {
		p.log.WithField("remote", names(now.Routers)).WithField("reason", now.Why).Info("peer's link has changed")
	}
	for s, why := range over {
		p.wg.Go(func() { s.end(&ending{reason: why}) })
	}
	p.poke()
}

// setLinkKeys sets the TCP MD5 key for the routers of the link on the listening sockets.
func (p *peer) setLinkKeys(was, now []netip.Addr) {
	key := p.config().Password
	if key == "" || slices.Equal(was, now) {
		return
	}
	old, want := map[netip.Prefix]string{}, map[netip.Prefix]string{}
	for _, a := range was {
		old[hostPrefix(a)] = key
	}
	for _, a := range now {
		want[hostPrefix(a)] = key
	}
	if err := p.sp.setKeys(old, want); err != nil {
		p.log.WithError(err).Warn("key of the peer not set, it cannot connect to us")
	}
}

func names(addrs []netip.Addr) []string {
	list := make([]string, len(addrs))
	for i, a := range addrs {
		list[i] = a.String()
	}
	return list
}

// dialled is the configuration with the address that is to be dialled.
func (p *peer) dialled() config.Peer {
	p.mu.Lock()
	defer p.mu.Unlock()
	cfg := p.cfg
	cfg.Address = p.target
	return cfg
}

// tryOther goes on to the next router of the link when one does not answer: it may be gone, or have another address now.
func (p *peer) tryOther() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := slices.Index(p.link.Routers, p.target); i >= 0 {
		p.target = p.link.Routers[(i+1)%len(p.link.Routers)]
	}
}

// knows reports whether the peer may have an address of the link. Before anybody has advertised itself everybody may.
func (p *peer) knows(addr netip.Addr) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.link.Routers) == 0 || slices.Contains(p.link.Routers, addr)
}

// routers lists who is there on the link of an unnumbered peer.
func (s *Speaker) routers(addr netip.Addr) []netip.Addr {
	s.mu.Lock()
	p := s.peers[addr]
	s.mu.Unlock()
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.link.Routers)
}
