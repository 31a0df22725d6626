package daemon

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	evpnv1 "github.com/evpnd/evpnd/api/evpn/v1"
	"github.com/evpnd/evpnd/dataplane"
	"github.com/evpnd/evpnd/evpn"
	"github.com/evpnd/evpnd/speaker"
)

// chunk is the number of items in one message of a streamed answer.
const chunk = 500

// inspect implements InspectService: each call is one query of the core, converted outside of it.
type inspect struct {
	evpnv1.UnimplementedInspectServiceServer
	d *Daemon
}

// snapshot runs f on the owner and says when. Its error is one that gRPC understands.
func (s *inspect) snapshot(ctx context.Context, f func(*evpn.Core)) (*timestamppb.Timestamp, error) {
	var at time.Time
	err := s.d.ask(ctx, func(c *evpn.Core) { at = time.Now(); f(c) })
	switch {
	case err == nil:
		return timestamppb.New(at), nil
	case errors.Is(err, errStopped):
		return nil, status.Error(codes.Unavailable, err.Error())
	case ctx.Err() != nil:
		return nil, status.FromContextError(ctx.Err()).Err()
	default:
		return nil, status.Error(codes.Internal, printable(err.Error()))
	}
}

// knowsVNI returns NOT_FOUND for a VNI that is neither served nor configured; 0 is all of them.
func (s *inspect) knowsVNI(ctx context.Context, vni uint32) error {
	if vni == 0 {
		return nil
	}
	if _, ok := s.d.config.get().VNIs[evpn.VNI(vni)]; ok {
		return nil
	}
	served := false
	if _, err := s.snapshot(ctx, func(c *evpn.Core) { served = c.Serves(evpn.VNI(vni)) }); err != nil {
		return err
	}
	if !served {
		return unknownVNI(vni)
	}
	return nil
}

// stream sends items in chunks, and one empty message when there are none.
func stream[T any](items []T, send func([]T) error) error {
	if len(items) == 0 {
		return send(nil)
	}
	for part := range slices.Chunk(items, chunk) {
		if err := send(part); err != nil {
			return err
		}
	}
	return nil
}

func (s *inspect) GetStatus(ctx context.Context, _ *evpnv1.GetStatusRequest) (*evpnv1.GetStatusResponse, error) {
	var t evpn.Totals
	var peers []evpn.PeerView
	at, err := s.snapshot(ctx, func(c *evpn.Core) { t, peers = c.Totals(), c.Peers() })
	if err != nil {
		return nil, err
	}
	cfg, loaded, reload := s.d.config.state()
	return &evpnv1.GetStatusResponse{AsOf: at, Status: &evpnv1.Status{
		Version: s.d.opts.Version, Asn: cfg.ASN, RouterId: text(cfg.RouterID), Vtep: text(cfg.VTEP),
		Started: timestamppb.New(s.d.started), Uptime: durationpb.New(at.AsTime().Sub(s.d.started)),
		KernelInSync: t.InSync(), Kernel: s.kernel(t), Counts: s.counts(t, peers),
		ConfigPath: s.d.opts.ConfigPath, ConfigLoaded: timestamppb.New(loaded), LastReload: reload,
		LogLevel: levelName(s.d.log.GetLevel()), Snooping: protoSnooping(s.d.kernel.Status().Snoop),
		Engine: protoEngine(s.d.bgp.Engine()),
	}}, nil
}

func (s *inspect) kernel(t evpn.Totals) *evpnv1.Kernel {
	st := s.d.kernel.Status()
	k := &evpnv1.Kernel{
		NexthopMode: "group", Wanted: uint32(t.Wanted), Installed: uint32(t.Installed), Pending: uint32(underWay(t)),
		Blocked: uint32(t.Problems), Repaired: s.d.counts.repaired.Load(), Resyncs: st.Resyncs,
	}
	if !st.Nexthops {
		k.NexthopMode = "dst"
	}
	if at := s.d.counts.lastReadBack.Load(); at != 0 {
		k.LastReadBack = timestamppb.New(time.Unix(0, at))
	}
	return k
}

func protoEngine(i speaker.EngineInfo) *evpnv1.Engine {
	return &evpnv1.Engine{
		Replacements: i.Replacements, Withdrawn: uint32(i.Withdrawn), Limit: uint32(i.Limit), Replacing: i.Replacing,
	}
}

// underWay is the number of entries that are neither acknowledged nor refused: the core counts the refused as pending too,
// since they are tried again.
func underWay(t evpn.Totals) int { return max(0, t.Pending-t.Problems) }

func (s *inspect) counts(t evpn.Totals, peers []evpn.PeerView) *evpnv1.Counts {
	n := &evpnv1.Counts{
		Vnis: uint32(t.VNIs), VnisUp: uint32(t.VNIsUp), Vteps: uint32(t.VTEPs),
		MacsLocal: uint32(t.LocalMACs), MacsRemote: uint32(t.RemoteMACs),
		NeighborsLocal: uint32(t.LocalIPs), NeighborsRemote: uint32(t.RemoteIPs),
		RoutesReceived: uint32(t.Routes), RoutesAdvertised: uint32(t.OwnRoutes),
	}
	for _, p := range peers {
		n.RoutesRefused += uint32(p.Refused)
	}
	for _, p := range s.d.bgp.Sessions() {
		n.Peers++
		if p.State == speaker.StateEstablished {
			n.PeersEstablished++
		}
	}
	return n
}

func (s *inspect) ListVNIs(req *evpnv1.ListVNIsRequest, out evpnv1.InspectService_ListVNIsServer) error {
	rows, at, err := s.vnis(out.Context(), req.Vni)
	if err != nil {
		return err
	}
	if req.Vni != 0 && len(rows) == 0 {
		return unknownVNI(req.Vni)
	}
	return stream(rows, func(part []*evpnv1.VNI) error { return out.Send(&evpnv1.ListVNIsResponse{Vnis: part, AsOf: at}) })
}

// vnis returns the row of one VNI, or with 0 those of all.
func (s *inspect) vnis(ctx context.Context, only uint32) (rows []*evpnv1.VNI, at *timestamppb.Timestamp, err error) {
	var views []evpn.VNIView
	if at, err = s.snapshot(ctx, func(c *evpn.Core) { views = c.VNIs() }); err != nil {
		return nil, nil, err
	}
	devices := s.d.kernel.Status()
	questions := map[uint32]dataplane.QuestionCount{}
	for _, q := range devices.Questions {
		questions[uint32(q.VNI)] = q
	}
	for _, v := range withConfigured(views, s.d.config.get()) {
		if only != 0 && v.Vni != only {
			continue
		}
		q := questions[v.Vni]
		v.RequestsAnswered, v.RequestsUnknown, v.RequestsFlooded = q.Answered, q.Unknown, q.Flooded
		if why := devices.NotMade[evpn.VNI(v.Vni)]; why != "" {
			v.Faults = append(v.Faults, printable(why))
		}
		v.SnoopedPorts = snoopedPorts(devices.Snoop.Each, evpn.VNI(v.Vni))
		rows = append(rows, v)
	}
	return rows, at, nil
}

func (s *inspect) ListVTEPs(req *evpnv1.ListVTEPsRequest, out evpnv1.InspectService_ListVTEPsServer) error {
	vtep, err := parseAddr("vtep", req.Vtep)
	if err != nil {
		return err
	}
	if err := s.knowsVNI(out.Context(), req.Vni); err != nil {
		return err
	}
	var views []evpn.VTEPView
	at, err := s.snapshot(out.Context(), func(c *evpn.Core) { views = c.VTEPs(evpn.VNI(req.Vni)) })
	if err != nil {
		return err
	}
	views = slices.DeleteFunc(views, func(v evpn.VTEPView) bool { return vtep.IsValid() && v.VTEP != vtep })
	probes := s.d.kernel.Status().Probes.Each
	return stream(views, func(part []evpn.VTEPView) error {
		rows := protoAll(part, protoVTEP)
		for i, row := range rows {
			if probe, ok := probes[part[i].VTEP]; ok {
				row.Probe, row.ProbeRtt = string(probe.State), duration(probe.RTT)
			}
		}
		return out.Send(&evpnv1.ListVTEPsResponse{Vteps: rows, AsOf: at})
	})
}

func (s *inspect) ListMACs(req *evpnv1.ListMACsRequest, out evpnv1.InspectService_ListMACsServer) error {
	want, err := parseFilter(req.Mac, "", req.Vtep, req.Origin)
	if err != nil {
		return err
	}
	if err := s.knowsVNI(out.Context(), req.Vni); err != nil {
		return err
	}
	return list(out.Context(), s, req.Vni, func(vnis []evpn.VNI, at *timestamppb.Timestamp, p *packer[*evpnv1.MAC]) error {
		p.send = func(part []*evpnv1.MAC) error { return out.Send(&evpnv1.ListMACsResponse{Macs: part, AsOf: at}) }
		return s.eachMAC(out.Context(), vnis, want, req.Candidates, func(rows []evpn.MACView, _ *timestamppb.Timestamp) error {
			for i := range rows {
				v := &rows[i]
				if want.matches(v.MAC, netip.Addr{}, v.VTEP, isLocal(*v)) && (v.Duplicate != nil || !req.Duplicates) {
					if err := p.add(protoMAC(*v)); err != nil {
						return err
					}
				}
			}
			return nil
		})
	})
}

func (s *inspect) ListNeighbors(req *evpnv1.ListNeighborsRequest, out evpnv1.InspectService_ListNeighborsServer) error {
	want, err := parseFilter(req.Mac, req.Ip, req.Vtep, req.Origin)
	if err != nil {
		return err
	}
	if err := s.knowsVNI(out.Context(), req.Vni); err != nil {
		return err
	}
	return list(out.Context(), s, req.Vni, func(vnis []evpn.VNI, at *timestamppb.Timestamp, p *packer[*evpnv1.Neighbor]) error {
		p.send = func(part []*evpnv1.Neighbor) error {
			return out.Send(&evpnv1.ListNeighborsResponse{Neighbors: part, AsOf: at})
		}
		return s.eachNeighbor(out.Context(), vnis, want, req.Candidates, func(rows []evpn.NeighborView, _ *timestamppb.Timestamp) error {
			for i := range rows {
				if v := &rows[i]; want.matches(v.MAC, v.IP, v.VTEP, v.Local) {
					if err := p.add(protoNeighbor(*v)); err != nil {
						return err
					}
				}
			}
			return nil
		})
	})
}

// packer puts items into messages of one chunk each.
type packer[T any] struct {
	items []T
	sent  bool
	send  func([]T) error
}

func (p *packer[T]) add(item T) error {
	if p.items = append(p.items, item); len(p.items) < chunk {
		return nil
	}
	return p.flush()
}

// flush sends what is left.
func (p *packer[T]) flush() error {
	items := p.items
	p.items, p.sent = make([]T, 0, chunk), true
	return p.send(items)
}

// end sends what is left when all went well, at least one message in all.
func (p *packer[T]) end(err error) error {
	if err != nil || len(p.items) == 0 && p.sent {
		return err
	}
	return p.flush()
}

// list has read send the rows of one VNI, or with 0 of all: at least one message.
func list[T any](ctx context.Context, s *inspect, vni uint32, read func([]evpn.VNI, *timestamppb.Timestamp, *packer[T]) error) error {
	vnis := []evpn.VNI{evpn.VNI(vni)}
	at, err := s.snapshot(ctx, func(c *evpn.Core) {
		if vni == 0 {
			vnis = c.ServedVNIs()
		}
	})
	if err != nil {
		return err
	}
	var p packer[T]
	return p.end(read(vnis, at, &p))
}

// filter is what ListMACs and ListNeighbors have in common.
type filter struct {
	mac    evpn.MAC
	hasMAC bool
	ip     netip.Addr
	vtep   netip.Addr
	origin string
}

func parseFilter(mac, ip, vtep, origin string) (f filter, err error) {
	if f.mac, f.hasMAC, err = parseMAC(mac); err != nil {
		return f, err
	}
	if f.ip, err = parseAddr("ip", ip); err != nil {
		return f, err
	}
	if f.vtep, err = parseAddr("vtep", vtep); err != nil {
		return f, err
	}
	if !slices.Contains([]string{"", "local", "remote"}, origin) {
		return f, status.Errorf(codes.InvalidArgument, "origin %q: want local or remote", origin)
	}
	f.origin = origin
	return f, nil
}

func (f filter) matches(mac evpn.MAC, ip, vtep netip.Addr, local bool) bool {
	return (!f.hasMAC || f.mac == mac) &&
		(!f.ip.IsValid() || f.ip == ip) &&
		(!f.vtep.IsValid() || f.vtep == vtep) &&
		(f.origin == "" || (f.origin == "local") == local)
}

func parseAddr(name, s string) (netip.Addr, error) {
	if s == "" {
		return netip.Addr{}, nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{}, status.Errorf(codes.InvalidArgument, "%s: %v", name, err)
	}
	return a.Unmap(), nil
}

// parsePeer reads an address, or the interface of a peer that is named by it.
func parsePeer(name, s string) (netip.Addr, error) {
	if s == "" {
		return netip.Addr{}, nil
	}
	peer, err := evpn.ParsePeer(s)
	if err != nil {
		return netip.Addr{}, status.Errorf(codes.InvalidArgument, "%s: %v", name, err)
	}
	return peer, nil
}

func parseMAC(s string) (evpn.MAC, bool, error) {
	if s == "" {
		return evpn.MAC{}, false, nil
	}
	m, err := evpn.ParseMAC(s)
	if err != nil {
		return evpn.MAC{}, false, status.Errorf(codes.InvalidArgument, "mac: %v", err)
	}
	return m, true, nil
}

// parseHost reads the MAC and the IP by which a request names a host, either of which may be missing.
func parseHost(macText, ipText string) (mac evpn.MAC, hasMAC bool, ip netip.Addr, err error) {
	if mac, hasMAC, err = parseMAC(macText); err != nil {
		return mac, false, ip, err
	}
	ip, err = parseAddr("ip", ipText)
	return mac, hasMAC, ip, err
}

func unknownVNI(vni uint32) error {
	return status.Errorf(codes.NotFound, "VNI %d is neither served nor configured", vni)
}
