package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	evpnv1 "github.com/evpnd/evpnd/api/evpn/v1"
)

func (c *cli) routeCommand() *cobra.Command {
	t := table[*evpnv1.Route]{
		columns: routeColumns,
		ask: func(ctx context.Context, client inspector, f *filters, take func([]route, moment) error) error {
			stream, err := client.ListRoutes(ctx, &evpnv1.ListRoutesRequest{
				Type: f.routeType, Vni: f.vni, Rd: f.rd, Peer: f.peer, Direction: f.direction, Mac: f.mac, Ip: f.ip,
			})
			return receive(stream, err, func(r *evpnv1.ListRoutesResponse) error { return take(r.Routes, r.AsOf) })
		},
		named: func(*filters) string { return "" },
		kinds: []string{"route"},
	}
	return tableCommand(c, &cobra.Command{
		Use:   "route [VNI]",
		Short: "EVPN routes, received and our own, also the refused ones",
		Long: `EVPN routes, received and our own, also the refused ones.

STATUS: chosen (forwarding follows it), accepted (another one was chosen), refused (wide and JSON say why), advertised
(our own). Behind it: stale (the peer's session is gone or restarting), long-lived (for so long that any other route is
preferred).`,
		Example: "  evpnctl show route --type 2 --vni 100\n  evpnctl show route --peer 10.0.0.254 -o wide\n" +
			"  evpnctl show bgp l2vpn evpn route type multicast",
	}, t, "vni", "type", "rd", "peer", "mac", "ip", "in", "out")
}

type route = *evpnv1.Route

var routeColumns = []column[route]{
	number("TYPE", route.GetType),
	text("RD", route.GetRd),
	text("MAC", route.GetMac),
	text("IP", routeIP),
	optional("VNI", routeVNI),
	text("NEXT-HOP", route.GetNextHop),
	state("STATUS", routeStatus),
	text("PEER", route.GetPeer).wide(),
	elapsed("RECEIVED", route.GetReceived).wide(),
	list("RTS", route.GetRouteTargets).wide(),
	text("ENCAP", route.GetEncapsulation).wide(),
	number("SEQ", route.GetSequence).wide(),
	flag("STICKY", route.GetSticky).wide(),
	number("TAG", route.GetEthernetTag).wide(),
	text("ESI", route.GetEsi).wide(),
	optional("L3VNI", route.GetLabel2).wide(),
	text("PMSI", func(r route) string { return r.Pmsi.GetTunnel() }).wide(),
	text("AS-PATH", func(r route) string { return strings.ReplaceAll(r.AsPath, " ", ",") }).wide(),
	number("LOCAL-PREF", route.GetLocalPref).wide(),
	text("ORIGINATOR", route.GetOriginatorId).wide(),
	text("REASON", route.GetReason).wide(),
}

func routeStatus(r route) string {
	if r.Stale != "" {
		return r.Status + "," + r.Stale
	}
	return r.Status
}

func routeIP(r route) string {
	if r.Type == 5 {
		return fmt.Sprintf("%s/%d", r.Ip, r.PrefixLength)
	}
	return r.Ip
}

// routeVNI is the label that names the VNI: that of the PMSI Tunnel attribute in a type 3.
func routeVNI(r route) uint32 {
	if r.Type == 3 {
		return r.Pmsi.GetLabel()
	}
	return r.Label1
}
