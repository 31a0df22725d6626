package evpn

import (
	"flag"
	"testing"
	"time"
)

var fabricVTEPs = flag.Int("sim.vteps", 40, "VTEPs of TestRollingRestart; all of them know all routes")

// fabric is a simulated network with a host behind each VTEP.
type fabric struct {
	*sim
	t     *testing.T
	spoke time.Time
}

// speak has every host send a frame, at least once in half the time after which bridges forget it.
func (f *fabric) speak() {
	if f.now.Sub(f.spoke) < simAgeing/2 {
		return
	}
	f.spoke = f.now
	for i, v := range f.vteps {
		v.frame(i, "tap1")
	}
}

// settle lets everything on its way arrive, and returns how long it was until the last write to a kernel.
func (f *fabric) settle() time.Duration {
	f.t.Helper()
	began := f.now
	f.run(time.Second) // some ten times what a route takes
	if f.err != nil {
		f.t.Fatal(f.err)
	}
	return max(0, f.wrote.Sub(began))
}

// check wants all to agree with one another, and with their kernels.
func (f *fabric) check() {
	f.t.Helper()
	for i, v := range f.vteps {
		if owner := f.agreed(i); owner != v.addr {
			f.fail("%s is behind %s, not %s", simMAC(i), owner, v.addr)
		}
	}
	if f.checkKernels(); f.err != nil {
		f.t.Fatal(f.err)
	}
}

func (f *fabric) writes() (sum [TableNeighbor + 1]int) {
	for _, v := range f.vteps {
		for table, n := range v.writes {
			sum[table] += n
		}
	}
	return sum
}

// TestRollingRestart: a fabric comes up, and then every daemon in it is restarted, one after the other. With graceful restart
// nobody anywhere writes to a kernel or says anything new; without it everybody agrees with everybody afterwards. Counts are
// exact; times are those of the simulated network, whose delays are up to 30 ms each way.
func TestRollingRestart(t *testing.T) {
	f := &fabric{sim: newSim(*fabricVTEPs, 100, false, 1, nil), t: t}
	began, n := time.Now(), len(f.vteps)
	f.most = 100*n*n + 200_000
	f.speak()
	up := f.settle()
	f.check()
	t.Logf("%d VTEPs with a host each come up: %d routes delivered, last write after %s (%s of real time)",
		n, f.delivered, up, time.Since(began).Round(time.Millisecond))
	if said, wrote := f.restartAll("graceful", true); said != 0 || wrote != [TableNeighbor + 1]int{} {
		t.Errorf("graceful restarts: %d routes said anew, %v writes", said, wrote)
	}
	f.restartAll("hard", false)
}

// restartAll restarts one daemon after the other, and returns what the fabric said and wrote beyond the sessions' own routes.
func (f *fabric) restartAll(how string, graceful bool) (said int, wrote [TableNeighbor + 1]int) {
	f.t.Helper()
	began, n := time.Now(), len(f.vteps)
	before, delivered := f.writes(), f.delivered
	said = f.messages
	var longest time.Duration
	for _, v := range f.vteps {
		f.speak()
		v.stop(!graceful)
		v.sessionDown(graceful)
		f.run(time.Second)
		v.start()
		v.sessionUp()
		longest = max(longest, f.settle())
	}
	f.check()
	for table, count := range f.writes() {
		wrote[table] = count - before[table]
	}
	said, delivered = f.messages-said, f.delivered-delivered
	f.t.Logf("%s restarts: for each, %d routes delivered, %d kernel writes, the last one within %s (%s of real time)",
		how, delivered/n, sum(wrote)/n, longest, time.Since(began).Round(time.Millisecond))
	return said, wrote
}

func sum(counts [TableNeighbor + 1]int) (all int) {
	for _, n := range counts {
		all += n
	}
	return all
}
