package daemon

import (
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/evpnd/evpnd/config"
)

// TestSocketAccess: the socket is for its owner and its group, in a directory that is made for it.
func TestSocketAccess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "evpnd.sock")
	group, err := user.LookupGroup("daemon")
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct{ group, gid string }{
		{"", strconv.Itoa(os.Getegid())},
		{"daemon", group.Gid},
	} {
		l, err := listenUnix(path, row.group)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := info.Mode(), fs.ModeSocket|0o660; got != want {
			t.Errorf("group %q: mode %s, want %s", row.group, got, want)
		}
		if got := strconv.Itoa(int(info.Sys().(*syscall.Stat_t).Gid)); got != row.gid {
			t.Errorf("group %q: gid %s, want %s", row.group, got, row.gid)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Lstat(path); err == nil {
			t.Error("the socket is left behind")
		}
	}
	if _, err := listenUnix(path, "no-such-group"); err == nil || !strings.Contains(err.Error(), "no-such-group") {
		t.Errorf("unknown group: %v", err)
	}
	if _, err := os.Lstat(path); err == nil {
		t.Error("a socket without its group is left behind")
	}
}

// TestOldSocket: what is at the path of the socket goes only when it is a socket that nobody listens on.
func TestOldSocket(t *testing.T) {
	for _, row := range []struct {
		name string
		put  func(t *testing.T, path string)
		want string // in the error; "": taken over
	}{
		{"nothing", func(*testing.T, string) {}, ""},
		{"a socket of a daemon that was killed", func(t *testing.T, path string) {
			l := listen(t, path)
			l.SetUnlinkOnClose(false)
			l.Close()
		}, ""},
		{"a socket that is answered on", func(t *testing.T, path string) {
			l := listen(t, path)
			t.Cleanup(func() { l.Close() })
		}, "another evpnd answers there"},
		{"a socket of another kind", func(t *testing.T, path string) {
			c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
		}, "another evpnd may be there"},
		{"a file", func(t *testing.T, path string) {
			if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "a file that is no socket is there"},
		{"a symbolic link", func(t *testing.T, path string) {
			if err := os.Symlink("/nowhere", path); err != nil {
				t.Fatal(err)
			}
		}, "a file that is no socket is there"},
	} {
		t.Run(row.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "evpnd.sock")
			row.put(t, path)
			l, err := listenUnix(path, "")
			if err == nil {
				defer l.Close()
			}
			switch {
			case row.want == "" && err != nil:
				t.Error(err)
			case row.want != "" && (err == nil || !strings.Contains(err.Error(), row.want) || !strings.Contains(err.Error(), path)):
				t.Errorf("error %v, want the path and %q", err, row.want)
			}
			if _, err := os.Lstat(path); err != nil {
				t.Errorf("what was there is gone: %v", err)
			}
		})
	}
}

func listen(t *testing.T, path string) *net.UnixListener {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestListenAllOrNothing: when the metrics cannot be served, the socket is given back.
func TestListenAllOrNothing(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	cfg := config.API{Socket: filepath.Join(t.TempDir(), "evpnd.sock"), Metrics: busy.Addr().String()}
	if _, err := Listen(cfg); err == nil || !strings.HasPrefix(err.Error(), "metrics: ") {
		t.Errorf("listen on a port that is taken: %v", err)
	}
	if _, err := os.Lstat(cfg.Socket); err == nil {
		t.Error("the socket is left behind")
	}
	cfg.Metrics = "127.0.0.1:0"
	s, err := Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
}
