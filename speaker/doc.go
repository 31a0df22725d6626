// Package speaker holds the BGP sessions. It owns each peer's TCP connection and stands between it and an embedded GoBGP:
//
//	peer ◄── outer leg ──► session ◄── inner leg (127/8) ──► GoBGP neighbour of this connection
//
// UPDATEs of the EVPN family never reach GoBGP: package wire decodes them into facts, which go to the sink in batches.
// GoBGP keeps what it is good at (OPEN, capabilities, hold timer, RT constraint, route refresh, packing and sending our
// routes), and its messages go to the peer unchanged, but for the graceful restart bits of the OPEN and End-of-RIB,
// which only we can know the right moment for. This is the only package that imports GoBGP.
//
// Reading order: speaker.go (the methods of Speaker), configure.go, accept.go, peer.go (dialing, and what ends),
// session.go (one connection), handshake.go, collision.go, receive.go and relay.go (its two directions), open.go, eor.go,
// engine.go (GoBGP), leg.go, originate.go (our routes); replace.go, move.go and told.go (another GoBGP behind living sessions).
package speaker
