package labs

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// Options for Up; the zero value is right for most.
type Options struct {
	Name string             // of the lab; default the topology's
	Bin  string             // directory of evpnd and evpnctl; default: beside the program, bin/ of the repository, PATH
	Log  logrus.FieldLogger // what is done; default: nothing is said
}

// cleanupTime bounds taking down a lab that did not come up.
const cleanupTime = 20 * time.Second

// Up starts every node of the topology, then its links, then the exec lines, in containerlab's order: a node's process
// runs before its interfaces exist. The error wraps ErrRunning when the lab runs already; on any error what was started is
// taken down again.
func Up(ctx context.Context, topo *Topology, opts Options) (*Lab, error) {
	if opts.Log == nil {
		quiet := logrus.New()
		quiet.Out = io.Discard
		opts.Log = quiet
	}
	u := upper{topo: topo, log: opts.Log}
	var err error
	if u.tools, err = requirements(topo, opts.Bin); err != nil {
		return nil, fmt.Errorf("bring up lab %s: %w", topo.Name, err)
	}
	if u.lab, err = newLab(topo, opts.Name); err != nil {
		return nil, err
	}
	unlock, err := lock(u.lab.dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := u.clearOld(); err != nil {
		return nil, err
	}
	for _, note := range topo.Notes {
		u.log.Warn(note)
	}
	if err := u.run(ctx); err != nil {
		cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
		defer cancel()
		return nil, errors.Join(fmt.Errorf("bring up lab %s: %w", u.lab.Name, err), u.lab.down(cleanup))
	}
	return u.lab, nil
}

// requirements checks that every program the lab needs is installed, and finds our own.
func requirements(topo *Topology, bin string) (map[string]string, error) {
	faults := []error{Need("nsenter"), Need("ip")}
	ours := false
	for _, n := range topo.Nodes {
		switch roleOf(n.Image) {
		case roleFRR:
			faults = append(faults, Need(watchfrr))
		case roleEVPND:
			ours = true
		}
	}
	tools, err := findTools(bin, topo.Path, ours)
	return tools, errors.Join(append(faults, err)...)
}

func newLab(topo *Topology, name string) (*Lab, error) {
	if name == "" {
		name = topo.Name
	}
	if !validName.MatchString(name) {
		return nil, fmt.Errorf("bring up lab: name %q: want letters, digits, '.', '_' or '-'", name)
	}
	base, err := StateDir()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(base, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("bring up lab %s: %w", name, err)
	}
	return &Lab{Name: name, dir: dir, rec: record{Name: name, Topology: topo.Path}}, nil
}

// upper is one Up under way.
type upper struct {
	topo  *Topology
	lab   *Lab
	tools map[string]string
	log   logrus.FieldLogger
}

// clearOld removes what is left of a lab whose nodes are gone, after a reboot for instance.
func (u *upper) clearOld() error {
	old, err := loadRecord(u.lab.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, n := range old.Nodes {
		if n.running() {
			return fmt.Errorf("%s: %w; take it down first: evpnlab down %s", u.lab.Name, ErrRunning, u.lab.Name)
		}
	}
	for _, n := range old.Nodes {
		if err := unnameNetns(n.Netns); err != nil {
			return err
		}
	}
	return os.Remove(filepath.Join(u.lab.dir, recordFile))
}

func (u *upper) run(ctx context.Context) error {
	for _, n := range u.topo.Nodes {
		if err := u.startNode(ctx, n); err != nil {
			return fmt.Errorf("node %s: %w", n.Name, err)
		}
	}
	if err := u.startProcesses(ctx); err != nil {
		return err
	}
	if err := u.connect(); err != nil {
		return err
	}
	for _, n := range u.topo.Nodes {
		for _, argv := range n.Exec {
			u.log.WithField("node", n.Name).Debug("exec " + strings.Join(argv, " "))
			_, _, err := u.lab.Exec(ctx, n.Name, argv...)
			switch {
			case err != nil && n.Cut && ctx.Err() == nil:
				u.log.WithError(err).Warn("exec of a node without all of its links")
			case err != nil:
				return fmt.Errorf("exec: %w", err)
			}
		}
	}
	return u.checkProcesses()
}

// startNode starts a node's init process and waits until its root stands.
func (u *upper) startNode(ctx context.Context, n Node) error {
	stage := filepath.Join(u.lab.dir, n.Name)
	if err := os.MkdirAll(stage, 0o755); err != nil {
		return err
	}
	spec := nodeSpec{Hostname: n.Name, Stage: stage, Masked: masked, Sysctls: n.Sysctls}
	for name, path := range u.tools {
		spec.Binds = append(spec.Binds, Bind{Source: path, Target: filepath.Join("/usr/local/bin", name), ReadOnly: true})
	}
	spec.Binds = append(spec.Binds, n.Binds...)
	pid, err := u.lab.spawnInit(ctx, spec)
	if err != nil {
		return err
	}
	start, err := startTime(pid)
	if err != nil {
		return err
	}
	rec := nodeRecord{Name: n.Name, Image: n.Image, PID: pid, Start: start, Env: n.Env, Process: processOf(n)}
	rec.Netns, err = nameNetns(netnsPrefix+u.lab.Name+"-"+n.Name, pid)
	if err != nil {
		// Without it ip netns does not know the node, and nothing else is different.
		u.log.WithError(err).Warn("network namespace has no name")
	}
	u.lab.rec.Nodes = append(u.lab.rec.Nodes, rec)
	if err := u.lab.rec.save(u.lab.dir); err != nil {
		return err
	}
	net, err := openNet(pid)
	if err != nil {
		return err
	}
	defer net.close()
	return net.setUp("lo") // as in a container, before anything runs there
}

// spawnInit starts this program again as PID 1 of new namespaces and returns its PID here once it answers.
func (l *Lab) spawnInit(ctx context.Context, spec nodeSpec) (int, error) {
	in, err := json.Marshal(spec)
	if err != nil {
		return 0, fmt.Errorf("start init process: %w", err)
	}
	answer, answerEnd, err := os.Pipe()
	if err != nil {
		return 0, fmt.Errorf("start init process: %w", err)
	}
	defer answer.Close()
	defer answerEnd.Close()
	log, err := os.OpenFile(l.logFile(spec.Hostname, "init"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return 0, fmt.Errorf("start init process: %w", err)
	}
	defer log.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{"evpnlab-node " + spec.Hostname}
	cmd.Env = []string{initEnv + "=1", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "GOMAXPROCS=1"}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(in), log, log
	cmd.ExtraFiles = []*os.File{answerEnd}
	cmd.SysProcAttr = &unix.SysProcAttr{
		Setsid:     true,
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
	}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("start init process in namespaces of its own, which needs root: %w", err)
	}
	l.wait.Go(func() { _ = cmd.Wait() }) // only reaps it: that and how it ended is for Status and Down to find
	answerEnd.Close()
	stop := context.AfterFunc(ctx, func() { _ = answer.SetReadDeadline(time.Now()) })
	defer stop()
	line, err := bufio.NewReader(answer).ReadString('\n')
	if line = strings.TrimSpace(line); line == readyLine {
		return cmd.Process.Pid, nil
	}
	_ = cmd.Process.Kill()
	if line == "" {
		return 0, fmt.Errorf("init process gave no answer (does the program call labs.NodeInit?): %w", err)
	}
	return 0, errors.New(line)
}

// startProcesses starts what the images run, each after its startup delay.
func (u *upper) startProcesses(ctx context.Context) error {
	for _, n := range u.topo.Nodes {
		if processOf(n) == nil {
			continue
		}
		if n.StartupDelay > 0 {
			u.log.WithField("node", n.Name).Infof("waiting for startup-delay of %s", n.StartupDelay)
			select {
			case <-time.After(n.StartupDelay):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if err := u.lab.StartProcess(n.Name); err != nil {
			return err
		}
	}
	return nil
}

// connect makes the links.
func (u *upper) connect() error {
	nets := map[string]nodeNet{}
	defer func() {
		for _, n := range nets {
			n.close()
		}
	}()
	for _, n := range u.lab.rec.Nodes {
		net, err := openNet(n.PID)
		if err != nil {
			return fmt.Errorf("node %s: %w", n.Name, err)
		}
		nets[n.Name] = net
	}
	for _, l := range u.topo.Links {
		if err := addLink(l, nets[l.A.Node], nets[l.B.Node]); err != nil {
			return err
		}
	}
	return nil
}

// checkProcesses reports a process that ended while the lab came up, with the end of its log.
func (u *upper) checkProcesses() error {
	status, err := u.lab.Status()
	if err != nil {
		return err
	}
	var faults []error
	for _, s := range status {
		if s.Process == "ended" {
			log, _ := os.ReadFile(u.lab.LogFile(s.Node))
			faults = append(faults, fmt.Errorf("node %s: its process ended%s", s.Node, lastWords(log)))
		}
	}
	return errors.Join(faults...)
}
