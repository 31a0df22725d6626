package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// start runs a program in the host until stop. What it says goes into a file of its own.
func (h *host) start(ctx context.Context, program string, args ...string) (*exec.Cmd, error) {
	log, err := os.OpenFile(filepath.Join(h.dir, filepath.Base(program)+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", h.name, program}, args...)...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", program, err)
	}
	return cmd, nil
}

// stop sends sig and waits for the end, the last started first; one that does not heed it within ten seconds is killed.
func stop(processes []*exec.Cmd, sig os.Signal) {
	for i := len(processes) - 1; i >= 0; i-- {
		p := processes[i]
		if p == nil || p.Process == nil {
			continue
		}
		_ = p.Process.Signal(sig)
		timer := time.AfterFunc(10*time.Second, func() { _ = p.Process.Kill() })
		_ = p.Wait() // how it ended is of no interest
		timer.Stop()
	}
}

// cpuTime is the processor time that processes have used, by their clocks, which count in nanoseconds.
func cpuTime(processes []*exec.Cmd) (time.Duration, error) {
	var sum time.Duration
	for _, p := range processes {
		const scheduler = 2 // CPUCLOCK_SCHED of the whole process: clock_getcpuclockid(3)
		var t unix.Timespec
		if err := unix.ClockGettime(int32(^p.Process.Pid<<3|scheduler), &t); err != nil {
			return 0, fmt.Errorf("processor time of process %d: %w", p.Process.Pid, err)
		}
		sum += time.Duration(t.Nano())
	}
	return sum, nil
}

// resident is the memory of processes in MiB. What they share counts more than once.
func resident(processes []*exec.Cmd) (float64, error) {
	var sum float64
	for _, p := range processes {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Process.Pid))
		if err != nil {
			return 0, err
		}
		found := false
		for line := range strings.Lines(string(status)) {
			if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
				kib, err := strconv.Atoi(strings.Fields(rest)[0])
				if err != nil {
					return 0, fmt.Errorf("resident memory of process %d: %w", p.Process.Pid, err)
				}
				sum, found = sum+float64(kib)/1024, true
			}
		}
		if !found {
			return 0, fmt.Errorf("process %d has no resident memory", p.Process.Pid)
		}
	}
	return sum, nil
}

// poll looks until done or the limit.
func poll(ctx context.Context, limit time.Duration, what string, done func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for !done() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
	return nil
}

// rest lets time pass.
func rest(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
