package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	evpnv1 "github.com/evpnd/evpnd/api/evpn/v1"
)

func (c *cli) historyCommand() *cobra.Command {
	var f filters
	var limit uint32
	cmd := &cobra.Command{
		Use:   "history [MAC|IP]",
		Short: "What happened lately, to a MAC, to an IP or at all",
		Long: `What happened lately, oldest first. What is remembered is bounded: a peer that sends its whole table pushes out what
was remembered of routes, but not of moves, duplicates, sessions and VNIs.`,
		Example:           "  evpnctl history 02:00:00:00:00:02\n  evpnctl history 172.16.100.2 --vni 100 -o jsonl\n  evpnctl history --limit 50",
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: c.completeSubjects,
		RunE: c.asking(func(c *cli, cmd *cobra.Command, args []string) error {
			req := &evpnv1.ListEventsRequest{Vni: f.vni, Limit: limit}
			if len(args) > 0 {
				var err error
				if req.Mac, req.Ip, err = parseSubject(args[0]); err != nil {
					return err
				}
			}
			var events []*evpnv1.Event
			var asOf moment
			err := c.call(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) error {
				stream, err := evpnv1.NewInspectServiceClient(conn).ListEvents(ctx, req)
				return receive(stream, err, func(r *evpnv1.ListEventsResponse) error {
					events, asOf = append(events, r.Events...), r.AsOf
					return nil
				})
			})
			if err != nil {
				return err
			}
			if len(args) > 0 && len(events) == 0 {
				return notFound(args[0])
			}
			if !c.format.forPeople() {
				e, err := encodeItems(events, asOf)
				if err != nil {
					return err
				}
				return c.printList(e)
			}
			for _, e := range events {
				if err := c.print("%s\n", signsFor(os.Getenv).plain(eventLine(e))); err != nil {
					return err
				}
			}
			return nil
		}),
	}
	f.addFilters(cmd, "vni")
	register(cmd, "vni", c.completeVNIs)
	cmd.Flags().Uint32Var(&limit, "limit", 1000, "at most so many `events`, the newest")
	return cmd
}

// eventLine is one event as people read it. Moments are local time.
func eventLine(e *evpnv1.Event) string {
	words := []string{e.Time.AsTime().Local().Format("2006-01-02 15:04:05.000"), fmt.Sprintf("%-6s %-10s", e.Topic, e.What)}
	say := func(what ...string) {
		if what[len(what)-1] != "" {
			words = append(words, strings.Join(what, " "))
		}
	}
	say("vni", nonZero(e.Vni))
	say(e.Mac)
	say(e.Ip)
	switch {
	case e.From != "" && e.To != "":
		say("from", e.From)
		say("to", e.To)
	case e.From != "":
		say("was at", e.From)
	default:
		say("at", e.To)
	}
	say("seq", nonZero(e.Sequence))
	say("peer", e.Peer)
	say("rd", e.Rd)
	say("count", nonZero(e.Count))
	say(e.Reason)
	if e.Took != nil {
		say("in", e.Took.AsDuration().Round(10*time.Microsecond).String())
	}
	return strings.Join(words, " ")
}
