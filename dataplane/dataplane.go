package dataplane

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mdlayher/netlink"
	"github.com/sirupsen/logrus"
	vishvananda "github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"

	"github.com/evpnd/evpnd/evpn"
)

const (
	// Room for 160,000 hosts that speak up at once, faster than we get to read about them: the kernel takes memory for
	// what waits only, and what it loses costs a read-back of everything.
	defaultReceiveBuffer  = 64 << 20
	defaultResyncInterval = 2 * time.Second
	retryAfter            = time.Second // a read-back that failed is tried again
)

// Dataplane watches and writes the kernel of the network namespace it was made in. All methods but Close may run side by
// side; batches are written in the order in which Apply is called.
type Dataplane struct {
	log      logrus.FieldLogger
	interval time.Duration
	topo     *topology
	vteps    *vteps
	floods   *floods
	expected *rowSet
	standIns *rowSet
	replaced *rowSet
	echoes   *echoes
	pending  *pending
	counts   counters
	snooper  *snooper
	ways     *ways
	prober   *prober
	answerer *pingAnswerer

	provisioner *provisioner
	namespace   *namespaceClaim // nil: there is none
	patience    time.Duration   // with a predecessor that has the claim
	claimWake   waker           // holds a token when there may be something to serve

	links   *vishvananda.Handle
	manager managerSocket
	watcher *watcher
	reader  *rtnl // of Run's dumps

	reported uint64 // of pending.concerns; the reporter's only

	kernel  sync.Mutex // guards writer; held while a chunk is written and while a dump runs: see observer.observe
	writer  *writer
	written atomic.Uint64 // last batch that was written completely
	looked  evpn.Looked   // the last answer of Look, whose room serves the next
}

// managerSocket is what manage sends its own messages with.
type managerSocket struct {
	sync.Mutex
	rtnl *rtnl
}

// New opens the sockets and finds out what the kernel can do. From here on no change is missed. It needs CAP_NET_ADMIN.
// Close must be called when it is no longer used.
func New(opt Options, log logrus.FieldLogger) (*Dataplane, error) {
	d := &Dataplane{
		log: log, interval: opt.ResyncInterval, floods: newFloods(), patience: lastBreath, claimWake: newWaker(),
		expected: newRowSet(), standIns: newRowSet(), replaced: newRowSet(), echoes: newEchoes(),
		pending: newPending(), provisioner: newProvisioner(),
	}
	if d.interval == 0 {
		d.interval = defaultResyncInterval
	}
	if opt.ReceiveBuffer == 0 {
		opt.ReceiveBuffer = defaultReceiveBuffer
	}
	d.topo = newTopology(opt, d.pending)
	d.snooper = newSnooper(d.topo, d.pending, log)
	d.ways = newWays(d.topo, d.pending, &d.snooper.own, log)
	d.prober = newProber(d.topo, d.ways.changed, log)
	d.ways.silent = d.prober.why
	d.answerer = newPingAnswerer(d.topo, d.floods, d.ways, log)
	d.topo.portsChanged, d.topo.unmadeChanged, d.topo.claimWanted = d.snooper.changed, d.provisioner.changed, d.claimSoon
	if err := d.open(opt.ReceiveBuffer); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	nexthops, err := probeNexthops(d.writer.rtnl)
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	if !nexthops {
		log.Warn("kernel has no fdb nexthops, each remote mac carries its vtep")
	}
	if err := d.useNexthops(nexthops); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// useNexthops chooses between nexthop groups and dst mode.
func (d *Dataplane) useNexthops(yes bool) error {
	d.vteps = newVTEPs(!yes)
	d.writer.vteps, d.watcher.vteps = d.vteps, d.vteps
	return d.watcher.listen(d.writer.rtnl.port, yes)
}

func (d *Dataplane) open(receiveBuffer int) (err error) {
	d.writer = &writer{
		topo: d.topo, floods: d.floods, expected: d.expected, standIns: d.standIns, replaced: d.replaced, echoes: d.echoes,
		undisturbed: d.undisturbed,
	}
	d.watcher = &watcher{
		topo: d.topo, floods: d.floods, expected: d.expected, standIns: d.standIns, replaced: d.replaced, echoes: d.echoes,
		pending: d.pending, counts: &d.counts, log: d.log, buf: make([]byte, datagram), overOurs: overOurs{},
	}
	for _, s := range []**rtnl{&d.writer.rtnl, &d.watcher.rtnl, &d.manager.rtnl, &d.reader} {
		if *s, err = dialRTNL(); err != nil {
			return err
		}
	}
	if d.links, err = vishvananda.NewHandle(); err != nil {
		return fmt.Errorf("open link socket: %w", err)
	}
	if d.watcher.echoConn, err = dialEchoes(); err != nil {
		return err
	}
	if d.watcher.conn, err = dialWatch(receiveBuffer); err != nil {
		return err
	}
	return d.ways.open()
}

// Close closes the sockets. Run must have ended.
func (d *Dataplane) Close() error {
	var errs []error
	for _, s := range []*rtnl{d.writer.rtnl, d.watcher.rtnl, d.manager.rtnl, d.reader} {
		if s != nil {
			errs = append(errs, s.close())
		}
	}
	if d.links != nil {
		d.links.Close()
	}
	for _, c := range []*netlink.Conn{d.watcher.conn, d.watcher.echoConn} {
		if c != nil {
			errs = append(errs, c.Close())
		}
	}
	return errors.Join(append(errs, d.ways.close(), d.namespace.close())...)
}

// Run reports what the kernel holds and then what changes, until ctx ends; it returns nil then. The first report is
// every AttachmentUp and the local MACs, then one Observed for each VNI and one for the table of VTEPs, Reported and Synced. Run
// may be called once.
func (d *Dataplane) Run(ctx context.Context, sink chan<- []evpn.Event) error {
	for _, s := range []*rowSet{d.expected, d.standIns, d.replaced} {
		s.watched.Store(true)
		defer s.watched.Store(false)
	}
	d.echoes.watch(true)
	defer d.echoes.watch(false)
	if err := d.startLinks(ctx); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return d.watcher.run(ctx) }) // reads notifications into pending
	g.Go(func() error { return d.watcher.watchEchoes(ctx) })
	g.Go(func() error { d.snooper.run(ctx); return nil })  // reads the frames of hosts into pending
	g.Go(func() error { d.provide(ctx); return nil })      // makes devices that are missing
	g.Go(func() error { d.keepClaiming(ctx); return nil }) // has us serve once another evpnd is gone
	g.Go(func() error { return d.ways.listen(ctx) })       // hears of changes in the underlay
	g.Go(func() error { d.ways.run(ctx); return nil })     // looks what they mean for VTEPs
	g.Go(func() error { d.prober.run(ctx); return nil })   // asks VTEPs whether they are there
	g.Go(func() error { d.answerer.run(ctx); return nil }) // answers the pings of other VTEPs
	g.Go(func() error {                                    // takes them out of pending
		d.firstReport(ctx, sink)
		return d.reportLoop(ctx, sink)
	})
	return g.Wait()
}

// startLinks reads the links and mends what it may. From then on the watcher alone keeps the links: a dump that is older
// than a notification must not undo it.
func (d *Dataplane) startLinks(ctx context.Context) error {
	if err := d.readLinks(); err != nil {
		return err
	}
	d.claim(ctx, d.patience)
	mended := len(d.topo.incomplete()) > 0
	d.provision()
	if mended { // what was made may need the settings of what is managed
		if err := d.readLinks(); err != nil {
			return err
		}
	}
	for _, at := range d.topo.all() {
		mended = mended || at.mend != (mend{})
		d.manage(at)
	}
	if mended { // so that nothing is reported as a fault that we have just mended
		if err := d.readLinks(); err != nil {
			return err
		}
	}
	d.pending.take() // the first report says all of it
	return nil
}

func (d *Dataplane) readLinks() error {
	links, err := dumpLinks(d.reader, 0)
	if err != nil {
		return err
	}
	d.topo.replace(links)
	return nil
}

// Apply carries out a batch, in order, and reports what was refused. One entry that is refused does not stop the others.
// While Run does not run nobody hears of what others do, and KernelOp.Intact is taken at its word.
func (d *Dataplane) Apply(ctx context.Context, b evpn.KernelBatch) evpn.Applied {
	failed := d.writer.apply(ctx, b, &d.kernel, &d.counts)
	d.written.Store(b.Seq)
	return evpn.Applied{Batch: b.Seq, Failed: failed}
}

// undisturbed reports that an op with KernelOp.Intact may be carried out without looking first: a core that has been told asOf
// things knows all that others have done to entries of ours until now. Where each MAC carries its VTEP the kernel does not
// tell others' rows from ours.
func (d *Dataplane) undisturbed(asOf uint64) bool {
	if !d.expected.watched.Load() {
		return true
	}
	return !d.vteps.dst && d.watcher.catchUp() && d.pending.noted() == asOf
}

// ReadBack says what the kernel holds for each of vnis, 0 being the table of VTEPs. asOf is the last batch applied. It
// is silent about local hosts (nil MACs and IPs): only Run knows the order of a dump and of what it saw change. After an error
// Run reads all of vnis, and reports them as it does what it reads by itself.
func (d *Dataplane) ReadBack(ctx context.Context, vnis []evpn.VNI, asOf uint64) ([]evpn.Event, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	events, err := d.observe(d.writer.rtnl, vnis)
	if err != nil {
		d.pending.reread(vnis...)
	}
	for i, ev := range events {
		o := ev.(evpn.Observed)
		o.AsOf, o.MACs, o.IPs = asOf, nil, nil
		events[i] = o
	}
	return events, err
}

// Look says what the kernel holds under keys, of all tables but that of VTEPs. asOf is the last batch applied. A flood list cannot
// be looked up, the kernel shows its first entry only; entries of ours are written once more instead, which changes nothing
// where they stand, and are said to be there. What was missing is notified, and reported as tampered with. The answer is good
// until Look is called again.
func (d *Dataplane) Look(ctx context.Context, keys []evpn.EntryKey, asOf uint64) evpn.Looked {
	found := &d.looked
	*found = evpn.Looked{AsOf: asOf, Keys: found.Keys[:0], Entries: found.Entries[:0]}
	for chunk := range slices.Chunk(keys, maxBatch) {
		if ctx.Err() != nil {
			break
		}
		d.kernel.Lock()
		d.writer.look(chunk, found)
		d.kernel.Unlock()
	}
	return *found
}

// Reconfigure replaces the options, but for the socket's. Entries of ours in VNIs that are no longer served are removed;
// nothing is written until that is done and those VNIs refuse writes, so that none comes in behind. Devices that were made
// for VNIs that are not named any more are removed.
func (d *Dataplane) Reconfigure(opt Options) {
	d.kernel.Lock()
	defer d.kernel.Unlock()
	var stopped []evpn.VNI
	for _, at := range d.topo.all() {
		if !opt.serves(at.VNI) {
			stopped = append(stopped, at.VNI)
		}
	}
	if err := d.flush(context.Background(), stopped); err != nil {
		d.log.WithError(err).Warn("entries of vnis that are no longer served are left")
	}
	old := d.topo.options()
	d.topo.configure(opt)
	d.ways.changed()
	d.prober.reconfigured()
	d.removeCreated(old)
}

// Flush removes every entry that is ours. The error joins what was refused.
func (d *Dataplane) Flush(ctx context.Context) error {
	if !d.expected.watched.Load() {
		if err := d.readLinks(); err != nil {
			return err
		}
	}
	vnis := []evpn.VNI{0}
	for _, at := range d.topo.all() {
		vnis = append(vnis, at.VNI)
	}
	d.kernel.Lock()
	defer d.kernel.Unlock()
	return d.flush(ctx, vnis)
}

// flush removes our entries of vnis; kernel is held.
func (d *Dataplane) flush(ctx context.Context, vnis []evpn.VNI) error {
	events, err := d.observeHeld(d.writer.rtnl, vnis)
	if err != nil {
		return err
	}
	var ops []evpn.KernelOp
	for _, ev := range events {
		for _, e := range ev.(evpn.Observed).Entries {
			if e.Ours {
				ops = append(ops, evpn.KernelOp{Key: e.Key, Entry: e.Entry, Del: true})
			}
		}
	}
	slices.SortStableFunc(ops, func(a, b evpn.KernelOp) int { return int(b.Key.Table) - int(a.Key.Table) })
	var errs []error
	for _, f := range d.writer.apply(ctx, evpn.KernelBatch{Ops: ops}, held{}, &d.counts) {
		errs = append(errs, f.Err)
	}
	return errors.Join(errs...)
}

// held stands for a lock that the caller holds already.
type held struct{}

func (held) Lock()   {}
func (held) Unlock() {}
