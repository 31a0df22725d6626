package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"

	evpnv1 "github.com/evpnd/evpnd/api/evpn/v1"
	"github.com/evpnd/evpnd/config"
	"github.com/evpnd/evpnd/evpn"
	"github.com/evpnd/evpnd/speaker"
)

// reload asks for a reload and returns what changed, or the message of the error.
func (c *client) reload() ([]string, codes.Code, string) {
	resp, err := c.admin.Reload(c.ctx, &evpnv1.ReloadRequest{})
	return resp.GetChanges(), status.Code(err), status.Convert(err).Message()
}

// TestReload: a good file is in force everywhere when the call returns, and the answer says what is different.
func TestReload(t *testing.T) {
	c := newClient(t, "vnis: {100: , 200: }\nlog: {level: debug}\n", nil)
	c.report(attached(100), attached(300), hasMAC(100, macA), evpn.Synced{})
	before := c.status()
	if before.LastReload != nil {
		t.Errorf("last reload %v before there was one", before.LastReload)
	}
	if got, code, _ := c.reload(); len(got) != 0 || code != codes.OK {
		t.Errorf("the same file: %q, %s", got, code)
	}
	if _, err := c.admin.SetLogLevel(c.ctx, &evpnv1.SetLogLevelRequest{Level: "error"}); err != nil {
		t.Fatal(err)
	}
	c.writeConfig(`asn: 65000
vtep: 10.255.0.1
peers:
  - {address: 10.0.0.2, asn: 65000, description: new words}
  - {address: 10.0.0.10, asn: 65000}
dynamic-peers: []
vnis: {100: {export: ["65000:777"]}, 300: {off: true}}
snooping: false
snooping-rate: 100
manage-devices: true
flush-on-exit: true
log: {level: info, format: json}
`)
	before.LastReload = c.status().LastReload
	preview, err := c.admin.Reload(c.ctx, &evpnv1.ReloadRequest{DryRun: true})
	if err != nil || c.status().LastReload.Time.AsTime() != before.LastReload.Time.AsTime() || c.config.get().FlushOnExit {
		t.Errorf("a dry run: %v, in force %+v", err, c.config.get())
	}
	got, code, message := c.reload()
	if d := cmp.Diff(preview.Changes, got); d != "" {
		t.Errorf("(-said before +done):\n%s", d)
	}
	if code != codes.OK {
		t.Fatal(message)
	}
	want := []string{
		"snooping: true -> false", "snooping-rate: 2000 -> 100", "manage-devices: false -> true", "flush-on-exit: false -> true",
		"peers.10.0.0.1: removed", "peers.10.0.0.2.description: none -> \"new words\"", "peers.10.0.0.10: added",
		"vnis.100.export: by route-targets -> [\"65000:777\"]", "vnis.200: removed", "vnis.300: added",
		"log.level: debug -> info", "log.format: text -> json",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("changes (-want +got):\n%s", d)
	}
	configs := c.bgp.configsSoFar()
	if n := len(configs[len(configs)-1].Peers); n != 2 {
		t.Errorf("BGP has %d peers", n)
	}
	c.kernel.mu.Lock()
	if opts := c.kernel.reconfigured[len(c.kernel.reconfigured)-1]; opts.Snoop || opts.SnoopRate != 100 || !opts.Manage || !opts.VNIs[300].Off {
		t.Errorf("the dataplane has %+v", opts)
	}
	c.kernel.mu.Unlock()
	until(t, "the new route target to be announced", func() bool {
		return slices.ContainsFunc(c.bgp.opsSoFar(), func(op evpn.RouteOp) bool {
			return !op.Withdraw && op.Route.Key.MAC == macA && slices.Contains(op.Attrs.RTs(), evpn.NewRT(65000, 777))
		})
	})
	after := c.status()
	if !after.LastReload.GetSuccessful() || !after.ConfigLoaded.AsTime().After(before.ConfigLoaded.AsTime()) {
		t.Errorf("status: %v, loaded %v, before that %v", after.LastReload, after.ConfigLoaded, before.ConfigLoaded)
	}
	if after.LogLevel != "info" {
		t.Errorf("log level %s: the reload has not ended what SetLogLevel said", after.LogLevel)
	}
	answers, err := c.call(&evpnv1.ListVNIsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(names(answers), []string{"100 up", "300 off"}) {
		t.Errorf("VNIs %v", names(answers))
	}
}

// TestReloadRefused: a file that cannot be taken changes nothing, and every reason is in the answer.
func TestReloadRefused(t *testing.T) {
	for _, row := range []struct {
		name, text string
		code       codes.Code
		want       []string // in the message
	}{
		{
			"faults", "asn: 65000\nvtep: 10.255.0.1\nhold: 9\npeers:\n  - {address: 10.0.0.1, asn: 0}\n",
			codes.InvalidArgument,
			[]string{"evpnd.yaml:3:1: ", "evpnd.yaml:5:30: ", "> 3 | hold: 9"},
		},
		{
			"what cannot change", "asn: 65001\nrouter-id: 10.9.9.9\nvtep: 10.255.0.9\nlisten: true\nflush-on-exit: true\nlog: {format: json}\n",
			codes.FailedPrecondition,
			[]string{"need a restart, nothing was changed: asn, router-id, vtep"},
		},
		{"another way to the vtep", "asn: 65000\nvtep-interface: lo\n", codes.FailedPrecondition, []string{"nothing was changed: vtep, vtep-interface"}},
		{"octets", "asn: 65000\nvtep: 10.255.0.1\n\"\xff\": 1\n", codes.InvalidArgument, []string{"evpnd.yaml:3:1: "}},
	} {
		t.Run(row.name, func(t *testing.T) {
			c := newClient(t, "", nil)
			c.report(attached(100), hasMAC(100, macA), evpn.Synced{})
			until(t, "the start to be over", func() bool { return c.ready.Load() })
			everything := []string{"announce", "withdraw", "import", "release", "close", "notify RE", "kernel", "bgp"}
			told := c.lines(everything...)
			c.writeConfig(row.text)
			_, code, message := c.reload()
			if code != row.code {
				t.Errorf("code %s, want %s", code, row.code)
			}
			for _, want := range row.want {
				if !strings.Contains(message, want) {
					t.Errorf("message lacks %q:\n%s", want, message)
				}
			}
			if n := len(c.bgp.configsSoFar()) + len(c.kernel.reconfigured); n != 0 {
				t.Errorf("BGP or the kernel was configured")
			}
			c.look(func(*evpn.Core) {})
			if more := c.lines(everything...)[len(told):]; len(more) != 2 || !strings.HasPrefix(more[0], "notify RELOADING=1") || more[1] != "notify READY=1" {
				t.Errorf("told %q", more)
			}
			if last := c.status().LastReload; last.GetSuccessful() || last.GetError() != message {
				t.Errorf("status says %v", last)
			}
			if got := c.value("evpnd_config_last_reload_successful"); got != 0 {
				t.Errorf("metric says %v", got)
			}
			c.writeConfig(basics)
			if _, code, message := c.reload(); code != codes.OK {
				t.Errorf("the old file again: %s", message)
			}
			if got := c.value("evpnd_config_last_reload_successful"); got != 1 {
				t.Errorf("metric says %v after a good reload", got)
			}
		})
	}
}

// TestReloadRolledBack: when BGP cannot do what the file says, the old configuration is in force again.
func TestReloadRolledBack(t *testing.T) {
	c := newClient(t, "", nil)
	old := c.config.get()
	c.bgp.mu.Lock()
	c.bgp.configErr = func(cfg *config.Config) error {
		if cfg != old {
			return errors.New("set tcp md5 key: operation not permitted")
		}
		return nil
	}
	c.bgp.mu.Unlock()
	c.writeConfig(basics + "  - {address: 10.0.0.3, asn: 65000}\n")
	if _, code, message := c.reload(); code != codes.Internal || !strings.Contains(message, "configuration not applied: configure peers: set tcp md5 key") {
		t.Errorf("%s: %s", code, message)
	}
	configs := c.bgp.configsSoFar()
	if len(configs) != 2 || configs[1] != old {
		t.Errorf("BGP was configured %d times, the last time with %p, want %p", len(configs), configs[len(configs)-1], old)
	}
	if len(c.kernel.reconfigured) != 0 || c.config.get() != old {
		t.Error("the new configuration is in force in parts")
	}
}

// TestReloadWhileFactsFlow: reloads, facts and questions do not get into each other's way.
func TestReloadWhileFactsFlow(t *testing.T) {
	const reloads, macs = 30, 200
	c := newClient(t, "", nil)
	c.report(attached(100), peerUp(peer1), evpn.Synced{})
	enough := make(chan struct{})
	ended := make(chan int)
	go func() { // ends with enough
		n := 0
		for ; ; n++ {
			select {
			case <-enough:
				ended <- n
				return
			case c.kernel.facts <- []evpn.Event{
				macRoute(peer1, 100, vtep2, evpn.MAC{2, 2, 0, 0, 0, byte(n % macs)}, ipB),
				evpn.LocalMAC{VNI: 100, MAC: macA, Port: "tap1", Gone: n%2 == 0},
			}:
			}
		}
	}()
	for i := range reloads {
		c.writeConfig(basics + fmt.Sprintf("vnis: {%d: }\n", 1000+i))
		if got, _, message := c.reload(); len(got) == 0 {
			t.Fatalf("reload %d: %s", i, message)
		}
		answers, err := c.call(&evpnv1.ListVNIsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if want := []string{"100 up", fmt.Sprintf("%d missing", 1000+i)}; !slices.Equal(names(answers), want) {
			t.Errorf("after reload %d: %v", i, names(answers))
		}
	}
	close(enough)
	n := <-ended
	c.report()
	until(t, "the kernel to be written", func() bool { st := c.status(); return st.Kernel.Pending == 0 && st.Counts.MacsRemote > 0 })
	held := 0
	for key := range c.kernel.hold() {
		if key.Table == evpn.TableFDB {
			held++
		}
	}
	if held != min(n, macs) {
		t.Errorf("kernel has %d MACs of %d", held, min(n, macs))
	}
}

// TestClearDuplicate: a MAC and an IP that two hosts have are shown, logged and counted, until an operator clears them.
func TestClearDuplicate(t *testing.T) {
	c := newClient(t, "duplicates: {moves: 2}\n", nil)
	c.report(attached(100), hasMAC(100, macB), hasIP(100, ipA, macA), peerUp(peer1))
	c.report(hasIP(100, ipA, macB))
	c.report(hasIP(100, ipA, macA))
	seq := func(n uint32) evpn.Event {
		u := macRoute(peer1, 100, vtep2, macA, netip.Addr{}).(*evpn.Update)
		u.Attrs.SetExtComms(string(evpn.AppendMobility([]byte(u.Attrs.ExtComms), n, false)))
		return u
	}
	for n := range uint32(2) {
		c.report(seq(2 * n))
		c.report(evpn.LocalMAC{VNI: 100, MAC: macA, Gone: true})
		c.report(hasMAC(100, macA))
	}
	macs, err := c.call(&evpnv1.ListMACsRequest{Duplicates: true})
	if got := names(macs); err != nil || !slices.Equal(got, []string{"100 " + macA.String()}) {
		t.Fatalf("duplicates: %v, %v", got, err)
	}
	d := macs[0].(*evpnv1.ListMACsResponse).Macs[0].Duplicate
	if d.GetMoves() != 2 || d.GetAction() != "hold" || d.GetUntil().AsTime().Sub(d.GetSince().AsTime()) != 9*time.Minute {
		t.Errorf("duplicate: %v", d)
	}
	if len(c.logged("mac of two hosts")) != 1 || len(c.logged("ip of two hosts")) != 1 {
		t.Errorf("logged %v", c.log.AllEntries())
	}
	if _, text := c.get("/metrics"); !strings.Contains(text, `evpn_duplicate_macs{vni="100"} 1`) || !strings.Contains(text, `evpn_duplicate_ips{vni="100"} 1`) {
		t.Errorf("metrics: %s", text)
	}
	for _, row := range []struct {
		req  *evpnv1.ClearDuplicateRequest
		code codes.Code
		n    uint32
	}{
		{&evpnv1.ClearDuplicateRequest{Mac: "tap1"}, codes.InvalidArgument, 0},
		{&evpnv1.ClearDuplicateRequest{Ip: "tap1"}, codes.InvalidArgument, 0},
		{&evpnv1.ClearDuplicateRequest{Mac: macA.String(), Ip: ipA.String()}, codes.InvalidArgument, 0},
		{&evpnv1.ClearDuplicateRequest{Mac: macB.String()}, codes.NotFound, 0},
		{&evpnv1.ClearDuplicateRequest{Vni: 200}, codes.OK, 0},
		{&evpnv1.ClearDuplicateRequest{Vni: 100, Mac: macA.String()}, codes.OK, 1},
		{&evpnv1.ClearDuplicateRequest{Mac: macA.String()}, codes.NotFound, 0},
		{&evpnv1.ClearDuplicateRequest{}, codes.OK, 1},
	} {
		r, err := c.admin.ClearDuplicate(c.ctx, row.req)
		if status.Code(err) != row.code || r.GetCleared() != row.n {
			t.Errorf("%v: %v, %v; want %d, %s", row.req, r, err, row.n, row.code)
		}
	}
	if macs, _ := c.call(&evpnv1.ListMACsRequest{Duplicates: true}); len(names(macs)) != 0 {
		t.Errorf("still duplicates: %v", macs)
	}
}

// TestClearPeer: hard, soft, and for whom there is nothing to clear.
func TestClearPeer(t *testing.T) {
	c := newClient(t, "", nil)
	c.bgp.setSessions(speaker.SessionInfo{Peer: peer1, State: speaker.StateEstablished}, speaker.SessionInfo{Peer: peer2, State: speaker.StateIdle})
	for _, row := range []struct {
		req  *evpnv1.ClearPeerRequest
		code codes.Code
		text string
		told string
	}{
		{&evpnv1.ClearPeerRequest{Address: "10.0.0.1"}, codes.OK, "", "close 10.0.0.1: cleared by operator"},
		{&evpnv1.ClearPeerRequest{Address: "10.0.0.1", Soft: true}, codes.OK, "", "refresh 10.0.0.1"},
		{&evpnv1.ClearPeerRequest{Address: "10.0.0.2"}, codes.OK, "", "close 10.0.0.2: cleared by operator"},
		{&evpnv1.ClearPeerRequest{Address: "10.0.0.2", Soft: true}, codes.FailedPrecondition, errNoSession.Error(), "refresh 10.0.0.2"},
		{&evpnv1.ClearPeerRequest{Address: "10.0.0.3"}, codes.NotFound, "10.0.0.3", ""},
		{&evpnv1.ClearPeerRequest{}, codes.InvalidArgument, "address: missing", ""},
		{&evpnv1.ClearPeerRequest{Address: "r/r"}, codes.InvalidArgument, "address: ", ""},
	} {
		before := len(c.lines("close", "refresh"))
		_, err := c.admin.ClearPeer(c.ctx, row.req)
		if status.Code(err) != row.code || !strings.Contains(status.Convert(err).Message(), row.text) {
			t.Errorf("%v: %v, want %s with %q", row.req, err, row.code, row.text)
		}
		if told := strings.Join(c.lines("close", "refresh")[before:], ", "); told != row.told {
			t.Errorf("%v: BGP was told %q, want %q", row.req, told, row.told)
		}
	}
}

func TestSetLogLevel(t *testing.T) {
	c := newClient(t, "", nil)
	for _, row := range []struct {
		level, previous string
		now             logrus.Level
	}{
		{"debug", "info", logrus.DebugLevel},
		{"warn", "debug", logrus.WarnLevel},
		{"error", "warn", logrus.ErrorLevel},
		{"info", "error", logrus.InfoLevel},
	} {
		resp, err := c.admin.SetLogLevel(c.ctx, &evpnv1.SetLogLevelRequest{Level: row.level})
		if err != nil || resp.Previous != row.previous || c.Daemon.log.GetLevel() != row.now {
			t.Errorf("%s: previous %s, %v; now %s", row.level, resp.GetPrevious(), err, c.Daemon.log.GetLevel())
		}
	}
	for _, level := range []string{"", "loud", "trace", "panic", "fatal"} {
		if _, err := c.admin.SetLogLevel(c.ctx, &evpnv1.SetLogLevelRequest{Level: level}); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%q: %v", level, err)
		}
	}
}

// TestReflection: tools that know nothing of us find the services.
func TestReflection(t *testing.T) {
	c := newClient(t, "", nil)
	stream, err := reflectionpb.NewServerReflectionClient(c.conn).ServerReflectionInfo(c.ctx)
	if err != nil {
		t.Fatal(err)
	}
	request := &reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}
	if err := stream.Send(request); err != nil {
		t.Fatal(err)
	}
	resp, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	var services []string
	for _, s := range resp.GetListServicesResponse().GetService() {
		services = append(services, s.Name)
	}
	for _, want := range []string{"evpn.v1.InspectService", "evpn.v1.AdminService", "grpc.health.v1.Health"} {
		if !slices.Contains(services, want) {
			t.Errorf("services %q lack %s", services, want)
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
}

// TestShutdown: with a client that never ends its call, facts on their way and a BGP that is slow, Run returns soon, and
// nothing stays: no goroutine, no socket.
func TestShutdown(t *testing.T) {
	clean := goleak.IgnoreCurrent()
	c := newClient(t, "", func(_ *Options, w *world) { w.bgp.gate = make(chan struct{}, 1) })
	c.report(attached(10), hasMAC(10, macA), evpn.Synced{})
	watch, err := healthpb.NewHealthClient(c.conn).Watch(c.ctx, &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil {
		t.Fatal(err)
	}
	c.get("/healthz") // leaves an idle connection
	begin := time.Now()
	c.stopping()
	c.bgp.gate <- struct{}{} // BGP ends what it is at
	if err := c.stop(); err != nil {
		t.Errorf("Run returns %v", err)
	}
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("Run took %s to end", took)
	}
	if _, err := os.Lstat(c.opts.Config.API.Socket); err == nil {
		t.Error("the socket is left behind")
	}
	for err == nil { // NOT_SERVING, and the end
		_, err = watch.Recv()
	}
	if status.Code(err) != codes.Unavailable {
		t.Errorf("the watcher is told %v", err)
	}
	c.conn.Close()
	c.browser.CloseIdleConnections()
	goleak.VerifyNone(t, clean)
}

// TestStopAtOnce: a daemon that is told to stop before it has begun stops without complaint.
func TestStopAtOnce(t *testing.T) {
	for range 20 {
		s, err := Listen(config.API{Socket: filepath.Join(t.TempDir(), "evpnd.sock"), Metrics: "127.0.0.1:0"})
		if err != nil {
			t.Fatal(err)
		}
		w := newWorld(t, "", func(opts *Options, _ *world) { opts.Sockets = s })
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if err := w.Run(ctx); err != nil {
			t.Fatalf("Run returns %v", err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
}

// TestCallAfterStop: calls that come while the daemon stops get an answer that says so.
func TestCallAfterStop(t *testing.T) {
	w := newWorld(t, "", nil).start()
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	if _, err := (&inspect{d: w.Daemon}).GetStatus(ctx, &evpnv1.GetStatusRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("GetStatus says %v", err)
	}
	if _, err := (&admin{d: w.Daemon}).Reload(ctx, &evpnv1.ReloadRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("Reload says %v", err)
	}
}

// TestClearForeign: an operator sees what another daemon left, and when it is removed, what waited behind it is written at once.
func TestClearForeign(t *testing.T) {
	c := healthy(t)
	c.kernel.refuse(fdbKey(100, macC), errors.New("zebra's row is in the way"), true)
	c.report(macRoute(peer1, 100, vtep2, macC, netip.Addr{}))
	if f := c.wantFault(evpn.FaultEntryBlocked); !strings.Contains(f.Remedy, "evpnctl clear foreign --vni 100") {
		t.Errorf("fault %v", f)
	}
	c.kernel.refuse(fdbKey(100, macC), nil, true)
	resp, err := c.admin.ClearForeign(c.ctx, &evpnv1.ClearForeignRequest{Vni: 100, Remove: true, Flood: true})
	if err != nil {
		t.Fatal(err)
	}
	want := []*evpnv1.ForeignEntry{
		{Table: "flood", Vtep: vtep3.String(), Error: "busy"},
		{Table: "fdb", Mac: macC.String(), Vtep: vtep3.String()},
		{Table: "neighbor", Mac: macC.String(), Ip: vtep2.String()},
	}
	if d := cmp.Diff(want, resp.Entries, protocmp.Transform()); d != "" {
		t.Error(d)
	}
	if lines := c.lines("foreign"); !slices.Equal(lines, []string{"foreign 100 flood true remove true"}) {
		t.Errorf("the kernel was asked %q", lines)
	}
	begun := time.Now()
	until(t, "the entry that waited", func() bool { _, there := c.kernel.hold()[fdbKey(100, macC)]; return there })
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("it waited for its next turn: %s", took)
	}
	if _, err := c.admin.ClearForeign(c.ctx, &evpnv1.ClearForeignRequest{Vni: 999}); status.Code(err) != codes.NotFound {
		t.Errorf("a VNI that is not served: %v", err)
	}
}

// TestReloadWhileHandingOver: once the sessions are on their way to the next evpnd, a reload is refused at once: what waited
// for it would keep this process from ending.
func TestReloadWhileHandingOver(t *testing.T) {
	w := newWorld(t, "", nil).start()
	if _, err := w.handOver(t.Context()); err != nil {
		t.Fatal(err)
	}
	reloaded := make(chan error, 1)
	go func() {
		_, err := w.Reload()
		reloaded <- err
	}()
	select {
	case err := <-reloaded:
		if !errors.Is(err, errStopped) || len(w.bgp.configsSoFar()) > 0 {
			t.Errorf("%v, configured %d times", err, len(w.bgp.configsSoFar()))
		}
	case <-time.After(deadline):
		t.Fatal("the reload waits")
	}
}
