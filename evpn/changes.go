package evpn

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
)

// changeRecords is how many changes of rows are remembered for those who follow the tables. Who is farther behind starts
// over.
const changeRecords = 1 << 16

// change names a row of the MAC table or of the neighbour table that may have become different.
type change struct {
	vni VNI
	mac MAC
	ip  netip.Addr // the zero Addr: a row of the MAC table
}

// MACKey names a row of the MAC table.
type MACKey struct {
	VNI VNI
	MAC MAC
}

// IPKey names a row of the neighbour table.
type IPKey struct {
	VNI VNI
	IP  netip.Addr
}

func (k MACKey) compare(o MACKey) int {
	return cmp.Or(cmp.Compare(k.VNI, o.VNI), slices.Compare(k.MAC[:], o.MAC[:]))
}

func (k IPKey) compare(o IPKey) int {
	return cmp.Or(cmp.Compare(k.VNI, o.VNI), k.IP.Compare(o.IP))
}

// changed takes down that the row of an entry may be different.
func (c *Core) changed(h holder) {
	if c.changes == nil {
		return
	}
	switch h := h.(type) {
	case *macEntry:
		c.changes.Add(change{vni: h.vrf.vni, mac: h.mac})
	case *ipEntry:
		c.changes.Add(change{vni: h.vrf.vni, ip: h.ip})
	}
}

// rowsWritten takes down that the kernel has answered for the entries of a batch.
func (c *Core) rowsWritten(ops []KernelOp) {
	if c.changes == nil {
		return
	}
	for i := range ops {
		switch key := &ops[i].Key; key.Table {
		case TableFDB:
			c.changes.Add(change{vni: key.VNI, mac: key.MAC})
		case TableNeighbor:
			c.changes.Add(change{vni: key.VNI, ip: key.Addr})
		}
	}
}

// Follow begins to remember which rows change, unless that has begun, and returns the number of the last change. Rows
// read after that, and read again when ChangesAfter names them, are the tables as they are.
func (c *Core) Follow() uint64 {
	if c.changes == nil {
		c.changes = NewChangeLog[change](changeRecords)
	}
	return c.changes.Last()
}

// Changes returns the number of the last change; 0 also when nobody follows.
func (c *Core) Changes() uint64 { return c.changes.Last() }

// Changed is which rows may have become different: in order, each once.
type Changed struct {
	MACs []MACKey
	IPs  []IPKey
	UpTo uint64 // the number of the last change that is in it
	Lost uint64 // changes that are forgotten: the reader must start over
}

// ChangesAfter returns the rows of vni, or with 0 of all, that the next changes behind a number name, at most limit of
// them.
func (c *Core) ChangesAfter(number uint64, vni VNI, limit int) Changed {
	names, upTo, lost := c.changes.After(number, limit)
	ch := Changed{UpTo: upTo, Lost: lost}
	for i := range names {
		switch e := &names[i]; {
		case vni != 0 && e.vni != vni:
		case e.ip.IsValid():
			ch.IPs = append(ch.IPs, IPKey{e.vni, e.ip})
		default:
			ch.MACs = append(ch.MACs, MACKey{e.vni, e.mac})
		}
	}
	slices.SortFunc(ch.MACs, MACKey.compare)
	slices.SortFunc(ch.IPs, IPKey.compare)
	ch.MACs, ch.IPs = slices.Compact(ch.MACs), slices.Compact(ch.IPs)
	return ch
}

// ServedVNIs returns the VNIs that have a device here, in order.
func (c *Core) ServedVNIs() []VNI {
	var out []VNI
	for vni, v := range c.vrfs {
		if v.at != nil {
			out = append(out, vni)
		}
	}
	slices.Sort(out)
	return out
}

// MACKeys returns the names of the rows that one VNI has in the MAC table, in no order: sorting them is left to those who
// have the time.
func (c *Core) MACKeys(vni VNI) []MACKey {
	v := c.vrfs[vni]
	if v == nil || v.at == nil {
		return nil
	}
	out := make([]MACKey, 0, len(v.macs))
	for mac := range maps.Keys(v.macs) {
		out = append(out, MACKey{vni, mac})
	}
	return out
}

// IPKeys is MACKeys for the neighbour table.
func (c *Core) IPKeys(vni VNI) []IPKey {
	v := c.vrfs[vni]
	if v == nil || v.at == nil {
		return nil
	}
	out := make([]IPKey, 0, v.ips.len())
	for e := range v.ips.all() {
		out = append(out, IPKey{vni, e.ip})
	}
	return out
}

// SortMACKeys and SortIPKeys put keys into the order of the tables.
func SortMACKeys(keys []MACKey) { slices.SortFunc(keys, MACKey.compare) }

// SortIPKeys is described at SortMACKeys.
func SortIPKeys(keys []IPKey) { slices.SortFunc(keys, IPKey.compare) }

// MACRow returns one row of the MAC table, with its candidates when asked; false when there is none.
func (c *Core) MACRow(k MACKey, candidates bool) (MACView, bool) {
	v := c.vrfs[k.VNI]
	if v == nil || v.at == nil {
		return MACView{}, false
	}
	m := v.macs[k.MAC]
	if m == nil || !m.shown() {
		return MACView{}, false
	}
	view := c.macView(m)
	if candidates {
		view.Candidates = c.candidates(m)
	}
	return view, true
}

// NeighborRow returns one row of the neighbour table, with its candidates when asked; false when there is none.
func (c *Core) NeighborRow(k IPKey, candidates bool) (NeighborView, bool) {
	v := c.vrfs[k.VNI]
	if v == nil || v.at == nil || v.ips.get(k.IP) == nil {
		return NeighborView{}, false
	}
	e := v.ips.get(k.IP)
	view, ok := c.neighborView(e)
	if ok && candidates {
		view.Candidates = c.ipCandidates(e)
	}
	return view, ok
}
