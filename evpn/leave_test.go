package evpn

import (
	"slices"
	"testing"
	"time"
)

// departure is a core with 2,000 hosts behind a VTEP that one peer tells of, and the kernel it writes.
type departure struct {
	*testing.T
	core   *Core
	kernel *mapKernel
	vtep   EntryKey
	flood  EntryKey
}

func newDeparture(t *testing.T) *departure {
	d := &departure{T: t, core: New(worldConfig()), kernel: newMapKernel()}
	d.core.Handle(attachment(1), epoch)
	for _, p := range worldPeers {
		d.core.Handle(PeerUp{Peer: p}, epoch)
	}
	d.core.Handle(Synced{}, epoch)
	attrs := make([]*Attrs, scaleVNIs*scaleVTEPsPerVNI)
	d.vtep = EntryKey{Table: TableVTEP, Addr: scaleVTEP(0, 0)}
	d.flood = EntryKey{Table: TableFlood, VNI: 1, Addr: scaleVTEP(0, 0)}
	d.core.Handle(d.imet(0), epoch)
	for i := range 20 {
		d.core.Handle(scaleUpdate(i*scaleVNIs*scaleVTEPsPerVNI, attrs), epoch)
	}
	for d.step() != nil {
	}
	return d
}

// imet is the VTEP's type-3 route from one of the peers.
func (d *departure) imet(peer int) *Update {
	a := scaleAttrs(0, 0)
	a.PMSI = PMSI{Present: true, Tunnel: TunnelIngressReplication, Label: 1, Endpoint: a.NextHop}
	key := RouteKey{Type: TypeIMET, RD: NewRD(a.NextHop, 1), IP: a.NextHop}
	return &Update{Peer: worldPeers[peer], Attrs: a, Reach: []Route{{Key: key}}}
}

// step writes the next batch and returns what was in it.
func (d *departure) step() []KernelOp {
	out := d.core.Flush(epoch)
	if len(out.Kernel.Ops) > 0 {
		d.core.Handle(d.kernel.apply(out.Kernel), epoch)
	}
	return out.Kernel.Ops
}

// parks reports whether the kernel drops frames for the VTEP, and floods none to it.
func (d *departure) parks() bool {
	_, floods := d.kernel.rows[d.flood]
	return d.kernel.rows[d.vtep].entry.Parked && !floods
}

// TestLostVTEPIsParkedFirst: when a session takes the last routes of a VTEP with it, the first thing that the kernel is told is
// to send it nothing; its many entries follow, and its nexthop at last.
func TestLostVTEPIsParkedFirst(t *testing.T) {
	d := newDeparture(t)
	d.core.Handle(PeerDown{Peer: worldPeers[0], Reason: "hold timer expired"}, epoch)
	first := d.step()
	slices.SortFunc(first, func(a, b KernelOp) int { return a.Key.compare(b.Key) })
	if len(first) != 2 || first[0].Key != d.vtep || !first[0].Entry.Parked || first[1].Key != d.flood || !first[1].Del {
		t.Errorf("first batch is %v, want the VTEP parked and taken off the flood list", first)
	}
	for d.step() != nil {
	}
	if len(d.kernel.rows) > 0 || len(d.kernel.disorder) > 0 {
		t.Errorf("%d entries left, written out of order: %v", len(d.kernel.rows), d.kernel.disorder)
	}
}

// TestFewHostsAreNotParked: where one batch has room for what goes, parking would be one operation more.
func TestFewHostsAreNotParked(t *testing.T) {
	s := newStory(t, "few hosts")
	s.play("+ vni 100\n+ peer 10.0.0.254\nsynced\n+ route type2 mac 02:00:00:00:00:01 vtep 10.255.0.2")
	s.do(&words{story: s, left: []string{"-", "peer", "10.0.0.254"}})
	for _, op := range s.core.Flush(s.now).Kernel.Ops {
		if !op.Del {
			t.Errorf("%v, want deletes alone", op)
		}
	}
}

// TestVTEPThatAnotherPeerNames: frames go on when another route names the VTEP as well, and again when one comes before the
// last entry is gone.
func TestVTEPThatAnotherPeerNames(t *testing.T) {
	t.Run("before", func(t *testing.T) {
		d := newDeparture(t)
		d.core.Handle(d.imet(1), epoch)
		d.core.Handle(PeerDown{Peer: worldPeers[0]}, epoch)
		for d.step() != nil {
			if d.kernel.rows[d.vtep].entry.Parked {
				t.Fatal("parked while another peer names it")
			}
		}
	})
	t.Run("meanwhile", func(t *testing.T) {
		d := newDeparture(t)
		d.core.Handle(PeerDown{Peer: worldPeers[0]}, epoch)
		for range 2 {
			d.step()
		}
		if !d.parks() {
			t.Fatal("not parked")
		}
		d.core.Handle(d.imet(1), epoch)
		d.step()
		if d.parks() {
			t.Error("still parked")
		}
	})
}

// TestSessionBackBeforeItsRoutesWent: what a session that ended took with it does not come back with the next one, though
// that may be there before the core has come to it.
func TestSessionBackBeforeItsRoutesWent(t *testing.T) {
	d := newDeparture(t)
	d.core.Handle(PeerDown{Peer: worldPeers[0]}, epoch)
	d.core.Handle(PeerUp{Peer: worldPeers[0], Forwarding: true, StaleTime: time.Hour}, epoch)
	for d.step() != nil {
	}
	if len(d.kernel.rows) > 0 {
		t.Errorf("%d entries left", len(d.kernel.rows))
	}
}
