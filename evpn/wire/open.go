package wire

import (
	"bytes"
	"encoding/binary"
	"net/netip"
)

var marker = bytes.Repeat([]byte{0xff}, 16)

// AppendMessage appends a message: header and body.
func AppendMessage(dst []byte, kind MessageType, body []byte) []byte {
	at := len(dst)
	dst = append(appendHeader(dst, kind), body...)
	setLength(dst, at)
	return dst
}

func appendHeader(dst []byte, kind MessageType) []byte {
	return append(append(dst, marker...), 0, 0, byte(kind))
}

// setLength writes the length of the message that starts at the octet at and ends with b.
func setLength(b []byte, at int) { binary.BigEndian.PutUint16(b[at+16:], uint16(len(b)-at)) }

// AppendKeepalive appends a KEEPALIVE.
func AppendKeepalive(dst []byte) []byte { return AppendMessage(dst, MessageKeepalive, nil) }

// AppendNotification appends a NOTIFICATION.
func AppendNotification(dst []byte, code, subcode uint8, data []byte) []byte {
	return AppendMessage(dst, MessageNotification, append([]byte{code, subcode}, data...))
}

// Open is what a test peer or a generator says of itself.
type Open struct {
	ASN      uint32
	HoldTime uint16     // seconds; 0 or at least 3
	RouterID netip.Addr // IPv4
	More     []byte     // further capabilities, as AppendCapability makes them
}

// AppendOpen appends an OPEN that announces AFI 25, SAFI 70 and what o says (CB-01 to CB-03, CB-11). The capabilities
// together must not exceed 253 octets.
func AppendOpen(dst []byte, p Open, o Options) []byte {
	caps := AppendCapability(nil, 1, []byte{0, 25, 0, 70})
	if o.AS4 {
		caps = AppendCapability(caps, 65, binary.BigEndian.AppendUint32(nil, p.ASN))
	}
	if o.Extended {
		caps = AppendCapability(caps, 6, nil)
	}
	caps = append(caps, p.More...)
	body := binary.BigEndian.AppendUint16([]byte{4}, as2(p.ASN))
	body = binary.BigEndian.AppendUint16(body, p.HoldTime)
	body = append(body, p.RouterID.AsSlice()...)
	body = append(body, byte(2+len(caps)), 2, byte(len(caps)))
	return AppendMessage(dst, MessageOpen, append(body, caps...))
}

// AppendCapability appends a capability: code, length, value (RFC 5492 §4).
func AppendCapability(dst []byte, code uint8, value []byte) []byte {
	return append(append(dst, code, byte(len(value))), value...)
}
