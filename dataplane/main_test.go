package dataplane

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/evpnd/evpnd/evpn"
)

// TestMain runs the tests in a network namespace of their own: the test binary starts itself again in a fresh one.
func TestMain(m *testing.M) {
	const inside = "DATAPLANE_TEST_NETNS"
	if os.Getenv(farEnd) != "" {
		beFarEnd()
		os.Exit(0)
	}
	if os.Getenv(squat) != "" {
		squatName()
	}
	if os.Getenv(inside) != "" {
		if !slices.Contains(os.Args, "-test.fuzzworker") { // who started it has done so
			showNamespace()
		}
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS}
	if os.Geteuid() != 0 { // the kernel lets anybody be root of a namespace of their own
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// showNamespace has /sys show the devices of the tests' network namespace, as it does in containers.
func showNamespace() {
	err := errors.Join(
		unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		unix.Mount("sysfs", "/sys", "sysfs", 0, ""),
	)
	if err != nil {
		fmt.Fprintln(os.Stderr, "mount sysfs:", err)
		os.Exit(1)
	}
}

const (
	vtepSelf = "10.0.0.1"
	deadline = 10 * time.Second
)

var (
	vtep2 = netip.MustParseAddr("10.0.0.2")
	vtep3 = netip.MustParseAddr("10.0.0.3")
	macA  = evpn.MAC{2, 0, 0, 0, 1, 1}
	macB  = evpn.MAC{2, 0, 0, 0, 1, 2}
	macC  = evpn.MAC{2, 0, 0, 0, 1, 3}
	hostA = netip.MustParseAddr("10.1.1.1")
	hostB = netip.MustParseAddr("10.1.1.2")
	host6 = netip.MustParseAddr("2001:db8::1")
)

// run runs commands of iproute2, one a line, and returns what they print. "!" before a line: it may fail.
func run(t testing.TB, script string) string {
	t.Helper()
	var out strings.Builder
	for line := range strings.Lines(script) {
		line, mayFail := strings.CutPrefix(strings.TrimSpace(line), "! ")
		if line == "" {
			continue
		}
		args := strings.Fields(line)
		b, err := exec.Command(args[0], args[1:]...).CombinedOutput()
		if err != nil && !mayFail {
			t.Fatalf("%s: %v: %s", line, err, b)
		}
		out.Write(b)
	}
	return out.String()
}

// clean empties the namespace.
func clean(t testing.TB) {
	t.Helper()
	for _, kind := range []string{"vxlan", "veth", "bridge", "dummy", "macvlan"} {
		for {
			out := run(t, "ip -o link show type "+kind)
			if out == "" {
				break
			}
			name, _, _ := strings.Cut(strings.Fields(out)[1], ":")
			name, _, _ = strings.Cut(name, "@")
			run(t, "ip link del "+name)
		}
	}
	run(t, `! ip nexthop flush
		ip link set lo up`)
}

// addVNI makes a bridge, its VXLAN device and a port with a veth behind it: br10, vx10, p10 with h10 at the host's end.
func addVNI(t testing.TB, vni int) {
	t.Helper()
	run(t, strings.ReplaceAll(`
		ip link add brN address 02:00:00:00:aa:01 mtu 1450 type bridge
		ip link add vxN mtu 1450 type vxlan id N dstport 4789 local `+vtepSelf+` nolearning
		ip link set vxN master brN up
		bridge link set dev vxN learning off
		ip link set brN up`, "N", fmt.Sprint(vni)))
	addPort(t, fmt.Sprintf("br%d", vni), fmt.Sprintf("p%d", vni), fmt.Sprintf("h%d", vni))
}

// addPort makes a port of a bridge with a silent veth behind it, and waits until it forwards.
func addPort(t testing.TB, bridge, port, host string) {
	t.Helper()
	run(t, fmt.Sprintf(`
		ip link add %[2]s mtu 1450 type veth peer name %[3]s
		sysctl -qw net.ipv6.conf.%[3]s.disable_ipv6=1
		ip link set %[2]s master %[1]s up
		ip link set %[3]s up`, bridge, port, host))
	eventually(t, port+" to forward", func() bool {
		return strings.Contains(run(t, "bridge link show dev "+port), "state forwarding")
	})
}

// lab is a namespace with VNI 10 and a Dataplane on it.
type lab struct {
	*Dataplane
	t   testing.TB
	seq uint64
}

func options() Options {
	return Options{VTEP: netip.MustParseAddr(vtepSelf), AutoVNIs: true, ResyncInterval: 10 * time.Millisecond}
}

// newLab empties the namespace and sets one VNI up.
func newLab(t testing.TB) *lab {
	t.Helper()
	clean(t)
	run(t, "! sysctl -qw net.bridge.bridge-nf-call-iptables=0")
	addVNI(t, 10)
	return newPlane(t, options())
}

// newPlane makes a Dataplane that has read the links.
func newPlane(t testing.TB, opt Options) *lab {
	t.Helper()
	log := logrus.New()
	log.SetOutput(io.Discard)
	d, err := New(opt, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	l := &lab{Dataplane: d, t: t}
	if err := d.readLinks(); err != nil {
		t.Fatal(err)
	}
	return l
}

// write applies ops as one batch.
func (l *lab) write(ops ...evpn.KernelOp) []evpn.OpError {
	l.t.Helper()
	l.seq++
	applied := l.Apply(context.Background(), evpn.KernelBatch{Seq: l.seq, Ops: ops})
	if applied.Batch != l.seq {
		l.t.Fatalf("applied batch %d, want %d", applied.Batch, l.seq)
	}
	return applied.Failed
}

// must applies ops none of which may fail.
func (l *lab) must(ops ...evpn.KernelOp) {
	l.t.Helper()
	for _, f := range l.write(ops...) {
		l.t.Fatalf("refused: %+v", f)
	}
}

// observe reads one VNI back.
func (l *lab) observed(vni evpn.VNI) evpn.Observed {
	l.t.Helper()
	events, err := l.ReadBack(context.Background(), []evpn.VNI{vni}, l.seq)
	if err != nil {
		l.t.Fatal(err)
	}
	return events[0].(evpn.Observed)
}

// entry returns what is observed under a key.
func (l *lab) entry(k evpn.EntryKey) (evpn.ObservedEntry, bool) {
	l.t.Helper()
	for _, e := range l.observed(k.VNI).Entries {
		if e.Key == k {
			return e, true
		}
	}
	return evpn.ObservedEntry{}, false
}

func addVTEP(a netip.Addr) evpn.KernelOp {
	return evpn.KernelOp{Key: evpn.EntryKey{Table: evpn.TableVTEP, Addr: a}}
}

func addFDB(m evpn.MAC, vtep netip.Addr) evpn.KernelOp {
	return evpn.KernelOp{Key: evpn.EntryKey{Table: evpn.TableFDB, VNI: 10, MAC: m}, Entry: evpn.Entry{VTEP: vtep}}
}

func addFlood(a netip.Addr) evpn.KernelOp {
	return evpn.KernelOp{Key: evpn.EntryKey{Table: evpn.TableFlood, VNI: 10, Addr: a}}
}

func addNeighbor(ip netip.Addr, m evpn.MAC) evpn.KernelOp {
	return evpn.KernelOp{Key: evpn.EntryKey{Table: evpn.TableNeighbor, VNI: 10, Addr: ip}, Entry: evpn.Entry{MAC: m}}
}

func del(op evpn.KernelOp) evpn.KernelOp {
	op.Del, op.Replace = true, false
	return op
}

func replace(op evpn.KernelOp) evpn.KernelOp {
	op.Replace = true
	return op
}

// fdb returns the lines of "bridge fdb show" that speak of a MAC, without those of other kinds of devices.
func fdb(t testing.TB, m evpn.MAC) []string {
	t.Helper()
	var found []string
	for line := range strings.Lines(run(t, "bridge -d fdb show")) {
		if strings.HasPrefix(line, m.String()) {
			found = append(found, strings.Join(strings.Fields(line)[1:], " "))
		}
	}
	slices.Sort(found)
	return found
}

func neighbors(t testing.TB) string { t.Helper(); return run(t, "ip -d neigh show dev br10") }

func wantLines(t testing.TB, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s:\n got %q\nwant %q", what, got, want)
	}
}

// core stands for the core: it keeps the latest word on everything.
type core struct {
	mu       sync.Mutex
	cond     *sync.Cond
	attached map[evpn.VNI]evpn.Attachment
	entries  map[evpn.VNI]map[evpn.EntryKey]evpn.ObservedEntry
	macs     map[evpn.VNI]map[evpn.MAC]evpn.LocalMAC
	ips      map[evpn.VNI]map[netip.Addr]evpn.LocalIP
	observed map[evpn.VNI]int    // times
	sighted  map[evpn.MAC]string // port
	ways     map[netip.Addr]evpn.VTEPReachable
	tampered map[evpn.EntryKey]bool
	gone     map[netip.Addr]bool // nexthops
	reported uint64
	synced   bool
	order    []string // kinds of the events of the first report
}

// start runs the Dataplane with a core and waits for the first report.
func (l *lab) start() *core {
	l.t.Helper()
	c := &core{
		attached: map[evpn.VNI]evpn.Attachment{}, entries: map[evpn.VNI]map[evpn.EntryKey]evpn.ObservedEntry{},
		macs: map[evpn.VNI]map[evpn.MAC]evpn.LocalMAC{}, ips: map[evpn.VNI]map[netip.Addr]evpn.LocalIP{},
		observed: map[evpn.VNI]int{}, sighted: map[evpn.MAC]string{}, ways: map[netip.Addr]evpn.VTEPReachable{}, tampered: map[evpn.EntryKey]bool{},
		gone: map[netip.Addr]bool{},
	}
	c.cond = sync.NewCond(&c.mu)
	ctx, cancel := context.WithCancel(context.Background())
	sink := make(chan []evpn.Event)
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx, sink); close(sink) }()
	var reader sync.WaitGroup
	reader.Go(func() {
		for events := range sink {
			c.take(events)
		}
	})
	l.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			l.t.Errorf("Run: %v", err)
		}
		reader.Wait()
	})
	c.wait(l.t, "the first report", func() bool { return c.synced })
	return c
}

func (c *core) take(events []evpn.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.cond.Broadcast()
	for _, ev := range events {
		if !c.synced {
			c.order = append(c.order, fmt.Sprintf("%T", ev))
		}
		switch ev := ev.(type) {
		case evpn.AttachmentUp:
			c.attached[ev.VNI] = ev.Attachment
		case evpn.AttachmentDown:
			delete(c.attached, ev.VNI)
		case evpn.LocalMAC:
			c.localMAC(ev)
		case evpn.LocalIP:
			c.localIP(ev)
		case evpn.NeighborsGone:
			for _, k := range ev.IPs {
				c.localIP(evpn.LocalIP{VNI: k.VNI, IP: k.IP, Gone: true})
			}
		case evpn.Observed:
			if ev.VNI == 0 || ev.IPs != nil { // not the local hosts of the first report
				c.observed[ev.VNI]++
			}
			c.entries[ev.VNI] = map[evpn.EntryKey]evpn.ObservedEntry{}
			for _, e := range ev.Entries {
				c.entries[ev.VNI][e.Key] = e
			}
			if ev.MACs != nil { // nil says that nobody looked, as the core understands it
				delete(c.macs, ev.VNI)
			}
			if ev.IPs != nil {
				delete(c.ips, ev.VNI)
			}
			for _, m := range ev.MACs {
				c.localMAC(m)
			}
			for _, ip := range ev.IPs {
				c.localIP(ip)
			}
		case evpn.Sighted:
			c.sighted[ev.MAC] = ev.Port
		case evpn.VTEPReachable:
			c.ways[ev.VTEP] = ev
		case evpn.Tampered:
			for _, k := range ev.Keys {
				c.tampered[k] = true
			}
		case evpn.NexthopsGone:
			for _, vtep := range ev.VTEPs {
				c.gone[vtep] = true
			}
		case evpn.Reported:
			c.reported = ev.Number
		case evpn.Synced:
			c.synced = true
		}
	}
}

func (c *core) localMAC(m evpn.LocalMAC) {
	if c.macs[m.VNI] == nil {
		c.macs[m.VNI] = map[evpn.MAC]evpn.LocalMAC{}
	}
	if c.macs[m.VNI][m.MAC] = m; m.Gone {
		delete(c.macs[m.VNI], m.MAC)
	}
}

func (c *core) localIP(ip evpn.LocalIP) {
	if c.ips[ip.VNI] == nil {
		c.ips[ip.VNI] = map[netip.Addr]evpn.LocalIP{}
	}
	if c.ips[ip.VNI][ip.IP] = ip; ip.Gone {
		delete(c.ips[ip.VNI], ip.IP)
	}
}

// look calls f with the core locked.
func (c *core) look(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
}

// wait waits until ok, which is called with the core locked, becomes true.
func (c *core) wait(t testing.TB, what string, ok func() bool) {
	t.Helper()
	expired := false
	timer := time.AfterFunc(deadline, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		expired = true
		c.cond.Broadcast()
	})
	defer timer.Stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	for !ok() {
		if expired {
			t.Fatalf("waited %s for %s; attached %+v macs %+v ips %+v tampered %v", deadline, what, c.attached,
				maps.Clone(c.macs), maps.Clone(c.ips), slices.Collect(maps.Keys(c.tampered)))
		}
		c.cond.Wait()
	}
}

// eventually polls the kernel until ok.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(deadline); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited %s for %s", deadline, what)
		}
	}
}
