package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	evpnv1 "github.com/evpnd/evpnd/api/evpn/v1"
)

func (c *cli) pingCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "ping",
		Short:   "Try the way to another VTEP",
		Example: "  evpnctl ping vtep 10.255.0.2",
		Args:    cobra.ArbitraryArgs,
		RunE:    wantSubcommand,
	}
	cmd.AddCommand(c.pingVTEPCommand())
	return cmd
}

func (c *cli) pingVTEPCommand() *cobra.Command {
	var f filters
	cmd := &cobra.Command{
		Use:   "vtep ADDRESS",
		Short: "Find what is wrong between here and another VTEP: MTU, port, VNI, firewall",
		Long: `Find what is wrong between here and another VTEP. evpnd sends packets from its tunnel address: ICMP echo, also as large as
the largest VXLAN packet, and frames to UDP port 4789 in each VNI that both have. The evpnd at the other end answers those
and says what it knows. A VTEP without evpnd answers ICMP, and hosts behind it are asked for their addresses; where nobody
can answer, silence is no fault.

Each line is one step; what mends a fault comes behind an arrow. docs/troubleshooting.md tells more of each fault.

Exit status: 0 no fault was found, 1 there is one, 3 no such VNI; others as for every subcommand.`,
		Example: "  evpnctl ping vtep 10.255.0.2\n  evpnctl ping vtep 10.255.0.2 --vni 100 -o json",
		Args:    cobra.ExactArgs(1),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return c.completeVTEPs(cmd, args, prefix)
		},
		RunE: c.asking(func(c *cli, cmd *cobra.Command, args []string) error {
			vtep, err := netip.ParseAddr(args[0])
			if err != nil {
				return fmt.Errorf("%q is no address of a VTEP", args[0])
			}
			return c.ping(cmd.Context(), &evpnv1.PingVTEPRequest{Vtep: vtep.String(), Vni: f.vni})
		}),
	}
	f.addFilters(cmd, "vni")
	register(cmd, "vni", c.completeVNIs)
	return cmd
}

// ping prints the steps as they come; in formats for programs they are one list.
func (c *cli) ping(ctx context.Context, req *evpnv1.PingVTEPRequest) error {
	var steps []*evpnv1.PingStep
	asOf, faults := timestamppb.Now(), 0
	signs := signsFor(os.Getenv)
	err := c.call(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
		stream, err := evpnv1.NewAdminServiceClient(conn).PingVTEP(ctx, req)
		return receive(stream, err, func(r *evpnv1.PingVTEPResponse) error {
			asOf = r.AsOf
			if r.Step.GetMark() == "fault" {
				faults++
			}
			if !c.format.forPeople() {
				steps = append(steps, r.Step)
				return nil
			}
			return c.print("%s\n", signs.plain(pingLine(r.Step, c.paint(signs[r.Step.GetMark()]), signs["mend"])))
		})
	})
	if err == nil && !c.format.forPeople() {
		var e envelope
		if e, err = encodeItems(steps, asOf); err == nil {
			err = c.printList(e)
		}
	}
	if err == nil && faults > 0 {
		err = &failure{codes.FailedPrecondition, exitFailed, fmt.Errorf("%d found between here and %s", faults, req.Vtep)}
	}
	return err
}

// pingLine is one step as people read it.
func pingLine(s *evpnv1.PingStep, mark, arrow string) string {
	line := fmt.Sprintf(" %s %-9s ", mark, s.Topic)
	if s.Vni != 0 {
		line = fmt.Sprintf(" %s %-9s ", mark, fmt.Sprintf("vni %d", s.Vni))
	}
	if s.Code != "" {
		line += s.Code + ": "
	}
	line += s.Text
	if s.Rtt != nil {
		line += fmt.Sprintf(" [%s]", s.Rtt.AsDuration().Round(10*time.Microsecond))
	}
	if s.Mend != "" {
		line += "\n   " + arrow + " mend it: " + s.Mend
	}
	return line
}
