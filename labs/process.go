package labs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// pollInterval is how often a condition is looked at while waiting for it.
const pollInterval = 20 * time.Millisecond

// tagEnv marks the processes of a node in their environment, which their children inherit whatever they do to their
// process group, session or name: FRR's daemons are found by it after watchfrr has started them.
const tagEnv = "EVPNLAB_PROCESS"

// startTime returns when the process began, in clock ticks since boot: with the PID it names a process for good.
func startTime(pid int) (uint64, error) {
	_, start, err := processStat(pid)
	return start, err
}

// processStat returns the state of a process, a letter as in proc(5), and when it began.
func processStat(pid int) (state string, start uint64, err error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", 0, fmt.Errorf("read start time of process %d: %w", pid, err)
	}
	// The name in parentheses may hold blanks; what follows the last parenthesis begins with field 3, the state, and the
	// start time is field 22.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 20 {
		return "", 0, fmt.Errorf("read start time of process %d: short line %q", pid, stat)
	}
	start, err = strconv.ParseUint(fields[19], 10, 64)
	return fields[0], start, err
}

// isRunning reports whether the recorded process is still the one that was recorded. One that has ended and waits for its
// parent to notice (Z, X) runs no more.
func isRunning(pid int, start uint64) bool {
	state, now, err := processStat(pid)
	return err == nil && now == start && state != "Z" && state != "X"
}

// killRecorded ends the recorded process and waits until it is gone. The PID is pinned before its start time is
// compared, so that a process which got the number later is never hit; none left is success.
func killRecorded(ctx context.Context, pid int, start uint64) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	if !isRunning(pid, start) {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", pid, err)
	}
	for ctx.Err() == nil {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(pollInterval.Milliseconds()))
		if n > 0 {
			return nil
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for process %d: %w", pid, err)
		}
	}
	return fmt.Errorf("wait for process %d: %w", pid, ctx.Err())
}

// pins are pidfds of processes that are ending. One that was killed has no environment any more, and so no tag, while it
// still closes its sockets, of which packet sockets take their time.
type pins []int

func (p *pins) gone() bool {
	return !slices.ContainsFunc(*p, func(fd int) bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return err == nil && n == 0
	})
}

func (p *pins) close() {
	for _, fd := range *p {
		unix.Close(fd)
	}
}

// signalTagged sends sig to every process with the tag in the PID namespace of init, and returns how many it found.
// Each is pinned before its environment is read, and stays so in kept unless that is nil. Signal 0 only counts.
func signalTagged(init int, tag string, sig unix.Signal, kept *pins) (int, error) {
	namespace, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", init))
	if err != nil {
		return 0, fmt.Errorf("read PID namespace of node: %w", err)
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, fmt.Errorf("list processes: %w", err)
	}
	count := 0
	var faults []error
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if ns, err := os.Readlink(filepath.Join("/proc", e.Name(), "ns/pid")); err != nil || ns != namespace {
			continue
		}
		found, err := signalIfTagged(pid, tag, sig, kept)
		if found {
			count++
		}
		faults = append(faults, err)
	}
	return count, errors.Join(faults...)
}

func signalIfTagged(pid int, tag string, sig unix.Signal, kept *pins) (bool, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return false, nil // gone meanwhile
	}
	keep := false
	defer func() {
		if !keep {
			unix.Close(fd)
		}
	}()
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil || !slices.Contains(strings.Split(string(env), "\x00"), tagEnv+"="+tag) {
		return false, nil // gone, a zombie, or another process of the node
	}
	if sig == 0 {
		return true, nil
	}
	if kept != nil {
		*kept, keep = append(*kept, fd), true
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return true, fmt.Errorf("signal process %d: %w", pid, err)
	}
	return true, nil
}

// waitFor polls until done says yes or fails, or ctx ends.
func waitFor(ctx context.Context, what string, done func() (bool, error)) error {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		ok, err := done()
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, ctx.Err())
		case <-tick.C:
		}
	}
}
