package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	evpnv1 "github.com/evpnd/evpnd/api/evpn/v1"
)

func (c *cli) vniCommand() *cobra.Command {
	type item = *evpnv1.VNI
	t := table[item]{
		columns: []column[item]{
			number("VNI", item.GetVni),
			state("STATE", item.GetState),
			text("DEVICE", item.GetDevice),
			text("BRIDGE", item.GetBridge),
			optional("VLAN", item.GetVlan),
			number("VTEPS", item.GetVteps),
			text("MACS(L/R)", func(v item) string { return pair(v.MacsLocal, v.MacsRemote) }),
			optional("OVER-LIMIT", item.GetMacsOverLimit).wide(),
			text("IPS(L/R)", func(v item) string { return pair(v.NeighborsLocal, v.NeighborsRemote) }),
			flag("SUPPRESS", item.GetArpSuppression),
			text("REQUESTS(A/U/F)", requests),
			text("FAULTS", func(v item) string { return fmt.Sprint(len(v.Faults)) }),
			elapsed("SINCE", item.GetSince).wide(),
			text("SNOOPED", func(v item) string { return snoopedPorts(v.SnoopedPorts) }).wide(),
			text("VTEP", item.GetVtep).wide(),
			text("RD", item.GetRd).wide(),
			list("IMPORT", item.GetImportRts).wide(),
			list("EXPORT", item.GetExportRts).wide(),
		},
		ask: func(ctx context.Context, client inspector, f *filters, take func([]item, moment) error) error {
			stream, err := client.ListVNIs(ctx, &evpnv1.ListVNIsRequest{Vni: f.vni})
			return receive(stream, err, func(r *evpnv1.ListVNIsResponse) error { return take(r.Vnis, r.AsOf) })
		},
		named: func(f *filters) string { return named("VNI", nonZero(f.vni)) },
		kinds: []string{"vni"},
		notes: faults,
	}
	return tableCommand(c, &cobra.Command{
		Use:   "vni [VNI]",
		Short: "VNIs, their devices, and what is wrong with them",
		Long: `VNIs, their devices, and what is wrong with them.

L/R counts what is local and what is remote. SUPPRESS: the bridge answers ARP and ND for remote hosts. REQUESTS are those of
local hosts: answered here for remote ones, flooded because nobody is known to have the address (unknown), and flooded
because there is no suppression. SNOOPED is how many of the ports whose frames are wanted are read; -o json has the frames of
each port by what became of them. Faults are told below the table, in plain words.`,
		Example: "  evpnctl show vni\n  evpnctl show vni 100 -o wide\n  evpnctl show evpn vni json",
	}, t, "vni")
}

func pair(local, remote uint32) string { return fmt.Sprintf("%d/%d", local, remote) }

func requests(v *evpnv1.VNI) string {
	return fmt.Sprintf("%d/%d/%d", v.GetRequestsAnswered(), v.GetRequestsUnknown(), v.GetRequestsFlooded())
}

func snoopedPorts(ports []*evpnv1.SnoopedPort) string {
	reading := uint32(0)
	for _, p := range ports {
		if p.Reading {
			reading++
		}
	}
	return pair(reading, uint32(len(ports)))
}

func faults(vnis []*evpnv1.VNI) []string {
	var lines []string
	for _, v := range vnis {
		for _, fault := range v.Faults {
			lines = append(lines, fmt.Sprintf("VNI %d: %s", v.Vni, fault))
		}
	}
	return lines
}

func (c *cli) vtepCommand() *cobra.Command {
	type item = *evpnv1.VTEP
	t := table[item]{
		columns: []column[item]{
			number("VNI", item.GetVni),
			text("VTEP", item.GetVtep),
			flag("FLOOD", item.GetFlood),
			state("KERNEL", func(v item) string { return v.Kernel.GetState() }),
			state("UNDERLAY", item.GetReachability),
			number("MACS", item.GetMacs),
			elapsed("SINCE", item.GetSince),
			text("RD", item.GetRd).wide(),
			list("PEERS", item.GetPeers).wide(),
			elapsed("CHANGED", item.GetReachabilitySince).wide(),
			text("PROBE", probeState).wide(),
			text("REASON", func(v item) string { return reason(v.Reason, v.Kernel) }).wide(),
		},
		ask: func(ctx context.Context, client inspector, f *filters, take func([]item, moment) error) error {
			stream, err := client.ListVTEPs(ctx, &evpnv1.ListVTEPsRequest{Vni: f.vni, Vtep: f.vtep})
			return receive(stream, err, func(r *evpnv1.ListVTEPsResponse) error { return take(r.Vteps, r.AsOf) })
		},
		named: func(f *filters) string { return named("VTEP", f.vtep) },
		kinds: []string{"event", "vni"},
		notes: cutOff,
	}
	return tableCommand(c, &cobra.Command{
		Use:   "vtep [VNI]",
		Short: "Remote VTEPs of each VNI: where flooded frames go",
		Long: `Remote VTEPs of each VNI: where flooded frames go.

UNDERLAY says whether the kernel has a way to the VTEP, CHANGED since when; held: it has, and came and went too often to be
used yet. PROBE is what vtep-probe finds: the time that the last answer took; misses: the last ones did not come; silent: it
counts as unreachable; never: it has not answered yet, so that nothing is concluded. MACs behind a VTEP without a way are parked: nothing is sent there. The reasons are told below the table.`,
		Example: "  evpnctl show vtep 100\n  evpnctl show vtep --vtep 10.255.0.2",
	}, t, "vni", "vtep")
}

// probeState is what the probe of a VTEP knows, with the time that the last answer took.
func probeState(v *evpnv1.VTEP) string {
	switch {
	case v.Probe == "":
		return "off"
	case v.ProbeRtt != nil && v.Probe == "answers":
		return fmt.Sprintf("%.2fms", v.ProbeRtt.AsDuration().Seconds()*1000)
	}
	return v.Probe
}

// cutOff says why VTEPs cannot be reached, each once.
func cutOff(vteps []*evpnv1.VTEP) []string {
	var lines []string
	for _, v := range vteps {
		line := fmt.Sprintf("VTEP %s: %s", v.Vtep, v.Reason)
		if v.Losses > 1 {
			line += fmt.Sprintf(" (lost %d times lately)", v.Losses)
		}
		if v.Reachability != "reachable" && !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	return lines
}

// reason prefers what the protocol says to what the kernel says.
func reason(protocol string, kernel *evpnv1.KernelEntry) string {
	if protocol != "" {
		return protocol
	}
	return kernel.GetReason()
}
