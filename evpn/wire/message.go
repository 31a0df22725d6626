package wire

import (
	"encoding/binary"
	"fmt"
)

// HeaderLen is the length of the header of every BGP message: marker, length, type (RFC 4271 §4.1).
const HeaderLen = 19

// MessageType is the type octet of a BGP message.
type MessageType uint8

// Message types.
const (
	MessageOpen         MessageType = 1
	MessageUpdate       MessageType = 2
	MessageNotification MessageType = 3
	MessageKeepalive    MessageType = 4
	MessageRouteRefresh MessageType = 5
)

// Options are what the two sides of a session agreed on, as far as it shows in the octets.
type Options struct {
	AS4      bool // both announced 4-octet AS numbers (RFC 6793): AS_PATH has them
	IBGP     bool // the peer is of our AS: LOCAL_PREF is mandatory, and reflection attributes count
	Extended bool // both announced extended messages (RFC 8654): up to 65535 octets instead of 4096
}

func (o Options) maxLen() int {
	if o.Extended {
		return 65535
	}
	return 4096
}

// Header reads the message header at the start of b, which must hold HeaderLen octets or more, and returns the type and
// the length of the whole message, header included. The error is a *ResetError: marker (1/1), length out of range or
// impossible for the type (1/2), unknown type (1/3). CB-08.
func Header(b []byte, o Options) (MessageType, int, error) {
	if len(b) < HeaderLen {
		return 0, 0, headerError(SubcodeBadLength, nil, fmt.Sprintf("header of %d octets", len(b)))
	}
	for _, m := range b[:16] {
		if m != 0xff {
			return 0, 0, headerError(SubcodeNotSynchronized, nil, "marker is not all ones")
		}
	}
	length, kind := int(binary.BigEndian.Uint16(b[16:])), MessageType(b[18])
	shortest, longest := HeaderLen, o.maxLen()
	switch kind {
	case MessageOpen:
		shortest, longest = HeaderLen+10, 4096 // never extended: RFC 8654 §4
	case MessageUpdate:
		shortest = HeaderLen + 4
	case MessageNotification:
		shortest = HeaderLen + 2
	case MessageKeepalive:
		longest = HeaderLen
	case MessageRouteRefresh:
		shortest = HeaderLen + 4
	default:
		if length >= HeaderLen && length <= longest {
			return 0, 0, headerError(SubcodeBadType, b[18:19], fmt.Sprintf("message type %d", kind))
		}
	}
	if length < shortest || length > longest {
		return 0, 0, headerError(SubcodeBadLength, b[16:18], fmt.Sprintf("length %d of message type %d", length, kind))
	}
	return kind, length, nil
}

func headerError(subcode uint8, data []byte, reason string) *ResetError {
	return &ResetError{Code: CodeHeader, Subcode: subcode, Data: append([]byte(nil), data...), Reason: reason}
}

// IsEVPN tells cheaply whether the body of an UPDATE (what follows its header) has a part of AFI 25, SAFI 70 anywhere
// in its attributes, well formed or not, as far as that can be seen: such an UPDATE is for a Decoder. One whose framing
// is broken before any such part shows is for whoever speaks the other families.
func IsEVPN(body []byte) bool {
	if len(body) < 2 {
		return false
	}
	withdrawn := int(binary.BigEndian.Uint16(body))
	if len(body) < 4+withdrawn {
		return false
	}
	b := body[4+withdrawn:]
	b = b[:min(len(b), int(binary.BigEndian.Uint16(body[2+withdrawn:])))]
	for len(b) > 0 {
		a, rest, ok := nextAttr(b)
		if a.isMP() && a.isEVPN() {
			return true
		}
		if !ok {
			return false
		}
		b = rest
	}
	return false
}

// AppendWithoutEVPN appends the body of an UPDATE less its EVPN parts: what a mixed UPDATE (Result.Mixed) says about
// other families. The body must be one that Decoder.Update took without error.
func AppendWithoutEVPN(dst, body []byte) []byte {
	withdrawn := 2 + int(binary.BigEndian.Uint16(body))
	b := body[withdrawn+2:]
	n := int(binary.BigEndian.Uint16(body[withdrawn:]))
	b, nlri := b[:n], b[n:]
	dst = append(dst, body[:withdrawn]...)
	at := len(dst)
	dst = append(dst, 0, 0)
	for len(b) > 0 {
		a, rest, ok := nextAttr(b)
		if !ok { // let whoever reads the rest see the same fault
			dst = append(dst, b...)
			break
		}
		if !a.isMP() || !a.isEVPN() {
			dst = append(dst, a.raw...)
		}
		b = rest
	}
	binary.BigEndian.PutUint16(dst[at:], uint16(len(dst)-at-2))
	return append(dst, nlri...)
}
