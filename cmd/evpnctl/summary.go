package main

import (
	"bytes"
	"context"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	evpnv1 "github.com/evpnd/evpnd/api/evpn/v1"
)

func (c *cli) summaryCommand() *cobra.Command {
	f := new(filters)
	cmd := &cobra.Command{
		Use:   "summary",
		Short: "Peers, and how much of everything there is",
		Example: "  evpnctl show summary\n  evpnctl show summary --peer 10.0.0.254 -o json\n" +
			"  evpnctl show bgp l2vpn evpn summary json",
		Args: cobra.ArbitraryArgs,
	}
	f.addFilters(cmd, "peer")
	c.completeFilters(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := c.readWords(cmd, args); err != nil {
			return err
		}
		draw := func(c *cli) error {
			return c.each(func(c *cli) error { return c.summarize(cmd.Context(), f) })
		}
		if c.watch {
			return c.repaint(cmd.Context(), []string{"peer", "vni"}, 0, draw)
		}
		return draw(c)
	}
	return cmd
}

func (c *cli) summarize(ctx context.Context, f *filters) error {
	var status *evpnv1.GetStatusResponse
	var peers *evpnv1.ListPeersResponse
	err := c.call(ctx, func(ctx context.Context, conn *grpc.ClientConn) (err error) {
		client := evpnv1.NewInspectServiceClient(conn)
		if status, err = client.GetStatus(ctx, &evpnv1.GetStatusRequest{}); err != nil {
			return err
		}
		peers, err = whole(client.ListPeers(ctx, &evpnv1.ListPeersRequest{Address: f.peer}))
		return err
	})
	if err != nil {
		return err
	}
	if f.peer != "" && len(peers.Peers) == 0 {
		return notFound("peer " + f.peer)
	}
	if c.format.forPeople() {
		return c.printSummary(status.Status, peers)
	}
	e, err := encodeItems(peers.Peers, peers.AsOf)
	if err != nil {
		return err
	}
	if e.Status, err = encode(status.Status); err != nil {
		return err
	}
	return c.printList(e)
}

type peer = *evpnv1.Peer

var peerColumns = []column[peer]{
	text("PEER", peer.GetAddress),
	optional("AS", peer.GetAsn),
	state("STATE", peer.GetState),
	elapsed("FOR", peer.GetSince),
	number("RECEIVED", peer.GetRoutesReceived),
	number("REFUSED", peer.GetRoutesRefused),
	number("SENT", peer.GetRoutesAdvertised),
	text("ROUTER-ID", peer.GetRouterId).wide(),
	text("REMOTE", peer.GetRemoteAddress).wide(),
	text("LOCAL", peer.GetLocalAddress).wide(),
	text("EOR", func(p peer) string { return yesNo(p.EndOfRibReceived) }).wide(),
	optional("STALE", peer.GetRoutesStale).wide(),
	optional("LIMIT", peer.GetRouteLimit).wide(),
	number("UPS", peer.GetEstablished).wide(),
	text("DESCRIPTION", peer.GetDescription),
}

// printSummary prints what FRR's "show bgp l2vpn evpn summary" prints, and the sizes of our tables.
func (c *cli) printSummary(s *evpnv1.Status, peers *evpnv1.ListPeersResponse) error {
	if !c.noHeaders {
		err := c.print("AS %d  router ID %s  VTEP %s  up %s  kernel %s\n\n", s.GetAsn(), orDash(s.GetRouterId()),
			orDash(s.GetVtep()), span(s.GetUptime().AsDuration()), kernelWord(s))
		if err != nil {
			return err
		}
	}
	if err := printTable(c, peerColumns, peers.Peers, peers.AsOf.AsTime()); err != nil || c.noHeaders {
		return err
	}
	for _, p := range peers.Peers {
		for _, line := range peerRemarks(p, peers.AsOf.AsTime()) {
			if err := c.print("%s: %s\n", p.Address, line); err != nil {
				return err
			}
		}
	}
	n := s.GetCounts()
	return c.print("\n%d of %d peers established, %d of %d VNIs up, %d VTEPs\n"+
		"MACs: %d local, %d remote  IPs: %d local, %d remote\nroutes: %d received, %d refused, %d advertised\n",
		n.GetPeersEstablished(), n.GetPeers(), n.GetVnisUp(), n.GetVnis(), n.GetVteps(),
		n.GetMacsLocal(), n.GetMacsRemote(), n.GetNeighborsLocal(), n.GetNeighborsRemote(),
		n.GetRoutesReceived(), n.GetRoutesRefused(), n.GetRoutesAdvertised())
}

// peerRemarks is what there is to say of a peer that no column has.
func peerRemarks(p peer, now time.Time) []string {
	var lines []string
	if p.Reason != "" {
		lines = append(lines, p.Reason)
	}
	if p.RoutesStale > 0 {
		line := fmt.Sprintf("%d stale routes kept for another %s", p.RoutesStale, span(p.StaleUntil.AsTime().Sub(now)))
		if p.LongLivedStale {
			line += ", least preferred"
		}
		lines = append(lines, line)
	}
	if p.RoutesNotTaken > 0 {
		lines = append(lines, fmt.Sprintf("%d announcements not taken, the limit is %d routes", p.RoutesNotTaken, p.RouteLimit))
	}
	if p.IdleHoldUntil != nil {
		lines = append(lines, fmt.Sprintf("no session for another %s: too many routes; evpnctl clear peer ends that",
			span(p.IdleHoldUntil.AsTime().Sub(now))))
	}
	return lines
}

func kernelWord(s *evpnv1.Status) string {
	if s.GetKernelInSync() {
		return "in sync"
	}
	k := s.GetKernel()
	return fmt.Sprintf("NOT in sync: %d pending, %d blocked", k.GetPending(), k.GetBlocked())
}

func (c *cli) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "status",
		Short:   "The daemon itself: version, uptime, kernel, configuration",
		Example: "  evpnctl show status\n  evpnctl show status -o json",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.readWords(cmd, args); err != nil {
				return err
			}
			draw := func(c *cli) error {
				return c.each(func(c *cli) error { return c.askStatus(cmd.Context()) })
			}
			if c.watch {
				return c.repaint(cmd.Context(), []string{"event", "peer", "vni"}, 0, draw)
			}
			return draw(c)
		},
	}
}

func (c *cli) askStatus(ctx context.Context) error {
	var r *evpnv1.GetStatusResponse
	err := c.call(ctx, func(ctx context.Context, conn *grpc.ClientConn) (err error) {
		r, err = evpnv1.NewInspectServiceClient(conn).GetStatus(ctx, &evpnv1.GetStatusRequest{})
		return err
	})
	if err != nil {
		return err
	}
	if c.format.forPeople() {
		return c.printStatus(r.Status)
	}
	return c.printMessage(r.Status)
}

func (c *cli) printStatus(s *evpnv1.Status) error {
	k := s.GetKernel()
	var b bytes.Buffer
	tw := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	for _, line := range [][2]string{
		{"version", s.GetVersion()},
		{"AS", decimal(s.GetAsn())},
		{"router ID", s.GetRouterId()},
		{"VTEP", s.GetVtep()},
		{"started", when(s.GetStarted())},
		{"uptime", span(s.GetUptime().AsDuration())},
		{"kernel", kernelWord(s)},
		{"entries", fmt.Sprintf("%d wanted, %d installed", k.GetWanted(), k.GetInstalled())},
		{"repaired", fmt.Sprintf("%d entries, %d resyncs", k.GetRepaired(), k.GetResyncs())},
		{"last read back", when(k.GetLastReadBack())},
		{"nexthops", k.GetNexthopMode()},
		{"snooping", snoopingWord(s.GetSnooping())},
		{"BGP engine", engineWord(s.GetEngine())},
		{"configuration", s.GetConfigPath()},
		{"loaded", when(s.GetConfigLoaded())},
		{"last reload", reloadWord(s.GetLastReload())},
		{"log level", s.GetLogLevel()},
	} {
		fmt.Fprintf(tw, "%s\t%s\n", line[0], orDash(line[1]))
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	return c.print("%s", b.Bytes())
}

func snoopingWord(s *evpnv1.Snooping) string {
	if s == nil {
		return ""
	}
	word := fmt.Sprintf("ports: %d, frames/s of each: %d at most", s.Ports, s.Rate)
	if s.Reason != "" {
		word += ": " + s.Reason
	}
	return word
}

func engineWord(e *evpnv1.Engine) string {
	switch {
	case e == nil:
		return ""
	case e.Replacing:
		return fmt.Sprintf("replaced %d times, and being replaced", e.Replacements)
	default:
		return fmt.Sprintf("replaced %d times, keeps %d withdrawn routes", e.Replacements, e.Withdrawn)
	}
}

func reloadWord(r *evpnv1.Reload) string {
	switch {
	case r == nil:
		return ""
	case r.Successful:
		return when(r.Time) + " done"
	default:
		return when(r.Time) + " refused: " + r.Error
	}
}
