package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// maxMessage leaves room for 500 rows of a table, each with much to tell.
const maxMessage = 16 << 20

// call runs fn on a connection to the daemon, with the deadline of --timeout.
func (c *cli) call(ctx context.Context, fn func(context.Context, *grpc.ClientConn) error) error {
	return c.connect(func(conn *grpc.ClientConn) error {
		ctx, cancel := context.WithTimeout(ctx, c.timeout)
		defer cancel()
		return fn(ctx, conn)
	})
}

// connect runs fn on a connection to the daemon, for as long as it likes.
func (c *cli) connect(fn func(*grpc.ClientConn) error) error {
	at := c.at
	if at.network == "" { // completion, which asks the first one
		targets, err := c.parseTargets()
		if err != nil {
			return err
		}
		at = targets[0]
	}
	// gRPC reports a failed dial as text only; the error itself tells "no permission" from "not there".
	var dialErr atomic.Pointer[error]
	creds, err := c.tls.credentials(at)
	if err != nil {
		return err
	}
	if told, ok := creds.(*toldCredentials); ok {
		told.tell = func(err error) { dialErr.Store(&err) }
	}
	conn, err := grpc.NewClient("passthrough:///evpnd",
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithTransportCredentials(creds),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, at.network, at.addr)
			if err != nil {
				dialErr.Store(&err)
			}
			return conn, err
		}))
	if err != nil {
		return fmt.Errorf("use target %q: %w", at.addr, err)
	}
	defer conn.Close()
	err = fn(conn)
	if cause := dialErr.Load(); cause != nil && status.Code(err) == codes.Unavailable {
		return unreachable(*cause)
	}
	return err
}

func unreachable(cause error) error {
	if errors.Is(cause, errNotBelieved) {
		return &failure{codes.Unauthenticated, exitPermission, fmt.Errorf("no connection to evpnd: %w", cause)}
	}
	if errors.Is(cause, fs.ErrPermission) {
		return &failure{codes.PermissionDenied, exitPermission, fmt.Errorf("no permission to reach evpnd: %w", cause)}
	}
	return &failure{codes.Unavailable, exitUnreachable, fmt.Errorf("evpnd is not reachable: %w", cause)}
}

// whole puts the messages of a stream together. It is for tables that are looked at as a whole, none of which is large.
func whole[M any, P interface {
	*M
	proto.Message
}](stream grpc.ServerStreamingClient[M], err error) (*M, error) {
	all := new(M)
	err = receive(stream, err, func(m *M) error { proto.Merge(P(all), P(m)); return nil })
	return all, err
}

// receive hands each message of a stream to take, until that fails.
func receive[M any](stream grpc.ServerStreamingClient[M], err error, take func(*M) error) error {
	if err != nil {
		return err
	}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := take(m); err != nil {
			return err
		}
	}
}
