package daemon

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	tidyEvery = 10 * time.Second // between two looks at the heap
	tidyAbove = 8 << 20          // octets of the heap that are left alone
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

// tidy looks after the heap until ctx ends.
func (d *Daemon) tidy(ctx context.Context) {
	every := time.NewTicker(tidyEvery)
	defer every.Stop()
	for t := newTidier(); ; {
		select {
		case <-ctx.Done():
			return
		case <-every.C:
			t.look()
		}
	}
}
