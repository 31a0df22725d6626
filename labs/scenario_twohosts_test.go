package labs

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// twoHosts are 01-two-hosts and 03-ipv6-underlay: the same picture over another underlay.
type twoHosts struct {
	dir   string
	vteps [2]string
	peers [2]string // the other one's session address, as h1 and h2 see it
}

func TestScenario01TwoHosts(t *testing.T) {
	testTwoHosts(t, twoHosts{
		dir: "01-two-hosts", vteps: [2]string{"10.255.0.1", "10.255.0.2"}, peers: [2]string{"10.0.0.1", "10.0.0.0"},
	})
}

func TestScenario03IPv6Underlay(t *testing.T) {
	testTwoHosts(t, twoHosts{
		dir: "03-ipv6-underlay", vteps: [2]string{"fd00:255::1", "fd00:255::2"}, peers: [2]string{"fd00:1::2", "fd00:1::1"},
	})
}

func (s twoHosts) vms() []vm {
	var vms []vm
	for host := 1; host <= 2; host++ {
		for n := 1; n <= 2; n++ {
			vms = append(vms, vm{
				node: fmt.Sprintf("vm%d%d", host, n), at: fmt.Sprintf("h%d", host), vni: 100,
				mac: fmt.Sprintf("02:00:00:64:%02x:%02x", host, n),
				ip4: fmt.Sprintf("172.16.100.%d%d", host, n), ip6: fmt.Sprintf("fd00:100::%d%d", host, n),
				vtep: s.vteps[host-1], port: fmt.Sprintf("eth%d", n+1),
			})
		}
	}
	return vms
}

func testTwoHosts(t *testing.T, s twoHosts) {
	ctx := testContext(t, 3*time.Minute)
	lab := bringUp(t, ctx, s.dir)
	vms := s.vms()
	for i, host := range []string{"h1", "h2"} {
		within(t, ctx, 30*time.Second, host+" floods to the other", func() error {
			return all(
				wantEstablished(ctx, lab, host, s.peers[i]),
				wantVTEP(ctx, lab, host, true, 100, s.vteps[1-i]),
				wantFDB(ctx, lab, host, "vxlan100", zeroMAC, s.vteps[1-i]),
			)
		})
	}
	t.Run("every VM reaches every other one", func(t *testing.T) { pingAll(t, ctx, lab, vms) })
	t.Run("both hosts have every MAC", func(t *testing.T) {
		for _, host := range []string{"h1", "h2"} {
			for _, v := range vms {
				agree(t, ctx, lab, host, false, v)
			}
		}
	})
	t.Run("top", func(t *testing.T) { topShows(t, ctx, lab, "h1", s.peers[0], vms[2]) })
	t.Run("rows put there by hand survive", func(t *testing.T) { testForeignRows(t, ctx, lab, s.vteps[1]) })
	t.Run("a VTEP without a way is parked", func(t *testing.T) { testLostWay(t, ctx, lab, s, vms) })
	t.Run("killed daemon, living traffic", func(t *testing.T) { testKill(t, ctx, lab, s, vms) })
	t.Run("expectations", func(t *testing.T) { runExpectations(t, ctx, lab, s.dir) })
}

// testForeignRows: rows that are not evpnd's stay through a restart and through a remote MAC of the same name.
func testForeignRows(t *testing.T, ctx context.Context, lab *Lab, vtep string) {
	const taken, free, ip = "02:00:00:64:02:aa", "02:00:00:64:02:bb", "172.16.100.99"
	elsewhere := strings.TrimSuffix(vtep, "2") + "9" // a VTEP nobody has
	run(t, ctx, lab, "h1", "bridge fdb add "+taken+" dev vxlan100 dst "+elsewhere+" self static")
	run(t, ctx, lab, "h1", "bridge fdb add "+free+" dev vxlan100 dst "+elsewhere+" self static")
	run(t, ctx, lab, "h1", "ip neigh add "+ip+" lladdr "+taken+" dev br100 nud permanent")
	const rows = "bridge fdb show dev vxlan100; ip neigh show dev br100"
	there := func() error {
		out, _, err := lab.Exec(ctx, "h1", "sh", "-c", rows)
		if err != nil {
			return err
		}
		for _, want := range []string{taken + " dst " + elsewhere + " self static", free + " dst " + elsewhere + " self static", ip + " lladdr " + taken + " PERMANENT"} {
			if !strings.Contains(out, want) {
				return fmt.Errorf("h1 lost %q: %s", want, out)
			}
		}
		return nil
	}
	run(t, ctx, lab, "h2", "bridge fdb add "+taken+" dev eth2 master static") // h2 announces the MAC that h1 has by hand
	within(t, ctx, 20*time.Second, "h1 hears of it", func() error {
		return want(ctx, lab, "h1", true, func(m ctlMAC) bool { return m.MAC == taken && m.VTEP == vtep }, "show", "mac")
	})
	if err := there(); err != nil {
		t.Error(err)
	}
	run(t, ctx, lab, "h2", "bridge fdb del "+taken+" dev eth2 master")
	within(t, ctx, 20*time.Second, "h1 hears that it is gone", func() error {
		return want(ctx, lab, "h1", false, func(m ctlMAC) bool { return m.MAC == taken && m.VTEP == vtep }, "show", "mac")
	})
	if err := there(); err != nil {
		t.Error(err)
	}
	for _, line := range []string{
		"bridge fdb del " + taken + " dev vxlan100 dst " + elsewhere + " self",
		"bridge fdb del " + free + " dev vxlan100 dst " + elsewhere + " self",
		"ip neigh del " + ip + " dev br100",
	} {
		run(t, ctx, lab, "h1", line)
	}
}

// testLostWay: when the underlay loses the way to h2, h1 stops to send there, keeps the session and what it learned by it,
// says so, and goes on as soon as there is a way again.
func testLostWay(t *testing.T, ctx context.Context, lab *Lab, s twoHosts, vms []vm) {
	rule := "ip rule"
	if strings.Contains(s.vteps[1], ":") {
		rule = "ip -6 rule"
	}
	macIs := func(kernel string) func() error {
		return func() error {
			return all(
				want(ctx, lab, "h1", true, func(m ctlMAC) bool { return m.MAC == vms[2].mac && m.VTEP == s.vteps[1] && m.Kernel.State == kernel }, "show", "mac"),
				want(ctx, lab, "h1", true, func(v ctlVTEP) bool { return v.VTEP == s.vteps[1] && v.Flood == (kernel == "installed") }, "show", "vtep"),
				wantEstablished(ctx, lab, "h1", s.peers[0]),
			)
		}
	}
	run(t, ctx, lab, "h1", rule+" add pref 5 to "+s.vteps[1]+" blackhole")
	within(t, ctx, 10*time.Second, "h1 parks what is behind h2", macIs("parked"))
	if out, _, err := lab.Exec(ctx, "h1", "bridge", "fdb", "show", "dev", "vxlan100"); err != nil || strings.Contains(out, "dst "+s.vteps[1]) {
		t.Errorf("h1 floods to h2: %s, %v", out, err)
	}
	out, _, _ := lab.Exec(ctx, "h1", "evpnctl", "show", "vtep")
	if want := "VTEP " + s.vteps[1] + ": next hop unreachable: route of type blackhole"; !strings.Contains(out, want) {
		t.Errorf("show vtep does not say %q:\n%s", want, out)
	}
	run(t, ctx, lab, "h1", rule+" del pref 5")
	within(t, ctx, 10*time.Second, "h1 goes on", macIs("installed"))
	pingAll(t, ctx, lab, vms)
}

// testKill: kill -9 of evpnd and its restart lose no packet in either direction, and no row of either kernel is deleted
// on the way: forwarding stays with the daemon dead, the peer retains, the new daemon adopts.
func testKill(t *testing.T, ctx context.Context, lab *Lab, s twoHosts, vms []vm) {
	monitors := []monitor{startMonitor(t, ctx, lab, "h1"), startMonitor(t, ctx, lab, "h2")}
	streams := []stream{
		startStream(t, ctx, lab, "vm11", "172.16.100.21"),
		startStream(t, ctx, lab, "vm22", "fd00:100::12"),
	}
	before, err := list[ctlMAC](ctx, lab, "h1", "show", "mac")
	if err != nil {
		t.Fatal(err)
	}
	if err := lab.StopProcess(ctx, "h1", unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	within(t, ctx, 20*time.Second, "h2 sees the session go", func() error {
		return want(ctx, lab, "h2", true, func(p ctlPeer) bool { return !strings.EqualFold(p.State, "established") }, "show", "summary")
	})
	for _, p := range streams {
		p.more(t, ctx, 50) // a second without the daemon
	}
	if err := lab.StartProcess("h1"); err != nil {
		t.Fatal(err)
	}
	within(t, ctx, 30*time.Second, "h1 is back", func() error { return wantEstablished(ctx, lab, "h1", s.peers[0]) })
	for _, host := range []string{"h1", "h2"} {
		for _, v := range vms {
			agree(t, ctx, lab, host, false, v)
		}
	}
	within(t, ctx, 20*time.Second, "h1 has as many MACs as before", func() error {
		after, err := list[ctlMAC](ctx, lab, "h1", "show", "mac")
		if err == nil && len(after) != len(before) {
			err = fmt.Errorf("before %v, after %v", before, after)
		}
		return err
	})
	for _, p := range streams {
		p.more(t, ctx, 50)
		p.stop(t, ctx)
	}
	for _, m := range monitors {
		m.wantNothingDeleted(t, ctx)
	}
}

// monitor is bridge monitor fdb in a node.
type monitor struct {
	lab     *Lab
	node    string
	process *Process
	canary  string // MAC of a row that is added and deleted to see that the monitor listens
}

// canaries begin the canaries of all monitors. Each node has its own: of the others' there are remote rows for a moment.
const canaries = "02:00:00:64:cc:"

func startMonitor(t *testing.T, ctx context.Context, lab *Lab, node string) monitor {
	t.Helper()
	p, err := lab.Start(node, "monitor", "bridge", "monitor", "fdb")
	if err != nil {
		t.Fatal(err)
	}
	m := monitor{lab: lab, node: node, process: p, canary: fmt.Sprintf("%s%02x", canaries, node[len(node)-1])}
	m.listens(t, ctx, 1)
	return m
}

// listens waits until the monitor has reported n deletions of the canary or more, deleting it time and again.
func (m monitor) listens(t *testing.T, ctx context.Context, n int) {
	t.Helper()
	within(t, ctx, 10*time.Second, "the monitor of "+m.node+" listens", func() error {
		run(t, ctx, m.lab, m.node, "bridge fdb add "+m.canary+" dev eth2 master static")
		run(t, ctx, m.lab, m.node, "bridge fdb del "+m.canary+" dev eth2 master")
		log, err := os.ReadFile(m.process.Log)
		if err == nil && strings.Count(string(log), "Deleted "+m.canary) < n {
			err = fmt.Errorf("no %s in %q", m.canary, log)
		}
		return err
	})
}

// wantNothingDeleted ends the monitor and wants no deleted row in what it saw, of any device or of those named.
func (m monitor) wantNothingDeleted(t *testing.T, ctx context.Context, devices ...string) {
	t.Helper()
	log, err := os.ReadFile(m.process.Log)
	if err != nil {
		t.Fatal(err)
	}
	m.listens(t, ctx, strings.Count(string(log), "Deleted "+m.canary)+1) // all that came before has been reported
	if err := m.process.Stop(ctx, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if log, err = os.ReadFile(m.process.Log); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(log)) {
		meant := len(devices) == 0 || slices.ContainsFunc(devices, func(dev string) bool { return strings.Contains(line, " dev "+dev+" ") })
		if meant && strings.HasPrefix(line, "Deleted") && !strings.Contains(line, canaries) {
			t.Errorf("%s: %s", m.node, line)
		}
	}
}
