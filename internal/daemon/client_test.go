package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	evpnv1 "github.com/evpnd/evpnd/api/evpn/v1"
	"github.com/evpnd/evpnd/config"
)

// client is a daemon with its sockets, and a connection to it.
type client struct {
	*world
	inspect evpnv1.InspectServiceClient
	admin   evpnv1.AdminServiceClient
	conn    *grpc.ClientConn
	ctx     context.Context // of calls
	http    string          // URL of the metrics listener
	browser *http.Client
}

func newClient(t testing.TB, more string, change func(*Options, *world)) *client {
	t.Helper()
	c := &client{browser: &http.Client{Transport: &http.Transport{}}}
	t.Cleanup(c.browser.CloseIdleConnections)
	c.world = newWorld(t, more, func(opts *Options, w *world) {
		s, err := Listen(config.API{Socket: opts.Config.API.Socket, Metrics: "127.0.0.1:0"})
		if err != nil {
			t.Fatal(err)
		}
		at := s.metrics.Addr().String() // from here on as if the file had said so
		s.cfg.Metrics, opts.Config.API.Metrics, w.api = at, at, fmt.Sprintf(", metrics: %q", at)
		w.writeConfig(basics + more)
		opts.Sockets, c.http = s, "http://"+at
		if change != nil {
			change(opts, w)
		}
	}).start()
	var err error
	c.conn, err = grpc.NewClient("unix://"+c.opts.Config.API.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.conn.Close() })
	var cancel context.CancelFunc
	c.ctx, cancel = context.WithTimeout(context.Background(), deadline)
	t.Cleanup(cancel)
	c.inspect, c.admin = evpnv1.NewInspectServiceClient(c.conn), evpnv1.NewAdminServiceClient(c.conn)
	return c
}

// call makes the call that a request belongs to and returns all of its answers.
func (c *client) call(req proto.Message) ([]proto.Message, error) {
	switch req := req.(type) {
	case *evpnv1.GetStatusRequest:
		return single(c.inspect.GetStatus(c.ctx, req))
	case *evpnv1.ListPeersRequest:
		return streamed(c.inspect.ListPeers(c.ctx, req))
	case *evpnv1.ListVNIsRequest:
		return streamed(c.inspect.ListVNIs(c.ctx, req))
	case *evpnv1.ListVTEPsRequest:
		return streamed(c.inspect.ListVTEPs(c.ctx, req))
	case *evpnv1.ListMACsRequest:
		return streamed(c.inspect.ListMACs(c.ctx, req))
	case *evpnv1.ListNeighborsRequest:
		return streamed(c.inspect.ListNeighbors(c.ctx, req))
	case *evpnv1.ListRoutesRequest:
		return streamed(c.inspect.ListRoutes(c.ctx, req))
	case *evpnv1.DiagnoseRequest:
		return single(c.inspect.Diagnose(c.ctx, req))
	case *evpnv1.ListEventsRequest:
		return streamed(c.inspect.ListEvents(c.ctx, req))
	case *evpnv1.ExplainRequest:
		return single(c.inspect.Explain(c.ctx, req))
	case *evpnv1.WatchRequest:
		return streamed(c.inspect.Watch(c.ctx, req))
	case *evpnv1.ReloadRequest:
		return single(c.admin.Reload(c.ctx, req))
	case *evpnv1.ClearPeerRequest:
		return single(c.admin.ClearPeer(c.ctx, req))
	case *evpnv1.ClearDuplicateRequest:
		return single(c.admin.ClearDuplicate(c.ctx, req))
	case *evpnv1.ClearForeignRequest:
		return single(c.admin.ClearForeign(c.ctx, req))
	case *evpnv1.SetLogLevelRequest:
		return single(c.admin.SetLogLevel(c.ctx, req))
	default:
		return nil, fmt.Errorf("no call takes %T", req)
	}
}

func single[M proto.Message](m M, err error) ([]proto.Message, error) { return []proto.Message{m}, err }

func streamed[M any, P interface {
	*M
	proto.Message
}](stream grpc.ServerStreamingClient[M], err error) ([]proto.Message, error) {
	if err != nil {
		return nil, err
	}
	var all []proto.Message
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		all = append(all, P(m))
	}
}

// names returns a short name of each item of answers.
func names(answers []proto.Message) []string {
	out := []string{}
	for _, m := range answers {
		switch m := m.(type) {
		case *evpnv1.ListPeersResponse:
			for _, p := range m.Peers {
				out = append(out, p.Address)
			}
		case *evpnv1.ListVNIsResponse:
			for _, v := range m.Vnis {
				out = append(out, fmt.Sprintf("%d %s", v.Vni, v.State))
			}
		case *evpnv1.ListVTEPsResponse:
			for _, v := range m.Vteps {
				out = append(out, fmt.Sprintf("%d %s", v.Vni, v.Vtep))
			}
		case *evpnv1.ListMACsResponse:
			for _, v := range m.Macs {
				out = append(out, fmt.Sprintf("%d %s", v.Vni, v.Mac))
			}
		case *evpnv1.ListNeighborsResponse:
			for _, v := range m.Neighbors {
				out = append(out, fmt.Sprintf("%d %s", v.Vni, v.Ip))
			}
		case *evpnv1.ListRoutesResponse:
			for _, v := range m.Routes {
				out = append(out, fmt.Sprintf("%s%s %s %s", v.Direction, v.Peer, v.Rd, v.Key))
			}
		}
	}
	return out
}

// serving returns what grpc.health.v1 says of each service.
func (c *client) serving() map[string]bool {
	c.t.Helper()
	out := map[string]bool{}
	for _, service := range []string{"", "bgp", "kernel"} {
		resp, err := healthpb.NewHealthClient(c.conn).Check(c.ctx, &healthpb.HealthCheckRequest{Service: service})
		if status.Code(err) == codes.NotFound {
			continue // not looked at yet
		}
		if err != nil {
			c.t.Fatal(err)
		}
		out[service] = resp.Status == healthpb.HealthCheckResponse_SERVING
	}
	return out
}
