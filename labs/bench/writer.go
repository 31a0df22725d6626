package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"

	"github.com/sirupsen/logrus"

	"github.com/evpnd/evpnd/dataplane"
	"github.com/evpnd/evpnd/evpn"
)

// The kernel alone is a process of its own, so that its processor time is its own too. It is told of loads in lines of JSON,
// and answers when the ops of one are in memory. For each word to begin it writes those of the oldest, and answers again.

const (
	writerCommand = "kernel-writer"
	begin         = "go"
)

// writer is our end of the pipes to it.
type writer struct {
	in  io.WriteCloser
	out *bufio.Reader
}

// startWriter runs this program again in the host's namespace.
func (u *subject) startWriter(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "ip", "netns", "exec", u.host.name, self, writerCommand, u.host.vtep.String())
	cmd.Stderr = os.Stderr
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the kernel's writer: %w", err)
	}
	u.processes = []*exec.Cmd{cmd}
	u.writer = &writer{in: in, out: bufio.NewReader(out)}
	return u.writer.hear("ready")
}

// hear reads a line, which must be word.
func (w *writer) hear(word string) error {
	line, err := w.out.ReadString('\n')
	if err != nil {
		return fmt.Errorf("the kernel's writer: %w", err)
	}
	if line != word+"\n" {
		return fmt.Errorf("the kernel's writer says %q, want %q", line, word)
	}
	return nil
}

func (w *writer) prepare(l load) (fire func() error, err error) {
	line, err := json.Marshal(l)
	if err != nil {
		return nil, err
	}
	if _, err := w.in.Write(append(line, '\n')); err != nil {
		return nil, fmt.Errorf("tell the kernel's writer of a load: %w", err)
	}
	if err := w.hear("ready"); err != nil {
		return nil, err
	}
	return func() error {
		if _, err := w.in.Write([]byte(begin + "\n")); err != nil {
			return fmt.Errorf("tell the kernel's writer to begin: %w", err)
		}
		return w.hear("done")
	}, nil
}

// writeFor is that process.
func writeFor(vtep string, in io.Reader, out io.Writer) error {
	addr, err := netip.ParseAddr(vtep)
	if err != nil {
		return err
	}
	d, err := openDataplane(addr)
	if err != nil {
		return err
	}
	defer d.Close()
	fmt.Fprintln(out, "ready")
	var loads [][]evpn.KernelOp
	lines := bufio.NewScanner(in)
	for seq := uint64(1); lines.Scan(); {
		if lines.Text() != begin {
			var l load
			if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
				return fmt.Errorf("read load %q: %w", lines.Bytes(), err)
			}
			loads = append(loads, opsOf(l))
			fmt.Fprintln(out, "ready")
			continue
		}
		if len(loads) == 0 {
			return errors.New("told to begin without a load")
		}
		batch := evpn.KernelBatch{Seq: seq, Ops: loads[0]}
		if failed := d.Apply(context.Background(), batch).Failed; len(failed) > 0 {
			return fmt.Errorf("%d of %d ops were refused, the first one: %w", len(failed), len(batch.Ops), failed[0].Err)
		}
		fmt.Fprintln(out, "done")
		loads[0], loads, seq = nil, loads[1:], seq+1
	}
	return lines.Err()
}

// openDataplane opens the dataplane and lets it find the devices. It watches nothing afterwards.
func openDataplane(vtep netip.Addr) (*dataplane.Dataplane, error) {
	log := logrus.New()
	log.SetLevel(logrus.ErrorLevel)
	d, err := dataplane.New(dataplane.Options{VTEP: vtep, AutoVNIs: true}, log)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	events, ended := make(chan []evpn.Event), make(chan error, 1)
	go func() { // ends with ctx
		ended <- d.Run(ctx, events)
		close(events)
	}()
	for batch := range events {
		for _, ev := range batch {
			if _, ok := ev.(evpn.Synced); ok {
				cancel()
			}
		}
	}
	cancel()
	if err := <-ended; err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}
