package daemon

import (
	"slices"

	evpnv1 "github.com/evpnd/evpnd/api/evpn/v1"
	"github.com/evpnd/evpnd/dataplane"
	"github.com/evpnd/evpnd/evpn"
)

func protoSnooping(st dataplane.SnoopStatus) *evpnv1.Snooping {
	return &evpnv1.Snooping{
		Ports: uint32(st.Ports), Rate: uint32(st.Rate), Reason: printable(st.Off), Frames: protoSnoopCounts(st.Packets),
	}
}

// snoopedPorts are those whose hosts are in the VNI.
func snoopedPorts(ports []dataplane.SnoopedPort, vni evpn.VNI) []*evpnv1.SnoopedPort {
	var out []*evpnv1.SnoopedPort
	for _, p := range ports {
		if slices.Contains(p.VNIs, vni) {
			out = append(out, &evpnv1.SnoopedPort{Port: printable(p.Port), Reading: p.Reading, Frames: protoSnoopCounts(p.Packets)})
		}
	}
	return out
}

func protoSnoopCounts(counts []dataplane.SnoopCount) []*evpnv1.SnoopCount {
	var out []*evpnv1.SnoopCount
	for _, n := range counts {
		out = append(out, &evpnv1.SnoopCount{Proto: n.Proto, Verdict: n.Verdict, Frames: n.Packets})
	}
	return out
}
