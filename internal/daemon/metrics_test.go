package daemon

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"google.golang.org/grpc"

	evpnv1 "github.com/evpnd/evpnd/api/evpn/v1"
	"github.com/evpnd/evpnd/evpn"
	"github.com/evpnd/evpnd/speaker"
)

// get makes a request to the daemon's HTTP listener.
func (c *client) get(path string) (int, string) {
	c.t.Helper()
	resp, err := c.browser.Get(c.http + path)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// TestMetrics: the names, labels and values of a scrape are those of testdata/metrics.txt, and promlint likes them.
func TestMetrics(t *testing.T) {
	c := newClient(t, populatedConfig, nil)
	c.populate()
	code, body := c.get("/metrics")
	if code != http.StatusOK {
		t.Fatalf("%d\n%s", code, body)
	}
	golden(t, "metrics.txt", steadyMetrics(body))
	problems, err := promlint.New(strings.NewReader(body)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	families := parse(t, body)
	described := map[string]bool{}
	for _, m := range documented(t) {
		described[m.name] = true
	}
	maps.DeleteFunc(families, func(name string, _ *dto.MetricFamily) bool { return !strings.HasPrefix(name, "evpn") })
	if !maps.EqualFunc(families, described, func(*dto.MetricFamily, bool) bool { return true }) {
		t.Errorf("scraped %v, described %v", slices.Sorted(maps.Keys(families)), slices.Sorted(maps.Keys(described)))
	}
}

// steadyMetrics leaves out what Go and the process say of themselves, and replaces what differs from run to run.
func steadyMetrics(body string) []byte {
	var out bytes.Buffer
	unsteady := regexp.MustCompile(`^((?:[a-z_]+_timestamp_seconds|evpn_kernel_retries_total)(?:{.*})?) .*`)
	version := regexp.MustCompile(`goversion="[^"]*"`)
	for line := range strings.Lines(body) {
		words := strings.TrimPrefix(strings.TrimPrefix(line, "# HELP "), "# TYPE ")
		switch {
		case !strings.HasPrefix(words, "evpn"), strings.HasPrefix(line, "evpn_install_seconds"), strings.HasPrefix(line, "evpn_advertise_seconds"):
		default:
			out.WriteString(version.ReplaceAllString(unsteady.ReplaceAllString(line, "$1 *"), `goversion="*"`))
		}
	}
	return out.Bytes()
}

func parse(t *testing.T, body string) map[string]*dto.MetricFamily {
	t.Helper()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	return families
}

// value returns the only sample of a metric without labels.
func (c *client) value(name string) float64 {
	t := c.t.(*testing.T)
	_, body := c.get("/metrics")
	family := parse(t, body)[name]
	if family == nil || len(family.Metric) != 1 {
		t.Fatalf("%s: %v", name, family)
	}
	m := family.Metric[0]
	return m.GetGauge().GetValue() + m.GetCounter().GetValue()
}

// TestCountedNotes: repairs and moves are counted.
func TestCountedNotes(t *testing.T) {
	c := newClient(t, "", nil)
	// Observed, so that no read-back comes between and counts as well.
	c.report(attached(10), evpn.Observed{VNI: 10}, evpn.Synced{}, peerUp(peer1), macRoute(peer1, 10, vtep2, macB, ipB), hasMAC(10, macA))
	until(t, "the kernel to be written", func() bool { return c.status().Kernel.Pending == 0 })
	c.report(evpn.Tampered{Keys: []evpn.EntryKey{fdbKey(10, macB)}})
	c.report(hasMAC(10, macB)) // it has moved here
	if got := c.value("evpn_kernel_drift_repaired_total"); got != 1 {
		t.Errorf("%v repaired, want 1", got)
	}
	if got := c.value("evpn_mac_moves_total"); got != 1 {
		t.Errorf("%v moves, want 1", got)
	}
}

// TestLatencies: what is measured is measured from the first fact on, over what waits for BGP and the kernel, and what no
// UPDATE or host is behind is not measured.
func TestLatencies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "", func(_ *Options, w *world) { w.bgp.gate = make(chan struct{}) }).start()
		w.report(attached(10), peerUp(peer1))
		w.bgp.gate <- struct{}{} // IMET: no host is behind it
		synctest.Wait()
		if n, _ := measured(t, w.latency.advertise); n != 0 {
			t.Errorf("%d announcements measured without a host", n)
		}
		w.report(hasMAC(10, macA))
		synctest.Wait() // the announcer waits for BGP
		time.Sleep(3 * time.Second)
		w.bgp.gate <- struct{}{}
		synctest.Wait()
		if n, sum := measured(t, w.latency.advertise); n != 1 || sum != 3 {
			t.Errorf("%d announcements measured, %v s, want 1, 3 s", n, sum)
		}
		for i, heard := range []time.Time{time.Now().Add(-4 * time.Second), time.Now().Add(time.Hour), time.Now().Add(-time.Hour), {}} {
			ip := evpn.LocalIP{VNI: 10, IP: ipA, MAC: macA, Source: evpn.WitnessFrame, Port: "tap1", Heard: heard}
			ip.IP = netip.AddrFrom4([4]byte{172, 16, 9, byte(i)})
			w.report(ip)
			w.bgp.gate <- struct{}{}
			synctest.Wait()
		}
		if n, sum := measured(t, w.latency.advertise); n != 5 || sum != 3+4 { // only the first one's clock is right
			t.Errorf("%d announcements measured, %v s, want 5, 7 s", n, sum)
		}
		if n, _ := measured(t, w.latency.install); n != 0 {
			t.Errorf("%d kernel batches measured without an UPDATE", n)
		}
		w.kernel.slow(2 * time.Second)
		w.report(macRoute(peer1, 10, vtep2, macB, ipB))
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if n, sum := measured(t, w.latency.install); n != 1 || sum != 2 {
			t.Errorf("%d kernel batches measured, %v s, want 1, 2 s", n, sum)
		}
		w.report(macRoute(peer1, 10, vtep2, macC, ipA)) // from its own beginning, not from that of the last
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if n, sum := measured(t, w.latency.install); n != 2 || sum != 4 {
			t.Errorf("%d kernel batches measured, %v s in all, want 2, 4 s", n, sum)
		}
		close(w.bgp.gate)
	})
}

func measured(t *testing.T, h prometheus.Histogram) (uint64, float64) {
	t.Helper()
	var m dto.Metric
	if err := h.Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.Histogram.GetSampleCount(), m.Histogram.GetSampleSum()
}

// TestScrapeAfterStop: a scrape that gets no answer fails, rather than report a host without VNIs.
func TestScrapeAfterStop(t *testing.T) {
	w := newWorld(t, "", nil).start()
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collector{d: w.Daemon})
	if families, err := registry.Gather(); err == nil {
		t.Errorf("gathered %v", families)
	}
}

// TestHealth: the same condition over HTTP and grpc.health.v1.
func TestHealth(t *testing.T) {
	c := newClient(t, "", nil)
	check := func(when string, ready int, bgp, kernel bool, line string) {
		t.Helper()
		for path, want := range map[string]int{"/healthz": http.StatusOK, "/readyz": ready} {
			if code, body := c.get(path); code != want || body != line+"\n" {
				t.Errorf("%s: %s says %d %q, want %d %q", when, path, code, body, want, line)
			}
		}
		want := map[string]bool{"bgp": bgp, "kernel": kernel, "": bgp && kernel}
		until(t, fmt.Sprintf("%s: grpc.health.v1 to say %v", when, want), func() bool { return maps.Equal(c.serving(), want) })
	}
	check("at the start", 503, false, false, "0/0 peers, 0 VNIs, 0 MACs, reading the kernel")
	c.report(attached(10), evpn.Synced{})
	until(t, "the start to be over", func() bool { return c.ready.Load() })
	check("without peers", 503, false, true, "0/0 peers, 1 VNIs, 0 MACs")
	c.bgp.setSessions(speaker.SessionInfo{Peer: peer1, State: speaker.StateEstablished}, speaker.SessionInfo{Peer: peer2, State: speaker.StateIdle})
	check("with a peer", 200, true, true, "1/2 peers, 1 VNIs, 0 MACs")
	c.kernel.refuse(evpn.EntryKey{Table: evpn.TableNeighbor, VNI: 10, Addr: ipB}, context.DeadlineExceeded, true)
	c.report(peerUp(peer1), macRoute(peer1, 10, vtep2, macB, ipB))
	until(t, "the blocked entry", func() bool { return c.status().Kernel.Blocked == 1 })
	check("with somebody's row in the way", 200, true, true, "1/2 peers, 1 VNIs, 1 MACs, 1 blocked")
	c.kernel.refuse(fdbKey(10, macA), context.DeadlineExceeded, false)
	c.report(macRoute(peer1, 10, vtep2, macA, ipA))
	until(t, "the refusal", func() bool { return c.status().Kernel.Blocked == 2 })
	check("with a refused entry", 503, true, false, "1/2 peers, 1 VNIs, 2 MACs, 1 kernel entries refused, 1 blocked")
}

// TestDeadOwner: a daemon whose owner hangs is not alive.
func TestDeadOwner(t *testing.T) {
	c := newClient(t, "", nil)
	hanging, release := make(chan struct{}), make(chan struct{})
	go func() { // ends with release
		_ = c.ask(context.Background(), func(*evpn.Core) { close(hanging); <-release })
	}()
	<-hanging
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // its patience is over
	if h := c.health(ctx); h.alive || h.well() {
		t.Errorf("%+v", h)
	}
	close(release)
}

// TestPanicInCall: it costs the call, and nothing else.
func TestPanicInCall(t *testing.T) {
	c := newClient(t, "", nil)
	c.kernel.panics.Store(true)
	if _, err := c.inspect.GetStatus(c.ctx, &evpnv1.GetStatusRequest{}); err == nil || !strings.Contains(err.Error(), "code = Internal") {
		t.Errorf("GetStatus says %v", err)
	}
	if code, body := c.get("/metrics"); code != http.StatusInternalServerError || !strings.Contains(body, "no status today") {
		t.Errorf("scrape: %d %s", code, body)
	}
	c.kernel.panics.Store(false)
	if _, err := c.inspect.GetStatus(c.ctx, &evpnv1.GetStatusRequest{}); err != nil {
		t.Errorf("GetStatus says %v after that", err)
	}
	err := c.recoverStream(nil, nil, &grpc.StreamServerInfo{}, func(any, grpc.ServerStream) error { panic("index out of range") })
	if err == nil || !strings.Contains(err.Error(), "code = Internal") {
		t.Errorf("stream says %v", err)
	}
}
