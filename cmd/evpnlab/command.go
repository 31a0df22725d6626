package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"text/tabwriter"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"github.com/evpnd/evpnd/labs"
)

// usageError is a wrong flag or argument: exit code 2.
type usageError struct{ error }

// errExec marks the error of a command that exec ran: its exit code becomes ours.
var errExec = errors.New("command in node")

// downTime bounds taking a lab down, also after an interrupt.
const downTime = 30 * time.Second

// options are the flags that all commands share.
type options struct {
	name string
	bin  string
	log  *logrus.Logger
}

func (o *options) up() labs.Options { return labs.Options{Name: o.name, Bin: o.bin, Log: o.log} }

func newCommand(log *logrus.Logger) *cobra.Command {
	o := &options{log: log}
	verbose := false
	root := &cobra.Command{
		Use:   "evpnlab",
		Short: "run containerlab topologies of FRR and evpnd in plain network namespaces",
		Long: `evpnlab runs a NN-name.clab.yml without containers: every linux node becomes a set of namespaces, every link a
veth pair. Nodes with an FRR image run FRR as installed on this machine, nodes with an evpnd image run evpnd, other nodes
idle. Needs root. State is kept in /run/evpnlab, or where EVPNLAB_STATE says.`,
		SilenceUsage: true, SilenceErrors: true,
		PersistentPreRun: func(*cobra.Command, []string) {
			if verbose {
				log.SetLevel(logrus.DebugLevel)
			}
		},
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	flags := root.PersistentFlags()
	flags.StringVarP(&o.name, "name", "n", "", "name of the lab (default: the topology's, or the only one that runs)")
	flags.StringVar(&o.bin, "bin", "", "directory with evpnd and evpnctl (default: beside evpnlab, then bin/, then PATH)")
	flags.BoolVarP(&verbose, "verbose", "v", false, "say every command that is run in a node")
	root.AddCommand(o.upCommand(), o.downCommand(), o.execCommand(), o.statusCommand(), o.testCommand(), o.demoCommand())
	return root
}

// exactly is cobra.ExactArgs with the exit code of wrong usage.
func exactly(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := cobra.ExactArgs(n)(cmd, args); err != nil {
			return usageError{fmt.Errorf("%w; see %s --help", err, cmd.CommandPath())}
		}
		return nil
	}
}

// atMostOne allows one positional argument.
func atMostOne(cmd *cobra.Command, args []string) error {
	if err := cobra.MaximumNArgs(1)(cmd, args); err != nil {
		return usageError{fmt.Errorf("%w; see %s --help", err, cmd.CommandPath())}
	}
	return nil
}

// start loads the topology at path and brings it up.
func (o *options) start(ctx context.Context, path string) (*labs.Topology, *labs.Lab, error) {
	topo, err := labs.Load(path)
	if err != nil {
		return nil, nil, err
	}
	lab, err := labs.Up(ctx, topo, o.up())
	return topo, lab, err
}

func (o *options) upCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "up DIR|FILE",
		Short:   "start a lab and leave it running",
		Example: "  evpnlab up labs/02-frr-rr",
		Args:    exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, lab, err := o.start(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return printStatus(cmd.OutOrStdout(), lab)
		},
	}
}

func (o *options) downCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "down [NAME|DIR|FILE]",
		Short:   "end a lab and remove all of it; one that does not run is no error",
		Example: "  evpnlab down 02-frr-rr",
		Args:    atMostOne,
		RunE: func(cmd *cobra.Command, args []string) error {
			lab, err := o.attach(args)
			if errors.Is(err, labs.ErrNotRunning) {
				return nil
			}
			if err != nil {
				return err
			}
			return down(cmd, lab)
		},
	}
}

func (o *options) execCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "exec NODE -- COMMAND [ARG...]",
		Short:   "run a command in a node; the exit code is the command's",
		Example: "  evpnlab exec h1 -- evpnctl show summary",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) < 2 || cmd.ArgsLenAtDash() > 1 {
				return usageError{errors.New("want NODE -- COMMAND [ARG...]")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			lab, err := o.attach(nil)
			if err != nil {
				return err
			}
			err = lab.Attached(cmd.Context(), args[0], os.Stdin, cmd.OutOrStdout(), cmd.ErrOrStderr(), args[1:]...)
			if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
				return fmt.Errorf("%w %s: %w", errExec, args[0], err)
			}
			return err
		},
	}
}

func (o *options) statusCommand() *cobra.Command {
	format := "table"
	cmd := &cobra.Command{
		Use:   "status [NAME|DIR|FILE]",
		Short: "list running labs and their nodes",
		Args:  atMostOne,
		RunE: func(cmd *cobra.Command, args []string) error {
			names, err := labs.Running()
			if err != nil {
				return err
			}
			if len(args) > 0 || o.name != "" {
				lab, err := o.attach(args)
				if err != nil {
					return err
				}
				names = []string{lab.Name}
			}
			return printAll(cmd.OutOrStdout(), names, format)
		},
	}
	cmd.Flags().StringVarP(&format, "output", "o", format, "table or json")
	return cmd
}

func printAll(w io.Writer, names []string, format string) error {
	type item struct {
		Lab   string            `json:"lab"`
		Nodes []labs.NodeStatus `json:"nodes"`
	}
	items := []item{}
	for _, name := range names {
		lab, err := labs.Attach(name)
		if err != nil {
			return err
		}
		if format == "table" {
			if err := printStatus(w, lab); err != nil {
				return err
			}
			continue
		}
		nodes, err := lab.Status()
		if err != nil {
			return err
		}
		items = append(items, item{name, nodes})
	}
	switch format {
	case "table":
		return nil
	case "json":
		return json.NewEncoder(w).Encode(map[string]any{"items": items})
	default:
		return usageError{fmt.Errorf("output %q: want table or json", format)}
	}
}

func printStatus(w io.Writer, lab *labs.Lab) error {
	nodes, err := lab.Status()
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "lab %s\n", lab.Name)
	tab := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(tab, "NODE\tIMAGE\tSTATE\tPROCESS\tPID\tNETNS")
	for _, n := range nodes {
		fmt.Fprintf(tab, "%s\t%s\t%s\t%s\t%d\t%s\n", n.Node, n.Image, n.State, n.Process, n.PID, n.Netns)
	}
	return tab.Flush()
}

// attach finds the lab that is meant: by --name, by an argument that is a topology or a name, or the only one there is.
func (o *options) attach(args []string) (*labs.Lab, error) {
	switch {
	case o.name != "":
		return labs.Attach(o.name)
	case len(args) == 1:
		if lab, err := labs.Attach(args[0]); err == nil || !errors.Is(err, labs.ErrNotRunning) {
			return lab, err
		}
		if topo, err := labs.Load(args[0]); err == nil {
			return labs.Attach(topo.Name)
		}
		return nil, fmt.Errorf("%s: %w", args[0], labs.ErrNotRunning)
	}
	names, err := labs.Running()
	if err != nil {
		return nil, err
	}
	switch len(names) {
	case 0:
		return nil, fmt.Errorf("no lab: %w", labs.ErrNotRunning)
	case 1:
		return labs.Attach(names[0])
	default:
		return nil, usageError{fmt.Errorf("several labs run %v: name one with --name", names)}
	}
}
