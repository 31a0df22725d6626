package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/evpnd/evpnd/labs"
)

func (o *options) testCommand() *cobra.Command {
	keep := false
	cmd := &cobra.Command{
		Use:   "test DIR",
		Short: "run a lab and the checks of its expect.txtar, then end it",
		Long: `test brings up the lab of DIR, runs DIR/expect.txtar and takes the lab down again. The script is a testscript with
two more commands:

  node NODE COMMAND [ARG...]                     run a command in a node; stdout and stderr can be matched after it
  eventually LIMIT PATTERN NODE COMMAND [ARG...] repeat it until it succeeds and its output matches PATTERN

With ! before it, node wants the command to fail, and eventually wants output that does not match.`,
		Example: "  evpnlab test labs/01-two-hosts",
		Args:    exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			topo, lab, err := o.start(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			script := filepath.Join(filepath.Dir(topo.Path), "expect.txtar")
			err = labs.RunScript(cmd.Context(), lab, script, cmd.OutOrStdout())
			if keep {
				return err
			}
			return errors.Join(err, down(cmd, lab))
		},
	}
	cmd.Flags().BoolVar(&keep, "keep", false, "leave the lab running")
	return cmd
}

// down takes a lab down even when the command was interrupted.
func down(cmd *cobra.Command, lab *labs.Lab) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(cmd.Context()), downTime)
	defer cancel()
	if err := lab.Down(ctx); err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "lab %s is down\n", lab.Name)
	return nil
}
