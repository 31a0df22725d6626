package dataplane

import (
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/evpnd/evpnd/evpn"
)

// BenchmarkMACIP loads n remote MACs with an IP each, moves them, reads them back and removes them, with the watcher
// running. Figures are entries per second of each stage; an entry is one MAC or one IP.
func BenchmarkMACIP(b *testing.B) {
	for _, n := range []int{10_000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			l := newLab(b)
			l.start()
			l.must(addVTEP(vtep2), addVTEP(vtep3))
			var macs, ips []evpn.KernelOp
			for i := range n {
				m := evpn.MAC{2, 1, 0, byte(i >> 16), byte(i >> 8), byte(i)}
				macs = append(macs, addFDB(m, vtep2))
				ips = append(ips, addNeighbor(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), m))
			}
			change := func(ops []evpn.KernelOp, f func(evpn.KernelOp) evpn.KernelOp) []evpn.KernelOp {
				out := make([]evpn.KernelOp, len(ops))
				for i := range ops {
					out[i] = f(ops[i])
				}
				return out
			}
			moved := change(macs, func(op evpn.KernelOp) evpn.KernelOp { op.Entry.VTEP = vtep3; return replace(op) })
			gone := change(macs, del)
			ipsGone := change(ips, del)
			var spent [5]time.Duration
			var cpu time.Duration
			stage := func(i int, f func()) {
				start := time.Now()
				f()
				spent[i] += time.Since(start)
			}
			b.ReportAllocs()
			for b.Loop() {
				before := cpuTime()
				stage(0, func() { l.must(macs...) })
				stage(1, func() { l.must(ips...) })
				cpu += cpuTime() - before
				stage(2, func() { l.must(moved...) })
				stage(3, func() {
					events, err := l.ReadBack(context.Background(), []evpn.VNI{10}, l.seq)
					if err != nil || len(events[0].(evpn.Observed).Entries) != 2*n {
						b.Fatalf("read back: %v", err)
					}
				})
				stage(4, func() { l.must(ipsGone...); l.must(gone...) })
			}
			for i, unit := range []string{"fdb-add/s", "neigh-add/s", "fdb-move/s", "read/s", "delete/s"} {
				entries := n
				if i >= 3 {
					entries = 2 * n
				}
				b.ReportMetric(float64(entries)*float64(b.N)/spent[i].Seconds(), unit)
			}
			b.ReportMetric(float64(cpu.Nanoseconds())/float64(b.N)/float64(2*n), "add-cpu-ns/entry")
		})
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
