package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// vtepLost drops the session that a VTEP with many hosts is known from, while frames are sent to them.
func vtepLost(l load) measure {
	return measure{
		name: fmt.Sprintf("vtep-lost/%d", l.N), vnis: 1, sessions: 1,
		about: "the session goes, and with it a VTEP: from then to the last frame that is sent to it",
		play: func(ctx context.Context, t *trial) error {
			if err := t.install(ctx, l); err != nil {
				return err
			}
			flow, err := startTraffic(t.host, l, min(l.N, 1000), 200*time.Microsecond)
			if err != nil {
				return err
			}
			defer flow.close()
			if err := poll(ctx, 10*time.Second, "frames to the VTEP", func() bool { _, left, _ := flow.counts(); return left > 500 }); err != nil {
				return err
			}
			gone := l
			gone.Withdraw, gone.VTEPFirst = true, true
			fire := func() error { t.disconnect(); return nil }
			if t.writer != nil {
				if fire, err = t.prepare(gone); err != nil {
					return err
				}
			}
			start := time.Now()
			if err := fire(); err != nil {
				return err
			}
			last := time.Time{}
			err = poll(ctx, limit(l.N), "the last frame", func() bool {
				_, _, last = flow.counts()
				return time.Since(last) > 500*time.Millisecond
			})
			if err != nil {
				return err
			}
			t.addTime("last frame", max(0, last.Sub(start)))
			return nil
		},
	}
}

// memory is what a subject holds and does when nothing happens: before any route, right after many, and some time later.
func memory(l load, later, idle time.Duration) measure {
	return measure{
		name: fmt.Sprintf("memory/%d", l.N), vnis: 1, sessions: 1, speakersOnly: true,
		about: "resident memory of all processes, and processor time per second without anything to do",
		play: func(ctx context.Context, t *trial) error {
			if err := errors.Join(t.settle(ctx), t.addResident("idle")); err != nil {
				return err
			}
			if err := errors.Join(t.install(ctx, l), t.addResident("loaded")); err != nil {
				return err
			}
			if later > 0 {
				if err := errors.Join(rest(ctx, later), t.addResident(fmt.Sprintf("%s later", later))); err != nil {
					return err
				}
			}
			before, err1 := cpuTime(t.processes)
			err2 := rest(ctx, idle)
			after, err3 := cpuTime(t.processes)
			t.add("idle cpu", "ms/s", 1000*(after-before).Seconds()/idle.Seconds())
			return errors.Join(err1, err2, err3)
		},
	}
}

func (t *trial) addResident(when string) error {
	mib, err := resident(t.processes)
	t.add(when, "MiB", mib)
	return err
}
