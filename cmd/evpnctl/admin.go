package main

import (
	"bytes"
	"context"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	evpnv1 "github.com/evpnd/evpnd/api/evpn/v1"
)

func (c *cli) reloadCommand() *cobra.Command {
	var dry bool
	cmd := &cobra.Command{
		Use:   "reload",
		Short: "Read the configuration file again; a file with faults changes nothing",
		Long: `Read the configuration file again and apply it, all or nothing.

It returns when the new configuration is in force, with what became different. A file with faults, or with changes that
need a restart, is refused as a whole: all of them are named, and the exit status is not 0.`,
		Example: "  evpnctl reload\n  evpnctl reload --dry-run",
		Args:    cobra.NoArgs,
		RunE: c.asking(func(c *cli, cmd *cobra.Command, _ []string) error {
			var r *evpnv1.ReloadResponse
			err := c.call(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) (err error) {
				r, err = evpnv1.NewAdminServiceClient(conn).Reload(ctx, &evpnv1.ReloadRequest{DryRun: dry})
				return err
			})
			if err != nil {
				return err
			}
			return c.printReload(r, dry)
		}),
	}
	cmd.Flags().BoolVar(&dry, "dry-run", false, "change nothing, say what would happen")
	return cmd
}

func (c *cli) printReload(r *evpnv1.ReloadResponse, dry bool) error {
	switch {
	case !c.format.forPeople():
		return c.printMessage(r)
	case len(r.Changes) == 0 && dry:
		return c.print("nothing would change\n")
	case len(r.Changes) == 0:
		return c.print("reloaded, nothing changed\n")
	}
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for i, change := range r.Changes {
		if dry && i < len(r.Details) {
			fmt.Fprintf(w, "%s\t", r.Details[i].Consequence)
		}
		fmt.Fprintln(w, change)
	}
	_ = w.Flush() // into memory
	return c.print("%s", b.String())
}

func (c *cli) clearCommand() *cobra.Command {
	group := &cobra.Command{
		Use:     "clear",
		Short:   "Start something over",
		Example: "  evpnctl clear peer 10.0.0.254",
		RunE:    wantSubcommand,
	}
	var soft bool
	peer := &cobra.Command{
		Use:               "peer ADDRESS|INTERFACE",
		Short:             "Reset a BGP session, or ask the peer for its routes again",
		Example:           "  evpnctl clear peer 10.0.0.254\n  evpnctl clear peer fe80::1%eth0 --soft",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: c.completePeers,
		RunE: c.asking(func(c *cli, cmd *cobra.Command, args []string) error {
			var addr string
			if err := setPeer(&addr, args[0]); err != nil {
				return err
			}
			return c.call(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) error {
				r, err := evpnv1.NewAdminServiceClient(conn).ClearPeer(ctx,
					&evpnv1.ClearPeerRequest{Address: addr, Soft: soft})
				return c.done(r, err)
			})
		}),
	}
	peer.Flags().BoolVar(&soft, "soft", false, "keep the session, ask for the routes again")
	group.AddCommand(peer, c.clearDuplicateCommand(), c.clearForeignCommand())
	return group
}

func (c *cli) clearDuplicateCommand() *cobra.Command {
	var f filters
	cmd := &cobra.Command{
		Use:   "duplicate [MAC|IP]",
		Short: "Let go of MACs and IPs that two hosts have, and decide them anew",
		Example: "  evpnctl clear duplicate --vni 100\n  evpnctl clear duplicate 02:00:00:00:00:01\n" +
			"  evpnctl clear duplicate 172.16.100.1",
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: c.completeSubjects,
		RunE: c.asking(func(c *cli, cmd *cobra.Command, args []string) error {
			req := &evpnv1.ClearDuplicateRequest{Vni: f.vni}
			if len(args) > 0 {
				var err error
				if req.Mac, req.Ip, err = parseSubject(args[0]); err != nil {
					return err
				}
			}
			var r *evpnv1.ClearDuplicateResponse
			err := c.call(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) (err error) {
				r, err = evpnv1.NewAdminServiceClient(conn).ClearDuplicate(ctx, req)
				return err
			})
			if err != nil {
				return err
			}
			if !c.format.forPeople() {
				return c.printMessage(r)
			}
			return c.print("%d cleared\n", r.Cleared)
		}),
	}
	f.addFilters(cmd, "vni")
	register(cmd, "vni", c.completeVNIs)
	return cmd
}

func (c *cli) logLevelCommand() *cobra.Command {
	return &cobra.Command{
		Use:       "log-level error|warn|info|debug",
		Short:     "Change the daemon's log level until the next reload or restart",
		Example:   "  evpnctl log-level debug",
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		ValidArgs: []string{"error", "warn", "info", "debug"},
		RunE: c.asking(func(c *cli, cmd *cobra.Command, args []string) error {
			return c.call(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) error {
				r, err := evpnv1.NewAdminServiceClient(conn).SetLogLevel(ctx,
					&evpnv1.SetLogLevelRequest{Level: args[0]})
				return c.done(r, err)
			})
		}),
	}
}

// done tells programs what was answered; people see that there was no error.
func (c *cli) done(answer proto.Message, err error) error {
	if err != nil || c.format.forPeople() {
		return err
	}
	return c.printMessage(answer)
}
