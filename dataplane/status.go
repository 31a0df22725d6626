package dataplane

import (
	"sync/atomic"

	"github.com/evpnd/evpnd/evpn"
)

// Status is a snapshot of the dataplane's health.
type Status struct {
	Nexthops    bool // remote MACs point to nexthop groups; false: dst mode, the kernel has no FDB nexthops
	VTEPs       int  // nexthop pairs of ours
	Written     map[evpn.Table]OpCounts
	Removed     map[evpn.Table]OpCounts // of Written: those that make an entry absent
	Overruns    uint64                  // times that notifications were lost
	Resyncs     uint64                  // times that everything was read back because of it
	Tampered    uint64                  // entries of ours that others were seen to change or remove
	Malformed   uint64                  // notifications that could not be read
	Snoop       SnoopStatus
	Questions   []QuestionCount // by VNI
	Probes      ProbeStatus
	Attachments []evpn.Attachment
	Unserved    []string            // devices that could be attachments but are not, and why, in plain words
	NotMade     map[evpn.VNI]string // VNIs whose devices should have been made and could not, and why
}

// OpCounts counts the ops of one table since the start.
type OpCounts struct {
	Done    uint64 // acknowledged, or nothing to do
	Failed  uint64 // refused by the kernel
	Foreign uint64 // not done because of an entry that is not ours
}

// counters are what Status is made of.
type counters struct {
	tables                                 [evpn.TableNeighbor + 1][2]opCounters // additions, deletes
	overruns, resyncs, tampered, malformed atomic.Uint64
	shifts                                 atomic.Uint64 // rows seen to leave a bridge's FDB, see Dataplane.observe
}

type opCounters struct{ done, failed, foreign atomic.Uint64 }

func (c *opCounters) load() OpCounts {
	return OpCounts{Done: c.done.Load(), Failed: c.failed.Load(), Foreign: c.foreign.Load()}
}

// add counts a chunk; its ops are of one table, and all additions or all deletes.
func (c *counters) add(ops []evpn.KernelOp, refused []evpn.OpError) {
	table := int(ops[0].Key.Table)
	if table >= len(c.tables) {
		table = 0
	}
	t := &c.tables[table][0]
	if ops[0].Del {
		t = &c.tables[table][1]
	}
	t.done.Add(uint64(len(ops) - len(refused)))
	for _, r := range refused {
		if r.Foreign {
			t.foreign.Add(1)
		} else {
			t.failed.Add(1)
		}
	}
}

// Status returns a snapshot; it may be called from any goroutine.
func (d *Dataplane) Status() Status {
	s := Status{
		Nexthops:  !d.vteps.dst,
		VTEPs:     len(d.vteps.all()),
		Written:   map[evpn.Table]OpCounts{},
		Removed:   map[evpn.Table]OpCounts{},
		Overruns:  d.counts.overruns.Load(),
		Resyncs:   d.counts.resyncs.Load(),
		Tampered:  d.counts.tampered.Load(),
		Malformed: d.counts.malformed.Load(),
		Snoop:     d.snooper.status(),
		Questions: d.topo.answers.status(),
		Probes:    d.prober.status(),
		NotMade:   map[evpn.VNI]string{},
	}
	for vni, f := range d.provisioner.failed() {
		s.NotMade[vni] = f.String()
	}
	for table := evpn.TableVTEP; table <= evpn.TableNeighbor; table++ {
		t := &d.counts.tables[table]
		added, removed := t[0].load(), t[1].load()
		s.Removed[table] = removed
		s.Written[table] = OpCounts{
			Done: added.Done + removed.Done, Failed: added.Failed + removed.Failed, Foreign: added.Foreign + removed.Foreign,
		}
	}
	for _, at := range d.topo.all() {
		s.Attachments = append(s.Attachments, at.Attachment)
	}
	d.topo.mu.RLock()
	defer d.topo.mu.RUnlock()
	for _, f := range d.topo.unserved() {
		s.Unserved = append(s.Unserved, f.String())
	}
	return s
}
