package daemon

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
)

// TestTidier: what a flood leaves behind goes back to the kernel once the collector rests, and no sooner.
func TestTidier(t *testing.T) {
	released := func() uint64 {
		sample := []metrics.Sample{{Name: "/memory/classes/heap/released:bytes"}}
		metrics.Read(sample)
		return sample[0].Value.Uint64()
	}
	tidier := newTidier()
	for tidier.look() || tidier.cycles == 0 {
		runtime.GC()
	}
	flood := make([][]byte, 64)
	for i := range flood {
		flood[i] = make([]byte, 1<<20)
	}
	runtime.GC()
	if tidier.look() {
		t.Error("tidied right after a collection")
	}
	runtime.KeepAlive(flood)
	before := released()
	if !tidier.look() {
		t.Fatal("not tidied when all is quiet")
	}
	if now := released(); now < before+32<<20 {
		t.Errorf("released %d octets before, %d after: want 32 MiB more", before, now)
	}
	if tidier.look() {
		t.Error("tidied twice for the same flood")
	}
}

// TestPace: the collector is kept away during a flood and runs as usual when it has been over for a while; a large heap is
// collected as ever, and a pace that someone has chosen is left alone.
func TestPace(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(usualPace))
	now := func() int {
		percent := debug.SetGCPercent(usualPace)
		debug.SetGCPercent(percent)
		return percent
	}
	runtime.GC()
	p := newPace()
	for _, step := range []struct {
		name  string
		do    func()
		hurry bool
	}{
		{"no flood", p.look, false},
		{"a flood", p.hurry, true},
		{"it goes on", p.hurry, true},
		{"just over", p.look, true},
		{"over", p.look, false},
		{"another one", p.hurry, true},
		{"the end", p.end, false},
	} {
		step.do()
		if got := now(); (got > 2*usualPace) != step.hurry || got < usualPace {
			t.Errorf("%s: pace %d %%", step.name, got)
		}
	}
	large := make([]byte, floodHeap/2)
	p.hurry()
	runtime.GC()
	p.hurry()
	if got := now(); got != usualPace {
		t.Errorf("with a large heap: pace %d %%, want %d", got, usualPace)
	}
	runtime.KeepAlive(large)
	debug.SetGCPercent(150)
	for _, do := range []func(){p.hurry, p.look, p.look, p.end} {
		do()
	}
	if got := now(); got != 150 {
		t.Errorf("chosen: pace %d %%, want 150", got)
	}
}
