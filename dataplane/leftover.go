package dataplane

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/evpnd/evpnd/evpn"
)

// Nothing here runs by itself: what is not ours is an operator's to remove. But a daemon that was killed, such as zebra, leaves
// thousands of rows where ours belong, and this finds them and removes them for an operator who asks.

// ErrNotServed says that no VXLAN device with a VNI is served.
var ErrNotServed = errors.New("the VNI is not served here")

// Leftover is an entry in a VNI that another daemon wrote, or left.
type Leftover struct {
	Key   evpn.EntryKey
	Entry evpn.Entry // what it says, as far as it can be read; of an FDB entry the zero Addr: a nexthop that is not ours
	Err   error      // why it could not be removed
	rows  []row
}

// ClearForeign finds the entries of a VNI that carry the mark of a daemon and are not ours: MACs with both halves, and neighbours on
// the bridge. With flood it finds the VTEPs of the flood list as well that others put there, but for that of the device itself:
// those have no mark, so that they may be an operator's. With remove it removes these very entries. Static rows, and those on
// other ports than the VXLAN device, are never touched. The entries are in the order of their keys.
func (d *Dataplane) ClearForeign(vni evpn.VNI, flood, remove bool) ([]Leftover, error) {
	d.kernel.Lock()
	defer d.kernel.Unlock()
	at := d.topo.vni(vni)
	if at == nil {
		return nil, fmt.Errorf("entries of others in VNI %d: %w", vni, ErrNotServed)
	}
	o := observer{rtnl: d.writer.rtnl, topo: d.topo, vteps: d.vteps, floods: d.floods, views: map[evpn.VNI]*view{}}
	if err := o.dumpRows([]*attached{at}, at.bridge, at.bridge); err != nil {
		return nil, fmt.Errorf("entries of others: %w", err)
	}
	found := d.leftovers(o.views[vni], flood)
	if !remove {
		return found, nil
	}
	return found, d.removeLeftovers(found)
}

// leftovers picks them out of a view.
func (d *Dataplane) leftovers(v *view, flood bool) (found []Leftover) {
	vni := v.at.VNI
	for mac, h := range v.fdb {
		if _, far := owners(v.at, d.vteps, h); far != foreign || !h.far.ext() {
			continue
		}
		l := Leftover{Key: evpn.EntryKey{Table: evpn.TableFDB, VNI: vni, MAC: mac}, Entry: evpn.Entry{VTEP: h.far.dst}, rows: []row{h.far}}
		if h.near.ext() && !pinned(h.near) {
			l.rows = append(l.rows, h.near)
		}
		found = append(found, l)
	}
	for ip, r := range v.neighbors {
		if r.ext() && neighborOwner(r) == foreign {
			key := evpn.EntryKey{Table: evpn.TableNeighbor, VNI: vni, Addr: ip}
			found = append(found, Leftover{Key: key, Entry: evpn.Entry{MAC: r.mac}, rows: []row{r}})
		}
	}
	for _, r := range v.flood {
		if flood && r.dst != v.at.remote && d.floods.owner(v.at.device, r.dst) == foreign {
			found = append(found, Leftover{Key: evpn.EntryKey{Table: evpn.TableFlood, VNI: vni, Addr: r.dst}, rows: []row{r}})
		}
	}
	slices.SortFunc(found, func(a, b Leftover) int { return compareKeys(a.Key, b.Key) })
	return found
}

// removeLeftovers removes their rows, and notes in each what the kernel refuses. The core is told by the notifications.
func (d *Dataplane) removeLeftovers(found []Leftover) error {
	const mostRows = 2 // of one entry
	var b batch
	for chunk := range slices.Chunk(found, maxBatch/mostRows) {
		b.reset()
		var of []*Leftover
		for i := range chunk {
			for _, r := range chunk[i].rows {
				b.add(unix.RTM_DELNEIGH, 0, func(buf []byte) []byte { return putName(buf, r) })
				of = append(of, &chunk[i])
			}
		}
		if err := d.writer.rtnl.exchange(&b, nil); err != nil {
			return fmt.Errorf("remove entries of others: %w", err)
		}
		for i, err := range b.errs {
			if err != nil && !gone(err) {
				of[i].Err = errors.Join(of[i].Err, fmt.Errorf("remove %s: %w", of[i].Key, err))
			}
		}
	}
	return nil
}
