package speaker

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/evpnd/evpnd/evpn"
	"github.com/evpnd/evpnd/evpn/wire"
)

// Subtypes of ROUTE-REFRESH (RFC 7313 §3.2).
const (
	refreshRequest = 0
	refreshBegin   = 1
	refreshEnd     = 2
)

// answer is how far the answer to a peer's ROUTE-REFRESH for EVPN is that wants a begin and an end. Guarded by
// session.legMu.
type answer struct {
	wanted bool // GoBGP's next dump is one
	begun  bool // the one under way is
}

// refresh deals with a ROUTE-REFRESH: it asks for our routes, or says where the peer's begin and end (RR-01 to RR-04).
func (s *session) refresh(msg []byte) error {
	subtype := msg[wire.HeaderLen+2]
	if len(msg) != wire.HeaderLen+4 {
		if s.neg.enhanced && (subtype == refreshBegin || subtype == refreshEnd) {
			return &ending{
				reason: fmt.Sprintf("ROUTE-REFRESH of %d octets", len(msg)),
				sent:   &notification{codeRefresh, 1, bytes.Clone(msg)},
			}
		}
		return &wire.ResetError{
			Code: wire.CodeHeader, Subcode: wire.SubcodeBadLength, Data: bytes.Clone(msg[16:18]),
			Reason: fmt.Sprintf("ROUTE-REFRESH of %d octets", len(msg)),
		}
	}
	f := familyAt(msg[wire.HeaderLen:], 3)
	known := f == familyEVPN && s.neg.evpn
	switch {
	case subtype == refreshRequest && known:
		return s.askForPeer()
	case subtype == refreshRequest && f == familyRTC && s.neg.rtc:
		return s.ask(f)
	case subtype == refreshBegin && known && s.neg.enhanced:
		s.batch = append(s.batch, evpn.RefreshBegin{Peer: s.p.addr})
	case subtype == refreshEnd && known && s.neg.enhanced:
		s.batch = append(s.batch, evpn.RefreshEnd{Peer: s.p.addr})
	default:
		s.p.count(func(c *Counters) { c.Dropped++ })
		s.log.WithField("subtype", subtype).Debug("route refresh for nobody ignored")
	}
	return nil
}

// askForPeer has GoBGP send our EVPN routes once more. The answer has a begin and an end if the peer knows what they are
// and has got our End-of-RIB; before that it is part of what End-of-RIB ends (RFC 7313 §4.1).
func (s *session) askForPeer() error {
	s.eor.mu.Lock()
	sent := s.eor.evpn.sent
	s.eor.mu.Unlock()
	s.legMu.Lock()
	defer s.legMu.Unlock()
	s.answer.wanted = s.answer.wanted || sent && s.neg.enhanced && s.marked
	return s.askNow(familyEVPN)
}

// beginAnswer is called before GoBGP is asked for a dump. s.legMu is held.
func (s *session) beginAnswer(f family) {
	if f == familyEVPN && s.answer.wanted {
		s.answer = answer{begun: true}
		s.send(refreshMarker(f, refreshBegin))
	}
}

// endAnswer is what the peer gets in place of the End-of-RIB of a dump; nil: nothing.
func (s *session) endAnswer(f family) []byte {
	s.legMu.Lock()
	defer s.legMu.Unlock()
	if f != familyEVPN || !s.answer.begun {
		return nil
	}
	s.answer.begun = false
	return refreshMarker(f, refreshEnd)
}

// refreshMessage asks for all routes of a family.
func refreshMessage(f family) []byte { return refreshMarker(f, refreshRequest) }

func refreshMarker(f family, subtype byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, uint16(f>>16))
	return wire.AppendMessage(nil, wire.MessageRouteRefresh, append(b, subtype, byte(f)))
}
