package wire

import (
	"encoding/binary"
	"slices"
	"testing"

	"github.com/evpnd/evpnd/evpn"
)

// checkConsistent checks what holds of every result.
func checkConsistent(t testing.TB, r *Result, err error) {
	t.Helper()
	if (err != nil) != (r.Verdict.Class == SessionReset) || (r.Verdict.Reason == "") != (r.Verdict.Class == Accept) {
		t.Fatalf("verdict %+v with error %v", r.Verdict, err)
	}
	if (len(r.Reach) > 0) != (r.Attrs != nil) || len(r.Reach) > 0 && r.Verdict.Class >= TreatAsWithdraw {
		t.Fatalf("%d routes with attributes %v and verdict %+v", len(r.Reach), r.Attrs, r.Verdict)
	}
	if r.EndOfRIB && (len(r.Reach)+len(r.Unreach)+len(r.Skipped) > 0 || r.Verdict.Class != Accept) {
		t.Fatalf("End-of-RIB with %+v", r)
	}
	if err != nil && (len(r.Unreach) > 0 || len(r.Skipped) > 0) {
		t.Fatalf("contents after a reset: %+v", r)
	}
	keys := slices.Clone(r.Unreach)
	for _, route := range r.Reach {
		keys = append(keys, route.Key)
		if route.Label1|route.Label2 > uint32(evpn.MaxVNI) {
			t.Fatalf("labels of %+v", route)
		}
	}
	for _, k := range keys {
		if !decoded(k.Type) || k.Type >= evpn.TypeIMET && k.Type != evpn.TypeMACIP && !k.IP.IsValid() {
			t.Fatalf("key %+v", k)
		}
	}
	if a := r.Attrs; a != nil {
		if !a.NextHop.IsValid() || len(a.ExtComms)%8 != 0 || len(a.Communities)%4 != 0 || len(a.ClusterList)%4 != 0 {
			t.Fatalf("attributes %+v", *a)
		}
	}
}

// checkStable encodes what was decoded and decodes it again: it must say the same.
func checkStable(t testing.TB, r *Result, o Options) {
	t.Helper()
	var out []byte
	var err error
	if len(r.Unreach) > 0 {
		if out, err = AppendWithdraw(out, r.Unreach, o); err != nil {
			t.Fatal(err)
		}
	}
	if len(r.Reach) > 0 {
		if out, err = AppendUpdate(out, r.Attrs, r.Reach, o); err != nil {
			if len(r.Attrs.ASPath)+len(r.Attrs.ExtComms)+len(r.Attrs.Communities)+len(r.Attrs.ClusterList) < 3800 {
				t.Fatal(err)
			}
			return
		}
	}
	d := NewDecoder(o)
	var reach []evpn.Route
	var unreach []evpn.RouteKey
	for len(out) > 0 {
		kind, n, err := Header(out, o)
		if err != nil || kind != MessageUpdate || !IsEVPN(out[HeaderLen:n]) {
			t.Fatalf("type %d, length %d, error %v in %x", kind, n, err, out)
		}
		var again Result
		if err := d.Update(out[HeaderLen:n], &again); err != nil || (again.Verdict != Verdict{}) {
			t.Fatalf("error %v, verdict %+v of %x", err, again.Verdict, out[:n])
		}
		if again.Attrs != nil && *again.Attrs != *r.Attrs {
			t.Fatalf("attributes %+v\nwant       %+v", *again.Attrs, *r.Attrs)
		}
		reach, unreach = append(reach, again.Reach...), append(unreach, again.Unreach...)
		out = out[n:]
	}
	if !slices.Equal(reach, r.Reach) || !slices.Equal(unreach, r.Unreach) {
		t.Fatalf("%+v %v\nwant %+v %v", reach, unreach, r.Reach, r.Unreach)
	}
}

// checkUpdateBody runs one input through a decoder that is fresh and one that has seen it, which must say the same.
func checkUpdateBody(t testing.TB, b []byte, o Options) {
	t.Helper()
	d := NewDecoder(o)
	var r, again Result
	err := d.Update(b, &r)
	checkConsistent(t, &r, err)
	if againErr := d.Update(b, &again); (againErr == nil) != (err == nil) || again.Verdict != r.Verdict ||
		again.Discarded != r.Discarded || again.Attrs != r.Attrs || !slices.Equal(again.Reach, r.Reach) ||
		!slices.Equal(again.Unreach, r.Unreach) {
		t.Fatalf("the second time: %+v %v\nthe first time: %+v %v", again, againErr, r, err)
	}
	evpnPart := IsEVPN(b)
	if !evpnPart && (len(r.Reach)+len(r.Unreach)+len(r.Skipped) > 0 || r.EndOfRIB) {
		t.Fatalf("not EVPN, but %+v", r)
	}
	if err != nil {
		return
	}
	checkStable(t, &r, o)
	if rest := AppendWithoutEVPN(nil, b); IsEVPN(rest) || !evpnPart && !slices.Equal(rest, b) {
		t.Fatalf("rest of %x is %x", b, rest)
	}
}

func optionsOf(bits byte) Options {
	return Options{AS4: bits&1 == 0, IBGP: bits&2 == 0, Extended: bits&4 != 0}
}

// FuzzUpdate: no input panics; results are consistent; a decoder that remembers attributes says the same as a fresh
// one; what is decoded can be encoded and decoded again; the rest of a mixed UPDATE has no EVPN in it.
func FuzzUpdate(f *testing.F) {
	for _, v := range loadVectors(f) {
		if b, ok := v.body(f); ok {
			f.Add(b, byte(0))
			f.Add(b, byte(3))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, bits byte) {
		checkUpdateBody(t, b, optionsOf(bits))
	})
}

// FuzzHeader: no input panics; a header that is taken gives a length that a message can have.
func FuzzHeader(f *testing.F) {
	for _, v := range loadVectors(f) {
		f.Add(v.octets(f), byte(0))
	}
	f.Fuzz(func(t *testing.T, b []byte, bits byte) {
		o := optionsOf(bits)
		kind, n, err := Header(b, o)
		if err != nil {
			return
		}
		if n < HeaderLen || n > o.maxLen() || n != int(binary.BigEndian.Uint16(b[16:])) || kind < 1 || kind > 5 {
			t.Fatalf("type %d, length %d of %x", kind, n, b[:HeaderLen])
		}
	})
}

// TestDamage: every truncation of every vector, and seven changes of every octet: ER-19.
func TestDamage(t *testing.T) {
	for _, v := range loadVectors(t) {
		b, ok := v.body(t)
		if !ok {
			continue
		}
		for i := range b {
			checkUpdateBody(t, b[:i], v.options())
			was := b[i]
			for _, now := range []byte{0, 0xff, was + 1, was - 1, was ^ 0x80, was ^ 0x40, was ^ 0x10} {
				b[i] = now
				checkUpdateBody(t, b, v.options())
			}
			b[i] = was
		}
	}
}
