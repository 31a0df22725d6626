package speaker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/evpnd/evpnd/config"
	"github.com/evpnd/evpnd/evpn"
	"github.com/evpnd/evpnd/evpn/wire"
)

// Adopt takes over a session from another process, before Run. It returns the facts about the peer, for the core to know
// before it hears anything else. After ReleaseEoR, when all our routes are there, a GoBGP is put behind it, and the peer
// gets what differs from what it has been told. The file is the speaker's in any case; after an error the connection is
// closed without a word, and the peer starts anew.
func (s *Speaker) Adopt(h *Handover) ([]evpn.Event, error) {
	defer h.File.Close()
	p, want, err := s.heir(h)
	if err != nil {
		return nil, fmt.Errorf("take over session with %s: %w", evpn.PeerName(h.Peer), err)
	}
	c, err := net.FileConn(h.File)
	if err != nil {
		return nil, fmt.Errorf("take over session with %s: %w", evpn.PeerName(h.Peer), err)
	}
	conn, ok := c.(*net.TCPConn)
	if !ok || !isAt(h.Peer, remoteOf(conn)) {
		return nil, errors.Join(fmt.Errorf("take over session with %s: the connection is not with this peer", evpn.PeerName(h.Peer)), c.Close())
	}
	_ = conn.SetKeepAlive(false) // FileConn has the kernel probe the peer; whether that is there is for the hold timer to say
	x := newSession(p, want, conn, h.Dialed)
	p.target = x.remote
	p.conns[x], p.current = struct{}{}, x
	err = x.revive(h)
	if err == nil {
		err = p.retune(want)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("take over session with %s: %w", evpn.PeerName(h.Peer), err), conn.Close())
	}
	p.cfg = want
	p.counters, p.since, p.shown = h.Counters, h.Since, StateEstablished
	s.mu.Lock()
	s.peers[p.addr] = p
	s.adopted = append(s.adopted, x)
	s.mu.Unlock()
	facts := x.batch
	x.batch = nil
	return facts, nil
}

// remoteOf is the address of the peer, zero when there is no connection.
func remoteOf(c *net.TCPConn) netip.Addr {
	a, ok := c.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	return a.AddrPort().Addr().Unmap()
}

// isAt reports whether a peer may have an address.
func isAt(peer, addr netip.Addr) bool {
	return peer == addr || evpn.PeerInterface(peer) != "" && peer == evpn.InterfacePeer(addr.Zone()) && addr.IsLinkLocalUnicast()
}

// heir makes the peer of a session that another process had, as that one had configured it, and says what is wanted of it
// now. It fails when the session cannot serve that.
func (s *Speaker) heir(h *Handover) (p *peer, want config.Peer, err error) {
	if h.ASN != s.asn || h.RouterID != s.routerID {
		return nil, want, errors.New("AS number or router id have changed")
	}
	if _, twice := s.peers[h.Peer]; twice {
		return nil, want, errors.New("it is there twice")
	}
	want, from, ok := s.configured(h.Peer)
	if !ok {
		return nil, want, errors.New("peer is not in the configuration any more")
	}
	had := want // what the process before did not know of is as it is now
	if err := json.Unmarshal(h.Settings, &had); err != nil {
		return nil, want, fmt.Errorf("settings: %w", err)
	}
	if !sameSession(had, want) {
		return nil, want, errors.New("configuration of the peer has changed")
	}
	return newPeer(s, had, from), want, nil
}

// configured finds what the configuration says of a peer, and the range that it is in.
func (s *Speaker) configured(addr netip.Addr) (config.Peer, netip.Prefix, bool) {
	for _, p := range s.cfg.Peers {
		if p.Address == addr {
			return p, netip.Prefix{}, true
		}
	}
	if d := matchDynamic(s.cfg, addr); d != nil {
		return dynamicPeer(d, addr), d.Prefix, true
	}
	return config.Peer{}, netip.Prefix{}, false
}

// revive makes an established session of a handover; batch has the facts about it then.
func (s *session) revive(h *Handover) error {
	o, err := parseOpen(h.PeerOpen)
	if err != nil {
		return err
	}
	s.phase, s.up, s.adopted = established, true, true
	s.open, s.peerOpen, s.neg = o, h.PeerOpen, negotiate(s.cfg, &o)
	if _, s.marked = engineOpen(h.PeerOpen, &o); !s.neg.evpn || !s.marked {
		return errors.New("it has no EVPN, or no mark at the end of a table")
	}
	s.eor.marked, s.eor.members = true, true
	s.eor.evpn.sent, s.eor.rtc.sent = true, true
	s.leg, s.holding = absentLeg(h.Open), true
	for _, f := range h.Asked {
		s.held = append(s.held, family(f))
	}
	if err := s.told.unpack(h.Told); err != nil {
		return err
	}
	for _, msg := range h.Members {
		if _, _, err := whole(msg, wire.MessageUpdate); err != nil {
			return fmt.Errorf("RT memberships: %w", err)
		}
		s.members.update(msg)
	}
	s.members.complete = h.Complete
	if len(h.Unread) > len(s.in.buf) {
		return errors.New("it has more unread octets than there is room for")
	}
	s.prepare()
	s.in.to = copy(s.in.buf, h.Unread)
	up := s.peerUp(s.cfg)
	up.Left = h.Left
	s.batch = append(s.batch, up)
	return s.repeat(h)
}

// repeat takes in what the peer has said to the process before.
func (s *session) repeat(h *Handover) error {
	decoder := s.decoder
	s.decoder = wire.NewDecoder(carried(s.p.sp.asn, &s.open))
	routes := 0
	for b := h.Said; len(b) > 0; {
		msg, rest, err := whole(b, wire.MessageUpdate)
		if err != nil {
			return fmt.Errorf("what the peer said: %w", err)
		}
		if err := s.update(msg); err != nil {
			return fmt.Errorf("what the peer said: %w", err)
		}
		if s.result.Verdict.Class != wire.Accept {
			return fmt.Errorf("what the peer said: %s", s.result.Verdict.Reason)
		}
		b = rest
	}
	for _, ev := range s.batch {
		if u, ok := ev.(*evpn.Update); ok {
			routes += len(u.Reach)
		}
	}
	if routes != h.Routes {
		return fmt.Errorf("%d routes of %d", routes, h.Routes)
	}
	s.decoder = decoder
	return nil
}

// whole cuts a message of a kind off b.
func whole(b []byte, want wire.MessageType) (msg, rest []byte, err error) {
	if len(b) < wire.HeaderLen {
		return nil, nil, errors.New("it ends within a message")
	}
	kind, n, err := wire.Header(b, wire.Options{Extended: true})
	switch {
	case err != nil:
		return nil, nil, err
	case len(b) < n:
		return nil, nil, errors.New("it ends within a message")
	case kind != want:
		return nil, nil, fmt.Errorf("message type %d, not %d", kind, want)
	}
	return b[:n:n], b[n:], nil
}

// absentLeg stands for the leg of the process before until there is another one. GoBGP's OPEN was this.
func absentLeg(open []byte) *leg {
	l := newLeg(nil, netip.Addr{}, nil)
	l.open = open
	l.done.Store(true)
	close(l.gone)
	return l
}

// absent reports that there is no GoBGP behind the leg.
func (l *leg) absent() bool { return l.conn == nil }

// spawnAdopted starts the sessions that were adopted, and their peers.
func (s *Speaker) spawnAdopted(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.adopted {
		x.p.wg.Go(func() { x.run(ctx) })
		s.spawn(x.p)
	}
	s.adopted = nil
}

// goOn starts what an adopted session needs: the peer shall hear of us at once, and a GoBGP when it has our routes.
func (s *session) goOn(ctx context.Context) {
	if s.neg.hold > 0 {
		s.send(wire.AppendKeepalive(nil))
		s.timers.Go(s.keepAlive)
	}
	s.log.Info("session taken over")
	s.timers.Go(func() {
		select {
		case <-s.p.sp.announced:
		case <-s.ending:
			return
		}
		if err := s.serve(ctx); err != nil {
			s.end(&ending{reason: fmt.Sprintf("taken over, but: %v", err)})
		}
	})
}

// serve puts the engine in use behind an adopted session.
func (s *session) serve(ctx context.Context) error {
	for {
		e := s.p.sp.serving.Load()
		err := s.moveTo(ctx, e)
		if !errors.Is(err, errRetired) || s.p.sp.serving.Load() == e {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
}
