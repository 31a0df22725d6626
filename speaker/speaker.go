package speaker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/osrg/gobgp/v4/pkg/apiutil"
	"github.com/sirupsen/logrus"

	"github.com/evpnd/evpnd/config"
	"github.com/evpnd/evpnd/evpn"
)

// ErrNoPeer says that there is no such peer.
var ErrNoPeer = errors.New("no such peer")

// Speaker holds the BGP sessions with all peers. Apply and SetImportRTs belong to one goroutine; the other methods may
// be called from any.
type Speaker struct {
	log         logrus.FieldLogger
	sink        chan<- []evpn.Event
	asn         uint32
	routerID    netip.Addr
	flushOnExit atomic.Bool   // of the configuration
	released    atomic.Bool   // ReleaseEoR was called
	lost        atomic.Bool   // ForwardingLost was called
	announced   chan struct{} // closed then
	refused     atomic.Uint64 // connections from strangers
	quit        chan struct{} // closed when Run ends: the sink is not read any more

	serving   atomic.Pointer[engine] // new sessions go there
	replaced  atomic.Uint64          // engines
	replacing atomic.Bool
	wear      atomic.Int64  // see EngineInfo.Withdrawn
	wearLimit int           // leastWear
	worn      chan struct{} // the engine is to be replaced

	routing sync.Mutex   // what the engines are told
	toldAt  atomic.Int64 // when they were told of a route last, nanoseconds
	engines []*engine    // one, and while it is being replaced its successor
	routes  originator
	table   map[string]ownRoute  // what we announce, by rawRoute.name
	imports map[evpn.RT]struct{} // memberships that the engines have

	configuring sync.Mutex // one configuration at a time

	mu        sync.Mutex
	cfg       *config.Config
	peers     map[netip.Addr]*peer
	adopted   []*session // not started yet
	listening *listeners
	spawn     func(*peer)          // starts a peer; nil before Run
	accept    func(c *net.TCPConn) // takes a connection; nil before Run
}

// New starts the BGP engine; no peer is contacted, and none can connect, before Run. The facts about peers and their
// routes go to sink in batches. A speaker that New returned must be Run, if only with a context that has ended.
func New(cfg *config.Config, sink chan<- []evpn.Event, log logrus.FieldLogger) (*Speaker, error) {
	if !cfg.RouterID.Is4() {
		return nil, fmt.Errorf("router id %s: must be an IPv4 address", cfg.RouterID)
	}
	e, err := startEngine(cfg, log)
	if err != nil {
		return nil, err
	}
	s := &Speaker{
		log: log, sink: sink, engines: []*engine{e}, cfg: cfg, asn: cfg.ASN, routerID: cfg.RouterID,
		quit: make(chan struct{}), imports: make(map[evpn.RT]struct{}), peers: make(map[netip.Addr]*peer),
		listening: &listeners{}, table: make(map[string]ownRoute), worn: make(chan struct{}, 1), wearLimit: leastWear,
		announced: make(chan struct{}),
	}
	s.serving.Store(e)
	s.flushOnExit.Store(cfg.FlushOnExit)
	return s, nil
}

// Run listens and dials until ctx ends, then ends every session: with a Cease, administrative shutdown (6/2), or without
// a word where graceful restart was negotiated and forwarding goes on without us, so that the peer keeps our routes. It
// returns when nothing of the speaker runs any more; the error is about listening. Run can be called once.
func (s *Speaker) Run(ctx context.Context) error {
	defer s.stopEngines()
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.mu.Lock()
	s.spawn = func(p *peer) {
		pctx, stop := context.WithCancelCause(ctx)
		p.stop = stop
		wg.Go(func() {
			defer stop(nil)
			p.run(pctx)
			s.forget(p)
		})
	}
	s.accept = func(c *net.TCPConn) { s.accepted(ctx, c) }
	cfg := s.cfg
	s.mu.Unlock()
	s.spawnAdopted(ctx)
	err := s.Configure(cfg)
	if err == nil {
		wg.Go(func() { s.renew(ctx) })
		<-ctx.Done()
	}
	close(s.quit)
	cancel()
	s.configuring.Lock() // a configuration under way starts no peers after this
	s.mu.Lock()
	s.spawn = nil
	ls := s.listening
	s.mu.Unlock()
	s.configuring.Unlock()
	ls.close()
	wg.Wait()
	return err
}

func (s *Speaker) stopEngines() {
	s.routing.Lock()
	defer s.routing.Unlock()
	for _, e := range s.engines {
		e.stop()
	}
}

// emit hands facts to the core. After Run has been told to end nobody takes them, and nobody needs them.
func (s *Speaker) emit(batch []evpn.Event) {
	select {
	case s.sink <- batch:
	case <-s.quit:
	}
}

// Apply announces and withdraws our own routes, in order. The error names each route that failed; the others are done.
// When it returns GoBGP has the routes, and sends them as fast as peers take them.
func (s *Speaker) Apply(ops []evpn.RouteOp) error {
	s.routing.Lock()
	defer s.routing.Unlock()
	var errs []error
	for part := range slices.Chunk(ops, pathsPerCall) {
		errs = append(errs, s.applyPart(part)...)
	}
	s.noteWear()
	return errors.Join(errs...)
}

// applyPart is Apply for no more than go into one call of GoBGP. s.routing is held.
func (s *Speaker) applyPart(ops []evpn.RouteOp) (errs []error) {
	paths := make([]*apiutil.Path, 0, len(ops))
	routes := make([]*rawRoute, 0, len(ops))
	of := make([]*evpn.RouteOp, 0, len(ops))
	for i := range ops {
		op := &ops[i]
		r, err := newRoute(&op.Route)
		var p *apiutil.Path
		if err == nil {
			p, err = s.routes.path(len(paths), r, op.Attrs, op.Withdraw)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", describe(op), err))
			continue
		}
		paths, routes, of = append(paths, p), append(routes, r), append(of, op)
	}
	s.tell(paths, func(i int, err error) {
		errs = append(errs, fmt.Errorf("%s: %w", describe(of[i]), err))
		of[i] = nil
	})
	for i, op := range of {
		if op != nil {
			s.remember(routes[i], op)
		}
	}
	return errs
}

// SetImportRTs makes rts the route targets whose routes we ask for (RFC 4684, RC-01). Only peers with RT constraint
// take notice. The error names each one that failed; the others are done, and the next call tries the failed ones again.
func (s *Speaker) SetImportRTs(rts []evpn.RT) error {
	s.routing.Lock()
	defer s.routing.Unlock()
	want := make(map[evpn.RT]struct{}, len(rts))
	for _, rt := range rts {
		want[rt] = struct{}{}
	}
	next := maps.Clone(want)
	var paths []*apiutil.Path
	var of []evpn.RT
	var errs []error
	failed := func(rt evpn.RT, err error) {
		errs = append(errs, fmt.Errorf("membership of route target %s: %w", rt, err))
		if _, wanted := want[rt]; wanted {
			delete(next, rt)
		} else {
			next[rt] = struct{}{}
		}
	}
	change := func(rt evpn.RT, withdraw bool) {
		p, err := membership(s.asn, rt, s.routerID, withdraw)
		if err != nil {
			failed(rt, err)
			return
		}
		paths, of = append(paths, p), append(of, rt)
	}
	for rt := range want {
		if _, ok := s.imports[rt]; !ok {
			change(rt, false)
		}
	}
	for rt := range s.imports {
		if _, ok := want[rt]; !ok {
			change(rt, true)
		}
	}
	s.tell(paths, func(i int, err error) { failed(of[i], err) })
	s.imports = next
	return errors.Join(errs...)
}

// ForwardingLost says that the kernel's entries of our last life are gone: as long as our OPENs say that we have restarted
// they say so, and peers drop the routes of ours that they have kept (GR-01, GR-06).
func (s *Speaker) ForwardingLost() { s.lost.Store(true) }

// ReleaseEoR says that all local routes have been given to Apply: EVPN End-of-RIB may go out on all sessions, present
// and future (GR-04), and our OPENs no longer say that we have restarted, but for the first to each
// configured peer. Further calls do nothing.
func (s *Speaker) ReleaseEoR() {
	if s.released.Swap(true) {
		return
	}
	close(s.announced)
	for _, p := range s.allPeers() {
		p.mu.Lock()
		var up *session
		if p.current != nil && p.current.phase == established {
			up = p.current
		}
		p.mu.Unlock()
		if up != nil && up.neg.evpn {
			up.catchUpEoR()
		}
	}
}

func (s *Speaker) allPeers() []*peer {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*peer, 0, len(s.peers))
	for _, p := range s.peers {
		all = append(all, p)
	}
	return all
}

// Sessions reports on all peers, ordered by address.
func (s *Speaker) Sessions() []SessionInfo {
	all := s.allPeers()
	infos := make([]SessionInfo, len(all))
	for i, p := range all {
		infos[i] = p.info()
	}
	slices.SortFunc(infos, func(a, b SessionInfo) int { return a.Peer.Compare(b.Peer) })
	return infos
}

// Refused counts connections from addresses that are no peer's.
func (s *Speaker) Refused() uint64 { return s.refused.Load() }

// RequestRefresh asks a peer to send its EVPN routes again (RT-07).
func (s *Speaker) RequestRefresh(addr netip.Addr) error {
	p, err := s.find(addr)
	if err != nil {
		return err
	}
	p.mu.Lock()
	up := p.current
	ok := up != nil && up.phase == established && up.neg.evpn
	p.mu.Unlock()
	switch {
	case !ok:
		return fmt.Errorf("request refresh from peer %s: no EVPN session", evpn.PeerName(addr))
	case !up.neg.refresh:
		return fmt.Errorf("request refresh from peer %s: peer does not offer it", evpn.PeerName(addr))
	}
	up.send(refreshMessage(familyEVPN))
	return nil
}

// ClosePeer ends the peer's session with a Cease, administrative reset (6/4), that carries reason. It comes up again by
// itself, and so does one that had too many routes. A peer that is not configured is no error.
func (s *Speaker) ClosePeer(addr netip.Addr, reason string) {
	if p, err := s.find(addr); err == nil {
		p.unhold()
		p.reset(&farewell{subcode: ceaseReset, text: reason})
	}
}

// LimitPeer ends the session of a peer that has more than most routes with a Cease 6/1, and lets it come up again only when
// its idle hold time is over. A peer that is not configured is no error.
func (s *Speaker) LimitPeer(addr netip.Addr, most int) {
	if p, err := s.find(addr); err == nil {
		p.reset(&farewell{subcode: ceaseMaxRoutes, text: fmt.Sprintf("peer has more than %d routes", most), most: most})
	}
}

func (s *Speaker) find(addr netip.Addr) (*peer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.peers[addr]; p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("peer %s: %w", evpn.PeerName(addr), ErrNoPeer)
}
