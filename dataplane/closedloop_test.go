package dataplane

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/evpnd/evpnd/evpn"
)

// closedLoop is a Dataplane with a core behind it, as the daemon joins them, and no BGP but what the test says.
type closedLoop struct {
	*lab
	facts   chan []evpn.Event
	queries chan func(*evpn.Core)
	longest time.Duration // that the owner was busy with one batch of facts
	chunk   time.Duration // that one look took
	drift   int           // entries repaired
}

var reflector = netip.MustParseAddr("10.255.255.1")

// closeLoop runs a core on l until the test ends, and waits until the first report is taken in. Peers are expected never
// to finish unless reap says so.
func closeLoop(l *lab) *closedLoop {
	l.t.Helper()
	c := &closedLoop{lab: l, facts: make(chan []evpn.Event), queries: make(chan func(*evpn.Core))}
	ctx, cancel := context.WithCancel(context.Background())
	sink := make(chan []evpn.Event, 64)
	ended, stopped := make(chan error, 1), make(chan struct{})
	go func() { ended <- l.Run(ctx, sink) }()
	synced := make(chan struct{})
	go func() {
		defer close(stopped)
		c.own(ctx, sink, synced)
	}()
	l.t.Cleanup(func() {
		cancel()
		<-stopped
		if err := <-ended; err != nil {
			l.t.Errorf("Run: %v", err)
		}
	})
	select {
	case <-synced:
	case <-time.After(deadline):
		l.t.Fatal("no first report")
	}
	return c
}

func (c *closedLoop) own(ctx context.Context, sink chan []evpn.Event, synced chan struct{}) {
	core := evpn.New(evpn.Config{
		ASN: 65000, RouterID: netip.MustParseAddr(vtepSelf), VTEP: netip.MustParseAddr(vtepSelf), Peers: []netip.Addr{reflector},
	})
	wake := time.NewTimer(0)
	defer wake.Stop()
	for {
		var batch []evpn.Event
		select {
		case <-ctx.Done():
			return
		case batch = <-sink:
		case batch = <-c.facts:
		case query := <-c.queries:
			query(core)
		case <-wake.C:
		}
		if at := c.step(ctx, core, batch); !at.IsZero() {
			wake.Reset(time.Until(at))
		}
		if len(batch) > 0 && synced != nil {
			if _, ok := batch[len(batch)-1].(evpn.Synced); ok {
				close(synced)
				synced = nil
			}
		}
	}
}

// step takes facts in and carries out what follows, until nothing does. It returns when there is more.
func (c *closedLoop) step(ctx context.Context, core *evpn.Core, facts []evpn.Event) (wake time.Time) {
	for ctx.Err() == nil {
		begun := time.Now()
		for _, ev := range facts {
			core.Handle(ev, begun)
		}
		out := core.Flush(begun)
		c.longest = max(c.longest, time.Since(begun))
		for _, n := range out.Notes {
			if n.Kind == evpn.NoteDrift {
				c.drift += n.Count
			}
		}
		facts = nil
		if len(out.Kernel.Ops) > 0 {
			facts = append(facts, c.Apply(ctx, out.Kernel))
			c.seq = out.Kernel.Seq
		}
		if len(out.ReadBack) > 0 {
			events, err := c.ReadBack(ctx, out.ReadBack, c.seq)
			if err != nil && ctx.Err() == nil {
				c.t.Errorf("read back: %v", err)
			}
			facts = append(append(facts, events...), evpn.ReadBackDone{})
		}
		if len(out.Look) > 0 {
			begun := time.Now()
			facts = append(facts, c.Look(ctx, out.Look, c.seq))
			c.chunk = max(c.chunk, time.Since(begun))
		}
		if len(facts) == 0 {
			return out.Wake
		}
	}
	return time.Time{}
}

// tell hands facts to the core and returns when all that follows is done.
func (c *closedLoop) tell(facts ...evpn.Event) {
	c.facts <- facts
	c.ask(func(*evpn.Core) {})
}

func (c *closedLoop) ask(f func(*evpn.Core)) {
	done := make(chan struct{})
	c.queries <- func(core *evpn.Core) { f(core); close(done) }
	<-done
}

// remoteHosts are UPDATEs for n hosts of VNI 10, behind four VTEPs.
func remoteHosts(n int) (facts []evpn.Event) {
	for i := range 4 {
		vtep := remoteVTEP(i)
		attrs := &evpn.Attrs{NextHop: vtep, LocalPref: 100}
		attrs.SetExtComms(string(evpn.AppendEncapVXLAN(evpn.AppendRT(nil, evpn.NewRT(65000, 10)))))
		imet := *attrs
		imet.PMSI = evpn.PMSI{Present: true, Tunnel: evpn.TunnelIngressReplication, Label: 10, Endpoint: vtep}
		rd := evpn.NewRD(vtep, 10)
		facts = append(facts, &evpn.Update{Peer: reflector, Attrs: &imet, Reach: []evpn.Route{
			{Key: evpn.RouteKey{Type: evpn.TypeIMET, RD: rd, IP: vtep}},
		}})
		u := &evpn.Update{Peer: reflector, Attrs: attrs}
		for j := i; j < n; j += 4 {
			key := evpn.RouteKey{Type: evpn.TypeMACIP, RD: rd, MAC: remoteMAC(j), IP: remoteIP(j)}
			u.Reach = append(u.Reach, evpn.Route{Key: key, Label1: 10})
		}
		facts = append(facts, u)
	}
	return facts
}

func remoteVTEP(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 1, byte(i + 1)}) }
func remoteMAC(i int) evpn.MAC    { return evpn.MAC{2, 0xee, 0, byte(i >> 16), byte(i >> 8), byte(i)} }

func remoteIP(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 100 + byte(i>>16), byte(i >> 8), byte(i)})
}

// tables are all rows of VNI 10 as iproute2 shows them, in order.
func tables(t testing.TB) []string {
	t.Helper()
	rows := run(t, "bridge -d fdb show br br10") + run(t, "ip -d neigh show dev br10 nud all") + run(t, "ip nexthop show")
	lines := strings.Split(strings.TrimSpace(rows), "\n")
	lines = slices.DeleteFunc(lines, func(l string) bool { // what the kernel does by itself
		return strings.HasPrefix(l, "33:33:") || strings.HasPrefix(l, "01:00:5e") || strings.HasPrefix(l, "ff02:") || strings.HasPrefix(l, "fe80:") ||
			strings.HasPrefix(l, "224.")
	})
	for i := range lines {
		lines[i] = strings.Join(strings.Fields(lines[i]), " ")
	}
	slices.Sort(lines)
	return lines
}

// only returns what is in a and not in b, both sorted.
func only(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(l string) bool { _, ok := slices.BinarySearch(b, l); return ok })
}

// batchRun feeds lines to the tool of iproute2 that each begins with, "bridge" or "ip". With the flag -force lines may fail.
func batchRun(t testing.TB, lines []string, flags ...string) {
	t.Helper()
	for _, tool := range []string{"ip", "bridge"} {
		var script strings.Builder
		for _, l := range lines {
			if rest, ok := strings.CutPrefix(l, tool+" "); ok {
				script.WriteString(rest + "\n")
			}
		}
		cmd := exec.Command(tool, append(flags, "-batch", "-")...)
		cmd.Stdin = strings.NewReader(script.String())
		if out, err := cmd.CombinedOutput(); err != nil && len(flags) == 0 {
			t.Fatalf("%s -batch: %v: %s", tool, err, out)
		}
	}
}

// foreignRows are lines that make n rows of every kind that is not ours.
func foreignRows(n int) []string {
	lines := []string{
		"ip nexthop add id 900 via 10.0.0.99 fdb", "ip nexthop add id 901 group 900 fdb",
		"ip nexthop add id 902 via 10.0.0.98 fdb protocol bgp",
		fmt.Sprintf("ip nexthop add id %d via 10.0.0.97 fdb", firstID), fmt.Sprintf("ip nexthop add id %d blackhole", firstID+3),
	}
	kinds := []string{
		"bridge fdb add MAC dev p10 master static", "bridge fdb add MAC dev p10 master permanent",
		"bridge fdb add MAC dev p10 master extern_learn", "bridge fdb add MAC dev vx10 master static",
		"bridge fdb add MAC dev vx10 self static dst 10.0.0.99", "bridge fdb add MAC dev vx10 self permanent dst 10.0.0.99",
		"bridge fdb add MAC dev vx10 self extern_learn dst 10.0.0.99", "bridge fdb add MAC dev vx10 self extern_learn nhid 901",
		"bridge fdb add MAC dev vx10 self master static dst 10.0.0.99",
		"bridge fdb add MAC dev vx10 self master extern_learn dst 10.0.0.99",
		"bridge fdb add MAC dev vx10 self master extern_learn nhid 901",
		"bridge fdb append 00:00:00:00:00:00 dev vx10 self permanent dst IP",
		"ip neigh add IP lladdr MAC dev br10 nud permanent", "ip neigh add IP lladdr MAC dev br10 nud noarp",
		"ip neigh add IP lladdr MAC dev br10 nud permanent proto bgp", "ip neigh add IP lladdr MAC dev br10 nud noarp extern_learn",
		"ip neigh add IP lladdr MAC dev br10 nud noarp extern_learn proto zebra", "ip neigh add 2001:db8::I lladdr MAC dev br10 nud permanent",
	}
	for i := len(lines); i < n; i++ {
		r := strings.NewReplacer("MAC", fmt.Sprintf("02:0f:00:00:%02x:%02x", i>>8, i&255), "IP", fmt.Sprintf("10.99.%d.%d", i>>8, i&255), "::I", fmt.Sprintf("::%x", i))
		lines = append(lines, r.Replace(kinds[i%len(kinds)]))
	}
	return lines
}

// alterations are lines that each delete or alter something of the i-th remote host; groups are the nexthop groups of the
// VTEPs.
func alterations(i int, groups []uint32) [][]string {
	other := groups[(i+1)%len(groups)]
	r := strings.NewReplacer("MAC", remoteMAC(i).String(), "IP", remoteIP(i).String(), "OTHER", fmt.Sprint(other))
	kinds := [][]string{
		{"bridge fdb del MAC dev vx10 self"},
		{"bridge fdb del MAC dev vx10 master"},
		{"bridge fdb del MAC dev vx10 self master"},
		{"bridge fdb replace MAC dev vx10 self extern_learn nhid OTHER"},
		{"bridge fdb replace MAC dev vx10 self extern_learn nhid 901"},
		{"bridge fdb replace MAC dev vx10 self nhid OTHER"},
		{"bridge fdb replace MAC dev vx10 self static nhid 901"},
		{"bridge fdb del MAC dev vx10 self", "bridge fdb add MAC dev vx10 self extern_learn dst 10.0.0.99"},
		{"bridge fdb del MAC dev vx10 self", "bridge fdb add MAC dev vx10 self extern_learn nhid 901"},
		{"bridge fdb replace MAC dev vx10 master static"},
		{"bridge fdb replace MAC dev vx10 master sticky dynamic"},
		{"ip neigh del IP dev br10"},
		{"ip neigh replace IP lladdr 02:00:00:00:09:09 dev br10 nud permanent"},
		{"ip neigh replace IP lladdr 02:00:00:00:09:09 dev br10 nud noarp extern_learn"},
		{"ip neigh replace IP lladdr 02:00:00:00:09:09 dev br10 nud noarp extern_learn proto zebra"},
		{"ip neigh replace IP lladdr 02:00:00:00:09:09 dev br10 nud stale"},
		{"ip neigh replace IP lladdr MAC dev br10 nud permanent"},
	}
	for _, k := range kinds {
		for j := range k {
			k[j] = r.Replace(k[j])
		}
	}
	return kinds
}

// TestAlteredRowsAreRepaired: 500 rows of ours are deleted or altered behind our back, with and without the marks of ours.
// Two seconds later every table is as it was, with 500 rows of others in it.
func TestAlteredRowsAreRepaired(t *testing.T) {
	const hosts, foreigners, altered = 600, 500, 500 // few enough for echoBuffer: no audit comes to help
	l := newLab(t)
	batchRun(t, foreignRows(foreigners))
	foreign := tables(t)
	c := closeLoop(l)
	c.tell(evpn.PeerUp{Peer: reflector})
	c.tell(append(remoteHosts(hosts), evpn.EndOfRIB{Peer: reflector})...)
	before := tables(t)
	if missing := only(foreign, before); len(missing) > 0 {
		t.Fatalf("%d rows of others are gone or changed: %q", len(missing), missing[:1])
	}
	if n := strings.Count(strings.Join(before, "\n"), "02:ee:"); n < 3*hosts {
		t.Fatalf("%d rows of ours, want %d", n, 3*hosts)
	}
	var groups []uint32
	for i := range 4 {
		g, _ := l.vteps.groupOf(remoteVTEP(i))
		groups = append(groups, g)
	}
	for _, round := range []string{"rows", "flood and nexthops"} {
		var lines []string
		switch round {
		case "rows":
			for i, host := range rand.Perm(hosts)[:altered] {
				kinds := alterations(host, groups)
				lines = append(lines, kinds[i%len(kinds)]...)
			}
		default:
			lines = []string{
				"bridge fdb del 00:00:00:00:00:00 dev vx10 self dst " + remoteVTEP(0).String(),
				fmt.Sprintf("ip nexthop replace id %d via 10.0.0.96 fdb protocol bgp", groups[1]-1),
				fmt.Sprintf("ip nexthop replace id %d group 900 fdb protocol bgp", groups[2]),
			}
		}
		batchRun(t, lines, "-force") // what is removed may be there again before the next line
		begun := time.Now()
		if round == "rows" {
			if changed := only(before, tables(t)); len(changed) == 0 {
				t.Log("repaired before it could be seen")
			}
		}
		var after []string
		for after = tables(t); !slices.Equal(before, after) && time.Since(begun) < deadline; after = tables(t) {
			time.Sleep(10 * time.Millisecond)
		}
		if took := time.Since(begun); took > 2*time.Second {
			t.Errorf("%s: repaired after %s; wrong %d: %q, too many %d: %q", round, took,
				len(only(before, after)), head(only(before, after)), len(only(after, before)), head(only(after, before)))
		} else {
			t.Logf("%s: repaired after %s", round, took)
		}
	}
	c.ask(func(core *evpn.Core) {
		if c.drift < altered {
			t.Errorf("%d repairs counted, want %d", c.drift, altered)
		}
	})
}

// entries are what the kernel holds of ours in VNI 10.
func (l *lab) entries() map[evpn.EntryKey]evpn.Entry {
	all := map[evpn.EntryKey]evpn.Entry{}
	events, err := l.ReadBack(l.t.Context(), []evpn.VNI{10}, 0)
	if err != nil {
		l.t.Fatal(err)
	}
	for _, ev := range events { // none where the bridge has just gone
		for _, e := range ev.(evpn.Observed).Entries {
			if e.Ours {
				all[e.Key] = e.Entry
			}
		}
	}
	return all
}

// TestDeviceEvents: whatever is done to the devices of a VNI, its entries are there as soon as the devices are, nothing of
// ours stays anywhere else, and another VNI and its foreign rows are not touched.
func TestDeviceEvents(t *testing.T) {
	const hosts = 500
	l := newLab(t)
	addVNI(t, 20)
	run(t, "ip link add br30 address 02:00:00:00:aa:30 mtu 1450 type bridge\nip link set br30 up")
	batchRun(t, strings.Split(strings.NewReplacer("vx10", "vx20", "br10", "br20", "p10", "p20").Replace(strings.Join(foreignRows(100), "\n")), "\n"))
	bystander := func() (rows []string) {
		for row := range strings.Lines(run(t, "bridge -d fdb show br br20") + run(t, "ip -d neigh show dev br20 nud all")) {
			if strings.Contains(row, "02:0f:") {
				rows = append(rows, row)
			}
		}
		slices.Sort(rows)
		return rows
	}
	theirs := bystander()
	c := closeLoop(l)
	c.tell(evpn.PeerUp{Peer: reflector})
	c.tell(append(remoteHosts(hosts), evpn.EndOfRIB{Peer: reflector})...)
	want := l.entries()
	if len(want) != 2*hosts+4 {
		t.Fatalf("%d entries, want %d", len(want), 2*hosts+4)
	}
	const device = `ip link add vx10 mtu 1450 type vxlan id 10 dstport 4789 local 10.0.0.1 nolearning
		ip link set vx10 master br10 up
		bridge link set dev vx10 learning off`
	for _, event := range []struct{ name, away, back string }{
		{"bridge down and up", "ip link set br10 down", "ip link set br10 up"},
		{"device down and up", "ip link set vx10 down", "ip link set vx10 up"},
		{"bridge with another MAC", "", "ip link set br10 address 02:00:00:00:aa:77"},
		{"device renamed", "ip link set vx10 down\nip link set vx10 name overlay", "ip link set overlay name vx10\nip link set vx10 up"},
		{"bridge renamed", "ip link set br10 down\nip link set br10 name lan", "ip link set lan name br10\nip link set br10 up"},
		{"device without bridge", "ip link set vx10 nomaster", "ip link set vx10 master br10\nbridge link set dev vx10 learning off"},
		{"device on another bridge", "ip link set vx10 master br30", "ip link set vx10 master br10\nbridge link set dev vx10 learning off"},
		{"device deleted and made again", "ip link del vx10", device},
		{"bridge deleted and made again", "ip link del br10", `ip link add br10 address 02:00:00:00:aa:01 mtu 1450 type bridge
			ip link set br10 up
			ip link set p10 master br10
			ip link set vx10 master br10
			bridge link set dev vx10 learning off`},
		{"device with another VNI, and back", "ip link del vx10\n" + strings.ReplaceAll(device, "id 10", "id 11"), "ip link del vx10\n" + device},
		{"nexthops flushed", "ip nexthop flush", ""},
		{"groups deleted one by one", "", "ip nexthop del id GROUP"},
	} {
		t.Run(event.name, func(t *testing.T) {
			g, _ := l.vteps.groupOf(remoteVTEP(2))
			run(t, strings.ReplaceAll(event.away, "GROUP", fmt.Sprint(g)))
			run(t, strings.ReplaceAll(event.back, "GROUP", fmt.Sprint(g)))
			begun := time.Now()
			eventually(t, "all entries", func() bool { return maps.Equal(l.entries(), want) })
			t.Logf("whole after %s", time.Since(begun))
			eventually(t, "nothing to be left on the other bridge", func() bool {
				return !strings.Contains(run(t, "ip neigh show dev br30"), "02:ee:")
			})
			if now := bystander(); !slices.Equal(now, theirs) && event.name != "nexthops flushed" {
				t.Errorf("VNI 20 lost %q and got %q", only(theirs, now), only(now, theirs))
			}
			theirs = bystander()
		})
	}
}

func head(list []string) []string { return list[:min(len(list), 8)] }

// TestLargeTablesAreAuditedByLookUps: what was altered unseen in a table too large to be dumped is found by the audit, a few
// rows at a time.
func TestLargeTablesAreAuditedByLookUps(t *testing.T) {
	const hosts, altered = 10_000, 100
	l := newLab(t)
	batchRun(t, foreignRows(20))
	c := closeLoop(l)
	c.tell(evpn.PeerUp{Peer: reflector})
	c.tell(append(remoteHosts(hosts), evpn.EndOfRIB{Peer: reflector})...)
	hostRows := func() []string {
		return slices.DeleteFunc(tables(t), func(l string) bool { return !strings.Contains(l, "02:ee:") })
	}
	before := hostRows()
	g, _ := l.vteps.groupOf(remoteVTEP(0))
	blind := func(yes bool) {
		l.echoes.mu.Lock()
		defer l.echoes.mu.Unlock()
		l.echoes.crowded[0] = yes
	}
	eventually(t, "the echo of our own rows to be over", func() bool {
		l.echoes.mu.Lock()
		defer l.echoes.mu.Unlock()
		return len(l.echoes.young)+len(l.echoes.old) == 0
	})
	blind(true)
	var lines []string
	for i := range altered {
		lines = append(lines, fmt.Sprintf("bridge fdb replace %s dev vx10 self extern_learn nhid %d", remoteMAC(i*97), g))
	}
	batchRun(t, lines)
	time.Sleep(2 * echoPeriod) // nothing is to be seen of it
	if changed := len(only(before, hostRows())); changed != altered*3/4 {
		t.Fatalf("%d rows changed, want those of three VTEPs in four", changed)
	}
	blind(false)
	var longest, chunk time.Duration
	c.ask(func(*evpn.Core) { c.longest, c.chunk = 0, 0 })
	begun := time.Now()
	c.tell(evpn.Doubt{})
	eventually(t, "the rows to be repaired", func() bool { return slices.Equal(before, hostRows()) })
	c.ask(func(*evpn.Core) { longest, chunk = c.longest, c.chunk })
	t.Logf("%d entries looked up in %s, the owner busy for %s at most, the writer for %s", 2*hosts, time.Since(begun), longest, chunk)
	if chunk == 0 {
		t.Error("nothing was looked up")
	}
}

// TestLargeFloodListsAreAudited: of a list with 2,000 VTEPs what was removed unseen is put back, a few rows at a time; what others
// put there stays theirs.
func TestLargeFloodListsAreAudited(t *testing.T) {
	const vteps, hosts, altered = 2000, 4000, 100
	l := newLab(t)
	c := closeLoop(l)
	c.tell(evpn.PeerUp{Peer: reflector})
	facts := remoteHosts(hosts)
	for i := range vteps {
		vtep := netip.AddrFrom4([4]byte{10, 0, 8 + byte(i>>8), byte(i)})
		attrs := &evpn.Attrs{NextHop: vtep, LocalPref: 100}
		attrs.SetExtComms(string(evpn.AppendEncapVXLAN(evpn.AppendRT(nil, evpn.NewRT(65000, 10)))))
		attrs.PMSI = evpn.PMSI{Present: true, Tunnel: evpn.TunnelIngressReplication, Label: 10, Endpoint: vtep}
		facts = append(facts, &evpn.Update{Peer: reflector, Attrs: attrs, Reach: []evpn.Route{
			{Key: evpn.RouteKey{Type: evpn.TypeIMET, RD: evpn.NewRD(vtep, 10), IP: vtep}},
		}})
	}
	c.tell(append(facts, evpn.EndOfRIB{Peer: reflector})...)
	eventually(t, "the flood list", func() bool { return len(fdb(t, evpn.MAC{})) == vteps+4 })
	batchRun(t, []string{
		"bridge fdb append 00:00:00:00:00:00 dev vx10 self permanent dst 10.99.0.1",
		"bridge fdb append 00:00:00:00:00:00 dev vx10 self permanent dst 10.99.0.2",
	})
	at := l.topo.vni(10)
	eventually(t, "theirs to be seen", func() bool { return len(l.floods.foreign(at.device)) == 2 })
	var lines []string
	for i := range altered {
		vtep := netip.AddrFrom4([4]byte{10, 0, 8 + byte(i*19>>8), byte(i * 19)})
		l.expected.put(rowKey{ifindex: at.device, self: true, addr: vtep.As16()}) // passes for a delete of ours
		lines = append(lines, "bridge fdb del 00:00:00:00:00:00 dev vx10 self dst "+vtep.String())
	}
	batchRun(t, lines)
	eventually(t, "the deletes to pass unseen", func() bool { return l.expectedDeletes() == 0 })
	if n := len(fdb(t, evpn.MAC{})); n != vteps+4+2-altered {
		t.Fatalf("%d rows are left", n)
	}
	eventually(t, "the echo of our own rows to be over", func() bool {
		l.echoes.mu.Lock()
		defer l.echoes.mu.Unlock()
		return len(l.echoes.young)+len(l.echoes.old) == 0
	})
	var chunk time.Duration
	c.ask(func(*evpn.Core) { c.chunk, c.drift = 0, 0 })
	begun := time.Now()
	c.tell(evpn.Doubt{})
	eventually(t, "the list to be whole", func() bool { return len(fdb(t, evpn.MAC{})) == vteps+4+2 })
	eventually(t, "the repairs to be counted", func() bool {
		var drift int
		c.ask(func(*evpn.Core) { drift, chunk = c.drift, c.chunk })
		return drift >= altered
	})
	t.Logf("%d flood entries and %d others audited in %s, the writer busy for %s at most", vteps, 2*hosts, time.Since(begun), chunk)
	if theirs := l.floods.foreign(at.device); len(theirs) != 2 {
		t.Errorf("foreign are %v", theirs)
	}
	if n := l.counts.tampered.Load(); n < altered {
		t.Errorf("%d counted as tampered", n)
	}
}
