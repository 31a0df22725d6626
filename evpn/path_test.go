package evpn

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// TestPathList: whatever comes and goes, the routes of a list are there once and in the order in which they came.
func TestPathList(t *testing.T) {
	paths := make([]*Path, 5)
	for i := range paths {
		paths[i] = &Path{label1: uint32(i)}
	}
	var list pathList
	var want []*Path
	random := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		p := paths[random.IntN(len(paths))]
		if at := slices.Index(want, p); at >= 0 {
			list.remove(p)
			want = slices.Delete(want, at, at+1)
		} else {
			list.remove(p) // is not there
			list.add(p)
			want = append(want, p)
		}
		if got := slices.Collect(list.all()); !slices.Equal(got, want) || list.len() != len(want) {
			t.Fatalf("%d routes, in the walk %v, want %v", list.len(), got, want)
		}
		for range list.all() { // a walk that ends early
			break
		}
	}
}
