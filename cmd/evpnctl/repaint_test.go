package main

import (
	"context"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// pictures collects what is written, and calls enough when that many pieces were.
type pictures struct {
	mu     sync.Mutex
	all    []string
	most   int
	enough func()
}

func (p *pictures) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.all = append(p.all, string(b)); len(p.all) == p.most {
		p.enough()
	}
	return len(b), nil
}

// TestShowWatch: a table is shown at once and again when it may have changed, the daemon may go away meanwhile, and an
// interrupt is how it ends.
func TestShowWatch(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "evpnd.sock")
	stop, err := serveFake(socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	out := &pictures{most: 2, enough: stop}
	var errs strings.Builder
	done := make(chan int)
	go func() {
		done <- run(ctx, []string{"--target", socket, "show", "mac", "--local", "--watch"}, out, &errs)
	}()
	for range 2000 {
		out.mu.Lock()
		n := len(out.all)
		out.mu.Unlock()
		if n == 3 {
			cancel()
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	cancel()
	if exit := <-done; exit != exitOK || errs.Len() > 0 {
		t.Errorf("exit %d, %s", exit, errs.String())
	}
	const row = "100  02:00:00:00:00:01  local   tap1       0    no      announced\n"
	if len(out.all) < 3 || !strings.HasSuffix(out.all[0], row) || out.all[1] != "\n"+out.all[0] || !strings.Contains(out.all[2], "evpnd is not reachable") {
		t.Errorf("pictures %q", out.all)
	}
	if exit := run(context.Background(), []string{"--target", socket, "show", "mac", "--watch"}, &pictures{}, &errs); exit != exitUnreachable {
		t.Errorf("nobody there: exit %d", exit)
	}
}

// TestFitted: a picture clears what was there, and says how much does not fit.
func TestFitted(t *testing.T) {
	for _, row := range []struct {
		name, picture string
		width, height int
		want          string
	}{
		{"fits", "a\nb\n", 10, 3, "\x1b[Ha\x1b[K\nb\x1b[K\x1b[J"},
		{"as high as the screen", "a\nb\nc\n", 10, 3, "\x1b[Ha\x1b[K\nb\x1b[K\nc\x1b[K\x1b[J"},
		{"higher", "a\nb\nc\nd\n", 10, 3, "\x1b[Ha\x1b[K\nb\x1b[K\n… 2 more lines\x1b[K\x1b[J"},
		{"wrapped", "aaaaaa\nb\nc\n", 5, 3, "\x1b[Haaaaaa\x1b[K\n… 2 more lines\x1b[K\x1b[J"},
		{"colours take no room", "\x1b[32maaaaa\x1b[0m\nb\n", 5, 2, "\x1b[H\x1b[32maaaaa\x1b[0m\x1b[K\nb\x1b[K\x1b[J"},
	} {
		if got := fitted(row.picture, row.width, row.height); got != row.want {
			t.Errorf("%s: %q, want %q", row.name, got, row.want)
		}
	}
}
