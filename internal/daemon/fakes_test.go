package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/evpnd/evpnd/config"
	"github.com/evpnd/evpnd/dataplane"
	"github.com/evpnd/evpnd/evpn"
	"github.com/evpnd/evpnd/speaker"
)

// journal is the order in which the parts of a daemon were told things.
type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) add(format string, args ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, fmt.Sprintf(format, args...))
}

func (j *journal) all() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.lines)
}

// mapKernel is a kernel made of a map.
type mapKernel struct {
	journal *journal
	facts   chan []evpn.Event // Run hands them on
	fail    chan error        // ends Run

	mu           sync.Mutex
	entries      map[evpn.EntryKey]evpn.Entry
	refusals     map[evpn.EntryKey]evpn.OpError // Err and Foreign of ops on a key
	tries        map[evpn.EntryKey]int
	readBacks    []kernelWork
	readBackErr  error
	reconfigured []dataplane.Options
	flushErr     error
	faults       []evpn.Fault
	asked        []netip.Addr                                          // by Diagnose
	takes        time.Duration                                         // Apply
	panics       atomic.Bool                                           // Status panics
	pinging      func(context.Context, func(dataplane.PingStep)) error // PingVTEP, when it is set
}

func newMapKernel(j *journal) *mapKernel {
	return &mapKernel{
		journal: j, facts: make(chan []evpn.Event), fail: make(chan error, 1),
		entries: map[evpn.EntryKey]evpn.Entry{}, refusals: map[evpn.EntryKey]evpn.OpError{}, tries: map[evpn.EntryKey]int{},
	}
}

func (k *mapKernel) Run(ctx context.Context, sink chan<- []evpn.Event) error {
	defer k.journal.add("kernel watcher ended")
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-k.fail:
			return err
		case batch := <-k.facts:
			select {
			case sink <- batch:
			case <-ctx.Done():
				return nil
			}
		}
	}
}

func (k *mapKernel) Apply(_ context.Context, b evpn.KernelBatch) evpn.Applied {
	k.mu.Lock()
	takes := k.takes
	k.mu.Unlock()
	time.Sleep(takes) // of a clock that is not real, and stands still while someone waits for the lock
	k.mu.Lock()
	defer k.mu.Unlock()
	applied := evpn.Applied{Batch: b.Seq}
	for _, op := range b.Ops {
		k.tries[op.Key]++
		switch refusal, refused := k.refusals[op.Key]; {
		case refused:
			refusal.Op = op
			applied.Failed = append(applied.Failed, refusal)
		case op.Del:
			delete(k.entries, op.Key)
		default:
			k.entries[op.Key] = op.Entry
		}
	}
	return applied
}

func (k *mapKernel) Look(_ context.Context, keys []evpn.EntryKey, asOf uint64) evpn.Looked {
	k.mu.Lock()
	defer k.mu.Unlock()
	found := evpn.Looked{AsOf: asOf, Keys: keys}
	for _, key := range keys {
		if e, ok := k.entries[key]; ok {
			found.Entries = append(found.Entries, evpn.ObservedEntry{Key: key, Entry: e, Ours: true})
		}
	}
	return found
}

func (k *mapKernel) ReadBack(_ context.Context, vnis []evpn.VNI, asOf uint64) ([]evpn.Event, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.readBacks = append(k.readBacks, kernelWork{readBack: vnis, asOf: asOf})
	if k.readBackErr != nil {
		return nil, k.readBackErr
	}
	var facts []evpn.Event
	for _, vni := range vnis {
		o := evpn.Observed{VNI: vni, AsOf: asOf}
		for key, e := range k.entries {
			if key.VNI == vni {
				o.Entries = append(o.Entries, evpn.ObservedEntry{Key: key, Entry: e, Ours: true})
			}
		}
		facts = append(facts, o)
	}
	return facts, nil
}

func (k *mapKernel) Probe(probes []evpn.Probe) {
	k.journal.add("probed %v", probes)
}

func (k *mapKernel) WatchVTEPs(vteps []netip.Addr) {
	k.journal.add("watches %v", vteps)
}

// PingVTEP reports a step for each VNI that is asked in, and a fault.
func (k *mapKernel) PingVTEP(ctx context.Context, target dataplane.PingTarget, report func(dataplane.PingStep)) error {
	k.journal.add("pings %v", target)
	if k.pinging != nil {
		return k.pinging(ctx, report)
	}
	for _, v := range target.VNIs {
		report(dataplane.PingStep{Mark: dataplane.PingOK, Topic: "vni", VNI: v.VNI, Text: "answers", RTT: time.Millisecond})
	}
	report(dataplane.PingStep{Mark: dataplane.PingFault, Topic: "mtu", Code: evpn.FaultPingMTU, Text: "narrow\xff", Remedy: "widen it"})
	return nil
}

func (k *mapKernel) Reconfigure(opts dataplane.Options) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.reconfigured = append(k.reconfigured, opts)
}

func (k *mapKernel) Flush(ctx context.Context) error {
	k.journal.add("kernel flushed, context %v", ctx.Err())
	k.mu.Lock()
	defer k.mu.Unlock()
	clear(k.entries)
	return k.flushErr
}

func (k *mapKernel) Status() dataplane.Status {
	if k.panics.Load() {
		panic("no status today")
	}
	return dataplane.Status{
		Nexthops: true, Overruns: 2, Resyncs: 1, NotMade: map[evpn.VNI]string{200: "vxlan200 not made: rename the other one"},
		Snoop: dataplane.SnoopStatus{Ports: 5, Rate: 700, Off: "no right", Each: []dataplane.SnoopedPort{
			{Port: "tap1", VNIs: []evpn.VNI{100}, Reading: true, Packets: []dataplane.SnoopCount{{Proto: "dhcp", Verdict: "unasked", Packets: 4}}},
			{Port: "tap2", VNIs: []evpn.VNI{100, 200}},
			{Port: "tap3", VNIs: []evpn.VNI{200}},
		}, Packets: []dataplane.SnoopCount{
			{Proto: "arp", Verdict: "accepted", Packets: 9}, {Proto: "nd", Verdict: "spoofed", Packets: 1},
		}},
		Probes: dataplane.ProbeStatus{Sent: 21, Answered: 17, Missed: 3, Each: map[netip.Addr]dataplane.VTEPProbe{
			vtep2: {State: dataplane.ProbeAnswers, RTT: time.Millisecond}, vtep3: {State: dataplane.ProbeNever},
		}},
		Questions: []dataplane.QuestionCount{{VNI: 100, Answered: 7, Unknown: 2, Flooded: 1}},
		Written:   map[evpn.Table]dataplane.OpCounts{evpn.TableFDB: {Done: 3, Failed: 2, Foreign: 1}},
		Removed:   map[evpn.Table]dataplane.OpCounts{evpn.TableFDB: {Done: 1}},
	}
}

func (k *mapKernel) Faulty() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.faults)
}

func (k *mapKernel) Diagnose(vteps []netip.Addr) ([]evpn.Fault, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.asked = vteps
	return k.faults, nil
}

// ClearForeign has one entry in the way in each VNI but 999.
func (k *mapKernel) ClearForeign(vni evpn.VNI, flood, remove bool) ([]dataplane.Leftover, error) {
	if vni == 999 {
		return nil, fmt.Errorf("entries of others: %w", dataplane.ErrNotServed)
	}
	k.journal.add("foreign %d flood %t remove %t", vni, flood, remove)
	return []dataplane.Leftover{
		{Key: evpn.EntryKey{Table: evpn.TableFlood, VNI: vni, Addr: vtep3}, Err: errors.New("busy")},
		{Key: fdbKey(vni, macC), Entry: evpn.Entry{VTEP: vtep3}},
		{Key: evpn.EntryKey{Table: evpn.TableNeighbor, VNI: vni, Addr: vtep2}, Entry: evpn.Entry{MAC: macC}},
	}, nil
}

// hold returns what is in the kernel.
func (k *mapKernel) hold() map[evpn.EntryKey]evpn.Entry {
	k.mu.Lock()
	defer k.mu.Unlock()
	return maps.Clone(k.entries)
}

// refuse has the kernel refuse every op on a key; a nil error has it take them again.
func (k *mapKernel) refuse(key evpn.EntryKey, err error, foreign bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err == nil {
		delete(k.refusals, key)
		return
	}
	refusal := evpn.OpError{Err: err, Foreign: foreign}
	if foreign {
		refusal.Mend = "take away what is in the way of " + key.String()
	}
	k.refusals[key] = refusal
}

// slow makes every batch take so long; only for a test with a clock of its own.
func (k *mapKernel) slow(d time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.takes = d
}

func (k *mapKernel) triesOf(key evpn.EntryKey) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.tries[key]
}

func (k *mapKernel) readBacksSoFar() []kernelWork {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.readBacks)
}

// recorder stands for BGP and writes down what it is told.
type recorder struct {
	journal *journal
	gate    chan struct{} // Apply takes a token from it before it begins; nil: it need not
	fail    chan error    // ends Run

	mu        sync.Mutex
	sessions  []speaker.SessionInfo
	ops       []evpn.RouteOp
	applyErr  error
	importErr error
	atApply   func() // called by Apply
	configs   []*config.Config
	configErr func(*config.Config) error
}

func (r *recorder) Run(ctx context.Context) error {
	defer r.journal.add("bgp ended")
	select {
	case <-ctx.Done():
		return nil
	case err := <-r.fail:
		return err
	}
}

func (r *recorder) Configure(cfg *config.Config) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.configs = append(r.configs, cfg)
	if r.configErr != nil {
		return r.configErr(cfg)
	}
	return nil
}

func (r *recorder) Apply(ops []evpn.RouteOp) error {
	if r.gate != nil {
		<-r.gate
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.atApply != nil {
		r.atApply()
	}
	r.ops = append(r.ops, ops...)
	for _, op := range ops {
		verb := "announce"
		if op.Withdraw {
			verb = "withdraw"
		}
		r.journal.add("%s %s %s", verb, op.Route.Key.RD, op.Route.Key)
	}
	return r.applyErr
}

func (r *recorder) SetImportRTs(rts []evpn.RT) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.journal.add("import %v", rts)
	return r.importErr
}

func (r *recorder) ForwardingLost() { r.journal.add("forwarding lost") }

func (r *recorder) ReleaseEoR() { r.journal.add("release End-of-RIB") }

func (r *recorder) HandOver(context.Context) []*speaker.Handover { return nil }

func (r *recorder) Engine() speaker.EngineInfo {
	return speaker.EngineInfo{Replacements: 3, Withdrawn: 17, Limit: 20_000}
}

func (r *recorder) Sessions() []speaker.SessionInfo {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.sessions)
}

func (r *recorder) LimitPeer(peer netip.Addr, most int) {
	r.journal.add("peer %s has more than %d routes", peer, most)
}

func (r *recorder) ClosePeer(peer netip.Addr, reason string) {
	r.journal.add("close %s: %s", peer, reason)
}

var errNoSession = errors.New("no EVPN session")

func (r *recorder) RequestRefresh(peer netip.Addr) error {
	r.journal.add("refresh %s", peer)
	for _, s := range r.Sessions() {
		if s.Peer == peer && s.State == speaker.StateEstablished {
			return nil
		}
	}
	return errNoSession
}

func (r *recorder) setSessions(s ...speaker.SessionInfo) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sessions = s
}

func (r *recorder) opsSoFar() []evpn.RouteOp {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.ops)
}

func (r *recorder) configsSoFar() []*config.Config {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.configs)
}
