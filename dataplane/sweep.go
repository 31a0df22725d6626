package dataplane

import (
	"fmt"
	"iter"
	"maps"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/evpnd/evpnd/evpn"
)

// sweep removes our rows from where attachments were: the kernel keeps the neighbours of a bridge that the VXLAN device
// left, and the rows of a VXLAN device that left its bridge, and nobody reads those back. Devices and bridges that serve a
// VNI again are left to the core.
func (d *Dataplane) sweep(left []*attached) error {
	if len(left) == 0 {
		return nil
	}
	d.kernel.Lock()
	defer d.kernel.Unlock()
	devices, bridges := map[int]*attached{}, map[int]bool{}
	for _, at := range left {
		if d.topo.onDevice(at.device) == nil {
			d.expected.forget(at.device)
			devices[at.device] = at
		}
		if len(d.topo.onBridge(at.bridge)) == 0 {
			d.expected.forget(at.bridge)
			d.standIns.forget(at.bridge)
			bridges[at.bridge] = true
		}
	}
	rows, err := d.leftOnDevices(devices)
	if err != nil {
		return err
	}
	neighbors, err := d.leftOnBridges(bridges)
	if err != nil {
		return err
	}
	return d.remove(append(rows, neighbors...))
}

// sweepOrphans removes what an earlier life left where no VNI is served any more: on VXLAN devices that lost their bridge, or
// that we are not to serve now, and on bridges that lost their device. Nexthops and attachments must have been read.
func (d *Dataplane) sweepOrphans() error {
	if !d.topo.isClaimed() {
		return nil
	}
	var orphans []*attached
	d.topo.mu.RLock()
	for index, l := range d.topo.links {
		switch {
		case l.kind == "vxlan" && d.topo.byDevice[index] == nil && !l.vxlan.manyVNIs && !d.vteps.dst:
			orphans = append(orphans, &attached{device: index, remote: l.vxlan.remote})
		case l.kind == "bridge" && len(d.topo.byBridge[index]) == 0:
			orphans = append(orphans, &attached{bridge: index})
		}
	}
	d.topo.mu.RUnlock()
	return d.sweep(orphans)
}

// leftOnDevices finds our rows of VXLAN devices, and of bridges on them as ports.
func (d *Dataplane) leftOnDevices(devices map[int]*attached) ([]row, error) {
	only, some := d.existing(maps.Keys(devices))
	if !some {
		return nil, nil
	}
	type place struct {
		ifindex int
		mac     evpn.MAC
	}
	var found []row
	rows, floods := map[place]halves{}, map[int][]row{}
	err := d.reader.dump(unix.RTM_GETNEIGH, func(b []byte) []byte {
		return putNDM(b, unix.AF_BRIDGE, only, 0, 0)
	}, func() { clear(rows); clear(floods) }, func(data []byte) {
		r, err := parseRow(data)
		switch {
		case err != nil || devices[r.ifindex] == nil:
		case !r.mac.IsZero():
			h := rows[place{r.ifindex, r.mac}]
			h.put(r)
			rows[place{r.ifindex, r.mac}] = h
		default:
			floods[r.ifindex] = append(floods[r.ifindex], r)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("dump fdb of devices that left: %w", err)
	}
	for device, list := range floods {
		d.floods.adopt(device, list, devices[device].remote)
		for _, r := range list {
			if d.floods.owner(device, r.dst) == ours {
				found = append(found, r)
			}
		}
	}
	for at, h := range rows {
		near, far := owners(devices[at.ifindex], d.vteps, h)
		if near == ours {
			found = append(found, h.near)
		}
		if far == ours {
			found = append(found, h.far)
		}
	}
	return found, nil
}

// leftOnBridges finds our neighbours of bridges.
func (d *Dataplane) leftOnBridges(bridges map[int]bool) ([]row, error) {
	only, some := d.existing(maps.Keys(bridges))
	if !some {
		return nil, nil
	}
	var found []row
	for _, fam := range []uint8{unix.AF_INET, unix.AF_INET6} {
		var some []row
		err := d.reader.dump(unix.RTM_GETNEIGH, func(b []byte) []byte {
			b = putNDM(b, fam, 0, 0, 0)
			if only != 0 {
				b = putAttr32(b, unix.NDA_IFINDEX, uint32(only))
			}
			return b
		}, func() { some = nil }, func(data []byte) {
			if r, err := parseRow(data); err == nil && bridges[r.ifindex] && neighborOwner(r) == ours {
				some = append(some, r)
			}
		})
		if err != nil {
			return nil, fmt.Errorf("dump neighbors of bridges that lost their device: %w", err)
		}
		found = append(found, some...)
	}
	return found, nil
}

// existing reports whether some of the links exist, and names the one when there is only one; 0 otherwise.
func (d *Dataplane) existing(indexes iter.Seq[int]) (only int, some bool) {
	d.topo.mu.RLock()
	defer d.topo.mu.RUnlock()
	for index := range indexes {
		switch {
		case d.topo.links[index] == nil:
		case some:
			return 0, true
		default:
			only, some = index, true
		}
	}
	return only, some
}

// remove deletes rows. Rows that are gone meanwhile are fine.
func (d *Dataplane) remove(rows []row) error {
	var b batch
	var refused error
	for chunk := range slices.Chunk(rows, maxBatch) {
		b.reset()
		for _, r := range chunk {
			b.add(unix.RTM_DELNEIGH, 0, func(buf []byte) []byte { return putName(buf, r) })
		}
		if err := d.reader.exchange(&b, nil); err != nil {
			return fmt.Errorf("delete %d rows left behind: %w", len(rows), err)
		}
		for i, err := range b.errs {
			r := chunk[i]
			switch {
			case err != nil && !gone(err):
				refused = fmt.Errorf("delete row %s %s left behind on %s: %w", r.mac, r.dst, d.topo.portName(r.ifindex), err)
			case r.self() && r.mac.IsZero():
				d.floods.set(r.ifindex, r.dst, nobody)
			}
		}
	}
	return refused
}

// putName writes what names a row.
func putName(b []byte, r row) []byte {
	switch {
	case r.family != unix.AF_BRIDGE:
		return putAddr(putNDM(b, r.family, r.ifindex, 0, 0), unix.NDA_DST, r.dst)
	case !r.self():
		return putMAC(putNDM(b, unix.AF_BRIDGE, r.ifindex, 0, unix.NTF_MASTER), r.mac)
	}
	b = putMAC(putNDM(b, unix.AF_BRIDGE, r.ifindex, 0, unix.NTF_SELF), r.mac)
	if r.mac == (evpn.MAC{}) {
		b = putAddr(b, unix.NDA_DST, r.dst)
	}
	return b
}
