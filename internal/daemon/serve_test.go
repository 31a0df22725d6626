package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	evpnv1 "github.com/evpnd/evpnd/api/evpn/v1"
	"github.com/evpnd/evpnd/config"
	"github.com/evpnd/evpnd/internal/certtest"
)

// freePort is an address that nobody listens on.
func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// reloadAPI reloads with another api section, without its braces.
func (g *guarded) reloadAPI(api string) (codes.Code, string) {
	g.t.Helper()
	text := fmt.Sprintf("%s%sstate-dir: %s\napi: {%s}\n", basics, populatedConfig, g.stateDir(), api)
	if err := os.WriteFile(filepath.Join(g.dir, "evpnd.yaml"), []byte(text), 0o600); err != nil {
		g.t.Fatal(err)
	}
	_, code, message := g.reload()
	return code, message
}

// TestListenersMove: a reload moves every listener, with the calls that are being answered finished and nobody turned away.
func TestListenersMove(t *testing.T) {
	g := newGuarded(t)
	tcp, metrics, socket := freePort(t), freePort(t), filepath.Join(g.dir, "moved.sock")
	admin := g.overTCP(g.ca.Client("", "admin.example", ""))
	if _, err := evpnv1.NewInspectServiceClient(admin).GetStatus(g.ctx, &evpnv1.GetStatusRequest{}); err != nil {
		t.Fatal(err)
	}
	oldMetrics := strings.TrimPrefix(g.http, "http://")
	moved := "certificate: api.crt, key: api.key, client-ca: ca.crt, readers: [new.example]"
	code, message := g.reloadAPI(fmt.Sprintf("socket: %s, listen: %q, metrics: %q, %s", socket, tcp, metrics, moved))
	if code != codes.OK {
		t.Fatal(message)
	}
	for _, gone := range []string{g.at, oldMetrics} {
		if _, err := net.Dial("tcp", gone); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("dial %s: %v", gone, err)
		}
	}
	for _, gone := range []string{g.opts.Config.API.Socket, handOverSocket(g.opts.Config.API)} {
		if _, err := os.Lstat(gone); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left behind: %v", gone, err)
		}
	}
	if _, err := os.Lstat(socket + ".take-over"); err != nil {
		t.Error(err)
	}
	g.http = "http://" + metrics
	g.get("/metrics")
	g.conn.Close()
	g.conn = dialled(t, "unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	g.inspect, g.admin = evpnv1.NewInspectServiceClient(g.conn), evpnv1.NewAdminServiceClient(g.conn)
	g.status()
	g.at = tcp
	if _, err := evpnv1.NewInspectServiceClient(g.overTCP(g.ca.Client("", "new.example", ""))).GetStatus(g.ctx, &evpnv1.GetStatusRequest{}); err != nil {
		t.Error(err)
	}
	if code, message := g.reloadAPI("socket: " + socket); code != codes.OK {
		t.Fatal(message)
	}
	for _, gone := range []string{tcp, metrics} {
		if _, err := net.Dial("tcp", gone); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("dial %s: %v", gone, err)
		}
	}
}

// TestListenersRefused: a listener that cannot be opened, and a peer that cannot be configured, leave everything as it was.
func TestListenersRefused(t *testing.T) {
	g := newGuarded(t)
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	free, socket := freePort(t), filepath.Join(g.dir, "moved.sock")
	tls := "certificate: api.crt, key: api.key, client-ca: ca.crt, admins: [a]"
	gid := func() uint32 {
		info, err := os.Stat(g.opts.Config.API.Socket)
		if err != nil {
			t.Fatal(err)
		}
		return info.Sys().(*syscall.Stat_t).Gid
	}
	before := gid()
	for _, row := range []struct{ name, api, want string }{
		{"busy metrics", fmt.Sprintf("socket: %s, listen: %q, metrics: %q, %s", socket, free, busy.Addr(), tls), "metrics: listen tcp"},
		{"busy api", fmt.Sprintf("socket: %s, listen: %q, %s", socket, busy.Addr(), tls), "api: listen tcp"},
		{"a socket nobody can make", "socket: /proc/evpnd.sock", "api: listen on /proc/evpnd.sock"},
		{"no such group", "socket: " + socket + ", group: no-such-group", "no-such-group"},
		{"no such group of admins", "socket: " + socket + ", admin-group: no-such-group", "admin-group: group: unknown group no-such-group"},
		{"another group, busy metrics", fmt.Sprintf("socket: %s, group: %s, metrics: %q", g.opts.Config.API.Socket, adminGroup, busy.Addr()), "metrics: listen tcp"},
	} {
		code, message := g.reloadAPI(row.api)
		if code != codes.Internal || !strings.Contains(message, row.want) {
			t.Errorf("%s: %s, %s", row.name, code, message)
		}
		g.stays(row.name, free, socket)
		if now := gid(); now != before {
			t.Errorf("%s: the socket's group is %d, was %d", row.name, now, before)
		}
	}
	old := g.config.get()
	g.bgp.mu.Lock()
	g.bgp.configErr = func(cfg *config.Config) error {
		if cfg != old {
			return errors.New("no such address")
		}
		return nil
	}
	g.bgp.mu.Unlock()
	if code, message := g.reloadAPI(fmt.Sprintf("socket: %s, listen: %q, %s", socket, free, tls)); code != codes.Internal || !strings.Contains(message, "no such address") {
		t.Errorf("BGP refuses: %s, %s", code, message)
	}
	g.stays("BGP refuses", free, socket)
}

// stays checks that the listeners are where they were, and not where a reload would have had them.
func (g *guarded) stays(name, free, socket string) {
	g.t.Helper()
	g.status()
	g.get("/metrics")
	if _, err := evpnv1.NewInspectServiceClient(g.overTCP(g.ca.Client("", "admin.example", ""))).GetStatus(g.ctx, &evpnv1.GetStatusRequest{}); err != nil {
		g.t.Errorf("%s: %v", name, err)
	}
	if _, err := net.Dial("tcp", free); !errors.Is(err, syscall.ECONNREFUSED) {
		g.t.Errorf("%s: dial %s: %v", name, free, err)
	}
	for _, path := range []string{socket, socket + ".take-over"} {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			g.t.Errorf("%s: %s is left behind: %v", name, path, err)
		}
	}
}

// TestPermissionTakenAway: who is taken off the list, or whose CA is, loses the stream that is open too.
func TestPermissionTakenAway(t *testing.T) {
	for _, row := range []struct {
		name   string
		change func(g *guarded) string // of the api section
		code   codes.Code
	}{
		{"name", func(g *guarded) string { return strings.Replace(g.api, "admin.example", "other.example", 1) }, codes.PermissionDenied},
		{"CA", func(g *guarded) string {
			next := certtest.New(g.t, "next")
			next.Write(g.dir, "api", next.Server())
			g.ca = next // whom clients trust; their own certificate is of the old one
			return g.api
		}, codes.Unavailable},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := newGuarded(t)
			cert := g.ca.Client("", "admin.example", "")
			conn := g.overTCP(cert)
			stream, err := evpnv1.NewInspectServiceClient(conn).Watch(g.ctx, &evpnv1.WatchRequest{})
			if err == nil {
				_, err = stream.Recv()
			}
			if err != nil {
				t.Fatal(err)
			}
			if code, message := g.reloadAPI("socket: " + g.opts.Config.API.Socket + row.change(g)); code != codes.OK {
				t.Fatal(message)
			}
			for err == nil {
				_, err = stream.Recv()
			}
			if status.Code(err) != codes.Unavailable {
				t.Errorf("the stream ends with %v", err)
			}
			if _, err := evpnv1.NewInspectServiceClient(g.overTCP(cert)).GetStatus(g.ctx, &evpnv1.GetStatusRequest{}); status.Code(err) != row.code {
				t.Errorf("a new call: %v", err)
			}
		})
	}
}
