package dataplane

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/evpnd/evpnd/evpn"
)

// farEnd makes the test binary another host: a process in a network namespace of its own that does what is written to it.
const farEnd = "DATAPLANE_TEST_FAR_END"

// beFarEnd reads commands: start VTEP, know [VTEP], flood VNI [VTEP]; each is answered by a line.
func beFarEnd() {
	fmt.Println("here")
	ctx, cancel := context.WithCancel(context.Background())
	var d *Dataplane
	ended := make(chan error, 1)
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		var addr netip.Addr
		if len(words) > 1 {
			addr, _ = netip.ParseAddr(words[len(words)-1])
		}
		switch words[0] {
		case "start":
			log := logrus.New()
			log.SetOutput(os.Stderr)
			var err error
			if d, err = New(Options{VTEP: addr, AutoVNIs: true}, log); err != nil {
				fmt.Println(err)
				continue
			}
			sink, synced := make(chan []evpn.Event), make(chan bool)
			go func() { ended <- d.Run(ctx, sink); close(sink) }()
			go func() {
				for events := range sink {
					if slices.ContainsFunc(events, func(e evpn.Event) bool { return e == evpn.Event(evpn.Synced{}) }) {
						close(synced)
					}
				}
			}()
			<-synced
			for d.answerer.state() != nil { // its goroutine has begun
				time.Sleep(time.Millisecond)
			}
		case "know":
			var list []netip.Addr
			if addr.IsValid() {
				list = append(list, addr)
			}
			d.WatchVTEPs(list)
		case "flood":
			for !d.watcher.catchUp() { // with what was done to the devices
				time.Sleep(time.Millisecond)
			}
			for _, at := range d.topo.all() {
				op := evpn.KernelOp{Key: evpn.EntryKey{Table: evpn.TableFlood, VNI: at.VNI, Addr: addr}, Del: len(words) > 2}
				d.Apply(ctx, evpn.KernelBatch{Ops: []evpn.KernelOp{op}})
			}
		}
		fmt.Println("done")
	}
	cancel()
	if d != nil {
		<-ended
		_ = d.Close()
	}
}

// far is another host.
type far struct {
	t   *testing.T
	pid int
	in  io.Writer
	out *bufio.Scanner
}

func newFar(t *testing.T) *far {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), farEnd+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	f := &far{t: t, pid: cmd.Process.Pid, in: in, out: bufio.NewScanner(out)}
	t.Cleanup(func() { _ = in.Close(); _ = cmd.Wait() })
	if !f.out.Scan() {
		t.Fatal("the far end does not start")
	}
	return f
}

func (f *far) tell(format string, args ...any) {
	f.t.Helper()
	fmt.Fprintf(f.in, format+"\n", args...)
	if !f.out.Scan() || f.out.Text() != "done" {
		f.t.Fatalf("far end: %q, %v", f.out.Text(), f.out.Err())
	}
}

// run runs commands there.
func (f *far) run(script string) {
	f.t.Helper()
	var lines []string
	for line := range strings.Lines(script) {
		if line, mayFail := strings.CutPrefix(strings.TrimSpace(line), "! "); line != "" {
			line = fmt.Sprintf("nsenter -t %d -n %s", f.pid, line)
			if mayFail {
				line = "! " + line
			}
			lines = append(lines, line)
		}
	}
	run(f.t, strings.Join(lines, "\n"))
}

// underlayLab is our host, a router and another VTEP with the same two VNIs, on which an evpnd runs that knows us.
type underlayLab struct {
	*lab
	router, peer *far
	vtep, self   netip.Addr
}

func newUnderlayLab(t *testing.T, v6 bool) *underlayLab {
	t.Helper()
	clean(t)
	u := &underlayLab{router: newFar(t), peer: newFar(t), vtep: vtep2, self: netip.MustParseAddr(vtepSelf)}
	names := strings.NewReplacer("IP4", "ip", "SELF", "10.0.0.1/32", "VTEP", "10.0.0.2/32", "NEAR", "192.0.2.0", "R1", "192.0.2.1", "R2", "192.0.2.2", "FAR", "192.0.2.3", "LEN", "/31")
	mtu := 1450
	if v6 {
		u.vtep, u.self, mtu = netip.MustParseAddr("2001:db8:ff::2"), netip.MustParseAddr("2001:db8:ff::1"), 1430
		names = strings.NewReplacer("IP4", "ip -6", "SELF", "2001:db8:ff::1/128", "VTEP", "2001:db8:ff::2/128",
			"NEAR", "2001:db8:1::1", "R1", "2001:db8:1::2", "R2", "2001:db8:2::1", "FAR", "2001:db8:2::2", "LEN", "/64 nodad")
	}
	vnis := func(local string, vni int, mtu int) string {
		return fmt.Sprintf(`ip link add br%[2]d address 02:00:00:00:a%[4]s:01 mtu %[3]d type bridge
			ip link add vx%[2]d mtu %[3]d type vxlan id %[2]d dstport 4789 local %[1]s nolearning
			ip link set vx%[2]d master br%[2]d up
			bridge link set dev vx%[2]d learning off
			ip link set br%[2]d up
			`, local, vni, mtu, local[len(local)-1:])
	}
	run(t, fmt.Sprintf(`ip link add und0 mtu 1500 type veth peer name und1 mtu 1500 netns %d
		`, u.router.pid)+names.Replace(`ip link set und0 up
		IP4 addr replace SELF dev lo
		IP4 addr add NEARLEN dev und0`)+"\n"+vnis(u.self.String(), 10, mtu)+vnis(u.self.String(), 20, mtu))
	u.router.run(fmt.Sprintf("ip link add und2 mtu 1500 type veth peer name und3 mtu 1500 netns %d\n", u.peer.pid) + names.Replace(`ip link set lo up
		ip link set und1 up
		ip link set und2 up
		sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0
		IP4 addr add R1LEN dev und1
		IP4 addr add R2LEN dev und2
		IP4 route add SELF via NEAR
		IP4 route add VTEP via FAR`))
	u.peer.run(names.Replace(`ip link set lo up
		ip link set und3 up
		IP4 addr add VTEP dev lo
		IP4 addr add FARLEN dev und3
		IP4 route add SELF via R2`) + "\n" + vnis(u.vtep.String(), 10, mtu) + vnis(u.vtep.String(), 20, mtu))
	run(t, names.Replace("IP4 route replace VTEP via R1"))
	t.Cleanup(func() { run(t, "! ip link del und0\n"+names.Replace("! IP4 addr del SELF dev lo")) })
	opt := options()
	opt.VTEP = u.self
	u.lab = newPlane(t, opt)
	u.start()
	eventually(t, "pings to be heard", func() bool { return u.answerer.state() == nil })
	return u
}

// serve starts an evpnd at the other end, which knows us.
func (u *underlayLab) serve() {
	u.t.Helper()
	u.peer.tell("start %s", u.vtep)
	u.peer.tell("know %s", u.self)
	u.peer.tell("flood %s", u.self)
}

// ping returns what PingVTEP reports.
func (u *underlayLab) ping(vnis ...PingVNI) (steps []PingStep) {
	u.t.Helper()
	if vnis == nil {
		vnis = []PingVNI{{VNI: 10}, {VNI: 20}}
	}
	err := u.PingVTEP(context.Background(), PingTarget{VTEP: u.vtep, VNIs: vnis}, func(s PingStep) { steps = append(steps, s) })
	if err != nil {
		u.t.Fatal(err)
	}
	return steps
}

// brief is each step as "mark topic", with the VNI, and the code of a fault.
func brief(steps []PingStep) (list []string) {
	for _, s := range steps {
		line := string(s.Mark) + " " + s.Topic
		if s.VNI != 0 {
			line += fmt.Sprintf(" %d", s.VNI)
		}
		if s.Code != "" {
			line += " " + string(s.Code)
		}
		list = append(list, line)
	}
	return list
}

func faultsOf(steps []PingStep) (list []string) {
	for i, line := range brief(steps) {
		if steps[i].Mark == PingFault {
			list = append(list, strings.TrimPrefix(line, "fault "))
		}
	}
	return list
}

// TestPingVTEP makes one fault at a time between two hosts, and wants just that to be named, with a remedy.
func TestPingVTEP(t *testing.T) {
	u := newUnderlayLab(t, false)
	u.serve()
	wantLines(t, "healthy", brief(u.ping()), "ok route", "ok icmp", "ok mtu", "ok vni 10", "ok vni 20", "ok vni 10", "ok vni 20")
	for _, c := range []struct {
		name        string
		spoil, mend func()
		want        []string
		says        string // of the first fault
	}{
		{
			"the MTU of our device", func() { run(t, "ip link set und0 mtu 1400") }, func() { run(t, "ip link set und0 mtu 1500") },
			[]string{"route 10 underlay-mtu-too-small"},
			"by und0, MTU 1400",
		},
		{
			"the MTU of a route", func() { run(t, "ip route replace 10.0.0.2/32 via 192.0.2.1 mtu 1480") }, func() { run(t, "ip route replace 10.0.0.2/32 via 192.0.2.1") },
			[]string{"route 10 underlay-mtu-too-small"},
			"MTU 1480",
		},
		{
			"a narrow link on the way", func() { u.router.run("ip link set und2 mtu 1400") }, func() { u.router.run("ip link set und2 mtu 1500"); run(t, "ip route flush cache") },
			[]string{"mtu 10 path-mtu-too-small"},
			"more than 1400 octets do not pass 192.0.2.1",
		},
		{
			"a narrow link that nobody tells of", func() { u.peer.run("ip link set und3 mtu 1402") }, func() { u.peer.run("ip link set und3 mtu 1500") },
			[]string{"mtu 10 path-mtu-black-hole"},
			"more than 1406 octets",
		},
		{
			"no route", func() { run(t, "ip route del 10.0.0.2/32") }, func() { run(t, "ip route replace 10.0.0.2/32 via 192.0.2.1") },
			[]string{"route vtep-no-route"},
			"no route to 10.0.0.2",
		},
		{
			"no route at the router", func() { u.router.run("ip route del 10.0.0.2/32") }, func() { u.router.run("ip route add 10.0.0.2/32 via 192.0.2.3") },
			[]string{"icmp vtep-unreachable"},
			"says 192.0.2.1",
		},
		{
			"everything is forbidden", func() { u.router.run("ip rule add pref 5 to 10.0.0.2 prohibit") }, func() { u.router.run("ip rule del pref 5") },
			[]string{"icmp vtep-filtered", "port vtep-filtered"},
			"says 192.0.2.1",
		},
		{
			"VXLAN is forbidden", func() { u.router.run("ip rule add pref 5 ipproto udp dport 4789 prohibit") }, func() { u.router.run("ip rule del pref 5") },
			[]string{"port vtep-filtered"},
			"UDP port 4789 is rejected by rule, says 192.0.2.1",
		},
		{
			"VXLAN is dropped on its way there", func() { u.router.run("ip rule add pref 5 iif und1 ipproto udp dport 4789 blackhole") }, func() { u.router.run("ip rule del pref 5") },
			[]string{"vni 10 vxlan-lost-there", "vni 20 vxlan-lost-there"},
			"while ICMP does",
		},
		{
			"VXLAN is dropped on its way back", func() { u.router.run("ip rule add pref 5 iif und2 ipproto udp dport 4789 blackhole") }, func() { u.router.run("ip rule del pref 5") },
			[]string{"vni 10 vxlan-lost-here", "vni 20 vxlan-lost-here"},
			"its answers do not come back",
		},
		{
			"the evpnd there does not know us", func() { u.peer.tell("know") }, func() { u.peer.tell("know %s", u.self) },
			[]string{"vni vtep-not-known-there"},
			"imports no route of ours",
		},
		{
			"it does not flood to us", func() { u.peer.tell("flood del %s", u.self) }, func() { u.peer.tell("flood %s", u.self) },
			[]string{"vni 10 not-flooded-there", "vni 20 not-flooded-there"},
			"lacks us",
		},
		{
			"its VXLAN device carries less", func() { u.peer.run("ip link set vx10 mtu 1400") }, func() { u.peer.run("ip link set vx10 mtu 1450") },
			[]string{"vni 10 vni-mtu-differs"},
			"vx10 here has MTU 1450, vx10 there 1400",
		},
		{
			"its bridge is down", func() { u.peer.run("ip link set br10 down") }, func() { u.peer.run("ip link set br10 up") },
			[]string{"vni 10 vni-faulty-there"},
			"by vx10 in br10",
		},
		{
			"its device is down", func() { u.peer.run("ip link set vx10 down") }, func() {
				u.peer.run("ip link set vx10 up")
				u.peer.tell("flood %s", u.self)
			},
			[]string{"vni 10 vni-faulty-there"},
			"by vx10 in br10",
		},
		{
			"all its devices are down", func() { u.peer.run("ip link set vx10 down\nip link set vx20 down") }, func() {
				u.peer.run("ip link set vx10 up\nip link set vx20 up")
				u.peer.tell("flood %s", u.self)
			},
			[]string{"port vtep-port-unreachable", "vni 10 vni-faulty-there", "vni 20 vni-faulty-there"},
			"UDP port 4789 is unreachable, says 10.0.0.2",
		},
		{
			"its device has another port", func() {
				u.peer.run(`ip link del vx10
					ip link add vx10 mtu 1450 type vxlan id 10 dstport 8472 local 10.0.0.2 nolearning
					ip link set vx10 master br10 up
					bridge link set dev vx10 learning off`)
				u.peer.tell("flood %s", u.self)
			}, func() {
				u.peer.run(`ip link del vx10
					ip link add vx10 mtu 1450 type vxlan id 10 dstport 4789 local 10.0.0.2 nolearning
					ip link set vx10 master br10 up
					bridge link set dev vx10 learning off`)
				u.peer.tell("flood %s", u.self)
			},
			[]string{"vni 10 vxlan-port-differs"},
			"vx10 there uses UDP port 8472",
		},
		{
			"its device left the bridge", func() { u.peer.run("ip link set vx10 nomaster") }, func() {
				u.peer.run("ip link set vx10 master br10\nbridge link set dev vx10 learning off")
				u.peer.tell("flood %s", u.self)
			},
			[]string{"vni 10 vni-missing-there"},
			"no VXLAN device in a bridge",
		},
		{
			"its kernel ignores echo requests", func() { u.peer.run("sysctl -qw net.ipv4.icmp_echo_ignore_all=1") }, func() { u.peer.run("sysctl -qw net.ipv4.icmp_echo_ignore_all=0") },
			nil, "",
		},
		{
			"ICMP is dropped", func() { u.router.run("ip rule add pref 5 ipproto icmp blackhole") }, func() { u.router.run("ip rule del pref 5") },
			nil, "",
		},
		{
			"ICMP is dropped, and a link is narrow", func() {
				u.router.run("ip rule add pref 5 ipproto icmp blackhole")
				u.peer.run("ip link set und3 mtu 1402")
			},
			func() { u.router.run("ip rule del pref 5"); u.peer.run("ip link set und3 mtu 1500") },
			[]string{"vni 10 vni-mtu-too-small", "vni 20 vni-mtu-too-small"},
			"1450 octets of payload get lost",
		},
	} {
		c.spoil()
		steps := u.untilFaults(c.want)
		if c.says != "" && !slices.ContainsFunc(steps, func(s PingStep) bool {
			return s.Mark == PingFault && strings.Contains(s.Text, c.says) && s.Remedy != ""
		}) {
			t.Errorf("%s: nothing says %q with a remedy", c.name, c.says)
		}
		if t.Failed() {
			t.Fatalf("%s: %+v", c.name, steps)
		}
		c.mend()
	}
	u.untilFaults(nil)
}

// untilFaults pings until the faults are these: the far end hears of its devices' changes by itself.
func (u *underlayLab) untilFaults(want []string) (steps []PingStep) {
	u.t.Helper()
	for begun := time.Now(); time.Since(begun) < deadline; time.Sleep(5 * time.Millisecond) {
		if steps = u.ping(); slices.Equal(faultsOf(steps), want) {
			return steps
		}
	}
	u.t.Errorf("faults %q, want %q", faultsOf(steps), want)
	return steps
}

// TestPingVTEPIPv6 does the same where ICMPv6 speaks of sizes, rules and ports.
func TestPingVTEPIPv6(t *testing.T) {
	u := newUnderlayLab(t, true)
	u.serve()
	u.untilFaults(nil)
	wantLines(t, "healthy", brief(u.ping()), "ok route", "ok icmp", "ok mtu", "ok vni 10", "ok vni 20", "ok vni 10", "ok vni 20")
	for _, c := range []struct {
		spoil, mend string // at the router
		want        []string
	}{
		{"ip link set und2 mtu 1400", "ip link set und2 mtu 1500", []string{"mtu 10 path-mtu-too-small"}},
		{"ip -6 rule add pref 5 to 2001:db8:ff::2 ipproto udp dport 4789 prohibit", "ip -6 rule del pref 5", []string{"port vtep-filtered"}},
		{"ip -6 rule add pref 5 iif und2 ipproto udp dport 4789 blackhole", "ip -6 rule del pref 5", []string{"vni 10 vxlan-lost-here", "vni 20 vxlan-lost-here"}},
		{"ip -6 route del 2001:db8:ff::2", "ip -6 route add 2001:db8:ff::2 via 2001:db8:2::2", []string{"icmp vtep-unreachable"}},
	} {
		u.router.run(c.spoil)
		steps := u.untilFaults(c.want)
		if t.Failed() {
			t.Fatalf("%s: %+v", c.spoil, steps)
		}
		u.router.run(c.mend)
		run(t, "ip -6 route flush cache")
	}
}

// TestPingForeignVTEP: silence of a VTEP without evpnd is no fault, and a host behind it proves the way.
func TestPingForeignVTEP(t *testing.T) {
	u := newUnderlayLab(t, false)
	u.peer.run(`ip addr add 10.1.1.2/24 dev br10
		ip addr add 2001:db8:5::2/64 dev br20 nodad
		bridge fdb append 00:00:00:00:00:00 dev vx10 dst 10.0.0.1
		bridge fdb append 00:00:00:00:00:00 dev vx20 dst 10.0.0.1`)
	wantLines(t, "nobody known behind it", brief(u.ping()), "ok route", "ok icmp", "ok mtu", "info port", "info vni 10", "info vni 20")
	host := []PingVNI{
		{VNI: 10, IP: hostB, MAC: evpn.MAC{2, 0, 0, 0, 0xa2, 1}},
		{VNI: 20, IP: netip.MustParseAddr("2001:db8:5::2"), MAC: evpn.MAC{2, 0, 0, 0, 0xa2, 1}},
	}
	var steps []PingStep
	eventually(t, "hosts to answer", func() bool { // ports of a bridge that is new do not forward yet
		steps = u.ping(host...)
		return slices.Equal(brief(steps), []string{"ok route", "ok icmp", "ok mtu", "info port", "ok vni 10", "ok vni 20"})
	})
	u.router.run("ip rule add pref 5 iif und2 ipproto udp dport 4789 blackhole")
	wantLines(t, "the way back is blocked", brief(u.ping(host...)), "ok route", "ok icmp", "ok mtu", "info port", "info vni 10", "info vni 20")
	u.peer.run("ip link del vx10\nip link del vx20")
	wantLines(t, "nothing listens", brief(u.ping(host...)), "ok route", "ok icmp", "ok mtu", "fault port vtep-port-unreachable", "info vni 10", "info vni 20")
}

// TestPingsOfStrangers: whoever no route names is told nothing, and no frame goes where a message says.
func TestPingsOfStrangers(t *testing.T) {
	u := newUnderlayLab(t, false)
	a := u.answerer
	m := pingMessage{kind: pingCall, vni: 10, nonce: 7, vtep: vtep3}
	if got := a.about(m, vtep3); got.flags != 0 || got.device != "" || got.mtu != 0 {
		t.Errorf("a stranger is told %+v", got)
	}
	u.WatchVTEPs([]netip.Addr{vtep2})
	if got := a.about(m, vtep2); got.flags != pingKnown|pingServed|pingUsable || got.device != "vx10" || got.bridge != "br10" || got.mtu != 1450 || got.port != 4789 {
		t.Errorf("a VTEP that is known is told %+v", got)
	}
	run(t, "ip route add 10.0.0.3/32 via 192.0.2.1")
	defer run(t, "ip route del 10.0.0.3/32")
	w, vx := newWire(t, "und0"), u.topo.vni(10).device
	if !a.takeFrame(pingDatagram(vtep2, m, pingOctets)[8:], vx) || !a.hasSeen(7) {
		t.Error("the frame is not taken in")
	}
	m.vtep, m.nonce = vtep2, 8
	a.takeFrame(pingDatagram(vtep2, m, pingOctets)[8:], vx)
	buf := make([]byte, 2048)
	for { // what comes first must be for the one that is known
		n, from, err := unix.Recvfrom(w.fd, buf, 0)
		if err != nil {
			t.Fatal("no answer to a VTEP that is known:", err)
		}
		link := from.(*unix.SockaddrLinklayer)
		if link.Pkttype == unix.PACKET_OUTGOING && n > 34 && buf[23] == unix.IPPROTO_UDP {
			if to := netip.AddrFrom4([4]byte(buf[30:34])); to != vtep2 {
				t.Errorf("a packet goes to %s", to)
			}
			return
		}
	}
}
