package evpn

import (
	"encoding/binary"
	"flag"
	"net/netip"
	"runtime"
	"testing"
	"time"
)

var scaleRoutes = flag.Int("scale.routes", 100_000, "routes of TestGrowth at its largest; a million take some 500 MB and 10 s")

// The network of TestGrowth, for any number of routes.
const (
	scaleVNIs        = 4000
	scaleVTEPs       = 2000
	scaleVTEPsPerVNI = 8
	scaleBlock       = 100 // routes in an UPDATE
)

func scaleVTEP(vni, k int) netip.Addr {
	n := (vni*scaleVTEPsPerVNI + k) % scaleVTEPs
	return netip.AddrFrom4([4]byte{10, 254, byte(n >> 8), byte(n)})
}

func scaleAttrs(vni, k int) *Attrs {
	a := &Attrs{NextHop: scaleVTEP(vni, k), LocalPref: 100}
	a.SetExtComms(string(AppendEncapVXLAN(AppendRT(nil, NewRT(65000, uint32(1+vni))))))
	return a
}

// scaleCore is a core with all VNIs, and every VTEP of each in its flood list.
func scaleCore() *Core {
	c := New(worldConfig())
	for vni := range scaleVNIs {
		c.Handle(attachment(VNI(1+vni)), epoch)
	}
	c.Handle(PeerUp{Peer: worldPeers[0]}, epoch)
	c.Handle(Synced{}, epoch)
	for vni := range scaleVNIs {
		for k := range scaleVTEPsPerVNI {
			a := scaleAttrs(vni, k)
			a.PMSI = PMSI{Present: true, Tunnel: TunnelIngressReplication, Label: uint32(1 + vni), Endpoint: a.NextHop}
			key := RouteKey{Type: TypeIMET, RD: NewRD(a.NextHop, uint16(1+vni)), IP: a.NextHop}
			feed(c, []*Update{{Peer: worldPeers[0], Attrs: a, Reach: []Route{{Key: key}}}})
		}
	}
	return c
}

// scaleUpdate is block i of the routes: 100 MAC/IP of one VTEP in one VNI.
func scaleUpdate(i int, attrs []*Attrs) *Update {
	vni, k := i%scaleVNIs, i/scaleVNIs%scaleVTEPsPerVNI
	at := vni*scaleVTEPsPerVNI + k
	if attrs[at] == nil {
		attrs[at] = scaleAttrs(vni, k)
	}
	u := &Update{Peer: worldPeers[0], Attrs: attrs[at], Reach: make([]Route, scaleBlock)}
	for j := range u.Reach {
		var id [4]byte
		binary.BigEndian.PutUint32(id[:], uint32(i*scaleBlock+j))
		u.Reach[j] = Route{Label1: uint32(1 + vni), Key: RouteKey{
			Type: TypeMACIP, RD: NewRD(attrs[at].NextHop, uint16(1+vni)),
			MAC: MAC{2, 0, id[0], id[1], id[2], id[3]}, IP: netip.AddrFrom4([4]byte{172, 16 + id[1], id[2], id[3]}),
		}}
	}
	return u
}

// grown is what a number of routes takes of a core, each.
type grown struct{ bytes, allocs float64 }

func growBy(t *testing.T, routes int) grown {
	c := scaleCore()
	attrs := make([]*Attrs, scaleVNIs*scaleVTEPsPerVNI)
	live, before := liveHeap(), mallocs()
	ops, start := 0, time.Now()
	for i := range routes / scaleBlock {
		ops += feed(c, []*Update{scaleUpdate(i, attrs)})
	}
	took := time.Since(start)
	n := float64(routes)
	if most := 2*routes + scaleVTEPs; ops < 2*routes || ops > most {
		t.Errorf("%d kernel ops, want %d and one for each VTEP", ops, 2*routes)
	}
	g := grown{bytes: float64(liveHeap()-live) / n, allocs: float64(mallocs()-before) / n}
	runtime.KeepAlive(c)
	t.Logf("%7d MAC/IP routes in %d VNIs from %d VTEPs: %.2f µs, %.0f octets, %.2f allocations each",
		routes, scaleVNIs, scaleVTEPs, took.Seconds()*1e6/n, g.bytes, g.allocs)
	return g
}

func mallocs() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.Mallocs
}

// TestGrowth: what a route takes of memory and allocations does not depend on how many there are.
func TestGrowth(t *testing.T) {
	first := growBy(t, 10_000)
	for routes := 100_000; routes <= *scaleRoutes; routes *= 10 {
		g := growBy(t, routes)
		const most = 2 // tables grow by doubling
		if g.bytes > most*first.bytes {
			t.Errorf("%d routes: %.0f octets each, %.0f with 10,000 routes", routes, g.bytes, first.bytes)
		}
		if g.allocs > most*first.allocs {
			t.Errorf("%d routes: %.2f allocations each, %.2f with 10,000 routes", routes, g.allocs, first.allocs)
		}
	}
}

// TestGrowthOfVNIs: what it takes to put a VNI into service does not depend on how many there are.
func TestGrowthOfVNIs(t *testing.T) {
	attach := func(vnis int) (allocs float64) {
		c := New(worldConfig())
		before, start := mallocs(), time.Now()
		for vni := range vnis {
			c.Handle(attachment(VNI(1+vni)), epoch)
		}
		allocs = float64(mallocs()-before) / float64(vnis)
		t.Logf("%4d VNIs: %.1f µs, %.1f allocations each", vnis, time.Since(start).Seconds()*1e6/float64(vnis), allocs)
		return allocs
	}
	if few, many := attach(scaleVNIs/10), attach(scaleVNIs); many > 1.5*few {
		t.Errorf("%.1f allocations for each of %d VNIs, %.1f for each of a tenth as many", many, scaleVNIs, few)
	}
}
