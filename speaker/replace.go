package speaker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"time"

	"github.com/osrg/gobgp/v4/pkg/apiutil"
	"github.com/sirupsen/logrus"

	"github.com/evpnd/evpnd/evpn"
)

const (
	// leastWear is the number of routes announced and withdrawn for good, about 1 KB each in GoBGP, below which an engine
	// is never replaced. Above it an engine is replaced when these outnumber the living: a replacement then costs no more
	// than announcing these has cost before, and at most half of GoBGP's memory is waste.
	leastWear = 20_000

	replaceRetry = 10 * time.Second       // pause after a replacement that did not succeed
	firstMove    = 100 * time.Millisecond // pause before sessions that could not be moved are tried again; it doubles
	lastMove     = 10 * time.Second
)

// EngineInfo says how the embedded GoBGP does, which never gives back the memory of a route that was withdrawn
// (v4.8.0). It is replaced behind the living sessions when it has seen too many.
type EngineInfo struct {
	Replacements uint64
	Withdrawn    int  // distinct routes that the engine in use remembers for nothing
	Limit        int  // of these, above which a fresh engine takes over, unless there are more living ones
	Replacing    bool // a fresh engine is taking over
}

// Engine reports on the embedded GoBGP.
func (s *Speaker) Engine() EngineInfo {
	return EngineInfo{
		Replacements: s.replaced.Load(), Withdrawn: int(s.wear.Load()), Limit: s.wearLimit, Replacing: s.replacing.Load(),
	}
}

// ownRoute is a route that we announce.
type ownRoute struct {
	raw   *rawRoute // the one that the engines have
	attrs *evpn.Attrs
}

// remember keeps what an op that the engines have taken leaves behind. s.routing is held.
func (s *Speaker) remember(r *rawRoute, op *evpn.RouteOp) {
	if op.Withdraw {
		delete(s.table, r.name)
	} else {
		s.table[r.name] = ownRoute{r, op.Attrs}
	}
	for _, e := range s.engines {
		e.note(r.name, op.Withdraw)
	}
}

// noteWear asks for a fresh engine when the one in use has seen enough. s.routing is held.
func (s *Speaker) noteWear() {
	if !s.isWorn() {
		return
	}
	select {
	case s.worn <- struct{}{}:
	default:
	}
}

// isWorn reports whether the engine in use has seen enough. s.routing is held.
func (s *Speaker) isWorn() bool {
	n := len(s.serving.Load().withdrawn)
	s.wear.Store(int64(n))
	return n >= max(s.wearLimit, len(s.table))
}

// tell hands paths to every engine. What the engine in use refuses goes to failed. s.routing is held.
//
// The newest engine is the first. Sessions move from older ones to newer ones, any time: what a peer has been told by the
// old engine is then in the table that the new one is asked for. The other way round that table would lack what has just
// been announced and still have what has just been withdrawn, and the peer would be told so, and a moment later otherwise.
func (s *Speaker) tell(paths []*apiutil.Path, failed func(i int, err error)) {
	defer func() { s.toldAt.Store(time.Now().UnixNano()) }()
	serving := s.serving.Load()
	for _, e := range slices.Backward(s.engines) {
		report := failed
		if e != serving {
			report = e.refused
		}
		e.apply(paths, report)
	}
}

// renew replaces the engine whenever it is worn, until ctx ends.
func (s *Speaker) renew(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.worn:
		}
		s.replacing.Store(true)
		for s.needsFresh() && ctx.Err() == nil {
			err := s.replace(ctx)
			if err == nil || ctx.Err() != nil {
				continue
			}
			s.log.WithError(err).Warn("bgp engine not replaced, tried again later")
			select {
			case <-ctx.Done():
			case <-time.After(replaceRetry):
			}
		}
		s.replacing.Store(false)
	}
}

func (s *Speaker) needsFresh() bool {
	s.routing.Lock()
	defer s.routing.Unlock()
	return s.isWorn()
}

// replace starts a fresh engine, gives it all our routes while the old one serves, moves every session, and stops the old
// one when the last session has left it.
func (s *Speaker) replace(ctx context.Context) error {
	start := time.Now()
	s.mu.Lock()
	cfg := s.cfg
	s.mu.Unlock()
	next, err := startEngine(cfg, s.log)
	if err != nil {
		return err
	}
	if err := s.fill(ctx, next); err != nil {
		s.discard(next)
		return fmt.Errorf("give our routes to a fresh bgp engine: %w", err)
	}
	old := s.serving.Load()
	s.routing.Lock()
	s.serving.Store(next)
	s.routing.Unlock()
	if err := s.moveAll(ctx, old, next); err != nil {
		return err
	}
	s.discard(old)
	s.replaced.Add(1)
	debug.FreeOSMemory() // what this was for; the runtime would give it back over minutes
	s.log.WithFields(logrus.Fields{"routes": len(old.withdrawn), "took": time.Since(start).String()}).
		Info("bgp engine replaced")
	return nil
}

// discard stops an engine that nothing uses.
func (s *Speaker) discard(e *engine) {
	s.routing.Lock()
	kept := make([]*engine, 0, len(s.engines))
	for _, other := range s.engines {
		if other != e {
			kept = append(kept, other)
		}
	}
	s.engines = kept
	s.routing.Unlock()
	e.stop()
}

// fill gives a fresh engine our routes and memberships. New ones reach it from the start: a route is read from the table
// when its turn comes, so that the order does not matter.
func (s *Speaker) fill(ctx context.Context, e *engine) error {
	s.routing.Lock()
	s.engines = append(s.engines, e)
	names := slices.Collect(maps.Keys(s.table))
	err := s.fillMemberships(e)
	s.routing.Unlock()
	for part := range slices.Chunk(names, pathsPerCall) {
		if err = cmp.Or(err, ctx.Err()); err != nil {
			break
		}
		err = s.fillRoutes(e, part)
	}
	return err
}

func (s *Speaker) fillMemberships(e *engine) error {
	paths := make([]*apiutil.Path, 0, len(s.imports))
	for rt := range s.imports {
		p, err := membership(s.asn, rt, s.routerID, false)
		if err != nil {
			return err
		}
		paths = append(paths, p)
	}
	var errs []error
	e.apply(paths, func(_ int, err error) { errs = append(errs, err) })
	return errors.Join(errs...)
}

func (s *Speaker) fillRoutes(e *engine, names []string) error {
	s.routing.Lock()
	defer s.routing.Unlock()
	paths := make([]*apiutil.Path, 0, len(names))
	for _, name := range names {
		r, ok := s.table[name]
		if !ok {
			continue // withdrawn meanwhile
		}
		p, err := s.routes.path(len(paths), r.raw, r.attrs, false)
		if err != nil {
			return err
		}
		paths = append(paths, p)
	}
	e.apply(paths, e.refused)
	return e.fault
}

// moveAll moves the sessions from one engine to the other until none is left. One that cannot be moved stays, and goes on
// as before; it is tried again.
func (s *Speaker) moveAll(ctx context.Context, old, next *engine) error {
	pause := firstMove
	for {
		for _, x := range s.sessionsOn(old) {
			err := x.moveTo(ctx, next)
			if err != nil && !errors.Is(err, errUnsettled) && !x.isEnding() && ctx.Err() == nil && x.p.mayLog() {
				x.log.WithError(err).Warn("session stays with the old bgp engine, tried again later")
			}
		}
		if old.retire() {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
			pause = min(2*pause, lastMove)
		}
	}
}

// sessionsOn lists the established sessions that an engine is behind. Those on their way up are moved when they are.
func (s *Speaker) sessionsOn(e *engine) []*session {
	var up []*session
	for _, p := range s.allPeers() {
		p.mu.Lock()
		for x := range p.conns {
			if x.phase == established {
				up = append(up, x)
			}
		}
		p.mu.Unlock()
	}
	return slices.DeleteFunc(up, func(x *session) bool {
		x.legMu.Lock() // an adopted session may be on its way to its first engine
		defer x.legMu.Unlock()
		return x.leg.engine != e
	})
}
