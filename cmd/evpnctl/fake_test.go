package main

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	evpnv1 "github.com/evpnd/evpnd/api/evpn/v1"
)

// now is the moment at which the tables of the fake daemon were copied.
var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func ago(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(now.Add(-d)) }

// serveFake serves the API with fixed tables on a UNIX socket.
func serveFake(socket string) (stop func(), err error) {
	l, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	return serveFakeOn(l, insecure.NewCredentials()), nil
}

func serveFakeOn(l net.Listener, creds credentials.TransportCredentials) (stop func()) {
	s := grpc.NewServer(grpc.Creds(creds))
	parts := health.NewServer()
	parts.SetServingStatus("bgp", healthv1.HealthCheckResponse_SERVING)
	healthv1.RegisterHealthServer(s, parts)
	faulty := new(atomic.Bool)
	evpnv1.RegisterInspectServiceServer(s, inspect{faulty: faulty})
	evpnv1.RegisterAdminServiceServer(s, admin{parts: parts, faulty: faulty})
	done := make(chan struct{})
	go func() { // ends with Stop
		defer close(done)
		_ = s.Serve(l)
	}()
	return func() { s.Stop(); <-done }
}

type admin struct {
	evpnv1.UnimplementedAdminServiceServer
	parts  *health.Server
	faulty *atomic.Bool
}

func (admin) Reload(_ context.Context, r *evpnv1.ReloadRequest) (*evpnv1.ReloadResponse, error) {
	resp := &evpnv1.ReloadResponse{Changes: []string{"peers.10.0.0.9: added", "peers.10.0.0.10.hold-time: 90s -> 9s"}}
	if r.DryRun {
		resp.Details = []*evpnv1.ConfigChange{{Consequence: "applies live"}, {Consequence: "flaps peer 10.0.0.10"}}
	}
	return resp, nil
}

func (inspect) GetConfig(_ context.Context, r *evpnv1.GetConfigRequest) (*evpnv1.GetConfigResponse, error) {
	if r.Defaults {
		return &evpnv1.GetConfigResponse{Yaml: "asn: 65000\nsnooping: true\n"}, nil
	}
	return &evpnv1.GetConfigResponse{Yaml: "asn: 65000\n"}, nil
}

func (admin) ClearPeer(_ context.Context, r *evpnv1.ClearPeerRequest) (*evpnv1.ClearPeerResponse, error) {
	switch {
	case r.Address == "10.0.0.254":
		return &evpnv1.ClearPeerResponse{}, nil
	case r.Address == "10.0.0.253" && r.Soft:
		return nil, status.Error(codes.FailedPrecondition, "peer 10.0.0.253: the session is not established")
	}
	return nil, status.Errorf(codes.NotFound, "peer %s is not known", r.Address)
}

func (admin) ClearDuplicate(_ context.Context, r *evpnv1.ClearDuplicateRequest) (*evpnv1.ClearDuplicateResponse, error) {
	switch {
	case r.Mac == "" && r.Ip == "" && r.Vni == 0:
		return &evpnv1.ClearDuplicateResponse{Cleared: 3}, nil
	case r.Mac == "02:00:00:00:00:04" && r.Vni == 200, r.Ip == "fd00:100::4":
		return &evpnv1.ClearDuplicateResponse{Cleared: 1}, nil
	}
	return nil, status.Error(codes.NotFound, "no such duplicate")
}

func (admin) ClearForeign(_ context.Context, r *evpnv1.ClearForeignRequest) (*evpnv1.ClearForeignResponse, error) {
	if r.Vni != 100 {
		return nil, status.Error(codes.NotFound, "the VNI is not served here")
	}
	resp := &evpnv1.ClearForeignResponse{Entries: []*evpnv1.ForeignEntry{
		{Table: "fdb", Mac: "02:00:00:00:00:09", Vtep: "10.255.0.9"}, {Table: "neighbor", Mac: "02:00:00:00:00:09", Ip: "172.16.100.9"},
	}}
	if r.Flood {
		resp.Entries = append(resp.Entries, &evpnv1.ForeignEntry{Table: "flood", Vtep: "10.255.0.9"})
		if r.Remove {
			resp.Entries[2].Error = "device or resource busy"
		}
	}
	return resp, nil
}

// SetLogLevel lets a script choose how healthy the daemon is: after "debug" the kernel part does not serve, and there are faults.
func (a admin) SetLogLevel(_ context.Context, r *evpnv1.SetLogLevelRequest) (*evpnv1.SetLogLevelResponse, error) {
	if r.Level == "debug" {
		a.parts.SetServingStatus("kernel", healthv1.HealthCheckResponse_NOT_SERVING)
		a.faulty.Store(true)
	}
	return &evpnv1.SetLogLevelResponse{Previous: "info"}, nil
}

type inspect struct {
	evpnv1.UnimplementedInspectServiceServer
	faulty *atomic.Bool
}

func (inspect) GetStatus(context.Context, *evpnv1.GetStatusRequest) (*evpnv1.GetStatusResponse, error) {
	return &evpnv1.GetStatusResponse{
		AsOf: ago(0),
		Status: &evpnv1.Status{
			Version: "v0.1.0", Asn: 65000, RouterId: "10.255.0.1", Vtep: "10.255.0.1",
			Started: ago(76 * time.Hour), Uptime: durationpb.New(76 * time.Hour), KernelInSync: true,
			Kernel: &evpnv1.Kernel{NexthopMode: "group", Wanted: 7, Installed: 7, Repaired: 2, LastReadBack: ago(40 * time.Second)},
			Counts: &evpnv1.Counts{
				Peers: 2, PeersEstablished: 1, Vnis: 2, VnisUp: 1, Vteps: 2, MacsLocal: 1, MacsRemote: 2,
				NeighborsLocal: 1, NeighborsRemote: 2, RoutesReceived: 5, RoutesRefused: 1, RoutesAdvertised: 3,
			},
			ConfigPath: "/etc/evpnd/evpnd.yaml", ConfigLoaded: ago(76 * time.Hour), LogLevel: "info",
			Snooping:   &evpnv1.Snooping{Ports: 1, Rate: 2000},
			Engine:     &evpnv1.Engine{Replacements: 2, Withdrawn: 1234, Limit: 20_000},
			LastReload: &evpnv1.Reload{Time: ago(time.Hour), Error: "[3:1] unknown field \"asm\""},
		},
	}, nil
}

func (inspect) ListPeers(r *evpnv1.ListPeersRequest, stream grpc.ServerStreamingServer[evpnv1.ListPeersResponse]) error {
	m, err := fakePeers(r)
	if err != nil {
		return err
	}
	return stream.Send(m)
}

func fakePeers(r *evpnv1.ListPeersRequest) (*evpnv1.ListPeersResponse, error) {
	peers := []*evpnv1.Peer{
		{
			Address: "10.0.0.254", State: "established", Asn: 65000, RouterId: "10.0.0.254", LocalAddress: "10.0.0.1", RemoteAddress: "10.0.0.254",
			Description: "RR1", Since: ago(76 * time.Hour), RoutesReceived: 5, RoutesRefused: 1, RoutesAdvertised: 3,
			EndOfRibReceived: true, Capabilities: []string{"l2vpn-evpn", "four-octet-as"},
			HoldTime: durationpb.New(90 * time.Second), Established: 1,
			Counters: &evpnv1.PeerCounters{UpdatesReceived: 12, UpdatesSent: 3},
		},
		{
			Address: "fd00:0:0:1::253", State: "active", Asn: 4200000001, Description: "RR2", RemoteAddress: "fd00:0:0:1::253", Since: ago(65 * time.Second),
			Reason: "connect to fd00:0:0:1::253 port 179: connection refused",
		},
	}
	return &evpnv1.ListPeersResponse{AsOf: ago(0), Peers: keep(peers, func(p *evpnv1.Peer) bool {
		return r.Address == "" || r.Address == p.Address
	})}, nil
}

func (inspect) ListVNIs(r *evpnv1.ListVNIsRequest, stream grpc.ServerStreamingServer[evpnv1.ListVNIsResponse]) error {
	m, err := fakeVNIs(r)
	if err != nil {
		return err
	}
	return stream.Send(m)
}

func fakeVNIs(r *evpnv1.ListVNIsRequest) (*evpnv1.ListVNIsResponse, error) {
	if err := knownVNI(r.Vni); err != nil {
		return nil, err
	}
	vnis := []*evpnv1.VNI{
		{
			Vni: 100, State: "up", Device: "vxlan100", Bridge: "br100", Vtep: "10.255.0.1", Rd: "10.255.0.1:100",
			ArpSuppression: true, RequestsAnswered: 8120, RequestsUnknown: 31,
			ImportRts: []string{"*:100", "*:268435556"}, ExportRts: []string{"65000:100"}, Vteps: 2, MacsLocal: 1,
			MacsRemote: 2, NeighborsLocal: 1, NeighborsRemote: 2, Since: ago(76 * time.Hour),
			SnoopedPorts: []*evpnv1.SnoopedPort{
				{Port: "tap1", Reading: true, Frames: []*evpnv1.SnoopCount{{Proto: "arp", Verdict: "accepted", Frames: 12}}},
				{Port: "tap2"},
			},
		},
		{
			Vni: 200, State: "fault", Device: "vxlan200", Bridge: "br200", Vlan: 20, Since: ago(5 * time.Second),
			Faults: []string{"vxlan200 has no local address; run: ip link set vxlan200 type vxlan local 10.255.0.1"},
		},
	}
	return &evpnv1.ListVNIsResponse{AsOf: ago(0), Vnis: keep(vnis, func(v *evpnv1.VNI) bool {
		return r.Vni == 0 || r.Vni == v.Vni
	})}, nil
}

func (inspect) ListVTEPs(r *evpnv1.ListVTEPsRequest, stream grpc.ServerStreamingServer[evpnv1.ListVTEPsResponse]) error {
	m, err := fakeVTEPs(r)
	if err != nil {
		return err
	}
	return stream.Send(m)
}

func fakeVTEPs(r *evpnv1.ListVTEPsRequest) (*evpnv1.ListVTEPsResponse, error) {
	if err := knownVNI(r.Vni); err != nil {
		return nil, err
	}
	vteps := []*evpnv1.VTEP{
		{
			Vni: 100, Vtep: "10.255.0.2", Flood: true, Macs: 1, Rd: "10.255.0.2:100", Peers: []string{"10.0.0.254"},
			Kernel: &evpnv1.KernelEntry{State: "installed"}, Since: ago(3 * time.Hour), Reachability: "reachable",
			Probe: "answers", ProbeRtt: durationpb.New(312 * time.Microsecond),
		},
		{
			Vni: 100, Vtep: "10.255.0.3", Macs: 1, Reason: "next hop unreachable: no route",
			Kernel: &evpnv1.KernelEntry{State: "none"}, Since: ago(2 * time.Minute),
			Reachability: "unreachable", ReachabilitySince: ago(5 * time.Second), Losses: 2, Probe: "never",
		},
	}
	return &evpnv1.ListVTEPsResponse{AsOf: ago(0), Vteps: keep(vteps, func(v *evpnv1.VTEP) bool {
		return (r.Vni == 0 || r.Vni == v.Vni) && (r.Vtep == "" || r.Vtep == v.Vtep)
	})}, nil
}

func (inspect) ListMACs(r *evpnv1.ListMACsRequest, stream grpc.ServerStreamingServer[evpnv1.ListMACsResponse]) error {
	if err := knownVNI(r.Vni); err != nil {
		return err
	}
	macs := []*evpnv1.MAC{
		{
			Vni: 100, Mac: "02:00:00:00:00:01", Origin: "local", Port: "tap1", Announced: true,
			Ips: []string{"172.16.100.1"}, Since: ago(90 * time.Minute),
		},
		{
			Vni: 100, Mac: "02:00:00:00:00:02", Origin: "remote", Vtep: "10.255.0.2", Sequence: 3, Routes: 2,
			Ips: []string{"172.16.100.2", "fd00:100::2"}, Kernel: &evpnv1.KernelEntry{State: "installed"},
			Since: ago(30 * time.Second),
		},
		{
			Vni: 100, Mac: "02:00:00:00:00:03", Origin: "remote", Vtep: "10.255.0.3", Sticky: true, Routes: 1,
			Kernel: &evpnv1.KernelEntry{State: "blocked", Reason: "a static entry that is not ours is in its place"},
			Since:  ago(2 * time.Minute),
		},
	}
	macs[1].Candidates = []*evpnv1.Candidate{
		{Chosen: true, Origin: "remote", Vtep: "10.255.0.2", Peer: "10.0.0.254", Rd: "10.255.0.2:100", Sequence: 3},
		{Origin: "local", Port: "tap1", Sequence: 2, Reason: "lower sequence number"},
	}
	if r.Duplicates {
		macs = []*evpnv1.MAC{{
			Vni: 100, Mac: "02:00:00:00:00:04", Origin: "local", Port: "tap4", Sequence: 10, Announced: true, Since: ago(time.Minute),
			Duplicate: &evpnv1.Duplicate{Since: ago(time.Minute), Until: ago(-8 * time.Minute), Moves: 5, Action: "hold"},
		}}
	}
	macs = keep(macs, func(m *evpnv1.MAC) bool {
		if !r.Candidates {
			m.Candidates = nil
		}
		return (r.Vni == 0 || r.Vni == m.Vni) && (r.Mac == "" || r.Mac == m.Mac) &&
			(r.Origin == "" || r.Origin == m.Origin) && (r.Vtep == "" || r.Vtep == m.Vtep)
	})
	return inChunks(macs, func(chunk []*evpnv1.MAC) error {
		return stream.Send(&evpnv1.ListMACsResponse{Macs: chunk, AsOf: ago(0)})
	})
}

func (inspect) ListNeighbors(r *evpnv1.ListNeighborsRequest, stream grpc.ServerStreamingServer[evpnv1.ListNeighborsResponse]) error {
	if err := knownVNI(r.Vni); err != nil {
		return err
	}
	neighbors := []*evpnv1.Neighbor{
		{
			Vni: 100, Ip: "172.16.100.1", Mac: "02:00:00:00:00:01", Origin: "local", Port: "tap1", Announced: true,
			Since: ago(90 * time.Minute),
		},
		{
			Vni: 100, Ip: "172.16.100.2", Mac: "02:00:00:00:00:02", Origin: "remote", Vtep: "10.255.0.2", Sequence: 3,
			Kernel: &evpnv1.KernelEntry{State: "installed"}, Since: ago(30 * time.Second),
		},
		{
			Vni: 100, Ip: "fd00:100::2", Mac: "02:00:00:00:00:02", Origin: "remote", Vtep: "10.255.0.2", Router: true,
			Kernel: &evpnv1.KernelEntry{State: "pending"}, Since: ago(time.Second),
		},
	}
	neighbors = keep(neighbors, func(n *evpnv1.Neighbor) bool {
		return (r.Vni == 0 || r.Vni == n.Vni) && (r.Ip == "" || r.Ip == n.Ip) && (r.Origin == "" || r.Origin == n.Origin) &&
			(r.Mac == "" || r.Mac == n.Mac) && (r.Vtep == "" || r.Vtep == n.Vtep)
	})
	return inChunks(neighbors, func(chunk []*evpnv1.Neighbor) error {
		return stream.Send(&evpnv1.ListNeighborsResponse{Neighbors: chunk, AsOf: ago(0)})
	})
}

func (inspect) ListRoutes(r *evpnv1.ListRoutesRequest, stream grpc.ServerStreamingServer[evpnv1.ListRoutesResponse]) error {
	routes := []*evpnv1.Route{
		{
			Type: 2, Key: "[2]:[0]:[48]:[02:00:00:00:00:02]:[128]:[fd00:100::2]", Rd: "10.255.0.2:100", Direction: "in",
			Peer: "10.0.0.254", Status: "chosen", Vnis: []uint32{100}, Mac: "02:00:00:00:00:02", Ip: "fd00:100::2",
			Label1: 100, NextHop: "10.255.0.2", RouteTargets: []string{"65000:100"}, Encapsulation: "vxlan",
			Mobility: true, Sequence: 3, Origin: "igp", LocalPref: 100, OriginatorId: "10.0.0.2",
			ExtendedCommunities: []string{"0002fde800000064", "030c000000000008"}, Received: ago(30 * time.Second),
		},
		{
			Type: 3, Key: "[3]:[0]:[32]:[10.255.0.2]", Rd: "10.255.0.2:100", Direction: "in", Peer: "10.0.0.254",
			Status: "chosen", Vnis: []uint32{100}, Ip: "10.255.0.2", NextHop: "10.255.0.2",
			RouteTargets: []string{"65000:100"}, Encapsulation: "vxlan", Received: ago(3 * time.Hour),
			Pmsi: &evpnv1.PMSI{Tunnel: "ingress-replication", Label: 100, Endpoint: "10.255.0.2"},
		},
		{
			Type: 5, Key: "[5]:[0]:[24]:[172.16.9.0]", Rd: "10.255.0.3:9", Direction: "in", Peer: "10.0.0.254",
			Status: "refused", Reason: "no VNI imports RT 65000:9", Ip: "172.16.9.0", PrefixLength: 24, Label1: 9,
			NextHop: "10.255.0.3", RouteTargets: []string{"65000:9"}, AsPath: "65001 65002", Received: ago(time.Minute),
		},
		{
			Type: 2, Key: "[2]:[0]:[48]:[02:00:00:00:00:01]", Rd: "10.255.0.1:100", Direction: "out", Status: "advertised",
			Vnis: []uint32{100}, Mac: "02:00:00:00:00:01", Label1: 100, NextHop: "10.255.0.1",
			RouteTargets: []string{"65000:100"}, Encapsulation: "vxlan", Received: ago(90 * time.Minute),
		},
	}
	routes = keep(routes, func(rt *evpnv1.Route) bool {
		return (r.Type == 0 || r.Type == rt.Type) && (r.Vni == 0 || slices.Contains(rt.Vnis, r.Vni)) && (r.Rd == "" || r.Rd == rt.Rd) &&
			(r.Peer == "" || r.Peer == rt.Peer) && (r.Direction == "" || r.Direction == rt.Direction) &&
			(r.Mac == "" || r.Mac == rt.Mac) && (r.Ip == "" || r.Ip == rt.Ip)
	})
	return inChunks(routes, func(chunk []*evpnv1.Route) error {
		return stream.Send(&evpnv1.ListRoutesResponse{Routes: chunk, AsOf: ago(0)})
	})
}

// Diagnose finds nothing, or two faults after SetLogLevel.
func (i inspect) Diagnose(context.Context, *evpnv1.DiagnoseRequest) (*evpnv1.DiagnoseResponse, error) {
	r := &evpnv1.DiagnoseResponse{AsOf: ago(0), Vnis: 2, Peers: 2, Vteps: 2, Routes: 5}
	if i.faulty.Load() {
		r.Faults = []*evpnv1.Fault{
			{
				Code: "local-address-wrong", Severity: "error", Vni: 200, Ifname: "vxlan200", Detail: "vxlan200 has local address 10.0.0.9, ours is 10.255.0.1",
				Remedy: "ip link set dev vxlan200 type vxlan local 10.255.0.1",
			},
			{Code: "state-dir-not-writable", Severity: "warning", Detail: "state-dir cannot be written", Remedy: "let the user of evpnd write there"},
		}
	}
	return r, nil
}

func knownVNI(vni uint32) error {
	if vni == 0 || vni == 100 || vni == 200 {
		return nil
	}
	return status.Error(codes.NotFound, fmt.Sprintf("VNI %d is not known", vni))
}

func keep[T any](items []T, want func(T) bool) []T {
	var kept []T
	for _, item := range items {
		if want(item) {
			kept = append(kept, item)
		}
	}
	return kept
}

// inChunks sends two items a message, so that every answer of more takes several, and one message when there are none.
func inChunks[T any](items []T, send func([]T) error) error {
	for first := true; first || len(items) > 0; first = false {
		n := min(2, len(items))
		if err := send(items[:n]); err != nil {
			return err
		}
		items = items[n:]
	}
	return nil
}

// PingVTEP finds a fault at 10.255.0.3, and nothing wrong elsewhere.
func (admin) PingVTEP(r *evpnv1.PingVTEPRequest, stream grpc.ServerStreamingServer[evpnv1.PingVTEPResponse]) error {
	if err := knownVNI(r.Vni); err != nil {
		return err
	}
	steps := []*evpnv1.PingStep{
		{Mark: "ok", Topic: "route", Text: "by eth0, MTU 1550, from 10.255.0.1"},
		{Mark: "ok", Topic: "vni", Vni: 100, Text: "evpnd answers by vxlan100 in br100, MTU 1500", Rtt: durationpb.New(214 * time.Microsecond)},
	}
	if r.Vtep == "10.255.0.3" {
		steps = append(steps, &evpnv1.PingStep{
			Mark: "fault", Topic: "vni", Vni: 200, Code: "vxlan-lost-here", Text: "our frames come to vxlan200 there, its answers do not come back",
			Mend: "let UDP port 4789 from 10.255.0.3 pass the firewall of this host",
		})
	}
	for _, s := range steps {
		if err := stream.Send(&evpnv1.PingVTEPResponse{Step: s, AsOf: ago(0)}); err != nil {
			return err
		}
	}
	return nil
}
