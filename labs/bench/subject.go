package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/evpnd/evpnd/labs/rawpeer"
)

// kind is one of the compared.
type kind struct {
	name  string
	start func(context.Context, settings, *host, []session) ([]*exec.Cmd, error)
}

// Names of the compared, in the order of the table.
const (
	kindEVPND  = "evpnd"
	kindFRR    = "frr"
	kindKernel = "kernel"
)

var kinds = []kind{{kindEVPND, startEVPND}, {kindFRR, startFRR}, {kindKernel, nil}}

// subject is one of the compared, running on a host, with the means to tell it of loads.
type subject struct {
	kind      kind
	settings  settings
	host      *host
	processes []*exec.Cmd
	peers     []*rawpeer.Peer // sessions with a speaker; none for the kernel alone
	writer    *writer
	hears     func(at time.Time, body []byte) // of each peer from its first UPDATE on; nil: nobody
}

// startSubject makes a host and starts a subject on it that has sessions with so many peers.
func startSubject(ctx context.Context, s settings, k kind, vnis, sessions int) (*subject, error) {
	h, err := newHost(ctx, ownVTEP, vnis)
	if err != nil {
		return nil, err
	}
	u := &subject{kind: k, settings: s, host: h}
	if k.start == nil {
		err = u.startWriter(ctx)
	} else if err = u.startSpeaker(ctx); err == nil {
		err = u.connect(ctx, sessions)
	}
	if err != nil {
		return nil, errors.Join(err, u.logs(), u.close())
	}
	return u, nil
}

func (u *subject) startSpeaker(ctx context.Context) (err error) {
	u.processes, err = u.kind.start(ctx, u.settings, u.host, []session{{peers[0], true}, {peers[1], true}})
	return err
}

// connect makes sessions until there are so many.
func (u *subject) connect(ctx context.Context, sessions int) error {
	for i := len(u.peers); i < sessions; i++ {
		p, err := rawpeer.Dial(ctx, u.host.inside, peers[i], u.host.vtep, u.hears)
		if err != nil {
			return err
		}
		u.peers = append(u.peers, p)
	}
	return nil
}

// disconnect ends all sessions without a word.
func (u *subject) disconnect() {
	for _, p := range u.peers {
		p.Close()
	}
	u.peers = nil
}

func (u *subject) close() error {
	u.disconnect()
	if u.writer != nil {
		u.writer.in.Close()
	}
	stop(u.processes, unix.SIGKILL)
	return u.host.close()
}

// logs is what the processes said, as an error that goes with another.
func (u *subject) logs() error {
	files, _ := filepath.Glob(filepath.Join(u.host.dir, "*.log"))
	var faults []error
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && len(b) > 0 {
			faults = append(faults, fmt.Errorf("%s: %.2000s", filepath.Base(f), b))
		}
	}
	return errors.Join(faults...)
}

// prepare makes a load ready to be told by fire, so that only the telling is measured.
func (u *subject) prepare(l load) (fire func() error, err error) {
	if u.writer != nil {
		return u.writer.prepare(l)
	}
	messages, err := l.Messages()
	if err != nil {
		return nil, err
	}
	return func() error { return u.peers[0].Write(messages) }, nil
}

// settle waits until the processes have done what comes after the last kernel entry: acknowledgements, and the like.
func (u *subject) settle(ctx context.Context) error {
	const pause, busy = 100 * time.Millisecond, 2 * time.Millisecond
	for range 50 {
		before, err1 := cpuTime(u.processes)
		err2 := rest(ctx, pause)
		after, err3 := cpuTime(u.processes)
		if err := errors.Join(err1, err2, err3); err != nil || after-before < busy {
			return err
		}
	}
	return nil // never quiet: that is what it costs
}
