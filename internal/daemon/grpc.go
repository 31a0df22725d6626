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
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"

	evpnv1 "github.com/evpnd/evpnd/api/evpn/v1"
)

// stopGrace is how long calls may take to finish when the daemon stops.
const stopGrace = time.Second

// serveAPI serves gRPC until ctx ends, and closes the listener.
func (d *Daemon) serveAPI(ctx context.Context, l net.Listener) error {
	s := grpc.NewServer(
		grpc.UnaryInterceptor(d.recoverUnary),
		grpc.StreamInterceptor(d.recoverStream),
		grpc.MaxRecvMsgSize(maxRequest),
	)
	evpnv1.RegisterInspectServiceServer(s, &inspect{d: d})
	evpnv1.RegisterAdminServiceServer(s, &admin{d: d})
	healthpb.RegisterHealthServer(s, d.checks)
	reflection.Register(s)
	d.log.WithField("socket", l.Addr().String()).Info("api listening")

	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }() // ends with the server
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	stopWithin(s, stopGrace)
	if err := <-served; !errors.Is(err, grpc.ErrServerStopped) { // it may have been stopped before it began
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
