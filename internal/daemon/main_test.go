package daemon

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"
	"go.uber.org/goleak"

	"github.com/evpnd/evpnd/config"
	"github.com/evpnd/evpnd/evpn"
)

// TestMain: nothing that a daemon started may be there at the end.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const deadline = 10 * time.Second

var (
	vtepSelf = netip.MustParseAddr("10.255.0.1")
	vtep2    = netip.MustParseAddr("10.255.0.2")
	vtep3    = netip.MustParseAddr("10.255.0.3")
	peer1    = netip.MustParseAddr("10.0.0.1")
	peer2    = netip.MustParseAddr("10.0.0.2")
	macA     = evpn.MAC{2, 0, 0, 0, 0, 1}
	macB     = evpn.MAC{2, 0, 0, 0, 0, 2}
	macC     = evpn.MAC{2, 0, 0, 0, 0, 3}
	ipA      = netip.MustParseAddr("172.16.0.1")
	ipB      = netip.MustParseAddr("172.16.0.2")
)

// world is a daemon whose kernel and BGP are fakes.
type world struct {
	*Daemon
	t        testing.TB
	kernel   *mapKernel
	bgp      *recorder
	journal  *journal // what kernel, BGP and the service manager were told
	log      *logtest.Hook
	dir      string // of the configuration and the state
	api      string // more of its api section
	ran      chan error
	stopping context.CancelFunc
}

const basics = `asn: 65000
vtep: 10.255.0.1
peers:
  - {address: 10.0.0.1, asn: 65000}
  - {address: 10.0.0.2, asn: 65000}
`

// newWorld puts a daemon together from basics and more lines of configuration. change may alter it before New.
func newWorld(t testing.TB, more string, change func(*Options, *world)) *world {
	t.Helper()
	j := &journal{}
	w := &world{
		t: t, journal: j, kernel: newMapKernel(j), bgp: &recorder{journal: j, fail: make(chan error, 1)}, dir: t.TempDir(),
		ran: make(chan error, 1),
	}
	opts := Options{
		ConfigPath: filepath.Join(w.dir, "evpnd.yaml"), Version: "v1.2.3", Kernel: w.kernel, BGP: w.bgp, Events: NewEvents(),
		Notify: func(state string) { j.add("notify %s", strings.TrimSpace(state)) },
	}
	w.writeConfig(basics + more)
	cfg, err := config.Load(opts.ConfigPath)
	if err != nil {
		t.Fatal(err)
	}
	opts.Config = cfg
	opts.Log, w.log = logtest.NewNullLogger()
	opts.Log.SetOutput(io.Discard)
	if change != nil {
		change(&opts, w)
	}
	w.Daemon = New(opts)
	return w
}

// writeConfig replaces the configuration file. State and socket are beside it.
func (w *world) writeConfig(text string) {
	w.t.Helper()
	text += fmt.Sprintf("state-dir: %s\napi: {socket: %s%s}\n", w.stateDir(), filepath.Join(w.dir, "evpnd.sock"), w.api)
	if err := os.WriteFile(filepath.Join(w.dir, "evpnd.yaml"), []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) stateDir() string { return filepath.Join(w.dir, "state") }

// start runs the daemon until the test ends or stop is called.
func (w *world) start() *world {
	ctx, cancel := context.WithCancel(context.Background())
	w.stopping = cancel
	go func() { w.ran <- w.Run(ctx); close(w.ran) }() // ends with stop
	w.t.Cleanup(func() { _ = w.stop() })
	return w
}

// stop ends the daemon and returns what Run says.
func (w *world) stop() error {
	w.t.Helper()
	w.stopping()
	select {
	case err := <-w.ran:
		return err
	case <-time.After(deadline):
		w.t.Fatalf("Run does not end")
		return nil
	}
}

// report has the dataplane say something and waits until the owner has drawn its conclusions. No time passes.
func (w *world) report(facts ...evpn.Event) {
	w.t.Helper()
	w.kernel.facts <- facts
	w.kernel.facts <- nil // taken when the owner's queue has the first
	for len(w.Daemon.events) > 0 {
		w.look(func(*evpn.Core) {})
	}
	w.look(func(*evpn.Core) {})
}

// look runs f on the owner.
func (w *world) look(f func(*evpn.Core)) {
	w.t.Helper()
	if err := w.ask(context.Background(), f); err != nil {
		w.t.Fatal(err)
	}
}

// lines returns what the journal has that begins with one of the words.
func (w *world) lines(words ...string) []string {
	return slices.DeleteFunc(w.journal.all(), func(line string) bool {
		return !slices.ContainsFunc(words, func(word string) bool { return strings.HasPrefix(line, word) })
	})
}

// logged returns the lines of the log with a message.
func (w *world) logged(message string) []*logrus.Entry {
	var found []*logrus.Entry
	for _, e := range w.log.AllEntries() {
		if e.Message == message {
			found = append(found, e)
		}
	}
	return found
}

// until polls a condition that another goroutine makes true.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(deadline); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited %s for %s", deadline, what)
		}
	}
}

func attached(vni evpn.VNI) evpn.Event {
	return evpn.AttachmentUp{Attachment: evpn.Attachment{
		VNI: vni, Device: fmt.Sprintf("vxlan%d", vni), Bridge: fmt.Sprintf("br%d", vni), Local: vtepSelf, Usable: true,
		BridgeMAC: evpn.MAC{2, 0xbb, 0, 0, 0, 1},
	}}
}

func hasMAC(vni evpn.VNI, m evpn.MAC) evpn.Event {
	return evpn.LocalMAC{VNI: vni, MAC: m, Port: "tap1"}
}

func hasIP(vni evpn.VNI, ip netip.Addr, m evpn.MAC) evpn.Event {
	return evpn.LocalIP{VNI: vni, IP: ip, MAC: m}
}

func attrs(vni evpn.VNI, vtep netip.Addr) *evpn.Attrs {
	a := &evpn.Attrs{NextHop: vtep, LocalPref: 100}
	a.SetExtComms(string(evpn.AppendEncapVXLAN(evpn.AppendRT(nil, evpn.NewRT(65000, uint32(vni))))))
	return a
}

// macRoute is a type 2 route of another VTEP; a MAC-only one when ip is the zero Addr.
func macRoute(peer netip.Addr, vni evpn.VNI, vtep netip.Addr, m evpn.MAC, ip netip.Addr) evpn.Event {
	r := evpn.Route{Key: evpn.RouteKey{Type: evpn.TypeMACIP, RD: evpn.NewRD(vtep, uint16(vni)), MAC: m, IP: ip}, Label1: uint32(vni)}
	return &evpn.Update{Peer: peer, Attrs: attrs(vni, vtep), Reach: []evpn.Route{r}}
}

func imetRoute(peer netip.Addr, vni evpn.VNI, vtep netip.Addr) evpn.Event {
	a := attrs(vni, vtep)
	a.PMSI = evpn.PMSI{Present: true, Tunnel: evpn.TunnelIngressReplication, Label: uint32(vni), Endpoint: vtep}
	r := evpn.Route{Key: evpn.RouteKey{Type: evpn.TypeIMET, RD: evpn.NewRD(vtep, uint16(vni)), IP: vtep}}
	return &evpn.Update{Peer: peer, Attrs: a, Reach: []evpn.Route{r}}
}

func peerUp(peer netip.Addr) evpn.Event {
	return evpn.PeerUp{Peer: peer, ASN: 65000, RouterID: peer}
}

func fdbKey(vni evpn.VNI, m evpn.MAC) evpn.EntryKey {
	return evpn.EntryKey{Table: evpn.TableFDB, VNI: vni, MAC: m}
}
