package labs

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Groups of fleeting hosts, and how many of each are there at a time.
const (
	comeAndGo, comeAndGoAlive   = 21, 200 // behind h1
	onTheMove, onTheMoveAll     = 22, 600 // behind h1 and h2 in turn
	behindFRR, behindFRRAlive   = 23, 100 // behind the ToR
	containers, containersAlive = 24, 8   // with ports of their own on h1
)

// chores are a day of a large host: one short-lived host a second, a hundred sessions lost, as many changes of configuration.
func (s *soak) chores() []chore {
	var raw sync.Mutex // its session
	return []chore{
		{"hosts that come and go", 86_400, comeAndGoAlive, s.comeAndGo("h1", comeAndGo, comeAndGoAlive)},
		{"hosts of FRR that come and go", 8_640, behindFRRAlive, s.comeAndGo("tor", behindFRR, behindFRRAlive)},
		{"moves", 20_000, onTheMoveAll, s.move},
		{"containers", 2_400, containersAlive, s.container},
		{"changes of fifty hosts behind other VTEPs", 14_400, rawBlocks, func(_ context.Context, n int) error {
			raw.Lock()
			defer raw.Unlock()
			return s.raw.change(n)
		}},
		{"sessions of the raw peer lost", 96, 0, func(ctx context.Context, _ int) error {
			raw.Lock()
			defer raw.Unlock()
			return s.raw.dial(ctx)
		}},
		{"sessions reset", 192, 0, s.reset},
		{"routes asked for again", 288, 0, s.refresh},
		{"reloads", 288, 0, s.reload},
		{"devices down or gone", 288, 0, s.flap},
		{"tables read", 480, 0, s.read},
	}
}

// comeAndGo has one host come, and the one go that came a number of hosts before.
func (s *soak) comeAndGo(node string, group byte, alive int) func(context.Context, int) error {
	at := s.sites[node]
	return func(_ context.Context, n int) error {
		err := at.comes(fleetingHost(group, n))
		if n >= alive {
			err = errors.Join(err, at.goes(fleetingHost(group, n-alive)))
		}
		return err
	}
}

// move has the hosts move in turn, so that each does less often than the hosts that are taken for duplicates.
func (s *soak) move(_ context.Context, n int) error {
	at := []string{"h1", "h2"}[n/onTheMoveAll%2]
	return s.sites[at].comes(fleetingHost(onTheMove, n%onTheMoveAll))
}

// container adds a port with a host behind it, and removes an older one.
func (s *soak) container(_ context.Context, n int) error {
	h1 := s.sites["h1"]
	name := func(n int) string { return fmt.Sprintf("c%d", n%(2*containersAlive)) }
	port := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name(n), MasterIndex: h1.bridge, Flags: unix.IFF_UP}, PeerName: name(n) + "-in"}
	if err := h1.net.handle.LinkAdd(port); err != nil {
		return fmt.Errorf("add %s: %w", port.Name, err)
	}
	err := inside(h1.net.ns, func() error {
		in, err := netlink.LinkByName(port.PeerName)
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(in); err != nil {
			return err
		}
		fd, err := openPacketSocket(port.PeerName, 0)
		if err != nil {
			return err
		}
		h := fleetingHost(containers, n)
		_, err = unix.Write(fd, gratuitousARP(h.mac, h.ip))
		return errors.Join(err, unix.Close(fd))
	})
	if err == nil && n >= containersAlive {
		err = h1.net.handle.LinkDel(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name(n - containersAlive)}})
	}
	if err != nil {
		return fmt.Errorf("container %s: %w", port.Name, err)
	}
	return nil
}

// reset ends sessions, by command here, at FRR and at h2. One that is not up at that moment is as good.
func (s *soak) reset(ctx context.Context, n int) error {
	switch n % 3 {
	case 0:
		_, _, err := s.lab.Exec(ctx, "h1", "evpnctl", "clear", "peer", rrAddr.String())
		return err
	case 1:
		_, _, err := s.lab.Exec(ctx, "rr", "vtysh", "-c", "clear bgp "+h1Addr.String())
		return err
	default:
		_, _, err := s.lab.Exec(ctx, "h2", "evpnctl", "clear", "peer", rrAddr.String())
		return err
	}
}

// refresh has h1 ask FRR for all routes, and FRR ask h1.
func (s *soak) refresh(ctx context.Context, n int) error {
	if err := s.reachable(ctx, rrAddr); err != nil {
		return err
	}
	if n%2 == 0 {
		_, _, err := s.lab.Exec(ctx, "rr", "vtysh", "-c", "clear bgp l2vpn evpn "+h1Addr.String()+" soft in")
		return err
	}
	_, stderr, err := s.lab.Exec(ctx, "h1", "evpnctl", "clear", "peer", rrAddr.String(), "--soft")
	if strings.Contains(stderr, "no EVPN session") {
		return nil // reset at that very moment
	}
	return err
}

// reload adds, changes and removes VNIs and peers. The peers are one that never comes and one that is never there.
func (s *soak) reload(ctx context.Context, n int) error {
	texts := []string{
		"peers: [{address: 10.255.9.9, asn: 65000, passive: true}]\nvnis: {1001: {create: true}, 1002: {create: true}, 1003: {create: true}}\n",
		"peers: [{address: 10.255.0.99, asn: 65000, connect-retry: 200ms}]\nvnis: {1002: {create: true}, 1003: {create: true, import: [\"65000:7003\"]}, 1004: {create: true}}\n",
		"vnis: {1003: {create: true}}\n",
	}
	return reload(ctx, s.lab, "h1", texts[n%len(texts)])
}

// flap takes a VXLAN device down and up, deletes one that evpnd has made, and takes a port down and up.
func (s *soak) flap(ctx context.Context, n int) error {
	script := []string{
		"ip link set vxlan200 down; sleep 0.05; ip link set vxlan200 up",
		"ip link del vxlan1003 2>/dev/null || true",
		"ip link set eth3 down; ip link set eth3 up",
		"ip link set vxlan100 down; ip link set vxlan100 up",
	}[n%4]
	_, _, err := s.lab.Exec(ctx, "h1", "sh", "-ec", script)
	return err
}

// read looks at everything, as a monitoring system does.
func (s *soak) read(ctx context.Context, n int) error {
	args := [][]string{{"show", "mac"}, {"show", "arp"}, {"show", "route"}, {"show", "summary"}, {"history"}}[n%5]
	_, _, err := s.lab.Exec(ctx, "h1", append([]string{"evpnctl"}, args...)...)
	return err
}
