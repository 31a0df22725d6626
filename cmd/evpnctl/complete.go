package main

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	evpnv1 "github.com/evpnd/evpnd/api/evpn/v1"
)

// mustComplete offers fixed words for the value of a flag.
func mustComplete(cmd *cobra.Command, flag string, words []string) {
	register(cmd, flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
}

// completeFilters asks the daemon what the values of cmd's filters can be.
func (c *cli) completeFilters(cmd *cobra.Command) {
	if cmd.Flags().Lookup("vni") != nil {
		register(cmd, "vni", c.completeVNIs)
		cmd.ValidArgsFunction = c.completeVNIs
	}
	if cmd.Flags().Lookup("peer") != nil {
		register(cmd, "peer", c.completePeers)
	}
	if cmd.Flags().Lookup("type") != nil {
		mustComplete(cmd, "type", slices.Sorted(maps.Keys(routeTypes)))
	}
}

// register panics where the flag does not exist, which is a bug of ours.
func register(cmd *cobra.Command, flag string, f cobra.CompletionFunc) {
	if err := cmd.RegisterFlagCompletionFunc(flag, f); err != nil {
		panic(fmt.Sprintf("complete --%s of %s: %v", flag, cmd.Name(), err))
	}
}

func (c *cli) completeVNIs(cmd *cobra.Command, _ []string, _ string) (words []string, _ cobra.ShellCompDirective) {
	err := c.call(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) error {
		r, err := evpnv1.NewInspectServiceClient(conn).ListVNIs(ctx, &evpnv1.ListVNIsRequest{})
		for _, v := range r.GetVnis() {
			words = append(words, cobra.CompletionWithDesc(decimal(v.Vni), v.Device))
		}
		return err
	})
	return words, directive(err)
}

func (c *cli) completePeers(cmd *cobra.Command, _ []string, _ string) (words []string, _ cobra.ShellCompDirective) {
	err := c.call(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) error {
		r, err := evpnv1.NewInspectServiceClient(conn).ListPeers(ctx, &evpnv1.ListPeersRequest{})
		for _, p := range r.GetPeers() {
			words = append(words, cobra.CompletionWithDesc(p.Address, p.Description))
		}
		return err
	})
	return words, directive(err)
}

func directive(err error) cobra.ShellCompDirective {
	if err != nil {
		return cobra.ShellCompDirectiveError
	}
	return cobra.ShellCompDirectiveNoFileComp
}
