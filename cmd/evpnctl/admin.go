package main

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	evpnv1 "github.com/evpnd/evpnd/api/evpn/v1"
)

func (c *cli) reloadCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "reload",
		Short:   "Read the configuration file again; a file with faults changes nothing",
		Example: "  evpnctl reload",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var r *evpnv1.ReloadResponse
			err := c.call(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) (err error) {
				r, err = evpnv1.NewAdminServiceClient(conn).Reload(ctx, &evpnv1.ReloadRequest{})
				return err
			})
			if err != nil {
				return err
			}
			if !c.format.forPeople() {
				return c.printMessage(r)
			}
			if len(r.Changes) == 0 {
				return c.print("reloaded, nothing changed\n")
			}
			for _, change := range r.Changes {
				if err := c.print("%s\n", change); err != nil {
					return err
				}
			}
			return nil
		},
	}
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
		Use:               "peer ADDRESS",
		Short:             "Reset a BGP session, or ask the peer for its routes again",
		Example:           "  evpnctl clear peer 10.0.0.254\n  evpnctl clear peer fe80::1%eth0 --soft",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: c.completePeers,
		RunE: func(cmd *cobra.Command, args []string) error {
			addr, err := netip.ParseAddr(args[0])
			if err != nil {
				return fmt.Errorf("%q is not an IP address", args[0])
			}
			return c.call(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) error {
				_, err := evpnv1.NewAdminServiceClient(conn).ClearPeer(ctx,
					&evpnv1.ClearPeerRequest{Address: addr.String(), Soft: soft})
				return err
			})
		},
	}
	peer.Flags().BoolVar(&soft, "soft", false, "keep the session, ask for the routes again")
	group.AddCommand(peer, c.clearDuplicateCommand())
	return group
}

func (c *cli) clearDuplicateCommand() *cobra.Command {
	var f filters
	cmd := &cobra.Command{
		Use:   "duplicate [MAC|IP]",
		Short: "Let go of MACs and IPs that two hosts have, and decide them anew",
		Example: "  evpnctl clear duplicate --vni 100\n  evpnctl clear duplicate 02:00:00:00:00:01\n" +
			"  evpnctl clear duplicate 172.16.100.1",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
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
		},
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
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.call(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) error {
				_, err := evpnv1.NewAdminServiceClient(conn).SetLogLevel(ctx,
					&evpnv1.SetLogLevelRequest{Level: args[0]})
				return err
			})
		},
	}
}
