package speaker

import (
	"encoding/hex"
	"fmt"
	"unicode/utf8"

	"github.com/evpnd/evpnd/evpn/wire"
)

// Error codes and Cease subcodes of a NOTIFICATION (RFC 4271 §4.5, RFC 4486, RFC 6608, RFC 8538).
const (
	codeOpen    = 2
	codeHold    = 4
	codeFSM     = 5
	codeCease   = 6
	codeRefresh = 7

	ceaseMaxRoutes    = 1
	ceaseShutdown     = 2
	ceaseDeconfigured = 3
	ceaseReset        = 4
	ceaseConfigChange = 6
	ceaseCollision    = 7
	ceaseResources    = 8
	ceaseHardReset    = 9
)

// notification is a NOTIFICATION message.
type notification struct {
	code, subcode uint8
	data          []byte
}

// isBadPeerAS reports an OPEN refused for its AS (RFC 4271 §6.2).
func (n *notification) isBadPeerAS() bool { return n != nil && n.code == codeOpen && n.subcode == 2 }

func parseNotification(msg []byte) *notification {
	b := msg[wire.HeaderLen:]
	return &notification{b[0], b[1], append([]byte(nil), b[2:]...)}
}

// cease makes a Cease, with a text for the operator on the other side where RFC 9003 allows one.
func cease(subcode uint8, text string) *notification {
	n := &notification{code: codeCease, subcode: subcode}
	if (subcode == ceaseShutdown || subcode == ceaseReset) && text != "" {
		for len(text) > 255 {
			_, size := utf8.DecodeLastRuneInString(text)
			text = text[:len(text)-size]
		}
		n.data = append([]byte{byte(len(text))}, text...)
	}
	return n
}

// hardened is n for a peer that, like us, keeps routes over a NOTIFICATION (RFC 8538 §3): where it must not, the Cease
// is wrapped in a Hard Reset.
func (n *notification) hardened() *notification {
	if n.code != codeCease {
		return n
	}
	switch n.subcode {
	case ceaseMaxRoutes, ceaseShutdown, ceaseDeconfigured:
		return &notification{codeCease, ceaseHardReset, append([]byte{n.code, n.subcode}, n.data...)}
	default:
		return n
	}
}

// maxNotification is the most octets of data that a NOTIFICATION has for every peer, with extended messages or without.
const maxNotification = 4096 - wire.HeaderLen - 2

func (n *notification) message() []byte {
	return wire.AppendNotification(nil, n.code, n.subcode, n.data[:min(len(n.data), maxNotification)])
}

func (n *notification) hardReset() bool { return n.code == codeCease && n.subcode == ceaseHardReset }

// unwrapped is what a Hard Reset says, and n itself otherwise.
func (n *notification) unwrapped() *notification {
	if n == nil || !n.hardReset() || len(n.data) < 2 {
		return n
	}
	return &notification{n.data[0], n.data[1], n.data[2:]}
}

// fault reports a NOTIFICATION that the next session is likely to run into again.
func (n *notification) fault() bool {
	n = n.unwrapped()
	return n != nil && n.code != codeHold && (n.code != codeCease || n.subcode == ceaseMaxRoutes || n.subcode == ceaseResources)
}

// mattersEarly reports a NOTIFICATION before a session was up that somebody has to do something about.
func (n *notification) mattersEarly() bool {
	n = n.unwrapped()
	return n != nil && (n.code != codeCease || n.subcode != ceaseCollision && n.subcode != ceaseShutdown)
}

var codeNames = map[uint8]string{
	1: "message header error", 2: "OPEN error", 3: "UPDATE error", 4: "hold timer expired", 5: "state machine error",
	6: "cease", 7: "ROUTE-REFRESH error",
}

var subcodeNames = map[[2]uint8]string{
	{1, 1}: "not synchronized", {1, 2}: "bad length", {1, 3}: "bad type",
	{2, 1}: "unsupported version", {2, 2}: "bad peer AS", {2, 3}: "bad BGP identifier",
	{2, 4}: "unsupported parameter", {2, 6}: "unacceptable hold time", {2, 7}: "unsupported capability",
	{3, 1}: "malformed attribute list", {3, 2}: "unrecognized well-known attribute", {3, 3}: "missing well-known attribute",
	{3, 4}: "attribute flags", {3, 5}: "attribute length", {3, 6}: "invalid ORIGIN", {3, 8}: "invalid NEXT_HOP",
	{3, 9}: "optional attribute", {3, 10}: "invalid network field", {3, 11}: "malformed AS_PATH",
	{5, 1}: "in OpenSent", {5, 2}: "in OpenConfirm", {5, 3}: "in Established",
	{7, 1}: "invalid message length",
	{6, 1}: "maximum number of routes reached", {6, 2}: "administrative shutdown", {6, 3}: "peer deconfigured",
	{6, 4}: "administrative reset", {6, 5}: "connection rejected", {6, 6}: "other configuration change",
	{6, 7}: "connection collision", {6, 8}: "out of resources", {6, 9}: "hard reset", {6, 10}: "BFD down",
}

// String prints code, subcode, their names and the text or octets that came along: 6/2 cease, administrative shutdown:
// "upgrade".
func (n *notification) String() string {
	s := fmt.Sprintf("%d/%d", n.code, n.subcode)
	if name, ok := codeNames[n.code]; ok {
		s += " " + name
	}
	if name, ok := subcodeNames[[2]uint8{n.code, n.subcode}]; ok {
		s += ", " + name
	}
	switch d := n.data; {
	case len(d) == 0:
	case n.hardReset() && len(d) >= 2:
		s += " (" + n.unwrapped().String() + ")"
	case n.code == codeCease && (n.subcode == ceaseShutdown || n.subcode == ceaseReset) && int(d[0]) < len(d):
		s += fmt.Sprintf(": %q", d[1:1+int(d[0])])
	default:
		s += ": " + hex.EncodeToString(d[:min(len(d), 32)])
	}
	return s
}
