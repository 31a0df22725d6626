package daemon

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/evpnd/evpnd/evpn"
)

// latencyBuckets reach from what one frame takes on an idle host to what nobody waits for.
var latencyBuckets = []float64{.0002, .0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30}

// latencies are the histograms of what passes through the loop. A sample is taken for a batch, not for an entry, so that
// a flood costs no more than a frame.
type latencies struct {
	advertise, install prometheus.Histogram
}

func newLatencies() latencies {
	histogram := func(name, help string) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: latencyBuckets})
	}
	return latencies{
		advertise: histogram("evpn_advertise_seconds", "From the first frame that tells the address of a local host, or the first other word on one, until BGP has the routes that follow, by batch."),
		install:   histogram("evpn_install_seconds", "From when the first UPDATE is taken in until the kernel has acknowledged the entries that follow, by batch."),
	}
}

func (l latencies) collectors() []prometheus.Collector {
	return []prometheus.Collector{l.advertise, l.install}
}

// stopwatch knows since when the owner has had facts that are not carried out yet. It belongs to the owner.
type stopwatch struct {
	local  time.Time       // the first fact on a local host since the last Flush, or its frame; zero: none
	update time.Time       // the first UPDATE of which something may still wait for a kernel batch; zero: none
	sent   []measuredBatch // kernel batches on their way that carry the outcome of an UPDATE, oldest first
}

type measuredBatch struct {
	seq   uint64
	since time.Time
}

// take looks at one fact; installed is told of every batch that the kernel has acknowledged.
func (w *stopwatch) take(ev evpn.Event, now time.Time, installed prometheus.Observer) {
	switch ev := ev.(type) {
	case evpn.LocalMAC:
		w.heard(now)
	case evpn.LocalIP:
		if waited := now.Sub(ev.Heard); waited > 0 && waited < longestWait {
			now = ev.Heard
		}
		w.heard(now)
	case *evpn.Update:
		if w.update.IsZero() {
			w.update = now
		}
	case evpn.Applied:
		for len(w.sent) > 0 && w.sent[0].seq <= ev.Batch {
			installed.Observe(now.Sub(w.sent[0].since).Seconds())
			w.sent = w.sent[1:]
		}
	}
}

// longestWait is more than a frame waits for the owner: what seems to have waited longer came before the clock was set.
const longestWait = time.Minute

func (w *stopwatch) heard(at time.Time) {
	if w.local.IsZero() || at.Before(w.local) {
		w.local = at
	}
}

// flushed looks at what the core made of the facts, and returns since when its routes are on their way; zero: no fact on
// a local host is behind them.
func (w *stopwatch) flushed(o *evpn.Output) (since time.Time) {
	if len(o.Kernel.Ops) > 0 && !w.update.IsZero() {
		w.sent = append(w.sent, measuredBatch{o.Kernel.Seq, w.update})
	}
	if o.Backlog == 0 {
		w.update = time.Time{}
	}
	since, w.local = w.local, time.Time{}
	if len(o.Routes) == 0 {
		return time.Time{}
	}
	return since
}

// backlogs are how much waits, as of the last turn of the loop.
type backlogs struct {
	kernel, routes atomic.Int64
}
