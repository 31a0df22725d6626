package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// measure is one story that is played for each subject.
type measure struct {
	name         string
	about        string // for the documentation
	speakersOnly bool   // the kernel alone has no part in it
	only         string // whom alone it is for; "": all
	vnis         int
	sessions     int
	play         func(context.Context, *trial) error
}

// trial is one subject in one run of a measure.
type trial struct {
	*subject
	name    string
	results *results
}

// once plays a measure for one subject.
func (m measure) once(ctx context.Context, s settings, k kind, r *results) (err error) {
	u, err := startSubject(ctx, s, k, m.vnis, m.sessions)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, u.logs())
		}
		err = errors.Join(err, u.close())
	}()
	return m.play(ctx, &trial{subject: u, name: m.name, results: r})
}

func (t *trial) add(what, unit string, value float64) {
	t.results.add(t.kind.name, t.name+" "+what, unit, value)
}

func (t *trial) addTime(what string, d time.Duration) {
	t.add(what, "ms", float64(d)/float64(time.Millisecond))
}

// addLatencies takes in the quantiles of a run.
func (t *trial) addLatencies(samples []time.Duration) {
	t.addTime("p50", quantile(samples, 0.5))
	t.addTime("p99", quantile(samples, 0.99))
}

// limit bounds the wait for n entries: far more than anybody takes.
func limit(n int) time.Duration { return 30*time.Second + time.Duration(n)*200*time.Microsecond }

// measures are all there are, or those of the short form.
func measures(s settings) []measure {
	sizes, routes, samples := []int{1_000, 10_000, 100_000}, 100_000, 500
	spread := []int{1, 100}
	if s.quick {
		sizes, routes, samples, spread = []int{10_000}, 10_000, 100, []int{1}
	}
	if s.huge {
		sizes = append(sizes, 1_000_000)
	}
	var all []measure
	for _, n := range sizes {
		for _, ips := range []bool{false, true} {
			for _, vnis := range spread {
				all = append(all, bulk(load{N: n, VNI: firstVNI, VNIs: vnis, IPs: ips, VTEP: farVTEPs[0]}))
			}
		}
	}
	big := load{N: routes, VNI: firstVNI, VNIs: 1, IPs: true, VTEP: farVTEPs[0]}
	all = append(all, move(big, samples), churn(20_000, 5*time.Second), vtepLost(big))
	all = append(all, localMAC(samples), remoteARP(min(samples, 200)))
	for _, n := range sizes {
		if n <= 100_000 {
			all = append(all, advertise(n))
		}
	}
	if !s.quick {
		all = append(all, startVNIs(1000, false), startVNIs(1000, true))
	}
	all = append(all, restart(big, "killed", unix.SIGKILL, 10*time.Second), restart(big, "stopped", unix.SIGTERM, 10*time.Second))
	later, idle := 25*time.Second, 10*time.Second
	if s.quick {
		later, idle = 0, 2*time.Second
	}
	return append(all, memory(big, later, cmp.Or(s.idle, idle)))
}

func kindOfLoad(l load) string {
	routes := "mac"
	if l.IPs {
		routes = "mac-ip"
	}
	return fmt.Sprintf("%d/%s/%d-vni", l.N, routes, l.VNIs)
}

// bulk installs a load, withdraws it, installs it once more and drops the session.
func bulk(l load) measure {
	return measure{
		name: "bulk/" + kindOfLoad(l), vnis: l.VNIs, sessions: 1,
		about: "first octet of the first UPDATE to the last kernel entry; processor time until all is quiet",
		play: func(ctx context.Context, t *trial) error {
			o, err := observe(t.host, "")
			if err != nil {
				return err
			}
			defer o.close()
			gone := l
			gone.Withdraw = true
			if err := t.change(ctx, o, l, "install"); err != nil {
				return err
			}
			if err := t.change(ctx, o, gone, "withdraw"); err != nil || t.kind.name == kindKernel {
				return err
			}
			if err := t.change(ctx, o, l, ""); err != nil {
				return err
			}
			return t.timed(ctx, o, gone, "session drop", func() error { t.disconnect(); return nil })
		},
	}
}

// change tells the subject of a load and awaits it in the kernel; an empty name is not measured.
func (t *trial) change(ctx context.Context, o *observer, l load, name string) error {
	fire, err := t.prepare(l)
	if err != nil {
		return err
	}
	return t.timed(ctx, o, l, name, fire)
}

// timed starts something and awaits in the kernel what it must lead to.
func (t *trial) timed(ctx context.Context, o *observer, l load, name string, fire func() error) error {
	before, err := cpuTime(t.processes)
	if err != nil {
		return err
	}
	fired := make(chan error, 1)
	start := time.Now()
	go func() { fired <- fire() }() // ends when all is told
	end, err := o.await(limit(l.N), counted(l.Withdraw, fdbRows(l), neighborRows(l)))
	if err != nil {
		return fmt.Errorf("%s: %w", t.name+" "+name, err)
	}
	if err := errors.Join(<-fired, t.settle(ctx)); err != nil {
		return err
	}
	after, err := cpuTime(t.processes)
	if err != nil || name == "" {
		return err
	}
	t.addTime(name, end.Sub(start))
	t.add(name+" cpu", "µs/route", (after-before).Seconds()*1e6/float64(l.N))
	return nil
}

// install loads without measuring.
func (t *trial) install(ctx context.Context, l load) error {
	o, err := observe(t.host, "")
	if err != nil {
		return err
	}
	defer o.close()
	return t.change(ctx, o, l, "")
}
