package evpn

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"time"
)

// benchUpdates makes UPDATEs of 100 MAC/IP routes each, as a reflector sends those of 16 VTEPs.
func benchUpdates(routes int) []*Update {
	var updates []*Update
	attrs := map[int]*Attrs{}
	for i := 0; i < routes; i += 100 {
		n := i / 100 % 16
		if attrs[n] == nil {
			attrs[n] = &Attrs{NextHop: netip.AddrFrom4([4]byte{10, 255, 1, byte(n)}), LocalPref: 100}
			attrs[n].SetExtComms(string(AppendEncapVXLAN(AppendRT(nil, NewRT(65000, 100)))))
		}
		u := &Update{Peer: worldPeers[0], Attrs: attrs[n], Reach: make([]Route, 100)}
		for j := range u.Reach {
			var id [4]byte
			binary.BigEndian.PutUint32(id[:], uint32(i+j))
			u.Reach[j] = Route{
				Key: RouteKey{
					Type: TypeMACIP, RD: NewRD(attrs[n].NextHop, 100),
					MAC: MAC{2, 0, id[0], id[1], id[2], id[3]}, IP: netip.AddrFrom4([4]byte{172, 16 + id[1], id[2], id[3]}),
				},
				Label1: 100,
			}
		}
		updates = append(updates, u)
	}
	return updates
}

func withdraws(updates []*Update) []*Update {
	out := make([]*Update, len(updates))
	for i, u := range updates {
		out[i] = &Update{Peer: u.Peer}
		for _, r := range u.Reach {
			out[i].Unreach = append(out[i].Unreach, r.Key)
		}
	}
	return out
}

func benchCore() *Core {
	c := New(worldConfig())
	c.Handle(attachment(100), epoch)
	c.Handle(PeerUp{Peer: worldPeers[0]}, epoch)
	c.Handle(Synced{}, epoch)
	return c
}

// feed hands in one UPDATE after the other with a Flush behind each, acknowledges every batch at once, and returns the
// number of kernel ops.
func feed(c *Core, updates []*Update) (ops int) {
	for _, u := range updates {
		c.Handle(u, epoch)
		for {
			out := c.Flush(epoch)
			if len(out.Kernel.Ops) == 0 {
				break
			}
			ops += len(out.Kernel.Ops)
			c.Handle(Applied{Batch: out.Kernel.Seq}, epoch)
		}
	}
	return ops
}

// BenchmarkRoutes is everything the core does for MAC/IP routes that come, in UPDATEs of 100: Handle, Flush, Applied.
func BenchmarkRoutes(b *testing.B) {
	for _, routes := range []int{1_000, 100_000} {
		updates := benchUpdates(routes)
		b.Run(fmt.Sprint(routes), func(b *testing.B) {
			b.ReportAllocs()
			var live uint64
			for b.Loop() {
				b.StopTimer()
				before := liveHeap()
				c := benchCore()
				b.StartTimer()
				ops := feed(c, updates)
				b.StopTimer()
				if ops != 2*routes+min(16, routes/100) {
					b.Fatalf("%d ops", ops)
				}
				live += liveHeap() - before
				runtime.KeepAlive(c)
				b.StartTimer()
			}
			perRoute(b, routes)
			b.ReportMetric(float64(live)/float64(b.N*routes), "live-B/route")
		})
	}
}

// BenchmarkWithdraw takes them away again.
func BenchmarkWithdraw(b *testing.B) {
	const routes = 100_000
	updates := benchUpdates(routes)
	gone := withdraws(updates)
	for b.Loop() {
		b.StopTimer()
		c := benchCore()
		feed(c, updates)
		b.StartTimer()
		feed(c, gone)
	}
	perRoute(b, routes)
}

// BenchmarkAgain is a peer that sends again what it has sent: nothing comes out.
func BenchmarkAgain(b *testing.B) {
	const routes = 100_000
	updates := benchUpdates(routes)
	c := benchCore()
	feed(c, updates)
	for b.Loop() {
		if ops := feed(c, updates); ops != 0 {
			b.Fatalf("%d ops", ops)
		}
	}
	perRoute(b, routes)
}

// BenchmarkOneRoute is one route that comes and goes among 100 000.
func BenchmarkOneRoute(b *testing.B) {
	c := benchCore()
	feed(c, benchUpdates(100_000))
	u := benchUpdates(100)[0]
	one := &Update{Peer: u.Peer, Attrs: u.Attrs, Reach: u.Reach[:1]}
	one.Reach[0].Key.MAC[1] = 1
	gone := withdraws([]*Update{one})
	for b.Loop() {
		feed(c, []*Update{one})
		feed(c, gone)
	}
}

// BenchmarkImportChange is a VNI that appears beside one with 100 000 routes, and goes again.
func BenchmarkImportChange(b *testing.B) {
	c := benchCore()
	feed(c, benchUpdates(100_000))
	for b.Loop() {
		c.Handle(attachment(200), epoch)
		c.Flush(epoch)
		c.Handle(AttachmentDown{VNI: 200}, epoch)
		c.Flush(epoch)
	}
}

// BenchmarkReadBack compares a read-back of 100 000 MACs and as many neighbours with what is believed.
func BenchmarkReadBack(b *testing.B) {
	c, k := benchCore(), newMapKernel()
	for _, u := range benchUpdates(100_000) {
		c.Handle(u, epoch)
		flushAndWrite(c, k)
	}
	seen := k.observe(100, c.batch)
	for b.Loop() {
		c.Handle(seen, epoch)
		if out := c.Flush(epoch); len(out.Kernel.Ops) != 0 {
			b.Fatalf("%d ops", len(out.Kernel.Ops))
		}
	}
}

// BenchmarkRefusedByKernel is one route that comes and goes while 100 000 neighbours are refused.
func BenchmarkRefusedByKernel(b *testing.B) {
	c := benchCore()
	updates := benchUpdates(100_000)
	now := epoch
	for _, u := range updates {
		c.Handle(u, now)
		for {
			out := c.Flush(now)
			if len(out.Kernel.Ops) == 0 {
				break
			}
			done := Applied{Batch: out.Kernel.Seq}
			for _, op := range out.Kernel.Ops {
				if op.Key.Table == TableNeighbor {
					done.Failed = append(done.Failed, OpError{Op: op, Err: errNoDevice})
				}
			}
			c.Handle(done, now)
		}
	}
	one := &Update{Peer: updates[0].Peer, Attrs: updates[0].Attrs, Reach: []Route{updates[0].Reach[0]}}
	one.Reach[0].Key.MAC[1] = 1
	gone := withdraws([]*Update{one})
	for b.Loop() {
		feed(c, []*Update{one})
		feed(c, gone)
	}
}

func perRoute(b *testing.B, routes int) {
	b.ReportMetric(float64(b.Elapsed())/float64(time.Nanosecond)/float64(b.N*routes), "ns/route")
}

func liveHeap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
