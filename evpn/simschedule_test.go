package evpn

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var (
	simSeeds = flag.Int("sim.seeds", 5000, "schedules that TestSimulator plays")
	simFirst = flag.Uint64("sim.seed", 1, "the seed of the first")
)

// simStep is one thing that happens to the network, and how long it is until the next.
type simStep struct {
	kind simKind
	host int
	vtep int
	port string
	n    int
	then time.Duration
}

type simKind uint8

const (
	simFrame    simKind = iota // the host speaks here: it has moved when it last spoke elsewhere
	simDouble                  // so does another one with its MAC, n times in turn, at the next VTEP
	simUnplug                  // a port goes
	simOverrun                 // notifications of the kernel are lost
	simStranger                // a VTEP we do not play claims the host with the number worldSeqs[n], for a second
	simLoss                    // the session goes, and comes back after n seconds
	simGrace                   // likewise, and both ends keep what they have
	simRestart                 // the daemon goes, and comes back after n seconds
	simCrash                   // likewise, and the reflector forgets its routes
	simStatic                  // an orchestrator makes a static row for the host here, and removes it after n/2 seconds
)

func (k simKind) String() string {
	return [...]string{"frame", "double", "unplug", "overrun", "stranger", "loss", "grace", "restart", "crash", "static"}[k]
}

func (st simStep) String() string {
	return fmt.Sprintf("%s host %d vtep %d port %s n %d then %s", st.kind, st.host, st.vtep, st.port, st.n, st.then)
}

// simSchedule is all that a run depends on.
type simSchedule struct {
	seed   uint64
	vteps  int
	hosts  int
	moves  int  // DuplicatePolicy.Moves
	sticky bool // VNIPolicy.StickyStatic
	steps  []simStep
}

func drawSchedule(seed uint64) simSchedule {
	r := rand.New(rand.NewPCG(seed, 0))
	d := simSchedule{seed: seed, vteps: 2 + r.IntN(3), hosts: 1 + r.IntN(3), moves: 100}
	kinds := []simKind{simFrame, simFrame, simFrame, simFrame, simFrame, simFrame, simUnplug}
	if seed%2 == 0 {
		kinds = append(kinds, simLoss, simGrace, simRestart, simCrash)
	}
	if seed%4 >= 2 {
		d.moves = 3
		kinds = append(kinds, simDouble)
	}
	if seed%8 >= 4 {
		kinds = append(kinds, simOverrun)
	}
	if seed%16 >= 12 {
		kinds = append(kinds, simStranger)
	}
	if seed%32 >= 24 {
		d.sticky = r.IntN(2) == 0
		kinds = append(kinds, simStatic)
	}
	if seed%64 >= 56 {
		d.vteps = 5 + r.IntN(4)
	}
	pauses := []time.Duration{time.Millisecond, 5 * time.Millisecond, 20 * time.Millisecond, 60 * time.Millisecond, simSettle, time.Second, 20 * time.Second, 200 * time.Second}
	pauses = pauses[:3+r.IntN(len(pauses)-2)] // some run at speed throughout
	for range 3 + r.IntN(25) {
		d.steps = append(d.steps, simStep{
			kind: kinds[r.IntN(len(kinds))], host: r.IntN(d.hosts), vtep: r.IntN(d.vteps), port: []string{"tap1", "tap2"}[r.IntN(2)],
			n: 1 + r.IntN(8), then: time.Duration(1 + r.Int64N(int64(pauses[r.IntN(len(pauses))]))),
		})
	}
	return d
}

// simHost is what is known of a host without asking any core.
type simHost struct {
	vtep  int // where it spoke last
	spoke time.Time
	sure  bool // nothing raced with its last move
	alive bool // nothing can have taken its row away since
	known bool // its VTEP has had it and its IP: it can be asked
}

// play runs a schedule and returns what is wrong at its end.
func (d simSchedule) play(log func(string, ...any)) (*sim, error) {
	s := newSim(d.vteps, d.moves, d.sticky, d.seed, log)
	s.run(time.Second)
	hosts := make([]simHost, d.hosts)
	for _, st := range d.steps {
		if log != nil {
			log("%s step %s", s.now.Sub(epoch), st)
		}
		d.step(s, hosts, st)
		s.run(st.then)
		for h := range hosts {
			hosts[h].known = hosts[h].known || s.vteps[hosts[h].vtep].knows(h)
		}
	}
	s.run(15 * time.Second) // sessions and daemons are back then, nothing has aged since
	for h := range hosts {
		if s.tripped[simMAC(h)] {
			continue
		}
		owner := s.agreed(h)
		if v := s.vteps[hosts[h].vtep]; hosts[h].known && owner != v.addr {
			s.fail("%s is at %s, and is behind %s", simMAC(h), v.addr, owner)
		}
		if hosts[h].alive && s.now.Sub(hosts[h].spoke) < simAgeing && !owner.IsValid() {
			s.fail("%s spoke at %s, and is behind nobody", simMAC(h), s.vteps[hosts[h].vtep].addr)
		}
		if hosts[h].sure && s.now.Sub(hosts[h].spoke) < simAgeing && owner != s.vteps[hosts[h].vtep].addr {
			s.fail("%s spoke last at %s, and is behind %s", simMAC(h), s.vteps[hosts[h].vtep].addr, owner)
		}
	}
	s.checkKernels()
	if !s.faults {
		d.checkMessages(s)
	}
	d.speakOnce(s, hosts, func(h int) bool { return !s.tripped[simMAC(h)] })
	if len(s.tripped) > 0 {
		s.run(2 * time.Hour) // what was held is let go
		d.speakOnce(s, hosts, func(int) bool { return true })
	}
	return s, s.err
}

// speakOnce has hosts speak where they are, and everybody must know.
func (d simSchedule) speakOnce(s *sim, hosts []simHost, which func(int) bool) {
	for range 2 { // the first frame may meet one on its way the other way
		for h := range hosts {
			if which(h) {
				s.vteps[hosts[h].vtep].frame(h, "tap3")
			}
		}
		s.run(2 * time.Second)
	}
	for h := range hosts {
		if owner := s.vteps[hosts[h].vtep].addr; which(h) && s.agreed(h) != owner {
			s.fail("%s speaks at %s, and is behind %s", simMAC(h), owner, s.agreed(h))
		}
	}
	s.checkKernels()
}

func (d simSchedule) step(s *sim, hosts []simHost, st simStep) {
	v := s.vteps[st.vtep]
	switch st.kind {
	case simFrame:
		s.leaves(st.host, v)
		hosts[st.host].speak(s, st.vtep)
		hosts[st.host].known = hosts[st.host].known && !v.stopped
		v.frame(st.host, st.port)
	case simDouble:
		for range st.n {
			v.frame(st.host, st.port)
			s.run(simSettle)
			s.vteps[(st.vtep+1)%d.vteps].frame(st.host, st.port)
			s.run(simSettle)
		}
		if st.n > d.moves && !s.fixed && !s.faults && s.lastFault.IsZero() && !s.tripped[simMAC(st.host)] {
			s.fail("%s is spoken for at two VTEPs, %d times each, and nobody found it to be a duplicate", simMAC(st.host), st.n)
		}
		hosts[st.host] = simHost{vtep: (st.vtep + 1) % d.vteps, spoke: s.now}
		s.leaves(st.host, s.vteps[hosts[st.host].vtep])
	case simUnplug:
		v.unplug(st.port)
		s.lastGone = s.now
		for h := range hosts {
			elsewhere := hosts[h].vtep != st.vtep
			hosts[h].sure, hosts[h].alive, hosts[h].known = hosts[h].sure && elsewhere, false, hosts[h].known && elsewhere
		}
	case simOverrun:
		s.lastFault = later(s.lastFault, s.now.Add(simSettle))
		forget(hosts)
		v.overrun()
	case simStranger:
		s.lastGone = s.now.Add(time.Second)
		s.lastFault = later(s.lastFault, s.lastGone)
		forget(hosts)
		s.strange(st.host, worldSeqs[st.n])
	case simStatic:
		d.fix(s, hosts, st)
	case simLoss, simGrace, simRestart, simCrash:
		d.fault(s, hosts, st)
	}
}

// leaves has a host leave all VTEPs but one.
func (s *sim) leaves(host int, there *simVTEP) {
	for _, v := range s.vteps {
		if v != there {
			delete(v.behind, simMAC(host))
		}
	}
}

// fix has an orchestrator make a static row. One that sticks is the owner then, when nothing stands in its way.
func (d simSchedule) fix(s *sim, hosts []simHost, st simStep) {
	v, mac := s.vteps[st.vtep], simMAC(st.host)
	fixed := time.Duration(st.n) * time.Second / 2
	alone := !slices.ContainsFunc(s.vteps, func(v *simVTEP) bool {
		r, there := v.kernel.rows[EntryKey{Table: TableFDB, VNI: simVNI, MAC: mac}]
		return there && r.foreign()
	})
	quiet := s.now.Sub(s.lastFault) > 2*simSettle
	s.fixed = true
	hosts[st.host].sure, hosts[st.host].alive = false, false
	if hosts[st.host].vtep == st.vtep && v.behind[mac] != st.port { // it is asked for at the wrong port
		hosts[st.host].known = false
	}
	s.lastGone = later(s.lastGone, s.now.Add(fixed))
	s.lastFault = later(s.lastFault, s.lastGone)
	v.fix(st.host, st.port, fixed)
	if s.run(2 * simSettle); d.sticky && alone && quiet && !s.tripped[mac] && s.agreed(st.host) != v.addr {
		s.fail("%s is static at %s, and is behind %s", mac, v.addr, s.agreed(st.host))
	}
}

// speak notes where a host speaks. Only what comes well after its last word elsewhere, and after the last fault, is sure to
// be everybody's last word on it: else it takes another frame.
func (h *simHost) speak(s *sim, vtep int) {
	quiet := s.now.Sub(h.spoke) > simSettle && s.now.Sub(s.lastFault) > 2*simSettle
	switch {
	case h.vtep != vtep || h.spoke.IsZero():
		h.vtep, h.sure, h.known = vtep, quiet, false
	case s.now.Sub(h.spoke) >= simAgeing-simSettle:
		h.sure = false
	}
	h.spoke, h.alive = s.now, s.now.Sub(s.lastFault) > 2*simSettle && s.now.Sub(s.lastGone) > simSettle
}

// forget takes back what is sure of hosts.
func forget(hosts []simHost) {
	for h := range hosts {
		hosts[h].sure, hosts[h].alive, hosts[h].known = false, false, false
	}
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

func (d simSchedule) fault(s *sim, hosts []simHost, st simStep) {
	v := s.vteps[st.vtep]
	if !v.up {
		return
	}
	back := time.Duration(st.n) * time.Second
	s.faults, s.lastFault = true, later(s.lastFault, s.now.Add(back))
	known := make([]bool, len(hosts))
	for h := range hosts {
		remembers := st.kind != simCrash && (st.kind != simRestart || v.knows(h)) // what is under way is forgotten
		known[h] = hosts[h].known && (hosts[h].vtep != st.vtep || remembers)
	}
	forget(hosts)
	for h := range hosts {
		hosts[h].known = known[h]
	}
	if st.kind == simRestart || st.kind == simCrash {
		v.stop(st.kind == simCrash)
	}
	v.sessionDown(st.kind == simGrace || st.kind == simRestart)
	s.after(back, func() {
		if v.stopped {
			v.start()
		}
		v.sessionUp()
	})
}

// simPerChange is how many routes VTEPs may send for each change of a row on a local port, without faults: the one who
// has the host now announces its MAC and MAC/IP routes, and the one who had it withdraws its two.
const simPerChange = 4

func (d simSchedule) checkMessages(s *sim) {
	if n := s.messages - d.vteps; n > simPerChange*s.changes {
		s.fail("%d routes sent for %d changes", n, s.changes)
	}
}

// TestSimulator plays random schedules. Afterwards all cores agree on the owner of every host, which is where it spoke
// last; every kernel holds what is wanted; and no more was said than the moves were worth. A schedule that fails is
// made as small as it can be, and printed with the facts of each core as scripts.
func TestSimulator(t *testing.T) {
	var next, messages, changes atomic.Int64
	failed := make(chan uint64, runtime.GOMAXPROCS(0))
	var workers sync.WaitGroup
	for range cap(failed) {
		workers.Go(func() {
			for len(failed) == 0 {
				n := next.Add(1) - 1
				if n >= int64(*simSeeds) {
					return
				}
				d := drawSchedule(*simFirst + uint64(n))
				s, err := d.play(nil)
				if err != nil {
					failed <- d.seed
					return
				}
				if !s.faults {
					messages.Add(int64(s.messages - d.vteps))
					changes.Add(int64(s.changes))
				}
			}
		})
	}
	workers.Wait()
	close(failed)
	for seed := range failed {
		drawSchedule(seed).minimise().report(t)
	}
	t.Logf("%d schedules, %d changes of local rows, %.2f routes sent for each",
		*simSeeds, changes.Load(), float64(messages.Load())/float64(changes.Load()))
}

// minimise leaves out what the failure does not need.
func (d simSchedule) minimise() simSchedule {
	fails := func(d simSchedule) bool {
		_, err := d.play(nil)
		return err != nil
	}
	for size := max(1, len(d.steps)/2); ; {
		shrunk := false
		for i := 0; i+size <= len(d.steps); {
			less := d
			less.steps = slices.Delete(slices.Clone(d.steps), i, i+size)
			if fails(less) {
				d, shrunk = less, true
			} else {
				i++
			}
		}
		if size > 1 {
			size /= 2
		} else if !shrunk {
			return d
		}
	}
}

// script is what a core was told since its daemon last started, as a file of testdata.
func (d simSchedule) script(v *simVTEP) string {
	return fmt.Sprintf("config vtep %s\nconfig peers %s\nconfig duplicates moves %d\n%s\n", v.addr, simReflector, d.moves, strings.Join(v.script, "\n"))
}

// TestSimulatorScripts: what a failing schedule would print can be played, and ends in the same routes where nothing raced.
func TestSimulatorScripts(t *testing.T) {
	steps := []simStep{
		{kind: simFrame, vtep: 0, port: "tap1", then: simSettle},
		{kind: simFrame, vtep: 1, port: "tap2", then: simSettle},
		{kind: simFrame, vtep: 0, port: "tap1", then: simSettle},
		{kind: simFrame, vtep: 0, host: 1, port: "tap1", then: simSettle},
	}
	d := simSchedule{seed: 1, vteps: 3, hosts: 2, moves: 5, steps: steps}
	s, err := d.play(func(string, ...any) {})
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range s.vteps {
		story := newStory(t, "the script of "+v.addr.String())
		story.play(d.script(v))
		if got, want := story.core.OwnRoutes(), v.core.OwnRoutes(); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: own routes %v, in the simulator %v", v.addr, got, want)
		}
	}
}

func (d simSchedule) report(t *testing.T) {
	var story strings.Builder
	s, err := d.play(func(format string, args ...any) { fmt.Fprintf(&story, format+"\n", args...) })
	steps := make([]string, len(d.steps))
	for i, st := range d.steps {
		steps[i] = st.String()
	}
	for _, v := range s.vteps {
		t.Logf("script of the last life of %s:\n%s", v.addr, d.script(v))
	}
	t.Logf("what happened:\n%s", story.String())
	t.Fatalf("seed %d (go test ./evpn -run TestSimulator -sim.seed=%d -sim.seeds=1): %v\n%d VTEPs, %d hosts, steps:\n%s",
		d.seed, d.seed, err, d.vteps, d.hosts, strings.Join(steps, "\n"))
}
