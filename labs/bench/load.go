package main

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/evpnd/evpnd/evpn"
	"github.com/evpnd/evpnd/evpn/wire"
)

const (
	asn      = 65000
	firstVNI = 100
)

var (
	ownVTEP   = netip.MustParseAddr("10.255.0.1")
	otherVTEP = netip.MustParseAddr("10.255.0.2") // of the second host, where there are two
	farVTEPs  = []netip.Addr{netip.MustParseAddr("10.255.1.1"), netip.MustParseAddr("10.255.1.2")}
	peers     = []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")}
	ibgp      = wire.Options{AS4: true, IBGP: true}
)

// load is a run of remote hosts, evenly over VNIs that follow one another. The writer's process makes the same of it as we.
type load struct {
	From, N  int
	VNI      int // the first
	VNIs     int
	IPs      bool // MAC/IP routes, else MAC only
	VTEP     netip.Addr
	Seq      uint32 // of MAC Mobility; 0: none
	Withdraw bool
	// VTEPFirst has the kernel alone take away the VTEP before its MACs: the shortest way to no more frames.
	VTEPFirst bool
}

func (l load) vni(i int) evpn.VNI { return evpn.VNI(l.VNI + i*l.VNIs/l.N) }

func (l load) mac(i int) evpn.MAC {
	m := evpn.MAC{2, 1}
	binary.BigEndian.PutUint32(m[2:], uint32(l.From+i))
	return m
}

// ip is in 172.16.0.0/12, which has room for a million.
func (l load) ip(i int) netip.Addr {
	n := l.From + i
	return netip.AddrFrom4([4]byte{172, 16 + byte(n>>16), byte(n >> 8), byte(n)})
}

// fdb and neighbors are how many entries the load takes in the kernel.
func (l load) fdb() int { return l.N }

func (l load) neighbors() int {
	if l.IPs {
		return l.N
	}
	return 0
}

// messages are the UPDATEs of the load: as full as they may be, VNI by VNI, as a reflector packs them.
func (l load) messages() ([]byte, error) {
	const atOnce = 5000 // routes to be held beside the messages
	var out []byte
	var routes []evpn.Route
	for i := 0; i < l.N; {
		vni := l.vni(i)
		routes = routes[:0]
		for ; i < l.N && l.vni(i) == vni && len(routes) < atOnce; i++ {
			r := evpn.Route{Key: evpn.RouteKey{Type: evpn.TypeMACIP, RD: evpn.NewRD(l.VTEP, uint16(vni)), MAC: l.mac(i)}, Label1: uint32(vni)}
			if l.IPs {
				r.Key.IP = l.ip(i)
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

func (l load) appendUpdate(out []byte, vni evpn.VNI, routes []evpn.Route) ([]byte, error) {
	if l.Withdraw {
		keys := make([]evpn.RouteKey, len(routes))
		for i := range routes {
			keys[i] = routes[i].Key
		}
		return wire.AppendWithdraw(out, keys, ibgp)
	}
	attrs := &evpn.Attrs{NextHop: l.VTEP, LocalPref: 100}
	ec := evpn.AppendEncapVXLAN(evpn.AppendRT(nil, evpn.NewRT(asn, uint32(vni))))
	if l.Seq > 0 {
		ec = evpn.AppendMobility(ec, l.Seq, false)
	}
	attrs.SetExtComms(string(ec))
	return wire.AppendUpdate(out, attrs, routes, ibgp)
}

// ops are the load's kernel entries, in the order in which the core would have them written.
func (l load) ops() []evpn.KernelOp {
	var vtep []evpn.KernelOp
	if l.Seq < 2 { // later moves are to and fro between two that are there
		vtep = append(vtep, evpn.KernelOp{Key: evpn.EntryKey{Table: evpn.TableVTEP, Addr: l.VTEP}, Del: l.Withdraw})
	}
	var macs, ips []evpn.KernelOp
	for i := range l.N {
		vni, mac := l.vni(i), l.mac(i)
		macs = append(macs, evpn.KernelOp{
			Key: evpn.EntryKey{Table: evpn.TableFDB, VNI: vni, MAC: mac}, Entry: evpn.Entry{VTEP: l.VTEP},
			Del: l.Withdraw, Replace: l.Seq > 0,
		})
		if l.IPs && l.Seq == 0 { // a MAC that moves keeps its address
			ips = append(ips, evpn.KernelOp{
				Key: evpn.EntryKey{Table: evpn.TableNeighbor, VNI: vni, Addr: l.ip(i)}, Entry: evpn.Entry{MAC: mac}, Del: l.Withdraw,
			})
		}
	}
	switch {
	case l.Withdraw && l.VTEPFirst:
		return append(append(vtep, ips...), macs...)
	case l.Withdraw:
		return append(append(ips, macs...), vtep...)
	default:
		return append(append(vtep, macs...), ips...)
	}
}
