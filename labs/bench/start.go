package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/evpnd/evpnd/evpn"
	"github.com/evpnd/evpnd/evpn/wire"
	"github.com/evpnd/evpnd/labs/rawpeer"
)

// startVNIs starts a subject on a host with many VNIs: from the start of its processes to the inclusive multicast route of the
// last VNI at the peer. With create the devices are not there, and evpnd, which alone can, makes them.
func startVNIs(n int, create bool) measure {
	m := measure{
		name: fmt.Sprintf("start/%d-vni", n), vnis: n, sessions: 1, speakersOnly: true,
		about: "start of the daemon on a host with so many VXLAN devices, to the inclusive multicast route of the last one at the peer",
		play:  func(ctx context.Context, t *trial) error { return t.start(ctx, n) },
	}
	if create {
		m.name, m.vnis, m.only = fmt.Sprintf("start-create/%d-vni", n), 1, kindEVPND
		m.about = "the same where evpnd makes bridges and VXLAN devices first (create: true)"
		m.play = func(ctx context.Context, t *trial) error {
			t.host.create = n - 1 // one is there
			return t.start(ctx, n)
		}
	}
	return m
}

func (t *trial) start(ctx context.Context, n int) error {
	stop(t.processes, unix.SIGTERM)
	t.disconnect()
	served := t.serves(n)
	began := time.Now()
	if err := errors.Join(t.startSpeaker(ctx), t.connect(ctx, 1)); err != nil {
		return err
	}
	select {
	case at := <-served:
		t.addTime("time", at.Sub(began))
	case <-time.After(5 * time.Minute):
		return fmt.Errorf("not all of %d VNIs were announced", n)
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := t.settle(ctx); err != nil {
		return err
	}
	took, err := cpuTime(t.processes)
	t.add("cpu", "ms", 1000*took.Seconds())
	return errors.Join(err, t.addResident("memory"))
}

// serves tells when the next peer has heard of n VNIs.
func (t *trial) serves(n int) <-chan time.Time {
	decoder, seen := wire.NewDecoder(rawpeer.Options), map[evpn.VNI]bool{}
	done := make(chan time.Time, 1)
	t.hears = func(at time.Time, body []byte) {
		var r wire.Result
		if len(seen) == n || decoder.Update(body, &r) != nil {
			return
		}
		for _, route := range r.Reach {
			if route.Key.Type == evpn.TypeIMET {
				seen[evpn.VNI(r.Attrs.PMSI.Label)] = true
			}
		}
		if len(seen) == n {
			done <- at
		}
	}
	return done
}
