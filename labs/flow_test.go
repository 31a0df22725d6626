package labs

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var (
	flowKills    = flag.Int("flow.kills", 3, "kills of evpnd in TestFlow")
	flowHeadless = flag.Duration("flow.headless", 5*time.Second, "how long both reflectors are dead in TestReflectorsLost")
)

// TestFlow: a thousand packets a second go each way between VMs behind two hosts, and to one of them from a VM behind FRR,
// while evpnd is killed, stopped and started as another build, taken over by one, reloaded, and its sessions are reset. Between
// the hosts none is lost, and in a take-over none at all; a device that goes down loses what comes while it is down.
func TestFlow(t *testing.T) {
	ctx := testContext(t, 3*time.Minute+time.Duration(*flowKills)*10*time.Second)
	f := newFabric(t, ctx)
	t.Run("killed", func(t *testing.T) { f.testKilled(t, ctx) })
	rebuilt, successor := f.build(t, ctx, "rebuilt"), f.build(t, ctx, "successor")
	t.Run("another build", func(t *testing.T) { f.testRebuilt(t, ctx, rebuilt) })
	t.Run("another build takes over", func(t *testing.T) { f.testTakenOver(t, ctx, successor, rebuilt, successor) })
	t.Run("reload", func(t *testing.T) { f.testReload(t, ctx) })
	t.Run("every session reset", func(t *testing.T) { f.testReset(t, ctx) })
	t.Run("VXLAN device flaps", func(t *testing.T) { f.testFlap(t, ctx) })
}

// outage is what one kill cost.
type outage struct {
	lost  time.Duration // of the packets from the ToR
	ready time.Duration // from the start of evpnd until packets from the ToR come again; 0: they never ceased
}

// testKilled kills evpnd at random moments, of which every third comes while it starts.
func (f *fabric) testKilled(t *testing.T, ctx context.Context) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	var outages []outage
	for n := range *flowKills {
		time.Sleep(time.Duration(rng.Int64N(int64(200 * time.Millisecond)))) // the moment
		kill(t, ctx, f.lab, "h1")
		if n%3 == 2 {
			start(t, f.lab, "h1")
			time.Sleep(time.Duration(rng.Int64N(int64(300 * time.Millisecond))))
			kill(t, ctx, f.lab, "h1")
		}
		began := time.Now()
		start(t, f.lab, "h1")
		f.settled(t, ctx)
		o := outage{lost: f.tor.lost(), ready: max(0, f.tor.healed().Sub(began))}
		outages = append(outages, o)
		f.wantNoneLost(t, fmt.Sprintf("kill %d, back %s after the start", n+1, o.ready.Round(time.Millisecond)))
	}
	of := func(what func(outage) time.Duration) string {
		all := make([]time.Duration, 0, len(outages))
		for _, o := range outages {
			all = append(all, what(o).Round(time.Millisecond))
		}
		slices.Sort(all)
		return fmt.Sprintf("median %s, 90 %% %s, most %s", all[len(all)/2], all[len(all)*9/10], all[len(all)-1])
	}
	t.Logf("%d kills: lost from the ToR: %s; from start until they come again: %s", len(outages),
		of(func(o outage) time.Duration { return o.lost }), of(func(o outage) time.Duration { return o.ready }))
}

// testRebuilt stops evpnd and starts another build of it.
func (f *fabric) testRebuilt(t *testing.T, ctx context.Context, b build) {
	if err := f.lab.StopProcess(ctx, "h1", unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if _, err := f.lab.Start("h1", entrypoint, b.command...); err != nil {
		t.Fatal(err)
	}
	f.settled(t, ctx)
	f.wantNoneLost(t, "SIGTERM and another build")
}

// testTakenOver has one build after the other take over. The peer that knows no graceful restart notices as little as the
// one that does: no packet is lost from there either, and it counts no message but KEEPALIVEs.
func (f *fabric) testTakenOver(t *testing.T, ctx context.Context, builds ...build) {
	within(t, ctx, 20*time.Second, "FRR has all of h1", func() error { return f.allAtFRR(ctx) })
	before := frrSessionWith(t, ctx, f.lab, "rr", "10.255.0.1")
	for _, b := range builds {
		for _, flow := range f.all() {
			flow.window()
		}
		if _, err := f.lab.Start("h1", entrypoint, append(b.command, "--take-over")...); err != nil {
			t.Fatal(err)
		}
		within(t, ctx, 20*time.Second, b.version+" serves", func() error {
			var status struct{ Version string }
			err := query(ctx, f.lab, "h1", &status, "evpnctl", "show", "status", "-o", "json")
			if err == nil && status.Version != b.version {
				err = fmt.Errorf("it is still %q", status.Version)
			}
			return err
		})
		f.settled(t, ctx)
		f.tor.keep(t, ctx, time.Second)
		for _, flow := range f.all() {
			flow.wantNoneLost(t, b.version+" has taken over")
		}
	}
	wantUntouched(t, before, frrSessionWith(t, ctx, f.lab, "rr", "10.255.0.1"))
}

// allAtFRR wants the reflector to have as many routes of h1 as h1 has for it, and that it knows that these are all.
func (f *fabric) allAtFRR(ctx context.Context) error {
	p, err := frrPeerOf(ctx, f.lab, "rr", "10.255.0.1")
	if err != nil {
		return err
	}
	has := p.Families["l2VpnEvpn"].Accepted
	if !p.Graceful.EndOfRIB["l2VpnEvpn"] {
		return fmt.Errorf("FRR has %d routes and no End-of-RIB", has)
	}
	return want(ctx, f.lab, "h1", true, func(p ctlPeer) bool {
		return p.Address == "10.255.0.254" && p.Advertised == has
	}, "show", "summary")
}

// build is a build of evpnd on h1.
type build struct {
	version string
	command []string // that starts it
}

// build makes a build that calls itself version.
func (f *fabric) build(t *testing.T, ctx context.Context, version string) build {
	t.Helper()
	path := filepath.Join(t.TempDir(), "evpnd")
	out, err := exec.CommandContext(ctx, "go", "build", "-ldflags", "-X main.version="+version, "-o", path, "../cmd/evpnd").CombinedOutput()
	if err != nil {
		t.Fatalf("build evpnd: %v\n%s", err, out)
	}
	program, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	here := "/tmp/evpnd-" + version // nodes have a /tmp of their own
	err = f.lab.Attached(ctx, "h1", bytes.NewReader(program), nil, nil, "sh", "-c", "cat >"+here+" && chmod +x "+here)
	if err != nil {
		t.Fatal(err)
	}
	return build{version: version, command: []string{here, "-c", "/etc/evpnd/evpnd.yaml"}}
}

func (f *fabric) testReload(t *testing.T, ctx context.Context) {
	for _, vni := range []int{1001, 1002} {
		if err := reload(ctx, f.lab, "h1", fmt.Sprintf("vnis: {%d: {create: true}}\n", vni)); err != nil {
			t.Fatal(err)
		}
	}
	f.settled(t, ctx)
	f.wantNoneLost(t, "reload")
}

func (f *fabric) testReset(t *testing.T, ctx context.Context) {
	for _, peer := range []string{"10.255.0.2", "10.255.0.254"} {
		run(t, ctx, f.lab, "h1", "evpnctl clear peer "+peer)
	}
	f.settled(t, ctx)
	f.wantNoneLost(t, "every session reset")
}

// testFlap: what is sent between the hosts while a VXLAN device is down is lost, and no more than that.
func (f *fabric) testFlap(t *testing.T, ctx context.Context) {
	down := time.Now()
	shell(t, ctx, f.lab, "h1", "ip link set vxlan100 down; sleep 0.2; ip link set vxlan100 up")
	took := time.Since(down)
	f.settled(t, ctx)
	const scheduling = 300 * time.Millisecond // of a machine with other things to do
	for _, flow := range f.all() {
		lost := flow.lost()
		if flow != f.tor && lost > took+scheduling { // FRR is told, and takes its own time
			t.Errorf("%s: packets of %s lost, the device was down for at most %s", flow, lost, took)
		}
		t.Logf("%s: packets of %s lost, the device was down for at most %s", flow, lost.Round(time.Millisecond), took.Round(time.Millisecond))
		flow.window()
	}
}
