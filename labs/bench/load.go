package main

import (
	"net/netip"

	"github.com/evpnd/evpnd/evpn"
	"github.com/evpnd/evpnd/labs/rawpeer"
)

const (
	asn      = rawpeer.ASN
	firstVNI = 100
)

var (
	ownVTEP   = netip.MustParseAddr("10.255.0.1")
	otherVTEP = netip.MustParseAddr("10.255.0.2") // of the second host, where there are two
	farVTEPs  = []netip.Addr{netip.MustParseAddr("10.255.1.1"), netip.MustParseAddr("10.255.1.2")}
	peers     = []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")}
)

// load is a run of remote hosts. The writer's process makes the same of it as we.
type load = rawpeer.Load

// fdbRows and neighborRows are how many entries the load takes in the kernel.
func fdbRows(l load) int { return l.N }

func neighborRows(l load) int {
	if l.IPs {
		return l.N
	}
	return 0
}

// opsOf are the load's kernel entries, in the order in which the core would have them written.
func opsOf(l load) []evpn.KernelOp {
	var vtep []evpn.KernelOp
	if l.Seq < 2 { // later moves are to and fro between two that are there
		vtep = append(vtep, evpn.KernelOp{Key: evpn.EntryKey{Table: evpn.TableVTEP, Addr: l.VTEP}, Del: l.Withdraw})
	}
	var macs, ips []evpn.KernelOp
	for i := range l.N {
		vni, mac := l.VNIOf(i), l.MAC(i)
		macs = append(macs, evpn.KernelOp{
			Key: evpn.EntryKey{Table: evpn.TableFDB, VNI: vni, MAC: mac}, Entry: evpn.Entry{VTEP: l.VTEP},
			Del: l.Withdraw, Replace: l.Seq > 0, Intact: l.Withdraw || l.Seq > 0,
		})
		if l.IPs && l.Seq == 0 { // a MAC that moves keeps its address
			ips = append(ips, evpn.KernelOp{
				Key: evpn.EntryKey{Table: evpn.TableNeighbor, VNI: vni, Addr: l.IP(i)}, Entry: evpn.Entry{MAC: mac},
				Del: l.Withdraw, Intact: l.Withdraw,
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
