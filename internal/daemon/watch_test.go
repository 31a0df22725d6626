package daemon

import (
	"context"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	evpnv1 "github.com/evpnd/evpnd/api/evpn/v1"
	"github.com/evpnd/evpnd/evpn"
)

// subscriber follows the daemon's tables by nothing but what Watch sends.
type subscriber struct {
	t      *testing.T
	stream evpnv1.InspectService_WatchClient
	cancel context.CancelFunc
	rows   map[string]string // by table and key
	events []*evpnv1.Event
	synced bool
	resets int
	lost   uint64
	token  string
}

func (c *client) watch(t *testing.T, req *evpnv1.WatchRequest) *subscriber {
	t.Helper()
	ctx, cancel := context.WithCancel(c.ctx)
	t.Cleanup(cancel)
	stream, err := c.inspect.Watch(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	return &subscriber{t: t, stream: stream, cancel: cancel, rows: map[string]string{}}
}

// next takes in one message.
func (s *subscriber) next() {
	s.t.Helper()
	m, err := s.stream.Recv()
	if err != nil {
		s.t.Fatal(err)
	}
	if m.Reset_ {
		s.rows, s.synced = map[string]string{}, false
		s.resets++
	}
	for _, row := range m.Macs {
		s.rows[key(row)] = words(row)
	}
	for _, row := range m.Neighbors {
		s.rows[key(row)] = words(row)
	}
	for _, row := range m.Routes {
		s.rows[routeName(row)] = words(row)
	}
	for _, row := range m.Peers {
		s.rows["peer "+row.Address] = words(row)
	}
	for _, row := range m.Vnis {
		s.rows["vni "+decimal(row.Vni)] = words(row)
	}
	for _, g := range m.Gone {
		switch g.Kind {
		case "route":
			delete(s.rows, routeName(&evpnv1.Route{Peer: g.Peer, Rd: g.Rd, Key: g.Key}))
		case "peer":
			delete(s.rows, "peer "+g.Peer)
		case "vni":
			delete(s.rows, "vni "+decimal(g.Vni))
		default:
			delete(s.rows, key(&evpnv1.Neighbor{Vni: g.Vni, Ip: g.Ip, Mac: g.Mac}))
		}
	}
	s.events = append(s.events, m.Events...)
	s.synced, s.lost = s.synced || m.Synced, s.lost+m.Lost
	if m.Token != "" {
		s.token = m.Token
	}
}

// until takes in messages until something is so.
func (s *subscriber) until(ok func() bool) {
	s.t.Helper()
	for !ok() {
		s.next()
	}
}

func decimal(n uint32) string { return strconv.FormatUint(uint64(n), 10) }

// routeName names a row of the route table.
func routeName(r *evpnv1.Route) string { return "route " + r.Peer + " " + r.Rd + " " + r.Key }

// key names a row; a neighbour without an IP stands for a MAC.
func key(row interface {
	GetVni() uint32
	GetMac() string
},
) string {
	name := row.GetMac()
	if n, ok := row.(interface{ GetIp() string }); ok && n.GetIp() != "" {
		name = n.GetIp()
	}
	return evpn.VNI(row.GetVni()).String() + " " + name
}

func words(m proto.Message) string {
	text, _ := prototext.MarshalOptions{}.Marshal(m)
	return strings.ReplaceAll(string(text), "  ", " ") // the encoder varies its spaces
}

// tables are the rows that the daemon lists.
func (c *client) tables() map[string]string {
	c.t.Helper()
	return c.rowsOf(&evpnv1.ListMACsRequest{}, &evpnv1.ListNeighborsRequest{})
}

// rowsOf are the rows that answer requests.
func (c *client) rowsOf(reqs ...proto.Message) map[string]string {
	c.t.Helper()
	rows := map[string]string{}
	for _, req := range reqs {
		answers, err := c.call(req)
		if err != nil {
			c.t.Fatal(err)
		}
		for _, m := range answers {
			switch m := m.(type) {
			case *evpnv1.ListMACsResponse:
				for _, row := range m.Macs {
					rows[key(row)] = words(row)
				}
			case *evpnv1.ListNeighborsResponse:
				for _, row := range m.Neighbors {
					rows[key(row)] = words(row)
				}
			case *evpnv1.ListRoutesResponse:
				for _, row := range m.Routes {
					rows[routeName(row)] = words(row)
				}
			case *evpnv1.ListPeersResponse:
				for _, row := range m.Peers {
					rows["peer "+row.Address] = words(row)
				}
			case *evpnv1.ListVNIsResponse:
				for _, row := range m.Vnis {
					rows["vni "+decimal(row.Vni)] = words(row)
				}
			}
		}
	}
	return rows
}

// inKernel are the keys of the remote rows that the kernel holds.
func (c *client) inKernel() []string {
	var keys []string
	for k := range c.kernel.hold() {
		switch k.Table {
		case evpn.TableFDB:
			keys = append(keys, k.VNI.String()+" "+k.MAC.String())
		case evpn.TableNeighbor:
			keys = append(keys, k.VNI.String()+" "+k.Addr.String())
		}
	}
	slices.Sort(keys)
	return keys
}

// many are routes for n hosts behind a VTEP, or their end.
func many(n int, vtep netip.Addr, gone bool) *evpn.Update {
	u := &evpn.Update{Peer: peer1, Attrs: attrs(100, vtep)}
	for i := range n {
		r := evpn.Route{Label1: 100, Key: evpn.RouteKey{
			Type: evpn.TypeMACIP, RD: evpn.NewRD(vtep2, 100), MAC: evpn.MAC{2, 1, 0, 0, byte(i >> 8), byte(i)},
			IP: netip.AddrFrom4([4]byte{172, 17, byte(i >> 8), byte(i)}),
		}}
		if gone {
			u.Unreach = append(u.Unreach, r.Key)
		} else {
			u.Reach = append(u.Reach, r)
		}
	}
	return u
}

// settled has the subscriber read until it has the tables as the daemon lists them.
func (s *subscriber) settled(c *client) {
	s.t.Helper()
	until(s.t, "the kernel to be written", func() bool { return c.status().Kernel.Pending == 0 })
	want := c.tables()
	s.until(func() bool { return s.synced && maps.Equal(s.rows, want) })
}

// TestWatchChurn: somebody who follows while hosts come, move and go has the daemon's tables in the end, and of their
// remote rows exactly those that are in the kernel.
func TestWatchChurn(t *testing.T) {
	c := newClient(t, "duplicates: {action: alarm}\n", nil)
	c.report(attached(100), evpn.Synced{}, peerUp(peer1), evpn.EndOfRIB{Peer: peer1}, many(1300, vtep2, false))
	s := c.watch(t, &evpnv1.WatchRequest{Kinds: []string{"mac", "neighbor"}})
	s.next() // the tables are being read from here on
	random := rand.New(rand.NewPCG(1, 2))
	for range 400 {
		m := evpn.MAC{2, 1, 0, 0, byte(random.IntN(4)), byte(random.IntN(256))}
		switch random.IntN(5) {
		case 0:
			c.report(hasMAC(100, m))
		case 1:
			c.report(evpn.LocalMAC{VNI: 100, MAC: m, Gone: true})
		case 2:
			c.report(many(random.IntN(200), vtep3, false))
		case 3:
			c.report(many(random.IntN(200), vtep2, true))
		default:
			c.report(hasIP(100, netip.AddrFrom4([4]byte{172, 17, m[4], m[5]}), m))
		}
		if random.IntN(4) == 0 {
			s.next()
		}
	}
	s.settled(c)
	if s.lost != 0 || s.resets != 1 {
		t.Errorf("%d lost, %d resets", s.lost, s.resets)
	}
	var remote []string
	for k, row := range s.rows {
		if strings.Contains(row, `origin:"remote"`) {
			remote = append(remote, k)
		}
	}
	slices.Sort(remote)
	if kernel := c.inKernel(); len(kernel) < 1000 || !slices.Equal(remote, kernel) {
		t.Errorf("%d remote rows, %d in the kernel", len(remote), len(kernel))
	}
}

// TestWatchSlowly: somebody who does not read is told how much it missed, and gets the tables anew. Nobody waits for it.
func TestWatchSlowly(t *testing.T) {
	c := newClient(t, "", nil)
	c.report(attached(100), evpn.Synced{}, peerUp(peer1), evpn.EndOfRIB{Peer: peer1})
	s := c.watch(t, &evpnv1.WatchRequest{})
	s.until(func() bool { return s.synced })
	const hosts = 5000
	for round := range 8 {
		c.report(many(hosts, []netip.Addr{vtep2, vtep3}[round%2], false))
		until(t, "the kernel to be written", func() bool { return c.status().Kernel.Pending == 0 })
	}
	s.settled(c)
	if s.lost == 0 || s.resets < 2 || len(s.rows) != 2*hosts {
		t.Errorf("%d lost, %d resets, %d rows", s.lost, s.resets, len(s.rows))
	}
	if s.rows["100 02:01:00:00:00:00"] == "" || !strings.Contains(s.rows["100 02:01:00:00:00:00"], "10.255.0.3") {
		t.Errorf("the last word is %s", s.rows["100 02:01:00:00:00:00"])
	}
}

// TestWatchAgain: with a token a client goes on where it was; without the memory of it the stream begins anew.
func TestWatchAgain(t *testing.T) {
	c := newClient(t, "", nil)
	c.report(attached(100), evpn.Synced{}, peerUp(peer1), many(600, vtep2, false))
	s := c.watch(t, &evpnv1.WatchRequest{})
	s.settled(c)
	s.cancel()
	c.report(many(2, vtep2, true), hasMAC(100, macA))
	again := c.watch(t, &evpnv1.WatchRequest{Token: s.token})
	again.rows, again.synced = s.rows, true
	again.settled(c)
	first, _ := strconv.ParseUint(strings.Split(s.token, ".")[4], 10, 64)
	if again.resets != 0 || len(again.events) == 0 || again.events[0].Id != first+1 {
		t.Errorf("%d resets, events %v after %s", again.resets, again.events, s.token)
	}
	for token, wantLost := range map[string]bool{
		"another." + strings.SplitN(s.token, ".", 2)[1]: false, // of another life
		s.token:                      false, // of another question
		c.instance + ".mn.0.0.0.0.0": true,
	} {
		for round := range 2 * 4 {
			c.report(many(2000, []netip.Addr{vtep2, vtep3}[round%2], false))
			until(t, "the kernel to be written", func() bool { return c.status().Kernel.Pending == 0 })
		}
		anew := c.watch(t, &evpnv1.WatchRequest{Token: token, Kinds: []string{"neighbor", "mac"}})
		anew.settled(c)
		if anew.resets != 1 || anew.lost > 0 != wantLost {
			t.Errorf("token %s: %d resets, %d lost", token, anew.resets, anew.lost)
		}
	}
	for _, row := range []struct {
		req  *evpnv1.WatchRequest
		code codes.Code
	}{
		{&evpnv1.WatchRequest{Token: "x"}, codes.InvalidArgument},
		{&evpnv1.WatchRequest{Token: "x.mne.0.1.-2.0.0"}, codes.InvalidArgument},
		{&evpnv1.WatchRequest{Kinds: []string{"cloud"}}, codes.InvalidArgument},
		{&evpnv1.WatchRequest{Topic: "weather"}, codes.InvalidArgument},
		{&evpnv1.WatchRequest{Vni: 999}, codes.NotFound},
	} {
		stream, err := c.inspect.Watch(c.ctx, row.req)
		if err == nil {
			_, err = stream.Recv()
		}
		if status.Code(err) != row.code {
			t.Errorf("%v: %v, want %v", row.req, err, row.code)
		}
	}
}

// TestWatchFilters: only what was asked for is sent, and a stop of the daemon ends the stream.
func TestWatchFilters(t *testing.T) {
	c := newClient(t, "", nil)
	c.report(attached(100), attached(200), evpn.Synced{})
	s := c.watch(t, &evpnv1.WatchRequest{Kinds: []string{"event"}, Topic: "mac", Vni: 200})
	s.until(func() bool { return s.synced })
	rows := c.watch(t, &evpnv1.WatchRequest{Kinds: []string{"mac"}, Vni: 200})
	rows.until(func() bool { return rows.synced })
	c.report(hasMAC(100, macA), hasIP(100, ipA, macA), hasMAC(200, macB), hasIP(200, ipB, macB))
	s.next()
	if len(s.events) != 1 || s.events[0].Mac != macB.String() || s.events[0].What != "learned" || s.events[0].Reason != "tap1" {
		t.Errorf("events %v", s.events)
	}
	rows.next()
	if len(rows.rows) != 1 || rows.rows["200 "+macB.String()] == "" {
		t.Errorf("rows %v", rows.rows)
	}
	if err := c.stop(); err != nil {
		t.Error(err)
	}
	for err := error(nil); status.Code(err) != codes.Unavailable; _, err = s.stream.Recv() {
		if err != nil {
			t.Fatal(err)
		}
	}
}
