package dataplane

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/evpnd/evpnd/evpn"
)

// sendFrame sends a broadcast frame with the given source MAC out of a device.
func sendFrame(t testing.TB, ifname string, src evpn.MAC) {
	t.Helper()
	frames(t, ifname)(src)
}

// frames opens a packet socket on a device and returns what sends a broadcast frame with a source MAC out of it.
func frames(t testing.TB, ifname string) func(src evpn.MAC) {
	t.Helper()
	ifi, err := net.InterfaceByName(ifname)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	to := &unix.SockaddrLinklayer{Ifindex: ifi.Index}
	frame := slices.Concat(bytes.Repeat([]byte{0xff}, 6), make([]byte, 6), []byte{0x88, 0xb5}, make([]byte, 46))
	return func(src evpn.MAC) {
		copy(frame[6:], src[:])
		if err := unix.Sendto(fd, frame, 0, to); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFirstReportIsComplete(t *testing.T) {
	l := newLab(t)
	addVNI(t, 20)
	run(t, `bridge fdb add 02:00:00:00:01:01 dev p20 master static
		bridge fdb add 02:00:00:00:01:09 dev p20 master permanent
		bridge fdb add 02:00:00:00:01:08 dev p20 master extern_learn`) // the last two are no hosts
	sendFrame(t, "h10", macB)
	l.must(addVTEP(vtep2), addFDB(macC, vtep2))
	c := newPlane(t, options()).start()
	want := []string{
		"evpn.AttachmentUp", "evpn.Observed", "evpn.AttachmentUp", "evpn.Observed", // local MACs
		"evpn.Observed", "evpn.Observed", "evpn.Observed", "evpn.Reported", "evpn.Synced",
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !slices.Equal(c.order, want) {
		t.Errorf("first report %v, want %v", c.order, want)
	}
	if m := c.macs[20][macA]; !m.Static || m.Port != "p20" {
		t.Errorf("static MAC %+v", m)
	}
	if m := c.macs[10][macB]; m.Static || m.Port != "p10" {
		t.Errorf("learned MAC %+v", m)
	}
	if len(c.macs[10]) != 1 || len(c.macs[20]) != 1 {
		t.Errorf("MACs %+v", c.macs)
	}
	if e := c.entries[10][addFDB(macC, vtep2).Key]; !e.Ours || e.Entry.VTEP != vtep2 {
		t.Errorf("entry %+v", e)
	}
}

func TestLocalMACsComeMoveAgeAndGo(t *testing.T) {
	l := newLab(t)
	addPort(t, "br10", "q10", "r10")
	run(t, "ip link set br10 type bridge ageing_time 100")
	c := l.start()
	at := func(m evpn.MAC, port string) func() bool { return func() bool { return c.macs[10][m].Port == port } }
	sendFrame(t, "h10", macA)
	c.wait(t, "a learned MAC", at(macA, "p10"))
	sendFrame(t, "r10", macA)
	c.wait(t, "the MAC on the other port", at(macA, "q10"))
	run(t, "bridge fdb add 02:00:00:00:01:02 dev p10 master static")
	c.wait(t, "a static MAC", func() bool { return c.macs[10][macB].Static })
	run(t, "bridge fdb del 02:00:00:00:01:02 dev p10 master")
	c.wait(t, "the static MAC to go", at(macB, ""))
	c.wait(t, "the learned MAC to age", at(macA, "")) // one second, in steps of the kernel's
	run(t, "ip link set br10 type bridge ageing_time 30000")
	sendFrame(t, "r10", macC)
	c.wait(t, "a MAC before its port goes", at(macC, "q10"))
	run(t, "ip link del q10")
	c.wait(t, "the MAC to go with its port", at(macC, ""))
}

// TestLocalFrameTakesOver: a host that BGP says is elsewhere sends a frame here.
func TestLocalFrameTakesOver(t *testing.T) {
	l := newLab(t)
	c := l.start()
	sticky := addFDB(macB, vtep2)
	sticky.Entry.Sticky = true
	l.must(addVTEP(vtep2), addFDB(macA, vtep2), sticky)
	sendFrame(t, "h10", macB)
	sendFrame(t, "h10", macA)
	c.wait(t, "the MAC on the local port", func() bool { return c.macs[10][macA].Port == "p10" })
	c.look(func() {
		if _, ok := c.macs[10][macB]; ok {
			t.Error("a sticky MAC was moved by a local frame")
		}
	})
	if e, _ := l.entry(addFDB(macA, vtep2).Key); !e.Ours || e.Entry.VTEP.IsValid() {
		t.Errorf("half that is left is observed as %+v, want ours and incomplete", e)
	}
	l.must(del(addFDB(macA, vtep2)))
	wantLines(t, "after delete", fdb(t, macA), "dev p10 master br10")
	l.must(replace(addFDB(macA, vtep2)))
	if e, _ := l.entry(addFDB(macA, vtep2).Key); e.Entry.VTEP != vtep2 {
		t.Errorf("remote again: %+v", e)
	}
}

// TestStaticRowOverOurs: an orchestrator writes a static row for a host that BGP still says is elsewhere. The kernel leaves
// our mark on it, and yet it is not ours: the host is here, and what we want of the MAC leaves the row alone.
func TestStaticRowOverOurs(t *testing.T) {
	l := newLab(t)
	c := l.start()
	l.must(addVTEP(vtep2), addFDB(macA, vtep2), addFDB(macB, vtep2))
	c.look(func() {
		if len(c.macs[10]) != 0 {
			t.Errorf("our own rows were taken for hosts: %+v", c.macs)
		}
	})
	for _, line := range []string{"static", "sticky static"} {
		run(t, "bridge fdb replace "+macA.String()+" dev p10 master "+line)
		c.wait(t, "the host on its port", func() bool { m := c.macs[10][macA]; return m.Port == "p10" && m.Static })
	}
	if e, _ := l.entry(addFDB(macA, vtep2).Key); e.Entry.VTEP.IsValid() {
		t.Errorf("what is left of our entry is observed as %+v", e)
	}
	l.must(del(addFDB(macA, vtep2)))
	row := macA.String() + " dev p10 extern_learn sticky master br10 static"
	wantLines(t, "after our delete", fdb(t, macA), strings.TrimPrefix(row, macA.String()+" "))
	if failed := l.Apply(t.Context(), evpn.KernelBatch{Seq: 99, Ops: []evpn.KernelOp{replace(addFDB(macA, vtep2))}}).Failed; len(failed) != 1 {
		t.Errorf("a remote route took the row over: %v", failed)
	}
	run(t, "bridge fdb del "+macA.String()+" dev p10 master")
	c.wait(t, "the host to go", func() bool { _, ok := c.macs[10][macA]; return !ok })
}

func TestLocalIPsOfTheNeighborTable(t *testing.T) {
	l := newLab(t)
	run(t, `ip neigh add 10.1.1.7 lladdr 02:00:00:00:01:07 dev br10 nud stale
		ip neigh add fe80::7 lladdr 02:00:00:00:01:07 dev br10 nud permanent
		ip neigh add 10.1.1.8 lladdr 02:00:00:00:01:08 dev br10 nud noarp extern_learn proto zebra`)
	c := l.start()
	ip := func(s string) func() bool {
		return func() bool { _, ok := c.ips[10][netip.MustParseAddr(s)]; return ok }
	}
	c.wait(t, "what was there", ip("10.1.1.7"))
	c.look(func() {
		if len(c.ips[10]) != 1 {
			t.Errorf("IPs %+v", c.ips)
		}
	})
	run(t, `ip neigh add 10.1.1.1 lladdr 02:00:00:00:01:01 dev br10 nud permanent
		ip neigh add 2001:db8::1 lladdr 02:00:00:00:01:01 dev br10 nud reachable router
		ip neigh add fe80::1 lladdr 02:00:00:00:01:01 dev br10 nud permanent`)
	l.must(addNeighbor(hostB, macB))
	c.wait(t, "a permanent neighbour", ip("10.1.1.1"))
	c.wait(t, "an IPv6 router", func() bool { return c.ips[10][host6].Router })
	run(t, "ip neigh del 10.1.1.1 dev br10")
	c.wait(t, "it to go", func() bool { return !ip("10.1.1.1")() })
	c.look(func() {
		if ip("fe80::1")() || ip("10.1.1.2")() {
			t.Errorf("link-local addresses and our own entries are no local hosts: %+v", c.ips)
		}
	})
}

func TestTamperingIsReported(t *testing.T) {
	for _, c := range []struct {
		name, script string
		op           evpn.KernelOp
	}{
		{"bridge's half deleted", "bridge fdb del 02:00:00:00:01:01 dev vx10 master", addFDB(macA, vtep2)},
		{"vxlan's half deleted", "bridge fdb del 02:00:00:00:01:01 dev vx10 self", addFDB(macA, vtep2)},
		{"vxlan's half replaced", `bridge fdb del 02:00:00:00:01:01 dev vx10 self
			bridge fdb add 02:00:00:00:01:01 dev vx10 self static dst 10.0.0.9`, addFDB(macA, vtep2)},
		{"neighbour deleted", "ip neigh del 10.1.1.1 dev br10", addNeighbor(hostA, macA)},
		{"neighbour replaced", "ip neigh replace 10.1.1.1 lladdr 02:00:00:00:09:09 dev br10 nud permanent", addNeighbor(hostA, macA)},
		{"flood dst deleted", "bridge fdb del 00:00:00:00:00:00 dev vx10 self dst 10.0.0.2", addFlood(vtep2)},
		{"nexthop deleted", "ip nexthop del id 1163264000", addVTEP(vtep2)},
		{"nexthop replaced", "ip nexthop replace id 1163264000 via 10.0.0.99 fdb protocol bgp", addVTEP(vtep2)},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t)
			ctl := l.start()
			l.must(addVTEP(vtep2), addFlood(vtep2), addFDB(macA, vtep2), addNeighbor(hostA, macA))
			run(t, c.script)
			ctl.wait(t, "the entry to be reported", func() bool {
				if c.name == "nexthop deleted" {
					return ctl.gone[vtep2]
				}
				return ctl.tampered[c.op.Key]
			})
			if c.name == "neighbour replaced" {
				ctl.wait(t, "the new row to be taken for a host", func() bool { return ctl.ips[10][hostA].MAC == evpn.MAC{2, 0, 0, 0, 9, 9} })
			}
			if c.op.Key.Table == evpn.TableVTEP {
				ctl.wait(t, "the nexthops to be read back", func() bool { return ctl.observed[0] > 1 })
				ctl.look(func() {
					if ctl.observed[10] != 1 {
						t.Error("a VNI was read back for a nexthop")
					}
				})
			}
		})
	}
}

// TestOurOwnWritesAreNotTampering: neither additions nor deletes come back as events.
func TestOurOwnWritesAreNotTampering(t *testing.T) {
	l := newLab(t)
	c := l.start()
	var ops []evpn.KernelOp
	ops = append(ops, addVTEP(vtep2), addFlood(vtep2))
	for i := range 500 {
		m := evpn.MAC{2, 0, 0, 7, byte(i >> 8), byte(i)}
		ops = append(ops, addFDB(m, vtep2), addNeighbor(netip.AddrFrom4([4]byte{10, 7, byte(i >> 8), byte(i)}), m))
	}
	l.must(ops...)
	slices.Reverse(ops)
	for i := range ops {
		ops[i] = del(ops[i])
	}
	l.must(ops...)
	sendFrame(t, "h10", macA) // what is seen after everything else
	c.wait(t, "a MAC behind the deletes", func() bool { return len(c.macs[10]) > 0 })
	c.look(func() {
		if len(c.tampered) != 0 || len(c.macs[10]) != 1 || len(c.ips[10]) != 0 || c.observed[10] != 1 {
			t.Errorf("tampered %v macs %v ips %v observed %d", c.tampered, c.macs, c.ips, c.observed[10])
		}
	})
	eventually(t, "all deletes to be crossed out", func() bool { return l.expectedDeletes() == 0 })
}

// TestWipedNeighborsAreReported: the kernel throws all neighbours of a bridge away when it goes down or has a new MAC.
func TestWipedNeighborsAreReported(t *testing.T) {
	for _, script := range []string{
		`ip link set br10 down
		 ip link set br10 up`,
		"ip link set br10 address 02:00:00:00:aa:77",
	} {
		t.Run(strings.Fields(script)[4], func(t *testing.T) {
			l := newLab(t)
			l.must(addVTEP(vtep2), addFDB(macA, vtep2), addNeighbor(hostA, macA))
			c := l.start()
			key := addNeighbor(hostA, macA).Key
			c.wait(t, "the neighbour", func() bool { return c.entries[10][key].Ours })
			run(t, script)
			c.wait(t, "the neighbour to be reported as gone", func() bool { return !c.entries[10][key].Ours })
			c.wait(t, "the attachment to be usable", func() bool { return c.attached[10].Usable })
			c.look(func() {
				if !c.entries[10][addFDB(macA, vtep2).Key].Ours {
					t.Error("the FDB entry is not reported any more")
				}
			})
		})
	}
}

// TestOverrunEndsEqualToTheKernel: with room for a handful of notifications, a storm of 300,000 sightings of hosts that move
// between two ports loses most of them.
func TestOverrunEndsEqualToTheKernel(t *testing.T) {
	newLab(t)
	addPort(t, "br10", "q10", "r10")
	opt := options()
	opt.ReceiveBuffer = 4096
	l := newPlane(t, opt)
	c := l.start()
	ports := []func(evpn.MAC){frames(t, "h10"), frames(t, "r10")}
	l.must(addVTEP(vtep2))
	begun := time.Now()
	const rounds, hosts = 100, 3000
	for i := range rounds {
		for j := range hosts {
			ports[i%2](evpn.MAC{2, 0, 1, 0, byte(j >> 8), byte(j)})
		}
		l.must(addFDB(evpn.MAC{2, 0, 2, 0, 0, byte(i)}, vtep2))
		run(t, fmt.Sprintf("ip neigh add 10.2.0.%d lladdr 02:00:00:00:01:01 dev br10 nud permanent", i))
	}
	run(t, "bridge fdb add 02:00:00:00:01:01 dev p10 master static")
	took := time.Since(begun)
	if l.Status().Overruns == 0 {
		t.Fatal("no overrun was provoked")
	}
	events, err := l.observe(l.writer.rtnl, []evpn.VNI{10})
	if err != nil {
		t.Fatal(err)
	}
	truth := events[0].(evpn.Observed)
	c.wait(t, "the core's view to equal the kernel's", func() bool {
		for _, m := range truth.MACs {
			if c.macs[10][m.MAC] != m {
				return false
			}
		}
		return len(truth.MACs) == hosts+1 && len(c.macs[10]) == len(truth.MACs) && len(c.ips[10]) == len(truth.IPs)
	})
	s := l.Status()
	t.Logf("%d moves in %s: %d overruns, %d read-backs, equal after %s more", rounds*hosts, took, s.Overruns, s.Resyncs, time.Since(begun)-took)
	if s.Resyncs == 0 {
		t.Errorf("status %+v", s)
	}
	run(t, "ip link del vx10")
	c.wait(t, "links to be watched still", func() bool { return len(c.attached) == 0 })
}

// TestReadingGoesOnWhileTheCoreIsSlow: a core that takes nothing for a while is told the latest only.
func TestReadingGoesOnWhileTheCoreIsSlow(t *testing.T) {
	l := newLab(t)
	addPort(t, "br10", "q10", "r10")
	c := l.start()
	c.mu.Lock() // the core stops taking
	here, there := frames(t, "h10"), frames(t, "r10")
	for range 5000 {
		here(macA)
		there(macA)
	}
	sendFrame(t, "h10", macB)
	eventually(t, "the reader to be through", func() bool {
		l.pending.mu.Lock()
		defer l.pending.mu.Unlock()
		_, ok := l.pending.index[macKey{10, macB}]
		return ok
	})
	l.pending.mu.Lock()
	if n := len(l.pending.hosts); n > 2 {
		t.Errorf("%d events wait, want one for each MAC", n)
	}
	l.pending.mu.Unlock()
	c.mu.Unlock()
	c.wait(t, "the last word", func() bool { return c.macs[10][macA].Port == "q10" && c.macs[10][macB].Port == "p10" })
	if l.Status().Overruns != 0 {
		t.Error("notifications were lost")
	}
}

func TestManyTamperedEntriesAreReadBackInstead(t *testing.T) {
	l := newLab(t)
	c := l.start()
	var ops []evpn.KernelOp
	for i := range 3000 {
		ops = append(ops, addFDB(evpn.MAC{2, 0, 0, 7, byte(i >> 8), byte(i)}, vtep2))
	}
	l.must(addVTEP(vtep2))
	l.must(ops...)
	var script bytes.Buffer
	for _, op := range ops {
		fmt.Fprintf(&script, "fdb del %s dev vx10 self master\n", op.Key.MAC)
	}
	cmd := exec.Command("bridge", "-batch", "-")
	cmd.Stdin = &script
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	c.wait(t, "all of them to be told or read back", func() bool {
		told := len(c.tampered)
		return told >= len(ops) || c.observed[10] > 1
	})
	eventually(t, "nothing to be left", func() bool { return len(l.observed(10).Entries) == 0 })
}

// TestLocalIPEndsWithItsNeighbor: the kernel has one row for an IP, so the host's binding ends when our row takes its
// place, and nobody else's when ours goes.
func TestLocalIPEndsWithItsNeighbor(t *testing.T) {
	l := newLab(t)
	c := l.start()
	bound := func() bool { _, ok := c.ips[10][hostA]; return ok }
	run(t, "ip neigh add 10.1.1.1 lladdr 02:00:00:00:01:01 dev br10 nud stale")
	c.wait(t, "the host's IP", bound)
	l.must(replace(addNeighbor(hostA, macA)))
	c.wait(t, "the IP to be gone when our row stands there", func() bool { return !bound() })
	if e, _ := l.entry(addNeighbor(hostA, macA).Key); !e.Ours || e.Entry.MAC != macA {
		t.Errorf("row observed as %+v", e)
	}
	c.take([]evpn.Event{evpn.LocalIP{VNI: 10, IP: hostA, MAC: macA}}) // as if it had not been told
	l.must(del(addNeighbor(hostA, macA)))
	c.wait(t, "the IP to be gone when our row is", func() bool { return !bound() })
	c.look(func() {
		if len(c.tampered) != 0 {
			t.Errorf("our own doing taken for tampering: %v", c.tampered)
		}
	})
}

// TestNeighborsThatExpireAreNotTampering: the kernel drops rows of its cache all day.
func TestNeighborsThatExpireAreNotTampering(t *testing.T) {
	l := newLab(t)
	c := l.start()
	run(t, `ip neigh add 10.1.1.1 lladdr 02:00:00:00:01:01 dev br10 nud stale
		ip neigh add 2001:db8::1 lladdr 02:00:00:00:01:01 dev br10 nud reachable`)
	c.wait(t, "two IPs", func() bool { return len(c.ips[10]) == 2 })
	run(t, "ip neigh flush dev br10")
	c.wait(t, "them to go", func() bool { return len(c.ips[10]) == 0 })
	l.must(addNeighbor(hostB, macB))
	run(t, "ip neigh del 10.1.1.2 dev br10") // what is seen after everything else
	c.wait(t, "our row to be missed", func() bool { return c.tampered[addNeighbor(hostB, macB).Key] })
	c.look(func() {
		if len(c.tampered) != 1 {
			t.Errorf("tampered %v, want our row only", c.tampered)
		}
	})
	if n := l.Status().Tampered; n != 1 {
		t.Errorf("%d tampered, want 1", n)
	}
}

// onWarning calls f the first time that a failed dump is logged.
type onWarning struct {
	once sync.Once
	f    func()
}

func (h *onWarning) Levels() []logrus.Level { return []logrus.Level{logrus.WarnLevel} }
func (h *onWarning) Fire(e *logrus.Entry) error {
	if strings.HasSuffix(e.Message, "not read back") {
		h.once.Do(h.f)
	}
	return nil
}

// failOnce makes dumps of a socket fail until that is logged once.
func (l *lab) failOnce(r *rtnl) *atomic.Bool {
	l.t.Helper()
	if err := r.conn.SetReadDeadline(time.Unix(1, 0)); err != nil {
		l.t.Fatal(err)
	}
	failed := new(atomic.Bool)
	l.log.(*logrus.Logger).AddHook(&onWarning{f: func() {
		failed.Store(true)
		if err := r.conn.SetReadDeadline(time.Time{}); err != nil {
			l.t.Error(err)
		}
	}})
	return failed
}

// TestLocalHostsAreReportedFirst: a peer that forgot us is told of our hosts before the whole FDB is read, which may take seconds.
// The rows of the overlay, ours and learned ones, are no local hosts.
func TestLocalHostsAreReportedFirst(t *testing.T) {
	l := newLab(t)
	addVNI(t, 20)
	sendFrame(t, "h10", macA)
	sendFrame(t, "h20", macB)
	l.must(addVTEP(vtep2), addFDB(macC, vtep2))
	run(t, "bridge fdb add 02:00:00:00:01:09 dev vx10 master dynamic")
	l = newPlane(t, options())
	sink := make(chan []evpn.Event, 2)
	l.firstReport(t.Context(), sink)
	first := <-sink
	if len(first) != 4 {
		t.Fatalf("%d events first, want each VNI and its hosts: %v", len(first), first)
	}
	for i, want := range []evpn.LocalMAC{{VNI: 10, MAC: macA, Port: "p10"}, {VNI: 20, MAC: macB, Port: "p20"}} {
		up, isUp := first[2*i].(evpn.AttachmentUp)
		hosts, isObserved := first[2*i+1].(evpn.Observed)
		if !isUp || !isObserved || up.VNI != want.VNI || hosts.VNI != want.VNI || !slices.Equal(hosts.MACs, []evpn.LocalMAC{want}) || hosts.IPs != nil {
			t.Errorf("VNI %d: %v %v", want.VNI, first[2*i], first[2*i+1])
		}
	}
	rest := <-sink
	if _, ok := rest[len(rest)-1].(evpn.Synced); !ok {
		t.Errorf("the first report ends with %T", rest[len(rest)-1])
	}
}

// TestDumpThatFailsIsTriedAgain: what ails the kernel for a moment must not end the daemon.
func TestDumpThatFailsIsTriedAgain(t *testing.T) {
	t.Run("first report", func(t *testing.T) {
		l := newLab(t)
		failed := l.failOnce(l.reader)
		sink := make(chan []evpn.Event, 2)
		l.firstReport(t.Context(), sink)
		<-sink // the local hosts
		select {
		case events := <-sink:
			if _, ok := events[len(events)-1].(evpn.Synced); !ok || !failed.Load() {
				t.Errorf("first report %v, after a failure: %v", events, failed.Load())
			}
		default:
			t.Error("no first report")
		}
	})
	t.Run("lost notifications", func(t *testing.T) {
		newLab(t)
		opt := options()
		opt.ReceiveBuffer = 4096
		l := newPlane(t, opt)
		c := l.start()
		failed := l.failOnce(l.watcher.rtnl)
		send := frames(t, "h10")
		for i := 0; i < 200 && l.Status().Overruns == 0; i++ {
			for j := range 500 {
				send(evpn.MAC{2, 0, 1, byte(i), byte(j >> 8), byte(j)})
			}
		}
		run(t, "ip link del vx10")
		c.wait(t, "the link to be missed", func() bool { return len(c.attached) == 0 })
		if !failed.Load() || l.Status().Overruns == 0 {
			t.Errorf("failed: %v, %d overruns", failed.Load(), l.Status().Overruns)
		}
	})
}
