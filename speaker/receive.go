package speaker

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"

	"github.com/sirupsen/logrus"

	"github.com/evpnd/evpnd/evpn"
	"github.com/evpnd/evpnd/evpn/wire"
)

// maxBatch bounds the UPDATEs, and maxBatchRoutes the routes, that one send to the core carries: what others have to say
// waits behind it.
const (
	maxBatch       = 256
	maxBatchRoutes = 256
)

// receive reads the messages of an established session until it ends. Only what GoBGP is there for reaches it.
func (s *session) receive() error {
	for {
		kind, msg, err := s.next()
		if err != nil && s.isParking() {
			return s.rest()
		}
		if err != nil {
			return err
		}
		switch kind {
		case wire.MessageUpdate:
			err = s.update(msg)
		case wire.MessageRouteRefresh:
			err = s.refresh(msg)
		case wire.MessageNotification:
			err = s.notified(msg)
		case wire.MessageOpen:
			err = &ending{reason: "OPEN in an established session", sent: &notification{code: codeFSM, subcode: 3}}
		}
		if err != nil {
			return err
		}
		if len(s.batch) >= maxBatch || s.batched >= maxBatchRoutes || !s.in.ready() {
			s.flush()
		}
	}
}

// flush sends the batch to the core and waits until it is taken. That a slow core makes us read no more is as it should
// be: TCP tells the peer, both hold timers of which we keep ours by ourselves.
func (s *session) flush() {
	if len(s.batch) > 0 {
		s.p.sp.emit(s.batch)
		s.batch, s.batched = nil, 0
	}
}

// update takes an UPDATE apart: EVPN is decoded here, RT memberships go to GoBGP if they were negotiated (it resets the
// session for a family that was not), the rest nowhere.
func (s *session) update(msg []byte) error {
	body := msg[wire.HeaderLen:]
	if !wire.IsEVPN(body) {
		return s.otherFamily(msg)
	}
	if !s.neg.evpn {
		s.p.count(func(c *Counters) { c.Dropped++ })
		return nil
	}
	r := &s.result
	if err := s.decoder.Update(body, r); err != nil {
		s.log.WithFields(logrus.Fields{"reason": err.Error(), "message": hex.EncodeToString(msg)}).
			Warn("malformed update: session is reset")
		return err
	}
	if r.Mixed {
		rest := wire.AppendMessage(nil, wire.MessageUpdate, wire.AppendWithoutEVPN(nil, body))
		if err := s.otherFamily(rest); err != nil {
			return err
		}
	}
	looped := len(r.Reach) > 0 && s.looped(r.Attrs)
	s.account(msg, r, looped)
	if looped { // CB-10; an earlier version that was not ours to refuse is gone all the same
		for i := range r.Reach {
			r.Unreach = append(r.Unreach, r.Reach[i].Key)
		}
		r.Reach, r.Attrs = r.Reach[:0], nil
	}
	if u := r.Take(s.p.addr); u != nil {
		s.batch = append(s.batch, u)
		s.batched += len(u.Reach) + len(u.Unreach)
	}
	if r.EndOfRIB {
		s.batch = append(s.batch, evpn.EndOfRIB{Peer: s.p.addr})
	}
	return nil
}

// account counts what an UPDATE brought, and logs what was wrong with it.
func (s *session) account(msg []byte, r *wire.Result, looped bool) {
	s.p.count(func(c *Counters) {
		c.RoutesReceived += uint64(len(r.Reach))
		c.RoutesWithdrawn += uint64(len(r.Unreach))
		c.DiscardedAttributes += uint64(r.Discarded)
		if r.Verdict.Class == wire.TreatAsWithdraw {
			c.TreatAsWithdraw++
		}
		if looped {
			c.Looped += uint64(len(r.Reach))
		}
		for _, k := range r.Skipped {
			if c.SkippedTypes == nil {
				c.SkippedTypes = make(map[evpn.RouteType]uint64)
			}
			c.SkippedTypes[k.Type] += uint64(k.Count)
		}
	})
	if r.Verdict.Class == wire.TreatAsWithdraw && s.p.mayLog() {
		s.log.WithFields(logrus.Fields{
			"reason": r.Verdict.Reason, "routes": fmt.Sprint(r.Unreach), "message": hex.EncodeToString(msg),
		}).Warn("malformed update: its routes count as withdrawn")
	}
}

// looped reports routes that have been through us: our AS in the path, or reflected back (CB-10). We are no reflector,
// so that our cluster id is our router id.
func (s *session) looped(a *evpn.Attrs) bool {
	id := s.p.sp.routerID
	if a.OriginatorID == id || a.HasAS(s.p.sp.asn) {
		return true
	}
	own := id.As4()
	for c := a.ClusterList; len(c) >= 4; c = c[4:] {
		if c[:4] == string(own[:]) {
			return true
		}
	}
	return false
}

// otherFamily deals with an UPDATE that has nothing of EVPN in it.
func (s *session) otherFamily(msg []byte) error {
	fs, whole := mpFamilies(msg[wire.HeaderLen:])
	if !whole {
		return &wire.ResetError{Code: wire.CodeUpdate, Subcode: wire.SubcodeAttributeList, Reason: "UPDATE with broken framing"}
	}
	if !s.neg.rtc || len(fs) == 0 {
		s.p.count(func(c *Counters) { c.Dropped++ })
		return nil
	}
	for _, f := range fs {
		if f != familyRTC {
			s.p.count(func(c *Counters) { c.Dropped++ })
			return nil
		}
	}
	s.legMu.Lock()
	s.members.update(msg)
	err := s.leg.write(msg)
	s.legMu.Unlock()
	if err != nil {
		return err
	}
	if isEndOfRIB(msg, familyRTC) {
		s.membershipsComplete()
	}
	return nil
}

// mpFamilies lists the families of the MP attributes in the body of an UPDATE, none when it has IPv4 unicast routes.
// whole is false when the lengths in it do not add up.
func mpFamilies(body []byte) (fs []family, whole bool) {
	withdrawn := int(binary.BigEndian.Uint16(body))
	if len(body) < 4+withdrawn {
		return nil, false
	}
	b := body[4+withdrawn:]
	n := int(binary.BigEndian.Uint16(body[2+withdrawn:]))
	if len(b) < n {
		return nil, false
	}
	plain := withdrawn > 0 || len(b) > n
	for b = b[:n]; len(b) > 0; {
		if len(b) < 2 {
			return nil, false
		}
		lengthOctets := 1
		if b[0]&0x10 != 0 { // extended length
			lengthOctets = 2
		}
		code, value, rest, ok := cutTLV(b[1:], lengthOctets)
		if !ok {
			return nil, false
		}
		if (code == 14 || code == 15) && len(value) >= 3 {
			fs = append(fs, familyAt(value, 2))
		}
		b = rest
	}
	if plain {
		return nil, true
	}
	return fs, true
}
