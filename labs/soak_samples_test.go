package labs

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

// gauge is something of h1 that must not grow.
type gauge struct {
	name    string
	metric  string // summed over its labels; "": the rows in the kernel
	percent float64
	more    float64 // by how much the end may be above the beginning: percent of it, and this
}

// gauges are what is looked at. Memory goes up and down with the garbage collector and with each BGP engine.
var gauges = []gauge{
	{name: "resident MiB", metric: "process_resident_memory_bytes", percent: 10, more: 8},
	{name: "heap in use MiB", metric: "go_memstats_heap_inuse_bytes", percent: 10, more: 8},
	{name: "twice what is alive MiB", metric: "go_memstats_next_gc_bytes", percent: 10, more: 8},
	{name: "goroutines", metric: "go_goroutines", percent: 3, more: 3},
	{name: "file descriptors", metric: "process_open_fds", percent: 5, more: 5},
	{name: "queued", metric: "evpn_queue_depth", more: 50},
	{name: "kernel entries wanted", metric: "evpn_kernel_entries", percent: 10, more: 100},
	{name: "kernel entries pending", metric: "evpn_kernel_pending", more: 100},
	{name: "rows in the kernel", percent: 10, more: 100},
	{name: "routes", metric: "evpn_routes", percent: 10, more: 100},
	{name: "routes GoBGP remembers", metric: "evpn_engine_withdrawn_routes", more: 20_000},
}

// counters are what adds up, for the table.
var counters = []string{
	"evpn_engine_replacements_total", "evpn_kernel_ops_total", "evpn_kernel_retries_total", "evpn_kernel_drift_repaired_total",
	"evpn_kernel_tampered_total", "evpn_kernel_resyncs_total", "evpn_netlink_overruns_total", "evpn_mac_moves_total",
	"evpn_peer_established_total", "evpn_peer_updates_total", "process_cpu_seconds_total",
}

// samples are values of gauges, one line each time.
type samples struct {
	rows        [][]float64
	first, last map[string]float64 // all metrics
}

// sample looks at h1 until stop ends.
func (s *soak) sample(stop context.Context, every time.Duration) (*samples, error) {
	client := metricsClient(s.sites["h1"].net)
	defer client.CloseIdleConnections()
	tick := time.NewTicker(every)
	defer tick.Stop()
	all := &samples{}
	for {
		select {
		case <-stop.Done():
			return all, nil
		case <-tick.C:
		}
		metrics, err := scrape(s.ctx, client)
		if err != nil {
			return all, err
		}
		rows, err := s.sites["h1"].count()
		if err != nil {
			return all, err
		}
		values := make([]float64, len(gauges))
		for i, g := range gauges {
			values[i] = metrics[g.metric]
			switch {
			case g.metric == "":
				values[i] = float64(rows)
			case strings.HasSuffix(g.metric, "_bytes"):
				values[i] /= 1 << 20
			}
		}
		all.rows = append(all.rows, values)
		if all.first == nil {
			all.first = metrics
		}
		all.last = metrics
	}
}

// metricsClient is a client in a node's network namespace.
func metricsClient(n nodeNet) *http.Client {
	dial := func(ctx context.Context, network, addr string) (conn net.Conn, err error) {
		err = inside(n.ns, func() error {
			conn, err = (&net.Dialer{}).DialContext(ctx, network, addr)
			return err
		})
		return conn, err
	}
	return &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DialContext: dial}}
}

// scrape reads all metrics, each summed over its labels.
func scrape(ctx context.Context, client *http.Client) (map[string]float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:9473/metrics", nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	sums := map[string]float64{}
	lines := bufio.NewReader(resp.Body)
	for {
		line, err := lines.ReadString('\n')
		if errors.Is(err, io.EOF) {
			return sums, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read metrics: %w", err)
		}
		if strings.HasPrefix(line, "#") {
			continue
		}
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if i := strings.IndexByte(line, '}'); i > 0 {
			name, value = line[:strings.IndexByte(line, '{')], strings.TrimSpace(line[i+1:])
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return nil, fmt.Errorf("read metric %q: %w", line, err)
		}
		sums[name] += v
	}
}

// count is how many FDB entries, neighbours and nexthops the kernel has.
func (k *kernelTables) count() (int, error) {
	sum := 0
	for _, table := range []struct {
		kind   uint16
		family uint8
		header int
	}{
		{unix.RTM_GETNEIGH, unix.AF_BRIDGE, unix.SizeofNdMsg},
		{unix.RTM_GETNEIGH, unix.AF_INET, unix.SizeofNdMsg},
		{unix.RTM_GETNEIGH, unix.AF_INET6, unix.SizeofNdMsg},
		{unix.RTM_GETNEXTHOP, unix.AF_UNSPEC, unix.SizeofNhmsg},
	} {
		header := make([]byte, table.header)
		header[0] = table.family
		messages, err := k.dump(table.kind, header)
		if err != nil {
			return 0, fmt.Errorf("count rows: %w", err)
		}
		sum += len(messages)
	}
	return sum, nil
}

// fifth is the median of a gauge in one fifth of the time, 1 to 5.
func (s *samples) fifth(gauge, fifth int) float64 {
	n := len(s.rows)
	var values []float64
	for _, row := range s.rows[n*(fifth-1)/5 : n*fifth/5] {
		values = append(values, row[gauge])
	}
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	return values[len(values)/2]
}

// longRun is what a run must last to say something: in a shorter one a device that was down is half of it.
const longRun = 5 * time.Minute

// wantFlat wants each gauge in the last fifth of a long run to be about what it was in the second: the first one is its beginning.
func (s *samples) wantFlat(t *testing.T, lasted time.Duration) {
	t.Helper()
	if lasted < longRun {
		return
	}
	for i, g := range gauges {
		before, after := s.fifth(i, 2), s.fifth(i, 5)
		if most := before*(1+g.percent/100) + g.more; after > most {
			t.Errorf("%s: grew from %.0f to %.0f, at most %.0f would be flat", g.name, before, after, most)
		}
	}
}

// String is a table of medians by fifths, and of what has added up.
func (s *samples) String() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "median of %d samples\t1st fifth\t2nd\t3rd\t4th\t5th\tleast\tmost\t\n", len(s.rows))
	for i, g := range gauges {
		fmt.Fprintf(w, "%s\t", g.name)
		for fifth := 1; fifth <= 5; fifth++ {
			fmt.Fprintf(w, "%.0f\t", s.fifth(i, fifth))
		}
		by := func(x, y []float64) int { return cmp.Compare(x[i], y[i]) }
		if len(s.rows) > 0 {
			fmt.Fprintf(w, "%.0f\t%.0f\t\n", slices.MinFunc(s.rows, by)[i], slices.MaxFunc(s.rows, by)[i])
		}
	}
	w.Flush()
	for _, name := range counters {
		fmt.Fprintf(&b, "%s %.0f\n", name, s.last[name]-s.first[name])
	}
	return b.String()
}
