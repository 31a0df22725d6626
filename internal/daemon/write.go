package daemon

import (
	"context"

	"github.com/evpnd/evpnd/evpn"
)

// maxKernelWork is more than the core ever has on its way, two batches, a read-back and a look, so that the owner never
// waits.
const maxKernelWork = 5

// kernelWork is one job of the writer: a batch, or a read-back or a look at what the kernel holds after batch asOf.
type kernelWork struct {
	batch    evpn.KernelBatch
	readBack []evpn.VNI
	look     []evpn.EntryKey
	asOf     uint64
}

func (d *Daemon) sendToKernel(o evpn.Output) {
	if len(o.Kernel.Ops) > 0 {
		d.batch = o.Kernel.Seq
		d.kernelIn <- kernelWork{batch: o.Kernel}
	}
	if len(o.ReadBack) > 0 {
		d.kernelIn <- kernelWork{readBack: o.ReadBack, asOf: d.batch}
	}
	if len(o.Look) > 0 {
		d.kernelIn <- kernelWork{look: o.Look, asOf: d.batch}
	}
}

// maxProbeWork bounds the questions that wait; what does not fit is left out, since the core asks again.
const maxProbeWork = 4

func (d *Daemon) sendProbes(o evpn.Output) {
	if len(o.Probes) == 0 {
		return
	}
	select {
	case d.probesIn <- o.Probes:
	default:
	}
}

// probe is the goroutine that asks local hosts for their addresses.
func (d *Daemon) probe(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case probes := <-d.probesIn:
			d.kernel.Probe(probes)
		}
	}
}

// write is the writer goroutine: kernel batches in, what became of them out, past the facts that wait for the owner, so that it is
// not idle while a flood is taken in. A batch in hand when ctx ends is left as
// far as it is: whatever stays in the kernel is adopted by the next start.
func (d *Daemon) write(ctx context.Context) {
	for {
		var facts []evpn.Event
		select {
		case <-ctx.Done():
			return
		case w := <-d.kernelIn:
			facts = d.work(ctx, w)
		}
		select {
		case <-ctx.Done():
			return
		case d.written <- facts:
		}
	}
}

// work does one job and returns what it has to report.
func (d *Daemon) work(ctx context.Context, w kernelWork) []evpn.Event {
	switch {
	case len(w.look) > 0:
		return []evpn.Event{d.kernel.Look(ctx, w.look, w.asOf)}
	case len(w.readBack) == 0:
		return []evpn.Event{d.kernel.Apply(ctx, w.batch)}
	}
	facts, err := d.kernel.ReadBack(ctx, w.readBack, w.asOf)
	if err != nil && ctx.Err() == nil {
		d.log.WithError(err).Warn("read-back incomplete")
	}
	return append(facts, evpn.ReadBackDone{})
}
