// Package wire turns the octets of BGP UPDATEs that carry EVPN routes into the plain values of package evpn, and back.
//
// It is strict: what RFC 7606 and the EVPN RFCs call malformed gets the reaction they ask for, as a Class, and nothing
// else. It is pure: no I/O, goroutine, clock, lock or logger. A Decoder belongs to one session and to one goroutine.
//
// What needs configuration or other routes is not decided here: whether a route target is ours, whether the next hop
// is our own address, whether a VNI fits. A route that decodes is well formed, no more.
//
// Reading order: verdict.go (the reactions), message.go (framing, and which UPDATEs are ours), update.go (one UPDATE),
// attrs.go and tunnel.go (its attributes), nlri.go (its routes), encode.go and open.go (the way back, for tests, labs and
// traffic generators).
package wire
