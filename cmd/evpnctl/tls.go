package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// tlsFiles are the files for targets on TCP; all PEM.
type tlsFiles struct {
	cert, key string // who we are
	ca        string // whom to believe; "": whom the host believes
}

// credentials are those for a target. Its error is wrong usage.
func (f tlsFiles) credentials(t target) (credentials.TransportCredentials, error) {
	if t.network == "unix" {
		return insecure.NewCredentials(), nil // the kernel tells who we are
	}
	if f.cert == "" || f.key == "" {
		return nil, fmt.Errorf("target %s: want a certificate and its key: --cert and --key, EVPND_CERT and EVPND_KEY", t.addr)
	}
	host, _, err := net.SplitHostPort(t.addr)
	if err != nil {
		return nil, err
	}
	pair, err := tls.LoadX509KeyPair(f.cert, f.key)
	if err != nil {
		return nil, fmt.Errorf("certificate of evpnctl: %w", err)
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}, ServerName: host}
	if f.ca != "" {
		data, err := os.ReadFile(f.ca)
		if err != nil {
			return nil, fmt.Errorf("CA of evpnd: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(data) {
			return nil, fmt.Errorf("CA of evpnd: %s has no certificate", f.ca)
		}
	}
	return &toldCredentials{TransportCredentials: credentials.NewTLS(cfg)}, nil
}

// errNotBelieved says that TLS has found no trust between the two ends.
var errNotBelieved = errors.New("no trust")

// toldCredentials keep the reason of a handshake that failed: gRPC reports it as text only. With TLS 1.3 the other end
// refuses our certificate after our handshake is over, when the first octets are read.
type toldCredentials struct {
	credentials.TransportCredentials
	tell func(error)
}

// ClientHandshake is described at credentials.TransportCredentials.
func (t *toldCredentials) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := t.TransportCredentials.ClientHandshake(ctx, authority, raw)
	if err != nil {
		t.tell(fmt.Errorf("%w: %w", errNotBelieved, err))
		return nil, nil, err
	}
	return &toldConn{conn, t.tell}, info, nil
}

// Clone is described at credentials.TransportCredentials.
func (t *toldCredentials) Clone() credentials.TransportCredentials {
	return &toldCredentials{t.TransportCredentials.Clone(), t.tell}
}

type toldConn struct {
	net.Conn
	tell func(error)
}

// Read tells of an alert of the other end.
func (c *toldConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "remote error" {
		c.tell(fmt.Errorf("%w: it refuses our certificate: %w", errNotBelieved, op.Err))
	}
	return n, err
}

// Write looks for an alert when the other end is gone: it may have come before what we write.
func (c *toldConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	if err != nil {
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		_, _ = c.Read(make([]byte, 1)) // whatever else is left is of no use
	}
	return n, err
}
