package speaker

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/evpnd/evpnd/config"
	"github.com/evpnd/evpnd/evpn"
	"github.com/evpnd/evpnd/evpn/wire"
)

// vector is one message of the specification's test vectors.
type vector struct {
	Name, Group, Hex string
	Reaction         struct {
		Required       string
		AlsoAcceptable []string `json:"also_acceptable"`
		Notification   string
	}
	msg []byte
}

func vectors(t testing.TB) []vector {
	t.Helper()
	b, err := os.ReadFile("../evpn/wire/testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Vectors []vector }
	if err := json.Unmarshal(b, &file); err != nil {
		t.Fatal(err)
	}
	for i := range file.Vectors {
		v := &file.Vectors[i]
		if v.msg, err = hex.DecodeString(v.Hex); err != nil {
			t.Fatal(err)
		}
	}
	return file.Vectors
}

func (v *vector) resets() bool { return v.Reaction.Required == "session-reset" }

// vectorPair is a session as the vectors want it: iBGP in AS 64512.
func vectorPair(t testing.TB) (*node, *raw) {
	return pair(t, func(c *config.Config, p *raw) {
		c.ASN, c.Peers[0].ASN, p.asn = 64512, 64512, 64512
		c.Peers[0].HoldTime = 0
	})
}

// sentinel is an UPDATE with one route, which shows that the session and the routes after a vector work.
func sentinel(t testing.TB, p *raw, n int) (evpn.RouteKey, []byte) {
	t.Helper()
	r := macRoute(evpn.NewRD(p.id, 7), numberedMAC(n), netip.Addr{}, 7)
	a := &evpn.Attrs{NextHop: p.id, LocalPref: 100, ExtComms: rt(64512, 7)}
	if p.asn != 64512 && !p.opts.IBGP {
		a.ASPath = asSequence(p.asn)
	}
	msg, err := wire.AppendUpdate(nil, a, []evpn.Route{r}, p.opts)
	if err != nil {
		t.Fatal(err)
	}
	return r.Key, msg
}

func asSequence(asn uint32) string {
	return string([]byte{2, 1, byte(asn >> 24), byte(asn >> 16), byte(asn >> 8), byte(asn)})
}

func reaches(k evpn.RouteKey) func(*evpn.Update) bool {
	return func(u *evpn.Update) bool {
		return slices.ContainsFunc(u.Reach, func(r evpn.Route) bool { return r.Key == k })
	}
}

// TestVectorsOverSession sends every vector over a live session: it is kept or reset as required, with the right code on
// the wire, and a valid route in the next UPDATE arrives.
func TestVectorsOverSession(t *testing.T) {
	n, p := vectorPair(t)
	p.handshake()
	await[evpn.PeerUp](n, nil)
	for i, v := range vectors(t) {
		if kind := v.msg[18]; kind != byte(wire.MessageUpdate) && kind != byte(wire.MessageRouteRefresh) {
			continue
		}
		t.Run(v.Name, func(t *testing.T) {
			p.t = t
			before := n.info(p.id).Counters
			key, msg := sentinel(t, p, i)
			p.send(append(slices.Clone(v.msg), msg...))
			if v.resets() {
				var code, subcode uint8
				if _, err := fmt.Sscanf(v.Reaction.Notification, "%d/%d", &code, &subcode); err != nil {
					t.Fatal(err)
				}
				p.expectNotification(code, subcode)
				if e := await[evpn.PeerDown](n, nil); e.Retain != 0 {
					t.Fatalf("routes kept after a NOTIFICATION: %+v", e)
				}
				p = dialRetry(n, p.id, p.asn)
				p.handshake()
				await[evpn.PeerUp](n, nil)
				return
			}
			await(n, reaches(key))
			after := n.info(p.id).Counters
			if got := after.TreatAsWithdraw - before.TreatAsWithdraw; v.Reaction.Required == "treat-as-withdraw" && got != 1 {
				if !slices.Contains(v.Reaction.AlsoAcceptable, "accept") && !slices.Contains(v.Reaction.AlsoAcceptable, "accept-no-install") {
					t.Errorf("not treated as withdraw")
				}
			}
			if after.Flaps != before.Flaps {
				t.Errorf("session flapped")
			}
		})
	}
	if i := n.info(p.id); i.Counters.SkippedTypes[6] == 0 || i.Counters.SkippedTypes[9] == 0 || i.Counters.SkippedTypes[200] == 0 {
		t.Errorf("skipped types not counted: %+v", i.Counters.SkippedTypes)
	}
}

// TestUnknownInOneUpdate is what resets stock GoBGP, or makes it withdraw: unknown route types and communities beside a
// valid route in one UPDATE.
func TestUnknownInOneUpdate(t *testing.T) {
	n, p := pair(t, nil)
	p.handshake()
	await[evpn.PeerUp](n, nil)
	for i, ec := range []string{
		"\x06\x06\x01\x00\x00\x00\x00\x00", // DF election
		"\x06\x08\x01\x00\x00\x00\x00\x00", // ARP/ND
		"\x06\x09\x00\x00\x00\x00\x00\x00", // multicast flags, none set
		"\x06\x0a\x00\x00\x00\x00\x00\x00",
		"\x06\xfe\x01\x02\x03\x04\x05\x06",
		"\x99\x88\x01\x02\x03\x04\x05\x06",
	} {
		r := macRoute(evpn.NewRD(p.id, 7), numberedMAC(i), ip4, 7)
		a := &evpn.Attrs{NextHop: p.id, LocalPref: 100, ExtComms: rt(65000, 7) + ec}
		msg, err := wire.AppendUpdate(nil, a, []evpn.Route{r}, p.opts)
		if err != nil {
			t.Fatal(err)
		}
		for _, kind := range []byte{6, 9, 200, 0} {
			p.send(withNLRI(msg, append([]byte{kind, 12}, make([]byte, 12)...)))
		}
		u := await(n, reaches(r.Key))
		if u.Attrs.ExtComms != a.ExtComms {
			t.Errorf("community %x: %x arrived", ec, u.Attrs.ExtComms)
		}
	}
	if i := n.info(p.id); i.State != StateEstablished || i.Counters.Flaps != 0 || i.Counters.SkippedTypes[6] == 0 {
		t.Errorf("%+v", i)
	}
}

// withNLRI puts one more NLRI in front of those of an UPDATE that starts with MP_REACH_NLRI, IPv4 next hop.
func withNLRI(msg, nlri []byte) []byte {
	const attrs, value, first = wire.HeaderLen + 4, wire.HeaderLen + 7, wire.HeaderLen + 7 + 9
	out := slices.Concat(msg[:first], nlri, msg[first:])
	out[17] += byte(len(nlri))
	out[wire.HeaderLen+3] += byte(len(nlri))
	out[attrs+2] += byte(len(nlri))
	_ = value
	return out
}

// TestMalformedRepeated repeats every malformed vector 1,000 times (those that reset the session 50 times, each with a
// new session): bounded time, flat memory, no goroutine left.
func TestMalformedRepeated(t *testing.T) {
	n, p := vectorPair(t)
	p.handshake()
	await[evpn.PeerUp](n, nil)
	var kept []byte
	var resets []vector
	for _, v := range vectors(t) {
		switch {
		case v.Group != "malformed":
		case v.resets():
			resets = append(resets, v)
		default:
			kept = append(kept, v.msg...)
		}
	}
	round := func(keptTimes, resetTimes int) {
		for i := range keptTimes {
			p.send(kept)
			if i%100 == 99 {
				key, msg := sentinel(t, p, i)
				p.send(msg)
				await(n, reaches(key))
			}
		}
		for range resetTimes {
			for _, v := range resets {
				p.send(v.msg)
				if _, _, err := readToEnd(p); err != nil {
					t.Fatal(err)
				}
				await[evpn.PeerDown](n, nil)
				p = dialRetry(n, p.id, p.asn)
				p.handshake()
				await[evpn.PeerUp](n, nil)
			}
		}
	}
	round(100, 5)
	heap, routines := heapNow(), runtime.NumGoroutine()
	start := time.Now()
	round(1000, 50)
	grown := heapNow() - heap
	t.Logf("%s, heap %+d KiB, goroutines %+d", time.Since(start).Round(time.Millisecond), grown/1024, runtime.NumGoroutine()-routines)
	if grown > 4<<20 {
		t.Errorf("heap grew by %d KiB", grown/1024)
	}
	until(t, "no goroutine left behind", func() bool { return runtime.NumGoroutine() <= routines+2 })
}

// readToEnd reads to the NOTIFICATION and the end of the connection.
func readToEnd(p *raw) (wire.MessageType, []byte, error) {
	for {
		kind, msg, err := p.read()
		if err != nil {
			return 0, nil, fmt.Errorf("no NOTIFICATION: %w", err)
		}
		if kind == wire.MessageNotification {
			return kind, msg, p.c.Close()
		}
	}
}

func heapNow() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestLoopedRoutes: what has been through us counts as withdrawn, so that an earlier version is gone (CB-10).
func TestLoopedRoutes(t *testing.T) {
	n, p := pair(t, nil)
	p.handshake()
	await[evpn.PeerUp](n, nil)
	own := n.routerID.As4()
	for name, change := range map[string]func(*evpn.Attrs){
		"originator": func(a *evpn.Attrs) { a.OriginatorID = n.routerID },
		"as path":    func(a *evpn.Attrs) { a.ASPath = asSequence(65000) },
		"cluster":    func(a *evpn.Attrs) { a.ClusterList = "\x01\x02\x03\x04" + string(own[:]) },
	} {
		a := &evpn.Attrs{NextHop: p.id, LocalPref: 100, ExtComms: rt(65000, 7)}
		change(a)
		r := macRoute(evpn.NewRD(p.id, 7), mac1, netip.Addr{}, 7)
		msg, err := wire.AppendUpdate(nil, a, []evpn.Route{r}, p.opts)
		if err != nil {
			t.Fatal(err)
		}
		before := n.info(p.id).Counters.Looped
		p.send(msg)
		u := await[*evpn.Update](n, nil)
		if len(u.Reach) != 0 || !slices.Equal(u.Unreach, []evpn.RouteKey{r.Key}) || n.info(p.id).Counters.Looped != before+1 {
			t.Errorf("%s: %+v", name, u)
		}
	}
}

// TestOtherFamiliesDropped: a message of a family that was not negotiated would make GoBGP reset the session.
func TestOtherFamiliesDropped(t *testing.T) {
	n, p := pair(t, nil)
	p.handshake()
	await[evpn.PeerUp](n, nil)
	p.send(wire.AppendMessage(nil, wire.MessageUpdate, []byte{0, 0, 0, 0}))                         // End-of-RIB, IPv4
	p.send(wire.AppendMessage(nil, wire.MessageUpdate, []byte{0, 0, 0, 6, 0x80, 15, 3, 0, 1, 132})) // RTC
	p.send(wire.AppendMessage(nil, wire.MessageRouteRefresh, []byte{0, 1, 0, 128}))                 // RR-02
	p.send(wire.AppendMessage(nil, wire.MessageUpdate, []byte{0, 2, 8, 10, 0, 0}))                  // withdraw 10/8
	key, msg := sentinel(t, p, 1)
	p.send(msg)
	await(n, reaches(key))
	if i := n.info(p.id); i.Counters.Dropped != 4 || i.State != StateEstablished {
		t.Errorf("%+v", i)
	}
}

// TestEndOfRIB: the peer's End-of-RIB reaches the core.
func TestEndOfRIB(t *testing.T) {
	n, p := pair(t, nil)
	p.handshake()
	p.send(wire.AppendEoR(nil))
	await[evpn.EndOfRIB](n, nil)
}

// TestTwoOctetPeer: a peer without the 4-octet AS capability sends AS_PATH in two octets.
func TestTwoOctetPeer(t *testing.T) {
	n, p := pair(t, func(c *config.Config, p *raw) { c.ASN, p.asn, c.Peers[0].ASN = 4200000000, 64999, 64999 })
	p.opts = wire.Options{}
	p.handshake()
	await[evpn.PeerUp](n, nil)
	key, msg := sentinel(t, p, 1)
	p.send(msg)
	if u := await(n, reaches(key)); u.Attrs.ASPath != asSequence(64999) {
		t.Errorf("AS path %x", u.Attrs.ASPath)
	}
	if i := n.info(p.id); i.AS4 || i.Extended {
		t.Errorf("%+v", i)
	}
	a := &evpn.Attrs{NextHop: n.addr, ExtComms: rt(1, 7)}
	if err := n.Apply([]evpn.RouteOp{announce(macRoute(evpn.NewRD(n.addr, 1), mac1, ip4, 7), a)}); err != nil {
		t.Fatal(err)
	}
	msg = p.expect(wire.MessageUpdate)
	var r wire.Result
	if err := wire.NewDecoder(p.opts).Update(msg[wire.HeaderLen:], &r); err != nil || len(r.Reach) != 1 || r.Attrs.ASPath != asSequence(23456) {
		t.Errorf("%v %+v %+v", err, r, r.Attrs)
	}
}
