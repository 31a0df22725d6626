// Package daemon is the loop that carries facts to the core and its decisions out again, and what looks at that loop:
// the gRPC server, metrics and the state file.
//
// One goroutine owns the core (owner.go). Everything else talks to it through bounded channels: adapters send facts,
// the API sends queries that run between facts and copy out what they need. A writer goroutine applies kernel batches and
// reports them back as facts (write.go); an announcer goroutine hands routes to BGP (announce.go). The owner waits for
// neither. Further goroutines send the probes of silent hosts, and save what frames told of hosts (hosts.go).
package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"
	"google.golang.org/grpc/health"

	"github.com/evpnd/evpnd/config"
	"github.com/evpnd/evpnd/dataplane"
	"github.com/evpnd/evpnd/evpn"
	"github.com/evpnd/evpnd/speaker"
)

// eventQueue bounds the batches of facts that wait for the owner. When it is full, readers wait or coalesce: TCP pushes
// back on peers, and a netlink socket that overflows is read back. It is short, since what is new waits behind all of it.
const eventQueue = 1

// Kernel is what the daemon needs of the dataplane.
type Kernel interface {
	// Run reports what there is, then Synced, then what changes, until ctx ends.
	Run(ctx context.Context, sink chan<- []evpn.Event) error
	// Apply, ReadBack and Look are called by one goroutine, in order. ReadBack says nothing of local hosts: only Run knows
	// how a dump is ordered against what changed around it.
	Apply(ctx context.Context, b evpn.KernelBatch) evpn.Applied
	ReadBack(ctx context.Context, vnis []evpn.VNI, asOf uint64) ([]evpn.Event, error)
	Look(ctx context.Context, keys []evpn.EntryKey, asOf uint64) evpn.Looked
	// Probe asks local hosts for their addresses. It does not wait for answers.
	Probe(probes []evpn.Probe)
	// WatchVTEPs replaces the remote VTEPs whose reachability Run reports; it does not wait.
	WatchVTEPs(vteps []netip.Addr)
	Reconfigure(opts dataplane.Options)
	// Flush removes every entry of ours.
	Flush(ctx context.Context) error
	Status() dataplane.Status
	// Faulty counts the VNIs that cannot be served for their devices' faults.
	Faulty() int
	// PingVTEP tries the way to a remote VTEP, and reports each step; it may be called from any goroutine.
	PingVTEP(ctx context.Context, target dataplane.PingTarget, report func(dataplane.PingStep)) error
	// Diagnose looks for what is set up wrongly on this host; vteps are the remote ones.
	Diagnose(vteps []netip.Addr) ([]evpn.Fault, error)
	// ClearForeign finds the entries of other daemons in a VNI, and removes them if it is to.
	ClearForeign(vni evpn.VNI, flood, remove bool) ([]dataplane.Leftover, error)
}

// BGP is what the daemon needs of the speaker.
type BGP interface {
	// Run holds the sessions and reports what they say, until ctx ends.
	Run(ctx context.Context) error
	Configure(cfg *config.Config) error
	// ForwardingLost says before Run that no kernel entry of the last life is left.
	ForwardingLost()
	// Apply, SetImportRTs and ReleaseEoR are called by one goroutine, in order.
	Apply(ops []evpn.RouteOp) error
	SetImportRTs(rts []evpn.RT) error
	ReleaseEoR()
	Sessions() []speaker.SessionInfo
	Engine() speaker.EngineInfo
	ClosePeer(peer netip.Addr, reason string)
	LimitPeer(peer netip.Addr, most int)
	RequestRefresh(peer netip.Addr) error
	// HandOver stops the sessions for another process to go on with; Run is ended next.
	HandOver(ctx context.Context) []*speaker.Handover
}

// Daemon is one running evpnd.
type Daemon struct {
	kernel Kernel
	bgp    BGP
	log    *logrus.Logger
	opts   Options

	owned   // touched by the owner only
	events  chan []evpn.Event
	queries chan query
	stopped chan struct{} // closed when the owner has ended

	kernelIn chan kernelWork
	written  chan []evpn.Event // what became of it
	probesIn chan []evpn.Probe
	routesIn chan announcement
	pings    chan struct{} // holds a token for each ping that is under way
	// listening brings what a reload has opened, and sockets are those in use; nil: there are none.
	listening chan listening
	sockets   atomic.Pointer[Sockets]
	// resequenced holds a token when sequence numbers are to be saved.
	resequenced chan struct{}

	started  time.Time
	instance string // tells the tokens of this life from those of others
	config   configState
	counts   counters
	latency  latencies
	waiting  backlogs
	rowLog   rowLog
	pace     *pace
	ready    atomic.Bool // the kernel has been read, and BGP has our routes
	checks   *health.Server
	manager  serviceManager
	heart    heartbeat

	leaving atomic.Bool   // the sessions are being handed over, or have been
	heir    *net.UnixConn // who takes over; nil: nobody does, or systemd's store
	will    *will         // what for them; nil: nothing
}

// Options are the parts of a daemon.
type Options struct {
	Config     *config.Config // checked, VTEP resolved
	ConfigPath string
	Version    string
	Kernel     Kernel
	BGP        BGP
	Events     chan []evpn.Event // the sink that BGP was made with
	Sockets    *Sockets          // what Listen opened for Config; nil: neither API nor metrics
	Log        *logrus.Logger
	// Notify is called with READY=1, STATUS=… and so on, as sd_notify(3) takes them; nil: nobody listens.
	Notify func(state string)
	// Watchdog is how long the service manager waits for a WATCHDOG=1 before it ends us; 0: it does not watch.
	Watchdog time.Duration
	Pprof    bool // serve /debug/pprof/ beside the metrics
	// Facts and Hosts are what the evpnd before has left: Legacy.Adopt.
	Facts []evpn.Event
	Hosts []evpn.NumberedHost
	Store *FDStore // keeps the sessions over a restart; nil: nobody does
}

// NewEvents makes the channel that carries facts to the owner.
func NewEvents() chan []evpn.Event { return make(chan []evpn.Event, eventQueue) }

// New puts a daemon together. Nothing runs before Run. A file of the state directory that cannot be used is logged and no
// error: what it remembers is found again, if later or under other numbers.
func New(opts Options) *Daemon {
	numbers, err := loadRDNumbers(opts.Config.StateDir)
	if err != nil {
		opts.Log.WithError(err).Warn("state file not used, route distinguishers of vnis above 65535 may change")
	}
	core := opts.Config.Core()
	core.RDNumbers = numbers
	now := time.Now()
	d := &Daemon{
		kernel: opts.Kernel, bgp: opts.BGP, log: opts.Log, opts: opts,
		owned: owned{
			core: evpn.New(core), limits: map[evpn.NoteKind]*noteLimit{}, moves: map[evpn.VNI]uint64{}, watchers: map[chan struct{}]bool{},
			eventLog: noteLimit{Limiter: rate.NewLimiter(eventsPerSecond, eventsAtOnce)},
		},
		events:      opts.Events,
		queries:     make(chan query),
		stopped:     make(chan struct{}),
		kernelIn:    make(chan kernelWork, maxKernelWork),
		written:     make(chan []evpn.Event, maxKernelWork),
		probesIn:    make(chan []evpn.Probe, maxProbeWork),
		routesIn:    make(chan announcement),
		pings:       make(chan struct{}, maxPings),
		listening:   make(chan listening),
		resequenced: make(chan struct{}, 1),
		started:     now,
		latency:     newLatencies(),
		pace:        newPace(),
		instance:    strconv.FormatInt(now.UnixNano(), 36),
		config:      configState{current: opts.Config, loaded: now},
		checks:      health.NewServer(),
		manager:     serviceManager{send: opts.Notify},
		heart:       newHeartbeat(opts.Watchdog),
	}
	d.rowLog.read, d.rowLog.changes = (&inspect{d: d}).readRows, evpn.NewChangeLog[rowName](rowLogRecords)
	d.sockets.Store(opts.Sockets)
	d.keepPeers(opts.Config)
	lost, err := rebooted(opts.Config.StateDir)
	if err != nil {
		opts.Log.WithError(err).Warn("not known whether the host was rebooted, peers are told that it was not")
	}
	if lost {
		opts.BGP.ForwardingLost()
	}
	remembered, err := loadHosts(opts.Config.StateDir, now)
	if err != nil {
		opts.Log.WithError(err).Warn("hosts of the last start not used, addresses of silent ones may be withdrawn")
	}
	remembered.Hosts = opts.Hosts
	d.core.Handle(remembered, now)
	for _, fact := range opts.Facts {
		d.core.Handle(fact, now)
	}
	d.opts.Facts, d.opts.Hosts = nil, nil
	return d
}

// Run serves until ctx ends, or until a part that cannot be done without fails. Kernel entries stay when it returns,
// unless the configuration says flush-on-exit and nothing has failed: the next start, which is near after a failure, takes
// them over. A successor that asks for it gets the sessions as well. It returns when nothing of the daemon runs any more, and can be called
// once.
func (d *Daemon) Run(ctx context.Context) error {
	stop := ctx
	ctx, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { d.leave(stop, ctx, end); return nil })
	g.Go(func() error { d.own(ctx); return nil })
	g.Go(func() error { return ended(ctx, "dataplane", d.kernel.Run(ctx, d.events)) })
	g.Go(func() error { return ended(ctx, "bgp", d.bgp.Run(ctx)) })
	g.Go(func() error { d.write(ctx); return nil })
	g.Go(func() error { d.probe(ctx); return nil })
	g.Go(func() error { d.remember(ctx); return nil })
	g.Go(func() error { d.announce(ctx); return nil })
	g.Go(func() error { d.watchHealth(ctx); return nil })
	g.Go(func() error { d.tidy(ctx); return nil })
	g.Go(func() error { d.feedWatchdog(ctx); return nil })
	if s := d.opts.Sockets; s != nil {
		g.Go(func() error { return d.serve(ctx, s, end) })
	}
	g.Go(func() error { <-ctx.Done(); d.manager.stopping(); return nil })
	err := g.Wait()
	if d.heir != nil {
		return errors.Join(err, d.bequeath())
	}
	if d.will != nil {
		return errors.Join(err, d.store())
	}
	if err != nil || !d.config.get().FlushOnExit {
		return err
	}
	if err := d.kernel.Flush(context.WithoutCancel(ctx)); err != nil {
		return fmt.Errorf("flush kernel entries: %w", err)
	}
	return nil
}

// ended is the error of a part that may end only because ctx has.
func ended(ctx context.Context, part string, err error) error {
	switch {
	case err != nil && !errors.Is(err, context.Canceled):
		return fmt.Errorf("%s: %w", part, err)
	case ctx.Err() == nil:
		return fmt.Errorf("%s: ended by itself", part)
	}
	return nil
}
