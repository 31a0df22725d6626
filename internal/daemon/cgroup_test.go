package daemon

import (
	"math"
	"testing"
	"testing/fstest"
)

// TestMemoryLimit: the least limit of the groups that we are in counts, and what cannot be read is none.
func TestMemoryLimit(t *testing.T) {
	file := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }
	for _, c := range []struct {
		name string
		host fstest.MapFS
		want uint64
	}{
		{"no control groups", fstest.MapFS{}, math.MaxUint64},
		{"version 1", fstest.MapFS{"proc/self/cgroup": file("4:memory:/a\n"), "sys/fs/cgroup/memory.max": file("5\n")}, math.MaxUint64},
		{"in a container", fstest.MapFS{"proc/self/cgroup": file("0::/\n"), "sys/fs/cgroup/memory.max": file("268435456\n")}, 256 << 20},
		{"none", fstest.MapFS{"proc/self/cgroup": file("0::/a\n"), "sys/fs/cgroup/a/memory.max": file("max\n")}, math.MaxUint64},
		{"of a service", fstest.MapFS{
			"proc/self/cgroup": file("1:name=systemd:/\n0::/system.slice/evpnd.service\n"),
			"sys/fs/cgroup/system.slice/evpnd.service/memory.max": file("1000\n"),
			"sys/fs/cgroup/system.slice/memory.max":               file("max\n"),
		}, 1000},
		{"of its slice", fstest.MapFS{
			"proc/self/cgroup": file("0::/system.slice/evpnd.service\n"),
			"sys/fs/cgroup/system.slice/evpnd.service/memory.max": file("1000\n"),
			"sys/fs/cgroup/system.slice/memory.max":               file("900\n"),
		}, 900},
		{"nonsense", fstest.MapFS{"proc/self/cgroup": file("0::/../..\n"), "sys/fs/cgroup/memory.max": file("-1")}, math.MaxUint64},
	} {
		if got := memoryLimit(c.host); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}
