package speaker

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/evpnd/evpnd/config"
	"github.com/evpnd/evpnd/evpn"
	"github.com/evpnd/evpnd/evpn/wire"
)

// patience bounds every wait of the tests.
const patience = 10 * time.Second

var lastNet atomic.Uint32

// addresses gives n addresses of 127/8 that no other test uses, and a port that is free on all of them.
func addresses(t testing.TB, n int) ([]netip.Addr, uint16) {
	t.Helper()
	net3 := lastNet.Add(1)
	addrs := make([]netip.Addr, n)
	for i := range addrs {
		addrs[i] = netip.AddrFrom4([4]byte{127, 3, byte(net3), byte(i + 1)})
	}
	port, err := freePort(addrs[0])
	if err != nil {
		t.Fatal(err)
	}
	return addrs, port
}

func testLog(t testing.TB) *logrus.Logger {
	log := logrus.New()
	log.SetOutput(io.Discard)
	if os.Getenv("SPEAKER_LOG") != "" {
		log.SetOutput(os.Stderr)
		log.SetLevel(logrus.DebugLevel)
		log.SetFormatter(&logrus.TextFormatter{FullTimestamp: true, TimestampFormat: "05.000000"})
	}
	return log
}

// node is a running speaker and what it told.
type node struct {
	*Speaker
	t      testing.TB
	addr   netip.Addr
	port   uint16
	cfg    *config.Config
	events chan []evpn.Event
	rest   []evpn.Event // taken from events, not looked at yet
	cancel context.CancelFunc
	ran    chan error
}

// nodeConfig is a configuration that listens on addr.
func nodeConfig(asn uint32, addr netip.Addr, port uint16, peers ...config.Peer) *config.Config {
	id := addr
	if !id.Is4() {
		id = netip.MustParseAddr("10.0.0.1")
	}
	return &config.Config{
		ASN: asn, RouterID: id, VTEP: id, Peers: peers,
		Listen: config.Listen{Enabled: true, Port: port, Addresses: []netip.Addr{addr}},
	}
}

// peerConfig is a peer with the defaults of package config.
func peerConfig(asn uint32, addr netip.Addr, port uint16, local netip.Addr) config.Peer {
	return config.Peer{
		Address: addr, Port: port, ASN: asn, LocalAddress: local, HoldTime: 90 * time.Second, Keepalive: 30 * time.Second,
		ConnectRetry: 5 * time.Second, GracefulRestart: 120 * time.Second,
	}
}

// startNode runs a speaker until the test ends or stop is called.
func startNode(t testing.TB, cfg *config.Config) *node {
	t.Helper()
	n := idleNode(t, cfg)
	if n == nil {
		t.FailNow()
	}
	n.run()
	return n
}

// parallel lets a test that mostly waits run beside others of its kind. Not under the race detector: StartBgp of one GoBGP
// writes package-level variables that another one reads.
func parallel(t *testing.T) {
	if !raceDetector {
		t.Parallel()
	}
}

// idleNode is a node that does not run yet, but must.
func idleNode(t testing.TB, cfg *config.Config) *node {
	t.Helper()
	events := make(chan []evpn.Event, 100_000)
	sp, err := New(cfg, events, testLog(t).WithField("node", cfg.RouterID.String()))
	if err != nil {
		t.Error(err)
		return nil
	}
	n := &node{Speaker: sp, t: t, cfg: cfg, port: cfg.Listen.Port, events: events, ran: make(chan error, 1)}
	if len(cfg.Listen.Addresses) > 0 {
		n.addr = cfg.Listen.Addresses[0]
	}
	return n
}

func (n *node) run() {
	ctx, cancel := context.WithCancel(context.Background())
	n.cancel = cancel
	go func() { n.ran <- n.Run(ctx) }()
	n.t.Cleanup(n.stop)
}

// stop ends the speaker; the second call does nothing.
func (n *node) stop() {
	n.t.Helper()
	n.cancel()
	select {
	case err := <-n.ran:
		if err != nil {
			n.t.Errorf("Run: %v", err)
		}
		n.ran <- nil
	case <-time.After(patience):
		n.t.Fatal("Run did not return")
	}
}

// next returns the next fact.
func (n *node) next() evpn.Event {
	n.t.Helper()
	if len(n.rest) == 0 {
		select {
		case n.rest = <-n.events:
		case <-time.After(patience):
			n.t.Fatalf("no fact; sessions: %+v", n.Sessions())
		}
	}
	ev := n.rest[0]
	n.rest = n.rest[1:]
	return ev
}

// await skips facts until one of type E that ok accepts.
func await[E evpn.Event](n *node, ok func(E) bool) E {
	n.t.Helper()
	for {
		if ev, is := n.next().(E); is && (ok == nil || ok(ev)) {
			return ev
		}
	}
}

// quiet fails the test if a fact of type E comes within d.
func quiet[E evpn.Event](n *node, d time.Duration) {
	n.t.Helper()
	limit := time.After(d)
	for {
		for _, ev := range n.rest {
			if e, is := ev.(E); is {
				n.t.Fatalf("unexpected %+v", e)
			}
		}
		select {
		case n.rest = <-n.events:
		case <-limit:
			n.rest = nil
			return
		}
	}
}

// info is the session with one peer.
func (n *node) info(peer netip.Addr) SessionInfo {
	for _, i := range n.Sessions() {
		if i.Peer == peer {
			return i
		}
	}
	return SessionInfo{}
}

// until polls a condition that no fact announces.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never came true: %s", what)
		}
	}
}

// raw is a BGP peer that does what the test says.
type raw struct {
	t      testing.TB
	c      *net.TCPConn
	r      *messageReader
	asn    uint32
	id     netip.Addr
	opts   wire.Options
	hold   uint16
	caps   []byte // beside EVPN, AS4, extended messages
	theirs open
}

// dialRaw connects to n from an address.
func dialRaw(t testing.TB, n *node, from netip.Addr, asn uint32) *raw {
	t.Helper()
	c, err := tryDial(n, from)
	if err != nil {
		t.Fatal(err)
	}
	p := newRaw(t, c, asn, from)
	p.opts.IBGP = asn == n.asn
	return p
}

func tryDial(n *node, from netip.Addr) (*net.TCPConn, error) {
	d := net.Dialer{Timeout: patience, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))}
	c, err := d.Dial("tcp", netip.AddrPortFrom(n.addr, n.port).String())
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

func newRaw(t testing.TB, c *net.TCPConn, asn uint32, id netip.Addr) *raw {
	t.Cleanup(func() { c.Close() })
	refresh := wire.AppendCapability(nil, capRefresh, nil)
	return &raw{
		t: t, c: c, r: newMessageReader(c, wire.Options{Extended: true}), asn: asn, id: id, hold: 90,
		opts: wire.Options{AS4: true, Extended: true}, caps: refresh,
	}
}

func (p *raw) send(b []byte) {
	p.t.Helper()
	if _, err := p.c.Write(b); err != nil {
		p.t.Fatal(err)
	}
}

func (p *raw) sendOpen() {
	p.t.Helper()
	p.send(wire.AppendOpen(nil, wire.Open{ASN: p.asn, HoldTime: p.hold, RouterID: p.id, More: p.caps}, p.opts))
}

// read returns the next message that is not a KEEPALIVE.
func (p *raw) read() (wire.MessageType, []byte, error) {
	p.c.SetReadDeadline(time.Now().Add(patience))
	for {
		kind, msg, err := p.r.next()
		if err != nil || kind != wire.MessageKeepalive {
			return kind, msg, err
		}
	}
}

func (p *raw) expect(want wire.MessageType) []byte {
	p.t.Helper()
	p.c.SetReadDeadline(time.Now().Add(patience))
	kind, msg, err := p.r.next()
	if err != nil {
		p.t.Fatalf("want message type %d: %v", want, err)
	}
	if kind != want {
		p.t.Fatalf("want message type %d, got %d: %x", want, kind, msg)
	}
	return msg
}

// expectNotification reads to a NOTIFICATION and the end of the connection behind it.
func (p *raw) expectNotification(code, subcode uint8) *notification {
	p.t.Helper()
	for {
		kind, msg, err := p.read()
		if err != nil {
			p.t.Fatalf("want NOTIFICATION %d/%d: %v", code, subcode, err)
		}
		if kind != wire.MessageNotification {
			continue
		}
		n := parseNotification(msg)
		if n.code != code || n.subcode != subcode {
			p.t.Fatalf("want NOTIFICATION %d/%d, got %s", code, subcode, n)
		}
		if _, _, err := p.read(); !errors.Is(err, io.EOF) {
			p.t.Fatalf("after NOTIFICATION %s: want end of connection, got %v", n, err)
		}
		return n
	}
}

// handshake brings the session up.
func (p *raw) handshake() {
	p.t.Helper()
	p.sendOpen()
	p.handshakeRest()
}

func (p *raw) handshakeRest() {
	p.t.Helper()
	o, err := parseOpen(append([]byte(nil), p.expect(wire.MessageOpen)...))
	if err != nil {
		p.t.Fatal(err)
	}
	p.theirs = o
	p.send(wire.AppendKeepalive(nil))
	p.expect(wire.MessageKeepalive)
}

// pair is a speaker with one passive peer, and that peer.
func pair(t testing.TB, change func(*config.Config, *raw)) (*node, *raw) {
	t.Helper()
	a, port := addresses(t, 2)
	cfg := nodeConfig(65000, a[0], port, peerConfig(65000, a[1], port, a[0]))
	cfg.Peers[0].Passive = true
	proto := &raw{asn: 65000}
	if change != nil {
		change(cfg, proto)
	}
	n := startNode(t, cfg)
	p := dialRetry(n, a[1], proto.asn)
	p.caps = append(p.caps, proto.caps...)
	if proto.hold != 0 {
		p.hold = proto.hold
	}
	return n, p
}

// dialRetry connects to a speaker that may not listen yet.
func dialRetry(n *node, from netip.Addr, asn uint32) *raw {
	n.t.Helper()
	var c *net.TCPConn
	until(n.t, "speaker listens", func() (ok bool) {
		var err error
		c, err = tryDial(n, from)
		return err == nil
	})
	p := newRaw(n.t, c, asn, from)
	p.opts.IBGP = asn == n.asn
	return p
}

var (
	mac1       = evpn.MAC{2, 0, 0, 0, 0, 1}
	ip4        = netip.MustParseAddr("10.1.0.1")
	ip6        = netip.MustParseAddr("2001:db8::1")
	vxlanEncap = "\x03\x0c\x00\x00\x00\x00\x00\x08"
)

func rt(asn uint16, n uint32) string {
	r := evpn.NewRT(uint32(asn), n)
	return string(r[:])
}

func macRoute(rd evpn.RD, mac evpn.MAC, ip netip.Addr, vni uint32) evpn.Route {
	return evpn.Route{Key: evpn.RouteKey{Type: evpn.TypeMACIP, RD: rd, MAC: mac, IP: ip}, Label1: vni}
}

func numberedMAC(i int) evpn.MAC {
	return evpn.MAC{2, 1, byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)}
}

func announce(r evpn.Route, a *evpn.Attrs) evpn.RouteOp { return evpn.RouteOp{Route: r, Attrs: a} }
