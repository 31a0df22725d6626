package speaker

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/evpnd/evpnd/config"
	"github.com/evpnd/evpnd/evpn"
)

// dialWith connects to n with socket options.
func dialWith(n *node, from netip.Addr, o socketOptions) (*raw, error) {
	d := net.Dialer{
		Timeout: 300 * time.Millisecond, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0)), Control: control(o),
	}
	d.SetMultipathTCP(false)
	c, err := d.Dial("tcp", netip.AddrPortFrom(n.addr, n.port).String())
	if err != nil {
		return nil, err
	}
	p := newRaw(n.t, c.(*net.TCPConn), n.asn, from)
	p.opts.IBGP = true
	return p, nil
}

// TestMD5 checks the listening and the dialing side (SE-02).
func TestMD5(t *testing.T) {
	a, port := addresses(t, 3)
	cfg := nodeConfig(65000, a[0], port, peerConfig(65000, a[1], port, a[0]))
	cfg.Peers[0].Password, cfg.Peers[0].Passive = "secret", true
	cfg.DynamicPeers = []config.DynamicPeers{{
		Prefix: netip.PrefixFrom(a[2], 32), Limit: 10, Template: cfg.Peers[0],
	}}
	cfg.DynamicPeers[0].Template.Password = "for all of them"
	n := startNode(t, cfg)
	until(t, "listens", func() bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		return len(n.listening.sockets) > 0
	})
	to := netip.PrefixFrom(a[0], 32)
	for _, key := range []string{"", "wrong"} {
		if _, err := dialWith(n, a[1], socketOptions{key: key, peer: to}); err == nil {
			t.Errorf("connected with key %q", key)
		}
	}
	for from, key := range map[netip.Addr]string{a[1]: "secret", a[2]: "for all of them"} {
		p, err := dialWith(n, from, socketOptions{key: key, peer: to})
		if err != nil {
			t.Fatal(err)
		}
		p.handshake()
		await[evpn.PeerUp](n, nil)
	}
}

// TestMD5BothDial has the key on dialing and listening sockets of both sides.
func TestMD5BothDial(t *testing.T) {
	addr, port := addresses(t, 2)
	cfgA := nodeConfig(65000, addr[0], port, peerConfig(65000, addr[1], port, addr[0]))
	cfgB := nodeConfig(65000, addr[1], port, peerConfig(65000, addr[0], port, addr[1]))
	cfgA.Peers[0].Password, cfgB.Peers[0].Password = "secret", "secret"
	a, b := idleNode(t, cfgA), idleNode(t, cfgB)
	a.run()
	b.run()
	await[evpn.PeerUp](a, nil)
	await[evpn.PeerUp](b, nil)
}

// TestGTSM: packets that come from too far away are dropped, those of the TCP handshake among them (SE-01).
func TestGTSM(t *testing.T) {
	a, port := addresses(t, 2)
	cfg := nodeConfig(65000, a[0], port, peerConfig(65000, a[1], port, a[0]))
	cfg.Peers[0].TTLSecurity, cfg.Peers[0].Passive = 1, true
	n := startNode(t, cfg)
	until(t, "listens", func() bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		return len(n.listening.sockets) > 0
	})
	for _, ttl := range []int{64, 254} {
		if _, err := dialWith(n, a[1], socketOptions{ttl: ttl}); err == nil {
			t.Errorf("connected with TTL %d", ttl)
		}
	}
	p, err := dialWith(n, a[1], socketOptions{ttl: 255, minTTL: 255})
	if err != nil {
		t.Fatal(err)
	}
	p.handshake()
	await[evpn.PeerUp](n, nil)
}

// TestGTSMBesideOthers: where a peer without GTSM keeps the listening socket open to all, a connection's own limit holds.
func TestGTSMBesideOthers(t *testing.T) {
	a, port := addresses(t, 3)
	cfg := nodeConfig(65000, a[0], port, peerConfig(65000, a[1], port, a[0]), peerConfig(65000, a[2], port, a[0]))
	cfg.Peers[0].TTLSecurity, cfg.Peers[0].Passive, cfg.Peers[1].Passive = 1, true, true
	n := startNode(t, cfg)
	until(t, "listens", func() bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		return len(n.listening.sockets) > 0
	})
	far, err := dialWith(n, a[1], socketOptions{ttl: 254})
	if err != nil {
		t.Fatal(err)
	}
	until(t, "has accepted it", func() bool { return n.info(a[1]).State == StateOpenSent })
	far.sendOpen()
	quiet[evpn.PeerUp](n, 200*time.Millisecond)
	if s := n.info(a[1]).State; s != StateOpenSent {
		t.Errorf("state %s", s)
	}
	other, err := dialWith(n, a[2], socketOptions{ttl: 64})
	if err != nil {
		t.Fatal(err)
	}
	other.handshake()
	await[evpn.PeerUp](n, nil)
}

// TestStranger: only configured peers get past accept (SE-04).
func TestStranger(t *testing.T) {
	n, p := pair(t, nil)
	stranger := dialRaw(t, n, netip.AddrFrom4([4]byte{127, 0, 0, 77}), 65000)
	if _, _, err := stranger.read(); err == nil {
		t.Error("stranger was served")
	}
	if n.Refused() != 1 {
		t.Errorf("refused %d", n.Refused())
	}
	p.handshake()
	await[evpn.PeerUp](n, nil)
}
