package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	evpnv1 "github.com/evpnd/evpnd/api/evpn/v1"
)

func (c *cli) doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Find what is set up wrongly, each with the command that mends it",
		Long: `Find what is set up wrongly: devices, addresses and routes of this host, peers, and what they send.

Each fault is one line: its severity and code, what it is about, what is wrong, and after the arrow what mends it. Nothing
is changed. docs/troubleshooting.md tells more of each code.

Exit status: 0 no faults found, 1 there are some; others as for every subcommand.`,
		Example: "  evpnctl doctor\n  evpnctl doctor -o json",
		Args:    cobra.NoArgs,
		RunE: c.asking(func(c *cli, cmd *cobra.Command, _ []string) error {
			var r *evpnv1.DiagnoseResponse
			err := c.call(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) (err error) {
				r, err = evpnv1.NewInspectServiceClient(conn).Diagnose(ctx, &evpnv1.DiagnoseRequest{})
				return err
			})
			if err != nil {
				return err
			}
			if err := c.printDiagnosis(r); err != nil {
				return err
			}
			if n := len(r.Faults); n > 0 {
				return &failure{codes.FailedPrecondition, exitFailed, fmt.Errorf("%d found", n)}
			}
			return nil
		}),
	}
}

func (c *cli) printDiagnosis(r *evpnv1.DiagnoseResponse) error {
	if !c.format.forPeople() {
		e, err := encodeItems(r.Faults, r.AsOf)
		if err != nil {
			return err
		}
		return c.printList(e)
	}
	if len(r.Faults) == 0 {
		return c.print("no faults found: looked at %d VNIs, %d peers, %d remote VTEPs, %d routes\n", r.Vnis, r.Peers, r.Vteps, r.Routes)
	}
	return c.printFaults(r.Faults)
}

// printFaults prints one line for each.
func (c *cli) printFaults(faults []*evpnv1.Fault) error {
	for _, f := range faults {
		if err := c.print("%s %s%s: %s -> %s\n", c.paint(f.Severity), f.Code, subject(f), f.Detail, f.Remedy); err != nil {
			return err
		}
	}
	return nil
}

// subject says what a fault is about, in brackets; "" when it is the host as a whole.
func subject(f *evpnv1.Fault) string {
	var parts []string
	if f.Vni != 0 {
		parts = append(parts, fmt.Sprintf("VNI %d", f.Vni))
	}
	for _, part := range []string{f.Ifname, f.Peer} {
		if part != "" {
			parts = append(parts, part)
		}
	}
	if len(parts) == 0 {
		return ""
	}
	return " [" + strings.Join(parts, ", ") + "]"
}
