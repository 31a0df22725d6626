package daemon

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"time"
)

const (
	tidyEvery = 10 * time.Second // between two looks at the heap
	tidyAbove = 8 << 20          // octets of the heap that are left alone

	floodAbove = 4096      // routes of ours that wait for BGP, above which it is a flood
	floodHeap  = 384 << 20 // octets that the heap may have while it lasts, before the collector runs: 100,000 hosts
	leastHeap  = 4 << 20   // octets alive that the collector reckons with at least
	usualPace  = 100       // per cent that the heap may grow between two runs of the collector: Go's own
)

// tidier gives memory back to the kernel when a flood of routes is over. Go's collector runs again when the heap has
// grown, which after a flood may be never, and keeps meanwhile what the flood left behind.
type tidier struct {
	cycles uint64 // of the collector, at the last look
	left   uint64 // octets of objects after the last tidying
	sample []metrics.Sample
}

func newTidier() *tidier {
	return &tidier{sample: []metrics.Sample{
		{Name: "/gc/cycles/total:gc-cycles"},
		{Name: "/memory/classes/heap/objects:bytes"},
	}}
}

// look tidies when the collector has not run since the last look, which is to say that not much goes on, and the heap
// holds by a quarter more than it did after the last time.
func (t *tidier) look() (tidied bool) {
	metrics.Read(t.sample)
	cycles, objects := t.sample[0].Value.Uint64(), t.sample[1].Value.Uint64()
	quiet := cycles == t.cycles
	t.cycles = cycles
	if !quiet || objects < t.left+t.left/4+tidyAbove {
		t.left = min(t.left, objects)
		return false
	}
	debug.FreeOSMemory()
	metrics.Read(t.sample)
	t.cycles, t.left = t.sample[0].Value.Uint64(), t.sample[1].Value.Uint64()
	return true
}

// pace keeps the collector away while a flood of our own routes goes to GoBGP, which leaves 3 KB behind for each and keeps
// 1 KB: it would take a third of all processor time to mark, again and again, a heap that only grows. A large heap is
// collected as ever, and one of half the memory that the control group may use. A pace that is set in the environment
// (GOGC) is left alone, and a limit (GOMEMLIMIT) holds.
type pace struct {
	mu      sync.Mutex
	most    uint64 // octets; floodHeap where there is room for it
	now     int    // per cent
	hurried bool   // since the last look
	sample  []metrics.Sample
}

func newPace() *pace {
	most := min(floodHeap, memoryLimit(os.DirFS("/"))/2)
	return &pace{most: most, now: usualPace, sample: []metrics.Sample{{Name: "/gc/gogc:percent"}, {Name: "/gc/heap/live:bytes"}}}
}

// hurry is called again and again during a flood: what is alive, and so the pace, changes with each run of the collector.
func (p *pace) hurry() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hurried = true
	metrics.Read(p.sample)
	if percent := p.sample[0].Value.Uint64(); percent == uint64(p.now) {
		live := max(p.sample[1].Value.Uint64(), leastHeap)
		p.set(max(usualPace, int(p.most*100/live)-100))
	}
}

// look is called now and then. It ends what hurry began, but not at once: the collector would run for it.
func (p *pace) look() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.hurried {
		p.set(usualPace)
	}
	p.hurried = false
}

// end is called when nobody is in a hurry any more.
func (p *pace) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.set(usualPace)
}

// set is called with p.mu held. It touches nothing that it has not changed before, or is to change.
func (p *pace) set(percent int) {
	if percent != p.now {
		debug.SetGCPercent(percent)
		p.now = percent
	}
}

// tidy looks after the heap until ctx ends.
func (d *Daemon) tidy(ctx context.Context) {
	every := time.NewTicker(tidyEvery)
	defer every.Stop()
	defer d.pace.end()
	for t := newTidier(); ; {
		select {
		case <-ctx.Done():
			return
		case <-every.C:
			d.pace.look()
			t.look()
		}
	}
}
