package daemon

import (
	"context"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/evpnd/evpnd/evpn"
	"github.com/evpnd/evpnd/speaker"
)

// notified returns what systemd was told, with the time of a reload made constant.
func (w *world) notified() []string {
	var out []string
	usec := regexp.MustCompile(`MONOTONIC_USEC=[1-9][0-9]*$`)
	for _, line := range w.lines("notify ") {
		out = append(out, strings.ReplaceAll(usec.ReplaceAllString(line, "MONOTONIC_USEC=<time>"), "\n", " + "))
	}
	return out
}

// TestServiceManager: the words of sd_notify(3) over a whole life, in order.
func TestServiceManager(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "", nil).start()
		synctest.Wait()
		if _, err := w.Reload(); err != nil { // during the start: READY=1 would end it
			t.Fatal(err)
		}
		w.report(attached(10), hasMAC(10, macA), evpn.Synced{})
		w.bgp.setSessions(speaker.SessionInfo{Peer: peer1, State: speaker.StateEstablished}, speaker.SessionInfo{Peer: peer2})
		time.Sleep(10 * time.Second)
		if _, err := w.Reload(); err != nil {
			t.Fatal(err)
		}
		w.writeConfig("asn: zero\n")
		if _, err := w.Reload(); err == nil {
			t.Error("a bad file is taken")
		}
		w.bgp.setSessions()
		time.Sleep(2 * time.Second)
		if err := w.stop(); err != nil {
			t.Fatal(err)
		}
		wantLines(t, w.notified(), `
			notify STATUS=0/0 peers, 0 VNIs, 0 MACs, reading the kernel
			notify READY=1
			notify STATUS=1/2 peers, 1 VNIs, 1 MACs
			notify RELOADING=1 + MONOTONIC_USEC=<time>
			notify READY=1
			notify RELOADING=1 + MONOTONIC_USEC=<time>
			notify READY=1
			notify STATUS=0/0 peers, 1 VNIs, 1 MACs
			notify STOPPING=1 + STATUS=stopping`)
	})
}

// TestWatchdog: the owner feeds it, whether anything happens or not, and an owner that hangs does not, whatever else is
// alive.
func TestWatchdog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit = 30 * time.Second
		w := newWorld(t, "", func(o *Options, _ *world) { o.Watchdog = limit }).start()
		fed := func() int {
			synctest.Wait()
			return len(w.lines("notify WATCHDOG=1"))
		}
		w.report(attached(10), evpn.Synced{})
		time.Sleep(10 * limit)
		before := fed()
		if before < 2*10 {
			t.Errorf("fed %d times in ten of its periods, want at least twice in each", before)
		}
		release := make(chan struct{})
		go func() { // ends with release
			_ = w.ask(context.Background(), func(*evpn.Core) { <-release })
		}()
		synctest.Wait()
		w.bgp.setSessions(speaker.SessionInfo{Peer: peer1})
		time.Sleep(2 * limit)
		if got := fed(); got > before {
			t.Errorf("fed %d times more while the owner hung", got-before)
		}
		close(release)
		time.Sleep(limit)
		if got := fed(); got < before+2 {
			t.Errorf("fed %d times in all after the owner went on, had %d", got, before)
		}
	})
}

// TestNoWatchdog: nothing is sent to who does not watch.
func TestNoWatchdog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "", nil).start()
		w.report(attached(10), evpn.Synced{})
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := w.lines("notify WATCHDOG"); len(got) != 0 {
			t.Errorf("told so %d times", len(got))
		}
	})
}
