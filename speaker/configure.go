package speaker

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"reflect"

	"github.com/evpnd/evpnd/config"
	"github.com/evpnd/evpnd/evpn"
)

// Configure makes the peers what cfg says: new ones are started, missing ones are told so (6/3), changed ones start
// anew (6/6), all others stay as they are, also those whose change can be made under the session: config.Keys says which.
// Before Run it only remembers cfg. AS number and router id cannot change in a running speaker. After an error no peer has
// noticed anything, and the listening sockets are as they were, unless the error says that this failed too.
func (s *Speaker) Configure(cfg *config.Config) error {
	s.configuring.Lock()
	defer s.configuring.Unlock()
	if cfg.ASN != s.asn || cfg.RouterID != s.routerID {
		return errors.New("change of AS number or router id: needs a restart")
	}
	s.mu.Lock()
	old := s.cfg
	running := s.spawn != nil
	s.mu.Unlock()
	if running {
		err := s.setSockets(old, cfg)
		if err != nil && cfg != old {
			err = errors.Join(err, s.setSockets(cfg, old))
		}
		if err != nil {
			return err
		}
	}
	s.mu.Lock()
	s.cfg = cfg
	s.mu.Unlock()
	// What peers have been told in the OPENs stays: the F bit that counts is the one they get after our restart.
	s.flushOnExit.Store(cfg.FlushOnExit)
	if running {
		s.stopChanged(cfg)
		s.startMissing(cfg)
	}
	return nil
}

// setSockets makes the listening sockets what next needs; they are what old needed, or as far as a failure left them.
func (s *Speaker) setSockets(old, next *config.Config) error {
	return errors.Join(s.relisten(next), s.setKeys(s.keys(old), s.keys(next)), s.setLeastTTL(next))
}

// sameSession reports whether a session made for a serves b as well, perhaps after retune.
func sameSession(a, b config.Peer) bool {
	b.Description, b.Port, b.Passive, b.ConnectRetry = a.Description, a.Port, a.Passive, a.ConnectRetry
	b.Multihop, b.TTLSecurity, b.Password, b.PasswordFile = a.Multihop, a.TTLSecurity, a.Password, a.PasswordFile
	b.Keepalive, b.OnPeerLoss, b.StaleTime, b.MaxRoutes = a.Keepalive, a.OnPeerLoss, a.StaleTime, a.MaxRoutes
	b.NoAdvertisements = a.NoAdvertisements
	return a == b
}

// retune gives the peer's connections the options of want in place of those of p.cfg. A key may be changed under a
// session as long as both ends do it before the hold time is over: what the other end drops is sent again (RFC 2385
// §4.5). p.mu is held.
func (p *peer) retune(want config.Peer) error {
	was, is := peerOptions(p.cfg, p.sp.asn), acceptedOptions(want, p.sp.asn)
	is.device = "" // is as it was, and setting it again takes a right that setting it once does not
	set := func(fd int, peer netip.Prefix) error {
		errs := []error{is.setIP(fd)}
		if is.minTTL == 0 {
			errs = append(errs, setMinTTL(fd, is.v6, 0))
		}
		if is.key != was.key {
			errs = append(errs, setKey(fd, peer, is.key))
		}
		return errors.Join(errs...)
	}
	if was == peerOptions(want, p.sp.asn) {
		return nil
	}
	var errs []error
	for s := range p.conns {
		raw, err := s.outer.SyscallConn()
		if err == nil {
			err = onSocket(raw, func(fd int) error { return set(fd, hostPrefix(s.remote)) })
		}
		if !errors.Is(err, net.ErrClosed) { // that session is over
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// stopChanged stops the peers that are gone or whose session must start anew, and waits for them.
func (s *Speaker) stopChanged(cfg *config.Config) {
	wanted := make(map[netip.Addr]config.Peer)
	for _, p := range cfg.Peers {
		wanted[p.Address] = p
	}
	s.mu.Lock()
	var stopping []*peer
	var limits []evpn.Event
	for addr, p := range s.peers {
		want, keep := wanted[addr]
		if p.dynamic.IsValid() {
			d := matchDynamic(cfg, addr)
			if !keep && d != nil && d.Prefix == p.dynamic {
				want, keep = dynamicPeer(d, addr), true
			} else {
				keep = false
			}
		}
		p.mu.Lock()
		same := keep && sameSession(p.cfg, want)
		if same {
			if err := p.retune(want); err != nil {
				p.log.WithError(err).Warn("options of the connection not changed, it starts anew")
				same = false
			} else {
				if p.cfg.MaxRoutes != want.MaxRoutes {
					limits = append(limits, evpn.PeerLimit{Peer: addr, Limit: want.MaxRoutes.Limit()})
				}
				p.cfg = want
				p.advertise.Store(!want.NoAdvertisements)
				p.poke()
			}
		}
		p.mu.Unlock()
		if same || p.stop == nil {
			continue
		}
		f := &farewell{subcode: ceaseConfigChange, text: "configuration changed"}
		if !keep {
			f = &farewell{subcode: ceaseDeconfigured, text: "removed from the configuration", removed: true}
		}
		p.stop(f)
		stopping = append(stopping, p)
	}
	s.mu.Unlock()
	if len(limits) > 0 {
		s.emit(limits)
	}
	for _, p := range stopping {
		<-p.stopped
		s.forget(p)
	}
}

func (s *Speaker) startMissing(cfg *config.Config) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.spawn == nil {
		return
	}
	for _, c := range cfg.Peers {
		if _, ok := s.peers[c.Address]; !ok {
			p := newPeer(s, c, netip.Prefix{})
			s.peers[c.Address] = p
			s.spawn(p)
		}
	}
}

// relisten opens the sockets anew if cfg asks for others.
func (s *Speaker) relisten(cfg *config.Config) error {
	s.mu.Lock()
	old, accept := s.listening, s.accept
	s.mu.Unlock()
	if reflect.DeepEqual(old.cfg, cfg.Listen) {
		return nil
	}
	old.close()
	ls, err := listen(context.Background(), cfg, s.keys(cfg), s.log, accept)
	if err != nil {
		ls = &listeners{}
	}
	s.mu.Lock()
	s.listening = ls
	s.mu.Unlock()
	return err
}

// setLeastTTL sets on the listening sockets how far away packets may come from.
func (s *Speaker) setLeastTTL(cfg *config.Config) error {
	s.mu.Lock()
	ls := s.listening
	s.mu.Unlock()
	return ls.each(func(v6 bool, fd int) error { return setMinTTL(fd, v6, leastTTL(cfg, v6)) })
}

// setKeys sets the keys in want on the listening sockets and removes those that only old has.
func (s *Speaker) setKeys(old, want map[netip.Prefix]string) error {
	s.mu.Lock()
	ls := s.listening
	s.mu.Unlock()
	var errs []error
	for prefix := range old {
		if _, ok := want[prefix]; !ok {
			errs = append(errs, ls.setKey(prefix, ""))
		}
	}
	for prefix, key := range want {
		errs = append(errs, ls.setKey(prefix, key))
	}
	return errors.Join(errs...)
}

// forget removes a peer that has stopped.
func (s *Speaker) forget(p *peer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.peers[p.addr] == p {
		delete(s.peers, p.addr)
	}
}
