package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	evpnv1 "github.com/evpnd/evpnd/api/evpn/v1"
)

func (c *cli) lintCommand() *cobra.Command {
	group := &cobra.Command{
		Use:     "lint",
		Short:   "Hold what peers send against what is configured here",
		Example: "  evpnctl lint rt",
		RunE:    wantSubcommand,
	}
	group.AddCommand(&cobra.Command{
		Use:   "rt",
		Short: "Route targets that peers send and nobody here imports, and the other way round",
		Long: `Route targets that peers send and nobody here imports, and the other way round.

error: routes name a VNI that is served here and carry none of the route targets it imports. warning: a VNI is up and no
peer sends anything that it imports. info: routes are for VNIs that are not on this host, which is as it should be unless
the VNI was meant to be here.

Exit status: 0 no errors and no warnings, 1 there are some; others as for every subcommand.`,
		Example: "  evpnctl lint rt\n  evpnctl lint rt -o json",
		Args:    cobra.NoArgs,
		RunE: c.asking(func(c *cli, cmd *cobra.Command, _ []string) error {
			lint := rtLint{routes: map[unimported]int{}, heard: map[uint32]bool{}}
			var asOf moment
			err := c.call(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) error {
				client := evpnv1.NewInspectServiceClient(conn)
				r, err := whole(client.ListVNIs(ctx, &evpnv1.ListVNIsRequest{}))
				if err != nil {
					return err
				}
				lint.vnis, asOf = r.Vnis, r.AsOf
				stream, err := client.ListRoutes(ctx, &evpnv1.ListRoutesRequest{Direction: "in"})
				return receive(stream, err, func(r *evpnv1.ListRoutesResponse) error {
					lint.add(r.Routes)
					return nil
				})
			})
			if err != nil {
				return err
			}
			found := lint.faults()
			if err := c.printLint(found, asOf); err != nil {
				return err
			}
			bad := slices.DeleteFunc(found, func(f *evpnv1.Fault) bool { return f.Severity == "info" })
			if len(bad) > 0 {
				return &failure{codes.FailedPrecondition, exitFailed, fmt.Errorf("%d found", len(bad))}
			}
			return nil
		}),
	})
	return group
}

// unimported names received routes that no VNI here imports.
type unimported struct {
	vni  uint32 // their label
	peer string
	rts  string
}

// rtLint collects what received routes tell about route targets; it keeps none of the routes.
type rtLint struct {
	vnis   []*evpnv1.VNI
	routes map[unimported]int
	heard  map[uint32]bool // VNIs that import something
}

func (l *rtLint) add(routes []*evpnv1.Route) {
	for _, r := range routes {
		for _, vni := range r.Vnis {
			l.heard[vni] = true
		}
		if len(r.Vnis) == 0 {
			l.routes[unimported{routeVNI(r), r.Peer, cmp.Or(strings.Join(r.RouteTargets, " "), "(none)")}]++
		}
	}
}

// faults says what was found: errors first, then warnings, then what is only worth knowing.
func (l *rtLint) faults() []*evpnv1.Fault {
	here := map[uint32]*evpnv1.VNI{}
	for _, v := range l.vnis {
		here[v.Vni] = v
	}
	var errs, warnings, infos []*evpnv1.Fault
	keys := slices.SortedFunc(maps.Keys(l.routes), func(a, b unimported) int {
		return cmp.Or(cmp.Compare(a.vni, b.vni), cmp.Compare(a.peer, b.peer), cmp.Compare(a.rts, b.rts))
	})
	for _, k := range keys {
		f := &evpnv1.Fault{
			Code: "route-target-unused", Severity: "info", Vni: k.vni, Peer: k.peer,
			Detail: fmt.Sprintf("peer %s sends RT %s, no VNI here imports it, and VNI %d is not here (%d routes)", k.peer, k.rts, k.vni, l.routes[k]),
			Remedy: "nothing, unless the VNI was meant to be on this host",
		}
		v := here[k.vni]
		if v == nil {
			infos = append(infos, f)
			continue
		}
		f.Code, f.Severity = "route-target-mismatch", "error"
		f.Detail = fmt.Sprintf("peer %s sends RT %s with VNI %d, which imports %s (%d routes)", k.peer, k.rts, k.vni,
			cmp.Or(strings.Join(v.ImportRts, " "), "nothing"), l.routes[k])
		f.Remedy = fmt.Sprintf("add %s to import of VNI %d in the configuration, or mend the sender", k.rts, k.vni)
		errs = append(errs, f)
	}
	for _, v := range l.vnis {
		if v.State == "up" && !l.heard[v.Vni] {
			warnings = append(warnings, &evpnv1.Fault{
				Code: "route-target-unheard", Severity: "warning", Vni: v.Vni,
				Detail: fmt.Sprintf("VNI %d imports %s and no peer sends that", v.Vni, cmp.Or(strings.Join(v.ImportRts, " "), "nothing")),
				Remedy: "see that another VTEP serves the VNI and exports one of these, and that the sessions are up",
			})
		}
	}
	return slices.Concat(errs, warnings, infos)
}

func (c *cli) printLint(found []*evpnv1.Fault, asOf moment) error {
	if !c.format.forPeople() {
		e, err := encodeItems(found, asOf)
		if err != nil {
			return err
		}
		return c.printList(e)
	}
	if len(found) == 0 {
		return c.print("route targets fit: whatever peers send is imported, and every VNI that is up imports something\n")
	}
	return c.printFaults(found)
}
