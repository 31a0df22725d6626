package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/pprof"
	"runtime"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/evpnd/evpnd/dataplane"
	"github.com/evpnd/evpnd/evpn"
	"github.com/evpnd/evpnd/speaker"
)

// scrapeTimeout bounds how long a scrape waits for the owner.
const scrapeTimeout = 5 * time.Second

// counters count what passes through the loop.
type counters struct {
	lastReadBack atomic.Int64 // Unix time in ns; 0: none yet
	repaired     atomic.Uint64
}

func (c *counters) note(n *evpn.Note) {
	if n.Kind == evpn.NoteDrift {
		c.repaired.Add(uint64(n.Count))
	}
}

// metric describes one metric that is read off a snapshot.
type metric struct {
	name, help string
	labels     []string
	kind       prometheus.ValueType
	desc       *prometheus.Desc
}

func gauge(name, help string, labels ...string) metric {
	return metric{name, help, labels, prometheus.GaugeValue, prometheus.NewDesc(name, help, labels, nil)}
}

func counter(name, help string, labels ...string) metric {
	return metric{name, help, labels, prometheus.CounterValue, prometheus.NewDesc(name, help, labels, nil)}
}

// The metrics. MACs, IPs and RDs are never labels.
var (
	metricInfo       = gauge("evpn_vni_info", "VNIs served.", "vni", "vxlan", "bridge", "vlan", "vtep")
	metricService    = gauge("evpn_vni_in_service", "1 for a VNI that forwards, else 0.", "vni")
	metricMACs       = gauge("evpn_macs", "MACs by VNI and origin, local or remote.", "vni", "origin")
	metricNeighbors  = gauge("evpn_neighbors", "Host addresses by VNI, family and origin.", "vni", "family", "origin")
	metricDupMACs    = gauge("evpn_duplicate_macs", "MACs that two hosts have, by VNI.", "vni")
	metricDupIPs     = gauge("evpn_duplicate_ips", "Host addresses that two hosts have, by VNI.", "vni")
	metricClaims     = counter("evpn_refused_host_claims_total", "Times that a local host claimed a gateway, or the bridge, of this host, by VNI.", "vni")
	metricOver       = gauge("evpn_macs_over_limit", "MACs that are beyond a limit, and so neither announced nor written, by VNI.", "vni")
	metricMoves      = counter("evpn_mac_moves_total", "Changes of a MAC's owner by VNI.", "vni")
	metricVTEPs      = gauge("evpn_vteps", "Remote VTEPs in the flood list by VNI.", "vni")
	metricCut        = gauge("evpn_vteps_unreachable", "Remote VTEPs that nothing is sent to, since the underlay has no way there.")
	metricLosses     = counter("evpn_vtep_losses_total", "Times that the way to a remote VTEP was lost.")
	metricProbes     = counter("evpn_vtep_probes_total", "Probes of remote VTEPs by result, answered or missed.", "result")
	metricProbed     = gauge("evpn_vteps_probed", "Remote VTEPs that are probed, by what is known: answers, misses, silent, never.", "state")
	metricRoutes     = gauge("evpn_routes", "EVPN routes by type and direction, in or out.", "route_type", "direction")
	metricUnimported = gauge("evpn_routes_unimported", "Received routes whose route targets no VNI here imports.")

	metricWanted   = gauge("evpn_kernel_entries", "Kernel entries that are wanted.")
	metricPending  = gauge("evpn_kernel_pending", "Kernel entries not acknowledged yet.")
	metricBlocked  = gauge("evpn_kernel_blocked", "Kernel entries refused, or behind an entry that is not ours.")
	metricOps      = counter("evpn_kernel_ops_total", "Kernel writes by table, op (add or del) and result (ok, failed, foreign).", "object", "op", "result")
	metricRetries  = counter("evpn_kernel_retries_total", "Kernel writes that were tried again.")
	metricRepaired = counter("evpn_kernel_drift_repaired_total", "Entries that were not as acknowledged and were mended.")
	metricTampered = counter("evpn_kernel_tampered_total", "Entries of ours that others were seen to change or remove.")
	metricResyncs  = counter("evpn_kernel_resyncs_total", "Read-backs after lost notifications.")
	metricReadBack = gauge("evpn_kernel_last_read_back_timestamp_seconds", "When the kernel was last compared with what is wanted; 0: not yet.")
	metricOverruns = counter("evpn_netlink_overruns_total", "Times the kernel dropped notifications.")
	metricUnread   = counter("evpn_netlink_malformed_total", "Notifications that could not be read.")
	metricQueue    = gauge("evpn_queue_depth", "What waits: facts in batches, kernel entries, routes for BGP.", "queue")
	metricSnooped  = counter("evpn_snoop_packets_total", "ARP, ND and DHCP frames of local hosts by protocol and verdict.", "proto", "verdict")
	metricRequests = counter("evpn_arp_nd_requests_total", "ARP and ND requests of local hosts by VNI: answered here for remote hosts, unknown (suppression is on, flooded), flooded (suppression is off).", "vni", "result")
	metricSuppress = gauge("evpn_arp_suppression", "1 for a VNI whose bridge answers ARP and ND for remote hosts, else 0.", "vni")
	metricSnooping = gauge("evpn_snoop_ports", "Access ports whose frames are read.")

	metricPeers     = gauge("evpn_peer_up", "1 for a peer whose session is established, else 0.", "peer")
	metricPeerSince = gauge("evpn_peer_state_change_timestamp_seconds", "When the session came into its present state.", "peer")
	metricPeerUps   = counter("evpn_peer_established_total", "Sessions that came up.", "peer")
	metricFlaps     = counter("evpn_peer_flaps_total", "Sessions that were up and ended.", "peer")
	metricMessages  = counter("evpn_peer_messages_total", "BGP messages by direction, in or out.", "peer", "direction")
	metricUpdates   = counter("evpn_peer_updates_total", "UPDATEs by direction, in or out.", "peer", "direction")
	metricMalformed = counter("evpn_peer_treated_as_withdraw_total", "UPDATEs with an error that cost their routes (RFC 7606).", "peer")
	metricDiscarded = counter("evpn_peer_attributes_discarded_total", "Attributes with an error that cost nothing else (RFC 7606).", "peer")
	metricSkipped   = counter("evpn_peer_routes_skipped_total", "Routes of types that are not decoded.", "peer")

	metricPeerRoutes = gauge("evpn_peer_routes", "Routes held of a peer.", "peer")
	metricStale      = gauge("evpn_peer_stale_routes", "Routes kept of an earlier session of a peer, by preference, normal or least.", "peer", "preference")
	metricMost       = gauge("evpn_peer_route_limit", "Most routes that a peer may have; 0: no limit.", "peer")
	metricNotTaken   = gauge("evpn_peer_routes_not_taken", "Announcements in a peer's session that are beyond its limit of routes.", "peer")

	metricReplaced = counter("evpn_engine_replacements_total", "Times a fresh BGP engine was put behind the living sessions.")
	metricWear     = gauge("evpn_engine_withdrawn_routes", "Withdrawn routes that the BGP engine keeps in memory.")
	metricBuild    = gauge("evpnd_build_info", "Version of the daemon, and of Go.", "version", "goversion")
	metricReload   = gauge("evpnd_config_last_reload_successful", "Whether the configuration in force is the last one read.")
	metricReloaded = gauge("evpnd_config_last_reload_success_timestamp_seconds", "When the configuration in force was read.")

	allMetrics = []metric{
		metricInfo, metricService, metricMACs, metricNeighbors, metricDupMACs, metricDupIPs, metricClaims, metricOver, metricMoves, metricVTEPs, metricCut, metricLosses, metricProbes, metricProbed, metricRoutes,
		metricUnimported, metricWanted, metricPending, metricBlocked, metricOps, metricRetries, metricRepaired, metricTampered,
		metricResyncs, metricReadBack, metricOverruns, metricUnread, metricQueue, metricSnooped, metricRequests, metricSuppress, metricSnooping, metricPeers,
		metricPeerSince, metricPeerUps, metricFlaps, metricMessages, metricUpdates, metricMalformed, metricDiscarded,
		metricSkipped, metricPeerRoutes, metricStale, metricMost, metricNotTaken, metricReplaced, metricWear, metricBuild, metricReload, metricReloaded,
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
	var peers []evpn.PeerView
	var t evpn.Totals
	var moves map[evpn.VNI]uint64
	defer func() {
		if r := recover(); r != nil { // on a goroutine of the registry, where nobody else would
			ch <- prometheus.NewInvalidMetric(metricBuild.desc, c.d.panicked("scrape", r))
		}
	}()
	err := c.d.ask(ctx, func(core *evpn.Core) {
		vnis, t = core.VNIsAndTotals()
		peers, moves = core.PeerStates(), maps.Clone(c.d.moves)
	})
	if err != nil {
		ch <- prometheus.NewInvalidMetric(metricBuild.desc, err) // the scrape fails
		return
	}
	s := samples(ch)
	for i := range vnis {
		s.vni(&vnis[i])
		s.send(metricMoves, float64(moves[vnis[i].VNI]), vnis[i].VNI.String())
	}
	for typ, n := range t.RoutesByType {
		s.send(metricRoutes, float64(n), strconv.Itoa(int(typ)), "in")
	}
	for typ, n := range t.OwnRoutesByType {
		s.send(metricRoutes, float64(n), strconv.Itoa(int(typ)), "out")
	}
	s.send(metricUnimported, float64(t.Unimported))
	s.send(metricWanted, float64(t.Wanted))
	s.send(metricPending, float64(underWay(t)))
	s.send(metricBlocked, float64(t.Problems))
	s.send(metricCut, float64(t.Cut))
	s.send(metricLosses, float64(t.Losses))
	s.send(metricRetries, float64(t.Retries))
	for _, p := range c.d.bgp.Sessions() {
		s.peer(&p)
	}
	for i := range peers {
		s.peerRoutes(&peers[i])
	}
	s.kernel(c.d.kernel.Status())
	c.loop(s)
}

func (s samples) vni(v *evpn.VNIView) {
	vni := v.VNI.String()
	s.send(metricInfo, 1, vni, v.Device, v.Bridge, strconv.Itoa(int(v.VLAN)), text(v.Local))
	s.send(metricService, boolValue(v.InService), vni)
	s.send(metricMACs, float64(v.LocalMACs), vni, "local")
	s.send(metricMACs, float64(v.RemoteMACs), vni, "remote")
	s.send(metricNeighbors, float64(v.LocalIPs-v.LocalIPv6), vni, "ipv4", "local")
	s.send(metricNeighbors, float64(v.RemoteIPs-v.RemoteIPv6), vni, "ipv4", "remote")
	s.send(metricNeighbors, float64(v.LocalIPv6), vni, "ipv6", "local")
	s.send(metricNeighbors, float64(v.RemoteIPv6), vni, "ipv6", "remote")
	s.send(metricDupMACs, float64(v.DuplicateMACs), vni)
	s.send(metricDupIPs, float64(v.DuplicateIPs), vni)
	s.send(metricClaims, float64(v.RefusedHosts), vni)
	s.send(metricOver, float64(v.OverLimit), vni)
	s.send(metricVTEPs, float64(v.VTEPs), vni)
	s.send(metricSuppress, boolValue(v.Suppress), vni)
}

func (s samples) peer(p *speaker.SessionInfo) {
	peer, n := evpn.PeerName(p.Peer), &p.Counters
	s.send(metricPeers, boolValue(p.State == speaker.StateEstablished), peer)
	s.send(metricPeerSince, unixSeconds(p.Since), peer)
	s.send(metricPeerUps, float64(n.Established), peer)
	s.send(metricFlaps, float64(n.Flaps), peer)
	s.send(metricMessages, float64(n.MessagesIn), peer, "in")
	s.send(metricMessages, float64(n.MessagesOut), peer, "out")
	s.send(metricUpdates, float64(n.UpdatesIn), peer, "in")
	s.send(metricUpdates, float64(n.UpdatesOut), peer, "out")
	s.send(metricMalformed, float64(n.TreatAsWithdraw), peer)
	s.send(metricDiscarded, float64(n.DiscardedAttributes), peer)
	var skipped uint64
	for _, routes := range n.SkippedTypes {
		skipped += routes
	}
	s.send(metricSkipped, float64(skipped), peer)
}

func (s samples) peerRoutes(v *evpn.PeerView) {
	normal, least := v.Stale, 0
	if v.Aged {
		normal, least = 0, v.Stale
	}
	peer := evpn.PeerName(v.Peer)
	s.send(metricPeerRoutes, float64(v.Routes), peer)
	s.send(metricStale, float64(normal), peer, "normal")
	s.send(metricStale, float64(least), peer, "least")
	s.send(metricMost, float64(v.Limit.Most), peer)
	s.send(metricNotTaken, float64(v.Left), peer)
}

func (s samples) kernel(st dataplane.Status) {
	for table, all := range st.Written {
		object, del := table.String(), st.Removed[table]
		s.send(metricOps, float64(all.Done-del.Done), object, "add", "ok")
		s.send(metricOps, float64(all.Failed-del.Failed), object, "add", "failed")
		s.send(metricOps, float64(all.Foreign-del.Foreign), object, "add", "foreign")
		s.send(metricOps, float64(del.Done), object, "del", "ok")
		s.send(metricOps, float64(del.Failed), object, "del", "failed")
		s.send(metricOps, float64(del.Foreign), object, "del", "foreign")
	}
	s.send(metricTampered, float64(st.Tampered))
	s.send(metricOverruns, float64(st.Overruns))
	s.send(metricUnread, float64(st.Malformed))
	s.send(metricResyncs, float64(st.Resyncs))
	for _, n := range st.Snoop.Packets {
		s.send(metricSnooped, float64(n.Packets), n.Proto, n.Verdict)
	}
	for _, q := range st.Questions {
		vni := q.VNI.String()
		s.send(metricRequests, float64(q.Answered), vni, "answered")
		s.send(metricRequests, float64(q.Unknown), vni, "unknown")
		s.send(metricRequests, float64(q.Flooded), vni, "flooded")
	}
	s.send(metricSnooping, float64(st.Snoop.Ports))
	s.probes(st.Probes)
}

func (s samples) probes(st dataplane.ProbeStatus) {
	s.send(metricProbes, float64(st.Answered), "answered")
	s.send(metricProbes, float64(st.Missed), "missed")
	count := map[dataplane.ProbeState]int{}
	for _, p := range st.Each {
		count[p.State]++
	}
	for _, state := range []dataplane.ProbeState{dataplane.ProbeAnswers, dataplane.ProbeMisses, dataplane.ProbeSilent, dataplane.ProbeNever} {
		s.send(metricProbed, float64(count[state]), string(state))
	}
}

// loop sends what the daemon itself knows.
func (c collector) loop(s samples) {
	d := c.d
	s.send(metricRepaired, float64(d.counts.repaired.Load()))
	s.send(metricReadBack, float64(d.counts.lastReadBack.Load())/1e9)
	s.send(metricQueue, float64(len(d.events)), "facts")
	s.send(metricQueue, float64(d.waiting.kernel.Load()), "kernel")
	s.send(metricQueue, float64(d.waiting.routes.Load()), "routes")
	engine := d.bgp.Engine()
	s.send(metricReplaced, float64(engine.Replacements))
	s.send(metricWear, float64(engine.Withdrawn))
	s.send(metricBuild, 1, d.opts.Version, runtime.Version())
	_, loaded, last := d.config.state()
	s.send(metricReload, boolValue(last == nil || last.Successful))
	s.send(metricReloaded, unixSeconds(loaded))
}

// samples is where a scrape sends its numbers.
type samples chan<- prometheus.Metric

func (s samples) send(m metric, v float64, labels ...string) {
	for i := range labels {
		labels[i] = printable(labels[i])
	}
	sample, err := prometheus.NewConstMetric(m.desc, m.kind, v, labels...)
	if err != nil {
		sample = prometheus.NewInvalidMetric(m.desc, err)
	}
	s <- sample
}

func boolValue(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// unixSeconds is 0 for the zero time.
func unixSeconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixNano()) / 1e9
}

// serveMetrics serves /metrics, /healthz and /readyz until ctx ends. deaf is called when it accepts no more connections; the
// listener stays open.
func (d *Daemon) serveMetrics(ctx context.Context, l net.Listener, deaf func()) error {
	server := &http.Server{Handler: d.metricsHandler(), ReadHeaderTimeout: 5 * time.Second}
	loan := borrow(l)
	served := make(chan error, 1)
	go func() { served <- server.Serve(loan) }() // ends with the loan
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	_ = loan.Close()
	err := <-served
	deaf()
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopGrace)
	defer cancel()
	if server.Shutdown(grace) != nil { // what takes longer is cut off
		_ = server.Close()
	}
	if !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

func (d *Daemon) metricsHandler() http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collector{d: d}, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	registry.MustRegister(d.latency.collectors()...)
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
