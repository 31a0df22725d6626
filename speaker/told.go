package speaker

import (
	"encoding/binary"
	"iter"

	"github.com/evpnd/evpnd/evpn/wire"
)

// told is what a peer has been told by UPDATEs and not been told to forget: of each route a digest. It is what lets
// another GoBGP take over a living session: what that one says is compared, and only differences go out.
type told struct {
	routes    map[toldKey]toldRoute
	comparing bool
	round     uint32
	lost      bool // something went out that could not be read: the rest is no help any more

	room update // what is being read, and
	name []byte // of the route that is: room that is used again and again
}

// toldKey is a family and the NLRI of a route with all octets zero that do not name it: good for a withdraw.
type toldKey struct {
	family family
	nlri   string
}

type toldRoute struct {
	digest uint64 // of all attributes and the whole NLRI
	round  uint32 // in which it was announced last
}

// update takes note of an UPDATE that is about to go out and returns it, less the withdraws of what the peer does not
// have: GoBGP sends one when it has had no time to send the announcement (v4.8.0). While comparing it returns the part
// that is news to the peer, which may be nothing. What it does not return of msg is lost.
func (t *told) update(msg []byte) []byte {
	u := &t.room
	if t.lost || !u.split(msg) {
		t.lost = true
		return msg
	}
	if t.routes == nil {
		t.routes = make(map[toldKey]toldRoute)
	}
	attrs := digest(fnvOffset, u.rest)
	whole := true
	for i := range u.parts {
		p := &u.parts[i]
		base, kept := digest(attrs, p.start), p.nlri[:0]
		for n := range p.routes() {
			if t.news(p, n, base) {
				kept = append(kept, n...) // to where it is, or before
			}
		}
		whole = whole && len(kept) == len(p.nlri)
		p.nlri = kept
	}
	if whole {
		return msg
	}
	return u.message()
}

// news notes one route of an UPDATE, and reports whether it is to go out. base is the digest of what comes before it.
func (t *told) news(p *mpPart, nlri []byte, base uint64) bool {
	t.name = appendRoute(t.name[:0], p.family, nlri)
	had, known := t.routes[toldKey{p.family, string(t.name)}] // needs no string of its own
	if p.code == codeMPUnreach {
		if known {
			delete(t.routes, toldKey{p.family, string(t.name)})
		}
		return known
	}
	now := toldRoute{digest: digest(base, nlri), round: t.round}
	if known && had == now {
		return !t.comparing
	}
	t.routes[toldKey{p.family, string(t.name)}] = now
	return !t.comparing || !known || had.digest != now.digest
}

// compare starts comparing.
func (t *told) compare() {
	t.comparing = true
	t.round++
}

// leftovers ends comparing and returns the UPDATEs that withdraw what has not been announced since it began.
func (t *told) leftovers() []byte {
	t.comparing = false
	var out []byte
	for key, r := range t.routes {
		if r.round != t.round {
			delete(t.routes, key)
			out = append(out, withdrawal(key)...)
		}
	}
	return out
}

// withdrawal is an UPDATE that withdraws one route.
func withdrawal(k toldKey) []byte {
	start := binary.BigEndian.AppendUint16(nil, uint16(k.family>>16))
	u := update{parts: []mpPart{{
		code: codeMPUnreach, flags: 0x80, family: k.family, start: append(start, byte(k.family)), nlri: []byte(k.nlri),
	}}}
	return u.message()
}

// appendRoute appends the NLRI with what does not name the route zeroed or cut off: ESI, labels and gateway (RFC 7432
// §7.2, RFC 9136 §3.1). Whatever it does not know names the route as a whole.
func appendRoute(dst []byte, f family, nlri []byte) []byte {
	const esi, tag = 2 + 8, 2 + 8 + 10
	at := len(dst)
	dst = append(dst, nlri...)
	if f != familyEVPN || len(nlri) < tag+5 {
		return dst
	}
	b := dst[at:]
	switch b[0] {
	case 1: // label
		if len(b) == 2+25 {
			clear(b[24:])
		}
	case 2: // ESI, labels
		const ipLen = tag + 4 + 7
		if len(b) < ipLen+1 {
			break
		}
		label := ipLen + 1 + int(b[ipLen])/8
		if len(b) < label+3 {
			break
		}
		clear(b[esi:tag])
		clear(b[label : label+3])
		b = b[:label+3]
		b[1] = byte(len(b) - 2)
	case 5: // ESI, gateway, label
		address := (len(b) - tag - 5 - 3) / 2
		clear(b[esi:tag])
		clear(b[tag+5+address:])
	}
	return dst[:at+len(b)]
}

// FNV-1a, 64 bits: the same in every process.
const (
	fnvOffset uint64 = 14695981039346656037
	fnvPrime  uint64 = 1099511628211
)

func digest(h uint64, b []byte) uint64 {
	for _, c := range b {
		h = (h ^ uint64(c)) * fnvPrime
	}
	return h
}

const (
	codeMPReach   = 14
	codeMPUnreach = 15
)

// update is an UPDATE taken apart. It has no routes outside of MP attributes.
type update struct {
	parts []mpPart
	rest  []byte // all other attributes
}

// mpPart is MP_REACH_NLRI or MP_UNREACH_NLRI (RFC 4760).
type mpPart struct {
	code, flags byte
	family      family
	start       []byte // of the value, before the NLRI
	nlri        []byte // one after the other
}

// routes gives each NLRI.
func (p *mpPart) routes() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for b := p.nlri; len(b) > 0; {
			n := nlriLen(p.family, b)
			if !yield(b[:n:n]) {
				return
			}
			b = b[n:]
		}
	}
}

// split takes an UPDATE of our families apart; false: it is something else. What u held before is overwritten.
func (u *update) split(msg []byte) bool {
	u.parts, u.rest = u.parts[:0], u.rest[:0]
	body := msg[wire.HeaderLen:]
	if len(body) < 4 || binary.BigEndian.Uint16(body) != 0 || int(binary.BigEndian.Uint16(body[2:])) != len(body)-4 {
		return false
	}
	for b := body[4:]; len(b) > 0; {
		if len(b) < 2 {
			return false
		}
		lengthOctets := 1
		if b[0]&0x10 != 0 {
			lengthOctets = 2
		}
		code, value, next, ok := cutTLV(b[1:], lengthOctets)
		if !ok {
			return false
		}
		if code == codeMPReach || code == codeMPUnreach {
			p, ok := splitMP(code, b[0]&^0x10, value)
			if !ok {
				return false
			}
			u.parts = append(u.parts, p)
		} else {
			u.rest = append(u.rest, b[:len(b)-len(next)]...)
		}
		b = next
	}
	return true
}

func splitMP(code, flags byte, value []byte) (p mpPart, ok bool) {
	start := 3
	if len(value) < start {
		return p, false
	}
	if code == codeMPReach {
		if len(value) < 5 {
			return p, false
		}
		start = 5 + int(value[3])
	}
	if len(value) < start {
		return p, false
	}
	p = mpPart{code: code, flags: flags, family: familyAt(value, 2), start: value[:start], nlri: value[start:]}
	for b := p.nlri; len(b) > 0; {
		n := nlriLen(p.family, b)
		if n == 0 || n > len(b) {
			return p, false
		}
		b = b[n:]
	}
	return p, true
}

// nlriLen is the length of the first NLRI; 0: unknown.
func nlriLen(f family, b []byte) int {
	switch {
	case f == familyEVPN && len(b) >= 2:
		return 2 + int(b[1])
	case f == familyRTC:
		return 1 + (int(b[0])+7)/8
	default:
		return 0
	}
}

// message puts the UPDATE together; nil when no route is left in it.
func (u *update) message() []byte {
	body := []byte{0, 0, 0, 0}
	any := false
	for _, p := range u.parts {
		if len(p.nlri) == 0 {
			continue
		}
		any = true
		body = append(body, p.flags|0x10, p.code)
		body = append(binary.BigEndian.AppendUint16(body, uint16(len(p.start)+len(p.nlri))), p.start...)
		body = append(body, p.nlri...)
	}
	if !any {
		return nil
	}
	body = append(body, u.rest...)
	binary.BigEndian.PutUint16(body[2:], uint16(len(body)-4))
	return wire.AppendMessage(nil, wire.MessageUpdate, body)
}
