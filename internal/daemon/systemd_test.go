package daemon

import (
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
