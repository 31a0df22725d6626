package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coreos/go-systemd/v22/unit"
)

const unitFile = "../../packaging/systemd/evpnd.service"

// settings returns the values of a directive of the unit, in order.
func settings(t *testing.T, name string) []string {
	t.Helper()
	f, err := os.Open(unitFile)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	options, err := unit.DeserializeOptions(f)
	if err != nil {
		t.Fatal(err)
	}
	var values []string
	for _, o := range options {
		if o.Name == name {
			values = append(values, o.Value)
		}
	}
	if len(values) == 0 {
		t.Fatalf("%s has no %s=", unitFile, name)
	}
	return values
}

// TestUnitExposure: what systemd makes of the unit's hardening.
func TestUnitExposure(t *testing.T) {
	const most = 2.0
	out, err := exec.Command("systemd-analyze", "security", "--offline=true", unitFile).CombinedOutput()
	m := regexp.MustCompile(`Overall exposure level for evpnd.service: ([0-9.]+)`).FindSubmatch(out)
	if err != nil || m == nil {
		t.Fatalf("systemd-analyze: %v\n%s", err, out)
	}
	if got, err := strconv.ParseFloat(string(m[1]), 64); err != nil || got > most {
		t.Errorf("exposure %s, want %v at most (%v)\n%s", m[1], most, err, out)
	}
}

// TestUnitRestrictions runs two daemons as the unit does: as a user without rights, with the unit's capabilities and no
// others, and under a tracer that writes down their system calls. They peer with a TCP MD5 key on port 179, one of them
// serves a VNI, writes routes of the other into the kernel and reads frames; and they make no call that the unit's filter
// forbids.
func TestUnitRestrictions(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to give up what root may")
	}
	w := newService(t)
	w.network()
	w.start("a", `
asn: 65000
vtep: 10.255.0.1
listen: {addresses: [127.0.0.1]}
peers:
  - {address: 127.0.0.2, asn: 65000, passive: true, password-file: key}
manage-devices: true
`)
	w.start("b", `
asn: 65000
vtep: 10.255.0.2
auto-vnis: false
peers:
  - {address: 127.0.0.1, asn: 65000, local-address: 127.0.0.2, interface: lo, password-file: key}
`)
	w.until("a", `evpn_peer_up{peer="127.0.0.2"} 1`)
	w.until("b", `evpn_peer_up{peer="127.0.0.1"} 1`)
	w.until("a", `evpn_snoop_ports 1`)
	for _, f := range []string{"fdb add 02:00:00:00:00:07 dev evpn0 master static", "fdb del 02:00:00:00:00:07 dev evpn0 master"} {
		execute(t, "bridge", strings.Fields(f)...)
	}
	_ = exec.Command("ping", "-c", "1", "-W", "1", "-I", "evpn1", "172.16.7.9").Run() // nobody answers; what counts is its ARP request
	w.until("a", `evpn_snoop_packets_total{proto="arp",verdict="accepted"} [1-9]`)
	w.until("a", `evpn_macs{origin="local",vni="7"} 1`)
	w.until("b", `evpn_routes{direction="in".*} [1-9]`)
	w.signal("b", syscall.SIGHUP)
	for _, name := range []string{"a", "b"} {
		w.stop(name)
	}
	allowed := allowedCalls(t)
	for _, call := range w.calls() {
		if !allowed[call] {
			t.Errorf("%s is called, which the unit's SystemCallFilter= forbids", call)
		}
	}
}

// allowedCalls is what the unit's filter lets through, by systemd's own lists.
func allowedCalls(t *testing.T) map[string]bool {
	t.Helper()
	allowed := map[string]bool{}
	for _, value := range settings(t, "SystemCallFilter") {
		value, deny := strings.CutPrefix(value, "~")
		for _, item := range strings.Fields(value) {
			for _, call := range members(t, item) {
				allowed[call] = !deny
			}
		}
	}
	return allowed
}

func members(t *testing.T, item string) []string {
	t.Helper()
	if !strings.HasPrefix(item, "@") {
		return []string{item}
	}
	out, err := exec.Command("systemd-analyze", "syscall-filter", "--no-pager", item).Output()
	if err != nil {
		t.Fatal(err)
	}
	var calls []string
	for line := range strings.Lines(string(out)) {
		if word := strings.TrimSpace(line); strings.HasPrefix(line, " ") && word != "" && word[0] != '#' {
			calls = append(calls, members(t, word)...)
		}
	}
	return calls
}

// service runs daemons as the unit says.
type service struct {
	t    *testing.T
	dir  string
	user string
	caps []string
	cmds map[string]*exec.Cmd
	logs map[string]*bytes.Buffer
}

func newService(t *testing.T) *service {
	w := &service{t: t, user: "65534", cmds: map[string]*exec.Cmd{}, logs: map[string]*bytes.Buffer{}}
	// Not t.TempDir: its parent is root's alone.
	dir, err := os.MkdirTemp("", "evpnd-service-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	w.dir = dir
	program, err := os.ReadFile("/proc/self/exe")
	w.check(err)
	w.check(os.WriteFile(filepath.Join(dir, "evpnd"), program, 0o755))
	w.check(os.WriteFile(filepath.Join(dir, "key"), []byte("secret\n"), 0o644))
	w.check(os.Chmod(dir, 0o777))
	if a, b := settings(t, "AmbientCapabilities")[0], settings(t, "CapabilityBoundingSet")[0]; a != b {
		t.Fatalf("ambient %q, bounding %q", a, b)
	}
	for _, c := range strings.Fields(settings(t, "AmbientCapabilities")[0]) {
		w.caps = append(w.caps, "+"+strings.ToLower(strings.TrimPrefix(c, "CAP_")))
	}
	return w
}

func (w *service) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// network makes VNI 7 with one access port, behind which evpn1 is the host.
func (w *service) network() {
	w.t.Cleanup(func() {
		for _, dev := range []string{"evpn0", "vxlan7", "br7"} {
			execute(w.t, "ip", "link", "del", dev)
		}
	})
	for _, line := range []string{
		"link add br7 type bridge",
		"link set br7 address 02:ff:00:00:00:07 up",
		"link add vxlan7 type vxlan id 7 dstport 4789 local 10.255.0.1",
		"link set vxlan7 master br7 up",
		"link add evpn0 type veth peer name evpn1",
		"link set evpn0 master br7 up",
		"addr add 172.16.7.1/24 dev evpn1",
		"link set evpn1 up",
	} {
		execute(w.t, "ip", strings.Fields(line)...)
	}
}

func execute(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}

func (w *service) start(name, config string) {
	w.t.Helper()
	config += fmt.Sprintf("state-dir: %[1]s/%[2]s\napi: {socket: %[1]s/%[2]s/sock, metrics: METRICS, group: nogroup}\n", w.dir, name)
	config = strings.ReplaceAll(config, "METRICS", metricsAddr(name))
	file := filepath.Join(w.dir, name+".yaml")
	w.check(os.WriteFile(file, []byte(config), 0o644))
	caps := strings.Join(w.caps, ",")
	cmd := exec.Command("setpriv", "--reuid", w.user, "--regid", w.user, "--clear-groups", "--no-new-privs",
		"--bounding-set", "-all,"+caps, "--inh-caps", "-all,"+caps, "--ambient-caps", "-all,"+caps,
		"strace", "-f", "-qq", "-e", "signal=none", "-o", filepath.Join(w.dir, name+".trace"), "--",
		filepath.Join(w.dir, "evpnd"), "-c", file)
	cmd.Env = append(os.Environ(), inside+"=1", "NOTIFY_SOCKET=")
	log := &bytes.Buffer{}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	w.check(cmd.Start())
	w.cmds[name], w.logs[name] = cmd, log
	w.t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
		if w.t.Failed() {
			w.t.Logf("%s:\n%s", name, log)
		}
	})
}

func metricsAddr(name string) string { return "127.0.0." + strconv.Itoa(int(name[0])) + ":9473" }

// until waits for a line of the daemon's metrics.
func (w *service) until(name, pattern string) {
	w.t.Helper()
	re := regexp.MustCompile("(?m)^" + pattern)
	var body []byte
	for end := time.Now().Add(3 * deadline); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		resp, err := http.Get("http://" + metricsAddr(name) + "/metrics")
		if err != nil {
			body = []byte(err.Error())
			continue
		}
		body, err = io.ReadAll(resp.Body)
		resp.Body.Close()
		w.check(err)
		if re.Match(body) {
			return
		}
	}
	w.t.Fatalf("%s: no %s in\n%s", name, pattern, body)
}

func (w *service) signal(name string, s syscall.Signal) {
	w.t.Helper()
	w.check(syscall.Kill(-w.cmds[name].Process.Pid, s))
}

// stop ends a daemon, which must say goodbye.
func (w *service) stop(name string) {
	w.t.Helper()
	w.signal(name, syscall.SIGTERM)
	if err := w.cmds[name].Wait(); err != nil {
		w.t.Errorf("%s: %v", name, err)
	}
	if !strings.Contains(w.logs[name].String(), "evpnd stopped") {
		w.t.Errorf("%s did not end by itself", name)
	}
	for line := range strings.Lines(w.logs[name].String()) {
		if strings.Contains(line, "level=error") || strings.Contains(line, "not permitted") {
			w.t.Errorf("%s logged %s", name, line)
		}
	}
}

// calls are the names of the system calls in the traces.
func (w *service) calls() []string {
	call := regexp.MustCompile(`^\d+ +([a-z0-9_]+)\(`)
	seen := map[string]bool{}
	for name := range w.cmds {
		trace, err := os.ReadFile(filepath.Join(w.dir, name+".trace"))
		w.check(err)
		for line := range strings.Lines(string(trace)) {
			if m := call.FindStringSubmatch(line); m != nil {
				seen[m[1]] = true
			}
		}
	}
	var all []string
	for c := range seen {
		all = append(all, c)
	}
	slices.Sort(all)
	if len(all) < 20 {
		w.t.Fatalf("traced %q only", all)
	}
	return all
}
