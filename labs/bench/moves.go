package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// move measures single moves between two VTEPs of one host among many.
func move(others load, samples int) measure {
	return measure{
		name: fmt.Sprintf("move/%d", others.N), vnis: 1, sessions: 1,
		about: "one host moves between two VTEPs: UPDATE to FDB entry, with so many others in the tables",
		play: func(ctx context.Context, t *trial) error {
			if err := t.install(ctx, others); err != nil {
				return err
			}
			took, err := t.moves(ctx, load{From: others.N, N: 1, VNI: firstVNI, VNIs: 1, IPs: true}, samples, t.prepare)
			if err == nil {
				t.addLatencies(took)
			}
			return err
		},
	}
}

// moves has a load's only host move to and fro, and waits for each move. The first one, which makes it known, does not count.
func (t *trial) moves(ctx context.Context, l load, samples int, prepare func(load) (func() error, error)) ([]time.Duration, error) {
	o, err := observe(t.host, fmt.Sprintf("vxlan%d", l.VNI))
	if err != nil {
		return nil, err
	}
	defer o.close()
	var took []time.Duration
	for i := range samples + 1 {
		l.VTEP, l.Seq = farVTEPs[i%2], uint32(i)
		fire, err := prepare(l)
		if err != nil {
			return nil, err
		}
		fired := make(chan error, 1)
		start := time.Now()
		go func() { fired <- fire() }() // ends when told
		end, err := o.await(20*time.Second, arrived(l.MAC(0)))
		if err := errors.Join(err, <-fired, ctx.Err()); err != nil {
			return nil, fmt.Errorf("move %d: %w", i, err)
		}
		if i > 0 {
			took = append(took, end.Sub(start))
		}
	}
	return took, nil
}

// churn moves all hosts of one VNI to and fro as fast as the kernel follows; meanwhile a second peer moves one of another VNI.
func churn(n int, lasts time.Duration) measure {
	return measure{
		name: fmt.Sprintf("churn/%d", n), vnis: 2, sessions: 2,
		about: "all hosts of a VNI move at once, again and again; beside it one host of another VNI, told of by another peer",
		play: func(ctx context.Context, t *trial) error {
			l := load{N: n, VNI: firstVNI, VNIs: 1, VTEP: farVTEPs[0]}
			if err := t.install(ctx, l); err != nil {
				return err
			}
			rounds, err := t.prepareRounds(l, 60)
			if err != nil {
				return err
			}
			var stop atomic.Bool // the probe
			probed := make(chan error, 1)
			var took []time.Duration
			if len(t.peers) > 1 {
				go func() { // ends when stop is set
					var err error // of this goroutine
					took, err = t.probe(ctx, load{From: n, N: 1, VNI: firstVNI + 1, VNIs: 1}, &stop)
					probed <- err
				}()
			} else {
				probed <- nil // the kernel alone does one thing after the other
			}
			err = t.churnFor(ctx, l, rounds, lasts)
			stop.Store(true)
			if err := errors.Join(err, <-probed); err != nil {
				return err
			}
			if len(took) > 0 {
				t.addTime("beside it p50", quantile(took, 0.5))
				t.addTime("beside it p99", quantile(took, 0.99))
			}
			return nil
		},
	}
}

// churnFor plays rounds, each of which moves all hosts of l, until they are over or the time is.
func (t *trial) churnFor(ctx context.Context, l load, rounds []func() error, lasts time.Duration) error {
	o, err := observe(t.host, fmt.Sprintf("vxlan%d", l.VNI))
	if err != nil {
		return err
	}
	defer o.close()
	before, err := cpuTime(t.processes)
	if err != nil {
		return err
	}
	told := 0
	start := time.Now()
	for _, fire := range rounds {
		fired := make(chan error, 1)
		go func() { fired <- fire() }() // ends when all is told
		_, err := o.await(limit(l.N), counted(false, l.N, 0))
		if err := errors.Join(err, <-fired, ctx.Err()); err != nil {
			return fmt.Errorf("round %d: %w", told, err)
		}
		if told++; time.Since(start) > lasts {
			break
		}
	}
	spent := time.Since(start)
	after, err := cpuTime(t.processes)
	moves := float64(told * l.N)
	t.add("moves", "1/s", moves/spent.Seconds())
	t.add("cpu", "µs/move", (after-before).Seconds()*1e6/moves)
	return err
}

// prepareRounds makes n moves of all hosts beforehand, so that there is no rest between them.
func (t *trial) prepareRounds(l load, n int) (rounds []func() error, err error) {
	for range n {
		l.Seq++
		l.VTEP = farVTEPs[l.Seq%2]
		fire, err := t.prepare(l)
		if err != nil {
			return nil, err
		}
		rounds = append(rounds, fire)
	}
	return rounds, nil
}

// probe has the second peer move one host until stop.
func (t *trial) probe(ctx context.Context, l load, stop *atomic.Bool) (took []time.Duration, err error) {
	fireAsSecond := func(l load) (func() error, error) {
		messages, err := l.Messages()
		return func() error { return t.peers[1].Write(messages) }, err
	}
	for !stop.Load() && err == nil {
		var some []time.Duration
		l.From++ // moves counts its sequence numbers from the beginning
		some, err = t.moves(ctx, l, 20, fireAsSecond)
		took = append(took, some...)
	}
	return took, err
}
