package evpn

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"
)

// DefaultReapAfter is how long entries of an earlier life wait for the peers' End-of-RIB.
const DefaultReapAfter = 2 * time.Minute

// Config is what the core needs to know of the configuration.
type Config struct {
	ASN      uint32
	RouterID netip.Addr // BGP identifier; IPv4
	VTEP     netip.Addr // our tunnel address, IPv4 or IPv6
	Dialect  RTDialect  // derives the route targets of policies that list none: DeriveRTs
	Default  VNIPolicy  // for VNIs without a policy of their own
	VNIs     map[VNI]VNIPolicy
	// RDNumbers are the numbers given to VNIs in earlier lives, for those that cannot carry the VNI itself.
	RDNumbers map[VNI]uint16
	// Peers that are expected to send End-of-RIB before entries of an earlier life are reaped.
	Peers []netip.Addr
	// ReapAfter bounds the wait for those peers; zero means DefaultReapAfter.
	ReapAfter time.Duration
	// LongestHold bounds the pause before a VTEP that came and went several times is used again; zero: there is none.
	LongestHold time.Duration
	// Duplicates says when a MAC or IP is a duplicate, and what is done then.
	Duplicates DuplicatePolicy
}

// VNIPolicy says how one VNI is served.
type VNIPolicy struct {
	Off       bool
	RD        RD          // zero: VTEP:n
	Import    []RTPattern // nil: by Dialect
	Export    []RT        // nil: by Dialect
	Limits    MACLimits
	StrictTag bool // refuse routes with a non-zero Ethernet Tag (ET-04)
	// StickyStatic has the MACs of static rows on local ports announced as sticky: they are here, whatever others say
	// (MM-09). Otherwise such a row is a host like any other, only that it is not removed when a remote VTEP wins.
	StickyStatic bool
	// Gateways are what this host answers for in the subnet of the VNI. They are announced, and no host may claim them.
	// No two have the same IP.
	Gateways []Gateway
}

// RTPattern matches route targets. The wildcard AnyAdmin matches all three forms; a 2-octet local administrator of the
// 4-octet-AS and IPv4 forms is compared with the low 16 bits of Local, as FRR does.
type RTPattern struct {
	RT       RT   // exact match, unless AnyAdmin
	AnyAdmin bool // *:Local
	Local    uint32
}

// Matches reports whether rt is meant.
func (p RTPattern) Matches(rt RT) bool {
	if !p.AnyAdmin {
		return p.RT == rt
	}
	if rt[0] == 0 {
		return binary.BigEndian.Uint32(rt[4:]) == p.Local
	}
	return binary.BigEndian.Uint16(rt[6:]) == uint16(p.Local)
}

func (p RTPattern) String() string {
	if p.AnyAdmin {
		return fmt.Sprintf("*:%d", p.Local)
	}
	return p.RT.String()
}
