package labs

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"sync"
	"testing"
	"time"
)

var soakLasts = flag.Duration("soak.lasts", 3*time.Second, "how long TestSoak has everything come and go")

// soakPace is how much faster than in a day things happen.
const soakPace = 48

// TestSoak does in half an hour to evpnd what a day does: hosts and containers come and go, others move, a raw peer changes its
// mind, sessions end, the configuration changes, devices are taken down and away. What evpnd holds must be as much in the end as
// in the beginning, and its tables those of the kernel and of FRR. Then hosts come and go that are all different, for which
// GoBGP is replaced time and again without FRR noticing.
func TestSoak(t *testing.T) {
	ctx := testContext(t, 3*time.Minute+*soakLasts+time.Duration(*soakDistinct)*2*time.Millisecond)
	s := newSoak(t, ctx)
	t.Run("a day", func(t *testing.T) {
		s.t = t
		began := time.Now()
		samples := s.live(*soakLasts, s.chores())
		t.Logf("what it held, over %s\n%s", time.Since(began).Round(time.Second), samples)
		samples.wantFlat(t, *soakLasts)
		s.wantAgreement()
	})
	t.Run("distinct hosts", func(t *testing.T) {
		s.t = t
		s.distinct(*soakDistinct)
	})
}

// chore is something that happens all the time.
type chore struct {
	name  string
	daily int                                    // how often a day has it
	first int                                    // so many times before anything is looked at
	do    func(ctx context.Context, n int) error // the n-th time, counted from 0
}

// run does it at its pace until stop ends, at least three times in lasts. It returns how often.
func (c chore) run(ctx, stop context.Context, lasts time.Duration) (int, error) {
	every := min(24*time.Hour/soakPace/time.Duration(c.daily), lasts/4)
	tick := time.NewTicker(max(every, 100*time.Millisecond))
	defer tick.Stop()
	began := time.Now()
	for n := c.first; ; {
		select {
		case <-stop.Done():
			return n, nil
		case <-tick.C:
		}
		if err := c.until(ctx, &n, c.first+int(time.Since(began)/every)); err != nil {
			return n, err
		}
	}
}

// until does it from the n-th time on.
func (c chore) until(ctx context.Context, n *int, end int) error {
	for ; *n < end; *n++ {
		if err := c.do(ctx, *n); err != nil {
			return fmt.Errorf("%s, %d: %w", c.name, *n, err)
		}
	}
	return nil
}

// live has all chores done, first what is there at all times and then side by side for a time, and looks at h1 meanwhile.
func (s *soak) live(lasts time.Duration, chores []chore) *samples {
	s.t.Helper()
	for _, c := range chores {
		if err := c.until(s.ctx, new(int), c.first); err != nil {
			s.t.Fatal(err)
		}
	}
	within(s.t, s.ctx, time.Minute, "h1 has what is there at all times", func() error { return s.kernelAgrees("h1") })
	stop, cancel := context.WithTimeout(s.ctx, lasts)
	defer cancel()
	var tasks sync.WaitGroup
	var mu sync.Mutex
	var faults []error
	for _, c := range chores {
		tasks.Go(func() {
			n, err := c.run(s.ctx, stop, lasts)
			mu.Lock()
			defer mu.Unlock()
			s.t.Logf("%s: %d", c.name, n)
			if err != nil {
				faults = append(faults, err)
				cancel()
			}
		})
	}
	all, err := s.sample(stop, max(lasts/300, 250*time.Millisecond))
	tasks.Wait()
	if err := errors.Join(append(faults, err)...); err != nil {
		s.t.Fatal(err)
	}
	return all
}
