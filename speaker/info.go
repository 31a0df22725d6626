package speaker

import (
	"cmp"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/evpnd/evpnd/evpn"
)

// State is the state of a peer's session (RFC 4271 §8.2.2); of several connections the most advanced one counts.
type State string

// States.
const (
	StateIdle        State = "idle"    // waiting to dial again
	StateConnect     State = "connect" // dialing
	StateActive      State = "active"  // passive, waiting for the peer to connect
	StateOpenSent    State = "opensent"
	StateOpenConfirm State = "openconfirm"
	StateEstablished State = "established"
)

// SessionInfo is a copy of what is known about a peer and its session. What an OPEN says is zero before there was one.
type SessionInfo struct {
	Peer         netip.Addr // what evpn.InterfacePeer made for an unnumbered peer
	Remote       netip.Addr // the address that is dialled or has the session; the zero Addr while no router is known on the link
	Link         LinkInfo
	ASN          uint32 // the peer's; as configured before the first OPEN
	Description  string
	Dynamic      bool
	State        State
	Since        time.Time // of State
	RouterID     netip.Addr
	LocalAddress netip.Addr
	HoldTime     time.Duration // negotiated; 0 never expires
	EVPN         bool          // negotiated
	RTC          bool          // negotiated
	AS4          bool          // negotiated
	Extended     bool          // extended messages negotiated
	Refresh      bool          // the peer takes ROUTE-REFRESH
	Enhanced     bool          // with a begin and an end (RFC 7313)
	Held         time.Time     // no session before: the peer had too many routes; zero: there may be one
	Graceful     GracefulInfo
	Counters     Counters
	LastError    string    // why the last session, or attempt at one, ended
	LastErrorAt  time.Time //
	LastCause    error     // of LastError, where it is known by more than words: of the connect, or ErrPeerAS
	LastSent     string    // last NOTIFICATION sent, with its text
	LastReceived string    // last NOTIFICATION received, with its text
}

// LinkInfo is what is known of the link to an unnumbered peer; zero of others.
type LinkInfo struct {
	Why     string       // it cannot be used; "" when it can
	Routers []netip.Addr // that are there: one is expected
	Silent  bool         // it has not advertised itself in its time
}

// GracefulInfo is the peer's graceful restart capability. Negotiated says that both sides have it for EVPN.
type GracefulInfo struct {
	Negotiated   bool
	RestartTime  time.Duration
	Restarting   bool          // R: the peer has just restarted
	Forwarding   bool          // F: it kept its forwarding state for EVPN
	Notification bool          // N on both sides (RFC 8538)
	LongLived    time.Duration // how long the peer's routes are kept beyond RestartTime (RFC 9494); 0: not negotiated
}

// Counters count over all sessions of a peer since it was configured.
type Counters struct {
	MessagesIn, MessagesOut uint64
	UpdatesIn, UpdatesOut   uint64
	RoutesReceived          uint64 // announcements of EVPN routes
	RoutesWithdrawn         uint64 // withdrawals, malformed announcements among them
	TreatAsWithdraw         uint64 // UPDATEs
	DiscardedAttributes     uint64
	SkippedTypes            map[evpn.RouteType]uint64 // routes of types that are not decoded
	Looped                  uint64                    // routes that came from us (CB-10)
	Dropped                 uint64                    // messages for nobody: other families, refresh for them
	Established             uint64                    // sessions that came up
	Flaps                   uint64                    // sessions that were up and ended
}

// ErrPeerAS says that one side has another AS than the other expects.
var ErrPeerAS = errors.New("bad peer AS")

// info copies everything out.
func (p *peer) info() SessionInfo {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := SessionInfo{
		Peer: p.addr, ASN: p.cfg.ASN, Description: p.cfg.Description, Dynamic: p.dynamic.IsValid(),
		State: p.state(), Counters: p.counters,
		LastError: p.lastError, LastErrorAt: p.lastErrorAt, LastCause: p.lastCause,
		LastSent: p.lastSent, LastReceived: p.lastReceived, Remote: p.target,
		Link: LinkInfo{Why: p.link.Why, Routers: slices.Clone(p.link.Routers), Silent: p.link.Silent},
	}
	i.Counters.SkippedTypes = maps.Clone(p.counters.SkippedTypes)
	i.Since = p.since
	if !p.target.IsValid() {
		i.LastError, i.LastErrorAt = cmp.Or(p.link.Why, "no router is known on the link: none has advertised itself"), p.since
	}
	if time.Now().Before(p.held) {
		i.Held = p.held
	}
	if s := p.current; s != nil {
		i.Remote = s.remote
		i.ASN, i.RouterID = s.open.asn, s.open.routerID
		if a, ok := netip.AddrFromSlice(localIP(s)); ok {
			i.LocalAddress = a.Unmap()
		}
		gr := s.open.graceful()
		i.HoldTime, i.EVPN, i.RTC, i.AS4 = s.neg.hold, s.neg.evpn, s.neg.rtc, s.neg.as4
		i.Extended, i.Refresh, i.Enhanced = s.neg.extended, s.neg.refresh, s.neg.enhanced
		i.Graceful = GracefulInfo{
			Negotiated: s.neg.stays && gr.EVPN, RestartTime: gr.RestartTime, Restarting: gr.Restarting,
			Forwarding: gr.Forwarding, Notification: s.neg.notification,
			LongLived: s.neg.longLived,
		}
	}
	return i
}
