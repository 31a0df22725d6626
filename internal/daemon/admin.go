package daemon

import (
	"context"
	"errors"
	"strings"

	"github.com/sirupsen/logrus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	evpnv1 "github.com/evpnd/evpnd/api/evpn/v1"
	"github.com/evpnd/evpnd/dataplane"
	"github.com/evpnd/evpnd/evpn"
)

// admin implements AdminService.
type admin struct {
	evpnv1.UnimplementedAdminServiceServer
	d *Daemon
}

func (a *admin) Reload(_ context.Context, req *evpnv1.ReloadRequest) (*evpnv1.ReloadResponse, error) {
	act := a.d.Reload
	if req.DryRun {
		act = a.d.Preview
	}
	changes, err := act()
	switch {
	case err == nil:
		resp := &evpnv1.ReloadResponse{Details: ProtoChanges(changes)}
		for _, c := range changes {
			resp.Changes = append(resp.Changes, printable(c.String()))
		}
		return resp, nil
	case errors.Is(err, errStopped):
		return nil, status.Error(codes.Unavailable, printable(err.Error()))
	case errors.Is(err, errNotApplied):
		return nil, status.Error(codes.Internal, printable(err.Error()))
	case errors.Is(err, errNeedsRestart):
		return nil, status.Error(codes.FailedPrecondition, printable(err.Error()))
	default:
		return nil, status.Error(codes.InvalidArgument, printable(err.Error()))
	}
}

func (a *admin) ClearPeer(_ context.Context, req *evpnv1.ClearPeerRequest) (*evpnv1.ClearPeerResponse, error) {
	addr, err := parsePeer("address", req.Address)
	if err != nil {
		return nil, err
	}
	if !addr.IsValid() {
		return nil, status.Error(codes.InvalidArgument, "address: missing")
	}
	if _, ok := a.d.session(addr); !ok {
		return nil, status.Errorf(codes.NotFound, "no peer %s", evpn.PeerName(addr))
	}
	if !req.Soft {
		a.d.bgp.ClosePeer(addr, "cleared by operator")
		return &evpnv1.ClearPeerResponse{}, nil
	}
	if err := a.d.bgp.RequestRefresh(addr); err != nil {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	return &evpnv1.ClearPeerResponse{}, nil
}

func (a *admin) ClearDuplicate(ctx context.Context, req *evpnv1.ClearDuplicateRequest) (*evpnv1.ClearDuplicateResponse, error) {
	mac, hasMAC, ip, err := parseHost(req.Mac, req.Ip)
	if err != nil {
		return nil, err
	}
	if hasMAC && ip.IsValid() {
		return nil, status.Error(codes.InvalidArgument, "mac and ip: want one of them")
	}
	var n int
	if err := a.d.onOwner(ctx, func(c *evpn.Core) { n = c.ClearDuplicates(evpn.VNI(req.Vni), mac, ip) }); err != nil {
		if errors.Is(err, errStopped) {
			return nil, status.Error(codes.Unavailable, err.Error())
		}
		return nil, status.FromContextError(err).Err()
	}
	if n == 0 && (hasMAC || ip.IsValid()) {
		return nil, status.Error(codes.NotFound, "no such duplicate")
	}
	return &evpnv1.ClearDuplicateResponse{Cleared: uint32(n)}, nil
}

func (a *admin) ClearForeign(ctx context.Context, req *evpnv1.ClearForeignRequest) (*evpnv1.ClearForeignResponse, error) {
	vni := evpn.VNI(req.Vni)
	found, err := a.d.kernel.ClearForeign(vni, req.Flood, req.Remove)
	switch {
	case errors.Is(err, dataplane.ErrNotServed):
		return nil, status.Error(codes.NotFound, err.Error())
	case err != nil:
		return nil, status.Error(codes.Unavailable, printable(err.Error()))
	}
	if req.Remove {
		a.d.log.WithFields(logrus.Fields{"vni": vni, "reason": "by operator"}).Infof("%d entries of another daemon removed", len(found))
		if err := a.d.onOwner(ctx, func(c *evpn.Core) { c.RetryBlocked(vni) }); err != nil && ctx.Err() == nil {
			return nil, status.Error(codes.Unavailable, err.Error())
		}
	}
	resp := &evpnv1.ClearForeignResponse{}
	for _, l := range found {
		e := &evpnv1.ForeignEntry{Table: l.Key.Table.String()}
		switch l.Key.Table {
		case evpn.TableFDB:
			e.Mac, e.Vtep = l.Key.MAC.String(), text(l.Entry.VTEP)
		case evpn.TableNeighbor:
			e.Mac, e.Ip = l.Entry.MAC.String(), text(l.Key.Addr)
		default:
			e.Vtep = text(l.Key.Addr)
		}
		if l.Err != nil {
			e.Error = printable(l.Err.Error())
		}
		resp.Entries = append(resp.Entries, e)
	}
	return resp, nil
}

func (a *admin) SetLogLevel(_ context.Context, req *evpnv1.SetLogLevelRequest) (*evpnv1.SetLogLevelResponse, error) {
	level, err := logrus.ParseLevel(req.Level)
	if err != nil || level < logrus.ErrorLevel || level > logrus.DebugLevel {
		return nil, status.Errorf(codes.InvalidArgument, "level %q: want error, warn, info or debug", req.Level)
	}
	previous := levelName(a.d.log.GetLevel())
	a.d.log.SetLevel(level)
	return &evpnv1.SetLogLevelResponse{Previous: previous}, nil
}

// levelName is the name that the configuration uses: logrus says warning for warn.
func levelName(l logrus.Level) string { return strings.TrimSuffix(l.String(), "ing") }
