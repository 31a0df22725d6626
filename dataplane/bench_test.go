package dataplane

import (
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mdlayher/netlink"

	"github.com/evpnd/evpnd/evpn"
)

// buildSteps are the ops of 256 remote MACs with an IP each, on their way to becoming messages.
func buildSteps() (w *writer, macs, ips []step) {
	at := &attached{device: 7, bridge: 8}
	for i := range 256 {
		m := evpn.MAC{2, 1, 0, 0, 0, byte(i)}
		mac, ip := addFDB(m, vtep2), addNeighbor(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), m)
		macs, ips = append(macs, step{op: &mac, at: at, group: 9}), append(ips, step{op: &ip, at: at})
	}
	return &writer{echoes: newEchoes()}, macs, ips
}

// build makes all messages of the steps: three for each pair.
func (w *writer) build(macs, ips []step) {
	for i := range macs {
		w.batch.reset()
		w.putNear(&macs[i], netlink.Create|netlink.Excl)
		w.putBind(&macs[i], netlink.Create)
		w.putNeighbor(&ips[i], netlink.Create|netlink.Excl)
	}
}

// BenchmarkBuild makes the messages for a MAC and its IP, and sends nothing.
func BenchmarkBuild(b *testing.B) {
	w, macs, ips := buildSteps()
	b.ReportAllocs()
	for b.Loop() {
		w.build(macs, ips)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(macs)), "ns/pair")
}

func TestBuildAllocatesNothing(t *testing.T) {
	w, macs, ips := buildSteps()
	if n := testing.AllocsPerRun(100, func() { w.build(macs, ips) }); n != 0 {
		t.Errorf("%v allocations for %d MACs and IPs", n, len(macs))
	}
}

// BenchmarkParseRow reads a notification of an FDB entry.
func BenchmarkParseRow(b *testing.B) {
	w, macs, ips := buildSteps()
	w.build(macs[:1], ips[:1])
	b.ReportAllocs()
	for b.Loop() {
		for m := range messages(w.batch.buf) {
			if _, err := parseRow(m.data); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// BenchmarkReadBack reads 10,000 remote MACs with an IP each back from the kernel.
func BenchmarkReadBack(b *testing.B) {
	const n = 10_000
	l := newLab(b)
	l.must(addVTEP(vtep2))
	var ops []evpn.KernelOp
	for i := range n {
		m := evpn.MAC{2, 1, 0, byte(i >> 16), byte(i >> 8), byte(i)}
		ops = append(ops, addFDB(m, vtep2), addNeighbor(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), m))
	}
	l.must(ops...)
	b.ReportAllocs()
	for b.Loop() {
		if got := len(l.observed(10).Entries); got != 2*n {
			b.Fatalf("%d entries", got)
		}
	}
}

// BenchmarkManyVNIs makes 200 VNIs, one by one, and waits until all are reported as usable.
func BenchmarkManyVNIs(b *testing.B) {
	const n = 200
	var script strings.Builder
	for i := range n {
		fmt.Fprintf(&script, "link add brN mtu 1450 type bridge\nlink add vxN mtu 1450 type vxlan id N dstport 4789 local %s nolearning\n"+
			"link set vxN master brN up\nlink set brN up\n", vtepSelf)
		text := strings.ReplaceAll(script.String(), "N", fmt.Sprint(1000+i))
		script.Reset()
		script.WriteString(text)
	}
	for b.Loop() {
		l := newLab(b)
		c := l.start()
		before := cpuTime()
		cmd := exec.Command("ip", "-batch", "-")
		cmd.Stdin = strings.NewReader(script.String())
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("%v: %s", err, out)
		}
		c.wait(b, "all VNIs", func() bool { return len(c.attached) == n+1 && c.attached[1000+n-1].Usable })
		b.ReportMetric(float64((cpuTime()-before).Microseconds())/n, "cpu-us/vni")
	}
}

// cpuTime is what the process has used, the kernel's work for it included.
func cpuTime() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
