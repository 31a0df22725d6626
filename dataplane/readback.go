package dataplane

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/evpnd/evpnd/evpn"
)

// wholeDump is the number of VNIs from which one dump of everything is cheaper than one for each.
const wholeDump = 8

// view collects what dumps say about one VNI. A dump may name a row twice, so rows are kept by name.
type view struct {
	at        *attached
	fdb       map[evpn.MAC]halves
	macs      map[evpn.MAC]evpn.LocalMAC
	flood     []row
	neighbors map[netip.Addr]row
}

// halves are the two rows of one remote MAC; a zero family says that there is none.
type halves struct{ near, far row }

func (h *halves) put(r row) {
	if r.self() {
		h.far = r
	} else {
		h.near = r
	}
}

// observer turns dumps into evpn.Observed.
type observer struct {
	rtnl   *rtnl
	topo   *topology
	vteps  *vteps
	floods *floods
	views  map[evpn.VNI]*view
	lost   []netip.Addr // VTEPs whose nexthops were found to be gone
}

// observe reads VNIs back; 0 is the table of VTEPs, which is read first since rows name its groups. Nobody of ours may
// write meanwhile: a dump that runs beside writes misses rows that were there all the time.
func (o *observer) observe(vnis []evpn.VNI, asOf uint64) ([]evpn.Event, error) {
	var events []evpn.Event
	if slices.Contains(vnis, 0) {
		if err := o.readVTEPs(); err != nil {
			return nil, err
		}
		events = append(events, o.vtepTable(asOf))
	}
	o.views = map[evpn.VNI]*view{}
	var ats []*attached
	for _, v := range vnis {
		if v == 0 || o.views[v] != nil {
			continue
		}
		at := o.topo.vni(v)
		o.views[v] = &view{at: at}
		if at != nil {
			ats = append(ats, at)
		}
	}
	if err := o.readRows(ats); err != nil {
		return nil, err
	}
	for _, v := range slices.Sorted(maps.Keys(o.views)) {
		events = append(events, o.observed(v, asOf))
	}
	return events, nil
}

// readVTEPs reads the nexthops and takes over ours.
func (o *observer) readVTEPs() error {
	if o.vteps.dst || !o.topo.isClaimed() {
		return nil
	}
	var found []nexthop
	err := o.rtnl.dump(unix.RTM_GETNEXTHOP, func(b []byte) []byte { return append(b, make([]byte, unix.SizeofNhmsg)...) },
		func() { found = found[:0] },
		func(data []byte) {
			if n, err := parseNexthop(data); err == nil {
				found = append(found, n)
			}
		})
	if err != nil {
		return fmt.Errorf("dump nexthops: %w", err)
	}
	leftovers, lost := o.vteps.adopt(found)
	o.lost = append(o.lost, lost...)
	for _, id := range leftovers {
		err := o.rtnl.do(unix.RTM_DELNEXTHOP, 0, func(b []byte) []byte { return putNexthopID(b, id) })
		if err != nil && !gone(err) {
			return fmt.Errorf("delete unused nexthop %d: %w", id, err)
		}
	}
	return nil
}

func (o *observer) vtepTable(asOf uint64) evpn.Observed {
	table := evpn.Observed{AsOf: asOf}
	for _, a := range o.vteps.all() {
		key := evpn.EntryKey{Table: evpn.TableVTEP, Addr: a}
		table.Entries = append(table.Entries, evpn.ObservedEntry{Key: key, Entry: evpn.Entry{Parked: o.vteps.isParked(a)}, Ours: true})
	}
	return table
}

// readRows dumps FDBs and neighbours of the attachments into their views. One whose bridge has gone meanwhile has no view:
// AttachmentDown is on its way.
func (o *observer) readRows(ats []*attached) error {
	if len(ats) > wholeDump {
		return o.dumpRows(ats, 0, 0)
	}
	for _, at := range ats {
		switch err := o.dumpRows([]*attached{at}, at.bridge, at.bridge); {
		case gone(err):
			delete(o.views, at.VNI)
		case err != nil:
			return fmt.Errorf("vni %d: %w", at.VNI, err)
		}
	}
	return nil
}

// dumpRows dumps the FDB of one bridge and its ports and the neighbours of one device; 0 asks for all there are.
func (o *observer) dumpRows(ats []*attached, bridge, device int) error {
	err := o.rtnl.dump(unix.RTM_GETNEIGH, func(b []byte) []byte {
		b = putNDM(b, unix.AF_BRIDGE, 0, 0, 0)
		if bridge != 0 {
			b = putAttr32(b, unix.NDA_MASTER, uint32(bridge))
		}
		return b
	}, func() { o.restart(ats) }, o.fdbRow)
	if err != nil {
		return fmt.Errorf("dump fdb: %w", err)
	}
	for _, fam := range []uint8{unix.AF_INET, unix.AF_INET6} {
		err := o.rtnl.dump(unix.RTM_GETNEIGH, func(b []byte) []byte {
			b = putNDM(b, fam, 0, 0, 0)
			if device != 0 {
				b = putAttr32(b, unix.NDA_IFINDEX, uint32(device))
			}
			return b
		}, func() {}, o.neighborRow)
		if err != nil {
			return fmt.Errorf("dump neighbors: %w", err)
		}
	}
	return nil
}

func (o *observer) restart(ats []*attached) {
	for _, at := range ats {
		o.floods.dumping(at.device)
		o.views[at.VNI] = &view{
			at: at, fdb: map[evpn.MAC]halves{}, macs: map[evpn.MAC]evpn.LocalMAC{}, neighbors: map[netip.Addr]row{},
		}
	}
}

func (o *observer) fdbRow(data []byte) {
	r, err := parseRow(data)
	if err != nil || r.mac.IsGroup() {
		return
	}
	if at := o.topo.onDevice(r.ifindex); at != nil {
		v := o.views[at.VNI]
		switch {
		case v == nil || v.fdb == nil:
		case r.mac.IsZero():
			v.flood = append(v.flood, r)
		default:
			h := v.fdb[r.mac]
			h.put(r)
			v.fdb[r.mac] = h
		}
		return
	}
	if r.self() || !isLocalMAC(r) {
		return
	}
	for _, at := range o.topo.onBridge(r.master) {
		if v := o.views[at.VNI]; v != nil && v.macs != nil {
			v.macs[r.mac] = localMAC(at, r, o.topo.portName(r.ifindex), false)
		}
	}
}

func (o *observer) neighborRow(data []byte) {
	r, err := parseRow(data)
	if err != nil {
		return
	}
	for _, at := range o.topo.onBridge(r.ifindex) {
		if v := o.views[at.VNI]; v != nil && v.neighbors != nil {
			v.neighbors[r.dst] = r
		}
	}
}

// observed says what the view of a VNI holds, in a fixed order. A VNI without device holds nothing.
func (o *observer) observed(vni evpn.VNI, asOf uint64) evpn.Observed {
	out := evpn.Observed{VNI: vni, AsOf: asOf}
	v := o.views[vni]
	if v.at == nil {
		return out
	}
	o.topo.answers.found(v)
	o.floods.adopt(v.at.device, v.flood, v.at.remote)
	out.Entries = make([]evpn.ObservedEntry, 0, len(v.flood)+len(v.fdb)+len(v.neighbors))
	for _, r := range v.flood {
		key := evpn.EntryKey{Table: evpn.TableFlood, VNI: vni, Addr: r.dst}
		isOurs := o.floods.owner(v.at.device, r.dst) == ours
		out.Entries = append(out.Entries, evpn.ObservedEntry{Key: key, Ours: isOurs})
	}
	for mac, h := range v.fdb {
		if e, ok := fdbEntry(v.at, o.vteps, h); ok {
			e.Key = evpn.EntryKey{Table: evpn.TableFDB, VNI: vni, MAC: mac}
			out.Entries = append(out.Entries, e)
		}
	}
	out.MACs, out.IPs = []evpn.LocalMAC{}, []evpn.LocalIP{} // empty, not nil: it was looked, and nothing is there
	out.MACs = slices.AppendSeq(out.MACs, maps.Values(v.macs))
	slices.SortFunc(out.MACs, func(a, b evpn.LocalMAC) int { return slices.Compare(a.MAC[:], b.MAC[:]) })
	for _, r := range v.neighbors {
		switch by := neighborOwner(r); {
		case by == ours, by == foreign && r.ext():
			out.Entries = append(out.Entries, neighborEntry(vni, r))
		case by != nobody && isHost(v.at, r):
			out.IPs = append(out.IPs, localIP(v.at, r))
		}
	}
	slices.SortFunc(out.IPs, func(a, b evpn.LocalIP) int { return a.IP.Compare(b.IP) })
	slices.SortFunc(out.Entries, func(a, b evpn.ObservedEntry) int { return compareKeys(a.Key, b.Key) })
	out.Entries = slices.CompactFunc(out.Entries, func(a, b evpn.ObservedEntry) bool { return a.Key == b.Key })
	return out
}

// fdbEntry says what the two rows of a MAC mean together. One half alone is an entry of ours that differs from any we
// write: its VTEP is the zero Addr. Rows that the kernel learned from the overlay mean nothing.
func fdbEntry(at *attached, vteps *vteps, h halves) (evpn.ObservedEntry, bool) {
	near, far := owners(at, vteps, h)
	vtep := h.far.dst
	if h.far.nhid != 0 {
		vtep, _ = vteps.vtepOf(h.far.nhid)
	}
	switch {
	case near == ours && far == ours && h.far.ext() && !pinned(h.near):
		e := evpn.Entry{VTEP: vtep, Sticky: h.near.flags&ntfSticky != 0}
		return evpn.ObservedEntry{Entry: e, Ours: true}, true
	case near == ours || far == ours:
		return evpn.ObservedEntry{Ours: true}, true
	case far == foreign, near == foreign && h.near.state&unix.NUD_PERMANENT == 0:
		return evpn.ObservedEntry{Entry: evpn.Entry{VTEP: vtep}}, true
	default:
		return evpn.ObservedEntry{}, false
	}
}

// neighborEntry is a neighbour with our mark as an entry.
func neighborEntry(vni evpn.VNI, r row) evpn.ObservedEntry {
	return evpn.ObservedEntry{
		Key:   evpn.EntryKey{Table: evpn.TableNeighbor, VNI: vni, Addr: r.dst},
		Entry: evpn.Entry{MAC: r.mac, Router: r.flags&unix.NTF_ROUTER != 0},
		Ours:  neighborOwner(r) == ours,
	}
}

// dumpLinks reads the ports of a bridge, or all links when it is 0.
func dumpLinks(r *rtnl, bridge int) ([]linkMessage, error) {
	const skipStats = 1 << 3 // RTEXT_FILTER_SKIP_STATS
	var found []linkMessage
	err := r.dump(unix.RTM_GETLINK, func(b []byte) []byte {
		b = append(b, make([]byte, unix.SizeofIfInfomsg)...)
		b = binary.NativeEndian.AppendUint16(b, 8)
		b = binary.NativeEndian.AppendUint16(b, unix.IFLA_EXT_MASK)
		b = binary.NativeEndian.AppendUint32(b, skipStats)
		if bridge != 0 {
			b = putAttr32(b, unix.IFLA_MASTER, uint32(bridge))
		}
		return b
	}, func() { found = found[:0] }, func(data []byte) {
		if m, err := parseLink(data); err == nil && (bridge == 0 || m.master == bridge) {
			found = append(found, m)
		}
	})
	if err != nil && !errors.Is(err, errInterrupted) { // where devices come and go all day, notifications fill the gap
		return nil, fmt.Errorf("dump links: %w", err)
	}
	return found, nil
}

func compareKeys(a, b evpn.EntryKey) int {
	return cmp.Or(
		cmp.Compare(a.VNI, b.VNI), cmp.Compare(a.Table, b.Table),
		slices.Compare(a.MAC[:], b.MAC[:]), a.Addr.Compare(b.Addr))
}

// localHosts says what VNIs there are and which local MACs, from the bridges' rows for access ports alone. Each port is one pass
// over its bridge's FDB with little to send, while all of a large one goes out in pieces and is passed over again for each.
// Of entries it says nothing, and what it cannot read comes with the rest.
func (d *Dataplane) localHosts() []evpn.Event {
	var events []evpn.Event
	macs := map[evpn.VNI][]evpn.LocalMAC{}
	for _, port := range d.topo.accessPorts() {
		name := d.topo.portName(port)
		var found []row
		err := d.reader.dump(unix.RTM_GETNEIGH, func(b []byte) []byte { return putNDM(b, unix.AF_BRIDGE, port, 0, 0) },
			func() { found = found[:0] },
			func(data []byte) {
				if r, err := parseRow(data); err == nil && r.ifindex == port && !r.self() && isLocalMAC(r) {
					found = append(found, r)
				}
			})
		if err != nil {
			d.log.WithError(err).WithField("port", name).Debug("hosts of a port not read ahead")
			continue
		}
		for _, r := range found {
			for _, at := range d.topo.onBridge(r.master) {
				macs[at.VNI] = append(macs[at.VNI], localMAC(at, r, name, false))
			}
		}
	}
	for _, at := range d.topo.all() {
		events = append(events, evpn.AttachmentUp{Attachment: at.Attachment}, evpn.Observed{VNI: at.VNI, MACs: macs[at.VNI]})
	}
	return events
}
