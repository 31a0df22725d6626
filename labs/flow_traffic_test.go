package labs

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fabric is the lab of TestFlow: 02-frr-rr with the two hosts peering with each other as well as with the reflector. FRR 8.4.4
// keeps no EVPN routes of a peer that is away, so only between the hosts is there nothing to lose.
type fabric struct {
	lab    *Lab
	direct []*flow // between the hosts, each way
	tor    *flow   // from the ToR to h1
}

func newFabric(t *testing.T, ctx context.Context) *fabric {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("02-frr-rr")); err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= 2; n++ {
		yaml := fmt.Sprintf("asn: 65000\nlisten: true\nvtep: 10.255.0.%d\non-peer-loss: keep-for 2m\npeers:\n", n)
		for _, addr := range []string{"10.255.0.254", fmt.Sprintf("10.255.0.%d", 3-n)} {
			yaml += fmt.Sprintf("  - {address: %s, asn: 65000, local-address: 10.255.0.%d, connect-retry: 200ms}\n", addr, n)
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("h%d/evpnd.yaml", n)), []byte(yaml), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	f := &fabric{lab: bringUp(t, ctx, dir)}
	wantMesh(t, ctx, f.lab, 100, vteps02)
	vms := vmsOf02()
	h1, h2, tor := vms[0], vms[2], vms[4]
	ping(t, ctx, f.lab, h1.node, h2.ip4)
	ping(t, ctx, f.lab, h1.node, tor.ip4)
	for node := range vteps02 {
		for _, v := range []vm{h1, h2, tor} {
			agree(t, ctx, f.lab, node, node == "tor", v)
		}
	}
	f.direct = []*flow{startFlow(t, f.lab, h1, h2), startFlow(t, f.lab, h2, h1)}
	f.tor = startFlow(t, f.lab, tor, h1)
	f.settled(t, ctx)
	for _, flow := range f.all() {
		flow.window()
	}
	return f
}

func (f *fabric) all() []*flow { return append(slices.Clone(f.direct), f.tor) }

// settled waits until h1 and its peers have everything of each other, and packets come everywhere.
func (f *fabric) settled(t *testing.T, ctx context.Context) {
	t.Helper()
	if err := f.wait(ctx); err != nil {
		t.Fatal(err)
	}
}

func (f *fabric) wait(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 40*time.Second)
	defer cancel()
	var last error
	err := waitFor(ctx, "everything of everyone", func() (bool, error) {
		last = all(f.synced(ctx, "h2", "10.255.0.1"), f.synced(ctx, "h1", "10.255.0.2"), f.synced(ctx, "h1", "10.255.0.254"))
		return last == nil, nil
	})
	if err != nil {
		return fmt.Errorf("%w: last: %w", err, last)
	}
	now := time.Now()
	return waitFor(ctx, "packets everywhere", func() (bool, error) {
		return !slices.ContainsFunc(f.all(), func(flow *flow) bool { return !flow.arrivedSince(now) }), nil
	})
}

func (f *fabric) synced(ctx context.Context, node, peer string) error {
	return want(ctx, f.lab, node, true, func(p ctlGraceful) bool {
		return p.Address == peer && p.State == "established" && p.EndOfRIB && p.Routes > 0 && p.Stale == 0
	}, "show", "summary")
}

// wantNoneLost wants that every packet between the hosts has come since the last call.
func (f *fabric) wantNoneLost(t *testing.T, what string) {
	t.Helper()
	for _, flow := range f.direct {
		flow.wantNoneLost(t, what)
	}
	lost, sent := f.tor.count()
	t.Logf("%s: %s: %d of %d packets lost, %s", what, f.tor, lost, sent, f.tor.lost().Round(time.Millisecond))
	f.tor.window()
}

// flow is packets from one VM to another, one a millisecond, until the test ends.
type flow struct {
	probes
	from, to vm
}

func (f *flow) String() string { return f.from.at + "→" + f.to.at }

// wantNoneLost wants that every packet has come since the last call.
func (f *flow) wantNoneLost(t *testing.T, what string) {
	t.Helper()
	lost, sent := f.count()
	if lost > 0 || sent < 10 {
		t.Errorf("%s: %s: %d of %d packets lost", what, f, lost, sent)
	}
	t.Logf("%s: %s: %d of %d packets lost", what, f, lost, sent)
	f.window()
}

// keep waits until a packet has come that was sent d from now.
func (f *flow) keep(t *testing.T, ctx context.Context, d time.Duration) {
	t.Helper()
	at := time.Now().Add(d)
	within(t, ctx, d+20*time.Second, fmt.Sprintf("%s: packets for %s more", f, d), func() error {
		if !f.arrivedSince(at) {
			return fmt.Errorf("none that was sent after %s", at)
		}
		return nil
	})
}

// startFlow sends frames that the kernels of the VMs neither make nor take, so that these say nothing about them.
func startFlow(t *testing.T, lab *Lab, from, to vm) *flow {
	t.Helper()
	source, target := octets(t, from.mac), octets(t, to.mac)
	f := &flow{from: from, to: to}
	f.aim(&guest{mac: to.mac, octets: target}, data(t, source, target, netip.MustParseAddr("172.16.100.201"), netip.MustParseAddr("172.16.100.202")))
	const ipv4 = unix.ETH_P_IP>>8 | unix.ETH_P_IP<<8&0xffff
	fd := packetSocket(t, lab, to.node, "eth1", ipv4)
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20); err != nil { // a packet that waits is not lost
		t.Fatal(err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	in, out := os.NewFile(uintptr(fd), "flow"), newVMPort(t, lab, from.node, "eth1")
	var tasks sync.WaitGroup
	done := make(chan struct{})
	tasks.Go(func() { f.send(out, done) })
	tasks.Go(func() {
		if err := f.receiveFrom(in, 0, source); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		close(done)
		in.Close()
		tasks.Wait()
	})
	return f
}

func octets(t *testing.T, mac string) net.HardwareAddr {
	t.Helper()
	b, err := net.ParseMAC(mac)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
