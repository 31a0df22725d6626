package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	evpnv1 "github.com/evpnd/evpnd/api/evpn/v1"
)

func (c *cli) clearForeignCommand() *cobra.Command {
	var f filters
	var yes, flood bool
	cmd := &cobra.Command{
		Use:   "foreign --vni VNI",
		Short: "List the kernel entries that another daemon left in a VNI, and remove them with --yes",
		Long: `List the kernel entries of a VNI that another daemon wrote, and remove them with --yes.

A daemon that is killed, such as FRR's zebra, leaves its entries in the kernel, where they stand in the way of evpnd's. evpnd
does not remove what is not its own, so they stay until you say so. Listed are MACs and neighbors with the mark of a daemon
(extern_learn) on the VXLAN device and its bridge, never static rows of operators and orchestrators. Entries of the flood
list have no such mark: they are listed with --flood, so look at each before you remove them.

Stop the other daemon, or take EVPN out of it, first: one that runs writes its entries again.`,
		Example: "  evpnctl clear foreign --vni 100\n  evpnctl clear foreign --vni 100 --yes",
		Args:    cobra.NoArgs,
		RunE: c.asking(func(c *cli, cmd *cobra.Command, _ []string) error {
			if f.vni == 0 {
				return errors.New("--vni is missing")
			}
			var r *evpnv1.ClearForeignResponse
			err := c.call(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) (err error) {
				r, err = evpnv1.NewAdminServiceClient(conn).ClearForeign(ctx, &evpnv1.ClearForeignRequest{Vni: f.vni, Remove: yes, Flood: flood})
				return err
			})
			if err != nil {
				return err
			}
			return c.printForeign(r, yes)
		}),
	}
	f.addFilters(cmd, "vni")
	register(cmd, "vni", c.completeVNIs)
	cmd.Flags().BoolVar(&yes, "yes", false, "remove them")
	cmd.Flags().BoolVar(&flood, "flood", false, "entries of the flood list too, which may be an operator's")
	return cmd
}

func (c *cli) printForeign(r *evpnv1.ClearForeignResponse, removed bool) error {
	switch {
	case !c.format.forPeople():
		return c.printMessage(r)
	case len(r.Entries) == 0:
		return c.print("no entries of another daemon\n")
	}
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "TABLE\tMAC\tIP\tVTEP\t")
	left := 0
	for _, e := range r.Entries {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", e.Table, cmp.Or(e.Mac, "-"), cmp.Or(e.Ip, "-"), cmp.Or(e.Vtep, "-"), e.Error)
		if e.Error != "" {
			left++
		}
	}
	_ = w.Flush() // into memory
	what := "listed, --yes removes them"
	if removed {
		what = "removed"
	}
	if left > 0 {
		what = fmt.Sprintf("tried, %d could not be removed", left)
	}
	return c.print("%s%d %s\n", b.String(), len(r.Entries), what)
}
