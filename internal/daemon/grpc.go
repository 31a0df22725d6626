package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"time"

	"github.com/sirupsen/logrus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"

	evpnv1 "github.com/evpnd/evpnd/api/evpn/v1"
)

const (
	stopGrace     = time.Second      // how long calls may take to finish when a server stops
	maxCalls      = 256              // at a time, of one connection
	handshakeTime = 10 * time.Second // that a client has to say who it is
	aliveTime     = time.Minute      // of silence after which a client is asked whether it is there
)

// apiServer is one of the two that serve gRPC, and what it was made from.
type apiServer struct {
	listener net.Listener
	creds    credentials.TransportCredentials
	access   access
}

// serveAPI serves gRPC until ctx ends. deaf is called when it accepts no more connections; the listener stays open for
// another server. Calls that are being answered then have a while to finish.
func (d *Daemon) serveAPI(ctx context.Context, a apiServer, deaf func()) error {
	g := newGate(a.access, d.log)
	s := grpc.NewServer(
		grpc.Creds(a.creds),
		grpc.ChainUnaryInterceptor(d.recoverUnary, g.unary),
		grpc.ChainStreamInterceptor(d.recoverStream, g.stream),
		grpc.MaxRecvMsgSize(maxRequest),
		grpc.MaxConcurrentStreams(maxCalls),
		grpc.ConnectionTimeout(handshakeTime),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: aliveTime}),
	)
	evpnv1.RegisterInspectServiceServer(s, &inspect{d: d})
	evpnv1.RegisterAdminServiceServer(s, &admin{d: d})
	healthpb.RegisterHealthServer(s, d.checks)
	reflection.Register(s)
	d.log.WithField("socket", a.listener.Addr().String()).Info("api listening")

	l := borrow(a.listener)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }() // ends with the loan
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	_ = l.Close()
	err := <-served
	deaf()
	stopWithin(s, stopGrace)
	if !errors.Is(err, net.ErrClosed) && !errors.Is(err, grpc.ErrServerStopped) { // it may have been stopped before it began
		return err
	}
	return nil
}

// stopWithin lets calls finish for a while and then cuts them off.
func stopWithin(s *grpc.Server, grace time.Duration) {
	stopped := make(chan struct{})
	go func() { // ends with the server
		defer close(stopped)
		s.GracefulStop()
	}()
	select {
	case <-stopped:
	case <-time.After(grace):
		s.Stop()
		<-stopped
	}
}

// recoverUnary and recoverStream turn a panic in a handler into an error of that call: the API must not take the
// daemon's forwarding down.
func (d *Daemon) recoverUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (resp any, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = status.Error(codes.Internal, d.panicked(info.FullMethod, r).Error())
		}
	}()
	return next(ctx, req)
}

func (d *Daemon) recoverStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = status.Error(codes.Internal, d.panicked(info.FullMethod, r).Error())
		}
	}()
	return next(srv, stream)
}

// panicked logs a panic and makes an error of it.
func (d *Daemon) panicked(where string, r any) error {
	d.log.WithFields(logrus.Fields{"call": where, "reason": r, "stack": string(debug.Stack())}).Error("panic in api call")
	return fmt.Errorf("%s: internal error: %v", where, r)
}
