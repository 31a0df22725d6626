package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/charmbracelet/x/term"
	"google.golang.org/grpc"

	evpnv1 "github.com/evpnd/evpnd/api/evpn/v1"
)

// repaintPause is the least time between two paintings, and between attempts to reach a daemon that is away.
const repaintPause = time.Second

// repaint has draw show something, and again whenever what Watch sends of a kind has changed it, until ctx ends. On a terminal
// it takes the screen and shows as much as fits; elsewhere one picture follows the other, with an empty line between.
func (c *cli) repaint(ctx context.Context, kinds []string, vni uint32, draw func(*cli) error) error {
	if !c.format.forPeople() {
		return errors.New("--watch is for tables; programs read evpnctl monitor -o jsonl")
	}
	targets, err := c.parseTargets()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	news := make(chan struct{}, 1)
	ended := make(chan struct{})
	for _, t := range targets {
		one := *c
		one.at = t
		go func() { // ends with ctx; awaited below
			one.nudge(ctx, &evpnv1.WatchRequest{Kinds: kinds, Vni: vni}, news)
			ended <- struct{}{}
		}()
	}
	err = c.paintOften(ctx, news, draw)
	cancel()
	for range targets {
		<-ended
	}
	return err
}

// nudge tells that something has changed, or that the daemon went away or is back, until ctx ends.
func (c *cli) nudge(ctx context.Context, req *evpnv1.WatchRequest, news chan<- struct{}) {
	for ctx.Err() == nil {
		synced := false
		_ = c.connect(func(conn *grpc.ClientConn) error { // what fails here is told by the next painting
			stream, err := evpnv1.NewInspectServiceClient(conn).Watch(ctx, req)
			return receive(stream, err, func(m *evpnv1.WatchResponse) error {
				if synced = synced || m.Synced; !synced {
					return nil
				}
				wakeUp(news)
				return nil
			})
		})
		wakeUp(news)
		pause(ctx, repaintPause)
	}
}

func wakeUp(news chan<- struct{}) {
	select {
	case news <- struct{}{}:
	default: // it has not yet looked
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// paintOften paints at news. What fails is painted too: the daemon may come back. In the beginning it is an error.
func (c *cli) paintOften(ctx context.Context, news <-chan struct{}, draw func(*cli) error) error {
	for first := true; ; first = false {
		var picture bytes.Buffer
		one := *c
		one.out, one.errors = &picture, &picture
		err := draw(&one)
		if ctx.Err() != nil {
			return nil // interrupted: that is how it ends
		}
		if err != nil && first {
			if _, werr := c.out.Write(picture.Bytes()); werr != nil {
				return werr
			}
			return err
		}
		if err != nil {
			one.report(&picture, err)
		}
		if err := c.show(picture.String(), first); err != nil {
			return err
		}
		pause(ctx, repaintPause)
		select {
		case <-news:
		case <-ctx.Done():
			return nil
		}
	}
}

// show puts a picture on the terminal, or behind the last one.
func (c *cli) show(picture string, first bool) error {
	width, height, ok := screen(c.out)
	if !ok {
		if !first {
			picture = "\n" + picture
		}
		return c.print("%s", picture)
	}
	return c.print("%s", fitted(picture, width, height))
}

// screen is the size of the terminal that out is; false when it is none.
func screen(out io.Writer) (width, height int, ok bool) {
	f, isFile := out.(*os.File)
	if !isFile || !term.IsTerminal(f.Fd()) {
		return 0, 0, false
	}
	width, height, err := term.GetSize(f.Fd())
	return width, height, err == nil && width > 0 && height > 1
}

// fitted is a picture that replaces what a screen shows: it begins in the corner, each line clears what is left of its row,
// and what does not fit is counted in the last one.
func fitted(picture string, width, height int) string {
	lines := strings.Split(strings.TrimSuffix(picture, "\n"), "\n")
	rows := 0
	for i, line := range lines {
		need := max(1, (visible(line)+width-1)/width)
		if rows+need > height-1 && (i < len(lines)-1 || rows+need > height) {
			lines = append(lines[:i:i], fmt.Sprintf("… %d more lines", len(lines)-i))
			break
		}
		rows += need
	}
	return "\x1b[H" + strings.Join(lines, "\x1b[K\n") + "\x1b[K\x1b[J"
}

// visible counts the columns of a line, without its colours.
func visible(line string) int {
	n, escape := 0, false
	for _, r := range line {
		switch {
		case r == '\x1b':
			escape = true
		case escape:
			escape = r != 'm'
		default:
			n++
		}
	}
	return n
}
