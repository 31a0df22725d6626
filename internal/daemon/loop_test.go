package daemon

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	evpnv1 "github.com/evpnd/evpnd/api/evpn/v1"
	"github.com/evpnd/evpnd/evpn"
)

// TestFactsIn: what is local becomes routes, what peers say becomes kernel entries, and nothing goes back where it came
// from.
func TestFactsIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "", nil).start()
		w.report(attached(10), hasMAC(10, macA), hasIP(10, ipA, macA), evpn.Synced{})
		w.report(peerUp(peer1), imetRoute(peer1, 10, vtep2), macRoute(peer1, 10, vtep2, macB, ipB))
		synctest.Wait()

		want := map[evpn.EntryKey]evpn.Entry{
			{Table: evpn.TableVTEP, Addr: vtep2}:           {},
			{Table: evpn.TableFlood, VNI: 10, Addr: vtep2}: {},
			fdbKey(10, macB): {VTEP: vtep2},
			{Table: evpn.TableNeighbor, VNI: 10, Addr: ipB}: {MAC: macB},
		}
		if d := cmp.Diff(want, w.kernel.hold(), cmpopts.EquateComparable(evpn.EntryKey{}, evpn.Entry{})); d != "" {
			t.Errorf("kernel (-want +got):\n%s", d)
		}
		wantLines(t, w.lines("announce", "withdraw", "import"), `
			import [65000:10 65000:268435466]
			announce 10.255.0.1:10 [3]:[0]:[32]:[10.255.0.1]
			announce 10.255.0.1:10 [2]:[0]:[48]:[02:00:00:00:00:01]
			announce 10.255.0.1:10 [2]:[0]:[48]:[02:00:00:00:00:01]:[32]:[172.16.0.1]`)

		w.report(evpn.PeerDown{Peer: peer1, Reason: "gone"}, evpn.LocalMAC{VNI: 10, MAC: macA, Port: "tap1", Gone: true})
		synctest.Wait()
		if got := w.kernel.hold(); len(got) != 0 {
			t.Errorf("kernel holds %v after its peer has gone", got)
		}
		wantLines(t, w.lines("withdraw"), `
			withdraw 10.255.0.1:10 [2]:[0]:[48]:[02:00:00:00:00:01]
			withdraw 10.255.0.1:10 [2]:[0]:[48]:[02:00:00:00:00:01]:[32]:[172.16.0.1]`)
	})
}

// TestSlowBGP: while BGP takes its time, the owner decides and answers on, and of each route the last word waits.
func TestSlowBGP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const flaps = 2*coalesceAbove + 10_000
		w := newWorld(t, "", func(_ *Options, w *world) { w.bgp.gate = make(chan struct{}) }).start()
		w.report(attached(10), evpn.Synced{})
		synctest.Wait() // the announcer is in Apply and stays there
		for i := range flaps {
			w.Daemon.events <- []evpn.Event{evpn.LocalMAC{VNI: 10, MAC: macA, Port: "tap1", Gone: i%2 == 1}}
			synctest.Wait() // so that the owner does not take many at once
		}
		w.report(hasMAC(10, macB), peerUp(peer1), macRoute(peer1, 10, vtep2, macC, ipB))
		synctest.Wait()
		if got := w.kernel.hold()[fdbKey(10, macC)]; got.VTEP != vtep2 {
			t.Errorf("fdb entry while BGP is slow: %+v, want one to %s", got, vtep2)
		}
		if got := len(w.lines("announce")); got != 0 {
			t.Fatalf("%d routes went through a closed gate", got)
		}
		close(w.bgp.gate)
		synctest.Wait()
		ops := w.bgp.opsSoFar()
		if len(ops) > 2*coalesceAbove {
			t.Errorf("%d ops for three routes and %d flaps, want at most %d", len(ops), flaps, 2*coalesceAbove)
		}
		final := map[evpn.MAC]bool{}
		for _, op := range ops {
			final[op.Route.Key.MAC] = !op.Withdraw
		}
		if want := map[evpn.MAC]bool{{}: true, macA: false, macB: true}; !cmp.Equal(want, final) {
			t.Errorf("announced in the end: %v, want %v", final, want)
		}
	})
}

// TestCoalesce: of each route the last op stays, and what stays keeps its order.
func TestCoalesce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var a announcement
		var all []evpn.RouteOp
		var order []int // numbers of the ops, by the last one of each route
		for i, n := range rapid.SliceOf(rapid.IntRange(0, 5)).Draw(t, "routes") {
			op := evpn.RouteOp{Withdraw: i%3 == 0, Route: evpn.Route{Key: evpn.RouteKey{Tag: evpn.EthernetTag(n)}, Label1: uint32(i)}}
			all = append(all, op)
			order = append(slices.DeleteFunc(order, func(j int) bool { return all[j].Route.Key == op.Route.Key }), i)
		}
		for part := range slices.Chunk(all, rapid.IntRange(1, 4).Draw(t, "at once")) {
			a.add(evpn.Output{Routes: part}, time.Time{})
		}
		a.coalesce()
		var got []int
		for _, op := range slices.Concat(a.routes...) {
			got = append(got, int(op.Route.Label1))
		}
		if a.waiting != len(got) {
			t.Fatalf("%d wait, it says %d", len(got), a.waiting)
		}
		if !slices.Equal(got, order) {
			t.Fatalf("kept %v, want %v", got, order)
		}
	})
}

// TestRefusedWrite: what the kernel refuses is seen over the API with its reason, is tried again after growing pauses, and
// mends itself.
func TestRefusedWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "", nil).start()
		key := fdbKey(10, macB)
		w.kernel.refuse(key, errors.New("no buffer space available"), false)
		w.report(attached(10), evpn.Synced{}, peerUp(peer1), macRoute(peer1, 10, vtep2, macB, ipB))
		synctest.Wait()
		if got := w.mac(macB).Kernel; got.State != "failed" || got.Reason != "no buffer space available" {
			t.Errorf("kernel entry of a refused write: %v", got)
		}
		if k := w.status().Kernel; k.Blocked != 1 || w.status().KernelInSync {
			t.Errorf("status with a refused write: %v", k)
		}
		for i, pause := range []time.Duration{100, 200, 400} {
			if got := w.kernel.triesOf(key); got != i+1 {
				t.Errorf("%d tries before pause %d, want %d", got, i, i+1)
			}
			time.Sleep(pause*time.Millisecond - time.Nanosecond)
			synctest.Wait()
			if got := w.kernel.triesOf(key); got != i+1 {
				t.Errorf("tried again before its pause of %d ms", pause)
			}
			if i == 2 {
				w.kernel.refuse(key, nil, false)
			}
			time.Sleep(time.Nanosecond)
			synctest.Wait()
		}
		if got := w.mac(macB).Kernel; got.State != "installed" || got.Reason != "" {
			t.Errorf("kernel entry in the end: %v", got)
		}
		if st := w.status(); st.Kernel.Blocked != 0 || !st.KernelInSync {
			t.Errorf("status in the end: %v", st.Kernel)
		}
		if got := len(w.logged("kernel refused a write, will retry")); got != 1 {
			t.Errorf("%d lines about one refused entry", got)
		}
	})
}

// TestForeignEntry: what somebody else put in our place is left alone and shown as blocked.
func TestForeignEntry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "", nil).start()
		w.kernel.refuse(fdbKey(10, macB), errors.New("an entry that is not ours is there"), true)
		w.report(attached(10), evpn.Synced{}, peerUp(peer1), macRoute(peer1, 10, vtep2, macB, ipB))
		synctest.Wait()
		if got := w.mac(macB).Kernel; got.State != "blocked" || !strings.Contains(got.Reason, "not ours") {
			t.Errorf("kernel entry: %v", got)
		}
	})
}

// TestManyRefusals: the log tells of some entries and then how many it left out, not of each one.
func TestManyRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const entries = 1000
		w := newWorld(t, "", nil).start()
		w.report(attached(10), evpn.Synced{}, peerUp(peer1))
		refuse := func(from, to int) {
			for i := from; i < to; i++ {
				m := evpn.MAC{2, 1, 0, 0, byte(i >> 8), byte(i)}
				w.kernel.refuse(fdbKey(10, m), errors.New("no"), false)
				w.report(macRoute(peer1, 10, vtep2, m, ipA))
			}
			synctest.Wait()
		}
		refuse(0, entries)
		lines := w.logged("kernel refused a write, will retry")
		if len(lines) != notesAtOnce {
			t.Errorf("%d lines for %d refused entries, want %d", len(lines), entries, notesAtOnce)
		}
		time.Sleep(time.Second)
		refuse(entries, entries+1)
		lines = w.logged("kernel refused a write, will retry")
		if got := lines[len(lines)-1].Data["unlogged"]; got != entries-notesAtOnce {
			t.Errorf("unlogged=%v on the next line, want %d", got, entries-notesAtOnce)
		}
	})
}

// TestReadBack: a read-back is asked for the batches written before it, its answer mends the kernel, and the next one can
// follow.
func TestReadBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "", nil).start()
		w.report(attached(10), evpn.Synced{}, peerUp(peer1), macRoute(peer1, 10, vtep2, macB, ipB))
		synctest.Wait()
		first := w.kernel.readBacksSoFar()
		if want := []kernelWork{{readBack: []evpn.VNI{10}, asOf: 1}}; !cmp.Equal(want, first, cmp.AllowUnexported(kernelWork{})) {
			t.Errorf("read back %+v after start, want %+v", first, want)
		}
		key := fdbKey(10, macB)
		w.kernel.mu.Lock()
		delete(w.kernel.entries, key) // by somebody else, and nobody was told
		w.kernel.mu.Unlock()
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		second := w.kernel.readBacksSoFar()[1:]
		if len(second) == 0 || !slices.Equal(second[0].readBack, []evpn.VNI{0, 10}) {
			t.Errorf("audit read back %+v, want VTEPs and VNI 10", second)
		}
		if _, ok := w.kernel.hold()[key]; !ok {
			t.Error("the entry is not there again")
		}
		if got := w.status().Kernel.Repaired; got != 1 {
			t.Errorf("%d entries repaired, want 1", got)
		}
		if at := w.status().Kernel.LastReadBack.AsTime(); time.Since(at) != 0 {
			t.Errorf("last read-back %s ago", time.Since(at))
		}
	})
}

// TestReadBackFails: an error is logged, and the core may ask again.
func TestReadBackFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "", func(_ *Options, w *world) { w.kernel.readBackErr = errors.New("dump interrupted") }).start()
		w.report(attached(10), evpn.Synced{})
		synctest.Wait()
		if got := len(w.logged("read-back incomplete")); got != 1 {
			t.Errorf("%d lines", got)
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if got := len(w.kernel.readBacksSoFar()); got != 2 {
			t.Errorf("%d read-backs, want one more at the audit", got)
		}
	})
}

// TestEndOfRIB: ours goes out once, when the kernel has been read and BGP has taken every route; only then is the start
// over.
func TestEndOfRIB(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "", func(_ *Options, w *world) { w.bgp.gate = make(chan struct{}) }).start()
		w.report(attached(10), hasMAC(10, macA))
		w.bgp.gate <- struct{}{}
		synctest.Wait()
		if got := w.lines("release", "notify READY"); len(got) != 0 || w.ready.Load() {
			t.Fatalf("before the kernel was read: %q", got)
		}
		w.report(hasMAC(10, macB), evpn.Synced{})
		synctest.Wait()
		if got := w.lines("release", "notify READY"); len(got) != 0 {
			t.Fatalf("before BGP took the routes: %q", got)
		}
		close(w.bgp.gate)
		w.report(hasMAC(10, macC), evpn.Synced{})
		synctest.Wait()
		wantLines(t, w.lines("announce", "release", "notify READY"), `
			announce 10.255.0.1:10 [3]:[0]:[32]:[10.255.0.1]
			announce 10.255.0.1:10 [2]:[0]:[48]:[02:00:00:00:00:01]
			announce 10.255.0.1:10 [2]:[0]:[48]:[02:00:00:00:00:02]
			release End-of-RIB
			notify READY=1
			announce 10.255.0.1:10 [2]:[0]:[48]:[02:00:00:00:00:03]`)
	})
}

// TestFlushOnExit: our entries go when we are told to take them, after BGP has said goodbye.
func TestFlushOnExit(t *testing.T) {
	for _, row := range []struct {
		name, config string
		want         string
	}{
		{"by default they stay", "", "bgp ended"},
		{"told to", "flush-on-exit: true\n", "bgp ended\nkernel flushed, context <nil>"},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, row.config, func(_ *Options, w *world) { w.kernel.flushErr = errors.New("device is busy") }).start()
				w.report(attached(10), evpn.Synced{}, peerUp(peer1), macRoute(peer1, 10, vtep2, macB, ipB))
				synctest.Wait()
				err := w.stop()
				wantLines(t, w.lines("bgp ended", "kernel flushed"), row.want)
				flushed := strings.Contains(row.want, "flushed")
				if flushed != (len(w.kernel.hold()) == 0) {
					t.Errorf("kernel holds %v", w.kernel.hold())
				}
				if flushed != (err != nil && err.Error() == "flush kernel entries: device is busy") {
					t.Errorf("Run returns %v", err)
				}
			})
		})
	}
}

// TestPartFails: a part that cannot be done without takes the daemon down with its name, and everything ends but
// forwarding.
func TestPartFails(t *testing.T) {
	for _, row := range []struct {
		name string
		fail func(*world)
		want string
	}{
		{"dataplane", func(w *world) { w.kernel.fail <- errors.New("netlink is gone") }, "dataplane: netlink is gone"},
		{"bgp", func(w *world) { w.bgp.fail <- errors.New("address in use") }, "bgp: address in use"},
		{"a part that ends without a word", func(w *world) { w.bgp.fail <- nil }, "bgp: ended by itself"},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, "flush-on-exit: true\n", nil).start()
				w.report(attached(10), evpn.Synced{}, peerUp(peer1), macRoute(peer1, 10, vtep2, macB, ipB))
				synctest.Wait()
				row.fail(w)
				if err := <-w.ran; err == nil || err.Error() != row.want {
					t.Errorf("Run returns %v, want %q", err, row.want)
				}
				if _, ok := w.kernel.hold()[fdbKey(10, macB)]; !ok {
					t.Error("forwarding has ended: flush-on-exit is for a clean stop")
				}
			})
		})
	}
}

// TestDynamicPeersForgotten: of peers that come and go nothing stays, neither of dynamic ones nor of those that a reload
// removes.
func TestDynamicPeersForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const ranges = "dynamic-peers:\n  - {prefix: 10.1.0.0/16, asn: any}\n"
		w := newWorld(t, ranges, nil).start()
		dynamic := netip.MustParseAddr("10.1.2.3")
		for _, peer := range []netip.Addr{peer1, peer2, dynamic} {
			w.report(peerUp(peer), evpn.PeerDown{Peer: peer, Reason: "gone"})
		}
		remembered := func() (left map[netip.Addr]time.Time) {
			w.look(func(*evpn.Core) { left = maps.Clone(w.left) })
			return left
		}
		now := time.Now()
		if got, want := remembered(), map[netip.Addr]time.Time{peer1: now, peer2: now}; !maps.Equal(got, want) {
			t.Errorf("remembers %v, want %v", got, want)
		}
		w.writeConfig("asn: 65000\nvtep: 10.255.0.1\npeers:\n  - {address: 10.0.0.1, asn: 65000}\n" + ranges)
		if _, err := w.Reload(); err != nil {
			t.Fatal(err)
		}
		w.report(evpn.PeerDown{Peer: peer2, Reason: "removed"})
		if got, want := remembered(), map[netip.Addr]time.Time{peer1: now}; !maps.Equal(got, want) {
			t.Errorf("remembers %v after a reload, want %v", got, want)
		}
	})
}

// TestMembershipsRefused: what BGP refuses is asked of it again, and the last word counts.
func TestMembershipsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "", func(_ *Options, w *world) { w.bgp.importErr = errors.New("not now") }).start()
		w.report(attached(10), evpn.Synced{})
		synctest.Wait()
		w.report(attached(20))
		synctest.Wait()
		if got := w.lines("import"); len(got) != 2 {
			t.Fatalf("told %q", got)
		}
		w.bgp.mu.Lock()
		w.bgp.importErr = nil
		w.bgp.mu.Unlock()
		time.Sleep(3 * announceRetry)
		synctest.Wait()
		got := w.lines("import")
		if len(got) != 3 || got[2] != got[1] {
			t.Errorf("told %q, want the last once more", got)
		}
		if n := len(w.logged("route target memberships not announced")); n != 2 {
			t.Errorf("%d lines", n)
		}
	})
}

// TestAskAfterStop: who asks too late gets an answer at once, however patient they are.
func TestAskAfterStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "", nil).start()
		if err := w.stop(); err != nil {
			t.Fatal(err)
		}
		if err := w.ask(context.Background(), func(*evpn.Core) {}); !errors.Is(err, errStopped) {
			t.Errorf("ask says %v", err)
		}
		if _, err := w.Reload(); !errors.Is(err, errStopped) {
			t.Errorf("Reload says %v", err)
		}
		if c := w.health(context.Background()); c.alive || c.line != errStopped.Error() {
			t.Errorf("health %+v", c)
		}
	})
}

// TestAskPanics: a query that panics is the asker's misfortune.
func TestAskPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "", nil).start()
		err := w.ask(context.Background(), func(*evpn.Core) { panic("index out of range") })
		if err == nil || !strings.Contains(err.Error(), "index out of range") {
			t.Errorf("ask says %v", err)
		}
		w.look(func(*evpn.Core) {}) // the owner lives
		if lines := w.logged("panic in api call"); len(lines) != 1 || !strings.Contains(lines[0].Data["stack"].(string), "loop_test.go") {
			t.Errorf("logged %v", lines)
		}
	})
}

// TestNoteStyles: every kind of note has its words, and one that is new to us does no harm.
func TestNoteStyles(t *testing.T) {
	for kind := evpn.NoteVNIUp; kind <= evpn.NoteDuplicateOver; kind++ {
		if _, ok := noteStyles[kind]; !ok {
			t.Errorf("note %d has no style", kind)
		}
	}
	w := newWorld(t, "", nil)
	w.noteAll([]evpn.Note{{Kind: 200, Reason: "new"}}, time.Now())
	if got := w.logged("note"); len(got) != 1 || got[0].Data["reason"] != "new" {
		t.Errorf("logged %v", got)
	}
}

// status and mac ask as the API does.
func (w *world) status() *evpnv1.Status {
	w.t.Helper()
	resp, err := (&inspect{d: w.Daemon}).GetStatus(context.Background(), &evpnv1.GetStatusRequest{})
	if err != nil {
		w.t.Fatal(err)
	}
	return resp.Status
}

func (w *world) mac(m evpn.MAC) *evpnv1.MAC {
	w.t.Helper()
	var found *evpnv1.MAC
	w.look(func(c *evpn.Core) {
		for _, v := range c.MACs(0, false) {
			if v.MAC == m {
				found = protoMAC(v)
			}
		}
	})
	if found == nil {
		w.t.Fatalf("no mac %s", m)
	}
	return found
}

// wantLines compares lines with those of a text, indentation aside.
func wantLines(t testing.TB, got []string, want string) {
	t.Helper()
	var lines []string
	for line := range strings.Lines(want) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	if d := cmp.Diff(lines, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}
