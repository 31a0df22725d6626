package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	evpnv1 "github.com/evpnd/evpnd/api/evpn/v1"
)

func (c *cli) configCommand() *cobra.Command {
	var defaults bool
	cmd := &cobra.Command{
		Use:   "config",
		Short: "The configuration in force, as a file; passwords are not shown",
		Example: "  evpnctl show config\n  evpnctl show config --defaults\n" +
			"  evpnctl show config > running.yaml",
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if c.watch {
				return errors.New("show config has nothing to --watch: it changes by a reload only")
			}
			if err := c.readWords(cmd, args); err != nil {
				return err
			}
			var r *evpnv1.GetConfigResponse
			err := c.call(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) (err error) {
				r, err = evpnv1.NewInspectServiceClient(conn).GetConfig(ctx, &evpnv1.GetConfigRequest{Defaults: defaults})
				return err
			})
			if err != nil {
				return err
			}
			if c.format.forPeople() || c.format == formatYAML {
				return c.print("%s", r.Yaml)
			}
			return c.printMessage(r)
		},
	}
	cmd.Flags().BoolVar(&defaults, "defaults", false, "also what is the default")
	return cmd
}
