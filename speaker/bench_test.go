package speaker

import (
	"net/netip"
	"testing"
	"time"

	"github.com/evpnd/evpnd/evpn"
	"github.com/evpnd/evpnd/evpn/wire"
)

// BenchmarkReceive takes 100,000 MAC/IP routes in full UPDATEs from a peer to the sink.
func BenchmarkReceive(b *testing.B) {
	const count = 100_000
	n, p := pair(b, nil)
	p.handshake()
	await[evpn.PeerUp](n, nil)
	routes := make([]evpn.Route, count)
	for i := range routes {
		routes[i] = macRoute(evpn.NewRD(p.id, 1), numberedMAC(i), ip4, 7)
	}
	msgs, err := wire.AppendUpdate(nil, &evpn.Attrs{NextHop: p.id, LocalPref: 100, ExtComms: rt(65000, 7)}, routes, wire.Options{AS4: true, IBGP: true})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		go p.c.Write(msgs)
		for got := 0; got < count; {
			got += len(await[*evpn.Update](n, nil).Reach)
		}
	}
	b.ReportMetric(float64(count*b.N)/b.Elapsed().Seconds(), "routes/s")
}

// BenchmarkOneRoute measures from Apply at one speaker to the fact at another.
func BenchmarkOneRoute(b *testing.B) {
	x, y := two(b, 65000, 65000)
	await[evpn.PeerUp](x, nil)
	await[evpn.PeerUp](y, nil)
	a := &evpn.Attrs{NextHop: x.addr, ExtComms: rt(65000, 7)}
	i := 0
	for b.Loop() {
		i++
		if err := x.Apply([]evpn.RouteOp{announce(macRoute(evpn.NewRD(x.addr, 1), numberedMAC(i), netip.Addr{}, 7), a)}); err != nil {
			b.Fatal(err)
		}
		await[*evpn.Update](y, nil)
	}
}

// BenchmarkOriginate announces 10,000 routes, to the last octet read by a peer.
func BenchmarkOriginate(b *testing.B) {
	n, p := pair(b, nil)
	p.handshake()
	ops := manyRoutes(n, 10_000)
	for b.Loop() {
		start := time.Now()
		if err := n.Apply(ops); err != nil {
			b.Fatal(err)
		}
		readRoutes(p, len(ops))
		b.ReportMetric(float64(len(ops))/time.Since(start).Seconds(), "routes/s")
		for i := range ops {
			ops[i].Route.Key.MAC[1]++ // an unchanged route would not be sent again
		}
	}
}
