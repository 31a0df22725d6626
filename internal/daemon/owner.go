package daemon

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/evpnd/evpnd/config"
	"github.com/evpnd/evpnd/evpn"
)

// errStopped is the answer to a query that comes too late.
var errStopped = errors.New("evpnd is stopping")

// owned is what belongs to the owner.
type owned struct {
	core   *evpn.Core
	batch  uint64                   // last one given to the writer
	left   map[netip.Addr]time.Time // when the last session ended, of configured peers only: dynamic ones are without number
	limits map[evpn.NoteKind]*noteLimit
	moves  map[evpn.VNI]uint64 // changes of a MAC's owner
	watch  stopwatch

	watchers map[chan struct{}]bool // those who follow; each is told, without waiting, that there is something new
	told     [3]uint64              // the last record and the last change that they were told of

	logged   uint64 // the last of the core's records that was looked at for the log
	eventLog noteLimit
}

// keepPeers makes left hold the peers of cfg and no others.
func (o *owned) keepPeers(cfg *config.Config) {
	left := make(map[netip.Addr]time.Time, len(cfg.Peers))
	for _, p := range cfg.Peers {
		left[p.Address] = o.left[p.Address]
	}
	o.left = left
}

// query runs on the owner.
type query struct {
	run  func(*evpn.Core)
	done chan struct{}
}

// onOwner runs f on the owner, between two facts, and waits for it. What f changes is carried out afterwards.
func (d *Daemon) onOwner(ctx context.Context, f func(*evpn.Core)) error {
	q := query{run: f, done: make(chan struct{})}
	select {
	case d.queries <- q:
		<-q.done // the owner runs what it has taken
		return nil
	case <-d.stopped:
		return errStopped
	case <-ctx.Done():
		return ctx.Err()
	}
}

// ask has f look at the core on the owner. f copies out what it needs and keeps no pointer. When f panics, that is an
// error of the one who asks: looking must not take forwarding down.
func (d *Daemon) ask(ctx context.Context, f func(*evpn.Core)) error {
	var failed error
	err := d.onOwner(ctx, func(c *evpn.Core) {
		defer func() {
			if r := recover(); r != nil {
				failed = d.panicked("query", r)
			}
		}()
		f(c)
	})
	return errors.Join(err, failed)
}

// own is the loop of the owner. It holds the core until ctx ends, and is the only one who touches it.
func (d *Daemon) own(ctx context.Context) {
	defer close(d.stopped)
	wake := time.NewTimer(0)
	defer wake.Stop()
	ticks, stop := d.heart.ticks()
	defer stop()
	var out announcement // what the announcer has not taken yet
	for {
		var announcer chan<- announcement
		if !out.empty() {
			announcer = d.routesIn
		}
		select {
		case <-ctx.Done():
			return
		case facts := <-d.written:
			d.take(facts, time.Now())
		case batch := <-d.events:
			d.handle(batch)
		case q := <-d.queries:
			q.run(d.core)
			close(q.done)
		case announcer <- out:
			out = announcement{}
			d.waiting.routes.Store(0)
			continue
		case <-ticks:
			d.heart.beat()
			continue
		case <-wake.C:
		}
		now := time.Now()
		o := d.core.Flush(now)
		since := d.watch.flushed(&o)
		d.sendToKernel(o)
		d.sendProbes(o)
		if o.VTEPs != nil {
			d.kernel.WatchVTEPs(o.VTEPs)
		}
		d.saveSoon(o)
		out.add(o, since)
		d.waiting.kernel.Store(int64(o.Backlog))
		d.waiting.routes.Store(int64(out.waiting))
		d.noteAll(o.Notes, now)
		d.logEvents(now)
		d.tellWatchers()
		if !o.Wake.IsZero() {
			wake.Reset(o.Wake.Sub(now))
		}
	}
}

// burst is how many batches of facts are decided together at most.
const burst = 2

// handle takes in one batch of facts and what else is waiting, so that a burst is decided once; unless the writer has done what it
// had, and waits.
func (d *Daemon) handle(batch []evpn.Event) {
	now := time.Now()
	for n := 1; ; n++ {
		d.take(batch, now)
		select {
		case facts := <-d.written:
			d.take(facts, now)
			return
		default:
		}
		if n == burst {
			return
		}
		select {
		case batch = <-d.events:
		default:
			return
		}
	}
}

// take takes in facts.
func (d *Daemon) take(facts []evpn.Event, now time.Time) {
	for _, ev := range facts {
		switch ev := ev.(type) {
		case evpn.Observed:
			d.counts.lastReadBack.Store(now.UnixNano())
		case evpn.PeerDown:
			if _, configured := d.left[ev.Peer]; configured {
				d.left[ev.Peer] = now
			}
		}
		d.watch.take(ev, now, d.latency.install)
		d.core.Handle(ev, now)
	}
}
