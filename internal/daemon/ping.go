package daemon

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	evpnv1 "github.com/evpnd/evpnd/api/evpn/v1"
	"github.com/evpnd/evpnd/dataplane"
	"github.com/evpnd/evpnd/evpn"
)

const (
	pingTimeout = time.Minute // far more than the longest one takes
	maxPings    = 4           // at once
)

func (a *admin) PingVTEP(req *evpnv1.PingVTEPRequest, stream grpc.ServerStreamingServer[evpnv1.PingVTEPResponse]) error {
	ctx, cancel := context.WithTimeout(stream.Context(), pingTimeout)
	defer cancel()
	target, named, err := a.pingTarget(ctx, req)
	if err != nil {
		return err
	}
	select {
	case a.d.pings <- struct{}{}:
		defer func() { <-a.d.pings }()
	default:
		return status.Errorf(codes.ResourceExhausted, "%d pings are under way", maxPings)
	}
	var broken error // the client is gone
	report := func(s dataplane.PingStep) {
		if broken == nil {
			if broken = stream.Send(&evpnv1.PingVTEPResponse{Step: protoPingStep(s), AsOf: timestamppb.Now()}); broken != nil {
				cancel()
			}
		}
	}
	if !named {
		report(dataplane.PingStep{Mark: dataplane.PingInfo, Topic: "bgp", Text: "no route that is imported here names it: asked in the VNIs served here"})
	}
	err = a.d.kernel.PingVTEP(ctx, target, report)
	switch {
	case broken != nil:
		return broken
	case ctx.Err() != nil:
		return status.FromContextError(ctx.Err()).Err()
	case errors.Is(err, os.ErrPermission):
		return status.Errorf(codes.FailedPrecondition, "%s: evpnd lacks CAP_NET_RAW", printable(err.Error()))
	case err != nil:
		return status.Error(codes.Internal, printable(err.Error()))
	}
	return nil
}

// pingTarget says what a request is about. named: a route that is imported names the VTEP.
func (a *admin) pingTarget(ctx context.Context, req *evpnv1.PingVTEPRequest) (target dataplane.PingTarget, named bool, err error) {
	s := &inspect{d: a.d}
	if target.VTEP, err = parseAddr("vtep", req.Vtep); err != nil {
		return target, false, err
	}
	if err := checkPingable(target.VTEP, a.d.config.get().VTEP); err != nil {
		return target, false, err
	}
	if err := s.knowsVNI(ctx, req.Vni); err != nil {
		return target, false, err
	}
	_, err = s.snapshot(ctx, func(c *evpn.Core) {
		shared := c.Shared(target.VTEP)
		if named = len(shared) > 0; !named {
			for _, v := range c.VNIs() {
				shared = append(shared, evpn.SharedVNI{VNI: v.VNI})
			}
		}
		if req.Vni != 0 {
			shared = only(shared, evpn.VNI(req.Vni))
		}
		for _, v := range shared {
			target.VNIs = append(target.VNIs, dataplane.PingVNI(v))
		}
	})
	return target, named, err
}

// only picks one VNI. One that is not shared is asked in as well: that may be what is wrong.
func only(list []evpn.SharedVNI, vni evpn.VNI) []evpn.SharedVNI {
	for _, v := range list {
		if v.VNI == vni {
			return []evpn.SharedVNI{v}
		}
	}
	return []evpn.SharedVNI{{VNI: vni}}
}

// checkPingable refuses what cannot be another VTEP.
func checkPingable(vtep, self netip.Addr) error {
	switch {
	case !vtep.IsValid():
		return status.Error(codes.InvalidArgument, "vtep: missing")
	case vtep == self:
		return status.Errorf(codes.InvalidArgument, "vtep: %s is our own address", vtep)
	case vtep.Is4() != self.Is4():
		return status.Errorf(codes.InvalidArgument, "vtep: %s is not of the family of ours, %s", vtep, self)
	case vtep.Zone() != "", !vtep.IsGlobalUnicast():
		return status.Errorf(codes.InvalidArgument, "vtep: %s cannot be the address of a VTEP", vtep)
	}
	return nil
}

func protoPingStep(s dataplane.PingStep) *evpnv1.PingStep {
	p := &evpnv1.PingStep{
		Mark: string(s.Mark), Topic: s.Topic, Vni: uint32(s.VNI), Code: string(s.Code), Text: printable(s.Text), Mend: printable(s.Remedy),
	}
	if s.RTT != 0 {
		p.Rtt = durationpb.New(s.RTT)
	}
	return p
}
