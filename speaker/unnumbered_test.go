package speaker

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/evpnd/evpnd/config"
	"github.com/evpnd/evpnd/evpn"
)

// unnumberedPair makes a link v0–v1 and a speaker at each end that knows nothing of the other but the interface: the first
// one dials, the second one listens.
func unnumberedPair(t *testing.T, change func(dials, listens *config.Peer)) (dials, listens *node) {
	t.Helper()
	ip(t, "link set lo up")
	ip(t, "link add v0 type veth peer name v1")
	for i, dev := range []string{"v0", "v1"} {
		ip(t, "link set "+dev+" addrgenmode none")
		ip(t, "link set "+dev+" up")
		ip(t, "address add fe80::"+string(rune('a'+i))+"/64 dev "+dev+" nodad")
	}
	here := peerConfig(0, evpn.InterfacePeer("v0"), 179, netip.Addr{})
	there := peerConfig(0, evpn.InterfacePeer("v1"), 179, netip.Addr{})
	here.External, there.External, there.Passive = true, true, true
	here.Interface, there.Interface = "v0", "v1"
	here.ConnectRetry = firstBackoff
	change(&here, &there)
	cfg := nodeConfig(65000, netip.MustParseAddr("10.0.0.1"), 179, here)
	cfg.Listen = config.Listen{}
	other := nodeConfig(65001, netip.IPv6Unspecified(), 179, there)
	other.RouterID = netip.MustParseAddr("10.0.0.2")
	return startNode(t, cfg), startNode(t, other)
}

// TestUnnumbered: whoever is at the other end of a link is one peer, whatever its address, while the link comes and goes.
func TestUnnumbered(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	dials, listens := unnumberedPair(t, func(a, b *config.Peer) { a.Password, b.Password = "secret", "secret" })
	peer := evpn.InterfacePeer("v0")
	up := func(p evpn.PeerUp) bool { return p.Peer == peer }
	await(dials, up)
	await(listens, func(p evpn.PeerUp) bool { return p.Peer == evpn.InterfacePeer("v1") && p.ASN == 65000 })
	if i := dials.info(peer); i.Remote != netip.MustParseAddr("fe80::b%v0") || i.ASN != 65001 || len(i.Link.Routers) != 1 {
		t.Errorf("%+v", i)
	}
	quieter := *dials.cfg // what a reload changes under the session
	quieter.Peers = slices.Clone(quieter.Peers)
	quieter.Peers[0].NoAdvertisements = true
	for _, cfg := range []*config.Config{&quieter, dials.cfg} {
		if err := dials.Configure(cfg); err != nil {
			t.Fatal(err)
		}
		p, err := dials.find(peer)
		if err != nil || p.advertise.Load() == cfg.Peers[0].NoAdvertisements || dials.info(peer).State != StateEstablished {
			t.Errorf("%v, %+v", err, dials.info(peer))
		}
	}
	route := macRoute(evpn.NewRD(listens.cfg.RouterID, 1), mac1, ip6, 7)
	attrs := &evpn.Attrs{NextHop: netip.MustParseAddr("10.0.0.2"), ExtComms: rt(65001, 7)}
	if err := listens.Apply([]evpn.RouteOp{announce(route, attrs)}); err != nil {
		t.Fatal(err)
	}
	listens.ReleaseEoR()
	if u := await[*evpn.Update](dials, nil); u.Peer != peer || u.Reach[0] != route {
		t.Errorf("%+v", u)
	}
	await(dials, func(e evpn.EndOfRIB) bool { return e.Peer == peer })

	ip(t, "address del fe80::b/64 dev v1")
	ip(t, "address add fe80::c/64 dev v1 nodad")
	down := await(dials, func(p evpn.PeerDown) bool { return p.Peer == peer })
	if down.Retain == 0 {
		t.Errorf("routes of a peer whose address changes are not kept: %+v", down)
	}
	await(dials, up)
	until(t, "the session is with the new address", func() bool {
		i := dials.info(peer)
		return i.State == StateEstablished && i.Remote == netip.MustParseAddr("fe80::c%v0")
	})
	await(dials, func(e evpn.EndOfRIB) bool { return e.Peer == peer })

	ip(t, "link set v0 down")
	if down := await(dials, func(p evpn.PeerDown) bool { return p.Peer == peer }); down.Reason != "interface v0 is down" {
		t.Errorf("%+v", down)
	}
	until(t, "nobody is there", func() bool {
		i := dials.info(peer)
		return i.State == StateIdle && !i.Remote.IsValid() && i.LastError == "interface v0 is down"
	})
	ip(t, "link set v0 up")
	ip(t, "address replace fe80::a/64 dev v0 nodad")
	await(dials, up)
}

// TestHandedOverAddress: a connection that is handed over must be with the peer; an unnumbered one may have any address of its link.
func TestHandedOverAddress(t *testing.T) {
	for _, row := range []struct {
		peer, addr string
		want       bool
	}{
		{"10.0.0.1", "10.0.0.1", true},
		{"10.0.0.1", "10.0.0.2", false},
		{"fe80::%eth0", "fe80::1%eth0", true},
		{"fe80::%eth0", "fe80::1%eth1", false},
		{"fe80::%eth0", "2001:db8::1", false},
		{"fe80::1%eth0", "fe80::2%eth0", false},
	} {
		if got := isAt(netip.MustParseAddr(row.peer), netip.MustParseAddr(row.addr)); got != row.want {
			t.Errorf("%s at %s: %v", row.peer, row.addr, got)
		}
	}
}

// TestExternal: `asn: external` is any AS but our own.
func TestExternal(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	dials, listens := unnumberedPair(t, func(a, b *config.Peer) {})
	await[evpn.PeerUp](dials, nil)
	cfg := *listens.cfg
	listens.stop()
	cfg.ASN = 65000
	cfg.Peers = slices.Clone(cfg.Peers)
	cfg.Peers[0].External, cfg.Peers[0].ASN = false, 65000
	cfg.Peers[0].TTLSecurity, cfg.Peers[0].Password = 0, ""
	startNode(t, &cfg)
	peer := evpn.InterfacePeer("v0")
	until(t, "the peer is refused", func() bool {
		i := dials.info(peer)
		return errors.Is(i.LastCause, ErrPeerAS) && strings.Contains(i.LastError, "our own AS") && strings.Contains(i.LastSent, "bad peer AS")
	})
}
