package speaker

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"time"
)

// Capability codes (RFC 5492 registry) that the session looks at.
const (
	capMultiprotocol   = 1  // RFC 4760
	capRefresh         = 2  // RFC 2918
	capExtendedMessage = 6  // RFC 8654
	capGracefulRestart = 64 // RFC 4724, RFC 8538
	capAS4             = 65 // RFC 6793
	capEnhancedRefresh = 70 // RFC 7313
	capLongLived       = 71 // RFC 9494
)

// Bits of the graceful restart capability: R and N in the first octet, F in the flags of a family.
const (
	grRestarting   = 0x80
	grNotification = 0x40
	grForwarding   = 0x80
)

// family is AFI and SAFI in one number.
type family uint32

const (
	familyEVPN family = 25<<16 | 70
	familyRTC  family = 1<<16 | 132
)

func familyAt(b []byte, safi int) family {
	return family(binary.BigEndian.Uint16(b))<<16 | family(b[safi])
}

// capability is one capability of an OPEN.
type capability struct {
	code  byte
	value []byte
}

// open is what an OPEN message says (RFC 4271 §4.2).
type open struct {
	asn      uint32 // of the 4-octet capability where present
	hold     time.Duration
	routerID netip.Addr
	caps     []capability
}

// Offsets in an OPEN message, header included.
const (
	openHold   = 22
	openOptLen = 28
	openOpts   = 29
)

var errOpen = errors.New("malformed OPEN")

// parseOpen reads an OPEN of either form of optional parameters (RFC 4271, RFC 9072). Everything about values it does
// not know is left to GoBGP, which sees the message too.
func parseOpen(msg []byte) (open, error) {
	if len(msg) < openOpts {
		return open{}, errOpen
	}
	o := open{
		asn:      uint32(binary.BigEndian.Uint16(msg[20:])),
		hold:     time.Duration(binary.BigEndian.Uint16(msg[openHold:])) * time.Second,
		routerID: netip.AddrFrom4([4]byte(msg[24:28])),
	}
	opts, lengthOctets := msg[openOpts:], 1
	if isExtendedOpen(msg) {
		if int(binary.BigEndian.Uint16(opts[1:])) != len(opts)-3 {
			return open{}, errOpen
		}
		opts, lengthOctets = opts[3:], 2
	} else if int(msg[openOptLen]) != len(opts) {
		return open{}, errOpen
	}
	for len(opts) > 0 {
		kind, value, rest, ok := cutTLV(opts, lengthOctets)
		if !ok {
			return open{}, errOpen
		}
		opts = rest
		if kind != 2 {
			continue
		}
		for len(value) > 0 {
			code, v, more, ok := cutTLV(value, 1)
			if !ok {
				return open{}, errOpen
			}
			o.caps = append(o.caps, capability{code, v})
			value = more
		}
	}
	if v := o.value(capAS4); len(v) == 4 {
		o.asn = binary.BigEndian.Uint32(v)
	}
	return o, nil
}

// isExtendedOpen reports the form of optional parameters that RFC 9072 has added.
func isExtendedOpen(msg []byte) bool {
	return msg[openOptLen] == 255 && len(msg) >= openOpts+3 && msg[openOpts] == 255
}

// cutTLV splits off one type, length, value with a length field of one or two octets.
func cutTLV(b []byte, lengthOctets int) (kind byte, value, rest []byte, ok bool) {
	head := 1 + lengthOctets
	if len(b) < head {
		return 0, nil, nil, false
	}
	n := int(b[1])
	if lengthOctets == 2 {
		n = int(binary.BigEndian.Uint16(b[1:]))
	}
	if len(b) < head+n {
		return 0, nil, nil, false
	}
	return b[0], b[head : head+n], b[head+n:], true
}

// value returns the value of the last capability of a code, as GoBGP counts too; nil when it is absent.
func (o *open) value(code byte) []byte {
	for _, c := range slices.Backward(o.caps) {
		if c.code == code {
			return c.value
		}
	}
	return nil
}

func (o *open) has(code byte) bool {
	return slices.ContainsFunc(o.caps, func(c capability) bool { return c.code == code })
}

// families lists the families of the multiprotocol capabilities; none at all means IPv4 unicast (RFC 4760 §8).
func (o *open) families() []family {
	var fs []family
	for _, c := range o.caps {
		if c.code == capMultiprotocol && len(c.value) == 4 {
			fs = append(fs, familyAt(c.value, 3))
		}
	}
	return fs
}

// graceful is what a graceful restart capability says about EVPN.
type graceful struct {
	Present      bool          // the capability was there
	RestartTime  time.Duration // 0 to 4095 s
	Restarting   bool          // R
	Notification bool          // N (RFC 8538)
	EVPN         bool          // EVPN is among the families
	Forwarding   bool          // F for EVPN
}

func (o *open) graceful() graceful {
	v := o.value(capGracefulRestart)
	if len(v) < 2 {
		return graceful{}
	}
	g := graceful{
		Present:      true,
		RestartTime:  time.Duration(binary.BigEndian.Uint16(v)&0x0fff) * time.Second,
		Restarting:   v[0]&grRestarting != 0,
		Notification: v[0]&grNotification != 0,
	}
	for t := v[2:]; len(t) >= 4; t = t[4:] {
		if familyAt(t, 2) == familyEVPN {
			g.EVPN, g.Forwarding = true, t[3]&grForwarding != 0
		}
	}
	return g
}

// longLived is what a long-lived graceful restart capability says about EVPN.
type longLived struct {
	StaleTime  time.Duration // 0 to 16777215 s
	Forwarding bool          // F
}

func (o *open) longLived() longLived {
	var l longLived
	for t := o.value(capLongLived); len(t) >= 7; t = t[7:] {
		if familyAt(t, 2) == familyEVPN {
			seconds := uint32(t[4])<<16 | uint32(t[5])<<8 | uint32(t[6])
			l = longLived{time.Duration(seconds) * time.Second, t[3]&grForwarding != 0}
		}
	}
	return l
}

// manner is what our OPEN says that GoBGP's does not.
type manner struct {
	hold      time.Duration
	graceful  bool          // send the graceful restart capability
	longLived time.Duration // long-lived stale time; 0: do not send the capability
	restarted bool          // R
	preserved bool          // F: forwarding goes on, or went on, without us
}

// ownOpen turns GoBGP's OPEN into ours. GoBGP cannot say what the capability has to say here: R only until our routes
// are announced again, F also on a reconnect without a restart (else the peer drops at our return what it had kept), no
// capability at all although GoBGP needs it on for its End-of-RIB, and hold time 0, which its API reads as "default".
func ownOpen(msg []byte, m manner) []byte {
	o, err := parseOpen(msg)
	if err != nil {
		return msg // GoBGP's own; the peer will say what it thinks of it
	}
	out := slices.Clone(msg[:openOpts])
	binary.BigEndian.PutUint16(out[openHold:], uint16(m.hold/time.Second))
	caps := make([]byte, 0, len(msg))
	for _, c := range o.caps {
		if c.code == capGracefulRestart {
			if !m.graceful || len(c.value) < 2 {
				continue
			}
			c.value = m.gracefulValue(c.value)
		}
		caps = append(append(caps, c.code, byte(len(c.value))), c.value...)
	}
	caps = append(caps, capEnhancedRefresh, 0)
	if m.graceful && m.longLived > 0 {
		caps = append(caps, capLongLived, 7, 0, 25, 70, m.forwarding())
		seconds := uint32(m.longLived / time.Second)
		caps = append(caps, byte(seconds>>16), byte(seconds>>8), byte(seconds))
	}
	out = append(out, 2, byte(len(caps)))
	return sealOpen(append(out, caps...))
}

// gracefulValue is the value of GoBGP's graceful restart capability with our bits in it.
func (m manner) gracefulValue(engines []byte) []byte {
	value := slices.Clone(engines)
	value[0] &^= grRestarting
	if m.restarted {
		value[0] |= grRestarting
	}
	for t := value[2:]; len(t) >= 4; t = t[4:] {
		t[3] &^= grForwarding
		if familyAt(t, 2) == familyEVPN {
			t[3] |= m.forwarding()
		}
	}
	return value
}

func (m manner) forwarding() byte {
	if m.preserved {
		return grForwarding
	}
	return 0
}

// engineOpen is the peer's OPEN as GoBGP shall see it: without a hold time, which the session keeps itself since GoBGP
// does not see all messages (an illegal one is left for GoBGP to refuse), and with the capabilities that make it mark
// the end of each dump of its table with End-of-RIB (eor.go). marked is false when they do not fit in.
func engineOpen(msg []byte, o *open) (out []byte, marked bool) {
	out = o.plain(msg)
	if o.hold == 0 || o.hold >= 3*time.Second {
		binary.BigEndian.PutUint16(out[openHold:], 0)
	}
	var caps []byte
	if !o.has(capRefresh) {
		caps = append(caps, capRefresh, 0)
	}
	if !o.graceful().Present {
		caps = append(caps, capGracefulRestart, 2, 0, 0)
	}
	if len(caps) == 0 {
		return out, true
	}
	if len(out)-openOpts+2+len(caps) > 254 {
		return out, false
	}
	return sealOpen(append(append(out, 2, byte(len(caps))), caps...)), true
}

// plain is a copy of an OPEN that says o in the form of RFC 4271: GoBGP does not know the other one (v4.8.0). What has no
// room in it stays as it is, and GoBGP refuses it.
func (o *open) plain(msg []byte) []byte {
	var caps []byte
	for _, c := range o.caps {
		caps = append(append(caps, c.code, byte(len(c.value))), c.value...)
	}
	if !isExtendedOpen(msg) || len(caps) == 0 || len(caps) > 253 {
		return slices.Clone(msg)
	}
	return sealOpen(append(append(slices.Clone(msg[:openOpts]), 2, byte(len(caps))), caps...))
}

// sealOpen writes the two length fields of an OPEN.
func sealOpen(msg []byte) []byte {
	binary.BigEndian.PutUint16(msg[16:], uint16(len(msg)))
	msg[openOptLen] = byte(len(msg) - openOpts)
	return msg
}
