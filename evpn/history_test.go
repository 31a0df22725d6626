package evpn

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// TestRecordsAfter: whoever reads on sees every record once and in order, and is told how many are forgotten.
func TestRecordsAfter(t *testing.T) {
	c := benchCore()
	feed(c, benchUpdates(1000))
	seen := uint64(0)
	for seen < c.LastRecord() {
		recs, upTo, lost := c.RecordsAfter(seen, RecordFilter{}, 300)
		if lost != 0 || upTo != min(seen+300, c.LastRecord()) || len(recs) != int(upTo-seen) {
			t.Fatalf("after %d: %d records up to %d, %d lost", seen, len(recs), upTo, lost)
		}
		for i, r := range recs {
			if r.ID != seen+uint64(i)+1 {
				t.Fatalf("record %d has id %d, want %d", i, r.ID, seen+uint64(i)+1)
			}
		}
		seen = upTo
	}
	if recs, upTo, lost := c.RecordsAfter(seen+7, RecordFilter{}, 300); len(recs) != 0 || upTo != seen || lost != 0 {
		t.Errorf("after one that is not yet: %v up to %d, %d lost", recs, upTo, lost)
	}

	const routes = 50_000 // five records each
	feed(c, benchUpdates(routes))
	all, lost := 0, uint64(0)
	for seen := uint64(0); seen < c.LastRecord(); {
		recs, upTo, n := c.RecordsAfter(seen, RecordFilter{}, 1000)
		all, lost, seen = all+len(recs), lost+n, upTo
	}
	if uint64(all)+lost != c.LastRecord() || all < routineRecords || all > routineRecords+notableRecords+kernelRecords {
		t.Errorf("%d kept and %d lost of %d", all, lost, c.LastRecord())
	}
}

// TestHistoryOfTheKernel: batches stay as they were sent while they are on their way and while they are remembered, although
// their room is used again.
func TestHistoryOfTheKernel(t *testing.T) {
	c := benchCore()
	was := map[uint64][]KernelOp{} // the ops of each batch when it was sent
	var flying []KernelBatch
	updates := benchUpdates(30_000)
	for i := 0; i < len(updates) || len(flying) > 0; i++ {
		if i < len(updates) {
			c.Handle(updates[i], epoch)
		}
		for b := c.Flush(epoch).Kernel; len(b.Ops) > 0; b = c.Flush(epoch).Kernel {
			flying, was[b.Seq] = append(flying, b), slices.Clone(b.Ops)
		}
		if len(flying) == 0 {
			continue
		}
		b := flying[0]
		if !slices.Equal(b.Ops, was[b.Seq]) {
			t.Fatalf("batch %d changed on its way", b.Seq)
		}
		c.Handle(Applied{Batch: b.Seq}, epoch)
		flying = flying[1:]
	}
	ops := 0
	for _, b := range c.history.kernel.batches {
		if !slices.Equal(b.ops, was[b.seq]) {
			t.Fatalf("batch %d is remembered as something else", b.seq)
		}
		ops += len(b.ops)
	}
	if len(was) < 2*len(c.history.kernel.batches) || ops <= kernelRecords-maxBatchOps || ops > kernelRecords {
		t.Fatalf("%d ops in %d batches of %d are remembered", ops, len(c.history.kernel.batches), len(was))
	}
}

// TestHistoryOfTheFew: a table of routes does not wash away who moved.
func TestHistoryOfTheFew(t *testing.T) {
	c := benchCore()
	mac := MAC{2, 0xff, 0, 0, 0, 1}
	now := epoch
	c.Handle(LocalMAC{VNI: 100, MAC: mac, Port: "tap1"}, now)
	c.Flush(now)
	a := &Attrs{NextHop: worldVTEPs[2], LocalPref: 100}
	a.SetExtComms(string(AppendMobility(AppendEncapVXLAN(AppendRT(nil, NewRT(65000, 100))), 1, false)))
	r := Route{Key: RouteKey{Type: TypeMACIP, RD: RD{7: 1}, MAC: mac}, Label1: 100}
	now = now.Add(time.Second)
	c.Handle(&Update{Peer: worldPeers[0], Attrs: a, Reach: []Route{r}}, now)
	c.Flush(now)
	feed(c, benchUpdates(100_000))
	got := c.History(RecordFilter{MAC: mac}, 10)
	if len(got) != 1 {
		t.Fatalf("%d records: %v", len(got), got)
	}
	want := Record{
		ID: got[0].ID, At: now, Topic: "mac", What: "moved", VNI: 100, MAC: mac, From: "local", To: "10.255.0.2",
		Peer: worldPeers[0], RD: RD{7: 1}, Seq: 1, Noted: true,
	}
	if got[0].At = got[0].At.UTC(); got[0] != want {
		t.Errorf("got  %+v\nwant %+v", got[0], want)
	}
	if got := c.History(RecordFilter{Topic: "mac"}, 3); len(got) != 3 || got[2].What != "learned" {
		t.Errorf("the last three: %+v", got)
	}
}

// BenchmarkHistory looks for one MAC in all that is remembered.
func BenchmarkHistory(b *testing.B) {
	c := benchCore()
	feed(c, benchUpdates(100_000))
	f := RecordFilter{MAC: MAC{2, 0xff}}
	for b.Loop() {
		if got := c.History(f, 100); len(got) != 0 {
			b.Fatal(fmt.Sprint(got))
		}
	}
}
