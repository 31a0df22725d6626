package labs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Sentinels that callers branch on.
var (
	ErrRunning    = errors.New("lab is already running")
	ErrNotRunning = errors.New("lab is not running")
)

// Lab is a lab that was brought up, by this process or another one. Its methods may be called from several goroutines.
type Lab struct {
	Name string
	dir  string // state directory of this lab
	rec  record
	wait sync.WaitGroup // the processes this program started in the lab
}

// Attach returns the lab called name that Up started, here or in another process; the error wraps ErrNotRunning.
func Attach(name string) (*Lab, error) {
	base, err := StateDir()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(base, name)
	rec, err := loadRecord(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", name, ErrNotRunning)
	}
	if err != nil {
		return nil, err
	}
	return &Lab{Name: name, dir: dir, rec: rec}, nil
}

// Nodes lists the names of the lab's nodes, sorted.
func (l *Lab) Nodes() []string {
	var names []string
	for _, n := range l.rec.Nodes {
		names = append(names, n.Name)
	}
	return names
}

func (l *Lab) node(name string) (nodeRecord, error) {
	i := slices.IndexFunc(l.rec.Nodes, func(n nodeRecord) bool { return n.Name == name })
	if i < 0 {
		return nodeRecord{}, fmt.Errorf("lab %s has no node %q", l.Name, name)
	}
	n := l.rec.Nodes[i]
	if !n.running() {
		return nodeRecord{}, fmt.Errorf("node %s: %w", name, ErrNotRunning)
	}
	return n, nil
}

// command returns argv as a command in the node's namespaces.
func (l *Lab) command(ctx context.Context, n nodeRecord, tag string, argv []string) *exec.Cmd {
	args := append([]string{"--target", strconv.Itoa(n.PID), "--mount", "--net", "--pid", "--uts", "--ipc", "--"}, argv...)
	cmd := exec.CommandContext(ctx, "nsenter", args...)
	cmd.Env = []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8",
		"TERM=" + os.Getenv("TERM"),
	}
	for k, v := range n.Env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	if tag != "" {
		cmd.Env = append(cmd.Env, tagEnv+"="+l.tag(n.Name, tag))
	}
	return cmd
}

// tag names one process of a node among all processes of the machine.
func (l *Lab) tag(node, process string) string { return filepath.Join(l.dir, node, process) }

// Exec runs argv in the node, without a shell, and returns what it wrote. When ctx ends the command and its children
// are killed. The error says the command line and its last words when the exit code is not 0.
func (l *Lab) Exec(ctx context.Context, node string, argv ...string) (stdout, stderr string, err error) {
	n, err := l.node(node)
	if err != nil {
		return "", "", err
	}
	var out, errs bytes.Buffer
	cmd := l.command(ctx, n, "", argv)
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		return out.String(), errs.String(), fmt.Errorf("%s: %q: %w%s", node, argv, err, lastWords(errs.Bytes()))
	}
	return out.String(), errs.String(), nil
}

// Await repeats argv in the node until it succeeds and done likes its output, or ctx ends; the error then says how the
// last run went.
func (l *Lab) Await(ctx context.Context, node string, done func(stdout string) bool, argv ...string) error {
	var last error
	err := waitFor(ctx, fmt.Sprintf("%q in %s", argv, node), func() (bool, error) {
		out, _, err := l.Exec(ctx, node, argv...)
		ok := err == nil && done(out)
		if ctx.Err() == nil { // a run cut short by the end of ctx says nothing
			last = err
			if err == nil {
				last = fmt.Errorf("%s: %q printed %.400q", node, argv, out)
			}
		}
		return ok, nil
	})
	if err != nil {
		return errors.Join(err, last)
	}
	return nil
}

// Attached runs argv in the node with the given standard streams: the way of a terminal.
func (l *Lab) Attached(ctx context.Context, node string, in io.Reader, out, errs io.Writer, argv ...string) error {
	n, err := l.node(node)
	if err != nil {
		return err
	}
	cmd := l.command(ctx, n, "", argv)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, errs
	return cmd.Run()
}

// lastWords appends the end of what a command said on standard error to its error.
func lastWords(b []byte) string {
	b = bytes.TrimSpace(b)
	if len(b) == 0 {
		return ""
	}
	return ": " + string(b[max(0, len(b)-400):])
}

// entrypoint is the tag and log name of what a node's image runs.
const entrypoint = "entrypoint"

// LogFile returns the path of the file with the output of the node's own process.
func (l *Lab) LogFile(node string) string { return l.logFile(node, entrypoint) }

func (l *Lab) logFile(node, process string) string {
	return filepath.Join(l.dir, node+"."+process+".log")
}

// Process is a command in the background of a node.
type Process struct {
	Log  string // file that collects its output
	lab  *Lab
	node string
	name string
	done chan struct{} // closed when the command has ended
	err  error         // how it ended; valid after done
}

// startTimeout bounds the way of a command into its node, which takes milliseconds.
const startTimeout = 10 * time.Second

// Start runs argv in the background of the node until it ends, Stop is called or the lab is taken down. Its output goes
// to a log file in the state directory; name tells it from the other processes of the node.
func (l *Lab) Start(node, name string, argv ...string) (*Process, error) {
	n, err := l.node(node)
	if err != nil {
		return nil, err
	}
	p := &Process{Log: l.logFile(node, name), lab: l, node: node, name: name, done: make(chan struct{})}
	log, err := os.OpenFile(p.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("start %q in %s: %w", argv, node, err)
	}
	defer log.Close()
	cmd := l.command(context.Background(), n, name, argv)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true} // outlives the terminal and the program that started it
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %q in %s: %w", argv, node, err)
	}
	l.wait.Go(func() {
		p.err = cmd.Wait()
		close(p.done)
	})
	return p, p.arrived(n)
}

// arrived waits until the command is in the node, where Stop and Status can see it, or has ended already.
func (p *Process) arrived(n nodeRecord) error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	return waitFor(ctx, fmt.Sprintf("start of %s in %s", p.name, p.node), func() (bool, error) {
		select {
		case <-p.done:
			return true, nil
		default:
			count, err := signalTagged(n.PID, p.lab.tag(p.node, p.name), 0, nil)
			return count > 0, err
		}
	})
}

// Wait waits until the command has ended and returns its error as os/exec gives it.
func (p *Process) Wait(ctx context.Context) error {
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return fmt.Errorf("wait for %s in %s: %w", p.name, p.node, ctx.Err())
	}
}

// Stop sends sig to the command and all its children in the node, and waits until they are gone.
func (p *Process) Stop(ctx context.Context, sig unix.Signal) error {
	if err := p.lab.stop(ctx, p.node, p.name, sig); err != nil {
		return err
	}
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stop %s in %s: %w", p.name, p.node, ctx.Err())
	}
}

func (l *Lab) stop(ctx context.Context, node, process string, sig unix.Signal) error {
	n, err := l.node(node)
	if err != nil {
		return err
	}
	tag := l.tag(node, process)
	var ending pins
	defer ending.close()
	if _, err := signalTagged(n.PID, tag, sig, &ending); err != nil {
		return err
	}
	return waitFor(ctx, fmt.Sprintf("end of %s in %s", process, node), func() (bool, error) {
		left, err := signalTagged(n.PID, tag, 0, &ending)
		return left == 0 && ending.gone(), err
	})
}

// StopProcess sends sig to the node's own process and what it started, and waits until all of it is gone. The node,
// its links and its kernel state stay.
func (l *Lab) StopProcess(ctx context.Context, node string, sig unix.Signal) error {
	return l.stop(ctx, node, entrypoint, sig)
}

// StartProcess starts the node's own process again; one that still runs is an error.
func (l *Lab) StartProcess(node string) error {
	n, err := l.node(node)
	if err != nil {
		return err
	}
	if n.Process == nil {
		return fmt.Errorf("start process of node %s: image %s runs nothing", node, n.Image)
	}
	switch left, err := signalTagged(n.PID, l.tag(node, entrypoint), 0, nil); {
	case err != nil:
		return err
	case left > 0:
		return fmt.Errorf("start process of node %s: it still runs", node)
	}
	_, err = l.Start(node, entrypoint, n.Process...)
	return err
}

// NodeStatus is what Status says about one node.
type NodeStatus struct {
	Node    string `json:"node"`
	Image   string `json:"image"`
	State   string `json:"state"`   // "running" or "gone"
	PID     int    `json:"pid"`     // of the init process
	Process string `json:"process"` // "running", "ended", or "none" for a node that idles
	Netns   string `json:"netns"`   // for ip netns exec
}

// Status reports each node, sorted by name.
func (l *Lab) Status() ([]NodeStatus, error) {
	var all []NodeStatus
	for _, n := range l.rec.Nodes {
		s := NodeStatus{Node: n.Name, Image: n.Image, State: "gone", PID: n.PID, Process: "none", Netns: n.Netns}
		if n.Process != nil {
			s.Process = "ended"
		}
		if n.running() {
			s.State = "running"
			count, err := signalTagged(n.PID, l.tag(n.Name, entrypoint), 0, nil)
			if err != nil {
				return nil, err
			}
			if count > 0 {
				s.Process = "running"
			}
		}
		all = append(all, s)
	}
	return all, nil
}

// Down ends every node and removes the lab's namespaces and files. It works on what is left of a lab and may be
// repeated.
func (l *Lab) Down(ctx context.Context) error {
	if _, err := os.Stat(l.dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	unlock, err := lock(l.dir)
	if err != nil {
		return err
	}
	defer unlock()
	return l.down(ctx)
}

func (l *Lab) down(ctx context.Context) error {
	var faults []error
	for _, n := range l.rec.Nodes {
		faults = append(faults, killRecorded(ctx, n.PID, n.Start), unnameNetns(n.Netns))
	}
	if err := errors.Join(faults...); err != nil {
		return fmt.Errorf("take down lab %s: %w", l.Name, err)
	}
	l.wait.Wait()
	if err := os.RemoveAll(l.dir); err != nil {
		return fmt.Errorf("take down lab %s: %w", l.Name, err)
	}
	return nil
}
