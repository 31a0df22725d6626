package daemon

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/evpnd/evpnd/evpn"
)

const (
	routesPerApply = 4096             // handed to BGP in one go, so that a stop is noticed in between
	coalesceAbove  = 1 << 16          // routes that may wait before it is looked whether newer ones make some of them needless
	announceRetry  = 10 * time.Second // pause before what failed and is said only once is tried again
)

// announcement is what BGP is to be told.
type announcement struct {
	routes     [][]evpn.RouteOp // in order, as the core put them out: an IP goes to another MAC by an announcement and then a withdraw
	waiting    int              // how many
	distinct   int              // how many were left by the last coalesce
	imports    []evpn.RT        // nil: as they were
	rdNumbers  map[evpn.VNI]uint16
	releaseEoR bool
	since      time.Time // when the first fact on a local host behind routes was taken in; zero: there is none
	resets     []evpn.PeerReset
	refreshes  []netip.Addr
}

// add appends what the core wants to be told next. While BGP is slow, of each route the last word stays, so that what
// waits is bounded by the number of our routes.
func (a *announcement) add(o evpn.Output, since time.Time) {
	if a.since.IsZero() {
		a.since = since
	}
	if len(o.Routes) > 0 {
		a.routes = append(a.routes, o.Routes)
		a.waiting += len(o.Routes)
	}
	if a.waiting > 2*a.distinct+coalesceAbove {
		a.coalesce()
	}
	if o.ImportRTs != nil {
		a.imports = o.ImportRTs
	}
	if o.RDNumbers != nil {
		a.rdNumbers = o.RDNumbers
	}
	a.releaseEoR = a.releaseEoR || o.ReleaseEoR
	a.resets = append(a.resets, o.Resets...)
	a.refreshes = append(a.refreshes, o.Refreshes...)
}

// coalesce drops every op on a route that a later one makes needless.
func (a *announcement) coalesce() {
	ops := make([]evpn.RouteOp, 0, a.waiting)
	last := make(map[evpn.RouteKey]int, a.waiting)
	for _, part := range a.routes {
		for i := range part {
			last[part[i].Route.Key] = len(ops) + i
		}
		ops = append(ops, part...)
	}
	kept := ops[:0]
	for i, op := range ops {
		if last[op.Route.Key] == i {
			kept = append(kept, op)
		}
	}
	clear(ops[len(kept):])
	a.routes = append(a.routes[:0], kept)
	a.waiting, a.distinct = len(kept), len(kept)
}

func (a *announcement) empty() bool {
	return a.waiting == 0 && a.imports == nil && a.rdNumbers == nil && !a.releaseEoR &&
		len(a.resets) == 0 && len(a.refreshes) == 0
}

// announce is the announcer goroutine: it alone hands routes to BGP.
func (d *Daemon) announce(ctx context.Context) {
	var open unfinished
	retry := time.NewTicker(announceRetry)
	defer retry.Stop()
	for {
		var again <-chan time.Time
		if open.numbers != nil || open.imports != nil {
			again = retry.C
		}
		select {
		case <-ctx.Done():
			return
		case a := <-d.routesIn:
			d.tell(ctx, a, &open)
		case <-again:
			if err := errors.Join(d.save(&open), d.setImports(&open)); err != nil && ctx.Err() == nil {
				d.log.WithError(err).Debug("announcing is still unfinished")
			}
		}
	}
}

// unfinished is what the core says only once and the announcer has not got done; nil: nothing.
type unfinished struct {
	numbers map[evpn.VNI]uint16
	imports []evpn.RT
}

// save writes the numbers of RDs to disk.
func (d *Daemon) save(open *unfinished) error {
	if open.numbers == nil {
		return nil
	}
	err := saveRDNumbers(d.opts.Config.StateDir, open.numbers)
	if err == nil {
		open.numbers = nil
	}
	return err
}

// setImports hands our RT memberships to BGP.
func (d *Daemon) setImports(open *unfinished) error {
	if open.imports == nil {
		return nil
	}
	err := d.bgp.SetImportRTs(open.imports)
	if err == nil {
		open.imports = nil
	}
	return err
}

// tell hands one announcement on. What is remembered for the next life comes before peers can see it, and End-of-RIB
// after all routes (GR-04).
func (d *Daemon) tell(ctx context.Context, a announcement, open *unfinished) {
	for _, r := range a.resets {
		d.bgp.LimitPeer(r.Peer, r.Most)
	}
	for _, peer := range a.refreshes {
		if err := d.bgp.RequestRefresh(peer); err != nil {
			d.log.WithError(err).Warn("routes that were not taken cannot be asked for, clear the peer to get them")
		}
	}
	if a.rdNumbers != nil {
		open.numbers = a.rdNumbers
		if err := d.save(open); err != nil {
			d.log.WithError(err).Error("state not saved, route distinguishers may change at the next start")
		}
	}
	if a.imports != nil {
		open.imports = a.imports
		if err := d.setImports(open); err != nil && ctx.Err() == nil {
			d.log.WithError(err).Error("route target memberships not announced")
		}
	}
	for i := range a.routes {
		for part := range slices.Chunk(a.routes[i], routesPerApply) {
			if ctx.Err() != nil {
				return
			}
			if a.waiting >= floodAbove {
				d.pace.hurry()
			}
			if err := d.bgp.Apply(part); err != nil && ctx.Err() == nil {
				d.log.WithError(err).Error("route not announced")
			}
		}
		a.routes[i] = nil // a flood is long: let go of what has been said
	}
	if !a.since.IsZero() {
		d.latency.advertise.Observe(time.Since(a.since).Seconds())
	}
	if a.releaseEoR {
		d.bgp.ReleaseEoR()
		d.ready.Store(true)
		d.manager.started()
	}
}
