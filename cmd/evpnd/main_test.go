package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// inside tells a process of the tests that it is in their network namespace.
const inside = "EVPND_TEST_NETNS"

// TestMain runs the tests in a network namespace of their own: the test binary starts itself again in a fresh one. There,
// and as a user of any number, it is evpnd when it is called so.
func TestMain(m *testing.M) {
	if os.Getenv(inside) != "" {
		testscript.Main(loopback{m}, map[string]func(){"evpnd": main})
		return
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if os.Geteuid() != 0 { // the kernel lets anybody be root of a namespace of their own
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// loopback brings lo up before the tests run.
type loopback struct{ *testing.M }

func (l loopback) Run() int {
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "ip link set lo up: %v: %s\n", err, out)
		return 1
	}
	return l.M.Run()
}

// TestScripts runs the program; UPDATE_SCRIPTS=1 rewrites what is expected. In YAML files of a script $WORK is its folder.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:           filepath.Join("testdata", "script"),
		UpdateScripts: os.Getenv("UPDATE_SCRIPTS") != "",
		Setup: func(env *testscript.Env) error {
			env.Setenv(inside, "1")
			m, err := listenManager(filepath.Join(env.WorkDir, "notify"))
			if err != nil {
				return err
			}
			env.Defer(m.close)
			env.Setenv("NOTIFY_SOCKET", m.path)
			env.Values[managerKey{}] = m
			return expandYAML(env.WorkDir)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "await": await, "heard": heard, "signal": signalAll},
	})
}

// expandYAML puts the path of dir for $WORK into the YAML files in it.
func expandYAML(dir string) error {
	files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil {
		return err
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		if err := os.WriteFile(f, bytes.ReplaceAll(text, []byte("$WORK"), []byte(dir)), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// exits runs a program and wants an exit code: exits 2 evpnd check.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits code program args…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("%s exits %d, want %d", strings.Join(args[1:], " "), got, want)
	}
}

// signalAll sends a signal to every process in the background: signal HUP.
func signalAll(ts *testscript.TestScript, neg bool, args []string) {
	signals := map[string]os.Signal{"HUP": syscall.SIGHUP, "INT": syscall.SIGINT, "TERM": syscall.SIGTERM}
	if neg || len(args) != 1 || signals[args[0]] == nil {
		ts.Fatalf("usage: signal HUP|INT|TERM")
	}
	for _, cmd := range ts.BackgroundCmds() {
		ts.Check(cmd.Process.Signal(signals[args[0]]))
	}
}

// serviceManager stands for systemd: it takes what is sent to NOTIFY_SOCKET.
type serviceManager struct {
	path string
	conn *net.UnixConn

	mu     sync.Mutex
	news   *sync.Cond
	states []string // what was sent, "\n" as " + "
	next   int      // of those await has not seen
	over   bool
	stored []*os.File // by FDSTORE=1, under their names
	reader sync.WaitGroup
}

type managerKey struct{}

func listenManager(path string) (*serviceManager, error) {
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, err
	}
	m := &serviceManager{path: path, conn: conn}
	m.news = sync.NewCond(&m.mu)
	m.reader.Go(m.read)
	return m, nil
}

func (m *serviceManager) read() {
	buf, oob := make([]byte, 4096), make([]byte, 4096)
	for {
		n, oobn, _, _, err := m.conn.ReadMsgUnix(buf, oob)
		m.mu.Lock()
		if err != nil {
			m.over = true
		} else if !m.keep(string(buf[:n]), oob[:oobn]) {
			m.states = append(m.states, strings.ReplaceAll(strings.TrimSpace(string(buf[:n])), "\n", " + "))
		}
		m.news.Broadcast()
		m.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// keep does what systemd does with files; false: the state is about something else. m.mu is held.
func (m *serviceManager) keep(state string, oob []byte) bool {
	_, name, _ := strings.Cut(state, "FDNAME=")
	for _, f := range filesIn(oob) {
		if strings.HasPrefix(state, "FDSTORE=1") {
			m.stored = append(m.stored, os.NewFile(f, name))
		} else {
			_ = syscall.Close(int(f)) // of a barrier
		}
	}
	if strings.HasPrefix(state, "FDSTOREREMOVE=1") {
		m.stored = slices.DeleteFunc(m.stored, func(f *os.File) bool { return f.Name() == name && f.Close() == nil })
	}
	return strings.HasPrefix(state, "FDSTORE") || strings.HasPrefix(state, "BARRIER")
}

func filesIn(oob []byte) []uintptr {
	var all []uintptr
	messages, _ := syscall.ParseSocketControlMessage(oob)
	for i := range messages {
		fds, _ := syscall.ParseUnixRights(&messages[i])
		for _, fd := range fds {
			all = append(all, uintptr(fd))
		}
	}
	return all
}

// store lists what is stored.
func (m *serviceManager) store() []*os.File {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.stored)
}

func (m *serviceManager) close() {
	m.conn.Close()
	m.reader.Wait()
}

const deadline = 10 * time.Second

// await returns the next state that matches, skipping others; "" when none comes.
func (m *serviceManager) await(pattern *regexp.Regexp) string {
	timeout := time.AfterFunc(deadline, m.close)
	defer timeout.Stop()
	m.mu.Lock()
	defer m.mu.Unlock()
	for {
		for m.next < len(m.states) {
			state := m.states[m.next]
			m.next++
			if pattern.MatchString(state) {
				return state
			}
		}
		if m.over {
			return ""
		}
		m.news.Wait()
	}
}

// heard returns everything that was sent, but for the status lines.
func (m *serviceManager) heard() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	for _, s := range m.states {
		if !strings.HasPrefix(s, "STATUS=") {
			out = append(out, s)
		}
	}
	return out
}

// await waits until the service manager is told something that matches: await READY=1.
func await(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: await pattern")
	}
	m := ts.Value(managerKey{}).(*serviceManager)
	if m.await(regexp.MustCompile("^"+args[0])) == "" {
		ts.Fatalf("systemd was told %q", m.heard())
	}
}

// heard compares all that the service manager was told with patterns, one each; status lines aside.
func heard(ts *testscript.TestScript, neg bool, args []string) {
	got := ts.Value(managerKey{}).(*serviceManager).heard()
	ok := !neg && len(got) == len(args)
	for i := range got {
		ok = ok && regexp.MustCompile("^"+args[i]+"$").MatchString(got[i])
	}
	if !ok {
		ts.Fatalf("systemd was told %q, want %q", got, args)
	}
}
