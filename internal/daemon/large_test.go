package daemon

import (
	"bufio"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/evpnd/evpnd/evpn"
)

var largeHosts = flag.Int("large.hosts", 20_000, "hosts of TestLargeTables")

// TestLargeTables: evpnctl shows many MACs and routes in memory that does not grow with them, on both sides; -v prints how
// long it takes.
func TestLargeTables(t *testing.T) {
	hosts := *largeHosts / 1000 * 1000
	evpnctl := filepath.Join(t.TempDir(), "evpnctl")
	if out, err := exec.Command("go", "build", "-o", evpnctl, "../../cmd/evpnctl").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	c := newClient(t, "max-macs: {remote: 0}\n", nil)
	c.report(attached(100), evpn.Synced{}, peerUp(peer1))
	for from := 0; from < hosts; from += 1000 {
		u := &evpn.Update{Peer: peer1, Attrs: attrs(100, vtep2)}
		for i := from; i < from+1000; i++ {
			u.Reach = append(u.Reach, evpn.Route{Label1: 100, Key: evpn.RouteKey{
				Type: evpn.TypeMACIP, RD: evpn.NewRD(vtep2, 100), MAC: evpn.MAC{2, 0, 0, byte(i >> 16), byte(i >> 8), byte(i)},
				IP: netip.AddrFrom4([4]byte{172, 16 + byte(i>>16), byte(i >> 8), byte(i)}),
			}})
		}
		c.report(u)
	}
	until(t, "the kernel to be written", func() bool { s := c.status(); return s.Counts.MacsRemote == uint32(hosts) && s.Kernel.Pending == 0 })
	for _, row := range []struct {
		args  []string
		exact bool // garbage is collected at once, which costs time
		lines int
	}{
		{[]string{"show", "mac", "--no-headers"}, false, hosts},
		{[]string{"show", "mac", "--no-headers"}, true, hosts},
		{[]string{"show", "route", "--no-headers"}, true, hosts + 1}, // one of ours
	} {
		if row.exact {
			defer debug.SetGCPercent(debug.SetGCPercent(5))
		}
		m := c.measured(evpnctl, row.args)
		t.Logf("%v, exact %v: %s; evpnctl has %d MiB at most, the daemon's heap grows by %d MiB at most", row.args, row.exact, m.took.Round(time.Millisecond), m.client>>20, m.heap>>20)
		if m.lines != row.lines {
			t.Errorf("%v: %d lines, want %d", row.args, m.lines, row.lines)
		}
		if m.client > 64<<20 {
			t.Errorf("%v: evpnctl has %d MiB", row.args, m.client>>20)
		}
		if row.exact && m.heap > 64<<20 {
			t.Errorf("%v: the daemon's heap grows by %d MiB", row.args, m.heap>>20)
		}
	}
}

// measurement is what one call of evpnctl took.
type measurement struct {
	took   time.Duration
	lines  int
	client int64 // octets of evpnctl that were resident at most
	heap   int64 // that this process, which is the daemon, grew by at most
}

func (c *client) measured(evpnctl string, args []string) (m measurement) {
	c.t.Helper()
	cmd := exec.Command(evpnctl, append([]string{"--target", c.opts.Config.API.Socket}, args...)...)
	cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+c.t.TempDir())
	out, err := cmd.StdoutPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	runtime.GC()
	before := heap()
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	stop, sampled := make(chan struct{}), make(chan struct{})
	go func() { // looks at both processes; ends with stop
		defer close(sampled)
		for {
			m.client, m.heap = max(m.client, resident(cmd.Process.Pid)), max(m.heap, heap()-before)
			select {
			case <-stop:
				return
			case <-time.After(2 * time.Millisecond):
			}
		}
	}()
	for lines := bufio.NewScanner(out); lines.Scan(); {
		m.lines++
	}
	m.took = time.Since(begin)
	close(stop)
	<-sampled
	if err := cmd.Wait(); err != nil {
		c.t.Fatal(err)
	}
	return m
}

// resident is the most memory that a process had so far. What rusage says of a child includes its parent before the exec.
func resident(pid int) int64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	var kilobytes int64
	_, _ = fmt.Sscan(rest, &kilobytes) // 0 of a process that has ended
	return kilobytes << 10
}

// heap is what lives or has not been collected.
func heap() int64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
