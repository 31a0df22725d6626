package daemon

import (
	"context"
	"net/netip"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	evpnv1 "github.com/evpnd/evpnd/api/evpn/v1"
	"github.com/evpnd/evpnd/evpn"
)

func (s *inspect) ListRoutes(req *evpnv1.ListRoutesRequest, out evpnv1.InspectService_ListRoutesServer) error {
	want, err := parseRouteFilter(req)
	if err != nil {
		return err
	}
	var names []evpn.RouteName
	at, err := s.snapshot(out.Context(), func(c *evpn.Core) { names = want.names(c) })
	if err != nil {
		return err
	}
	p := packer[*evpnv1.Route]{send: func(part []*evpnv1.Route) error {
		return out.Send(&evpnv1.ListRoutesResponse{Routes: part, AsOf: at})
	}}
	err = s.eachRoute(out.Context(), names, req.Vni, func(rows []evpn.RouteView, _ *timestamppb.Timestamp) error {
		for i := range rows {
			if err := p.add(protoRoute(rows[i])); err != nil {
				return err
			}
		}
		return nil
	})
	return p.end(err)
}

// eachRoute reads routes by their names, which it puts into order, a chunk at a time, and hands over those of a VNI.
func (s *inspect) eachRoute(ctx context.Context, names []evpn.RouteName, vni uint32, take func([]evpn.RouteView, *timestamppb.Timestamp) error) error {
	evpn.SortRouteNames(names)
	return each(ctx, s, names, func(c *evpn.Core, part []evpn.RouteName) []evpn.RouteView {
		rows, _ := routeRows(c, part, vni)
		return rows
	}, take)
}

// routeRows reads routes by their names: those of a VNI, and the names of the others and of those that are gone.
func routeRows(c *evpn.Core, names []evpn.RouteName, vni uint32) (rows []evpn.RouteView, others []evpn.RouteName) {
	rows = make([]evpn.RouteView, 0, len(names))
	c.RouteRows(names, func(n evpn.RouteName, v evpn.RouteView, ok bool) {
		if ok && inVNI(&v, vni) {
			rows = append(rows, v)
		} else {
			others = append(others, n)
		}
	})
	return rows, others
}

// routeFilter is the filter of ListRoutes.
type routeFilter struct {
	req     *evpnv1.ListRoutesRequest
	in, out bool
	peer    netip.Addr
	ip      netip.Addr
	mac     evpn.MAC
	hasMAC  bool
	rd      evpn.RD
}

func parseRouteFilter(req *evpnv1.ListRoutesRequest) (f routeFilter, err error) {
	f = routeFilter{req: req, in: req.Direction != "out", out: req.Direction != "in" && req.Peer == ""}
	if !slices.Contains([]string{"", "in", "out"}, req.Direction) {
		return f, status.Errorf(codes.InvalidArgument, "direction %q: want in or out", req.Direction)
	}
	if f.peer, err = parsePeer("peer", req.Peer); err != nil {
		return f, err
	}
	if f.ip, err = parseAddr("ip", req.Ip); err != nil {
		return f, err
	}
	if f.mac, f.hasMAC, err = parseMAC(req.Mac); err != nil {
		return f, err
	}
	if req.Rd != "" {
		if f.rd, err = evpn.ParseRD(req.Rd); err != nil {
			return f, status.Errorf(codes.InvalidArgument, "rd: %v", err)
		}
	}
	return f, nil
}

// wants reports whether a route with this key can match.
func (f routeFilter) wants(k *evpn.RouteKey) bool {
	return (f.req.Type == 0 || f.req.Type == uint32(k.Type)) &&
		(f.req.Rd == "" || f.rd == k.RD) &&
		(!f.hasMAC || f.mac == k.MAC) &&
		(!f.ip.IsValid() || f.ip == k.IP)
}

// inVNI reports whether a route is of a VNI, by its label or by who imports or exports it; every route is of VNI 0.
func inVNI(v *evpn.RouteView, vni uint32) bool {
	return vni == 0 || v.Label1 == vni || slices.Contains(v.VNIs, evpn.VNI(vni))
}

// names returns the names of the routes that can match, in no order.
func (f routeFilter) names(c *evpn.Core) (names []evpn.RouteName) {
	if f.in {
		names = c.ReceivedRoutes(f.peer, f.wants)
	}
	if f.out {
		names = append(names, c.AnnouncedRoutes(f.wants)...)
	}
	return names
}
