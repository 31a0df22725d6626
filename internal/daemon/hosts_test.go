package daemon

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/evpnd/evpnd/evpn"
)

var (
	hostMAC     = evpn.MAC{2, 0, 0, 0, 0, 1}
	hostAt      = evpn.LocalMAC{VNI: 100, MAC: hostMAC, Port: "tap1"}
	hostBinding = evpn.LocalIP{VNI: 100, IP: netip.MustParseAddr("2001:db8::1"), MAC: hostMAC, Port: "tap1", Source: evpn.WitnessFrame, Router: true}
)

// TestSilentHostOverRestart: the address of a host that says nothing is announced before End-of-RIB of the next life, and
// the host is asked for it. A host that is on another port then is asked, not announced.
func TestSilentHostOverRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := ""
		w := newWorld(t, "", func(_ *Options, w *world) { dir = w.stateDir() }).start()
		w.report(attached(100), hostAt, hostBinding, evpn.Synced{})
		synctest.Wait()
		if err := w.stop(); err != nil {
			t.Fatal(err)
		}
		saved, err := os.ReadFile(filepath.Join(dir, hostsFile))
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range []struct {
			port      string
			announced bool
		}{{"tap1", true}, {"tap2", false}} {
			next := newWorld(t, "", func(_ *Options, w *world) { writeHosts(t, w.stateDir(), string(saved)) }).start()
			at := hostAt
			at.Port = row.port
			next.report(attached(100), at, evpn.Synced{})
			synctest.Wait()
			log := strings.Join(next.journal.all(), "\n")
			before, _, released := strings.Cut(log, "release End-of-RIB")
			if got := strings.Contains(before, "[2001:db8::1]"); !released || got != row.announced {
				t.Errorf("on %s: announced before End-of-RIB %v, want %v, in\n%s", row.port, got, row.announced, log)
			}
			if !strings.Contains(log, "probe") {
				t.Errorf("on %s: not asked for, in\n%s", row.port, log)
			}
			if err := next.stop(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func writeHosts(t *testing.T, dir, content string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, hostsFile), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestHostsFile: what was saved is loaded; what is missing or old is nothing, and what is broken is said.
func TestHostsFile(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	dir := t.TempDir()
	want := evpn.Remembered{
		IPs: []evpn.LocalIP{
			hostBinding, {VNI: 200, IP: netip.MustParseAddr("172.16.0.1"), MAC: hostMAC, Port: `odd"port`, Source: evpn.WitnessFrame},
		},
		Sequences: []evpn.Sequence{{VNI: 100, MAC: hostMAC, Seq: 7}},
	}
	if got, err := loadHosts(dir, now); !isNothing(got) || err != nil {
		t.Errorf("missing: %v, %v", got, err)
	}
	if err := saveHosts(dir, want, now); err != nil {
		t.Fatal(err)
	}
	got, err := loadHosts(dir, now.Add(hostsOld))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("loaded (-want +got):\n%s", diff)
	}
	for _, at := range []time.Time{now.Add(hostsOld + 1), now.Add(-1)} {
		if got, err := loadHosts(dir, at); !isNothing(got) || err != nil {
			t.Errorf("at %s: %v, %v", at, got, err)
		}
	}
	head := `{"form":1,"saved":"2026-01-01T00:00:00Z","bindings":[`
	for _, row := range []struct{ content, fault string }{
		{``, "unexpected end of JSON input"},
		{`{"form":1,"bind`, "unexpected end of JSON input"},
		{`{"form":2}`, "form 2 is not known"},
		{head + `{"vni":0,"ip":"172.16.0.1","mac":"02:00:00:00:00:01"}]}`, "binding 0: VNI 0: VNI out of range"},
		{head + `{"vni":1,"ip":"x","mac":"02:00:00:00:00:01"}]}`, "unable to parse IP"},
		{head + `{"vni":1,"ip":"172.16.0.1","mac":"x"}]}`, "not a MAC address"},
		{head + `],"moved":[{"vni":1,"mac":"x","seq":1}]}`, "moved 0: "},
		{head + `],"moved":[{"vni":0,"mac":"02:00:00:00:00:01","seq":1}]}`, "moved 0: VNI 0: VNI out of range"},
	} {
		writeHosts(t, dir, row.content)
		if got, err := loadHosts(dir, now); !isNothing(got) || err == nil || !strings.Contains(err.Error(), row.fault) || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: %v, %v; want the path and %q", row.content, got, err, row.fault)
		}
	}
}

// TestUnwritableHosts: trouble is told of once, and costs nothing else.
func TestUnwritableHosts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "", func(_ *Options, w *world) {
			if err := os.WriteFile(w.stateDir(), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}).start()
		w.report(attached(100), hostAt, hostBinding, evpn.Synced{})
		time.Sleep(3 * hostsEvery)
		synctest.Wait()
		if n := len(w.logged("hosts not saved, addresses of silent ones may be withdrawn at the next start")); n != 1 {
			t.Errorf("%d lines, want 1", n)
		}
	})
}

func isNothing(r evpn.Remembered) bool { return r.IPs == nil && r.Sequences == nil }

// TestSequenceNumberOverCrash: a host that moved here is announced with its number soon after a start, also when the life
// before ended without a word.
func TestSequenceNumberOverCrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := ""
		w := newWorld(t, "", func(_ *Options, w *world) { dir = w.stateDir() }).start()
		remote := &evpn.Attrs{NextHop: netip.MustParseAddr("10.255.0.2"), LocalPref: 100, HasMobility: true, Seq: 4}
		remote.SetExtComms(string(evpn.AppendMobility(evpn.AppendEncapVXLAN(evpn.AppendRT(nil, evpn.NewRT(65000, 100))), 4, false)))
		key := evpn.RouteKey{Type: evpn.TypeMACIP, RD: evpn.NewRD(remote.NextHop, 100), MAC: hostMAC}
		peer := netip.MustParseAddr("10.0.0.1")
		w.report(attached(100), evpn.Synced{}, evpn.PeerUp{Peer: peer}, &evpn.Update{Peer: peer, Attrs: remote, Reach: []evpn.Route{{Key: key, Label1: 100}}})
		synctest.Wait()
		w.report(hostAt)
		time.Sleep(hostsSoon + time.Millisecond)
		synctest.Wait()
		saved, err := os.ReadFile(filepath.Join(dir, hostsFile)) // before the end
		if err != nil {
			t.Fatal(err)
		}
		next := newWorld(t, "", func(_ *Options, w *world) { writeHosts(t, w.stateDir(), string(saved)) }).start()
		next.report(attached(100), hostAt, evpn.Synced{})
		synctest.Wait()
		next.look(func(c *evpn.Core) { // which says what it announces
			want := []evpn.Sequence{{VNI: 100, MAC: hostMAC, Seq: 5}}
			if got := c.Sequences(); !slices.Equal(got, want) {
				t.Errorf("after the crash %v, want %v; saved %s", got, want, saved)
			}
		})
		for _, w := range []*world{w, next} {
			if err := w.stop(); err != nil {
				t.Fatal(err)
			}
		}
	})
}
