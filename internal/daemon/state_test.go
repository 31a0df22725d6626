package daemon

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/evpnd/evpnd/evpn"
)

// TestStateBeforeRoutes: the numbers of RDs are on disk before a peer can see them, and the next life uses them, in
// whatever order its VNIs come.
func TestStateBeforeRoutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var atFirst map[evpn.VNI]uint16
		w := newWorld(t, "", func(_ *Options, w *world) {
			w.bgp.atApply = func() {
				if atFirst == nil {
					atFirst, _ = loadRDNumbers(w.stateDir())
				}
			}
		}).start()
		w.report(attached(70000), attached(80000), attached(10), evpn.Synced{})
		synctest.Wait()
		want := map[evpn.VNI]uint16{70000: 65535, 80000: 65534}
		if !maps.Equal(atFirst, want) {
			t.Errorf("state file at the first route: %v, want %v", atFirst, want)
		}
		if err := w.stop(); err != nil {
			t.Fatal(err)
		}

		next := newWorld(t, "", func(_ *Options, w *world) { remember(t, w.stateDir(), atFirst) }).start()
		next.report(attached(80000), attached(70000), evpn.Synced{})
		synctest.Wait()
		wantLines(t, next.lines("announce"), `
			announce 10.255.0.1:65534 [3]:[0]:[32]:[10.255.0.1]
			announce 10.255.0.1:65535 [3]:[0]:[32]:[10.255.0.1]`)
	})
}

// remember writes numbers into a state directory.
func remember(t *testing.T, dir string, numbers map[evpn.VNI]uint16) {
	t.Helper()
	if err := saveRDNumbers(dir, numbers); err != nil {
		t.Fatal(err)
	}
}

// TestBadState: a state file that cannot be used is told of and does not keep the daemon from starting.
func TestBadState(t *testing.T) {
	file := func(content string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			if err := os.MkdirAll(dir, 0o750); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, stateFile), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, row := range []struct {
		name string
		make func(t *testing.T, dir string)
		want string // in the error; "": none
	}{
		{"missing directory", func(*testing.T, string) {}, ""},
		{"missing file", func(t *testing.T, dir string) {
			if err := os.Mkdir(dir, 0o750); err != nil {
				t.Fatal(err)
			}
		}, ""},
		{"empty object", file(`{}`), ""},
		{"a key of a later version", file(`{"rdNumbers":{"70000":1},"duplicates":[]}`), ""},
		{"cut off", file(`{"rdNumbers":{"70000":65`), "unexpected end of JSON input"},
		{"empty", file(``), "unexpected end of JSON input"},
		{"number out of range", file(`{"rdNumbers":{"70000":65536}}`), "65536"},
		{"VNI out of range", file(`{"rdNumbers":{"16777216":1}}`), "VNI out of range"},
		{"one number twice", file(`{"rdNumbers":{"70000":1,"70001":1}}`), "number 1 stands for two VNIs"},
		{"a directory in its place", func(t *testing.T, dir string) {
			if err := os.MkdirAll(filepath.Join(dir, stateFile), 0o750); err != nil {
				t.Fatal(err)
			}
		}, "is a directory"},
		{"a file in the place of the directory", func(t *testing.T, dir string) {
			if err := os.WriteFile(dir, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}, "not a directory"},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld(t, "", func(_ *Options, w *world) { row.make(t, w.stateDir()) })
			lines := w.logged("state file not used, route distinguishers of vnis above 65535 may change")
			switch {
			case row.want == "" && len(lines) > 0:
				t.Errorf("logged %v", lines[0].Data)
			case row.want != "" && len(lines) != 1:
				t.Errorf("%d lines, want one", len(lines))
			case row.want != "":
				if err := lines[0].Data["error"].(error); !strings.Contains(err.Error(), row.want) || !strings.Contains(err.Error(), w.stateDir()) {
					t.Errorf("error %q, want the path and %q", err, row.want)
				}
			}
		})
	}
}

// TestSaveIsAtomic: a save that fails leaves what was there, and nothing else.
func TestSaveIsAtomic(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	for _, numbers := range []map[evpn.VNI]uint16{{70000: 1}, {70000: 1, 70001: 2}} {
		remember(t, dir, numbers)
		got, err := loadRDNumbers(dir)
		if err != nil || !maps.Equal(got, numbers) {
			t.Errorf("saved %v, loaded %v, %v", numbers, got, err)
		}
	}
	blocked := t.TempDir()
	if err := os.MkdirAll(filepath.Join(blocked, stateFile, "full"), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := saveRDNumbers(blocked, map[evpn.VNI]uint16{70000: 1}); err == nil || !strings.HasPrefix(err.Error(), "save state: ") {
		t.Errorf("saved in the place of a directory: %v", err)
	}
	for _, d := range []string{dir, blocked} {
		if names, err := filepath.Glob(filepath.Join(d, "*")); err != nil || len(names) != 1 {
			t.Errorf("%s holds %v, %v; want only %s", d, names, err, stateFile)
		}
	}
}

// TestUnwritableState: routes are announced although their numbers cannot be kept, the log says what that means, and they
// are kept as soon as that is possible.
func TestUnwritableState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "", func(_ *Options, w *world) {
			if err := os.WriteFile(w.stateDir(), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}).start()
		w.report(attached(70000), evpn.Synced{})
		synctest.Wait()
		if got := w.lines("announce"); len(got) != 1 {
			t.Errorf("announced %q", got)
		}
		if got := w.logged("state not saved, route distinguishers may change at the next start"); len(got) != 1 {
			t.Errorf("%d lines", len(got))
		}
		time.Sleep(3 * announceRetry)
		if err := os.Remove(w.stateDir()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(announceRetry)
		synctest.Wait()
		if got, err := loadRDNumbers(w.stateDir()); err != nil || !maps.Equal(got, map[evpn.VNI]uint16{70000: 65535}) {
			t.Errorf("state file: %v, %v", got, err)
		}
		if got := w.logged("state not saved, route distinguishers may change at the next start"); len(got) != 1 {
			t.Errorf("%d lines about one trouble", len(got))
		}
	})
}
