package daemon

import (
	"io/fs"
	"math"
	"path"
	"strconv"
	"strings"
)

// memoryLimit is how many octets the control group of this process may use, or the least of those around it, by version 2 of
// control groups; math.MaxUint64 when nothing says so. host is the root of the file system.
func memoryLimit(host fs.FS) uint64 {
	limit := uint64(math.MaxUint64)
	groups, err := fs.ReadFile(host, "proc/self/cgroup")
	if err != nil {
		return limit
	}
	for line := range strings.Lines(string(groups)) {
		group, unified := strings.CutPrefix(strings.TrimSpace(line), "0::/")
		for unified {
			b, unread := fs.ReadFile(host, path.Join("sys/fs/cgroup", group, "memory.max")) // not there in the root
			n, noNumber := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)          // "max" where there is no limit
			if unread == nil && noNumber == nil {
				limit = min(limit, n)
			}
			unified = group != "" && group != "."
			group = path.Dir(group)
		}
	}
	return limit
}
