package speaker

import (
	"testing"

	"github.com/evpnd/evpnd/evpn"
)

// two are two speakers that peer with each other. Only b dials: when both do, a session that has just come up may give way
// to the other connection, and TestSimultaneousStart is about that.
func two(t testing.TB, asnA, asnB uint32) (a, b *node) {
	addr, port := addresses(t, 2)
	cfgA := nodeConfig(asnA, addr[0], port, peerConfig(asnB, addr[1], port, addr[0]))
	cfgA.Peers[0].Passive = true
	a = idleNode(t, cfgA)
	b = idleNode(t, nodeConfig(asnB, addr[1], port, peerConfig(asnA, addr[0], port, addr[1])))
	a.run()
	b.run()
	return a, b
}

func TestTwoSpeakers(t *testing.T) {
	for name, asn := range map[string]uint32{"ibgp": 65000, "ebgp": 4200000001} {
		t.Run(name, func(t *testing.T) {
			a, b := two(t, 65000, asn)
			up := await[evpn.PeerUp](b, nil)
			if up.Peer != a.addr || up.ASN != 65000 || up.RouterID != a.routerID {
				t.Fatalf("%+v", up)
			}
			await[evpn.PeerUp](a, nil)
			attrs := &evpn.Attrs{NextHop: a.addr, ExtComms: rt(65000, 100) + vxlanEncap}
			route := macRoute(evpn.NewRD(a.addr, 100), mac1, ip4, 100)
			if err := a.Apply([]evpn.RouteOp{announce(route, attrs)}); err != nil {
				t.Fatal(err)
			}
			u := await[*evpn.Update](b, nil)
			if len(u.Reach) != 1 || u.Reach[0] != route || u.Attrs.NextHop != a.addr || u.Attrs.ExtComms != attrs.ExtComms {
				t.Fatalf("%+v %+v", u, u.Attrs)
			}
			if err := a.Apply([]evpn.RouteOp{{Withdraw: true, Route: route}}); err != nil {
				t.Fatal(err)
			}
			u = await[*evpn.Update](b, nil)
			if len(u.Unreach) != 1 || u.Unreach[0] != route.Key {
				t.Fatalf("%+v", u)
			}
			a.ReleaseEoR()
			await[evpn.EndOfRIB](b, nil)
			a.stop()
			await[evpn.PeerDown](b, nil)
		})
	}
}
