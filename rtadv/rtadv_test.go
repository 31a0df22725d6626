package rtadv

import (
	"context"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// inNamespace runs the calling test again in a fresh network namespace, and returns true there.
func inNamespace(t *testing.T) bool {
	t.Helper()
	if os.Getenv("RTADV_NETNS") == t.Name() {
		return true
	}
	cmd := exec.Command("unshare", "-n", os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), "RTADV_NETNS="+t.Name())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	return false
}

func ip(t *testing.T, args string) {
	t.Helper()
	if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v: %s", args, err, out)
	}
}

// end is one end of a link under test.
type end struct {
	t         *testing.T
	advertise atomic.Bool
	mu        sync.Mutex
	last      Status
	changed   chan struct{}
	stop      func()
}

func watch(t *testing.T, name string, advertise bool) *end {
	t.Helper()
	log := logrus.New()
	log.SetOutput(io.Discard)
	e := &end{t: t, changed: make(chan struct{}, 1)}
	e.advertise.Store(advertise)
	l := Link{Name: name, Advertise: &e.advertise, Log: log, Changed: func(s Status) {
		e.mu.Lock()
		e.last = s
		e.mu.Unlock()
		poke(e.changed)
	}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.Watch(ctx)
	}()
	e.stop = func() { cancel(); <-done }
	t.Cleanup(e.stop)
	return e
}

// until waits for a status.
func (e *end) until(what string, ok func(Status) bool) Status {
	e.t.Helper()
	limit := time.After(15 * time.Second)
	for {
		e.mu.Lock()
		s := e.last
		e.mu.Unlock()
		if ok(s) {
			return s
		}
		select {
		case <-e.changed:
		case <-limit:
			e.t.Fatalf("%s: not so, it is %+v", what, s)
		}
	}
}

func (e *end) finds(router string) {
	e.t.Helper()
	want := netip.MustParseAddr(router)
	e.until("finds "+router, func(s Status) bool { return len(s.Routers) == 1 && s.Routers[0] == want && s.Why == "" })
}

// TestWatch: two ends of a link find each other, from before there is a link, and after it was down.
func TestWatch(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	a, b := watch(t, "v0", true), watch(t, "v1", true)
	a.until("no interface", func(s Status) bool { return s.Why == "there is no interface v0" })
	ip(t, "link add v0 type veth peer name v1")
	a.until("down", func(s Status) bool { return s.Why == "interface v0 is down" })
	for i, dev := range []string{"v0", "v1"} {
		ip(t, "link set "+dev+" addrgenmode none")
		ip(t, "link set "+dev+" up")
		if i == 0 {
			a.until("no carrier", func(s Status) bool { return strings.HasPrefix(s.Why, "interface v0 has no carrier") })
		}
	}
	a.until("no address", func(s Status) bool { return s.Why == "interface v0 has no IPv6 link-local address" })
	ip(t, "address add fe80::a/64 dev v0 nodad")
	ip(t, "address add fe80::b/64 dev v1 nodad")
	a.finds("fe80::b%v0")
	b.finds("fe80::a%v1")

	ip(t, "link set v1 down")
	s := a.until("lost", func(s Status) bool { return s.Why != "" })
	if len(s.Routers) != 0 {
		t.Errorf("routers of a link that is down: %+v", s)
	}
	ip(t, "link set v1 up")
	ip(t, "address replace fe80::c/64 dev v1 nodad") // the other one went with the link
	a.finds("fe80::c%v0")
	b.finds("fe80::a%v1")

	ip(t, "link del v0")
	a.until("no interface", func(s Status) bool { return s.Why == "there is no interface v0" })
}

// TestSilence: who does not advertise is not found, and finds the one who does.
func TestSilence(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	ip(t, "link add v0 type veth peer name v1")
	for i, dev := range []string{"v0", "v1"} {
		ip(t, "link set "+dev+" addrgenmode none")
		ip(t, "link set "+dev+" up")
		ip(t, "address add fe80::"+string(rune('a'+i))+"/64 dev "+dev+" nodad")
	}
	a, b := watch(t, "v0", true), watch(t, "v1", false)
	b.finds("fe80::a%v1")
	s := a.until("up", func(s Status) bool { return s.Why == "" && s.Local.IsValid() })
	if len(s.Routers) != 0 {
		t.Errorf("found one that does not advertise: %+v", s)
	}
	b.stop()
	// The one that begins while the other pauses for ten seconds asks, and is answered at once.
	time.Sleep(fastCount * fastInterval)
	ip(t, "-6 neigh flush dev v1") // the kernel has heard it too
	start := time.Now()
	c := watch(t, "v1", true)
	c.finds("fe80::a%v1")
	a.finds("fe80::b%v0")
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("found after %s", took)
	}
}

// TestNeighborTable: who advertised itself before we listened, or while we may not, is in the kernel's table; hosts are too, and
// are no routers.
func TestNeighborTable(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	ip(t, "link add v0 type veth peer name v1")
	for _, dev := range []string{"v0", "v1"} {
		ip(t, "link set "+dev+" addrgenmode none")
		ip(t, "link set "+dev+" up")
	}
	ip(t, "address add fe80::a/64 dev v0 nodad")
	ip(t, "neigh add fe80::76 lladdr 02:00:00:00:00:76 dev v0")
	ip(t, "neigh add fe80::77 lladdr 02:00:00:00:00:77 dev v0 router")
	watch(t, "v0", false).finds("fe80::77%v0")
}
