package daemon

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/evpnd/evpnd/config"
	"github.com/evpnd/evpnd/evpn"
	"github.com/evpnd/evpnd/speaker"
)

// someWill is one with n sessions, and a file for each.
func someWill(t *testing.T, n int) (*will, []*os.File) {
	t.Helper()
	w := &will{Form: willForm, Written: time.Now(), VTEP: netip.MustParseAddr("10.255.0.1"), Hosts: []evpn.NumberedHost{{VNI: 7, MAC: evpn.MAC{2}, Seq: 3}}}
	var files []*os.File
	for range n {
		f, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		w.Sessions = append(w.Sessions, &speaker.Handover{Peer: netip.MustParseAddr("10.0.0.1"), Settings: []byte("{}")})
		files = append(files, f)
	}
	return w, files
}

func sealed(t *testing.T, w *will) *os.File {
	t.Helper()
	f, err := w.seal()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// TestWill: what is written is read, once.
func TestWill(t *testing.T) {
	w, files := someWill(t, 2)
	f := sealed(t, w)
	got, err := open(f, files)
	if err != nil || len(got.Sessions) != 2 || got.Sessions[1].File != files[1] || got.Hosts[0] != w.Hosts[0] || got.VTEP != w.VTEP {
		t.Fatalf("%+v, %v", got, err)
	}
	if _, err := open(f, files); !errors.Is(err, errTaken) {
		t.Errorf("taken twice: %v", err)
	}
}

// TestSpoiltWill: whatever is wrong with a will, nothing of it is used, and the connections are closed.
func TestSpoiltWill(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*will)
		spoil  func(t *testing.T, f *os.File)
		less   int
	}{
		"form":   {change: func(w *will) { w.Form = willForm + 1 }},
		"magic":  {spoil: func(t *testing.T, f *os.File) { write(t, f, 3, "x") }},
		"length": {spoil: func(t *testing.T, f *os.File) { write(t, f, 9, "\xff") }},
		"bit": {spoil: func(t *testing.T, f *os.File) {
			text := make([]byte, 4096)
			n, _ := f.ReadAt(text, 0)
			write(t, f, bytes.Index(text[:n], []byte(`"seq":3`))+6, "4")
		}},
		"short":             {spoil: func(t *testing.T, f *os.File) { truncate(t, f, willHead+30) }},
		"nothing":           {spoil: func(t *testing.T, f *os.File) { truncate(t, f, 0) }},
		"fewer connections": {less: 1},
	} {
		t.Run(name, func(t *testing.T) {
			w, files := someWill(t, 2)
			if c.change != nil {
				c.change(w)
			}
			f := sealed(t, w)
			if c.spoil != nil {
				c.spoil(t, f)
			}
			if got, err := open(f, files[c.less:]); err == nil {
				t.Errorf("taken: %+v", got)
			}
			if err := files[1].Close(); !errors.Is(err, os.ErrClosed) {
				t.Errorf("a connection is left open: %v", err)
			}
		})
	}
}

func write(t *testing.T, f *os.File, at int, s string) {
	t.Helper()
	if _, err := f.WriteAt([]byte(s), int64(at)); err != nil {
		t.Fatal(err)
	}
}

func truncate(t *testing.T, f *os.File, n int) {
	t.Helper()
	if err := f.Truncate(int64(n)); err != nil {
		t.Fatal(err)
	}
}

// TestTakeOverProtocol: a successor that is refused does not start; one that gets less than all starts with nothing.
func TestTakeOverProtocol(t *testing.T) {
	w, files := someWill(t, 200)
	for name, c := range map[string]struct {
		old    func(c *net.UnixConn) error // what the evpnd that runs does
		legacy bool
		got    int
		want   string
	}{
		"all": {old: func(c *net.UnixConn) error {
			return errors.Join(answer(c), sendFiles(c, append([]*os.File{sealed(t, w)}, files...)))
		}, legacy: true, got: 200},
		"refused": {old: func(c *net.UnixConn) error {
			_, err := c.Read(make([]byte, maxWillPacket))
			_, werr := c.Write([]byte("refused: not today"))
			return errors.Join(err, werr)
		}, want: "not today"},
		"dead at once": {old: func(*net.UnixConn) error { return nil }, legacy: true, want: "take over"},
		"dead in time": {old: answer, legacy: true, want: "EOF"},
		"dead on the way": {old: func(c *net.UnixConn) error {
			err := answer(c)
			_, _, werr := c.WriteMsgUnix([]byte("files"), unix.UnixRights(int(files[0].Fd())), nil)
			return errors.Join(err, werr)
		}, legacy: true, want: "EOF"},
		"fewer files than it says": {old: func(c *net.UnixConn) error {
			err := answer(c)
			_, werr := c.Write([]byte("3 files"))
			return errors.Join(err, werr)
		}, legacy: true, want: "3 files"},
		"no will": {old: func(c *net.UnixConn) error { return errors.Join(answer(c), sendFiles(c, files[:2])) }, legacy: true, want: "read hand-over"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := &config.Config{API: config.API{Socket: filepath.Join(t.TempDir(), "sock")}}
			if _, err := TakeOver(t.Context(), cfg); !errors.Is(err, ErrNobody) {
				t.Fatal(err)
			}
			l, err := listenSuccessor(handOverSocket(cfg.API))
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			done := make(chan error, 1)
			go func() {
				conn, err := l.AcceptUnix()
				if err == nil {
					err = c.old(conn)
					conn.Close()
				}
				done <- err
			}()
			legacy, err := TakeOver(t.Context(), cfg)
			if oldErr := <-done; oldErr != nil {
				t.Fatal(oldErr)
			}
			if (legacy != nil) != c.legacy || (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Fatalf("%+v, %v", legacy, err)
			}
			if c.got > 0 {
				if len(legacy.will.Sessions) != c.got {
					t.Errorf("%d sessions", len(legacy.will.Sessions))
				}
				for _, s := range legacy.will.Sessions {
					s.File.Close()
				}
			}
		})
	}
}

// TestStrangerAsks: who asks otherwise than a successor does is refused, and the daemon goes on waiting.
func TestStrangerAsks(t *testing.T) {
	cfg := config.API{Socket: filepath.Join(t.TempDir(), "sock")}
	l, err := listenSuccessor(handOverSocket(cfg))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	log := logrus.New()
	log.SetOutput(io.Discard)
	d := &Daemon{log: log}
	granted := make(chan *net.UnixConn, 1)
	go func() { granted <- d.awaitSuccessor(ctx, l) }()
	say := func(text string) string {
		c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: handOverSocket(cfg), Net: "unixpacket"})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		answer := make([]byte, maxWillPacket)
		n, err := c.Read(answer)
		if err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		return string(answer[:n])
	}
	if got := say("evpnd take over 2"); !strings.HasPrefix(got, willRefused) {
		t.Errorf("answered %q", got)
	}
	if got := say(askForWill); got != willGranted {
		t.Errorf("answered %q", got)
	}
	if c := <-granted; c == nil {
		t.Error("nobody was granted")
	} else {
		c.Close()
	}
}
