package speaker

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	mathrand "math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	"github.com/osrg/gobgp/v4/pkg/config/oc"
	"github.com/osrg/gobgp/v4/pkg/packet/bgp"
	"github.com/osrg/gobgp/v4/pkg/server"
	"github.com/sirupsen/logrus"

	"github.com/evpnd/evpnd/config"
	"github.com/evpnd/evpnd/evpn"
)

// attachTime bounds each step of bringing up an inner leg, which takes about a millisecond.
const attachTime = 2 * time.Second

// engine is the embedded GoBGP. It listens on an address of 127/8 and gets one passive neighbour, with an address of
// its own, for each TCP connection with a peer; the session dials it from that address. A lasting neighbour would sit
// in IDLE for five seconds after each session end (GoBGP v4.8.0), and could not hold two connections of one peer.
type engine struct {
	log      logrus.FieldLogger
	srv      *server.BgpServer
	asn      uint32
	addr     netip.AddrPort // where GoBGP listens
	key      string         // TCP MD5 key of the inner legs; "" when the kernel cannot
	stopping context.CancelFunc

	// Guarded by Speaker.routing.
	withdrawn map[uint64]struct{} // hashes of the names of routes that GoBGP remembers for nothing
	fault     error               // what it has refused first; fatal before it serves

	mu      sync.Mutex
	retired bool                         // no new neighbours
	last    uint16                       // host part of the neighbour address given out last
	active  map[netip.Addr]chan struct{} // neighbours in use; closed when GoBGP accepts connections for it
}

// startEngine brings GoBGP up, with nobody to talk to.
func startEngine(cfg *config.Config, log logrus.FieldLogger) (*engine, error) {
	if err := checkLoopback(); err != nil {
		return nil, err
	}
	e := &engine{
		log: log, asn: cfg.ASN, active: make(map[netip.Addr]chan struct{}), withdrawn: make(map[uint64]struct{}),
	}
	level := new(slog.LevelVar)
	e.srv = server.NewBgpServer(server.LoggerOption(newEngineLog(log), level))
	go e.srv.Serve() // ends with srv.Stop
	ctx, cancel := context.WithCancel(context.Background())
	e.stopping = cancel
	if err := e.start(ctx, cfg); err != nil {
		e.stop()
		return nil, fmt.Errorf("start bgp engine: %w", err)
	}
	return e, nil
}

func (e *engine) start(ctx context.Context, cfg *config.Config) error {
	if err := e.listen(ctx, cfg); err != nil {
		return err
	}
	if err := e.exportLocalOnly(ctx); err != nil {
		return err
	}
	err := e.srv.WatchEvent(ctx, server.WatchEventMessageCallbacks{OnPeerUpdate: e.neighborChanged}, server.WatchPeer())
	if err != nil {
		return fmt.Errorf("watch neighbours: %w", err)
	}
	return e.secure(ctx)
}

// families are those that GoBGP is to keep tables for, by the numbers of its configuration.
var families = []uint32{
	uint32(oc.AFI_SAFI_TYPE_L2VPN_EVPN.ToInt()),
	uint32(oc.AFI_SAFI_TYPE_RTC.ToInt()),
}

// starting keeps two engines of one process from starting at once: StartBgp writes package-level variables. An engine that
// serves while its successor starts reads them: bools, which are set to what they are.
var starting sync.Mutex

// listen starts GoBGP on a free port of a random network 127.x/16, so that several speakers share a host.
func (e *engine) listen(ctx context.Context, cfg *config.Config) error {
	var err error
	for range 20 {
		addr := netip.AddrFrom4([4]byte{127, byte(16 + mathrand.IntN(239)), 0, 1})
		var port uint16
		if port, err = freePort(addr); err != nil {
			continue
		}
		starting.Lock()
		err = e.srv.StartBgp(ctx, &api.StartBgpRequest{Global: &api.Global{
			Asn:             cfg.ASN,
			RouterId:        cfg.RouterID.String(),
			ListenPort:      int32(port),
			ListenAddresses: []string{addr.String()},
			Families:        families, // GoBGP makes tables for all it knows otherwise, 7 MB of them
		}})
		starting.Unlock()
		if err == nil {
			e.addr = netip.AddrPortFrom(addr, port)
			return nil
		}
	}
	return err
}

func freePort(addr netip.Addr) (uint16, error) {
	l, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(netip.AddrPortFrom(addr, 0)))
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort().Port(), nil
}

// exportLocalOnly keeps us from being a transit: by default GoBGP passes routes on between eBGP peers. It has none but
// RT memberships from peers, but those are not for others either.
func (e *engine) exportLocalOnly(ctx context.Context) error {
	policy := &api.Policy{Name: "local-only", Statements: []*api.Statement{{
		Name:       "local-only",
		Conditions: &api.Conditions{RouteType: api.Conditions_ROUTE_TYPE_LOCAL},
		Actions:    &api.Actions{RouteAction: api.RouteAction_ROUTE_ACTION_ACCEPT},
	}}}
	if err := e.srv.AddPolicy(ctx, &api.AddPolicyRequest{Policy: policy}); err != nil {
		return fmt.Errorf("add export policy: %w", err)
	}
	err := e.srv.AddPolicyAssignment(ctx, &api.AddPolicyAssignmentRequest{Assignment: &api.PolicyAssignment{
		Name:          "global",
		Direction:     api.PolicyDirection_POLICY_DIRECTION_EXPORT,
		Policies:      []*api.Policy{{Name: policy.Name}},
		DefaultAction: api.RouteAction_ROUTE_ACTION_REJECT,
	}})
	if err != nil {
		return fmt.Errorf("assign export policy: %w", err)
	}
	return nil
}

// secure closes the inner legs to other local users, who could bind any address of 127/8: one TCP MD5 key for our whole
// network, made up at each start. Stock GoBGP sets a key for a prefix only with a dynamic neighbour rule, which we do
// not want to keep; deleting its group removes the rule and leaves the key on the listener (v4.8.0). GoBGP merely logs
// when the kernel refuses the key, so the result is tried out.
func (e *engine) secure(ctx context.Context) error {
	const group = "inner"
	prefix := netip.PrefixFrom(e.addr.Addr(), 16).Masked()
	key := rand.Text() + rand.Text()
	err := errors.Join(
		e.srv.AddPeerGroup(ctx, &api.AddPeerGroupRequest{PeerGroup: &api.PeerGroup{
			Conf: &api.PeerGroupConf{PeerGroupName: group, PeerAsn: e.asn, AuthPassword: key},
		}}),
		e.srv.AddDynamicNeighbor(ctx, &api.AddDynamicNeighborRequest{
			DynamicNeighbor: &api.DynamicNeighbor{Prefix: prefix.String(), PeerGroup: group},
		}),
		e.srv.DeletePeerGroup(ctx, &api.DeletePeerGroupRequest{Name: group}),
	)
	if err != nil {
		return fmt.Errorf("set key of inner legs: %w", err)
	}
	return e.tryKey(ctx, key)
}

// keyPatience is the least time that tryKey waits for an answer which must not come. The kernel answers on loopback before
// connect(2) returns, and every start of evpnd waits this long before it dials its peers.
const keyPatience = 2 * time.Millisecond

// tryKey dials with the key, which must work, and without it, which must not in many times that time.
func (e *engine) tryKey(ctx context.Context, key string) error {
	from, start := e.host(0xffff), time.Now()
	withKey, err := e.dial(ctx, from, key, attachTime)
	if err == nil {
		_ = withKey.Close() // GoBGP closes it too: there is no such neighbour
		open, err := e.dial(ctx, from, "", max(10*time.Since(start), keyPatience))
		if err != nil {
			e.key = key
			return nil
		}
		_ = open.Close()
	}
	e.log.WithError(err).Warn("kernel has no TCP MD5: other local users can disturb BGP sessions over loopback")
	open, err := e.dial(ctx, from, "", attachTime)
	if err != nil {
		return fmt.Errorf("reach it over loopback: %w", err)
	}
	return open.Close()
}

// host is an address of our network.
func (e *engine) host(n uint16) netip.Addr {
	a := e.addr.Addr().As4()
	a[2], a[3] = byte(n>>8), byte(n)
	return netip.AddrFrom4(a)
}

func (e *engine) dial(ctx context.Context, from netip.Addr, key string, limit time.Duration) (*net.TCPConn, error) {
	d := net.Dialer{
		Timeout:   limit,
		KeepAlive: -1,
		LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0)),
		Control:   control(socketOptions{key: key, peer: netip.PrefixFrom(e.addr.Addr(), 32)}),
	}
	d.SetMultipathTCP(false) // cannot do MD5
	c, err := d.DialContext(ctx, "tcp4", e.addr.String())
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// neighborChanged runs on GoBGP's event goroutine.
func (e *engine) neighborChanged(ev *apiutil.WatchEventMessage_PeerEvent, _ time.Time) {
	if ev.Type != apiutil.PEER_EVENT_STATE || ev.Peer.State.SessionState != bgp.BGP_FSM_ACTIVE {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if ready := e.active[ev.Peer.State.NeighborAddress]; ready != nil {
		select {
		case <-ready:
		default:
			close(ready)
		}
	}
}

// attach makes a neighbour for one connection with the peer and dials it.
func (e *engine) attach(ctx context.Context, p config.Peer) (*leg, error) {
	addr, ready, err := e.take()
	if err != nil {
		return nil, err
	}
	conn, err := e.attachAt(ctx, p, addr, ready)
	if err != nil {
		e.detach(addr)
		return nil, fmt.Errorf("attach to bgp engine: %w", err)
	}
	return newLeg(e, addr, conn), nil
}

func (e *engine) attachAt(ctx context.Context, p config.Peer, addr netip.Addr, ready <-chan struct{}) (*net.TCPConn, error) {
	if err := e.srv.AddPeer(ctx, &api.AddPeerRequest{Peer: neighbor(p, addr)}); err != nil {
		return nil, fmt.Errorf("add neighbour: %w", err)
	}
	limit := time.NewTimer(attachTime)
	defer limit.Stop()
	select {
	case <-ready: // before that GoBGP would accept and close
	case <-limit.C:
		return nil, errors.New("neighbour did not become active")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	leg, err := e.dial(ctx, addr, e.key, attachTime)
	if err != nil {
		return nil, fmt.Errorf("dial inner leg: %w", err)
	}
	return leg, nil
}

// take reserves an address, never the one given back last.
func (e *engine) take() (netip.Addr, <-chan struct{}, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.retired {
		return netip.Addr{}, nil, errRetired
	}
	for {
		if e.last++; e.last < 2 || e.last >= 0xff00 {
			e.last = 2
		}
		addr := e.host(e.last)
		if _, used := e.active[addr]; !used {
			ready := make(chan struct{})
			e.active[addr] = ready
			return addr, ready, nil
		}
	}
}

var errRetired = errors.New("bgp engine has been replaced")

// retire takes the engine out of use, if no session uses it.
func (e *engine) retire() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.retired = len(e.active) == 0
	return e.retired
}

// note counts the distinct routes that GoBGP has had and has not any more: it keeps an empty destination for each, which
// the next announcement of that route uses again.
func (e *engine) note(name string, withdraw bool) {
	h := maphash.String(nameSeed, name)
	if withdraw {
		e.withdrawn[h] = struct{}{}
	} else {
		delete(e.withdrawn, h)
	}
}

// refused notes that GoBGP refuses a path that another one has taken: an engine that is being filled is of no use then.
func (e *engine) refused(_ int, err error) {
	if e.fault == nil {
		e.fault = err
	}
}

var nameSeed = maphash.MakeSeed()

// detach removes the neighbour. The inner leg must still be open: if GoBGP found it closed first, a goroutine of its
// send queue would stay behind (v4.8.0).
func (e *engine) detach(addr netip.Addr) {
	err := e.srv.DeletePeer(context.Background(), &api.DeletePeerRequest{Address: addr.String()})
	if err != nil {
		e.log.WithError(err).Debug("neighbour was gone from the bgp engine")
	}
	e.mu.Lock()
	delete(e.active, addr)
	e.mu.Unlock()
}

// neighbor describes a peer to GoBGP. What concerns the TCP connection with the peer is not its business. Graceful
// restart is on in any case: without it GoBGP does not mark the end of its table (eor.go). F and R are not, see ownOpen.
func neighbor(p config.Peer, addr netip.Addr) *api.Peer {
	restart := &api.MpGracefulRestart{Config: &api.MpGracefulRestartConfig{Enabled: true}}
	families := []*api.AfiSafi{{
		Config:            &api.AfiSafiConfig{Family: &api.Family{Afi: api.Family_AFI_L2VPN, Safi: api.Family_SAFI_EVPN}, Enabled: true},
		MpGracefulRestart: restart,
	}}
	if p.RTConstraint {
		families = append(families, &api.AfiSafi{Config: &api.AfiSafiConfig{
			Family: &api.Family{Afi: api.Family_AFI_IP, Safi: api.Family_SAFI_ROUTE_TARGET_CONSTRAINTS}, Enabled: true,
		}})
	}
	return &api.Peer{
		Conf: &api.PeerConf{NeighborAddress: addr.String(), PeerAsn: p.ASN},
		Timers: &api.Timers{Config: &api.TimersConfig{
			HoldTime:          uint64(p.HoldTime / time.Second),
			KeepaliveInterval: uint64(p.Keepalive / time.Second),
		}},
		Transport: &api.Transport{PassiveMode: true},
		AfiSafis:  families,
		GracefulRestart: &api.GracefulRestart{
			Enabled:             true,
			RestartTime:         uint32(max(p.GracefulRestart/time.Second, 1)),
			NotificationEnabled: p.GracefulRestart > 0,
		},
	}
}

// apply announces or withdraws paths, in calls of a bounded size, and calls failed for each one that GoBGP refuses. GoBGP
// goes on after an error in a call but does not say which path it was: the call is repeated path by path, which changes
// nothing for those that went through.
func (e *engine) apply(paths []*apiutil.Path, failed func(i int, err error)) {
	for from := 0; from < len(paths); {
		to := from + 1
		for to < len(paths) && to-from < pathsPerCall && paths[to].Withdrawal == paths[from].Withdrawal {
			to++
		}
		if e.call(paths[from:to]) != nil {
			for i := from; i < to; i++ {
				if err := e.call(paths[i : i+1]); err != nil {
					failed(i, err)
				}
			}
		}
		from = to
	}
}

func (e *engine) call(paths []*apiutil.Path) error {
	if paths[0].Withdrawal {
		return e.srv.DeletePath(apiutil.DeletePathRequest{Paths: paths})
	}
	_, err := e.srv.AddPath(apiutil.AddPathRequest{Paths: paths})
	return err
}

// describe says what op does, for errors.
func describe(op *evpn.RouteOp) string {
	verb := "announce"
	if op.Withdraw {
		verb = "withdraw"
	}
	return fmt.Sprintf("%s %s %s", verb, op.Route.Key.RD, op.Route.Key)
}

func (e *engine) stop() {
	e.stopping()
	e.srv.Stop()
}
