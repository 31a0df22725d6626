package labs

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What the scenario tests share: the hosts behind VTEPs, evpnd's view, and packets that must not be lost.

// vm is one host behind a VTEP.
type vm struct {
	node, at  string // its node, and the node it is linked to
	vni       int
	mac       string
	ip4, ip6  string
	vtep      string // of the node it is linked to
	port      string // that node's end of the link
	frrBehind bool   // the node runs FRR
}

func (v vm) vxlan() string  { return fmt.Sprintf("vxlan%d", v.vni) }
func (v vm) bridge() string { return fmt.Sprintf("br%d", v.vni) }

// pingAll pings every VM from every other VM of its VNI over both families, and a frame of full size once per pair.
func pingAll(t *testing.T, ctx context.Context, lab *Lab, vms []vm) {
	t.Helper()
	for _, from := range vms {
		for _, to := range vms {
			if from.node == to.node || from.vni != to.vni {
				continue
			}
			ping(t, ctx, lab, from.node, to.ip4)
			ping(t, ctx, lab, from.node, to.ip6)
			run(t, ctx, lab, from.node, "ping -n -q -c1 -W2 -M do -s 1472 "+to.ip4)
		}
	}
}

// list runs evpnctl and decodes the items of its answer.
func list[T any](ctx context.Context, lab *Lab, node string, args ...string) ([]T, error) {
	var answer struct {
		Items []T `json:"items"`
	}
	err := query(ctx, lab, node, &answer, append(append([]string{"evpnctl"}, args...), "-o", "json")...)
	return answer.Items, err
}

// The items of evpnctl's tables.
type (
	ctlPeer struct {
		Address    string `json:"address"`
		State      string `json:"state"`
		Since      string `json:"since"`
		Advertised int    `json:"routesAdvertised"`
	}
	ctlMAC struct {
		VNI      int    `json:"vni"`
		MAC      string `json:"mac"`
		Origin   string `json:"origin"`
		VTEP     string `json:"vtep"`
		Port     string `json:"port"`
		Sequence uint32 `json:"sequence"`
		Sticky   bool   `json:"sticky"`
		Kernel   struct {
			State string `json:"state"`
		} `json:"kernel"`
	}
	ctlARP struct {
		VNI    int    `json:"vni"`
		IP     string `json:"ip"`
		MAC    string `json:"mac"`
		Origin string `json:"origin"`
		VTEP   string `json:"vtep"`
	}
	ctlVTEP struct {
		VNI   int    `json:"vni"`
		VTEP  string `json:"vtep"`
		Flood bool   `json:"flood"`
	}
)

// want wants an item for which match holds, or none when present is false.
func want[T any](ctx context.Context, lab *Lab, node string, present bool, match func(T) bool, args ...string) error {
	items, err := list[T](ctx, lab, node, args...)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(items, match) != present {
		return fmt.Errorf("%s: evpnctl %v: wanted item there: %t, have %+v", node, args, !present, items)
	}
	return nil
}

func wantEstablished(ctx context.Context, lab *Lab, node, peer string) error {
	return want(ctx, lab, node, true, func(p ctlPeer) bool {
		return p.Address == peer && strings.EqualFold(p.State, "established")
	}, "show", "summary")
}

func wantVTEP(ctx context.Context, lab *Lab, node string, present bool, vni int, vtep string) error {
	return want(ctx, lab, node, present, func(v ctlVTEP) bool { return v.VNI == vni && v.VTEP == vtep }, "show", "vtep")
}

// wantMAC wants v in evpnd's table as what it is for node: local on its port, or remote behind its VTEP.
func wantMAC(ctx context.Context, lab *Lab, node string, v vm) error {
	return want(ctx, lab, node, true, func(m ctlMAC) bool {
		if m.VNI != v.vni || m.MAC != v.mac || m.Sticky {
			return false
		}
		if v.at == node {
			return m.Origin == "local" && m.Port == v.port
		}
		return m.Origin == "remote" && m.VTEP == v.vtep
	}, "show", "mac")
}

func wantNoMAC(ctx context.Context, lab *Lab, node string, vni int, mac string) error {
	return want(ctx, lab, node, false, func(m ctlMAC) bool { return m.VNI == vni && m.MAC == mac }, "show", "mac")
}

func wantARP(ctx context.Context, lab *Lab, node string, vni int, ip, mac, origin, vtep string) error {
	return want(ctx, lab, node, true, func(a ctlARP) bool {
		return a.VNI == vni && a.IP == ip && a.MAC == mac && a.Origin == origin && (origin == "local" || a.VTEP == vtep)
	}, "show", "arp")
}

// all returns the first error of several checks.
func all(checks ...error) error {
	for _, err := range checks {
		if err != nil {
			return err
		}
	}
	return nil
}

// agree waits until node and its kernel both have v where it is, whatever the node runs.
func agree(t *testing.T, ctx context.Context, lab *Lab, node string, frr bool, v vm) {
	t.Helper()
	within(t, ctx, 20*time.Second, fmt.Sprintf("%s has %s", node, v.node), func() error {
		switch {
		case frr && v.at == node:
			return nil
		case frr:
			return all(wantFRRMAC(ctx, lab, node, v.vni, v.mac, v.vtep), wantFDB(ctx, lab, node, v.vxlan(), v.mac, v.vtep))
		case v.at == node:
			return wantMAC(ctx, lab, node, v)
		default:
			return all(wantMAC(ctx, lab, node, v), wantFDB(ctx, lab, node, v.vxlan(), v.mac, v.vtep))
		}
	})
}

// runExpectations runs the lab's own expect.txtar, which users run with evpnlab test.
func runExpectations(t *testing.T, ctx context.Context, lab *Lab, dir string) {
	t.Helper()
	var out strings.Builder
	if err := RunScript(ctx, lab, filepath.Join(dir, "expect.txtar"), &out); err != nil {
		t.Errorf("%v\n%s", err, out.String())
	}
}

// stream is a ping that runs while something happens.
type stream struct{ process *Process }

var (
	packetsSent = regexp.MustCompile(`(\d+) packets transmitted`)
	answered    = regexp.MustCompile(`bytes from .* icmp_seq=(\d+) `)
)

// startStream is startStreamEvery 20 ms.
func startStream(t *testing.T, ctx context.Context, lab *Lab, node, ip string) stream {
	t.Helper()
	return startStreamEvery(t, ctx, lab, 20*time.Millisecond, node, ip)
}

// startStreamEvery pings until stopped, and returns when the first answer is there.
func startStreamEvery(t *testing.T, ctx context.Context, lab *Lab, pause time.Duration, node, ip string) stream {
	t.Helper()
	every := strconv.FormatFloat(pause.Seconds(), 'f', -1, 64)
	p, err := lab.Start(node, "ping-"+strings.ReplaceAll(ip, ":", "_"), "ping", "-n", "-i", every, "-W", "2", ip)
	if err != nil {
		t.Fatal(err)
	}
	within(t, ctx, 5*time.Second, "first answer of "+ip, func() error {
		return wantInFile(p.Log, "bytes from")
	})
	return stream{process: p}
}

// more waits until n further packets have been answered.
func (s stream) more(t *testing.T, ctx context.Context, n int) {
	t.Helper()
	count := func() int {
		log, err := os.ReadFile(s.process.Log)
		if err != nil {
			t.Fatal(err)
		}
		return len(answered.FindAll(log, -1))
	}
	first := count()
	within(t, ctx, 20*time.Second, fmt.Sprintf("%d more answers", n), func() error {
		if now := count(); now < first+n {
			return fmt.Errorf("%d answers, had %d", now, first)
		}
		return nil
	})
}

// stop ends the ping and wants every packet answered; only the last one may have been on its way.
func (s stream) stop(t *testing.T, ctx context.Context) {
	t.Helper()
	if err := s.process.Stop(ctx, unix.SIGINT); err != nil {
		t.Fatal(err)
	}
	log, err := os.ReadFile(s.process.Log)
	if err != nil {
		t.Fatal(err)
	}
	summary := packetsSent.FindSubmatch(log)
	if summary == nil {
		t.Fatalf("ping has no summary: %s", log)
	}
	sent, _ := strconv.Atoi(string(summary[1]))
	got := map[int]bool{}
	for _, m := range answered.FindAllSubmatch(log, -1) {
		seq, _ := strconv.Atoi(string(m[1]))
		got[seq] = true
	}
	var lost []int
	for seq := 1; seq < sent; seq++ {
		if !got[seq] {
			lost = append(lost, seq)
		}
	}
	if len(lost) > 0 || len(got) < 10 {
		t.Errorf("%s: %d of %d packets lost: %v", filepath.Base(s.process.Log), len(lost), sent, lost)
	}
	t.Logf("%s: %d of %d packets answered", filepath.Base(s.process.Log), len(got), sent)
}

func wantInFile(path, text string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if !strings.Contains(string(b), text) {
		return fmt.Errorf("%s: no %q in %q", filepath.Base(path), text, b)
	}
	return nil
}
