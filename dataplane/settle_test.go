package dataplane

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/evpnd/evpnd/evpn"
)

// vxlanLink, bridgeLink and portLink are links as RTM_NEWLINK tells of them.
func vxlanLink(index int, vni evpn.VNI, master int) linkMessage {
	return linkMessage{hasKind: true, hasPort: master != 0, link: link{
		index: index, name: fmt.Sprintf("vx%d", index), kind: "vxlan", up: true, mtu: 1450, master: master,
		vxlan: vxlanDevice{vni: vni, local: netip.MustParseAddr(vtepSelf), port: vxlanPort},
	}}
}

func bridgeLink(index int) linkMessage {
	return linkMessage{hasKind: true, link: link{
		index: index, name: fmt.Sprintf("br%d", index), kind: "bridge", up: true, mtu: 1450, ageing: 5 * time.Minute,
	}}
}

func portLink(index, master int) linkMessage {
	return linkMessage{hasKind: true, link: link{index: index, name: fmt.Sprintf("p%d", index), kind: "veth", up: true, mtu: 1500, master: master}}
}

// arrive tells of a VNI as an orchestrator makes it: each link is told of twice, and settled in between.
func arrive(t *topology, n int) {
	vni := evpn.VNI(n + 1)
	for _, m := range []linkMessage{bridgeLink(3*n + 2), vxlanLink(3*n+3, vni, 0), vxlanLink(3*n+3, vni, 3*n+2), portLink(3*n+4, 0), portLink(3*n+4, 3*n+2)} {
		t.update(m)
		t.settle()
	}
}

// TestGrowthOfLinks: what it takes to add a VNI does not grow with those that are there. Allocations are counted, and time is
// compared with a wide margin: what looks at all links takes sixteen times as long.
func TestGrowthOfLinks(t *testing.T) {
	const added, few, many = 64, 250, 4000
	cost := func(there int) (octets uint64, took time.Duration) {
		topo := newTopology(options(), newPending())
		topo.update(portLink(1, 0)) // the way out
		for n := range there {
			arrive(topo, n)
		}
		took = time.Hour
		for round := range 5 {
			runtime.GC()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			begun := time.Now()
			for n := range added {
				arrive(topo, there+round*added+n)
			}
			took = min(took, time.Since(begun))
			runtime.ReadMemStats(&after)
			octets = (after.TotalAlloc - before.TotalAlloc) / added
		}
		if len(topo.all()) != there+5*added {
			t.Fatalf("%d attachments", len(topo.all()))
		}
		return octets, took
	}
	octets, took := cost(few)
	moreOctets, longer := cost(many)
	t.Logf("a VNI takes %d octets and %s beside %d, %d octets and %s beside %d", octets, took/added, few, moreOctets, longer/added, many)
	if moreOctets > 2*octets {
		t.Errorf("beside %d VNIs one takes %d octets, beside %d it takes %d", few, octets, many, moreOctets)
	}
	if longer > 5*took {
		t.Errorf("beside %d VNIs one takes %s, beside %d it takes %s", few, took/added, many, longer/added)
	}
}

// BenchmarkVNIArrives beside a thousand others.
func BenchmarkVNIArrives(b *testing.B) {
	topo := newTopology(options(), newPending())
	for n := range 1000 {
		arrive(topo, n)
	}
	b.ReportAllocs()
	for n := 1000; b.Loop(); n++ {
		arrive(topo, n)
	}
}

// TestSettlingStepByStepIsSettlingAtOnce: whatever order links come, change and go in, what is known of them in the end is what
// a look at all of them says.
func TestSettlingStepByStepIsSettlingAtOnce(t *testing.T) {
	yes := true
	for seed := range uint64(500) {
		r := rand.New(rand.NewPCG(seed, 1))
		opt := options()
		opt.Snoop, opt.Suppress = true, &yes
		opt.VNIs = map[evpn.VNI]VNIOptions{3: {Off: true}, 4: {Create: true}, 5: {Create: true}}
		step := newTopology(opt, newPending())
		for range 60 {
			if r.IntN(20) == 0 {
				opt.VNIs = map[evpn.VNI]VNIOptions{evpn.VNI(1 + r.IntN(5)): {Off: true}, evpn.VNI(1 + r.IntN(5)): {Create: true}}
				step.configure(opt)
			}
			step.update(randomLink(r))
			if r.IntN(4) == 0 {
				step.remove(linkMessage{link: link{index: 1 + r.IntN(12)}})
			}
			if r.IntN(2) == 0 {
				step.settle()
			}
		}
		step.settle()
		once := newTopology(opt, newPending())
		for _, index := range slices.Sorted(maps.Keys(step.links)) {
			once.update(linkMessage{link: *step.links[index], hasKind: true, hasPort: true})
		}
		once.settle()
		for what, same := range map[string]bool{
			"attachments":  reflect.DeepEqual(plain(step.byVNI), plain(once.byVNI)),
			"devices":      reflect.DeepEqual(plain(step.byDevice), plain(once.byDevice)),
			"bridges":      reflect.DeepEqual(keys(step.byBridge), keys(once.byBridge)),
			"environment":  step.env == once.env,
			"access ports": maps.Equal(step.access, once.access),
			"unmade":       maps.Equal(step.unmade, once.unmade),
			"ports":        reflect.DeepEqual(step.ports, once.ports),
			"VXLANs":       reflect.DeepEqual(step.vxlans, once.vxlans),
			"carriers":     reflect.DeepEqual(step.carriers, once.carriers),
		} {
			if !same {
				t.Fatalf("seed %d: %s differ:\n%v\n%v\n%+v\n%+v", seed, what, plain(step.byVNI), plain(once.byVNI), step.carriers, once.carriers)
			}
		}
	}
}

// randomLink is one of a few links, with one of a few masters and settings.
func randomLink(r *rand.Rand) linkMessage {
	index, master := 1+r.IntN(12), []int{0, 1, 2, 3}[r.IntN(4)]
	var m linkMessage
	switch {
	case index <= 3:
		m = bridgeLink(index)
	case index <= 9:
		m = vxlanLink(index, evpn.VNI(1+(index+r.IntN(2))%4), master)
		m.vxlan.manyVNIs, m.vxlan.bound = r.IntN(12) == 0, []int{0, 10}[r.IntN(2)]
	default:
		m = portLink(index, master)
		m.name += []string{"", "x"}[r.IntN(2)]
	}
	m.up, m.mtu = r.IntN(8) > 0, 1400+100*r.IntN(3)
	return m
}

// plain is what the core is told of attachments.
func plain[K comparable](ats map[K]*attached) map[K]string {
	out := map[K]string{}
	for k, at := range ats {
		out[k] = fmt.Sprintf("%+v %v", at.Attachment, at.mend)
	}
	return out
}

func keys(m map[int][]*attached) map[int][]evpn.VNI {
	out := map[int][]evpn.VNI{}
	for b, ats := range m {
		for _, at := range ats {
			out[b] = append(out[b], at.VNI)
		}
	}
	return out
}
