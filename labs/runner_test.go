package labs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// testContext bounds one test; labs of a test are taken down outside of it.
func testContext(t *testing.T, limit time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

// write makes a lab directory from file name → content and returns it.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// labName keeps labs of tests apart from those of users and of other test runs.
func labName(name string) string { return fmt.Sprintf("test%d-%s", os.Getpid(), name) }

// bringUp runs the lab in dir until the test ends; the logs of its processes are printed when the test fails.
func bringUp(t *testing.T, ctx context.Context, dir string) *Lab {
	t.Helper()
	topo, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	return bringUpTopology(t, ctx, topo)
}

// bringUpTopology is bringUp of a topology that the test has loaded, and perhaps changed.
func bringUpTopology(t *testing.T, ctx context.Context, topo *Topology) *Lab {
	t.Helper()
	options := Options{Name: labName(topo.Name)}
	if slices.ContainsFunc(topo.Nodes, func(n Node) bool { return roleOf(n.Image) == roleEVPND }) {
		var err error
		if options.Bin, err = binaries(); err != nil {
			t.Fatal(err)
		}
	}
	lab, err := Up(ctx, topo, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			printLogs(t, lab)
		}
		ctx, cancel := context.WithTimeout(context.Background(), cleanupTime)
		defer cancel()
		if err := lab.Down(ctx); err != nil {
			t.Error(err)
		}
	})
	return lab
}

func printLogs(t *testing.T, lab *Lab) {
	logs, _ := filepath.Glob(filepath.Join(lab.dir, "*.log"))
	for _, path := range logs {
		if b, _ := os.ReadFile(path); len(b) > 0 {
			t.Logf("%s:\n%s", filepath.Base(path), b[max(0, len(b)-4000):])
		}
	}
}

// run executes a command line (plain words) in a node and returns its output; it must succeed.
func run(t *testing.T, ctx context.Context, lab *Lab, node, line string) string {
	t.Helper()
	argv, err := splitWords(line)
	if err != nil {
		t.Fatal(err)
	}
	out, _, err := lab.Exec(ctx, node, argv...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

const twoNodes = `
name: two
topology:
  defaults: {kind: linux, image: alpine, network-mode: none}
  nodes:
    a:
      binds: ["hello:/srv/deep/hello:ro", "conf:/etc/evpnd"]
      env: {COLOUR: "dark blue"}
      sysctls: {net.ipv4.ip_forward: 1}
      exec:
        - ip addr add 192.0.2.1/30 dev eth1
        - sh -c 'echo "$COLOUR" >/srv/written'
    b:
      cmd: sh -c 'echo started; exec sleep 1000'
      exec: [ip addr add 192.0.2.2/30 dev eth1]
  links:
    - endpoints: ["a:eth1", "b:eth1"]
      mtu: 1600
`

func TestRunnerLab(t *testing.T) {
	ctx := testContext(t, 60*time.Second)
	dir := write(t, map[string]string{"two.clab.yml": twoNodes, "hello": "from the host\n", "conf/evpnd.yaml": "asn: 1\n"})
	lab := bringUp(t, ctx, dir)

	t.Run("nodes reach each other over their link", func(t *testing.T) {
		run(t, ctx, lab, "a", "ping -c1 -W2 192.0.2.2")
		run(t, ctx, lab, "b", "ping -c1 -W2 -M do -s 1572 192.0.2.1")
		if _, _, err := lab.Exec(ctx, "b", "ping", "-c1", "-W1", "-M", "do", "-s", "1573", "192.0.2.1"); err == nil {
			t.Error("a packet above the link's MTU got through")
		}
	})
	t.Run("binds, environment and sysctls", func(t *testing.T) {
		for line, want := range map[string]string{
			"cat /srv/deep/hello":               "from the host\n",
			"cat /etc/evpnd/evpnd.yaml":         "asn: 1\n",
			"cat /srv/written":                  "dark blue\n",
			"cat /proc/sys/net/ipv4/ip_forward": "1\n",
			"hostname":                          "a\n",
			"sh -c 'ls /etc/frr | wc -l'":       "0\n",
			"cat /proc/1/comm":                  readComm(t, lab, "a"),
		} {
			if got := run(t, ctx, lab, "a", line); got != want {
				t.Errorf("%s = %q, want %q", line, got, want)
			}
		}
		if _, _, err := lab.Exec(ctx, "a", "sh", "-c", "echo x >/srv/deep/hello"); err == nil {
			t.Error("a read-only bind was written to")
		}
	})
	t.Run("writes stay in the node", func(t *testing.T) {
		for _, path := range []string{"/srv/written", "/srv/deep"} {
			if _, err := os.Stat(path); err == nil {
				t.Errorf("%s is on the host", path)
			}
		}
		if _, _, err := lab.Exec(ctx, "b", "cat", "/srv/written"); err == nil {
			t.Error("a file of node a is in node b")
		}
	})
	t.Run("exec says what went wrong", func(t *testing.T) {
		_, stderr, err := lab.Exec(ctx, "a", "sh", "-c", "echo no luck >&2; exit 3")
		if err == nil || !strings.Contains(err.Error(), "no luck") || stderr != "no luck\n" {
			t.Errorf("error %v, stderr %q", err, stderr)
		}
		if _, _, err := lab.Exec(ctx, "c", "true"); err == nil {
			t.Error("no error for a node that does not exist")
		}
	})
	t.Run("a second up says that the lab runs", func(t *testing.T) {
		topo, err := Load(dir)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Up(ctx, topo, Options{Name: lab.Name}); !errors.Is(err, ErrRunning) {
			t.Errorf("error %v, want ErrRunning", err)
		}
		run(t, ctx, lab, "a", "true")
	})
	t.Run("ip netns knows the nodes", func(t *testing.T) {
		if _, err := os.Stat(filepath.Join(netnsDir, netnsPrefix+lab.Name+"-a")); err != nil {
			t.Error(err)
		}
	})
}

func readComm(t *testing.T, lab *Lab, node string) string {
	t.Helper()
	n, err := lab.node(node)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", n.PID))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestRunnerProcess: a node's process is killed with everything it started, and started again, while the node stays.
func TestRunnerProcess(t *testing.T) {
	ctx := testContext(t, 60*time.Second)
	lab := bringUp(t, ctx, write(t, map[string]string{"p.clab.yml": `
name: p
topology:
  nodes:
    a:
      kind: linux
      image: x
      cmd: sh -c 'echo started; (setsid sleep 1000 &); exec sleep 1000'
`}))
	run(t, ctx, lab, "a", "ip link add keep type bridge")
	state := func() string {
		t.Helper()
		s, err := lab.Status()
		if err != nil {
			t.Fatal(err)
		}
		return s[0].State + " " + s[0].Process
	}
	sleepers := func() int {
		t.Helper()
		n, err := lab.node("a")
		if err != nil {
			t.Fatal(err)
		}
		count, err := signalTagged(n.PID, lab.tag("a", entrypoint), 0, nil)
		if err != nil {
			t.Fatal(err)
		}
		return count
	}
	two := func() (bool, error) { return sleepers() == 2, nil }
	if err := waitFor(ctx, "both sleepers", two); err != nil {
		t.Fatal(err)
	}
	if err := lab.StartProcess("a"); err == nil {
		t.Error("a process that runs was started again")
	}
	if err := lab.StopProcess(ctx, "a", unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if got := state(); got != "running ended" {
		t.Errorf("after kill: %s", got)
	}
	if err := lab.StartProcess("a"); err != nil {
		t.Fatal(err)
	}
	if err := waitFor(ctx, "both sleepers again", two); err != nil {
		t.Fatal(err)
	}
	if got := state(); got != "running running" {
		t.Errorf("after start: %s", got)
	}
	log, err := os.ReadFile(lab.LogFile("a"))
	if err != nil || strings.Count(string(log), "started") != 2 {
		t.Errorf("log %q, error %v", log, err)
	}
	run(t, ctx, lab, "a", "ip link show keep")

	p, err := lab.Start("a", "watch", "sleep", "1000")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Stop(ctx, unix.SIGTERM); err != nil {
		t.Error(err)
	}
	if sleepers() != 2 {
		t.Error("stopping one process ended another one")
	}
}

// TestRunnerDown: nothing of a lab is left, also when another process takes it down, and down may be repeated.
func TestRunnerDown(t *testing.T) {
	ctx := testContext(t, 60*time.Second)
	topo, err := Load(write(t, map[string]string{"two.clab.yml": twoNodes, "hello": "", "conf/evpnd.yaml": ""}))
	if err != nil {
		t.Fatal(err)
	}
	links := linkNames(t)
	lab, err := Up(ctx, topo, Options{Name: labName("down")})
	if err != nil {
		t.Fatal(err)
	}
	if got := linkNames(t); got != links {
		t.Errorf("links of the host became %s, were %s", got, links)
	}
	other, err := Attach(lab.Name)
	if err != nil {
		t.Fatal(err)
	}
	run(t, ctx, other, "a", "true")
	for range 2 {
		if err := other.Down(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if err := lab.Down(ctx); err != nil {
		t.Fatal(err)
	}
	for _, n := range lab.rec.Nodes {
		if n.running() {
			t.Errorf("init process of %s still runs", n.Name)
		}
		if _, err := os.Stat(filepath.Join(netnsDir, n.Netns)); err == nil {
			t.Errorf("network namespace %s is left", n.Netns)
		}
	}
	if _, err := os.Stat(lab.dir); err == nil {
		t.Errorf("%s is left", lab.dir)
	}
	if _, err := Attach(lab.Name); !errors.Is(err, ErrNotRunning) {
		t.Errorf("attach: %v, want ErrNotRunning", err)
	}
}

func linkNames(t *testing.T) string {
	t.Helper()
	all, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, l := range all {
		names = append(names, l.Attrs().Name)
	}
	return strings.Join(names, " ")
}

// TestRunnerRecycledPID: a record whose PID belongs to another process by now is left alone.
func TestRunnerRecycledPID(t *testing.T) {
	ctx := testContext(t, 10*time.Second)
	start, err := startTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if err := killRecorded(ctx, os.Getpid(), start+1); err != nil {
		t.Fatal(err) // and had it not looked, this test would have ended with a kill
	}
}

// TestRunnerFailedUp: an exec line that fails takes down what was started and says why.
func TestRunnerFailedUp(t *testing.T) {
	ctx := testContext(t, 60*time.Second)
	for _, tc := range []struct{ name, node, want string }{
		{"exec", `exec: ["ip link set nosuch up"]`, "nosuch"},
		{"process", `cmd: sh -c 'echo gone already; exit 1'
      exec: ["sleep 0.3"]`, "gone already"},
		{"mount", `binds: ["f.clab.yml:/proc/1/f"]`, "bind /proc/1/f"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			text := "name: f\ntopology:\n  nodes:\n    a:\n      kind: linux\n      image: x\n      " + tc.node + "\n"
			topo, err := Load(write(t, map[string]string{"f.clab.yml": text}))
			if err != nil {
				t.Fatal(err)
			}
			name := labName("failed")
			if _, err := Up(ctx, topo, Options{Name: name}); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one with %q", err, tc.want)
			}
			if _, err := Attach(name); !errors.Is(err, ErrNotRunning) {
				t.Errorf("attach: %v, want ErrNotRunning", err)
			}
		})
	}
}
