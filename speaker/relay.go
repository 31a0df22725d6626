package speaker

import (
	"time"

	"github.com/evpnd/evpnd/evpn/wire"
)

// relayChunk is how much is collected for one write to the peer while more is at hand.
const relayChunk = 32 << 10

// relay passes GoBGP's messages to the peer until GoBGP closes the inner leg: unchanged, but for its OPEN and its
// End-of-RIB markers. After the session's last word it only reads on, which lets GoBGP end cleanly.
func (s *session) relay() {
	defer close(s.relayed)
	r := newMessageReader(s.leg, wire.Options{Extended: true})
	var out []byte
	opening, greeting := false, false // whether OPEN and KEEPALIVE are in out
	for {
		kind, msg, err := r.next()
		if err != nil {
			s.end(&ending{reason: "bgp engine closed the session"})
			return
		}
		s.relayAt.Store(time.Now().UnixNano())
		switch kind {
		case wire.MessageOpen:
			restart := !s.p.sp.released.Load()
			opening = true
			msg = ownOpen(msg, restart, s.cfg.GracefulRestart > 0, !s.p.sp.flushOnExit, s.cfg.HoldTime)
		case wire.MessageUpdate:
			for _, f := range []family{familyEVPN, familyRTC} {
				if isEndOfRIB(msg, f) && !s.passEoR(f) {
					msg = nil
					break
				}
			}
		case wire.MessageKeepalive:
			greeting = true
		case wire.MessageNotification:
			s.send(out)
			out = out[:0]
			n := parseNotification(msg)
			s.end(&ending{reason: "sent NOTIFICATION " + n.String(), sent: n})
			continue
		}
		out = append(out, msg...)
		if r.ready() && len(out) < relayChunk {
			continue
		}
		s.send(out)
		out = out[:0]
		if opening {
			closeOnce(s.opened)
		}
		if greeting { // GoBGP has accepted the peer's OPEN
			closeOnce(s.greeted)
		}
		opening, greeting = false, false
	}
}

// closeOnce closes a channel that only the calling goroutine closes.
func closeOnce(c chan struct{}) {
	select {
	case <-c:
	default:
		close(c)
	}
}
