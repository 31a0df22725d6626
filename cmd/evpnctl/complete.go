package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

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
	if cmd.Flags().Lookup("mac") != nil {
		register(cmd, "mac", c.completeMACs)
	}
	if cmd.Flags().Lookup("ip") != nil {
		register(cmd, "ip", c.completeIPs)
	}
	if cmd.Flags().Lookup("vtep") != nil {
		register(cmd, "vtep", c.completeVTEPs)
	}
	if cmd.Flags().Lookup("peer") != nil {
		register(cmd, "peer", c.completePeers)
	}
	if cmd.Flags().Lookup("type") != nil {
		mustComplete(cmd, "type", slices.Sorted(maps.Keys(routeTypes)))
	}
}

// completeTargets offers the names of the user's configuration, and paths.
func (c *cli) completeTargets(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	var words []string
	for _, name := range slices.Sorted(maps.Keys(c.known)) {
		words = append(words, cobra.CompletionWithDesc(name, c.known[name]))
	}
	return words, cobra.ShellCompDirectiveDefault
}

// register panics where the flag does not exist, which is a bug of ours.
func register(cmd *cobra.Command, flag string, f cobra.CompletionFunc) {
	if err := cmd.RegisterFlagCompletionFunc(flag, f); err != nil {
		panic(fmt.Sprintf("complete --%s of %s: %v", flag, cmd.Name(), err))
	}
}

func (c *cli) completeVNIs(cmd *cobra.Command, _ []string, _ string) (words []string, _ cobra.ShellCompDirective) {
	err := c.call(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) error {
		r, err := whole(evpnv1.NewInspectServiceClient(conn).ListVNIs(ctx, &evpnv1.ListVNIsRequest{}))
		for _, v := range r.GetVnis() {
			words = append(words, cobra.CompletionWithDesc(decimal(v.Vni), v.Device))
		}
		return err
	})
	return words, directive(err)
}

func (c *cli) completePeers(cmd *cobra.Command, _ []string, _ string) (words []string, _ cobra.ShellCompDirective) {
	err := c.call(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) error {
		r, err := whole(evpnv1.NewInspectServiceClient(conn).ListPeers(ctx, &evpnv1.ListPeersRequest{}))
		for _, p := range r.GetPeers() {
			words = append(words, cobra.CompletionWithDesc(p.Address, p.Description))
		}
		return err
	})
	return words, directive(err)
}

func (c *cli) completeVTEPs(cmd *cobra.Command, _ []string, prefix string) (words []string, _ cobra.ShellCompDirective) {
	err := c.call(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) error {
		r, err := whole(evpnv1.NewInspectServiceClient(conn).ListVTEPs(ctx, &evpnv1.ListVTEPsRequest{}))
		for _, v := range r.GetVteps() {
			if strings.HasPrefix(v.Vtep, prefix) {
				words = append(words, v.Vtep)
			}
		}
		return err
	})
	slices.Sort(words)
	return slices.Compact(words), directive(err)
}

// mostWords is how many MACs or IPs a shell is offered; more than that nobody reads.
const mostWords = 200

// errEnough ends a stream early.
var errEnough = errors.New("enough")

func (c *cli) completeMACs(cmd *cobra.Command, _ []string, prefix string) (words []string, _ cobra.ShellCompDirective) {
	err := c.call(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) error {
		stream, err := evpnv1.NewInspectServiceClient(conn).ListMACs(ctx, &evpnv1.ListMACsRequest{})
		return receive(stream, err, func(r *evpnv1.ListMACsResponse) error {
			for _, m := range r.Macs {
				if strings.HasPrefix(m.Mac, prefix) {
					words = append(words, cobra.CompletionWithDesc(m.Mac, fmt.Sprintf("VNI %d, %s", m.Vni, at(m.Port, m.Vtep))))
				}
			}
			return enough(words)
		})
	})
	return words, directive(err)
}

func (c *cli) completeIPs(cmd *cobra.Command, _ []string, prefix string) (words []string, _ cobra.ShellCompDirective) {
	err := c.call(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) error {
		stream, err := evpnv1.NewInspectServiceClient(conn).ListNeighbors(ctx, &evpnv1.ListNeighborsRequest{})
		return receive(stream, err, func(r *evpnv1.ListNeighborsResponse) error {
			for _, n := range r.Neighbors {
				if strings.HasPrefix(n.Ip, prefix) {
					words = append(words, cobra.CompletionWithDesc(n.Ip, fmt.Sprintf("VNI %d, %s", n.Vni, n.Mac)))
				}
			}
			return enough(words)
		})
	})
	return words, directive(err)
}

// completeSubjects offers the MACs and IPs that explain and history take.
func (c *cli) completeSubjects(cmd *cobra.Command, args []string, prefix string) (words []string, _ cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	macs, found := c.completeMACs(cmd, args, prefix)
	if found == cobra.ShellCompDirectiveError {
		return nil, found
	}
	ips, found := c.completeIPs(cmd, args, prefix)
	return append(macs, ips...), found
}

func enough(words []string) error {
	if len(words) >= mostWords {
		return errEnough
	}
	return nil
}

func directive(err error) cobra.ShellCompDirective {
	if err != nil && !errors.Is(err, errEnough) {
		return cobra.ShellCompDirectiveError
	}
	return cobra.ShellCompDirectiveNoFileComp
}
