package dataplane

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/evpnd/evpnd/evpn"
)

// TestReadBackTellsOfLostNexthops: a nexthop that someone deleted is reported although it was read to be gone before its
// notification was: all that was behind it went with it.
func TestReadBackTellsOfLostNexthops(t *testing.T) {
	l := newLab(t)
	l.must(addVTEP(vtep3))
	for _, half := range []struct {
		name  string
		below uint32 // the group's id
	}{{"nexthop and its group", 1}, {"group alone", 0}} {
		t.Run(half.name, func(t *testing.T) {
			l.must(addVTEP(vtep2))
			group, _ := l.vteps.groupOf(vtep2)
			id := group - half.below
			run(t, fmt.Sprintf("ip nexthop del id %d", id))
			if seen := l.observed(0).Entries; len(seen) != 1 || seen[0].Key.Addr != vtep3 {
				t.Errorf("read back %+v, want %s alone", seen, vtep3)
			}
			l.watcher.nexthop(nexthop{id: id}, true)
			if told := l.pending.take().nexthops; !slices.Equal(told, []netip.Addr{vtep2}) {
				t.Errorf("told of %v, want %s", told, vtep2)
			}
			if left := run(t, "ip nexthop show"); strings.Count(left, "\n") != 2 {
				t.Errorf("there is %q, want the pair of %s", left, vtep3)
			}
		})
	}
	l.observed(0)
	if told := l.pending.take().nexthops; len(told) > 0 {
		t.Errorf("told of %v once more", told)
	}
}

// TestDeletedNexthopIsReadBeforeItIsReported: what follows from a deleted nexthop does not meet what is left of it.
func TestDeletedNexthopIsReadBeforeItIsReported(t *testing.T) {
	p := newPending()
	p.loseNexthops(vtep2)
	if w := p.take(); !slices.Equal(w.nexthops, []netip.Addr{vtep2}) || !slices.Equal(w.rereads, []evpn.VNI{0}) {
		t.Errorf("told of %v and read %v, want %s and the table of VTEPs", w.nexthops, w.rereads, vtep2)
	}
}

// TestKnownPairOutlivesAnother: of two pairs of a VTEP the one that rows point to stays.
func TestKnownPairOutlivesAnother(t *testing.T) {
	pair := func(id uint32) []nexthop {
		return []nexthop{
			{id: id, proto: protocolBGP, fdb: true, gateway: vtep2},
			{id: id + 1, proto: protocolBGP, fdb: true, members: []uint32{id}},
		}
	}
	v := newVTEPs(false)
	second := pair(firstID + 8)
	v.adopt(second)
	leftovers, lost := v.adopt(append(pair(firstID), second...))
	if group, _ := v.groupOf(vtep2); group != firstID+9 || len(lost) > 0 || !slices.Equal(leftovers, []uint32{firstID}) {
		t.Errorf("group %d, lost %v, to be removed %v; want %d, none and %d", group, lost, leftovers, firstID+9, firstID)
	}
}
