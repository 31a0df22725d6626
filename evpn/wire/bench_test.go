package wire

import (
	"testing"

	"github.com/evpnd/evpnd/evpn"
)

// benchBody is the body of an UPDATE of n MAC routes with the attributes that FRR sends, and mobility seq.
func benchBody(tb testing.TB, n int, seq uint32) []byte {
	tb.Helper()
	a := &evpn.Attrs{NextHop: vtep, LocalPref: 100}
	ecs := evpn.AppendEncapVXLAN(evpn.AppendRT(nil, evpn.NewRT(64512, 10100)))
	if seq > 0 {
		ecs = evpn.AppendMobility(ecs, seq, false)
	}
	a.SetExtComms(string(ecs))
	b, err := AppendUpdate(nil, a, testRoutes(n), ibgp)
	if err != nil {
		tb.Fatal(err)
	}
	if _, length, err := Header(b, ibgp); err != nil || length != len(b) {
		tb.Fatalf("%d octets in more than one message: %v", len(b), err)
	}
	return b[HeaderLen:]
}

// TestAllocations: an UPDATE with known attributes allocates the slice that it hands on, and nothing if it is given
// one; the one before it need not have had the same attributes.
func TestAllocations(t *testing.T) {
	body, other := benchBody(t, 100, 0), benchBody(t, 100, 1)
	d := NewDecoder(ibgp)
	var r Result
	update := func(b []byte) {
		if err := d.Update(b, &r); err != nil || len(r.Reach) != 100 {
			t.Fatal(err, len(r.Reach))
		}
	}
	if got := testing.AllocsPerRun(100, func() { update(body); update(other) }); got != 0 {
		t.Errorf("slices given: %v allocations in two UPDATEs, want none", got)
	}
	got := testing.AllocsPerRun(100, func() { r.Reach = nil; update(body); r.Reach = nil; update(other) })
	if got != 2 {
		t.Errorf("slices handed on: %v allocations in two UPDATEs, want 2", got)
	}
}

func benchmarkUpdate(b *testing.B, routes int, bodies ...[]byte) {
	d := NewDecoder(ibgp)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		r := Result{} // as in the speaker, which hands the slices on
		body := bodies[i%len(bodies)]
		i++
		if !IsEVPN(body) {
			b.Fatal("not EVPN")
		}
		if err := d.Update(body, &r); err != nil || len(r.Reach) != routes {
			b.Fatal(err, len(r.Reach))
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*routes), "ns/route")
}

func BenchmarkUpdate(b *testing.B) { benchmarkUpdate(b, 100, benchBody(b, 100, 0)) }

func BenchmarkUpdateOneNLRI(b *testing.B) { benchmarkUpdate(b, 1, benchBody(b, 1, 0)) }

// BenchmarkUpdateOtherAttrs: attributes that were seen before, but not in the UPDATE before.
func BenchmarkUpdateOtherAttrs(b *testing.B) {
	benchmarkUpdate(b, 1, benchBody(b, 1, 1), benchBody(b, 1, 2))
}

// BenchmarkUpdateNewAttrs: attributes never seen, the worst case: every MAC with a mobility number of its own.
func BenchmarkUpdateNewAttrs(b *testing.B) {
	bodies := make([][]byte, 4*maxInterned)
	for i := range bodies {
		bodies[i] = benchBody(b, 1, uint32(i+1))
	}
	benchmarkUpdate(b, 1, bodies...)
}

func BenchmarkAppendUpdate(b *testing.B) {
	a := &evpn.Attrs{NextHop: vtep, LocalPref: 100}
	a.SetExtComms(string(evpn.AppendEncapVXLAN(evpn.AppendRT(nil, evpn.NewRT(64512, 10100)))))
	routes := testRoutes(10000)
	var dst []byte
	b.ReportAllocs()
	for b.Loop() {
		var err error
		if dst, err = AppendUpdate(dst[:0], a, routes, ibgp); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(routes)), "ns/route")
}
