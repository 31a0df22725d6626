package labs

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/evpnd/evpnd/evpn"
	"github.com/evpnd/evpnd/evpn/wire"
)

// What one evpnd does with many routes, against a raw BGP peer in the same namespace: the peer writes messages made
// beforehand, so that it costs next to nothing, and an observer reads the kernel's own notifications.

const (
	benchPeer = "10.0.0.1"
	benchVTEP = "10.255.0.1"
	farVTEP   = "10.255.0.2"
	benchVNI  = 100
)

// bench is one namespace with a bridge, a VXLAN device and evpnd, and a raw peer whose session is established.
type bench struct {
	ns     netns.NsHandle
	name   string
	daemon *exec.Cmd
	dir    string
	conn   net.Conn
}

func startBench(tb testing.TB) *bench {
	tb.Helper()
	bin, err := binaries()
	if err != nil {
		tb.Fatal(err)
	}
	b := &bench{name: fmt.Sprintf("evpnlab-bench-%d", os.Getpid()), dir: tb.TempDir()}
	b.ip(tb, "netns", "add", b.name)
	tb.Cleanup(func() { b.ip(tb, "netns", "del", b.name) })
	if b.ns, err = netns.GetFromName(b.name); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = b.ns.Close() })
	for _, args := range []string{
		"link set lo up", "addr add " + benchPeer + "/32 dev lo", "addr add " + benchVTEP + "/32 dev lo",
		"link add br100 address 02:ff:00:00:00:01 type bridge",
		"link add vxlan100 type vxlan id 100 dstport 4789 local " + benchVTEP + " nolearning",
		"link set vxlan100 master br100", "link set br100 up", "link set vxlan100 up",
	} {
		b.ip(tb, append([]string{"-n", b.name}, strings.Fields(args)...)...)
	}
	b.run(tb, "bridge", "-n", b.name, "link", "set", "dev", "vxlan100", "learning", "off")
	b.startDaemon(tb, bin)
	b.connect(tb)
	return b
}

func (b *bench) ip(tb testing.TB, args ...string) { tb.Helper(); b.run(tb, "ip", args...) }

func (b *bench) run(tb testing.TB, name string, args ...string) {
	tb.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		tb.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}

func (b *bench) startDaemon(tb testing.TB, bin string) {
	tb.Helper()
	config := fmt.Sprintf("asn: 65000\nvtep: %s\nstate-dir: %s\napi: {socket: %s}\nlog: {level: warn}\npeers:\n  - {address: %s, asn: 65000, passive: true, hold-time: 0s}\n",
		benchVTEP, b.dir, b.socket(), benchPeer)
	path := filepath.Join(b.dir, "evpnd.yaml")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		tb.Fatal(err)
	}
	b.daemon = exec.Command("ip", "netns", "exec", b.name, filepath.Join(bin, "evpnd"), "-c", path)
	b.daemon.Stderr = os.Stderr
	if err := b.daemon.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = b.daemon.Process.Signal(unix.SIGTERM)
		_ = b.daemon.Wait()
	})
}

func (b *bench) socket() string { return filepath.Join(b.dir, "evpnd.sock") }

// inside runs f on a thread in the namespace.
func (b *bench) inside(tb testing.TB, f func() error) {
	tb.Helper()
	done := make(chan error)
	go func() { // ends with f; its thread is thrown away
		runtime.LockOSThread()
		if err := netns.Set(b.ns); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	if err := <-done; err != nil {
		tb.Fatal(err)
	}
}

// connect dials evpnd until it listens, and shakes hands.
func (b *bench) connect(tb testing.TB) {
	tb.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(benchPeer)}}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	b.inside(tb, func() error {
		return waitFor(ctx, "evpnd accepts the session", func() (bool, error) {
			conn, err := dialer.DialContext(ctx, "tcp", benchVTEP+":179")
			b.conn = conn
			return err == nil, nil
		})
	})
	tb.Cleanup(func() { _ = b.conn.Close() })
	options := wire.Options{AS4: true, IBGP: true}
	hello := wire.AppendOpen(nil, wire.Open{ASN: 65000, RouterID: netip.MustParseAddr(benchPeer)}, options)
	b.write(tb, wire.AppendKeepalive(hello))
	reader := bufio.NewReaderSize(b.conn, 1<<16)
	for established := false; !established; {
		kind, err := readMessage(reader, options)
		if err != nil {
			tb.Fatalf("handshake: %v", err)
		}
		established = kind == wire.MessageKeepalive
	}
	go func() { // reads what evpnd says until the connection ends
		_, _ = io.Copy(io.Discard, reader)
	}()
}

func readMessage(r io.Reader, o wire.Options) (wire.MessageType, error) {
	var header [19]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return 0, err
	}
	kind, length, err := wire.Header(header[:], o)
	if err != nil {
		return 0, err
	}
	_, err = io.CopyN(io.Discard, r, int64(length-len(header)))
	return kind, err
}

func (b *bench) write(tb testing.TB, messages []byte) {
	tb.Helper()
	if _, err := b.conn.Write(messages); err != nil {
		tb.Fatalf("write to evpnd: %v", err)
	}
}

// exchange writes messages while it awaits what they lead to, and returns how long that took.
func (b *bench) exchange(tb testing.TB, o *observer, messages []byte, seen func(entry) bool) time.Duration {
	tb.Helper()
	written := make(chan error, 1)
	start := time.Now()
	go func() { // ends when all is written, or with the connection
		_, err := b.conn.Write(messages)
		written <- err
	}()
	end := o.await(tb, time.Minute, seen)
	if err := <-written; err != nil {
		tb.Fatalf("write to evpnd: %v", err)
	}
	return end.Sub(start)
}

// routesFrom makes n MAC/IP routes behind vtep, the first one numbered from.
func routesFrom(from, n int, vtep string, seq uint32) (*evpn.Attrs, []evpn.Route) {
	addr := netip.MustParseAddr(vtep)
	attrs := &evpn.Attrs{NextHop: addr, LocalPref: 100}
	ec := evpn.AppendEncapVXLAN(evpn.AppendRT(nil, evpn.NewRT(65000, benchVNI)))
	if seq > 0 {
		ec = evpn.AppendMobility(ec, seq, false)
	}
	attrs.SetExtComms(string(ec))
	routes := make([]evpn.Route, n)
	for i := range routes {
		k := &routes[i].Key
		k.Type, k.RD = evpn.TypeMACIP, evpn.NewRD(addr, benchVNI)
		k.MAC = evpn.MAC{0: 2, 1: 1}
		binary.BigEndian.PutUint32(k.MAC[2:], uint32(from+i))
		k.IP = netip.AddrFrom4([4]byte{172, 16 + byte((from+i)>>16), byte((from + i) >> 8), byte(from + i)})
		routes[i].Label1 = benchVNI
	}
	return attrs, routes
}

func announcements(tb testing.TB, from, n int, vtep string, seq uint32) []byte {
	tb.Helper()
	attrs, routes := routesFrom(from, n, vtep, seq)
	messages, err := wire.AppendUpdate(nil, attrs, routes, wire.Options{AS4: true, IBGP: true})
	if err != nil {
		tb.Fatal(err)
	}
	return messages
}

func withdrawals(tb testing.TB, from, n int) []byte {
	tb.Helper()
	_, routes := routesFrom(from, n, farVTEP, 0)
	keys := make([]evpn.RouteKey, n)
	for i := range routes {
		keys[i] = routes[i].Key
	}
	messages, err := wire.AppendWithdraw(nil, keys, wire.Options{AS4: true, IBGP: true})
	if err != nil {
		tb.Fatal(err)
	}
	return messages
}

// observer reads the kernel's notifications of neighbour and FDB entries. It must cost little, since the machine it
// watches does its work too: the kernel drops what is of no interest, and the rest is read without the library's parser.
type observer struct {
	b    *bench
	conn *netlink.Conn
	raw  syscall.RawConn
	buf  []byte
}

// Offsets in a notification: the header of the message, and of the row (struct ndmsg).
const (
	typeOffset   = 4
	familyOffset = 16
	flagsOffset  = 26
)

func (b *bench) observe(tb testing.TB) *observer {
	tb.Helper()
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{NetNS: int(b.ns)})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = conn.Close() })
	filter, err := bpf.Assemble([]bpf.Instruction{ // all neighbours, and the VXLAN half of FDB entries
		bpf.LoadAbsolute{Off: familyOffset, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.AF_BRIDGE, SkipTrue: 2},
		bpf.LoadAbsolute{Off: flagsOffset, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpBitsNotSet, Val: unix.NTF_SELF, SkipTrue: 1},
		bpf.RetConstant{Val: 1 << 18},
		bpf.RetConstant{Val: 0},
	})
	if err != nil {
		tb.Fatal(err)
	}
	raw, err := conn.SyscallConn()
	if err := errors.Join(err, conn.SetBPF(filter), conn.SetReadBuffer(256<<20), conn.JoinGroup(unix.RTNLGRP_NEIGH)); err != nil {
		tb.Fatal(err)
	}
	return &observer{b: b, conn: conn, raw: raw, buf: make([]byte, 1<<16)}
}

// entry is one notification: a VXLAN FDB entry, or a neighbour.
type entry struct{ gone, fdb bool }

// await reads until seen says that it has what it wants, and returns when that was read.
func (o *observer) await(tb testing.TB, limit time.Duration, seen func(entry) bool) time.Time {
	tb.Helper()
	if err := o.conn.SetReadDeadline(time.Now().Add(limit)); err != nil {
		tb.Fatal(err)
	}
	var failed error
	err := o.raw.Read(func(fd uintptr) bool {
		for {
			n, err := unix.Read(int(fd), o.buf)
			switch {
			case errors.Is(err, unix.EAGAIN):
				return false // wait for more
			case err != nil:
				failed = err
				return true
			case n > flagsOffset && seen(entry{
				gone: binary.NativeEndian.Uint16(o.buf[typeOffset:]) == unix.RTM_DELNEIGH,
				fdb:  o.buf[familyOffset] == unix.AF_BRIDGE,
			}):
				return true
			}
		}
	})
	end := time.Now()
	if err := errors.Join(err, failed); err != nil {
		tb.Fatalf("kernel notifications: %v\n%s", err, o.b.status(tb))
	}
	return end
}

// status is what evpnd says of itself.
func (b *bench) status(tb testing.TB) []byte {
	tb.Helper()
	bin, err := binaries()
	if err != nil {
		tb.Fatal(err)
	}
	out, err := exec.Command(filepath.Join(bin, "evpnctl"), "--target", "unix://"+b.socket(), "show", "summary", "-o", "wide").CombinedOutput()
	if err != nil {
		return fmt.Appendf(out, "%v", err)
	}
	return out
}

// counted is a condition for await: fdb VXLAN entries and neighbours have come, or gone.
func counted(gone bool, fdb, neighbors int) func(entry) bool {
	return func(e entry) bool {
		if e.gone == gone {
			if e.fdb {
				fdb--
			} else {
				neighbors--
			}
		}
		return fdb <= 0 && neighbors <= 0
	}
}

// cpu is the processor time that evpnd has used.
func (b *bench) cpu(tb testing.TB) time.Duration {
	tb.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", b.daemon.Process.Pid))
	if err != nil {
		tb.Fatal(err)
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	user, err1 := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	if err := errors.Join(err1, err2); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(user+system) * (time.Second / 100) // in ticks of USER_HZ
}

// rss is evpnd's resident memory in MiB.
func (b *bench) rss(tb testing.TB) float64 {
	tb.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.daemon.Process.Pid))
	if err != nil {
		tb.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				tb.Fatal(err)
			}
			return float64(kib) / 1024
		}
	}
	tb.Fatal("no VmRSS")
	return 0
}

// BenchmarkInstall measures from the first octet of the first UPDATE to the last kernel entry, and back.
func BenchmarkInstall(tb *testing.B) {
	for _, n := range []int{10_000, 100_000} {
		tb.Run(fmt.Sprint(n), func(tb *testing.B) {
			b := startBench(tb)
			o := b.observe(tb)
			add, del := announcements(tb, 0, n, farVTEP, 0), withdrawals(tb, 0, n)
			var install, withdraw, installCPU, withdrawCPU time.Duration
			idle := b.rss(tb)
			var loaded float64
			for tb.Loop() {
				before := b.cpu(tb)
				install += b.exchange(tb, o, add, counted(false, n, n))
				loaded = b.rss(tb)
				between := b.cpu(tb)
				withdraw += b.exchange(tb, o, del, counted(true, n, n))
				installCPU += between - before
				withdrawCPU += b.cpu(tb) - between
			}
			rounds := float64(tb.N)
			tb.ReportMetric(install.Seconds()/rounds*1000, "ms/install")
			tb.ReportMetric(withdraw.Seconds()/rounds*1000, "ms/withdraw")
			tb.ReportMetric(installCPU.Seconds()*1e6/rounds/float64(n), "cpu-µs/install")
			tb.ReportMetric(withdrawCPU.Seconds()*1e6/rounds/float64(n), "cpu-µs/withdraw")
			tb.ReportMetric(idle, "MiB-idle")
			tb.ReportMetric(loaded, "MiB-loaded")
		})
	}
}

// BenchmarkOneRoute measures one move of a MAC/IP between two VTEPs, UPDATE to FDB, with 100,000 others installed.
func BenchmarkOneRoute(tb *testing.B) {
	b := startBench(tb)
	o := b.observe(tb)
	const others = 100_000
	b.write(tb, announcements(tb, 0, others, farVTEP, 0))
	o.await(tb, time.Minute, counted(false, others, others))
	// Two VTEPs, so that every move changes the nexthop group; the second one comes into use here.
	vteps := []string{farVTEP, "10.255.0.3"}
	var samples []time.Duration
	seq := uint32(0)
	for tb.Loop() {
		seq++
		message := announcements(tb, others+1, 1, vteps[seq%2], seq)
		start := time.Now()
		b.write(tb, message)
		samples = append(samples, o.await(tb, time.Second, func(e entry) bool { return e.fdb && !e.gone }).Sub(start))
	}
	slices.Sort(samples)
	tb.ReportMetric(float64(samples[len(samples)/2].Microseconds()), "µs-p50")
	tb.ReportMetric(float64(samples[len(samples)*99/100].Microseconds()), "µs-p99")
}

// TestTenThousandRoutes: all are installed and withdrawn again; rows that were there before keep their place, in the way
// of ours, and outlive them.
func TestTenThousandRoutes(t *testing.T) {
	const n = 10_000
	b := startBench(t)
	_, routes := routesFrom(0, n, farVTEP, 0)
	inTheWay := routes[17].Key
	b.run(t, "bridge", "-n", b.name, "fdb", "add", inTheWay.MAC.String(), "dev", "vxlan100", "dst", "10.255.0.99", "self", "static")
	b.ip(t, "-n", b.name, "neigh", "add", inTheWay.IP.String(), "lladdr", "02:99:00:00:00:01", "dev", "br100")
	o := b.observe(t)
	b.exchange(t, o, announcements(t, 0, n, farVTEP, 0), counted(false, n-1, n-1))
	b.wantRows(t, "10.255.0.99", "02:99:00:00:00:01", n-1)
	b.exchange(t, o, withdrawals(t, 0, n), counted(true, n-1, n-1))
	b.wantRows(t, "10.255.0.99", "02:99:00:00:00:01", 0)
}

// wantRows wants the two rows put there by hand, and ours of that number in every table.
func (b *bench) wantRows(t *testing.T, vtep, lladdr string, ours int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	within(t, ctx, 20*time.Second, "rows by hand stay, ours are as wanted", func() error {
		fdb, err := exec.CommandContext(ctx, "bridge", "-n", b.name, "fdb", "show", "dev", "vxlan100").Output()
		if err != nil {
			return err
		}
		neighbors, err := exec.CommandContext(ctx, "ip", "-n", b.name, "neigh", "show", "dev", "br100").Output()
		if err != nil {
			return err
		}
		return errors.Join(
			wantCount("rows of ours in vxlan100", strings.Count(string(fdb), " self extern_learn"), ours),
			wantCount("rows of ours in the bridge", strings.Count(string(fdb), "extern_learn master br100"), ours),
			wantCount("neighbours of ours", strings.Count(string(neighbors), "proto bgp"), ours),
			wantCount("row by hand in vxlan100", strings.Count(string(fdb), "dst "+vtep), 1),
			wantCount("neighbour by hand", strings.Count(string(neighbors), lladdr), 1),
		)
	})
}

func wantCount(what string, got, want int) error {
	if got != want {
		return fmt.Errorf("%s: %d, want %d", what, got, want)
	}
	return nil
}
