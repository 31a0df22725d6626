package evpn

import (
	"errors"
	"fmt"
	"maps"
	"slices"
)

// row is one entry of a mapKernel.
type row struct {
	entry   Entry
	ours    bool
	learned bool // not ours, and the bridge learned it from a local frame
}

func (r row) foreign() bool { return !r.ours && !r.learned }

// mapKernel does what the dataplane promises of the kernel: ops are idempotent, what is not ours is left alone, and an
// FDB entry needs the nexthop of its VTEP.
type mapKernel struct {
	rows     map[EntryKey]row
	refuse   map[EntryKey]error
	looks    bool       // before it replaces, as the dataplane does; else it shows what the core would trample on
	trampled []EntryKey // rows of others that an op overwrote, or that it took for intact ones of ours
	disorder []KernelOp // ops that came before the nexthop they need, or took one away that was in use
}

func newMapKernel() *mapKernel {
	return &mapKernel{rows: map[EntryKey]row{}, refuse: map[EntryKey]error{}}
}

var errNoNexthop = errors.New("nexthop id does not exist")

// apply writes a batch and reports on it.
func (k *mapKernel) apply(b KernelBatch) Applied {
	done := Applied{Batch: b.Seq}
	for _, op := range b.Ops {
		if err, foreign := k.write(op); err != nil {
			done.Failed = append(done.Failed, OpError{Op: op, Err: err, Foreign: foreign, Mend: map[bool]string{true: "remove it"}[foreign]})
		}
	}
	return done
}

func (k *mapKernel) write(op KernelOp) (err error, foreign bool) {
	if err := k.refuse[op.Key]; err != nil {
		return err, false
	}
	old, there := k.rows[op.Key]
	// A delete leaves the row of a MAC alone that is behind another port by now.
	taken := there && old.foreign() && !(op.Del && op.Key.Table == TableFDB)
	if op.Intact && !k.looks && (taken || old.ours && !op.Del && old.entry.Sticky != op.Entry.Sticky) {
		k.trampled = append(k.trampled, op.Key)
	}
	switch {
	case op.Del && there && old.ours:
		before := len(k.rows)
		if k.remove(op.Key); len(k.rows) < before-1 {
			k.disorder = append(k.disorder, op)
		}
	case op.Del:
	case op.Intact && op.Key.Table == TableFDB && old.learned: // the bridge's half stays with the local port
	case there && !old.ours && (!op.Replace || k.looks && old.foreign()):
		return errors.New("an entry that is not ours is there"), true
	case op.Key.Table == TableFDB && !k.has(EntryKey{Table: TableVTEP, Addr: op.Entry.VTEP}):
		k.disorder = append(k.disorder, op)
		return errNoNexthop, false
	default:
		if there && old.foreign() {
			k.trampled = append(k.trampled, op.Key)
		}
		k.rows[op.Key] = row{entry: op.Entry, ours: true}
	}
	return nil, false
}

func (k *mapKernel) has(key EntryKey) bool { return k.rows[key].ours }

// remove takes an entry out. With a nexthop go the FDB entries behind it.
func (k *mapKernel) remove(key EntryKey) {
	delete(k.rows, key)
	if key.Table == TableVTEP {
		maps.DeleteFunc(k.rows, func(o EntryKey, r row) bool {
			return o.Table == TableFDB && r.ours && r.entry.VTEP == key.Addr
		})
	}
}

// observe reads back what is there of a VNI, or of the VTEPs when vni is 0.
func (k *mapKernel) observe(vni VNI, asOf uint64) Observed {
	o := Observed{VNI: vni, AsOf: asOf}
	for _, key := range k.keys() {
		if key.VNI == vni {
			o.Entries = append(o.Entries, ObservedEntry{Key: key, Entry: k.rows[key].entry, Ours: k.rows[key].ours})
		}
	}
	return o
}

// ours returns the entries that are ours.
func (k *mapKernel) ours() map[EntryKey]Entry {
	m := map[EntryKey]Entry{}
	for key, r := range k.rows {
		if r.ours {
			m[key] = r.entry
		}
	}
	return m
}

func (k *mapKernel) keys() []EntryKey {
	return slices.SortedFunc(maps.Keys(k.rows), EntryKey.compare)
}

// String prints an entry in the words of the scripts.
func (e Entry) describe() string {
	s := ""
	if e.VTEP.IsValid() {
		s += fmt.Sprintf(" vtep %s", e.VTEP)
	}
	if !e.MAC.IsZero() {
		s += fmt.Sprintf(" mac %s", e.MAC)
	}
	if e.Sticky {
		s += " sticky"
	}
	if e.Router {
		s += " router"
	}
	if e.Parked {
		s += " parked"
	}
	return s
}

// wanted returns what the core wants the kernel to hold.
func (c *Core) wanted() map[EntryKey]Entry {
	m := map[EntryKey]Entry{}
	add := func(h holder) {
		if s := h.slot(); s.want.there() {
			m[h.key()] = c.entry(s.want)
		}
	}
	for _, t := range c.vteps {
		add(t)
	}
	for _, v := range c.vrfs {
		for h := range v.holders() {
			add(h)
		}
	}
	return m
}
