package speaker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/evpnd/evpnd/config"
	"github.com/evpnd/evpnd/evpn"
	"github.com/evpnd/evpnd/evpn/wire"
)

// establish goes from the TCP connection to Established.
func (s *session) establish(ctx context.Context) error {
	l, err := s.p.sp.attach(ctx, s.cfg)
	if err != nil {
		return err
	}
	s.leg = l
	go s.relay(l)
	if err := s.wait(l.opened); err != nil { // no answer of ours precedes our OPEN
		return err
	}
	msg, err := s.readOpen()
	if err != nil {
		return err
	}
	if s.cfg.External && s.open.asn == s.p.sp.asn { // GoBGP takes any AS there
		return &ending{
			reason: "peer is in our own AS, another one is expected",
			sent:   &notification{code: codeOpen, subcode: 2},
		}
	}
	if !s.p.admit(s) {
		return &ending{reason: "lost connection collision", sent: cease(ceaseCollision, "")}
	}
	s.peerOpen = msg
	msg, s.marked = engineOpen(msg, &s.open)
	s.eor.start(s.marked, s.p.sp.released.Load(), s.neg.rtc)
	s.expectDumps(l)
	l.offered = true
	if err := s.toEngine(msg); err != nil {
		return err
	}
	if err := s.readKeepalive(); err != nil {
		return err
	}
	return s.established()
}

// readOpen waits for the peer's OPEN and reads what it says.
func (s *session) readOpen() ([]byte, error) {
	kind, msg, err := s.next()
	switch {
	case err != nil:
		return nil, err
	case kind == wire.MessageNotification:
		return nil, s.notified(msg)
	case kind != wire.MessageOpen:
		return nil, &ending{
			reason: fmt.Sprintf("message type %d before OPEN", kind), sent: &notification{code: codeFSM, subcode: 1},
		}
	}
	msg = bytes.Clone(msg) // s.open keeps parts of it
	o, err := parseOpen(msg)
	if err != nil {
		return nil, &ending{reason: err.Error(), sent: &notification{code: codeOpen}}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open, s.neg = o, negotiate(s.cfg, &o)
	return msg, nil
}

// negotiate finds what the peer's OPEN and ours, as GoBGP sends it for cfg, have in common.
func negotiate(cfg config.Peer, o *open) negotiated {
	n := negotiated{
		as4: o.has(capAS4), extended: o.has(capExtendedMessage), refresh: o.has(capRefresh),
		hold: min(cfg.HoldTime, o.hold), enhanced: o.has(capEnhancedRefresh) && o.has(capRefresh),
	}
	for _, f := range o.families() {
		n.evpn = n.evpn || f == familyEVPN
		n.rtc = n.rtc || f == familyRTC && cfg.RTConstraint
	}
	if gr := o.graceful(); cfg.GracefulRestart > 0 && gr.Present {
		n.stays = true
		n.notification = gr.Notification
		if gr.EVPN && n.evpn {
			n.retain = gr.RestartTime
			n.longLived = min(o.longLived().StaleTime, cfg.LongLived)
		}
	}
	return n
}

// readKeepalive waits for the KEEPALIVE that answers our OPEN. It can come before GoBGP's own, which has to be out first.
func (s *session) readKeepalive() error {
	if s.neg.hold > 0 {
		s.setPatience(s.neg.hold)
	}
	kind, msg, err := s.next()
	switch {
	case err != nil:
		return err
	case kind == wire.MessageNotification:
		return s.notified(msg)
	case kind != wire.MessageKeepalive:
		return &ending{
			reason: fmt.Sprintf("message type %d before KEEPALIVE", kind), sent: &notification{code: codeFSM, subcode: 2},
		}
	}
	s.leg.running = true
	if err := s.toEngine(msg); err != nil {
		return err
	}
	return s.wait(s.leg.greeted)
}

// wait waits for something that GoBGP does at once.
func (s *session) wait(done <-chan struct{}) error {
	select {
	case <-done:
		return nil
	case <-s.ending:
		return errEnded
	}
}

// errEnded says that the session ended for a reason that is already known.
var errEnded = errors.New("session has ended")

// prepare sets what is read and written in an established session up for what was negotiated.
func (s *session) prepare() {
	opts := wire.Options{AS4: s.neg.as4, IBGP: s.open.asn == s.p.sp.asn, Extended: s.neg.extended}
	s.in.opts = opts
	s.setPatience(s.neg.hold)
	s.decoder = wire.NewDecoder(opts)
	if s.neg.hold > 0 {
		s.outer.timeout.Store(int64(max(s.neg.hold/3, time.Second)))
	}
}

// peerUp is what the core hears when the session is up.
func (s *session) peerUp(cfg config.Peer) evpn.PeerUp {
	gr := s.open.graceful()
	return evpn.PeerUp{
		Peer: s.p.addr, ASN: s.open.asn, RouterID: s.open.routerID,
		Forwarding: gr.EVPN && gr.Forwarding && cfg.GracefulRestart > 0 && !cfg.OnPeerLoss.Withdraw,
		LongLived:  s.neg.longLived > 0 && s.open.longLived().Forwarding && !cfg.OnPeerLoss.Withdraw,
		Keep:       cfg.OnPeerLoss.Keep > 0, StaleTime: cfg.StaleTime,
		NeedEncap: cfg.NeedEncap, Limit: cfg.MaxRoutes.Limit(),
	}
}

// established starts what an established session needs and tells the core.
func (s *session) established() error {
	if !s.p.establish(s) {
		return errEnded
	}
	s.prepare()
	if s.neg.hold > 0 {
		s.timers.Go(s.keepAlive)
	}
	log := s.log.WithFields(logrus.Fields{"asn": s.open.asn, "routerid": s.open.routerID.String()})
	if !s.neg.evpn {
		log.Warn("session up, but the peer does not offer EVPN")
		// GR-06: what was retained of the peer is not coming again.
		s.batch = append(s.batch, evpn.PeerDown{Peer: s.p.addr, Reason: "peer came back without EVPN"})
		s.flush()
		return nil
	}
	log.Info("session up")
	s.up = true
	cfg := s.p.config()
	s.batch = append(s.batch, s.peerUp(cfg))
	s.flush()
	if now := s.p.config().MaxRoutes; now != cfg.MaxRoutes { // Configure may have told the core before it knew of the session
		s.batch = append(s.batch, evpn.PeerLimit{Peer: s.p.addr, Limit: now.Limit()})
		s.flush()
	}
	if s.neg.rtc {
		s.waitForMemberships()
	}
	s.catchUpEoR()
	return nil
}
