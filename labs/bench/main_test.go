package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == writerCommand {
		exit(writeFor(os.Args[2], os.Stdin, os.Stdout))
		return
	}
	code := m.Run()
	os.RemoveAll(built)
	os.Exit(code)
}

var built string

// evpnd builds the daemon of this tree once.
var evpnd = sync.OnceValues(func() (string, error) {
	var err error
	if built, err = os.MkdirTemp("", "evpnbench-bin-"); err != nil {
		return "", err
	}
	if out, err := exec.Command("go", "build", "-o", built, "../../cmd/evpnd").CombinedOutput(); err != nil {
		return "", fmt.Errorf("build evpnd: %w\n%s", err, out)
	}
	return filepath.Join(built, "evpnd"), nil
})

func testSettings(t *testing.T) settings {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("network namespaces take root")
	}
	program, err := evpnd()
	if err != nil {
		t.Fatal(err)
	}
	return settings{run: regexp.MustCompile(""), subjects: regexp.MustCompile(""), runs: 1, quick: true, evpnd: program}
}

// subjectOf starts one of the compared for a test.
func subjectOf(t *testing.T, name string, vnis, sessions int) *subject {
	t.Helper()
	s := testSettings(t)
	for _, k := range kinds {
		if k.name != name {
			continue
		}
		u, err := startSubject(t.Context(), s, k, vnis, sessions)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := u.close(); err != nil {
				t.Error(err)
			}
		})
		return u
	}
	t.Fatalf("nobody is called %q", name)
	return nil
}

func observerOf(t *testing.T, h *host, device string) *observer {
	t.Helper()
	o, err := observe(h, device)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.close)
	return o
}

// tell has a subject do what a load says and awaits the entries.
func tell(t *testing.T, u *subject, o *observer, l load, fdb, neighbors int) {
	t.Helper()
	fire, err := u.prepare(l)
	if err != nil {
		t.Fatal(err)
	}
	fired := make(chan error, 1)
	go func() { fired <- fire() }() // ends when all is told
	if _, err := o.await(time.Minute, counted(l.Withdraw, fdb, neighbors)); err != nil {
		t.Fatal(err)
	}
	if err := <-fired; err != nil {
		t.Fatal(err)
	}
}

// rows is how many lines of a table that ip or bridge print have a word in them.
func rows(t *testing.T, h *host, word string, command ...string) int {
	t.Helper()
	args := append([]string{"-n", h.name}, command[1:]...)
	out, err := exec.CommandContext(t.Context(), command[0], args...).Output()
	if err != nil {
		t.Fatalf("%v: %v", command, err)
	}
	return strings.Count(string(out), word)
}

func wantRows(t *testing.T, h *host, want int, word string, command ...string) {
	t.Helper()
	got := -1
	if err := poll(t.Context(), 20*time.Second, "rows", func() bool { got = rows(t, h, word, command...); return got == want }); err != nil {
		t.Errorf("%v: %d rows with %q, want %d", command, got, word, want)
	}
}

// TestTenThousandRoutes: all are installed and withdrawn again; rows that were there before keep their place, in the way of
// ours, and outlive them.
func TestTenThousandRoutes(t *testing.T) {
	l := load{N: 10_000, VNI: firstVNI, VNIs: 1, IPs: true, VTEP: farVTEPs[0]}
	u := subjectOf(t, kindEVPND, 1, 1)
	h := u.host
	for _, byHand := range [][]string{
		{"bridge", "-n", h.name, "fdb", "add", l.MAC(17).String(), "dev", "vxlan100", "dst", "10.255.0.99", "self", "static"},
		{"ip", "-n", h.name, "neigh", "add", l.IP(17).String(), "lladdr", "02:99:00:00:00:01", "dev", "br100"},
	} {
		if err := command(t.Context(), "", byHand[0], byHand[1:]...); err != nil {
			t.Fatal(err)
		}
	}
	o := observerOf(t, h, "")
	for _, ours := range []int{l.N - 1, 0} {
		tell(t, u, o, l, l.N-1, l.N-1)
		wantRows(t, h, ours, " self extern_learn", "bridge", "fdb", "show", "dev", "vxlan100")
		wantRows(t, h, ours, "extern_learn master br100", "bridge", "fdb", "show", "dev", "vxlan100")
		wantRows(t, h, ours, "proto bgp", "ip", "neigh", "show", "dev", "br100")
		wantRows(t, h, 1, "dst 10.255.0.99", "bridge", "fdb", "show", "dev", "vxlan100")
		wantRows(t, h, 1, "02:99:00:00:00:01", "ip", "neigh", "show", "dev", "br100")
		l.Withdraw = true
	}
}

// TestObserver: an observer sees each entry of every table once, however it goes, and one of a single device only that one's.
func TestObserver(t *testing.T) {
	l := load{N: 1000, VNI: firstVNI, VNIs: 2, IPs: true, VTEP: farVTEPs[0]}
	u := subjectOf(t, kindKernel, 2, 0)
	for _, vtepFirst := range []bool{false, true} {
		o, second := observerOf(t, u.host, ""), observerOf(t, u.host, "vxlan101")
		var come, gone, ofSecond entryCount
		tellCounting(t, u, o, l, &come)
		if come != (entryCount{fdb: l.N, neighbors: l.N}) {
			t.Errorf("%+v came, want %d each", come, l.N)
		}
		less := l
		less.Withdraw, less.VTEPFirst = true, vtepFirst
		tellCounting(t, u, o, less, &gone)
		if gone != (entryCount{fdb: l.N, neighbors: l.N}) {
			t.Errorf("VTEP first %t: %+v gone, want %d each", vtepFirst, gone, l.N)
		}
		last := l.MAC(l.N - 1)
		if _, err := second.await(time.Minute, func(e entry) bool { ofSecond.add(e); return e.mac == last }); err != nil {
			t.Fatal(err)
		}
		if ofSecond != (entryCount{fdb: l.N / 2}) {
			t.Errorf("one device: %+v, want %d FDB entries", ofSecond, l.N/2)
		}
	}
}

type entryCount struct{ fdb, neighbors int }

func (c *entryCount) add(e entry) {
	if e.fdb {
		c.fdb++
	} else {
		c.neighbors++
	}
}

// tellCounting counts all that the observer sees until the subject is done and the kernel silent.
func tellCounting(t *testing.T, u *subject, o *observer, l load, count *entryCount) {
	t.Helper()
	fire, err := u.prepare(l)
	if err != nil {
		t.Fatal(err)
	}
	if err := fire(); err != nil { // the kernel's writer is done when this returns
		t.Fatal(err)
	}
	_, _ = o.await(100*time.Millisecond, func(e entry) bool {
		if e.gone == l.Withdraw {
			count.add(e)
		}
		return false // until it is silent
	})
}

// TestTraffic: what is sent to a host that the kernel knows leaves for its VTEP, and no other frame does.
func TestTraffic(t *testing.T) {
	l := load{N: 10, VNI: firstVNI, VNIs: 1, VTEP: farVTEPs[0]}
	u := subjectOf(t, kindKernel, 1, 0)
	tell(t, u, observerOf(t, u.host, ""), l, l.N, 0)
	flow, err := startTraffic(u.host, l, 2*l.N, time.Millisecond) // every other host is unknown
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := poll(t.Context(), 20*time.Second, "frames", func() bool { sent, _, _ := flow.counts(); return sent >= 200 }); err != nil {
		t.Error(err)
	}
	if err := flow.close(); err != nil {
		t.Fatal(err)
	}
	sent, left, last := flow.counts()
	if want := sent/2 + l.N; left < sent/2-l.N || left > want {
		t.Errorf("%d of %d frames left, want half", left, sent)
	}
	if last.Before(began) || last.After(time.Now()) {
		t.Errorf("the last one left at %s, it is %s", last, time.Now())
	}
}

// TestMeasures: each measure gives its figures, for all that it compares.
func TestMeasures(t *testing.T) {
	s := testSettings(t)
	l := load{N: 500, VNI: firstVNI, VNIs: 1, IPs: true, VTEP: farVTEPs[0]}
	spread := l
	spread.VNIs, spread.IPs = 3, false
	for _, m := range []struct {
		measure
		figures int
	}{
		{bulk(l), 6},
		{bulk(spread), 6},
		{move(l, 5), 2},
		{churn(200, 50*time.Millisecond), 4},
		{vtepLost(l), 1},
		{localMAC(3), 2},
		{remoteARP(3), 2},
		{advertise(300), 2},
		{restart(l, "killed", unix.SIGKILL, time.Second), 8},
		{memory(l, time.Millisecond, 100*time.Millisecond), 4},
	} {
		t.Run(m.name, func(t *testing.T) {
			r := newResults(about{})
			for _, k := range kinds {
				if k.name == kindKernel && m.speakersOnly {
					continue
				}
				if err := m.once(t.Context(), s, k, r); err != nil {
					t.Fatalf("%s: %v", k.name, err)
				}
			}
			if len(r.figures) != m.figures {
				t.Errorf("%d figures, want %d", len(r.figures), m.figures)
			}
			for _, f := range r.figures {
				if f.FRR == nil && (strings.HasSuffix(f.Name, "vanished hosts gone") || strings.Contains(f.Name, "End-of-RIB")) {
					continue // FRR keeps what an earlier life has written, and ends its table for those alone who restart gracefully
				}
				if f.EVPND == nil || f.FRR == nil || *f.EVPND < 0 || *f.FRR < 0 {
					t.Errorf("%s: %v", f.Name, f.Samples)
				}
			}
		})
	}
}

// TestStart: the measure of a start ends when all VNIs are announced, also those whose devices evpnd makes.
func TestStart(t *testing.T) {
	for _, create := range []int{0, 19} {
		t.Run(fmt.Sprintf("%d made", create), func(t *testing.T) {
			u := subjectOf(t, kindEVPND, 20-create, 1)
			u.host.create = create
			if err := (&trial{subject: u, name: "start", results: newResults(about{})}).start(t.Context(), 20); err != nil {
				t.Fatal(err)
			}
			if n := rows(t, u.host, "vxlan", "ip", "-o", "link", "show", "type", "vxlan"); n != 20 {
				t.Errorf("%d devices", n)
			}
		})
	}
}
