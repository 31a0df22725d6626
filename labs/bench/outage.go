package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/evpnd/evpnd/evpn"
	"github.com/evpnd/evpnd/evpn/wire"
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

// restart ends the subject, starts it again and tells it everything once more, and one route that is new at the end: when
// that one is in the kernel, so is what came before it.
func restart(l load, how string, sig os.Signal) measure {
	return measure{
		name: fmt.Sprintf("restart/%s/%d", how, l.N), vnis: 1, sessions: 1, speakersOnly: true,
		about: "the daemon ends and starts again: to the session, to the last of the routes it is told again, and frames lost",
		play: func(ctx context.Context, t *trial) error {
			if err := t.install(ctx, l); err != nil {
				return err
			}
			last := l
			last.From, last.N = l.N, 1
			messages, err1 := l.Messages()
			end, err2 := last.Messages()
			o, err3 := observe(t.host, fmt.Sprintf("vxlan%d", l.VNI))
			if err := errors.Join(err1, err2, err3); err != nil {
				return err
			}
			defer o.close()
			flow, err := startTraffic(t.host, l, min(l.N, 1000), 500*time.Microsecond)
			if err != nil {
				return err
			}
			defer flow.close()
			if err := poll(ctx, 10*time.Second, "frames to the VTEP", func() bool { _, left, _ := flow.counts(); return left > 500 }); err != nil {
				return err
			}
			return t.again(ctx, o, flow, append(append(messages, end...), wire.AppendEoR(nil)...), last.MAC(0), sig)
		},
	}
}

func (t *trial) again(ctx context.Context, o *observer, flow *traffic, messages []byte, marker evpn.MAC, sig os.Signal) error {
	start := time.Now()
	stop(t.processes, sig)
	t.disconnect()
	if err := errors.Join(t.startSpeaker(ctx), t.connect(ctx, 1)); err != nil {
		return err
	}
	t.addTime("session", time.Since(start))
	written := make(chan error, 1)
	go func() { written <- t.peers[0].Write(messages) }() // ends when all is told
	converged, err := o.await(limit(len(messages)/30), arrived(marker))
	if err := errors.Join(err, <-written); err != nil {
		return err
	}
	t.addTime("converged", converged.Sub(start))
	// Entries that nobody announced any more would go now.
	if err := errors.Join(t.settle(ctx), rest(ctx, time.Second), flow.close()); err != nil {
		return err
	}
	sent, left, _ := flow.counts()
	t.add("frames lost", "‰", 1000*float64(max(0, sent-left))/float64(sent))
	return nil
}
