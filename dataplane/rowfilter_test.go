package dataplane

import (
	"fmt"
	"strings"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// heard reads what waits at a socket: each notification of a row as its device and flags.
func heard(t *testing.T, c *netlink.Conn) (rows []string) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = receive(raw, make([]byte, datagram), func(b []byte) bool {
		for m := range messages(b) {
			r, err := parseRow(m.data)
			if (m.typ == unix.RTM_NEWNEIGH || m.typ == unix.RTM_DELNEIGH) && err == nil {
				rows = append(rows, fmt.Sprintf("%s family %d flags %#x",
					map[bool]string{true: "new", false: "del"}[m.typ == unix.RTM_NEWNEIGH], r.family, r.flags))
			}
		}
		return false
	}, func() bool { return true })
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

// TestEachSocketHearsItsShare: the echo of what we write goes by, but for what the kernel lets nobody tell apart.
func TestEachSocketHearsItsShare(t *testing.T) {
	const mine, self = unix.NTF_EXT_LEARNED, unix.NTF_SELF
	newRow := func(family int, flags uint8) string { return fmt.Sprintf("new family %d flags %#x", family, flags) }
	delRow := func(family int, flags uint8) string { return fmt.Sprintf("del family %d flags %#x", family, flags) }
	dst := []string{newRow(unix.AF_BRIDGE, self|mine)}
	for _, c := range []struct {
		name          string
		do            func(*lab)
		main, marked  []string
		markedWithDst []string // where each MAC carries its VTEP
	}{
		{
			"a MAC of ours", func(l *lab) { l.must(addFDB(macA, vtep2)) },
			[]string{newRow(unix.AF_BRIDGE, 0)},
			[]string{newRow(unix.AF_BRIDGE, mine), newRow(unix.AF_BRIDGE, self|mine)},
			nil,
		},
		{
			"the end of that MAC", func(l *lab) { l.must(del(addFDB(macA, vtep2))) },
			[]string{delRow(unix.AF_BRIDGE, mine), delRow(unix.AF_BRIDGE, self|mine)},
			nil, nil,
		},
		{"a neighbour of ours", func(l *lab) { l.must(addNeighbor(hostA, macA), addNeighbor(host6, macA)) }, nil, nil, nil},
		{"the end of that neighbour", func(l *lab) { l.must(del(addNeighbor(hostA, macA))) }, []string{delRow(unix.AF_INET, 0)}, nil, nil},
		{"a flood dst of ours", func(l *lab) { l.must(addFlood(vtep2)) }, nil, dst, nil},
		{"a marked row to their VTEP", func(l *lab) {
			run(l.t, "bridge fdb add 02:00:00:00:01:02 dev vx10 dst 10.0.0.99 self extern_learn")
		}, dst, nil, dst},
		{
			"a static row of theirs", func(l *lab) { run(l.t, "bridge fdb add 02:00:00:00:01:03 dev p10 master static") },
			[]string{newRow(unix.AF_BRIDGE, 0)},
			nil, nil,
		},
		{"a neighbour of theirs", func(l *lab) {
			run(l.t, "ip neigh add 10.1.1.9 lladdr 02:00:00:00:09:09 dev br10 nud noarp extern_learn proto bgp")
		}, []string{newRow(unix.AF_INET, mine)}, nil, nil},
	} {
		for _, nexthops := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s nexthops %v", c.name, nexthops), func(t *testing.T) {
				l := newLab(t)
				if err := l.useNexthops(nexthops); err != nil {
					t.Fatal(err)
				}
				l.must(addVTEP(vtep2))
				if strings.HasPrefix(c.name, "the end of") {
					l.must(addFDB(macA, vtep2), addNeighbor(hostA, macA))
				}
				heard(t, l.watcher.conn)
				heard(t, l.watcher.echoConn)
				c.do(l)
				main, marked := c.main, c.marked
				if !nexthops && c.markedWithDst != nil {
					main, marked = nil, c.markedWithDst
				}
				wantLines(t, "the watcher hears", heard(t, l.watcher.conn), main...)
				wantLines(t, "the socket for marked rows hears", heard(t, l.watcher.echoConn), marked...)
			})
		}
	}
}
