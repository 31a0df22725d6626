package labs

import (
	"context"
	"io"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// screen collects what a program writes to its terminal, and leaves out what steers it.
type screen struct {
	mu   sync.Mutex
	text strings.Builder
}

func (s *screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(b)
}

var steering = regexp.MustCompile(`\x1b\[[0-9;?>=$]*[a-zA-Z]`)

func (s *screen) shows(text string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Contains(steering.ReplaceAllString(s.text.String(), ""), text)
}

// topShows runs evpnctl top on a terminal of the node, explains a MAC in it and ends it with q.
func topShows(t *testing.T, ctx context.Context, lab *Lab, node, peer string, v vm) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	shown := &screen{}
	keyboard, keys := io.Pipe()
	ended := make(chan error, 1)
	go func() { // ends with q, or ctx
		ended <- lab.Attached(ctx, node, keyboard, shown, shown, "script", "-q", "-e", "-c",
			"stty rows 24 cols 80; TERM=xterm exec evpnctl top --color never", "/dev/null")
	}()
	await := func(text string) {
		t.Helper()
		within(t, ctx, 30*time.Second, "top shows "+text, func() error {
			if !shown.shows(text) {
				return io.ErrNoProgress
			}
			return nil
		})
	}
	await("PEERS 1/1")
	await(peer)
	await("EVENTS")
	for _, text := range []string{"e" + v.mac + "\r", "q", "q"} {
		if _, err := io.WriteString(keys, text); err != nil {
			t.Fatal(err)
		}
		if text != "q" {
			await("acknowledged by the kernel")
		}
	}
	keys.Close()
	if err := <-ended; err != nil {
		t.Errorf("evpnctl top: %v", err)
	}
}
