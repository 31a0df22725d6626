package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	evpnv1 "github.com/evpnd/evpnd/api/evpn/v1"
)

// monitorTopics are the words of monitor, and the topics of events they stand for.
var monitorTopics = map[string]string{
	"route": "route", "mac": "mac", "arp": "ip", "nd": "ip", "ip": "ip", "vtep": "vtep", "vni": "vni", "peer": "peer", "kernel": "kernel",
}

func (c *cli) monitorCommand() *cobra.Command {
	var f filters
	var table bool
	cmd := &cobra.Command{
		Use:   "monitor [route|mac|arp|vtep|vni|peer|kernel]",
		Short: "Print what happens, as it happens",
		Long: `Print what happens, as it happens, until interrupted.

With --table, which "mac", "arp", "route", "peer" and "vni" have, the rows of that table come first, each behind "=", then a
line "synced", then each row that is new or different behind "=", and the name of each that is gone behind "-". Who reads too
slowly is told "lost N": so many changes were left out, and with --table all rows come once more, behind a line "reset"; so do
routes when very many change at once.

The format jsonl prints the messages of the API, one a line; json is the same here, and yaml a document for each. Several
targets are followed at once; what they tell comes in the order in which it arrives, with their names.`,
		Example:   "  evpnctl monitor\n  evpnctl monitor mac --vni 100\n  evpnctl monitor arp --table -o jsonl",
		Args:      cobra.MatchAll(cobra.MaximumNArgs(1), cobra.OnlyValidArgs),
		ValidArgs: []string{"route", "mac", "arp", "nd", "ip", "vtep", "vni", "peer", "kernel"},
		RunE: func(cmd *cobra.Command, args []string) error {
			req := &evpnv1.WatchRequest{Vni: f.vni, Kinds: []string{"event"}}
			word := ""
			if len(args) > 0 {
				word = args[0]
				req.Topic = monitorTopics[word]
			}
			switch {
			case table && req.Topic == "mac":
				req.Kinds, req.Topic = []string{"mac"}, ""
			case table && req.Topic == "ip":
				req.Kinds, req.Topic = []string{"neighbor"}, ""
			case table && slices.Contains([]string{"route", "peer", "vni"}, req.Topic):
				req.Kinds, req.Topic = []string{req.Topic}, ""
			case table:
				return errors.New("--table wants mac, arp, route, peer or vni")
			}
			if c.format == formatJSON {
				c.format = formatJSONL
			}
			return c.follow(cmd.Context(), req)
		},
	}
	f.addFilters(cmd, "vni")
	register(cmd, "vni", c.completeVNIs)
	cmd.Flags().BoolVar(&table, "table", false, "the rows of the table first, then what changes in it")
	return cmd
}

// follow prints what Watch sends of all targets, until it is interrupted or all of them have failed.
func (c *cli) follow(ctx context.Context, req *evpnv1.WatchRequest) error {
	targets, err := c.parseTargets()
	if err != nil {
		return err
	}
	if len(targets) == 1 {
		return c.followOne(ctx, req)
	}
	out, errs := &serial{to: c.out}, &serial{to: c.errors}
	exits := make(chan int)
	for _, t := range targets {
		one := *c
		one.at, one.out = t, out
		go func() { // ends with ctx or the target's stream; awaited below
			exit := exitOK
			if err := one.followOne(ctx, req); err != nil {
				exit = one.report(errs, err)
			}
			exits <- exit
		}()
	}
	worst := exitOK
	for range targets {
		worst = max(worst, <-exits)
	}
	if worst != exitOK {
		return reported(worst)
	}
	return nil
}

// serial lets one write at a time through.
type serial struct {
	mu sync.Mutex
	to io.Writer
}

func (s *serial) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.to.Write(b)
}

func (c *cli) followOne(ctx context.Context, req *evpnv1.WatchRequest) error {
	err := c.connect(func(conn *grpc.ClientConn) error {
		stream, err := evpnv1.NewInspectServiceClient(conn).Watch(ctx, req)
		return receive(stream, err, func(m *evpnv1.WatchResponse) error { return c.printWatched(m, req.Kinds[0] != "event") })
	})
	if ctx.Err() != nil && status.Code(err) == codes.Canceled {
		return nil // interrupted: that is how it ends
	}
	return err
}

func (c *cli) printWatched(m *evpnv1.WatchResponse, table bool) error {
	if !c.format.forPeople() {
		return c.printFollowed(m)
	}
	var lines []string
	if m.Lost > 0 {
		lines = append(lines, fmt.Sprintf("lost %d", m.Lost))
	}
	if m.Reset_ && table {
		lines = append(lines, "reset")
	}
	for _, row := range m.Macs {
		lines = append(lines, fmt.Sprintf("= vni %d %s %s %s seq %d %s", row.Vni, row.Mac, row.Origin, orDash(at(row.Port, row.Vtep)),
			row.Sequence, standing(row.Origin, row.Announced, row.Duplicate, row.Kernel)))
	}
	for _, row := range m.Neighbors {
		lines = append(lines, fmt.Sprintf("= vni %d %s %s %s %s %s", row.Vni, row.Ip, row.Mac, row.Origin, orDash(at(row.Port, row.Vtep)),
			standing(row.Origin, row.Announced, row.Duplicate, row.Kernel)))
	}
	for _, r := range m.Routes {
		lines = append(lines, fmt.Sprintf("= route %s %s %s %s %s", r.Rd, r.Key, orDash(r.Peer), orDash(r.NextHop), routeStatus(r)))
	}
	for _, p := range m.Peers {
		lines = append(lines, fmt.Sprintf("= peer %s %s as %d routes %d", p.Address, p.State, p.Asn, p.RoutesReceived))
	}
	for _, v := range m.Vnis {
		lines = append(lines, fmt.Sprintf("= vni %d %s macs %s ips %s vteps %d", v.Vni, v.State, pair(v.MacsLocal, v.MacsRemote),
			pair(v.NeighborsLocal, v.NeighborsRemote), v.Vteps))
	}
	for _, g := range m.Gone {
		lines = append(lines, "- "+goneName(g))
	}
	for _, e := range m.Events {
		lines = append(lines, signsFor(os.Getenv).plain(eventLine(e)))
	}
	if m.Synced && table {
		lines = append(lines, "synced")
	}
	if len(lines) == 0 {
		return nil
	}
	if name := c.label(); name != "" {
		for i := range lines {
			lines[i] = name + "  " + lines[i]
		}
	}
	return c.print("%s\n", strings.Join(lines, "\n"))
}

// goneName names a row that is gone as its line did.
func goneName(g *evpnv1.GoneRow) string {
	switch g.Kind {
	case "route":
		return fmt.Sprintf("route %s %s %s", g.Rd, g.Key, orDash(g.Peer))
	case "peer":
		return "peer " + g.Peer
	case "vni":
		return fmt.Sprintf("vni %d", g.Vni)
	default:
		return fmt.Sprintf("vni %d %s", g.Vni, cmp.Or(g.Ip, g.Mac))
	}
}

// printFollowed prints one message in one of the formats for programs.
func (c *cli) printFollowed(m *evpnv1.WatchResponse) error {
	raw, err := encode(m)
	if err != nil {
		return err
	}
	raw = labelled(c.label(), raw)
	if c.format != formatYAML {
		return c.printValue(raw)
	}
	text, err := jsonToYAML(raw)
	if err != nil {
		return &failure{codes.Internal, exitFailed, fmt.Errorf("encode a message: %w", err)}
	}
	return c.print("---\n%s", text)
}
