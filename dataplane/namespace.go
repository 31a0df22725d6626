package dataplane

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/evpnd/evpnd/evpn"
)

// namespaceName is an abstract address of UNIX sockets: there is one in each network namespace, whatever file systems those
// who look for it see, and it is free again as soon as the process that has it is gone.
const namespaceName = "@evpnd.dataplane"

const (
	claimPause = 20 * time.Millisecond // between two tries
	askHolder  = time.Second           // for who has the name
)

// namespaceClaim is the claim of one process on the network namespace that it runs in. Two that served one would take each
// other's nexthops for those of an earlier life, and remove them.
type namespaceClaim struct {
	listener *net.UnixListener // nil: the name was not to be had
	answers  sync.WaitGroup
}

// takenError says that another evpnd serves the network namespace.
type takenError struct {
	pid int // 0: it is not to be seen from here
}

func (e *takenError) Error() string {
	if e.pid == 0 {
		return "another evpnd, in a container of its own, serves this network namespace"
	}
	return fmt.Sprintf("another evpnd, pid %d, serves this network namespace", e.pid)
}

// squattedError says that a process without the right to write the kernel's tables has the name.
type squattedError struct{ pid int }

func (e *squattedError) Error() string {
	return fmt.Sprintf("pid %d, which may not write the kernel's tables, holds the name %s", e.pid, namespaceName)
}

// claimNamespace claims the network namespace of the calling thread, until close. One who is about to end is waited for, so
// long at most. With a squattedError there is a claim, which nobody else sees: anybody may take a name, and nobody may keep
// evpnd from its work by it.
func claimNamespace(ctx context.Context, wait time.Duration) (*namespaceClaim, error) {
	for end := time.Now().Add(wait); ; {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: namespaceName, Net: "unix"})
		switch {
		case err == nil:
			c := &namespaceClaim{listener: l}
			c.answers.Go(c.answer) // until close
			return c, nil
		case !errors.Is(err, unix.EADDRINUSE):
			return nil, fmt.Errorf("claim the network namespace: %w", err)
		}
		holder, err := nameHolder()
		switch {
		case err == nil && !mayServe(holder):
			return &namespaceClaim{}, &squattedError{holder}
		case time.Now().Before(end):
		case err != nil: // it ended just now, or does not answer
			return nil, fmt.Errorf("claim the network namespace: %w", err)
		default:
			return nil, &takenError{holder}
		}
		if !pause(ctx, claimPause) {
			return nil, fmt.Errorf("claim the network namespace: %w", ctx.Err())
		}
	}
}

// answer lets others connect, which is how they see who we are.
func (n *namespaceClaim) answer() {
	for {
		c, err := n.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of descriptors: they are told all the same, until the queue is full
			time.Sleep(claimPause)
			continue
		}
		_ = c.Close()
	}
}

// close gives the claim up.
func (n *namespaceClaim) close() error {
	if n == nil || n.listener == nil {
		return nil
	}
	err := n.listener.Close()
	n.answers.Wait()
	return err
}

// nameHolder returns the process that has the name; 0 when it is not to be seen from here.
func nameHolder() (pid int, err error) {
	d := net.Dialer{Timeout: askHolder}
	c, err := d.Dial("unix", namespaceName)
	if err != nil {
		return 0, fmt.Errorf("ask who it is: %w", err)
	}
	defer c.Close()
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("ask who it is: %w", err)
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err = errors.Join(err, credErr); err != nil {
		return 0, fmt.Errorf("ask who it is: %w", err)
	}
	return int(cred.Pid), nil
}

// mayServe reports whether a process has CAP_NET_ADMIN in our user namespace, or may have, for all that can be seen.
func mayServe(pid int) bool {
	status, err1 := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	theirs, err2 := os.ReadFile(fmt.Sprintf("/proc/%d/uid_map", pid))
	ours, err3 := os.ReadFile("/proc/self/uid_map")
	if errors.Join(err1, err2, err3) != nil {
		return true
	}
	if string(theirs) != string(ours) {
		return false
	}
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "CapEff:"); ok {
			caps, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
			return err != nil || caps&(1<<unix.CAP_NET_ADMIN) != 0
		}
	}
	return true
}

const (
	lastBreath = 5 * time.Second // that a predecessor may take to be gone, see Dataplane.patience
	claimAgain = 2 * time.Second // between two tries while another evpnd serves
)

// claim claims the network namespace if it is to be, once there is something to serve; without a claim nothing in it is.
func (d *Dataplane) claim(ctx context.Context, wait time.Duration) {
	if d.topo.isClaimed() || !d.topo.mayServe() {
		return
	}
	c, err := claimNamespace(ctx, wait)
	if c != nil {
		if err != nil {
			d.log.WithError(err).Warn("a second evpnd would not be noticed")
		}
		d.namespace = c
		d.topo.claim(nil)
		return
	}
	if ctx.Err() == nil && d.topo.claim(err) {
		d.log.WithError(err).Error("no vni is served")
	}
}

// keepClaiming tries until the network namespace is ours, or ctx ends: now and then, and whenever links or options change.
func (d *Dataplane) keepClaiming(ctx context.Context) {
	for !d.topo.isClaimed() && ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-d.claimWake:
		case <-time.After(claimAgain):
		}
		d.claim(ctx, 0)
	}
}

// claimSoon never waits.
func (d *Dataplane) claimSoon() {
	d.claimWake.signal()
}

// claim notes that the network namespace is ours, or why it is not. It returns whether that is news, and keeps VNIs from
// being served.
func (t *topology) claim(refused error) (news bool) {
	t.mu.Lock()
	news = refused != nil && (t.unclaimed == nil || t.unclaimed.Error() != refused.Error())
	t.unclaimed = refused
	if refused == nil {
		t.claimed, t.changed.all = true, true
		t.pending.reread(0) // rows are recognized by the nexthops
	}
	t.mu.Unlock()
	t.settle()
	return news
}

func (t *topology) isClaimed() bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.claimed
}

// mayServe reports whether there is something to serve: VNIs of the configuration, or VXLAN devices that need not be in it.
func (t *topology) mayServe() bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, v := range t.opt.VNIs {
		if !v.Off {
			return true
		}
	}
	for vni := range t.vxlans {
		if t.opt.serves(vni) {
			return true
		}
	}
	return false
}

// diagnoseClaim tells of another evpnd that keeps us from serving.
func (t *topology) diagnoseClaim() []evpn.Fault {
	may := t.mayServe()
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.claimed || t.unclaimed == nil || !may {
		return nil
	}
	return []evpn.Fault{{
		Code: evpn.FaultNamespaceTaken, Severity: evpn.SeverityError,
		Detail: fmt.Sprintf("%s, so no VNI is served here", t.unclaimed),
		Remedy: "stop one of the two; this one serves as soon as the other is gone",
	}}
}
