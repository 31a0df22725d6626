package daemon

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	evpnv1 "github.com/evpnd/evpnd/api/evpn/v1"
	"github.com/evpnd/evpnd/evpn"
	"github.com/evpnd/evpnd/speaker"
)

var update = flag.Bool("update", false, "rewrite what is expected in testdata")

const populatedConfig = "vnis: {200: , 300: {off: true}}\n"

// populate fills a daemon with one of everything.
func (c *client) populate() {
	c.t.Helper()
	up := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	c.bgp.setSessions(
		speaker.SessionInfo{ // not in order
			Peer: peer2, ASN: 65000, State: speaker.StateConnect, Since: up, LastError: "cut off: \xff\xfe",
			Counters: speaker.Counters{Established: 1},
		},
		speaker.SessionInfo{
			Peer: peer1, ASN: 65000, State: speaker.StateEstablished, Since: up, RouterID: peer1, LocalAddress: vtepSelf,
			Description: "route reflector", HoldTime: 90 * time.Second, EVPN: true, AS4: true, Refresh: true, Extended: true, RTC: true,
			Graceful:  speaker.GracefulInfo{Negotiated: true, RestartTime: 2 * time.Minute, Notification: true},
			LastError: "reset of an hour ago",
			Counters: speaker.Counters{
				UpdatesIn: 8, UpdatesOut: 7, RoutesWithdrawn: 6, TreatAsWithdraw: 5, DiscardedAttributes: 4, Established: 3,
				SkippedTypes: map[evpn.RouteType]uint64{6: 2, 9: 1},
			},
		},
	)
	faulty := attached(400).(evpn.AttachmentUp)
	faulty.Usable, faulty.Faults = false, []string{"vxlan400 is down: ip link set dev vxlan400 up"}
	moved := attrs(100, vtep2)
	moved.SetExtComms(string(evpn.AppendMobility([]byte(moved.ExtComms), 3, false)))
	moved.ASPath, moved.ClusterList, moved.OriginatorID, moved.Communities = "\x02\x01\x00\x00\xfd\xe9\x01\x02\x00\x00\x00\x01\x00\x00\x00\x02", "\x0a\x00\x00\x09", vtep3, "\xfd\xe8\x00\x07"
	c.kernel.refuse(fdbKey(100, macC), errors.New("vxlan100 has a row of somebody else"), true)
	lease := evpn.LocalIP{VNI: 100, IP: ipA, MAC: macA, Source: evpn.WitnessDHCP, Port: "tap1", Lease: time.Hour}
	c.report(attached(100), faulty, hasMAC(100, macA), hasIP(100, ipA, macA), lease, evpn.Synced{})
	c.report(
		peerUp(peer2), macRoute(peer2, 100, vtep3, macB, netip.Addr{}),
		peerUp(peer1), imetRoute(peer1, 100, vtep2),
		macRoute(peer1, 100, vtep3, macC, netip.Addr{}),
		macRoute(peer1, 500, vtep3, macC, netip.Addr{}), // imported by no VNI
		&evpn.Update{Peer: peer1, Attrs: moved, Reach: []evpn.Route{
			{Key: evpn.RouteKey{Type: evpn.TypeMACIP, RD: evpn.NewRD(vtep2, 100), MAC: macB, IP: ipB}, Label1: 100, Label2: 5000},
			{Key: evpn.RouteKey{Type: evpn.TypePrefix, RD: evpn.NewRD(vtep2, 100), IP: netip.MustParseAddr("192.168.0.0"), PrefixLen: 16}, Label1: 100, GW: ipB},
		}},
		evpn.EndOfRIB{Peer: peer1},
	)
	c.report(evpn.PeerDown{Peer: peer2, Reason: "restarts", Retain: time.Hour})
	until(c.t, "the kernel to be written", func() bool {
		st := c.status()
		return st.Kernel.Pending == 0 && st.Kernel.LastReadBack != nil
	})
	until(c.t, "the routes to be announced", func() bool { return c.ready.Load() })
}

// TestInspect compares every answer about a populated daemon with testdata/inspect.json. Moments are only wanted to be
// there.
func TestInspect(t *testing.T) {
	c := newClient(t, populatedConfig, nil)
	c.populate()
	var got bytes.Buffer
	for _, req := range []proto.Message{
		&evpnv1.GetStatusRequest{},
		&evpnv1.ListPeersRequest{},
		&evpnv1.ListVNIsRequest{},
		&evpnv1.ListVTEPsRequest{},
		&evpnv1.ListMACsRequest{Candidates: true},
		&evpnv1.ListNeighborsRequest{Candidates: true},
		&evpnv1.ListRoutesRequest{},
	} {
		answers, err := c.call(req)
		if err != nil {
			t.Fatalf("%T: %v", req, err)
		}
		for _, m := range answers {
			fmt.Fprintf(&got, "%s %s\n", m.ProtoReflect().Descriptor().Name(), c.steadyJSON(m))
		}
	}
	golden(t, "inspect.json", got.Bytes())
}

// steadyJSON prints a message, with what differs from run to run replaced.
func (c *client) steadyJSON(m proto.Message) []byte {
	c.t.Helper()
	raw, err := protojson.Marshal(m)
	if err != nil {
		c.t.Fatal(err)
	}
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		c.t.Fatal(err)
	}
	out, err := json.MarshalIndent(steady(v), "", "  ")
	if err != nil {
		c.t.Fatal(err)
	}
	return bytes.ReplaceAll(out, []byte(c.dir), []byte("DIR"))
}

func steady(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			switch key {
			case "asOf", "started", "uptime", "configLoaded", "lastReadBack", "since", "received", "staleUntil", "leaseEnd":
				if value != "2026-03-01T12:00:00Z" {
					v[key] = "*"
				}
			default:
				v[key] = steady(value)
			}
		}
	case []any:
		for i := range v {
			v[i] = steady(v[i])
		}
	}
	return v
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(string(got), "\n")); d != "" {
		t.Errorf("%s (-want +got), go test -update rewrites it:\n%s", path, d)
	}
}

// TestFilters: each filter leaves what it says, and one that cannot be read is an error that names it.
func TestFilters(t *testing.T) {
	c := newClient(t, populatedConfig, nil)
	c.populate()
	const (
		ownIMET = "out 10.255.0.1:100 [3]:[0]:[32]:[10.255.0.1]"
		ownMAC  = "out 10.255.0.1:100 [2]:[0]:[48]:[02:00:00:00:00:01]"
		ownIP   = ownMAC + ":[32]:[172.16.0.1]"
		imet    = "in10.0.0.1 10.255.0.2:100 [3]:[0]:[32]:[10.255.0.2]"
		moved   = "in10.0.0.1 10.255.0.2:100 [2]:[0]:[48]:[02:00:00:00:00:02]:[32]:[172.16.0.2]"
		prefix  = "in10.0.0.1 10.255.0.2:100 [5]:[0]:[16]:[192.168.0.0]"
		older   = "in10.0.0.2 10.255.0.3:100 [2]:[0]:[48]:[02:00:00:00:00:02]"
		blocked = "in10.0.0.1 10.255.0.3:100 [2]:[0]:[48]:[02:00:00:00:00:03]"
		alien   = "in10.0.0.1 10.255.0.3:500 [2]:[0]:[48]:[02:00:00:00:00:03]"
		a, b, d = "100 02:00:00:00:00:01", "100 02:00:00:00:00:02", "100 02:00:00:00:00:03"
	)
	for _, row := range []struct {
		req  proto.Message
		want []string // empty: no items and no error
		code codes.Code
		text string // in the error
	}{
		{req: &evpnv1.ListPeersRequest{}, want: []string{"10.0.0.1", "10.0.0.2"}},
		{req: &evpnv1.ListPeersRequest{Address: "10.0.0.2"}, want: []string{"10.0.0.2"}},
		{req: &evpnv1.ListPeersRequest{Address: "::ffff:10.0.0.2"}, want: []string{"10.0.0.2"}},
		{req: &evpnv1.ListPeersRequest{Address: "10.9.9.9"}},
		{req: &evpnv1.ListPeersRequest{Address: "10.0.0.1:179"}, code: codes.InvalidArgument, text: `address: `},

		{req: &evpnv1.ListVNIsRequest{}, want: []string{"100 up", "200 missing", "300 off", "400 fault"}},
		{req: &evpnv1.ListVNIsRequest{Vni: 300}, want: []string{"300 off"}},
		{req: &evpnv1.ListVNIsRequest{Vni: 999}, code: codes.NotFound, text: "VNI 999 "},

		{req: &evpnv1.ListVTEPsRequest{}, want: []string{"100 10.255.0.2", "100 10.255.0.3"}},
		{req: &evpnv1.ListVTEPsRequest{Vni: 100, Vtep: "10.255.0.3"}, want: []string{"100 10.255.0.3"}},
		{req: &evpnv1.ListVTEPsRequest{Vni: 200}},
		{req: &evpnv1.ListVTEPsRequest{Vni: 999}, code: codes.NotFound, text: "VNI 999 "},
		{req: &evpnv1.ListVTEPsRequest{Vtep: "10.255.0"}, code: codes.InvalidArgument, text: "vtep: "},

		{req: &evpnv1.ListMACsRequest{}, want: []string{a, b, d}},
		{req: &evpnv1.ListMACsRequest{Vni: 400}},
		{req: &evpnv1.ListMACsRequest{Vni: 100, Mac: "2:0:0:0:0:2"}, want: []string{b}},
		{req: &evpnv1.ListMACsRequest{Origin: "local"}, want: []string{a}},
		{req: &evpnv1.ListMACsRequest{Origin: "remote"}, want: []string{b, d}},
		{req: &evpnv1.ListMACsRequest{Vtep: "10.255.0.3"}, want: []string{d}},
		{req: &evpnv1.ListMACsRequest{Mac: "02:00:00:00:00:02", Origin: "local"}},
		{req: &evpnv1.ListMACsRequest{Vni: 999}, code: codes.NotFound, text: "VNI 999 "},
		{req: &evpnv1.ListMACsRequest{Mac: "02-00"}, code: codes.InvalidArgument, text: `mac: "02-00"`},
		{req: &evpnv1.ListMACsRequest{Vtep: "x"}, code: codes.InvalidArgument, text: "vtep: "},
		{req: &evpnv1.ListMACsRequest{Origin: "sticky"}, code: codes.InvalidArgument, text: `origin "sticky"`},

		{req: &evpnv1.ListNeighborsRequest{}, want: []string{"100 172.16.0.1", "100 172.16.0.2"}},
		{req: &evpnv1.ListNeighborsRequest{Ip: "172.16.0.2"}, want: []string{"100 172.16.0.2"}},
		{req: &evpnv1.ListNeighborsRequest{Mac: "02:00:00:00:00:01", Vni: 100}, want: []string{"100 172.16.0.1"}},
		{req: &evpnv1.ListNeighborsRequest{Origin: "remote", Vtep: "10.255.0.2"}, want: []string{"100 172.16.0.2"}},
		{req: &evpnv1.ListNeighborsRequest{Origin: "local", Vtep: "10.255.0.2"}},
		{req: &evpnv1.ListNeighborsRequest{Vni: 999}, code: codes.NotFound, text: "VNI 999 "},
		{req: &evpnv1.ListNeighborsRequest{Ip: "172.16"}, code: codes.InvalidArgument, text: "ip: "},

		{req: &evpnv1.ListRoutesRequest{}, want: []string{moved, imet, prefix, older, blocked, alien, ownMAC, ownIP, ownIMET}},
		{req: &evpnv1.ListRoutesRequest{Direction: "out"}, want: []string{ownMAC, ownIP, ownIMET}},
		{req: &evpnv1.ListRoutesRequest{Direction: "in", Type: 3}, want: []string{imet}},
		{req: &evpnv1.ListRoutesRequest{Type: 5}, want: []string{prefix}},
		{req: &evpnv1.ListRoutesRequest{Peer: "10.0.0.2"}, want: []string{older}},
		{req: &evpnv1.ListRoutesRequest{Vni: 500}, want: []string{alien}},
		{req: &evpnv1.ListRoutesRequest{Vni: 100, Type: 3}, want: []string{imet, ownIMET}},
		{req: &evpnv1.ListRoutesRequest{Rd: "10.255.0.3:100"}, want: []string{older, blocked}},
		{req: &evpnv1.ListRoutesRequest{Mac: "02:00:00:00:00:03"}, want: []string{blocked, alien}},
		{req: &evpnv1.ListRoutesRequest{Ip: "10.255.0.1"}, want: []string{ownIMET}},
		{req: &evpnv1.ListRoutesRequest{Vni: 999}},
		{req: &evpnv1.ListRoutesRequest{Direction: "both"}, code: codes.InvalidArgument, text: `direction "both"`},
		{req: &evpnv1.ListRoutesRequest{Rd: "100"}, code: codes.InvalidArgument, text: `rd: "100"`},
		{req: &evpnv1.ListRoutesRequest{Peer: "x y"}, code: codes.InvalidArgument, text: "peer: "},
		{req: &evpnv1.ListRoutesRequest{Ip: "x"}, code: codes.InvalidArgument, text: "ip: "},
		{req: &evpnv1.ListRoutesRequest{Mac: "x"}, code: codes.InvalidArgument, text: "mac: "},
	} {
		t.Run(fmt.Sprintf("%T{%v}", row.req, row.req), func(t *testing.T) {
			answers, err := c.call(row.req)
			if status.Code(err) != row.code || err != nil && !strings.Contains(status.Convert(err).Message(), row.text) {
				t.Fatalf("error %v, want %v with %q", err, row.code, row.text)
			}
			if err != nil {
				return
			}
			if d := cmp.Diff(append([]string{}, row.want...), names(answers)); d != "" {
				t.Errorf("items (-want +got):\n%s", d)
			}
			if len(answers) != 1 {
				t.Errorf("%d messages, want one", len(answers))
			}
			if at := asOf(answers[0]); time.Since(at) > deadline {
				t.Errorf("as of %s", at)
			}
		})
	}
}

// TestOffered: a peer whose session has no EVPN is offered none of our routes.
func TestOffered(t *testing.T) {
	c := newClient(t, "", nil)
	c.bgp.setSessions(
		speaker.SessionInfo{Peer: peer1, State: speaker.StateEstablished, EVPN: true},
		speaker.SessionInfo{Peer: peer2, State: speaker.StateEstablished},
	)
	c.report(attached(100), hasMAC(100, macA), evpn.Synced{})
	stream, err := c.inspect.ListPeers(c.ctx, &evpnv1.ListPeersRequest{})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []uint32{2, 0} {
		if got := resp.Peers[i].RoutesAdvertised; got != want {
			t.Errorf("%s is offered %d routes, want %d", resp.Peers[i].Address, got, want)
		}
	}
}

// asOf is the moment of an answer.
func asOf(m proto.Message) time.Time {
	return m.(interface{ GetAsOf() *timestamppb.Timestamp }).GetAsOf().AsTime()
}

// TestStreams: long answers come in messages of 500 items, in order and of one moment.
func TestStreams(t *testing.T) {
	const hosts = 1201
	c := newClient(t, "", nil)
	facts := []evpn.Event{attached(100)}
	for i := range hosts {
		m := evpn.MAC{2, 1, 0, 0, byte(i >> 8), byte(i)}
		facts = append(facts, hasMAC(100, m), hasIP(100, netip.AddrFrom4([4]byte{172, 16, byte(i >> 8), byte(i)}), m))
	}
	c.report(facts...)
	for _, row := range []struct {
		req  proto.Message
		want int
	}{
		{&evpnv1.ListMACsRequest{}, hosts},
		{&evpnv1.ListNeighborsRequest{}, hosts},
		{&evpnv1.ListRoutesRequest{}, 2*hosts + 1},
	} {
		answers, err := c.call(row.req)
		if err != nil {
			t.Fatal(err)
		}
		if want := (row.want + chunk - 1) / chunk; len(answers) != want {
			t.Errorf("%T: %d messages, want %d", row.req, len(answers), want)
		}
		all := names(answers)
		if len(all) != row.want {
			t.Errorf("%T: %d items, want %d", row.req, len(all), row.want)
		}
		if _, neighbors := row.req.(*evpnv1.ListNeighborsRequest); !neighbors && !slices.IsSorted(all[:hosts]) { // by number, not by text
			t.Errorf("%T: not in order", row.req)
		}
		for i, m := range answers {
			if n := len(names([]proto.Message{m})); i < len(answers)-1 && n != chunk {
				t.Errorf("%T: message %d has %d items", row.req, i, n)
			}
			if !asOf(m).Equal(asOf(answers[0])) {
				t.Errorf("%T: message %d is of another moment", row.req, i)
			}
		}
	}
}

// TestOddNames: octets that are no text, in names of devices or from peers, cost neither an answer nor a scrape.
func TestOddNames(t *testing.T) {
	c := newClient(t, "", nil)
	at := attached(100).(evpn.AttachmentUp)
	at.Device, at.Bridge, at.Faults, at.Usable = "vx\xff", "br\xfe", []string{"vx\xff is odd"}, false
	c.report(at, evpn.LocalMAC{VNI: 100, MAC: macA, Port: "tap\xfd"}, hasIP(100, ipA, macA))
	c.bgp.setSessions(speaker.SessionInfo{Peer: peer1, LastReceived: "shut \xc3\x28 down", Description: "\xff"})
	for _, req := range []proto.Message{
		&evpnv1.ListVNIsRequest{}, &evpnv1.ListMACsRequest{Candidates: true}, &evpnv1.ListNeighborsRequest{Candidates: true},
		&evpnv1.ListPeersRequest{},
	} {
		answers, err := c.call(req)
		if err != nil {
			t.Errorf("%T: %v", req, err)
		} else if text := fmt.Sprint(answers[0]); !strings.Contains(text, "\uFFFD") {
			t.Errorf("%T: %s", req, text)
		}
	}
	if code, body := c.get("/metrics"); code != 200 || !strings.Contains(body, `vxlan="vx�"`) {
		t.Errorf("scrape: %d\n%s", code, body)
	}
}
