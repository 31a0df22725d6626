package labs

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// Duplicates as TestFlapping configures them: the times are the shortest that leave room for a slow machine.
const (
	flappingMoves  = 5
	flappingConfig = `duplicates:
  moves: 5
  within: 2s
  recover-after: 6s
`
)

// flapping are two hosts that a MAC or an IP is claimed on.
type flapping struct {
	t      *testing.T
	ctx    context.Context
	lab    *Lab
	tables map[string]*kernelTables
	ports  map[string]vmPort // of the VM behind h1 and the one behind h2
}

// TestFlapping: a MAC that two hosts have, and an IP that two MACs have, are found to be so after the configured number of
// moves and held, while everyone else's traffic flows and other MACs move; they are let go by themselves, or by command.
func TestFlapping(t *testing.T) {
	ctx := testContext(t, 3*time.Minute)
	f := newFlapping(t, ctx)
	others := startStream(t, ctx, f.lab, "vm12", "172.16.100.22")
	macs := [2][]byte{{2, 0, 0, 0x64, 0x66, 1}, {2, 0, 0, 0x64, 0x66, 2}}
	ip := netip.MustParseAddr("172.16.100.166")

	f.flapMAC(macs[0], netip.MustParseAddr("172.16.100.161"))
	t.Run("others move on", func(t *testing.T) {
		other := []byte{2, 0, 0, 0x64, 0x66, 9}
		for _, host := range []string{"h1", "h2", "h1"} {
			f.appear(other, netip.MustParseAddr("172.16.100.169"), host)
		}
	})
	f.flapIP(ip)
	mac := macText(macs[0])
	if err := wantInFile(f.lab.LogFile("h1"), "ip of two hosts"); err != nil {
		t.Error(err)
	}
	f.recovers("MAC "+mac, func(host string) bool { return f.macHeld(host, mac) })
	f.recovers("IP "+ip.String(), func(host string) bool { return f.ipHeld(host, ip) })

	f.flapMAC(macs[1], netip.MustParseAddr("172.16.100.162"))
	f.await("h1 holds it too", func() error { return held(f.macHeld("h1", macText(macs[1]))) })
	for _, host := range []string{"h1", "h2"} {
		run(t, ctx, f.lab, host, "evpnctl clear duplicate "+macText(macs[1]))
		if f.macHeld(host, macText(macs[1])) {
			t.Errorf("%s still holds a MAC that the operator has cleared", host)
		}
		if err := wantInFile(f.lab.LogFile(host), "cleared by operator"); err != nil {
			t.Error(err)
		}
	}
	f.appear(macs[1], netip.MustParseAddr("172.16.100.162"), "h2")
	f.appear(macs[1], netip.MustParseAddr("172.16.100.162"), "h1")
	others.stop(t, ctx)
}

func newFlapping(t *testing.T, ctx context.Context) *flapping {
	topo, err := Load("01-two-hosts")
	if err != nil {
		t.Fatal(err)
	}
	dropIn := filepath.Join(t.TempDir(), "duplicates.yaml")
	if err := os.WriteFile(dropIn, []byte(flappingConfig), 0o644); err != nil {
		t.Fatal(err)
	}
	for i, n := range topo.Nodes {
		if roleOf(n.Image) == roleEVPND {
			topo.Nodes[i].Binds = append(n.Binds, Bind{Source: dropIn, Target: "/etc/evpnd/conf.d/duplicates.yaml", ReadOnly: true})
		}
	}
	f := &flapping{t: t, ctx: ctx, lab: bringUpTopology(t, ctx, topo), tables: map[string]*kernelTables{}, ports: map[string]vmPort{}}
	within(t, ctx, 30*time.Second, "both hosts flood to each other", func() error {
		return all(wantVTEP(ctx, f.lab, "h1", true, 100, vteps01["h2"]), wantVTEP(ctx, f.lab, "h2", true, 100, vteps01["h1"]))
	})
	for host, vm := range map[string]string{"h1": "vm11", "h2": "vm21"} {
		f.tables[host] = openTables(t, f.lab, host)
		f.ports[host] = newVMPort(t, f.lab, vm, "eth1")
	}
	return f
}

// vteps01 are the VTEPs of 01-two-hosts.
var vteps01 = map[string]string{"h1": "10.255.0.1", "h2": "10.255.0.2"}

// appear sends a gratuitous ARP behind a host and waits until both kernels have the MAC there.
func (f *flapping) appear(mac []byte, ip netip.Addr, host string) {
	f.t.Helper()
	f.ports[host].send(gratuitousARP(mac, ip))
	f.await(fmt.Sprintf("%s at %s", macText(mac), host), func() error {
		for name, k := range f.tables {
			var err error
			if name == host {
				err = k.wantLocal(macText(mac), false)
			} else {
				err = k.wantRemote(macText(mac), netip.MustParseAddr(vteps01[host]))
			}
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		return nil
	})
}

// await is within without a line in the log.
func (f *flapping) await(what string, check func() error) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.ctx, 10*time.Second)
	defer cancel()
	var last error
	if err := waitFor(ctx, what, func() (bool, error) { last = check(); return last == nil, nil }); err != nil {
		f.t.Fatal(errors.Join(err, last))
	}
}

// flapMAC has a MAC appear behind both hosts in turn until h2 has seen it move to itself as often as configured, and not
// earlier.
func (f *flapping) flapMAC(mac []byte, ip netip.Addr) {
	f.t.Helper()
	name := macText(mac)
	began := time.Now()
	for n := range flappingMoves {
		f.appear(mac, ip, "h1")
		if n > 0 && f.macHeld("h2", name) {
			f.t.Fatalf("h2 holds %s after %d moves", name, n)
		}
		f.appear(mac, ip, "h2")
	}
	f.await("h2 holds "+name, func() error { return held(f.macHeld("h2", name)) })
	f.t.Logf("%s held after %d moves in %s", name, flappingMoves, time.Since(began).Round(time.Millisecond))
	if err := wantInFile(f.lab.LogFile("h2"), "mac of two hosts"); err != nil {
		f.t.Error(err)
	}
	// It is at h1 now, says h1; for h2 it stays where it is.
	f.ports["h1"].send(gratuitousARP(mac, ip))
	f.await("h2 hears of "+name+" at h1", func() error {
		return want(f.ctx, f.lab, "h2", true, func(m heldMAC) bool {
			return m.MAC == name && m.Origin == "local" && m.Duplicate != nil && len(m.Candidates) > 1
		}, "show", "mac")
	})
	if err := f.tables["h2"].wantLocal(name, false); err != nil {
		f.t.Error(err)
	}
}

// claimEvery is how often an IP is claimed by one of the two that have it.
const claimEvery = 20 * time.Millisecond

// flapIP has two MACs behind h1 claim an IP in turn until h1 holds it.
func (f *flapping) flapIP(ip netip.Addr) {
	f.t.Helper()
	rivals := []vmPort{f.ports["h1"], newVMPort(f.t, f.lab, "vm12", "eth1")}
	tick := time.NewTicker(claimEvery)
	defer tick.Stop()
	for n := range int(10 * time.Second / claimEvery) {
		select {
		case <-f.ctx.Done():
			f.t.Fatal(f.ctx.Err())
		case <-tick.C:
		}
		rivals[n%2].send(gratuitousARP([]byte{2, 0, 0, 0x64, 0x67, byte(n % 2)}, ip))
		if n%10 == 9 && f.ipHeld("h1", ip) {
			return
		}
	}
	f.t.Fatalf("h1 does not hold %s, which two MACs claim", ip)
}

func held(yes bool) error {
	if !yes {
		return errors.New("it is not held")
	}
	return nil
}

// recovers waits until no host holds it any more.
func (f *flapping) recovers(what string, held func(host string) bool) {
	f.t.Helper()
	within(f.t, f.ctx, 30*time.Second, what+" is let go", func() error {
		if held("h1") || held("h2") {
			return errors.New("still held")
		}
		return nil
	})
}

// heldMAC and heldIP are items of evpnctl's tables.
type (
	heldMAC struct {
		MAC        string           `json:"mac"`
		Origin     string           `json:"origin"`
		Duplicate  *ctlDuplicate    `json:"duplicate"`
		Candidates []map[string]any `json:"candidates"`
	}
	heldIP struct {
		IP        string        `json:"ip"`
		Duplicate *ctlDuplicate `json:"duplicate"`
	}
	ctlDuplicate struct {
		Moves  int    `json:"moves"`
		Action string `json:"action"`
	}
)

// check wants what the configuration says.
func (d ctlDuplicate) check(t *testing.T) {
	t.Helper()
	if d != (ctlDuplicate{Moves: flappingMoves, Action: "hold"}) {
		t.Errorf("duplicate %+v", d)
	}
}

func (f *flapping) macHeld(host, mac string) bool {
	f.t.Helper()
	items, err := list[heldMAC](f.ctx, f.lab, host, "show", "mac", "--duplicate")
	if err != nil {
		f.t.Fatal(err)
	}
	i := slices.IndexFunc(items, func(m heldMAC) bool { return m.MAC == mac })
	if i >= 0 {
		items[i].Duplicate.check(f.t)
	}
	return i >= 0
}

func (f *flapping) ipHeld(host string, ip netip.Addr) bool {
	f.t.Helper()
	items, err := list[heldIP](f.ctx, f.lab, host, "show", "arp")
	if err != nil {
		f.t.Fatal(err)
	}
	i := slices.IndexFunc(items, func(e heldIP) bool { return e.IP == ip.String() && e.Duplicate != nil })
	if i >= 0 {
		items[i].Duplicate.check(f.t)
	}
	return i >= 0
}
