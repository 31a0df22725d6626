package daemon

import (
	"runtime"
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
