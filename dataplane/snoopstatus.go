package dataplane

import (
	"slices"
	"strings"
	"sync/atomic"

	"github.com/evpnd/evpnd/evpn"
)

// SnoopStatus says what is read off the access ports.
type SnoopStatus struct {
	Ports   int    // with a ring
	Rate    int    // frames that a port may send in a second
	Off     string // why none can be had, in plain words; "": they can
	Packets []SnoopCount
	Each    []SnoopedPort // by name
}

// SnoopedPort is one access port whose frames are wanted.
type SnoopedPort struct {
	Port    string
	VNIs    []evpn.VNI // whose hosts are behind it
	Reading bool       // it has a ring
	Packets []SnoopCount
}

// SnoopCount counts the frames of one kind since the start. Of frames that the ring did not hold the protocol is not
// known.
type SnoopCount struct {
	Proto   string // arp, rarp, nd, dhcp, dhcpv6, other
	Verdict string // accepted, malformed, spoofed, tagged, server, relayed, unasked, limited, lost
	Packets uint64
}

func (s *snooper) status() SnoopStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := SnoopStatus{Rate: s.topo.snoopRate(), Packets: s.packets.list()}
	if s.off != nil {
		st.Off = s.off.Error()
	}
	for _, p := range s.ports {
		port, ats := s.topo.accessPort(p.ifindex)
		each := SnoopedPort{Port: port, Reading: p.ring.Load() != nil && !s.failed[p.ifindex], Packets: p.packets.list()}
		for _, at := range ats {
			each.VNIs = append(each.VNIs, at.VNI)
		}
		if each.Reading {
			st.Ports++
		}
		st.Each = append(st.Each, each)
	}
	slices.SortFunc(st.Each, func(a, b SnoopedPort) int { return strings.Compare(a.Port, b.Port) })
	return st
}

// packetCounts counts frames.
type packetCounts [protocols][verdicts]atomic.Uint64

func (c *packetCounts) list() (out []SnoopCount) {
	for proto := range protocols {
		for v := range verdicts {
			if n := c[proto][v].Load(); n > 0 {
				out = append(out, SnoopCount{proto.String(), v.String(), n})
			}
		}
	}
	return out
}
