package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	evpnv1 "github.com/evpnd/evpnd/api/evpn/v1"
)

// process is a running evpnd.
type process struct {
	*exec.Cmd
	t       *testing.T
	dir     string
	manager *serviceManager
	log     strings.Builder
	conn    *grpc.ClientConn
}

// launch starts an evpnd with a configuration and waits until it says that it is ready.
func launch(t *testing.T, text string) *process {
	t.Helper()
	p := &process{t: t, dir: t.TempDir()}
	path := filepath.Join(p.dir, "evpnd.yaml")
	socket := filepath.Join(p.dir, "evpnd.sock")
	text += fmt.Sprintf("state-dir: %s\napi: {socket: %s}\n", p.dir, socket)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(p.dir, "key"), []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var err error
	if p.manager, err = listenManager(filepath.Join(p.dir, "notify")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.manager.close)
	p.Cmd = exec.Command("evpnd", "-c", path)
	p.Env = append(os.Environ(), "NOTIFY_SOCKET="+p.manager.path)
	p.Stdout, p.Stderr = &p.log, &p.log
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if p.ProcessState == nil {
			_ = p.Process.Kill()
			_ = p.Wait()
		}
		if t.Failed() {
			t.Logf("%s:\n%s", path, p.log.String())
		}
	})
	dial := func(ctx context.Context, _ string) (net.Conn, error) { // where a reload may have put it
		c, err := new(net.Dialer).DialContext(ctx, "unix", socket)
		if err != nil {
			c, err = new(net.Dialer).DialContext(ctx, "unix", filepath.Join(p.dir, "other.sock"))
		}
		return c, err
	}
	if p.conn, err = grpc.NewClient("passthrough:///evpnd", grpc.WithContextDialer(dial), grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.conn.Close() })
	if p.manager.await(regexp.MustCompile("^READY=1$")) == "" {
		t.Fatal("not ready")
	}
	return p
}

// peers lists the peers, of which there are few.
func (p *process) peers(ctx context.Context) []*evpnv1.Peer {
	p.t.Helper()
	stream, err := evpnv1.NewInspectServiceClient(p.conn).ListPeers(ctx, &evpnv1.ListPeersRequest{})
	if err != nil {
		p.t.Fatal(err)
	}
	resp, err := stream.Recv()
	if err != nil {
		p.t.Fatal(err)
	}
	return resp.Peers
}

// stop sends SIGTERM, wants exit 0, and returns how long it took.
func (p *process) stop() time.Duration {
	p.t.Helper()
	begin := time.Now()
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatal(err)
	}
	if err := p.Wait(); err != nil {
		p.t.Errorf("evpnd: %v", err)
	}
	return time.Since(begin)
}

// TestTwoDaemons: two evpnd find each other, are healthy, and stop within their time, one with a client that waits.
func TestTwoDaemons(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	passive := launch(t, `
asn: 65000
vtep: 10.255.0.1
listen: {port: 1790, addresses: [127.0.0.1]}
peers:
  - {address: 127.0.0.2, asn: 65000, passive: true}
`)
	active := launch(t, `
asn: 65000
vtep: 10.255.0.2
peers:
  - {address: 127.0.0.1, asn: 65000, port: 1790, local-address: 127.0.0.2, connect-retry: 100ms}
`)
	for _, p := range []*process{passive, active} {
		watch, err := healthpb.NewHealthClient(p.conn).Watch(ctx, &healthpb.HealthCheckRequest{Service: "bgp"})
		if err != nil {
			t.Fatal(err)
		}
		for status := healthpb.HealthCheckResponse_UNKNOWN; status != healthpb.HealthCheckResponse_SERVING; {
			resp, err := watch.Recv()
			if err != nil {
				t.Fatal(err)
			}
			status = resp.Status
		}
	}
	peers := active.peers(ctx)
	if len(peers) != 1 || peers[0].State != "established" || !peers[0].EndOfRibReceived {
		t.Errorf("peers %v", peers)
	}
	for name, p := range map[string]*process{"active": active, "passive": passive} {
		if took := p.stop(); took > 3*time.Second {
			t.Errorf("the %s side takes %s to stop", name, took)
		}
	}
}

// TestReloadTime: the time of a reload is that of the clock systemd compares it with.
func TestReloadTime(t *testing.T) {
	p := launch(t, "asn: 65000\nvtep: 10.255.0.1\n")
	before := monotonic(t)
	if err := p.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	state := p.manager.await(regexp.MustCompile("^RELOADING=1"))
	_, usec, _ := strings.Cut(state, "MONOTONIC_USEC=")
	at, err := strconv.ParseInt(usec, 10, 64)
	if after := monotonic(t); err != nil || at < before || at > after {
		t.Errorf("told %q between %d and %d", state, before, after)
	}
	p.stop()
}

// monotonic returns CLOCK_MONOTONIC in microseconds.
func monotonic(t *testing.T) int64 {
	t.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		t.Fatal(err)
	}
	return ts.Nano() / 1000
}
