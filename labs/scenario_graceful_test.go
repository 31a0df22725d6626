package labs

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// reflectors are the nodes of TestReflectorsLost that reflect, by their address.
var reflectors = map[string]string{"rr": "10.255.0.254", "tor": "10.255.0.3"}

// TestReflectorsLost: FRR restarts gracefully, FRR helps, and two FRR reflectors die together for longer than the hold time.
// What FRR's topotest bgp_evpn_gr wants of FRR is wanted of evpnd here: routes stale and visible, kernel entries untouched,
// R and F in the OPEN of the one that restarts, nothing stale in the end. Traffic flows all the time, and nothing is lost.
func TestReflectorsLost(t *testing.T) {
	ctx := testContext(t, 4*time.Minute+*flowHeadless)
	lab := bringUp(t, ctx, twoReflectors(t))
	vms := vmsOf02()
	from, to := vms[0], vms[2] // vm11, vm21
	sessionsUp(t, ctx, lab)
	ping(t, ctx, lab, from.node, to.ip4)
	agree(t, ctx, lab, "h1", false, to)
	agree(t, ctx, lab, "h2", false, from)
	flows := []*flow{startFlow(t, lab, from, to), startFlow(t, lab, to, from)}

	t.Run("FRR restarts gracefully", func(t *testing.T) { testFRRRestarts(t, ctx, lab, to, flows[0]) })
	t.Run("both reflectors are dead", func(t *testing.T) { testHeadless(t, ctx, lab, to, flows[0]) })
	for _, f := range flows {
		f.wantNoneLost(t, "reflectors restarted and dead")
	}
	t.Run("FRR helps", func(t *testing.T) { testFRRHelps(t, ctx, lab) })
	t.Run("FRR asks for all routes", func(t *testing.T) { testFRRRefresh(t, ctx, lab, to) })
}

// twoReflectors makes a lab of 02-frr-rr in which the ToR is a second reflector, and FRR restarts gracefully.
func twoReflectors(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("02-frr-rr")); err != nil {
		t.Fatal(err)
	}
	rr, err := os.ReadFile(filepath.Join(dir, "rr", "frr.conf"))
	if err != nil {
		t.Fatal(err)
	}
	graceful := " bgp graceful-restart\n bgp graceful-restart preserve-fw-state\n bgp graceful-restart restart-time 77\n"
	conf := strings.Replace(string(rr), " no bgp default", graceful+" no bgp default", 1)
	conf = strings.Replace(conf, " neighbor 10.255.0.3 peer-group clients\n", "", 1)
	files := map[string]string{
		"rr/frr.conf": conf, "tor/frr.conf": strings.NewReplacer("10.255.0.254", "10.255.0.3", "hostname rr", "hostname tor").Replace(conf),
	}
	for n := 1; n <= 2; n++ {
		yaml := fmt.Sprintf("asn: 65000\nvtep: 10.255.0.%d\non-peer-loss: keep-for 2m\npeers:\n", n)
		for _, addr := range []string{"10.255.0.254", "10.255.0.3"} {
			yaml += fmt.Sprintf("  - {address: %s, asn: 65000, local-address: 10.255.0.%d, hold-time: 3s, connect-retry: 200ms, long-lived: 1h}\n", addr, n)
		}
		files[fmt.Sprintf("h%d/evpnd.yaml", n)] = yaml
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func sessionsUp(t *testing.T, ctx context.Context, lab *Lab) {
	t.Helper()
	within(t, ctx, 40*time.Second, "all sessions, and nothing stale", func() error {
		for _, host := range []string{"h1", "h2"} {
			for _, addr := range reflectors {
				err := want(ctx, lab, host, true, func(p ctlGraceful) bool {
					return p.Address == addr && p.State == "established" && p.EndOfRIB && p.Routes > 0 && p.Stale == 0
				}, "show", "summary")
				if err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// ctlGraceful is a peer as far as graceful restart goes.
type ctlGraceful struct {
	Address      string   `json:"address"`
	State        string   `json:"state"`
	EndOfRIB     bool     `json:"endOfRibReceived"`
	Routes       int      `json:"routesReceived"`
	Stale        int      `json:"routesStale"`
	LongLived    bool     `json:"longLivedStale"`
	RestartTime  string   `json:"restartTime"`
	Capabilities []string `json:"capabilities"`
}

type ctlRoute struct {
	Peer     string `json:"peer"`
	MAC      string `json:"mac"`
	Stale    string `json:"stale"`
	Received string `json:"received"`
}

// kill ends the programs of a reflector at once; its kernel goes on forwarding.
func kill(t *testing.T, ctx context.Context, lab *Lab, nodes ...string) {
	t.Helper()
	for _, node := range nodes {
		if err := lab.StopProcess(ctx, node, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
}

func start(t *testing.T, lab *Lab, nodes ...string) {
	t.Helper()
	for _, node := range nodes {
		if err := lab.StartProcess(node); err != nil {
			t.Fatal(err)
		}
	}
}

// testFRRRestarts: the routes of one reflector are stale while it restarts, with FRR's restart time, and fresh when it is
// back; the kernel is not touched.
func testFRRRestarts(t *testing.T, ctx context.Context, lab *Lab, remote vm, flow *flow) {
	err := want(ctx, lab, "h1", true, func(p ctlGraceful) bool {
		return p.Address == reflectors["rr"] && p.RestartTime == "77s"
	}, "show", "summary")
	if err != nil {
		t.Error(err)
	}
	kill(t, ctx, lab, "rr")
	within(t, ctx, 20*time.Second, "the reflector's routes are stale", func() error {
		return all(
			want(ctx, lab, "h1", true, func(p ctlGraceful) bool {
				return p.Address == reflectors["rr"] && p.Stale == p.Routes && p.Routes > 0 && !p.LongLived
			}, "show", "summary"),
			want(ctx, lab, "h1", true, func(r ctlRoute) bool {
				return r.Peer == reflectors["rr"] && r.MAC == remote.mac && r.Stale == "stale"
			}, "show", "route", "--in"),
			wantFDB(ctx, lab, "h1", remote.vxlan(), remote.mac, remote.vtep),
		)
	})
	flow.keep(t, ctx, 400*time.Millisecond)
	start(t, lab, "rr")
	sessionsUp(t, ctx, lab)
	if log, err := os.ReadFile(lab.LogFile("h1")); err != nil || strings.Contains(string(log), "did not keep its forwarding state") {
		t.Errorf("%v: h1 did not believe FRR's F bit", err)
	}
}

// testHeadless: with all reflectors dead for longer than the hold time forwarding goes on, and evpnd's own restart does not
// change that.
func testHeadless(t *testing.T, ctx context.Context, lab *Lab, remote vm, flow *flow) {
	kill(t, ctx, lab, "rr", "tor")
	within(t, ctx, 20*time.Second, "everything is stale", func() error {
		for _, addr := range reflectors {
			err := want(ctx, lab, "h1", true, func(p ctlGraceful) bool {
				return p.Address == addr && p.State != "established" && p.Stale == p.Routes && p.Routes > 0
			}, "show", "summary")
			if err != nil {
				return err
			}
		}
		return nil
	})
	flow.keep(t, ctx, *flowHeadless) // the hold time is 3 s
	if err := wantFDB(ctx, lab, "h1", remote.vxlan(), remote.mac, remote.vtep); err != nil {
		t.Error(err)
	}
	start(t, lab, "rr", "tor")
	sessionsUp(t, ctx, lab)
}

// frrPeer is a neighbour as FRR sees it.
type frrPeer struct {
	Capabilities struct {
		LongLived string `json:"longLivedGracefulRestart"`
		Refresh   string `json:"enhancedRouteRefresh"`
		Families  map[string]struct {
			Preserved bool `json:"preserved"`
		} `json:"addressFamiliesByPeer"`
	} `json:"neighborCapabilities"`
	Graceful struct {
		EndOfRIB   map[string]bool `json:"endOfRibRecv"`
		Restarting bool            `json:"rBit"`
		Notify     bool            `json:"nBit"`
		Timers     struct {
			Received int `json:"receivedRestartTimer"`
		} `json:"timers"`
	} `json:"gracefulRestartInfo"`
	Messages struct {
		RefreshReceived int `json:"routeRefreshRecv"`
	} `json:"messageStats"`
	Families map[string]struct {
		Accepted int `json:"acceptedPrefixCounter"`
	} `json:"addressFamilyInfo"`
}

func frrPeerOf(ctx context.Context, lab *Lab, node, addr string) (frrPeer, error) {
	var peers map[string]frrPeer
	err := vtysh(ctx, lab, node, &peers, "show bgp neighbors "+addr+" json")
	return peers[addr], err
}

// testFRRHelps: FRR sees that we have restarted and forwarded meanwhile, our restart time and our End-of-RIB. FRR 8.4.4
// keeps no EVPN routes while we are away, so nothing is wanted of the traffic.
func testFRRHelps(t *testing.T, ctx context.Context, lab *Lab) {
	kill(t, ctx, lab, "h1")
	start(t, lab, "h1")
	sessionsUp(t, ctx, lab)
	within(t, ctx, 20*time.Second, "FRR has our capabilities and End-of-RIB", func() error {
		p, err := frrPeerOf(ctx, lab, "rr", "10.255.0.1")
		if err != nil {
			return err
		}
		g, c := p.Graceful, p.Capabilities
		if !g.Restarting || !g.Notify || g.Timers.Received != 120 || !g.EndOfRIB["l2VpnEvpn"] || !c.Families["l2VpnEvpn"].Preserved ||
			c.LongLived != "advertisedAndReceived" || c.Refresh != "advertisedAndReceived" || p.Families["l2VpnEvpn"].Accepted == 0 {
			return fmt.Errorf("%+v", p)
		}
		return nil
	})
}

// testFRRRefresh: FRR's request for all routes is answered between begin and end, and FRR, which sweeps what it has not got
// by then, has as many as before. The same the other way round.
func testFRRRefresh(t *testing.T, ctx context.Context, lab *Lab, remote vm) {
	before, err := frrPeerOf(ctx, lab, "rr", "10.255.0.1")
	if err != nil {
		t.Fatal(err)
	}
	run(t, ctx, lab, "rr", "vtysh -c 'clear bgp l2vpn evpn 10.255.0.1 soft in'")
	within(t, ctx, 20*time.Second, "FRR has got begin and end, and all routes", func() error {
		p, err := frrPeerOf(ctx, lab, "rr", "10.255.0.1")
		if err != nil {
			return err
		}
		const begunAndEnded = 2
		if p.Messages.RefreshReceived != before.Messages.RefreshReceived+begunAndEnded || p.Families["l2VpnEvpn"] != before.Families["l2VpnEvpn"] {
			return fmt.Errorf("%+v, before %+v", p, before)
		}
		return nil
	})
	var routes []ctlRoute
	if routes, err = list[ctlRoute](ctx, lab, "h1", "show", "route", "--in"); err != nil {
		t.Fatal(err)
	}
	run(t, ctx, lab, "h1", "evpnctl clear peer "+reflectors["rr"]+" --soft")
	within(t, ctx, 20*time.Second, "h1 has all routes of FRR again", func() error {
		now, err := list[ctlRoute](ctx, lab, "h1", "show", "route", "--in")
		if err != nil {
			return err
		}
		again := 0
		for i := range now {
			if i < len(routes) && now[i].Peer == reflectors["rr"] && now[i].Received != routes[i].Received {
				again++
			}
		}
		if len(now) != len(routes) || again == 0 {
			return fmt.Errorf("%+v, before %+v", now, routes)
		}
		return wantFDB(ctx, lab, "h1", remote.vxlan(), remote.mac, remote.vtep)
	})
}
