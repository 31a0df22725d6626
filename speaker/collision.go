package speaker

import (
	"time"

	"github.com/evpnd/evpnd/evpn/wire"
)

// probeTime is how long an established session has to show that its peer still knows it. If the peer's host rebooted,
// its kernel answers our KEEPALIVE with RST.
const probeTime = 500 * time.Millisecond

// admit decides which of two connections of one peer goes on, with the peer's OPEN on s at hand but not yet passed to
// GoBGP (RFC 4271 §6.8). When it returns true there is no other, and the core has heard the end of the one before.
func (p *peer) admit(s *session) bool {
	p.deciding.Lock()
	defer p.deciding.Unlock()
	for {
		p.mu.Lock()
		other := p.current
		if p.closed {
			p.mu.Unlock()
			return false
		}
		if other == nil {
			p.current, s.phase = s, openConfirm
			p.mu.Unlock()
			return true
		}
		up := other.phase == established
		p.mu.Unlock()
		if up && !p.supersedes(s, other) || !up && !p.outranks(s, other) {
			return false
		}
		select {
		case <-other.done:
		case <-s.ending:
			return false
		}
	}
}

// outranks decides between two connections that are not established: the one dialed by the side with the higher
// identifier stays (RFC 6286 §2.3: higher AS if equal), of two in the same direction the newer one.
func (p *peer) outranks(s, other *session) bool {
	if s.dialed != other.dialed && s.dialed != ranksHigher(p.sp, &s.open) {
		return false
	}
	other.end(&ending{reason: "lost connection collision", sent: cease(ceaseCollision, "")})
	return true
}

// ranksHigher reports whether our identifier is above the peer's.
func ranksHigher(sp *Speaker, o *open) bool {
	if c := sp.routerID.Compare(o.routerID); c != 0 {
		return c > 0
	}
	return sp.asn > o.asn
}

// supersedes decides between a new connection and an established session. A peer that restarts gracefully and connects
// again replaces its session without a word, and keeps its routes (RFC 4724 §5, GR-07). Otherwise the old one stays if
// it is alive; that also heals the case where one side has given up in OpenConfirm what the other calls established.
func (p *peer) supersedes(s, other *session) bool {
	if !s.dialed && other.neg.retain > 0 {
		other.end(&ending{reason: "peer has connected again"})
		return true
	}
	other.send(wire.AppendKeepalive(nil))
	probe := time.NewTimer(probeTime)
	defer probe.Stop()
	select {
	case <-other.ending:
		return true
	case <-s.ending:
		return false
	case <-probe.C:
		return false
	}
}
