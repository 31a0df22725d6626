package wire

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/evpnd/evpnd/evpn"
)

// Bounds of a Decoder's memory of attributes: 4096 sets of at most 1 KiB.
const (
	maxInterned    = 4096
	maxInternedLen = 1024
)

// Decoder decodes the EVPN UPDATEs of one session. It remembers attributes: routes whose attributes came in the same
// octets share one *evpn.Attrs, also across UPDATEs, which costs no allocation. Not safe for concurrent use.
type Decoder struct {
	opts     Options
	key      []byte               // octets of the attributes being decoded: see attributes
	lastKey  []byte               // those of the UPDATE before
	last     *interned            // and what they mean
	interned map[string]*interned // cleared when it is full: the next UPDATEs fill it again
}

// interned is what the octets of a set of attributes mean. Only sets that can stand with routes are kept.
type interned struct {
	attrs     *evpn.Attrs
	verdict   Verdict // Accept or AttributeDiscard
	discarded int
}

// NewDecoder makes the decoder of one session.
func NewDecoder(o Options) *Decoder {
	return &Decoder{opts: o, interned: make(map[string]*interned)}
}

// Result is what one UPDATE says. Decoder.Update overwrites it, and writes into the memory of Reach, Unreach and
// Skipped where that is large enough. Who hands Reach or Unreach on must take them out of the Result first, as Take
// does; with nil slices Update allocates each once, at its exact size. Attrs is never written to again.
type Result struct {
	// Unreach is to be applied before Reach: a route that stands in both is announced (RFC 4271 §4.3).
	Reach   []evpn.Route
	Unreach []evpn.RouteKey
	Attrs   *evpn.Attrs // of Reach; nil when Reach is empty

	EndOfRIB  bool      // for AFI 25, SAFI 70 (GR-04)
	Mixed     bool      // other families have parts in this UPDATE: AppendWithoutEVPN
	Skipped   []Skipped // NLRI of types that are not decoded (ER-01)
	Discarded int       // attributes dropped: repeated, or of no meaning from this peer
	Verdict   Verdict
}

// Skipped counts the NLRI of one route type that were stepped over.
type Skipped struct {
	Type  evpn.RouteType
	Count int
}

// Take returns what the core needs to know of r, nil when that is nothing, and gives the slices away with it.
func (r *Result) Take(peer netip.Addr) *evpn.Update {
	if len(r.Reach) == 0 && len(r.Unreach) == 0 {
		return nil
	}
	u := &evpn.Update{Peer: peer, Attrs: r.Attrs, Reach: r.Reach, Unreach: r.Unreach}
	r.Reach, r.Unreach = nil, nil
	return u
}

// Update decodes the body of an UPDATE (what follows its header) into r. The error is a *ResetError; r then says
// nothing but its Verdict. body is only read, and not kept.
func (d *Decoder) Update(body []byte, r *Result) error {
	*r = Result{Reach: r.Reach[:0], Unreach: r.Unreach[:0], Skipped: r.Skipped[:0]}
	if err := d.update(body, r); err != nil {
		*r = Result{
			Reach: r.Reach[:0], Unreach: r.Unreach[:0], Skipped: r.Skipped[:0],
			Verdict: Verdict{SessionReset, err.Reason},
		}
		return err
	}
	return nil
}

func (d *Decoder) update(body []byte, r *Result) *ResetError {
	withdrawn, attrs, nlri, err := split(body)
	if err != nil {
		return err
	}
	p, err := d.parts(attrs, r)
	if err != nil {
		return err
	}
	r.Mixed = len(withdrawn) > 0 || len(nlri) > 0 || p.other
	if err := r.unreach(p.unreach); err != nil {
		return err
	}
	if err := r.reach(p.reach); err != nil {
		return err
	}
	if len(d.key) > 0 || p.reach.present() {
		if err := d.attributes(p.nextHop, r); err != nil {
			return err
		}
	}
	r.EndOfRIB = p.unreach.present() && len(p.unreach.nlri) == 0 && !p.reach.present() && len(d.key) == 0 &&
		!r.Mixed && r.Verdict.Class == Accept
	r.settle()
	return nil
}

// settle makes the contents agree with the verdict.
func (r *Result) settle() {
	if r.Verdict.Class < TreatAsWithdraw {
		checkPrefixes(r)
	}
	if r.Verdict.Class == TreatAsWithdraw {
		r.Unreach = slices.Grow(r.Unreach, len(r.Reach))
		for i := range r.Reach {
			r.Unreach = append(r.Unreach, r.Reach[i].Key)
		}
		r.Reach = r.Reach[:0]
	}
	if len(r.Reach) == 0 {
		r.Attrs = nil
	}
}

// split cuts the body of an UPDATE into its three fields (RFC 4271 §4.3).
func split(body []byte) (withdrawn, attrs, nlri []byte, err *ResetError) {
	withdrawn, rest, ok := cut(body)
	if !ok {
		return nil, nil, nil, reset(SubcodeAttributeList, nil, "withdrawn routes exceed the message")
	}
	attrs, nlri, ok = cut(rest)
	if !ok {
		return nil, nil, nil, reset(SubcodeAttributeList, nil, "path attributes exceed the message")
	}
	return withdrawn, attrs, nlri, nil
}

// cut splits off a field that a 2-octet length precedes.
func cut(b []byte) (field, rest []byte, ok bool) {
	if len(b) < 2 {
		return nil, nil, false
	}
	n := int(binary.BigEndian.Uint16(b))
	if len(b)-2 < n {
		return nil, nil, false
	}
	return b[2 : 2+n], b[2+n:], true
}

// mp is an MP_REACH_NLRI or MP_UNREACH_NLRI attribute of AFI 25, SAFI 70.
type mp struct {
	raw  []byte // the whole attribute; nil when the UPDATE has none
	nlri []byte
}

func (m mp) present() bool { return m.raw != nil }

// parts are what an UPDATE consists of beside its ordinary attributes, which are in Decoder.key.
type parts struct {
	reach, unreach mp
	nextHop        []byte
	other          bool // an MP attribute of another family is there
}

// parts finds the MP attributes, wherever they stand (ER-03), and collects the other ones in d.key. An attribute that
// ends beyond the section is treated as withdraw if routes were found before it (RFC 7606 §4, ER-16), and resets the
// session if it may itself hold routes, or none were found.
func (d *Decoder) parts(b []byte, r *Result) (p parts, err *ResetError) {
	d.key = d.key[:0]
	var seenReach, seenUnreach bool
	for len(b) > 0 {
		a, rest, ok := nextAttr(b)
		if !ok && a.isMP() {
			return p, reset(SubcodeOptionalAttribute, b, fmt.Sprintf("attribute %d exceeds the attribute section", a.code))
		}
		if !ok {
			if !p.reach.present() && !p.unreach.present() {
				return p, reset(SubcodeAttributeList, nil, "attribute section is broken before any route")
			}
			r.Verdict.strongest(Verdict{TreatAsWithdraw, "last attribute exceeds the attribute section"})
			return p, nil
		}
		b = rest
		switch a.code {
		case codeMPReach:
			if seenReach {
				return p, reset(SubcodeAttributeList, nil, "MP_REACH_NLRI twice")
			}
			seenReach = true
			err = p.addReach(a)
		case codeMPUnreach:
			if seenUnreach {
				return p, reset(SubcodeAttributeList, nil, "MP_UNREACH_NLRI twice")
			}
			seenUnreach = true
			err = p.addUnreach(a)
		default:
			d.key = append(d.key, a.raw...)
		}
		if err != nil {
			return p, err
		}
	}
	return p, nil
}

// addReach takes an MP_REACH_NLRI apart: AFI, SAFI, next hop with its length, a reserved octet, NLRI (RFC 4760 §3).
func (p *parts) addReach(a attr) *ResetError {
	if len(a.value) < 5 {
		return reset(SubcodeOptionalAttribute, a.raw, "MP_REACH_NLRI shorter than 5 octets")
	}
	if !a.isEVPN() {
		p.other = true
		return nil
	}
	if a.flags&flagsMask != flagOptional {
		return reset(SubcodeOptionalAttribute, a.raw, "flags of MP_REACH_NLRI")
	}
	n := int(a.value[3])
	if n != 4 && n != 16 {
		return reset(SubcodeOptionalAttribute, a.raw, fmt.Sprintf("next hop of %d octets", n))
	}
	if len(a.value) < 5+n {
		return reset(SubcodeOptionalAttribute, a.raw, "next hop exceeds MP_REACH_NLRI")
	}
	p.nextHop = a.value[4 : 4+n]
	p.reach = mp{raw: a.raw, nlri: a.value[5+n:]}
	return nil
}

// addUnreach takes an MP_UNREACH_NLRI apart: AFI, SAFI, NLRI (RFC 4760 §4).
func (p *parts) addUnreach(a attr) *ResetError {
	if len(a.value) < 3 {
		return reset(SubcodeOptionalAttribute, a.raw, "MP_UNREACH_NLRI shorter than 3 octets")
	}
	if !a.isEVPN() {
		p.other = true
		return nil
	}
	if a.flags&flagsMask != flagOptional {
		return reset(SubcodeOptionalAttribute, a.raw, "flags of MP_UNREACH_NLRI")
	}
	p.unreach = mp{raw: a.raw, nlri: a.value[3:]}
	return nil
}

// attributes fills r.Attrs from the octets in d.key, which it completes with the next hop: together they are what the
// attributes are remembered by. Without a next hop there are no routes to announce, and only faults matter.
func (d *Decoder) attributes(nextHop []byte, r *Result) *ResetError {
	own := len(d.key)
	d.key = append(append(d.key, nextHop...), byte(len(nextHop)))
	defer func() { d.key = d.key[:own] }()
	if d.last == nil || !bytes.Equal(d.key, d.lastKey) {
		in, ok := d.interned[string(d.key)]
		if !ok {
			var err *ResetError
			if in, err = parseAttrs(d.key[:own], nextHop, d.opts); err != nil {
				return err
			}
		}
		if in.verdict.Class >= TreatAsWithdraw {
			r.Verdict.strongest(in.verdict)
			r.Discarded = in.discarded
			return nil
		}
		if !ok {
			d.remember(in)
		}
		d.last, d.lastKey = in, append(d.lastKey[:0], d.key...)
	}
	r.Attrs, r.Discarded = d.last.attrs, d.last.discarded
	r.Verdict.strongest(d.last.verdict)
	return nil
}

func (d *Decoder) remember(in *interned) {
	if len(d.key) > maxInternedLen {
		return
	}
	if len(d.interned) >= maxInterned {
		clear(d.interned)
	}
	d.interned[string(d.key)] = in
}
