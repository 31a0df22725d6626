package evpn

import (
	"fmt"
	"math"
	"net/netip"
	"time"

	"pgregory.net/rapid"
)

// The world of the properties: small, so that everything meets everything.
var (
	worldVNIs  = []VNI{100, 200}
	worldPeers = []netip.Addr{netip.MustParseAddr("10.0.0.253"), netip.MustParseAddr("10.0.0.254"), netip.MustParseAddr("2001:db8::fe")}
	worldVTEPs = []netip.Addr{
		netip.MustParseAddr("10.254.0.9"), // lower than ours
		netip.MustParseAddr("10.255.0.1"), // ours
		netip.MustParseAddr("10.255.0.2"), netip.MustParseAddr("10.255.0.3"),
		netip.MustParseAddr("2001:db8::2"), // of the other family
	}
	worldMACs = []MAC{{2, 0, 0, 0, 0, 1}, {2, 0, 0, 0, 0, 2}, {2, 0, 0, 0, 0, 3}, {2, 0xbb, 0, 0, 0, 1}}
	worldIPs  = []netip.Addr{netip.MustParseAddr("172.16.0.1"), netip.MustParseAddr("172.16.0.2"), netip.MustParseAddr("2001:db8:1::1")}
	// Sequence numbers from all around the circle.
	worldSeqs = []uint32{0, 1, 2, 3, 1 << 30, 1 << 31, 1<<31 + 1, 3 << 30, math.MaxUint32}
)

func worldConfig() Config {
	return Config{
		ASN: 65000, VTEP: worldVTEPs[1], RouterID: worldVTEPs[1],
		VNIs:  map[VNI]VNIPolicy{},
		Peers: worldPeers,
		// Few enough for a short run to find some, and let go of while it rests.
		Duplicates: DuplicatePolicy{Moves: 2, Within: time.Minute, RecoverAfter: 3 * time.Minute},
	}
}

func attachment(vni VNI) AttachmentUp {
	return AttachmentUp{Attachment{
		VNI: vni, Device: fmt.Sprintf("vxlan%d", vni), Bridge: fmt.Sprintf("br%d", vni),
		BridgeMAC: worldMACs[3], Local: worldVTEPs[1], Usable: true,
	}}
}

// drawRoute draws a route of type 2 or 3 and its attributes. Keys repeat often; their contents do not.
func drawRoute(t *rapid.T) (Route, *Attrs) {
	vni := rapid.SampledFrom(worldVNIs).Draw(t, "vni")
	vtep := rapid.SampledFrom(worldVTEPs).Draw(t, "vtep")
	a := &Attrs{NextHop: vtep, LocalPref: rapid.SampledFrom([]uint32{100, 200}).Draw(t, "localPref")}
	rd := NewRD(worldVTEPs[rapid.IntRange(0, 3).Draw(t, "rd")], uint16(vni))
	ec := AppendRT(nil, NewRT(65000, uint32(vni)))
	if rapid.IntRange(0, 9).Draw(t, "bothRTs") == 0 {
		ec = AppendRT(AppendRT(nil, NewRT(65000, 100)), NewRT(65000, 200))
	}
	ec = AppendEncapVXLAN(ec)
	r := Route{Key: RouteKey{RD: rd}}
	if rapid.IntRange(0, 3).Draw(t, "imet") == 0 {
		r.Key.Type, r.Key.IP = TypeIMET, vtep
		endpoint := rapid.SampledFrom(worldVTEPs).Draw(t, "endpoint")
		a.PMSI = PMSI{Present: true, Tunnel: TunnelIngressReplication, Label: uint32(vni), Endpoint: endpoint}
	} else {
		r.Key.Type, r.Key.MAC = TypeMACIP, rapid.SampledFrom(worldMACs).Draw(t, "mac")
		if i := rapid.IntRange(-1, len(worldIPs)-1).Draw(t, "ip"); i >= 0 {
			r.Key.IP = worldIPs[i]
		}
		r.Label1 = uint32(vni)
		seq, sticky := rapid.SampledFrom(worldSeqs).Draw(t, "seq"), rapid.IntRange(0, 7).Draw(t, "sticky") == 0
		if seq != 0 || sticky {
			ec = AppendMobility(ec, seq, sticky)
		}
		switch rapid.IntRange(0, 15).Draw(t, "fixed") {
		case 1:
			ec = AppendDefaultGateway(ec)
		case 2:
			ec = AppendNDFlags(ec, NDImmutable)
		}
	}
	a.SetExtComms(string(ec))
	return r, a
}

// drawPeerFact draws something that peer may say: mostly an UPDATE.
func drawPeerFact(t *rapid.T, peer netip.Addr) []Event {
	switch n := rapid.IntRange(0, 39).Draw(t, "kind"); { // the first is what rapid shrinks to
	case n < 28:
		r, a := drawRoute(t)
		return []Event{&Update{Peer: peer, Attrs: a, Reach: []Route{r}}}
	case n < 38:
		r, _ := drawRoute(t)
		return []Event{&Update{Peer: peer, Unreach: []RouteKey{r.Key}}}
	case n < 39:
		return []Event{EndOfRIB{Peer: peer}}
	default:
		return []Event{PeerDown{Peer: peer}, PeerUp{Peer: peer}}
	}
}

func drawKey(t *rapid.T) EntryKey {
	k := EntryKey{Table: rapid.SampledFrom([]Table{TableVTEP, TableFlood, TableFDB, TableNeighbor}).Draw(t, "table")}
	if k.Table != TableVTEP {
		k.VNI = rapid.SampledFrom(worldVNIs).Draw(t, "vni")
	}
	switch k.Table {
	case TableFDB:
		k.MAC = rapid.SampledFrom(worldMACs[:3]).Draw(t, "mac")
	case TableNeighbor:
		k.Addr = rapid.SampledFrom(worldIPs).Draw(t, "ip")
	default:
		k.Addr = rapid.SampledFrom(worldVTEPs[:4]).Draw(t, "vtep")
	}
	return k
}
