package main

import (
	"context"

	"github.com/spf13/cobra"

	evpnv1 "github.com/evpnd/evpnd/api/evpn/v1"
)

func (c *cli) macCommand() *cobra.Command {
	type item = *evpnv1.MAC
	t := table[item]{
		columns: []column[item]{
			number("VNI", item.GetVni),
			text("MAC", item.GetMac),
			text("ORIGIN", item.GetOrigin),
			text("PORT/VTEP", func(m item) string { return at(m.Port, m.Vtep) }),
			number("SEQ", item.GetSequence),
			flag("STICKY", item.GetSticky),
			state("STATE", func(m item) string { return standing(m.Origin, m.Announced, m.Duplicate, m.Kernel) }),
			elapsed("SINCE", item.GetSince).wide(),
			number("ROUTES", item.GetRoutes).wide(),
			list("IPS", item.GetIps).wide(),
			text("REASON", func(m item) string { return why(m.Duplicate, m.Kernel) }).wide(),
		},
		ask: func(ctx context.Context, client inspector, f *filters, take func([]item, moment) error) error {
			stream, err := client.ListMACs(ctx, &evpnv1.ListMACsRequest{
				Vni: f.vni, Mac: f.mac, Origin: f.origin, Vtep: f.vtep, Candidates: !c.format.forPeople(),
				Duplicates: f.duplicate,
			})
			return receive(stream, err, func(r *evpnv1.ListMACsResponse) error { return take(r.Macs, r.AsOf) })
		},
		named: func(f *filters) string { return named("MAC", f.mac) },
		kinds: []string{"mac"},
	}
	return tableCommand(c, &cobra.Command{
		Use:   "mac [VNI]",
		Short: "MAC table: which port or VTEP each MAC is behind",
		Long: `MAC table: which port or VTEP each MAC is behind.

STATE is "announced" or "unannounced" for a local MAC; for a remote one it says how its kernel entry stands;
"duplicate" when it moved so often that two hosts must have it (evpnctl clear duplicate). The
formats for programs add the candidates of each MAC, and why the others lost.`,
		Example: "  evpnctl show mac 100 --remote\n  evpnctl show mac --mac 02:00:00:00:00:02 -o json\n" +
			"  evpnctl show evpn mac vni all",
	}, t, "vni", "mac", "vtep", "local", "remote", "duplicate")
}

func (c *cli) arpCommand() *cobra.Command {
	type item = *evpnv1.Neighbor
	t := table[item]{
		columns: []column[item]{
			number("VNI", item.GetVni),
			text("IP", item.GetIp),
			text("MAC", item.GetMac),
			text("ORIGIN", item.GetOrigin),
			text("PORT/VTEP", func(n item) string { return at(n.Port, n.Vtep) }),
			state("STATE", func(n item) string { return standing(n.Origin, n.Announced, n.Duplicate, n.Kernel) }),
			elapsed("SINCE", item.GetSince).wide(),
			number("SEQ", item.GetSequence).wide(),
			flag("STICKY", item.GetSticky).wide(),
			flag("ROUTER", item.GetRouter).wide(),
			text("REASON", func(n item) string { return why(n.Duplicate, n.Kernel) }).wide(),
		},
		ask: func(ctx context.Context, client inspector, f *filters, take func([]item, moment) error) error {
			stream, err := client.ListNeighbors(ctx, &evpnv1.ListNeighborsRequest{
				Vni: f.vni, Ip: f.ip, Mac: f.mac, Origin: f.origin, Vtep: f.vtep, Candidates: !c.format.forPeople(),
			})
			return receive(stream, err, func(r *evpnv1.ListNeighborsResponse) error { return take(r.Neighbors, r.AsOf) })
		},
		named: func(f *filters) string { return named("IP", f.ip) },
		kinds: []string{"neighbor"},
	}
	return tableCommand(c, &cobra.Command{
		Use:     "arp [VNI]",
		Aliases: []string{"arp-cache", "nd"},
		Short:   "ARP and ND table: which MAC each IP has",
		Example: "  evpnctl show arp 100\n  evpnctl show nd --ip fd00:100::2\n  evpnctl show evpn arp-cache vni all json",
	}, t, "vni", "ip", "mac", "vtep", "local", "remote")
}
