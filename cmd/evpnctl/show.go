package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	evpnv1 "github.com/evpnd/evpnd/api/evpn/v1"
)

func (c *cli) showCommand() *cobra.Command {
	show := &cobra.Command{
		Use:   "show",
		Short: "Show one of the tables",
		Long: `Show one of the tables.

FRR's word order is understood: "show evpn mac vni 100 json", "show bgp l2vpn evpn route type macip".`,
		Example: "  evpnctl show summary\n  evpnctl show mac 100\n  evpnctl show vni --watch",
		RunE:    wantSubcommand,
	}
	show.PersistentFlags().BoolVar(&c.watch, "watch", false, "show it again whenever it changes, at most once a second, until interrupted")
	show.AddCommand(c.summaryCommand(), c.statusCommand(), c.vniCommand(), c.vtepCommand(), c.macCommand(),
		c.arpCommand(), c.routeCommand(), c.configCommand())
	show.AddCommand(frrAlias("evpn"), frrAlias("bgp", "l2vpn", "evpn"))
	return show
}

// frrAlias accepts FRR's words before the name of a table and hands the rest to the show command of that name.
func frrAlias(prefix ...string) *cobra.Command {
	alias := &cobra.Command{
		Use:    prefix[0],
		Short:  "FRR's form of the show commands",
		Hidden: true,
	}
	alias.RunE = func(cmd *cobra.Command, words []string) error {
		for _, word := range prefix[1:] {
			if len(words) == 0 || words[0] != word {
				return fmt.Errorf("want \"show %s\" and the name of a table", strings.Join(prefix, " "))
			}
			words = words[1:]
		}
		if len(words) == 0 {
			return fmt.Errorf("show %s: the name of a table is missing", strings.Join(prefix, " "))
		}
		target, rest, err := cmd.Parent().Find(words)
		if err != nil || target == cmd.Parent() || target.Hidden {
			return wantSubcommand(cmd.Parent(), words)
		}
		target.SetContext(cmd.Context())
		return target.RunE(target, rest)
	}
	return alias
}

// wantSubcommand is what a group of commands does by itself: it says which one is missing, or was meant.
func wantSubcommand(cmd *cobra.Command, args []string) error {
	var names []string
	for _, sub := range cmd.Commands() {
		if !sub.Hidden {
			names = append(names, sub.Name())
		}
	}
	switch {
	case len(args) == 0 && cmd.Parent() == nil:
		return cmd.Help()
	case len(args) == 0:
		return fmt.Errorf("%s what? One of %s", cmd.CommandPath(), strings.Join(names, ", "))
	}
	cmd.SuggestionsMinimumDistance = 2
	message := fmt.Sprintf("unknown command %q for %q", args[0], cmd.CommandPath())
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		return fmt.Errorf("%s; did you mean %s?", message, strings.Join(near, " or "))
	}
	return errors.New(message + "; one of " + strings.Join(names, ", "))
}

// Short names for what every question handles.
type (
	inspector = evpnv1.InspectServiceClient
	moment    = *timestamppb.Timestamp
)

// table is one list of the API and how it prints.
type table[T proto.Message] struct {
	columns []column[T]
	// ask hands over the items that pass the filters, some at a time and at least once, and when they were copied.
	ask func(context.Context, inspector, *filters, func([]T, moment) error) error
	// named returns the one thing that was asked for by name, "" when none was: its absence is an error.
	named func(*filters) string
	kinds []string // of Watch, that say when it has changed
	// notes are lines about items, which stand under the table; nil: none.
	notes func([]T) []string
}

// tableCommand completes cmd with the work of t.
func tableCommand[T proto.Message](c *cli, cmd *cobra.Command, t table[T], flags ...string) *cobra.Command {
	f := new(filters)
	f.addFilters(cmd, flags...)
	c.completeFilters(cmd)
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := c.readWords(cmd, args); err != nil {
			return err
		}
		if c.watch {
			return c.repaint(cmd.Context(), t.kinds, f.vni, func(c *cli) error { return t.show(cmd.Context(), c, f) })
		}
		return t.show(cmd.Context(), c, f)
	}
	return cmd
}

// show prints what all targets have.
func (t table[T]) show(ctx context.Context, c *cli, f *filters) error {
	list := printerFor(c, t.columns)
	var notes []string
	failed := c.each(func(c *cli) error {
		lines, err := t.print(ctx, c, f, list)
		notes = append(notes, lines...)
		return err
	})
	if failed != nil && !list.begun {
		return failed
	}
	if err := list.end(); err != nil {
		return err
	}
	if len(notes) > 0 && !c.noHeaders && c.format.forPeople() {
		if err := c.print("\n%s\n", strings.Join(notes, "\n")); err != nil {
			return err
		}
	}
	return failed
}

// print prints what c's target has, and returns the notes about it.
func (t table[T]) print(ctx context.Context, c *cli, f *filters, list *printer[T]) (notes []string, err error) {
	list.target = c.label()
	n, wanted := 0, t.named(f)
	err = c.call(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
		return t.ask(ctx, evpnv1.NewInspectServiceClient(conn), f, func(items []T, asOf moment) error {
			if n += len(items); n == 0 && wanted != "" {
				return nil // it is not there
			}
			if t.notes != nil {
				for _, line := range t.notes(items) {
					if c.several() {
						line = c.at.name + ": " + line
					}
					notes = append(notes, line)
				}
			}
			return list.print(items, asOf)
		})
	})
	if err == nil && wanted != "" && n == 0 {
		err = notFound(wanted)
	}
	return notes, err
}

// named words for the errors of a table that was asked for one thing.
func named(kind, name string) string {
	if name == "" {
		return ""
	}
	return kind + " " + name
}

// at is the place of a MAC or IP: the port of a local one, the VTEP of a remote one.
func at(port, vtep string) string {
	if vtep != "" {
		return vtep
	}
	return port
}

// why says why an entry stands as it does.
func why(duplicate *evpnv1.Duplicate, kernel *evpnv1.KernelEntry) string {
	if duplicate != nil {
		return fmt.Sprintf("%d moves: %s until %s", duplicate.Moves, duplicate.Action, duplicate.Until.AsTime().Format(time.RFC3339))
	}
	return kernel.GetReason()
}

// standing says in one word how far a local entry has come in BGP, a remote one in the kernel.
func standing(origin string, announced bool, duplicate *evpnv1.Duplicate, kernel *evpnv1.KernelEntry) string {
	switch {
	case duplicate != nil:
		return "duplicate"
	case origin != "local":
		return kernel.GetState()
	case announced:
		return "announced"
	default:
		return "unannounced"
	}
}
