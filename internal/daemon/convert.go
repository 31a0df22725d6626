package daemon

import (
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	evpnv1 "github.com/evpnd/evpnd/api/evpn/v1"
	"github.com/evpnd/evpnd/config"
	"github.com/evpnd/evpnd/evpn"
)

// text prints an address, and nothing where there is none.
func text(a netip.Addr) string {
	return evpn.PeerName(a)
}

// printable replaces what is not UTF-8: names of devices, texts of peers and of the configuration may hold any octets,
// and neither protobuf nor Prometheus takes them.
func printable(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

func texts[T fmt.Stringer](items []T) []string {
	out := make([]string, len(items))
	for i, it := range items {
		out[i] = it.String()
	}
	return out
}

func timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() || t.UnixNano() == 0 {
		return nil
	}
	return timestamppb.New(t)
}

func originOf(local bool) string {
	if local {
		return "local"
	}
	return "remote"
}

func vniNumbers(vnis []evpn.VNI) []uint32 {
	out := make([]uint32, len(vnis))
	for i, v := range vnis {
		out[i] = uint32(v)
	}
	return out
}

func protoKernel(s evpn.KernelStatus) *evpnv1.KernelEntry {
	return &evpnv1.KernelEntry{State: cmp.Or(s.State, "none"), Reason: printable(s.Reason)}
}

// withConfigured adds to the VNIs that have a device those that only the configuration names.
func withConfigured(views []evpn.VNIView, cfg *config.Config) []*evpnv1.VNI {
	out := make([]*evpnv1.VNI, 0, len(views))
	served := make(map[evpn.VNI]bool, len(views))
	for _, v := range views {
		served[v.VNI] = true
		p := protoVNI(v)
		if cfg.VNIs[v.VNI].Off {
			p.State = "off"
		}
		out = append(out, p)
	}
	for vni, policy := range cfg.VNIs {
		switch {
		case served[vni]:
		case policy.Off:
			out = append(out, &evpnv1.VNI{Vni: uint32(vni), State: "off"})
		default:
			out = append(out, &evpnv1.VNI{Vni: uint32(vni), State: "missing"})
		}
	}
	slices.SortFunc(out, func(a, b *evpnv1.VNI) int { return cmp.Compare(a.Vni, b.Vni) })
	return out
}

func protoVNI(v evpn.VNIView) *evpnv1.VNI {
	state := "up"
	if !v.InService {
		state = "fault"
	}
	var faults []string
	for _, fault := range v.Faults {
		faults = append(faults, printable(fault))
	}
	if v.Reason != "" {
		faults = append(faults, v.Reason)
	}
	return &evpnv1.VNI{
		Vni: uint32(v.VNI), State: state, Device: printable(v.Device), Bridge: printable(v.Bridge), Vlan: uint32(v.VLAN), SourceVni: uint32(v.SourceVNI),
		Vtep: text(v.Local), Rd: v.RD.String(), ImportRts: texts(v.Import), ExportRts: texts(v.Export), Faults: faults,
		Vteps: uint32(v.VTEPs), MacsLocal: uint32(v.LocalMACs), MacsRemote: uint32(v.RemoteMACs),
		NeighborsLocal: uint32(v.LocalIPs), NeighborsRemote: uint32(v.RemoteIPs), Since: timestamp(v.Since),
		ArpSuppression: v.Suppress, MacsOverLimit: uint32(v.OverLimit),
	}
}

func protoVTEP(v evpn.VTEPView) *evpnv1.VTEP {
	p := &evpnv1.VTEP{
		Vni: uint32(v.VNI), Vtep: text(v.VTEP), Flood: v.Flood, Macs: uint32(v.MACs),
		Peers: texts(v.Peers), Kernel: protoKernel(v.Kernel), Since: timestamp(v.Since),
	}
	switch {
	case v.Flood:
		p.Rd = v.RD.String()
	case v.Way.Down:
		p.Reason = v.Way.Reason
	default:
		p.Reason = "no usable IMET route"
	}
	p.Reachability, p.Losses = "reachable", uint32(v.Way.Losses)
	if v.Way.Down {
		p.Reachability = "unreachable"
	}
	if !v.Way.Until.IsZero() {
		p.Reachability, p.HeldUntil = "held", timestamp(v.Way.Until)
	}
	if !v.Way.Since.IsZero() {
		p.ReachabilitySince = timestamp(v.Way.Since)
	}
	return p
}

// isLocal counts a row on a local port as local also while nobody owns its MAC.
func isLocal(v evpn.MACView) bool { return v.Local || !v.VTEP.IsValid() }

func protoMAC(v evpn.MACView) *evpnv1.MAC {
	p := &evpnv1.MAC{
		Vni: uint32(v.VNI), Mac: v.MAC.String(), Origin: originOf(isLocal(v)), Vtep: text(v.VTEP), Port: printable(v.Port),
		Sequence: v.Seq, Sticky: v.Sticky, Announced: v.Announced, Since: timestamp(v.Since),
		Static: v.Static, Moves: v.Moves, Reason: v.Reason, Duplicate: protoDuplicate(v.Duplicate),
	}
	p.Routes, p.Ips = uint32(v.Routes), texts(v.IPs)
	if p.Origin == "remote" {
		p.Kernel = protoKernel(v.Kernel)
	}
	p.Candidates = protoCandidates(v.Candidates)
	return p
}

func protoNeighbor(v evpn.NeighborView) *evpnv1.Neighbor {
	p := &evpnv1.Neighbor{
		Vni: uint32(v.VNI), Ip: text(v.IP), Mac: v.MAC.String(), Origin: originOf(v.Local), Vtep: text(v.VTEP), Port: printable(v.Port),
		Sequence: v.Seq, Sticky: v.Sticky, Router: v.Router, Announced: v.Announced, Since: timestamp(v.Since),
		Duplicate: protoDuplicate(v.Duplicate), LeaseEnd: timestamp(v.LeaseEnd),
	}
	if !v.Local {
		p.Kernel = protoKernel(v.Kernel)
	}
	p.Candidates = protoCandidates(v.Candidates)
	return p
}

func protoDuplicate(d *evpn.Duplicate) *evpnv1.Duplicate {
	if d == nil {
		return nil
	}
	return &evpnv1.Duplicate{Since: timestamp(d.Since), Until: timestamp(d.Until), Moves: uint32(d.Moves), Action: d.Action.String()}
}

// protoCandidates puts the chosen one first.
func protoCandidates(cands []evpn.Candidate) []*evpnv1.Candidate {
	var out []*evpnv1.Candidate
	for _, c := range cands {
		p := &evpnv1.Candidate{
			Chosen: c.Best, Reason: c.Lost, Origin: originOf(c.Local), Mac: c.MAC.String(), Vtep: text(c.VTEP), Port: printable(c.Port),
			Peer: text(c.Peer), Sequence: c.Seq, Sticky: c.Sticky, Since: timestamp(c.Since),
		}
		if !c.Local {
			p.Rd = c.RD.String()
		}
		if c.Best {
			out = slices.Insert(out, 0, p)
		} else {
			out = append(out, p)
		}
	}
	return out
}

func protoRoute(v evpn.RouteView) *evpnv1.Route {
	a := &v.Attrs
	p := &evpnv1.Route{
		Type: uint32(v.Key.Type), Key: v.Key.String(), Rd: v.Key.RD.String(), Direction: "in", Peer: text(v.Peer),
		Status: "accepted", Reason: v.Rejected, Vnis: vniNumbers(v.VNIs), EthernetTag: uint32(v.Key.Tag), Ip: text(v.Key.IP),
		PrefixLength: uint32(v.Key.PrefixLen), Label1: v.Label1, Label2: v.Label2, Gateway: text(v.GW), NextHop: text(a.NextHop),
		RouteTargets: texts(a.RTs()), Encapsulation: encapNames[a.Encap], Mobility: a.HasMobility, Sequence: a.Seq,
		Sticky: a.Sticky, DefaultGateway: a.DefaultGateway, NdFlags: ndFlagNames(a), Origin: originName(a.Origin),
		AsPath: asPathText(a.ASPath), LocalPref: a.LocalPref, Med: a.MED, OriginatorId: text(a.OriginatorID),
		ClusterList: clusterTexts(a.ClusterList), Communities: communityTexts(a.Communities),
		ExtendedCommunities: extendedTexts(a.ExtComms), Received: timestamp(v.Received), Stale: v.Stale,
	}
	switch {
	case !v.Peer.IsValid():
		p.Direction, p.Status = "out", "advertised"
	case v.Rejected != "":
		p.Status = "refused"
	case v.Best:
		p.Status = "chosen"
	}
	if v.Key.Type == evpn.TypeMACIP {
		p.Mac = v.Key.MAC.String()
	}
	if esi := v.ESI; !esi.IsZero() {
		p.Esi = esi.String()
	} else if !v.Key.ESI.IsZero() {
		p.Esi = v.Key.ESI.String()
	}
	if !a.RouterMAC.IsZero() {
		p.RouterMac = a.RouterMAC.String()
	}
	if a.PMSI.Present {
		p.Pmsi = &evpnv1.PMSI{
			Tunnel: tunnelName(a.PMSI.Tunnel), Label: a.PMSI.Label, Endpoint: text(a.PMSI.Endpoint), Flags: uint32(a.PMSI.Flags),
		}
	}
	return p
}

var encapNames = map[evpn.Encap]string{evpn.EncapVXLAN: "vxlan", evpn.EncapOther: "other"}

func tunnelName(t uint8) string {
	switch t {
	case evpn.TunnelNone:
		return "none"
	case evpn.TunnelPIMSSM:
		return "pim-ssm"
	case evpn.TunnelPIMSM:
		return "pim-sm"
	case evpn.TunnelPIMBidir:
		return "pim-bidir"
	case evpn.TunnelIngressReplication:
		return "ingress-replication"
	default:
		return strconv.Itoa(int(t))
	}
}

func originName(o uint8) string {
	switch o {
	case 0:
		return "igp"
	case 1:
		return "egp"
	default:
		return "incomplete"
	}
}

func ndFlagNames(a *evpn.Attrs) []string {
	var out []string
	for _, f := range []struct {
		bit  uint8
		name string
	}{{evpn.NDRouter, "router"}, {evpn.NDOverride, "override"}, {evpn.NDImmutable, "immutable"}} {
		if a.NDFlags&f.bit != 0 {
			out = append(out, f.name)
		}
	}
	return out
}

// asPathText prints sequences as "1 2" and sets as "{1 2}"; segments of confederations stand in parentheses.
func asPathText(p string) string {
	var parts []string
	for len(p) >= 2 && len(p) >= 2+4*int(p[1]) {
		var asns []string
		for i := range int(p[1]) {
			asns = append(asns, strconv.FormatUint(uint64(binary.BigEndian.Uint32([]byte(p[2+4*i:6+4*i]))), 10))
		}
		segment := strings.Join(asns, " ")
		switch p[0] {
		case 1:
			segment = "{" + segment + "}"
		case 3, 4:
			segment = "(" + segment + ")"
		}
		parts = append(parts, segment)
		p = p[2+4*int(p[1]):]
	}
	return strings.Join(parts, " ")
}

func clusterTexts(s string) []string {
	return eachOf(s, 4, func(b []byte) string { return netip.AddrFrom4([4]byte(b)).String() })
}

// The communities that have names here (RFC 9494, RFC 1997).
var communityNames = map[uint32]string{
	0xffff0006: "llgr-stale", 0xffff0007: "no-llgr", 0xffffff01: "no-export", 0xffffff02: "no-advertise",
}

func communityTexts(s string) []string {
	return eachOf(s, 4, func(b []byte) string {
		if name, ok := communityNames[binary.BigEndian.Uint32(b)]; ok {
			return name
		}
		return fmt.Sprintf("%d:%d", binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:]))
	})
}

func extendedTexts(s string) []string { return eachOf(s, 8, hex.EncodeToString) }

// eachOf prints every n octets of s.
func eachOf(s string, n int, print func([]byte) string) []string {
	var out []string
	for ; len(s) >= n; s = s[n:] {
		out = append(out, print([]byte(s[:n])))
	}
	return out
}
