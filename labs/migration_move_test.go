package labs

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// itinerary is one move of a guest.
type itinerary struct {
	from, to *place
	mode     string
	rows     bool // the orchestrator adds its rows at the new place
	sticky   bool // its FDB row is sticky
}

func (it *itinerary) direction() string {
	kind := map[bool]string{false: "evpnd", true: "FRR"}
	return kind[it.from.frr] + " → " + kind[it.to.frr]
}

func (it *itinerary) String() string {
	return fmt.Sprintf("%s → %s by %s, rows %t, sticky %t", it.from.node, it.to.node, it.mode, it.rows, it.sticky)
}

// longestPause is the longest pause before one of the steps of a move.
const longestPause = 5 * time.Millisecond

// steps runs steps in random order with random pauses.
func (m *migration) steps(steps ...func()) {
	m.rng.Shuffle(len(steps), func(i, j int) { steps[i], steps[j] = steps[j], steps[i] })
	for _, step := range steps {
		<-time.After(time.Duration(m.rng.Int64N(int64(longestPause))))
		step()
	}
}

// move is a live migration: the port at the new place is there before the guest, the one at the old place goes after it,
// and the orchestrator adds and deletes its rows before, meanwhile or after. It reports whether all came out right.
func (m *migration) move(g *guest, had, it *itinerary) bool {
	f := m.figures.of(it)
	f.moves++
	hadRows := had != nil && had.rows
	ok := !hadRows || m.rowsKept(g, it)
	m.plug(it.to, true)
	m.heard(it.to)
	before, after := m.orchestrate(g, hadRows, it)
	m.steps(before...)
	m.probes.window()
	g.place.Store(int32(slices.Index(m.places, it.to)))
	left := time.Now()
	m.speak(g, it.mode)
	m.steps(after...)
	if it.mode == byTraffic {
		m.speak(g, it.mode) // a guest that talks goes on talking
	}
	if err := m.await(g, it.expected(g), time.Now(), settleTime); err != nil {
		m.wrong(g, it, "wrong after a second", m.frrErred(g, it, err), err)
		return false
	}
	f.loss = append(f.loss, m.probes.lost())
	if it.mode != bySilence {
		f.latency = append(f.latency, max(0, m.changes.of(g.mac).Sub(left)))
		return ok
	}
	m.speak(g, byARP)
	if err := m.await(g, arrival{at: it.to, ip: g.ip4}, time.Now(), settleTime); err != nil {
		m.wrong(g, it, "wrong a second after it spoke", m.frrErred(g, it, err), err)
		return false
	}
	return ok
}

// heard waits until the daemon of a place reads the frames of its port: the port is there while the memory of a VM is copied,
// which takes longer.
func (m *migration) heard(p *place) {
	m.t.Helper()
	if p.frr {
		return
	}
	ctx, cancel := context.WithTimeout(m.ctx, 10*time.Second)
	defer cancel()
	err := waitFor(ctx, "a packet socket on the port of "+p.node, func() (bool, error) {
		sockets, err := os.ReadFile(p.sockets)
		if err != nil {
			return false, err
		}
		for line := range strings.Lines(string(sockets)) {
			if f := strings.Fields(line); len(f) > 4 && f[4] == strconv.Itoa(p.port) {
				return true, nil
			}
		}
		return false, nil
	})
	if err != nil {
		m.t.Fatal(err)
	}
}

// wrong counts what FRR did wrong; what evpnd did fails the test.
func (m *migration) wrong(g *guest, it *itinerary, what string, frr bool, err error) {
	f := m.figures.of(it)
	if frr {
		f.frr[what]++
		m.t.Logf("%s: FRR: %s: %v", it, what, err)
		return
	}
	f.wrong++
	m.t.Errorf("%s: %s: %v%s", it, what, err, m.views(g))
}

// rowsKept reports whether the orchestrator's rows have outlived all that came after the last move.
func (m *migration) rowsKept(g *guest, it *itinerary) bool {
	row := it.from.wantLocal(g.mac, true)
	if row != nil {
		m.wrong(g, it, "static FDB row lost", it.from.frr, row)
	}
	neighbor := it.from.wantNeighbor(g.ip4, g.mac, true)
	if neighbor != nil {
		m.wrong(g, it, "permanent neighbour lost", it.from.frr, neighbor)
	}
	return row == nil && neighbor == nil
}

// orchestrate is what happens before and after the guest resumes.
func (m *migration) orchestrate(g *guest, hadRows bool, it *itinerary) (before, after []func()) {
	after = []func(){func() { m.plug(it.from, false) }}
	sometime := func(step func()) {
		if m.rng.IntN(2) == 0 {
			before = append(before, step)
		} else {
			after = append(after, step)
		}
	}
	if hadRows {
		sometime(func() { m.deleteRows(g, it.from) })
	}
	if it.rows {
		sometime(func() { m.addRows(g, it.to, it.sticky) })
	}
	before = append(before, func() {}) // a pause at the least
	return before, after
}

// expected is what everyone must have a second after the move.
func (it *itinerary) expected(g *guest) arrival {
	want := arrival{at: it.to, static: it.rows}
	switch {
	case it.mode == bySilence:
		return arrival{}
	case it.mode == byNA:
		want.ip = g.ip6
	case it.rows || it.mode == byARP:
		want.ip = g.ip4
	}
	return want
}

// frrErred reports that FRR did something wrong: with its own kernel, while all others are right, or because it has the guest
// where it is not, and what others have by its routes is its doing.
func (m *migration) frrErred(g *guest, it *itinerary, err error) bool {
	var wrong wrongKernel
	if errors.As(err, &wrong) && wrong.place.frr {
		return true
	}
	for _, p := range []*place{it.from, it.to} {
		if !p.frr {
			continue
		}
		macs, err := frrMACs(m.ctx, m.lab, p.node, 100)
		if err != nil {
			m.t.Fatal(err)
		}
		there := macs[g.mac].Type == "local"
		if there != (m.places[g.place.Load()] == p) {
			return true
		}
	}
	return false
}

// views is what every daemon says about a guest, for the log.
func (m *migration) views(g *guest) string {
	var b strings.Builder
	for _, k := range m.kernels {
		command := []string{"sh", "-c", "evpnctl show mac -o wide | grep " + g.mac + "; evpnctl show arp -o wide | grep " + g.mac + "; bridge fdb | grep " + g.mac + "; ip neigh | grep " + g.mac + "; true"}
		if k.frr {
			command[2] = "vtysh -c 'show evpn mac vni 100 mac " + g.mac + "'; bridge fdb | grep " + g.mac + "; true"
		}
		out, _, err := m.lab.Exec(m.ctx, k.node, command...)
		fmt.Fprintf(&b, "\n%s: %v\n%s", k.node, err, out)
	}
	return b.String()
}

// retire ends a guest: its ports and rows go, and nobody may have it any more.
func (m *migration) retire(g *guest, had *itinerary) {
	m.probes.aim(nil, nil)
	g.place.Store(nowhere)
	for _, p := range m.places {
		m.deleteRows(g, p)
		m.plug(p, false)
	}
	err := m.await(g, arrival{}, time.Time{}, settleTime)
	if err == nil || had == nil {
		return
	}
	m.wrong(g, had, "stuck", m.frrErred(g, &itinerary{from: m.places[2], to: m.places[3]}, err), err)
}

// figure is what came of the moves of one direction and mode.
type figure struct {
	moves, wrong  int
	frr           map[string]int // what FRR did wrong, how often
	loss, latency []time.Duration
}

type figures map[[2]string]*figure

func (f figures) of(it *itinerary) *figure {
	key := [2]string{it.direction(), it.mode}
	if f[key] == nil {
		f[key] = &figure{frr: map[string]int{}}
	}
	return f[key]
}

func (f figures) String() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "MOVE\tTOLD BY\tMOVES\tWRONG\tLOSS ms p50\tp99\tmax\tTHIRD KERNEL ms p50\tp99\tmax\tFRR'S FAULTS")
	keys := slices.SortedFunc(maps.Keys(f), func(a, b [2]string) int { return strings.Compare(a[0]+a[1], b[0]+b[1]) })
	for _, key := range keys {
		x := f[key]
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%s\t%s\t%s\n", key[0], key[1], x.moves, x.wrong, quantiles(x.loss), quantiles(x.latency), x.faults())
	}
	w.Flush()
	return b.String()
}

func (x *figure) faults() string {
	var parts []string
	for _, what := range slices.Sorted(maps.Keys(x.frr)) {
		parts = append(parts, fmt.Sprintf("%d %s", x.frr[what], what))
	}
	return strings.Join(parts, ", ")
}

// quantiles are p50, p99 and the largest, in ms.
func quantiles(d []time.Duration) string {
	if len(d) == 0 {
		return "-\t-\t-"
	}
	slices.Sort(d)
	ms := func(d time.Duration) string { return fmt.Sprintf("%.1f", d.Seconds()*1000) }
	return ms(d[len(d)/2]) + "\t" + ms(d[len(d)*99/100]) + "\t" + ms(d[len(d)-1])
}
