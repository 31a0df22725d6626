package labs

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestHosts: static rows, gateways and silent hosts of one of two hosts, as the other one and the kernels see them.
func TestHosts(t *testing.T) {
	ctx := testContext(t, 3*time.Minute)
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("01-two-hosts")); err != nil {
		t.Fatal(err)
	}
	conf, err := os.OpenFile(filepath.Join(dir, "h1", "evpnd.yaml"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = conf.WriteString("vnis: {100: {static-macs: sticky, gateways: [{mac: \"02:00:5e:00:01:01\", ip: 172.16.100.254}]}}\n")
	if err := all(err, conf.Close()); err != nil {
		t.Fatal(err)
	}
	lab := bringUp(t, ctx, dir)
	within(t, ctx, 30*time.Second, "h1 and h2 have a session", func() error {
		return all(wantEstablished(ctx, lab, "h1", "10.0.0.1"), wantVTEP(ctx, lab, "h1", true, 100, "10.255.0.2"))
	})
	t.Run("gateway", func(t *testing.T) { testGateway(t, ctx, lab) })
	t.Run("static row", func(t *testing.T) { testStaticRow(t, ctx, lab) })
	t.Run("address that fails over", func(t *testing.T) { testFailover(t, ctx, lab) })
	t.Run("silent host over a restart", func(t *testing.T) { testSilentHost(t, ctx, lab) })
}

// testGateway: what h1 is configured with is a default gateway to h2, and a VM of h1 that claims it is refused.
func testGateway(t *testing.T, ctx context.Context, lab *Lab) {
	const mac, ip = "02:00:5e:00:01:01", "172.16.100.254"
	within(t, ctx, 20*time.Second, "h2 has the gateway", func() error {
		return all(
			wantARP(ctx, lab, "h2", 100, ip, mac, "remote", "10.255.0.1"),
			wantNeighbor(ctx, lab, "h2", "br100", ip, mac), wantFDB(ctx, lab, "h2", "vxlan100", mac, "10.255.0.1"),
		)
	})
	newVMPort(t, lab, "vm11", "eth1").send(gratuitousARP([]byte{2, 0, 0, 0x64, 1, 1}, netip.MustParseAddr(ip)))
	within(t, ctx, 20*time.Second, "h1 refuses the VM", func() error {
		return wantInFile(lab.LogFile("h1"), "gateway claimed by someone else")
	})
	if err := wantNeighbor(ctx, lab, "h2", "br100", ip, mac); err != nil {
		t.Error(err)
	}
}

// testStaticRow: the MAC of a static row on a port of h1 is sticky at h2, where a VM that uses it is not believed; h1's row
// stays as it is.
func testStaticRow(t *testing.T, ctx context.Context, lab *Lab) {
	const mac = "02:00:00:64:01:aa"
	run(t, ctx, lab, "h1", "bridge fdb add "+mac+" dev eth2 master static")
	sticky := func() error {
		return want(ctx, lab, "h2", true, func(m ctlMAC) bool { return m.MAC == mac && m.VTEP == "10.255.0.1" && m.Sticky }, "show", "mac")
	}
	within(t, ctx, 20*time.Second, "h2 has it sticky", func() error {
		return all(sticky(), wantFDB(ctx, lab, "h2", "vxlan100", mac, "10.255.0.1"))
	})
	w := newVMPort(t, lab, "vm21", "eth1")
	w.send(gratuitousARP([]byte{2, 0, 0, 0x64, 1, 0xaa}, netip.MustParseAddr("172.16.100.170")))
	within(t, ctx, 20*time.Second, "h2 tells of the VM that uses it", func() error {
		return wantInFile(lab.LogFile("h2"), "mac that is sticky elsewhere seen here")
	})
	rows, _, err := lab.Exec(ctx, "h1", "bridge", "fdb", "show", "dev", "eth2")
	if err := all(err, sticky()); err != nil || !strings.Contains(rows, mac+" master br100 static") {
		t.Errorf("%v; rows of h1: %s", err, rows)
	}
	run(t, ctx, lab, "h1", "bridge fdb del "+mac+" dev eth2 master")
	within(t, ctx, 20*time.Second, "h2 forgets it", func() error { return wantNoMAC(ctx, lab, "h2", 100, mac) })
}

// testFailover: an address that goes from a VM of h1 to one of h2, which has another MAC, is known with that one at once.
func testFailover(t *testing.T, ctx context.Context, lab *Lab) {
	const (
		ip     = "172.16.100.50"
		before = "02:00:00:64:01:01"
		after  = "02:00:00:64:02:01"
	)
	run(t, ctx, lab, "vm11", "ip addr add "+ip+"/24 dev eth1")
	newVMPort(t, lab, "vm11", "eth1").send(gratuitousARP([]byte{2, 0, 0, 0x64, 1, 1}, netip.MustParseAddr(ip)))
	within(t, ctx, 20*time.Second, "h2 has it with the one MAC", func() error { return wantNeighbor(ctx, lab, "h2", "br100", ip, before) })
	run(t, ctx, lab, "vm11", "ip addr del "+ip+"/24 dev eth1")
	run(t, ctx, lab, "vm21", "ip addr add "+ip+"/24 dev eth1")
	newVMPort(t, lab, "vm21", "eth1").send(gratuitousARP([]byte{2, 0, 0, 0x64, 2, 1}, netip.MustParseAddr(ip)))
	within(t, ctx, 20*time.Second, "h1 has it with the other", func() error {
		return all(
			wantNeighbor(ctx, lab, "h1", "br100", ip, after), wantARP(ctx, lab, "h1", 100, ip, after, "remote", "10.255.0.2"),
			wantARP(ctx, lab, "h2", 100, ip, after, "local", ""),
		)
	})
}

// testSilentHost: the address of a VM that says nothing outlives a restart of its daemon; no row of h2 goes for it.
func testSilentHost(t *testing.T, ctx context.Context, lab *Lab) {
	const ip, mac = "172.16.100.11", "02:00:00:64:01:01"
	newVMPort(t, lab, "vm11", "eth1").send(gratuitousARP([]byte{2, 0, 0, 0x64, 1, 1}, netip.MustParseAddr(ip)))
	within(t, ctx, 20*time.Second, "h2 has the VM", func() error { return wantNeighbor(ctx, lab, "h2", "br100", ip, mac) })
	m, err := lab.Start("h2", "neighbors", "ip", "monitor", "neigh", "dev", "br100")
	if err != nil {
		t.Fatal(err)
	}
	if err := lab.StopProcess(ctx, "h1", unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	within(t, ctx, 20*time.Second, "h2 sees the session go", func() error {
		return want(ctx, lab, "h2", true, func(p ctlPeer) bool { return !strings.EqualFold(p.State, "established") }, "show", "summary")
	})
	if err := lab.StartProcess("h1"); err != nil {
		t.Fatal(err)
	}
	within(t, ctx, 30*time.Second, "h1 has its address again", func() error {
		return all(wantEstablished(ctx, lab, "h1", "10.0.0.1"), wantARP(ctx, lab, "h1", 100, ip, mac, "local", ""))
	})
	within(t, ctx, 20*time.Second, "h2 has had all of h1's routes", func() error {
		return all(wantARP(ctx, lab, "h2", 100, ip, mac, "remote", "10.255.0.1"), wantNeighbor(ctx, lab, "h2", "br100", ip, mac))
	})
	if err := m.Stop(ctx, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if log, err := os.ReadFile(m.Log); err != nil || strings.Contains(string(log), "Deleted "+ip) {
		t.Errorf("%v; h2 lost the address for a while: %s", err, log)
	}
}
