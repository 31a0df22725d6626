package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/evpnd/evpnd/evpn"
	"github.com/evpnd/evpnd/speaker"
)

// scrapeTimeout bounds how long a scrape waits for the owner.
const scrapeTimeout = 5 * time.Second

// counters count what passes through the loop.
type counters struct {
	lastReadBack atomic.Int64 // Unix time in ns; 0: none yet
	repaired     atomic.Uint64
	moves        atomic.Uint64
}

func (c *counters) note(n *evpn.Note) {
	switch n.Kind {
	case evpn.NoteDrift:
		c.repaired.Add(uint64(n.Count))
	case evpn.NoteMACMoved:
		c.moves.Add(1)
	}
}

// metric describes one metric that is read off a snapshot.
type metric struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
}

func gauge(name, help string, labels ...string) metric {
	return metric{prometheus.NewDesc(name, help, labels, nil), prometheus.GaugeValue}
}

func counter(name, help string, labels ...string) metric {
	return metric{prometheus.NewDesc(name, help, labels, nil), prometheus.CounterValue}
}

// The metrics. MACs, IPs and RDs are never labels.
var (
	metricInfo      = gauge("evpn_vni_info", "VNIs served.", "vni", "vxlan", "bridge", "vlan", "vtep")
	metricMACs      = gauge("evpn_macs", "MACs by VNI and origin.", "vni", "origin")
	metricNeighbors = gauge("evpn_neighbors", "Host addresses by VNI and origin.", "vni", "origin")
	metricDupMACs   = gauge("evpn_duplicate_macs", "MACs that two hosts have, by VNI.", "vni")
	metricDupIPs    = gauge("evpn_duplicate_ips", "Host addresses that two hosts have, by VNI.", "vni")
	metricClaims    = counter("evpn_refused_host_claims_total", "Times that a local host claimed a gateway, or the bridge, of this host, by VNI.", "vni")
	metricVTEPs     = gauge("evpn_vteps", "Remote VTEPs in the flood list by VNI.", "vni")
	metricPending   = gauge("evpn_kernel_pending", "Kernel entries not acknowledged yet.")
	metricBlocked   = gauge("evpn_kernel_blocked", "Kernel entries refused, or behind an entry that is not ours.")
	metricRoutes    = gauge("evpn_routes", "EVPN routes by direction.", "direction")
	metricPeers     = gauge("evpn_peer_up", "1 for a peer whose session is established, else 0.", "peer")
	metricOps       = counter("evpn_kernel_ops_total", "Kernel writes by table and result.", "object", "result")
	metricRepaired  = counter("evpn_kernel_drift_repaired_total", "Entries that were not as acknowledged and were mended.")
	metricMoves     = counter("evpn_mac_moves_total", "Changes of a MAC's owner.")
	metricOverruns  = counter("evpn_netlink_overruns_total", "Times the kernel dropped notifications.")
	metricResyncs   = counter("evpn_kernel_resyncs_total", "Read-backs after lost notifications.")
	metricSnooped   = counter("evpn_snoop_packets_total", "ARP and ND frames of local hosts by protocol and verdict.", "proto", "verdict")
	metricRequests  = counter("evpn_arp_nd_requests_total", "ARP and ND requests of local hosts by VNI: answered here for remote hosts, unknown (suppression is on, flooded), flooded (suppression is off).", "vni", "result")
	metricSuppress  = gauge("evpn_arp_suppression", "1 for a VNI whose bridge answers ARP and ND for remote hosts, else 0.", "vni")
	metricSnooping  = gauge("evpn_snoop_ports", "Access ports whose frames are read.")
	metricBuild     = gauge("evpnd_build_info", "Version of the daemon.", "version")
	metricReload    = gauge("evpnd_config_last_reload_successful", "Whether the configuration in force is the last one read.")

	allMetrics = []metric{
		metricInfo, metricMACs, metricNeighbors, metricDupMACs, metricDupIPs, metricClaims, metricVTEPs, metricPending, metricBlocked, metricRoutes, metricPeers, metricOps,
		metricRepaired, metricMoves, metricOverruns, metricResyncs, metricSnooped, metricRequests, metricSuppress, metricSnooping, metricBuild, metricReload,
	}
)

// collector reads everything off one snapshot, so that the numbers of a scrape belong together.
type collector struct{ d *Daemon }

func (c collector) Describe(ch chan<- *prometheus.Desc) {
	for _, m := range allMetrics {
		ch <- m.desc
	}
}

func (c collector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	var vnis []evpn.VNIView
	var t evpn.Totals
	defer func() {
		if r := recover(); r != nil { // on a goroutine of the registry, where nobody else would
			ch <- prometheus.NewInvalidMetric(metricBuild.desc, c.d.panicked("scrape", r))
		}
	}()
	if err := c.d.ask(ctx, func(core *evpn.Core) { vnis, t = core.VNIs(), core.Totals() }); err != nil {
		ch <- prometheus.NewInvalidMetric(metricBuild.desc, err) // the scrape fails
		return
	}
	s := samples(ch)
	for _, v := range vnis {
		vni := v.VNI.String()
		s.send(metricInfo, 1, vni, v.Device, v.Bridge, strconv.Itoa(int(v.VLAN)), text(v.Local))
		s.send(metricMACs, v.LocalMACs, vni, "local")
		s.send(metricMACs, v.RemoteMACs, vni, "remote")
		s.send(metricNeighbors, v.LocalIPs, vni, "local")
		s.send(metricNeighbors, v.RemoteIPs, vni, "remote")
		s.send(metricDupMACs, v.DuplicateMACs, vni)
		s.send(metricDupIPs, v.DuplicateIPs, vni)
		s.send(metricClaims, int(v.RefusedHosts), vni)
		s.send(metricVTEPs, v.VTEPs, vni)
		s.send(metricSuppress, boolValue(v.Suppress), vni)
	}
	s.send(metricPending, underWay(t))
	s.send(metricBlocked, t.Problems)
	s.send(metricRoutes, t.Routes, "in")
	s.send(metricRoutes, t.OwnRoutes, "out")
	c.collectParts(s)
}

// collectParts sends what is not the core's.
func (c collector) collectParts(s samples) {
	for _, p := range c.d.bgp.Sessions() {
		s.send(metricPeers, boolValue(p.State == speaker.StateEstablished), p.Peer.String())
	}
	st := c.d.kernel.Status()
	for table, n := range st.Written {
		s.send(metricOps, int(n.Done), table.String(), "ok")
		s.send(metricOps, int(n.Failed), table.String(), "failed")
		s.send(metricOps, int(n.Foreign), table.String(), "foreign")
	}
	s.send(metricRepaired, int(c.d.counts.repaired.Load()))
	s.send(metricMoves, int(c.d.counts.moves.Load()))
	s.send(metricOverruns, int(st.Overruns))
	s.send(metricResyncs, int(st.Resyncs))
	for _, n := range st.Snoop.Packets {
		s.send(metricSnooped, int(n.Packets), n.Proto, n.Verdict)
	}
	for _, q := range st.Questions {
		vni := q.VNI.String()
		s.send(metricRequests, int(q.Answered), vni, "answered")
		s.send(metricRequests, int(q.Unknown), vni, "unknown")
		s.send(metricRequests, int(q.Flooded), vni, "flooded")
	}
	s.send(metricSnooping, st.Snoop.Ports)
	s.send(metricBuild, 1, c.d.opts.Version)
	_, _, last := c.d.config.state()
	s.send(metricReload, boolValue(last == nil || last.Successful))
}

// samples is where a scrape sends its numbers.
type samples chan<- prometheus.Metric

func (s samples) send(m metric, v int, labels ...string) {
	for i := range labels {
		labels[i] = printable(labels[i])
	}
	sample, err := prometheus.NewConstMetric(m.desc, m.kind, float64(v), labels...)
	if err != nil {
		sample = prometheus.NewInvalidMetric(m.desc, err)
	}
	s <- sample
}

func boolValue(b bool) int {
	if b {
		return 1
	}
	return 0
}

// serveMetrics serves /metrics, /healthz and /readyz until ctx ends, and closes the listener.
func (d *Daemon) serveMetrics(ctx context.Context, l net.Listener) error {
	server := &http.Server{Handler: d.metricsHandler(), ReadHeaderTimeout: 5 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }() // ends with the server
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopGrace)
	defer cancel()
	if server.Shutdown(grace) != nil { // what takes longer is cut off
		_ = server.Close()
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func (d *Daemon) metricsHandler() http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collector{d: d})
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		c := d.health(r.Context())
		writeHealth(w, c, c.alive)
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		c := d.health(r.Context())
		writeHealth(w, c, c.well())
	})
	if d.opts.Pprof {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	}
	return mux
}

func writeHealth(w http.ResponseWriter, c condition, ok bool) {
	if !ok {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_, _ = fmt.Fprintln(w, c.line) // the client may be gone
}
