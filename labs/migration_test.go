package labs

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var (
	migrationMoves  = flag.Int("migration.moves", 8, "moves in each direction of TestMigration")
	migrationDirect = flag.Bool("migration.direct", false, "the hosts with evpnd peer with each other, too")
	migrationSeed   = flag.Uint64("migration.seed", 0, "seed of the moves of TestMigration; 0: a new one")
)

// settleTime is how long all kernels may take to have the final owner.
const settleTime = time.Second

// movesPerGuest is how often one guest moves before the next one has its turn.
const movesPerGuest = 10

// place is a VTEP that a guest can be at.
type place struct {
	*kernelTables
	node string
	vtep netip.Addr
	tap  vmPort // the guest's end of the port
}

// migration is one run: the places, the peer's probes, and what came of each move.
type migration struct {
	t       *testing.T
	ctx     context.Context
	lab     *Lab
	rng     *rand.Rand
	places  []*place // where guests can be, by guest.place
	kernels []*place // of all VTEPs: the places and the peer's
	changes *changes // of the peer's kernel
	probes  probes
	peer    guest
	guests  int
	figures figures
}

// How a guest tells the fabric that it has arrived.
const (
	byARP     = "ARP"     // a gratuitous ARP
	byNA      = "NA"      // an unsolicited neighbour advertisement
	byTraffic = "traffic" // packets to the peer
	byRow     = "row"     // no frame; the orchestrator adds a static FDB row
	bySilence = "silence" // neither: nobody can know until it speaks
)

var modes = []string{byARP, byNA, byTraffic, byRow, bySilence}

// TestMigration moves VMs between two hosts with evpnd, between evpnd and FRR, and between two FRRs, at random times and
// with an orchestrator that adds and deletes static rows meanwhile. A second after each move all kernels must have the
// final owner, and no row of the orchestrator may be lost. What FRR does wrong with rows that are not its own is counted.
func TestMigration(t *testing.T) {
	limit := 2*time.Minute + time.Duration(*migrationMoves)*6*2*time.Second
	ctx := testContext(t, limit)
	seed := *migrationSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("seed %d", seed)
	m := newMigration(t, ctx, seed)
	for _, pair := range [][2]int{{0, 1}, {1, 2}, {2, 3}} {
		m.shuttle(m.places[pair[0]], m.places[pair[1]])
	}
	t.Logf("loss and latency from the last frame at the old place\n%s", m.figures)
}

func newMigration(t *testing.T, ctx context.Context, seed uint64) *migration {
	m := &migration{t: t, ctx: ctx, rng: rand.New(rand.NewPCG(seed, 0)), figures: figures{}}
	topo, err := Load("05-migration")
	if err != nil {
		t.Fatal(err)
	}
	if *migrationDirect {
		peerDirectly(t, topo)
	}
	m.lab = bringUpTopology(t, ctx, topo)
	vteps := map[string]string{"h1": "10.255.0.1", "h2": "10.255.0.2", "h3": "10.255.0.3", "t1": "10.255.0.4", "t2": "10.255.0.5"}
	wantMesh(t, ctx, m.lab, 100, vteps)
	runExpectations(t, ctx, m.lab, "05-migration")
	for n := range 4 {
		run(t, ctx, m.lab, "vm", fmt.Sprintf("ip addr flush dev eth%d", n+1))
		run(t, ctx, m.lab, "vm", fmt.Sprintf("ip link set eth%d addrgenmode none up", n+1))
	}
	for _, node := range []string{"h1", "h2", "t1", "t2", "h3"} {
		m.kernels = append(m.kernels, &place{
			kernelTables: openTables(t, m.lab, node), node: node, vtep: netip.MustParseAddr(vteps[node]),
		})
	}
	m.places = m.kernels[:4]
	m.changes = m.kernels[4].follow(t)
	for n, p := range m.places {
		p.tap = newVMPort(t, m.lab, "vm", fmt.Sprintf("eth%d", n+1))
		m.plug(p, false)
	}
	m.peer = guest{
		octets: []byte{2, 0, 0, 0x64, 3, 1}, mac: "02:00:00:64:03:01",
		ip4: netip.MustParseAddr("172.16.100.3"), ip6: netip.MustParseAddr("fd00:100::3"),
	}
	m.listen()
	return m
}

// peerDirectly has each host with evpnd peer with those before it, as well as with the reflector.
func peerDirectly(t *testing.T, topo *Topology) {
	hosts := map[string]int{"h1": 1, "h2": 2, "h3": 3}
	for i, n := range topo.Nodes {
		number := hosts[n.Name]
		if number == 0 {
			continue
		}
		config := "peers:\n"
		for _, peer := range hosts {
			if peer != number {
				config += fmt.Sprintf("  - {address: 10.255.0.%d, asn: 65000, local-address: 10.255.0.%d, passive: %t}\n", peer, number, number < peer)
			}
		}
		file := filepath.Join(t.TempDir(), "direct.yaml")
		if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
			t.Fatal(err)
		}
		topo.Nodes[i].Binds = append(n.Binds, Bind{Source: file, Target: "/etc/evpnd/conf.d/direct.yaml", ReadOnly: true})
	}
}

// listen starts the peer's packets, and those who count them at every place.
func (m *migration) listen() {
	var tasks sync.WaitGroup
	done := make(chan struct{})
	var files []*os.File
	for n := range m.places {
		const everything = unix.ETH_P_ALL>>8 | unix.ETH_P_ALL<<8&0xffff
		fd := packetSocket(m.t, m.lab, "vm", fmt.Sprintf("eth%d", n+1), everything)
		if err := unix.SetNonblock(fd, true); err != nil {
			m.t.Fatal(err)
		}
		f := os.NewFile(uintptr(fd), "tap")
		files = append(files, f)
		tasks.Go(func() {
			if err := m.probes.receive(f, int32(n)); err != nil {
				m.t.Error(err)
			}
		})
	}
	w := newVMPort(m.t, m.lab, "peer", "eth1")
	tasks.Go(func() { m.probes.send(w, done) })
	m.t.Cleanup(func() {
		close(done)
		for _, f := range files {
			f.Close()
		}
		tasks.Wait()
	})
}

// plug makes the guest's port a port of the bridge, or takes it away.
func (m *migration) plug(p *place, in bool) {
	m.t.Helper()
	port := &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: p.port}}
	var err error
	if in {
		err = p.net.handle.LinkSetMasterByIndex(port, p.bridge)
	} else {
		err = p.net.handle.LinkSetNoMaster(port)
	}
	if err != nil {
		m.t.Fatalf("%s: plug %t: %v", p.node, in, err)
	}
}

// rows are the orchestrator's: a static FDB row, sticky perhaps, and a permanent neighbour.
func (m *migration) rows(g *guest, p *place, sticky bool) (fdb, neighbor *netlink.Neigh) {
	fdb = &netlink.Neigh{
		LinkIndex: p.port, Family: unix.AF_BRIDGE, Flags: unix.NTF_MASTER, State: unix.NUD_NOARP, HardwareAddr: g.octets,
	}
	if sticky {
		fdb.Flags |= netlink.NTF_STICKY
	}
	neighbor = &netlink.Neigh{
		LinkIndex: p.bridge, Family: unix.AF_INET, State: unix.NUD_PERMANENT, IP: g.ip4.AsSlice(), HardwareAddr: g.octets,
	}
	return fdb, neighbor
}

func (m *migration) addRows(g *guest, p *place, sticky bool) {
	fdb, neighbor := m.rows(g, p, sticky)
	if err := errors.Join(p.net.handle.NeighSet(fdb), p.net.handle.NeighSet(neighbor)); err != nil {
		m.t.Errorf("%s: add rows of %s: %v", p.node, g.mac, err)
	}
}

// deleteRows deletes what is there: the port takes its rows along, and FRR others.
func (m *migration) deleteRows(g *guest, p *place) {
	fdb, neighbor := m.rows(g, p, false)
	for _, row := range []*netlink.Neigh{neighbor, fdb} {
		if err := p.net.handle.NeighDel(row); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EOPNOTSUPP) &&
			!errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EBUSY) {
			m.t.Errorf("%s: delete rows of %s: %v", p.node, g.mac, err)
		}
	}
}

// newGuest starts a guest that nobody has seen before, and returns once everyone has it at its first place.
func (m *migration) newGuest(at int) *guest {
	m.guests++
	hi, lo := byte(m.guests>>8), byte(m.guests)
	g := &guest{
		octets: []byte{2, 0, 5, 0, hi, lo},
		ip4:    netip.AddrFrom4([4]byte{10, 5, hi, lo}),
		ip6:    netip.AddrFrom16([16]byte{0xfd, 0, 1, 0, 14: hi, 15: lo}),
	}
	g.mac = g.octets.String()
	g.place.Store(int32(at))
	m.plug(m.places[at], true)
	m.heard(m.places[at])
	m.speak(g, byARP)
	m.probes.aim(g, data(m.t, m.peer.octets, g.octets, m.peer.ip4, g.ip4))
	if err := m.await(g, arrival{at: m.places[at]}, time.Now(), 10*time.Second); err != nil {
		m.t.Fatalf("a guest that starts at %s: %v", m.places[at].node, err)
	}
	return g
}

// speak sends what a guest sends at its place.
func (m *migration) speak(g *guest, mode string) {
	tap := m.places[g.place.Load()].tap
	switch mode {
	case byARP:
		tap.send(gratuitousARP(g.octets, g.ip4))
	case byNA:
		tap.send(unsolicitedNA(g.octets, g.ip6))
	case byTraffic:
		tap.send(data(m.t, g.octets, m.peer.octets, g.ip4, m.peer.ip4))
	}
}

// arrival is what everyone must have after a move.
type arrival struct {
	at     *place // nil: nobody may have the guest
	static bool   // the orchestrator's rows are there
	ip     netip.Addr
}

// wrongKernel says that a kernel has not what it should.
type wrongKernel struct {
	place *place
	err   error
}

func (w wrongKernel) Error() string { return w.place.node + ": " + w.err.Error() }

// settled is nil when all kernels agree with the truth. Those beside FRR are looked at when all others are right.
func (m *migration) settled(g *guest, a arrival) error {
	for _, frr := range []bool{false, true} {
		for _, k := range m.kernels {
			if k.frr != frr {
				continue
			}
			if err := k.settled(g, a); err != nil {
				return wrongKernel{k, err}
			}
		}
	}
	return nil
}

func (p *place) settled(g *guest, a arrival) error {
	switch {
	case a.at == nil:
		return p.wantNothing(g.mac)
	case a.at == p:
		if err := p.wantLocal(g.mac, a.static); err != nil || !a.static {
			return err
		}
		return p.wantNeighbor(g.ip4, g.mac, true)
	}
	if err := p.wantRemote(g.mac, a.at.vtep); err != nil || !a.ip.IsValid() || p.frr || a.at.frr {
		return err
	}
	return p.wantNeighbor(a.ip, g.mac, false)
}

// await waits until everyone agrees and packets arrive, or returns why they do not within the limit.
func (m *migration) await(g *guest, a arrival, since time.Time, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(m.ctx, limit)
	defer cancel()
	tick := time.NewTicker(longestPause)
	defer tick.Stop()
	for {
		err := m.settled(g, a)
		if err == nil && !m.probes.arrivedSince(since) {
			err = fmt.Errorf("%s: the peer's packets do not arrive", g.mac)
		}
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}

// shuttle moves guests to and fro between two places.
func (m *migration) shuttle(a, b *place) {
	places := [2]int{slices.Index(m.places, a), slices.Index(m.places, b)}
	var g *guest
	var had *itinerary
	for n := range 2 * *migrationMoves {
		if m.ctx.Err() != nil {
			m.t.Fatal(m.ctx.Err())
		}
		if n%movesPerGuest == 0 || g == nil {
			if g != nil {
				m.retire(g, had)
			}
			g, had = m.newGuest(places[n%2]), nil
		}
		mode := modes[n/2%len(modes)]
		it := &itinerary{
			from: m.places[places[n%2]], to: m.places[places[1-n%2]], mode: mode,
			rows: mode == byRow || mode != bySilence && m.rng.IntN(2) == 0, sticky: m.rng.IntN(2) == 0,
		}
		if !m.move(g, had, it) {
			m.retire(g, it)
			g = nil
			continue
		}
		had = it
	}
	m.retire(g, had)
}
