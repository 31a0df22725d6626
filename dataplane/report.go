package dataplane

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/evpnd/evpnd/evpn"
)

// firstReport says what there is, once the kernel lets itself be read: at first what peers wait for, the local hosts, since
// the dump of a large FDB takes seconds.
func (d *Dataplane) firstReport(ctx context.Context, sink chan<- []evpn.Event) {
	if send(ctx, sink, d.localHosts()) != nil {
		return
	}
	for {
		d.reported = d.pending.noted()
		observed, err := d.observeAll()
		if err == nil {
			err = d.sweepOrphans()
		}
		if err == nil {
			if n := d.vteps.inUse(); n > 0 {
				d.log.WithField("reason", n).Warn("nexthop ids of our range are used by someone else, others are taken")
			}
			_ = send(ctx, sink, append(observed, evpn.Reported{Number: d.reported}, evpn.Synced{})) // an error is the end of ctx
			return
		}
		d.log.WithError(err).Warn("kernel not read back")
		if !pause(ctx, retryAfter) {
			return
		}
	}
}

// reportLoop hands pending events to the core. While the core is slow, pending keeps the latest word on each thing.
func (d *Dataplane) reportLoop(ctx context.Context, sink chan<- []evpn.Event) error {
	var resynced time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.pending.wake:
		}
		if d.pending.isLost() {
			if !pause(ctx, d.interval-time.Since(resynced)) {
				return nil
			}
			resynced = time.Now()
		}
		w := d.pending.take()
		events, err := d.report(w)
		if err != nil {
			d.log.WithError(err).Warn("kernel not read back")
			if !pause(ctx, retryAfter) {
				return nil
			}
			d.pending.again(w)
		}
		if send(ctx, sink, events) != nil {
			return nil
		}
	}
}

// report turns what was pending into events. What was read back comes last: it is younger than everything that was
// pending, and of what was lost in between no notification will come. With an error, the events are those that could be
// made.
func (d *Dataplane) report(w work) ([]evpn.Event, error) {
	var events []evpn.Event
	swept := d.sweep(w.left)
	d.giveBack(w.taken)
	for _, vni := range w.down {
		events = append(events, evpn.AttachmentDown{VNI: vni})
	}
	for _, at := range w.up {
		d.manage(at)
		events = append(events, evpn.AttachmentUp{Attachment: at.Attachment})
	}
	if len(w.freed) > 0 {
		events = append(events, evpn.NeighborsGone{IPs: w.freed})
	}
	events = append(events, w.hosts...)
	if len(w.tampered) > 0 {
		d.counts.tampered.Add(uint64(len(w.tampered)))
		events = append(events, evpn.Tampered{Keys: w.tampered})
	}
	if len(w.nexthops) > 0 {
		d.counts.tampered.Add(uint64(len(w.nexthops)))
		events = append(events, evpn.NexthopsGone{VTEPs: w.nexthops})
	}
	if w.doubt {
		events = append(events, evpn.Doubt{})
	}
	var observed []evpn.Event
	var err error
	switch {
	case w.overrun:
		d.counts.resyncs.Add(1)
		d.ways.again()
		observed, err = d.observeAll()
	case len(w.rereads) > 0:
		// A VNI that lost its device since is not reported: AttachmentDown says it.
		w.rereads = slices.DeleteFunc(w.rereads, func(v evpn.VNI) bool { return v != 0 && d.topo.vni(v) == nil })
		observed, err = d.observe(d.reader, w.rereads)
	}
	events = append(events, observed...)
	if w.concerns != d.reported {
		d.reported = w.concerns
		events = append(events, evpn.Reported{Number: w.concerns})
	}
	return events, errors.Join(swept, err)
}

// observeAll reads the table of VTEPs and every VNI back.
func (d *Dataplane) observeAll() ([]evpn.Event, error) {
	vnis := []evpn.VNI{0}
	for _, at := range d.topo.all() {
		vnis = append(vnis, at.VNI)
	}
	return d.observe(d.reader, vnis)
}

// observe reads VNIs back while nothing is written. The kernel walks a bridge's FDB by position, so that a row that
// leaves it meanwhile hides another one; it does not say so, but we see the row leave, and read again.
func (d *Dataplane) observe(r *rtnl, vnis []evpn.VNI) ([]evpn.Event, error) {
	d.kernel.Lock()
	defer d.kernel.Unlock()
	return d.observeHeld(r, vnis)
}

// observeHeld is observe for a caller that holds kernel.
func (d *Dataplane) observeHeld(r *rtnl, vnis []evpn.VNI) ([]evpn.Event, error) {
	written := d.written.Load()
	o := observer{rtnl: r, topo: d.topo, vteps: d.vteps, floods: d.floods}
	defer func() { d.pending.loseNexthops(o.lost...) }()
	for range 2 {
		shifts := d.counts.shifts.Load()
		events, err := o.observe(vnis, written)
		if err != nil || d.counts.shifts.Load() == shifts {
			return events, err
		}
	}
	return o.observe(vnis, written)
}

// send hands events over, unless ctx ends first.
func send(ctx context.Context, sink chan<- []evpn.Event, events []evpn.Event) error {
	if len(events) == 0 {
		return nil
	}
	select {
	case sink <- events:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// pause waits; false when ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(max(d, 0)):
		return true
	case <-ctx.Done():
		return false
	}
}
