package rawpeer

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/evpnd/evpnd/evpn"
	"github.com/evpnd/evpnd/evpn/wire"
)

// Load is a run of remote hosts, evenly over VNIs that follow one another.
type Load struct {
	From, N  int
	VNI      int // the first
	VNIs     int
	IPs      bool // MAC/IP routes, else MAC only
	VTEP     netip.Addr
	Seq      uint32 // of MAC Mobility; 0: none
	Withdraw bool
	// VTEPFirst is for who writes to the kernel: the VTEP goes before its MACs, the shortest way to no more frames.
	VTEPFirst bool
}

// VNIOf is that of host i.
func (l Load) VNIOf(i int) evpn.VNI { return evpn.VNI(l.VNI + i*l.VNIs/l.N) }

// MAC is that of host i.
func (l Load) MAC(i int) evpn.MAC {
	m := evpn.MAC{2, 1}
	binary.BigEndian.PutUint32(m[2:], uint32(l.From+i))
	return m
}

// IP is that of host i. It is in 172.16.0.0/12, which has room for a million.
func (l Load) IP(i int) netip.Addr {
	n := l.From + i
	return netip.AddrFrom4([4]byte{172, 16 + byte(n>>16), byte(n >> 8), byte(n)})
}

// Messages are the UPDATEs of the load: as full as they may be, VNI by VNI, as a reflector packs them.
func (l Load) Messages() ([]byte, error) {
	const atOnce = 5000 // routes to be held beside the messages
	var out []byte
	var routes []evpn.Route
	for i := 0; i < l.N; {
		vni := l.VNIOf(i)
		routes = routes[:0]
		for ; i < l.N && l.VNIOf(i) == vni && len(routes) < atOnce; i++ {
			r := evpn.Route{Key: evpn.RouteKey{Type: evpn.TypeMACIP, RD: evpn.NewRD(l.VTEP, uint16(vni)), MAC: l.MAC(i)}, Label1: uint32(vni)}
			if l.IPs {
				r.Key.IP = l.IP(i)
			}
			routes = append(routes, r)
		}
		var err error
		if out, err = l.appendUpdate(out, vni, routes); err != nil {
			return nil, fmt.Errorf("encode %d routes of VNI %d: %w", len(routes), vni, err)
		}
	}
	return out, nil
}

func (l Load) appendUpdate(out []byte, vni evpn.VNI, routes []evpn.Route) ([]byte, error) {
	if l.Withdraw {
		keys := make([]evpn.RouteKey, len(routes))
		for i := range routes {
			keys[i] = routes[i].Key
		}
		return wire.AppendWithdraw(out, keys, Options)
	}
	attrs := &evpn.Attrs{NextHop: l.VTEP, LocalPref: 100}
	ec := evpn.AppendEncapVXLAN(evpn.AppendRT(nil, evpn.NewRT(ASN, uint32(vni))))
	if l.Seq > 0 {
		ec = evpn.AppendMobility(ec, l.Seq, false)
	}
	attrs.SetExtComms(string(ec))
	return wire.AppendUpdate(out, attrs, routes, Options)
}
