package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/term"
	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	evpnv1 "github.com/evpnd/evpnd/api/evpn/v1"
)

func (c *cli) topCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "top",
		Short: "Watch peers, VNIs and events on the terminal",
		Long: `Watch peers, VNIs and events on the terminal.

Keys: up and down choose a VNI, enter or v shows its VTEPs and MACs, / finds a MAC or an IP, e explains one, esc goes back,
q ends. MOVES/H counts the moves of the last hour that evpnd remembers. Colours are those of the other commands.`,
		Example: "  evpnctl top\n  evpnctl top --color never",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			in, out := cmd.InOrStdin(), c.out
			for _, f := range []any{in, out} {
				if file, ok := f.(*os.File); !ok || !term.IsTerminal(file.Fd()) {
					return errors.New("top wants a terminal; evpnctl monitor does not")
				}
			}
			targets, err := c.parseTargets()
			if err != nil {
				return err
			}
			if len(targets) > 1 {
				return errors.New("top wants one target; evpnctl web shows several")
			}
			c.at = targets[0]
			return c.connect(func(conn *grpc.ClientConn) error { return c.top(cmd.Context(), conn, in, out) })
		},
	}
}

// top shows what one daemon has until the user ends it. A daemon that goes away is waited for; one that is not there in
// the beginning is an error.
func (c *cli) top(ctx context.Context, conn *grpc.ClientConn, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	client := evpnv1.NewInspectServiceClient(conn)
	m := newTopModel(c.paint)
	m.fetch = func() tea.Msg { return fetchTop(ctx, client, c.timeout) }
	m.run = func(title string, commands ...[]string) tea.Cmd {
		return func() tea.Msg { return topDetail{title, c.lines(ctx, commands)} }
	}
	if first := fetchTop(ctx, client, c.timeout); first.err != nil {
		cancel()
		return first.err
	}
	p := tea.NewProgram(m, tea.WithContext(ctx), tea.WithInput(in), tea.WithOutput(out))
	followed := make(chan struct{})
	go func() { // ends with ctx
		defer close(followed)
		followEvents(ctx, client, func(e topEvents) { p.Send(e) })
	}()
	_, err := p.Run()
	cancel()
	<-followed
	if errors.Is(err, tea.ErrProgramKilled) || errors.Is(err, tea.ErrInterrupted) {
		return nil // a signal: that is how it ends
	}
	if err != nil {
		err = &failure{exit: exitFailed, err: fmt.Errorf("draw on the terminal: %w", err)}
	}
	return err
}

// topTables is what is read every second.
type topTables struct {
	status *evpnv1.Status
	peers  []*evpnv1.Peer
	vnis   []*evpnv1.VNI
	asOf   time.Time
	err    error
}

// topEvents are events as they come; early ones are those remembered from before.
type topEvents struct {
	events []*evpnv1.Event
	lost   uint64
}

// topDetail is a page of text.
type topDetail struct {
	title string
	lines []string
}

func fetchTop(ctx context.Context, client inspector, timeout time.Duration) topTables {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	status, err := client.GetStatus(ctx, &evpnv1.GetStatusRequest{})
	if err != nil {
		return topTables{err: err}
	}
	peers, err := whole(client.ListPeers(ctx, &evpnv1.ListPeersRequest{}))
	if err != nil {
		return topTables{err: err}
	}
	vnis, err := whole(client.ListVNIs(ctx, &evpnv1.ListVNIsRequest{}))
	return topTables{status.GetStatus(), peers.GetPeers(), vnis.GetVnis(), peers.GetAsOf().AsTime(), err}
}

// followEvents sends what is remembered and then what happens, and begins anew when the daemon went away.
func followEvents(ctx context.Context, client inspector, send func(topEvents)) {
	remembered, err := client.ListEvents(ctx, &evpnv1.ListEventsRequest{Limit: topEventsKept})
	_ = receive(remembered, err, func(r *evpnv1.ListEventsResponse) error { // what fails here fails again below
		send(topEvents{events: r.Events})
		return nil
	})
	token := ""
	for {
		stream, err := client.Watch(ctx, &evpnv1.WatchRequest{Kinds: []string{"event"}, Token: token})
		_ = receive(stream, err, func(m *evpnv1.WatchResponse) error { // the tables say that it is away
			if m.Token != "" {
				token = m.Token
			}
			if len(m.Events) > 0 || m.Lost > 0 {
				send(topEvents{m.Events, m.Lost})
			}
			return nil
		})
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Second):
		}
	}
}

// mostText is how much of what a command prints is kept for a page.
const mostText = 1 << 20

// lines runs commands of ours and returns what they print.
func (c *cli) lines(ctx context.Context, commands [][]string) []string {
	b := &page{}
	for i, args := range commands {
		if i > 0 {
			b.WriteString("\n")
		}
		one := *c
		one.out, one.errors, one.format = b, b, formatTable
		root := one.rootCommand()
		root.SetArgs(append([]string{"--target", c.targets[0], "--color", string(colorFor(c.colored))}, args...))
		root.SetOut(b)
		root.SetErr(b)
		if err := root.ExecuteContext(ctx); err != nil && !b.full {
			fmt.Fprintln(b, err)
		}
	}
	lines := strings.Split(strings.TrimRight(b.String(), "\n"), "\n")
	if b.full {
		lines = append(lines, "… there is more: evpnctl "+strings.Join(commands[len(commands)-1], " "))
	}
	return lines
}

func colorFor(colored bool) colorMode {
	if colored {
		return "always"
	}
	return "never"
}

// page takes text until it has enough.
type page struct {
	strings.Builder
	full bool
}

func (p *page) Write(b []byte) (int, error) {
	if p.Len()+len(b) > mostText {
		p.full = true
		return 0, errEnough
	}
	return p.Builder.Write(b)
}
