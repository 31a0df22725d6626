package labs

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// snoopedFrames are the frames of one access port by verdict, as evpnctl shows them.
func snoopedFrames(ctx context.Context, lab *Lab, node string, vni int, port string) (map[string]uint64, error) {
	vnis, err := list[struct {
		Ports []struct {
			Port   string `json:"port"`
			Frames []struct {
				Verdict string `json:"verdict"`
				Frames  uint64 `json:"frames,string"`
			} `json:"frames"`
		} `json:"snoopedPorts"`
	}](ctx, lab, node, "show", "vni", fmt.Sprint(vni))
	if err != nil {
		return nil, err
	}
	frames := map[string]uint64{}
	for _, v := range vnis {
		for _, p := range v.Ports {
			for _, n := range p.Frames {
				if p.Port == port {
					frames[n.Verdict] += n.Frames
				}
			}
		}
	}
	return frames, nil
}

// cpuTime is what a node's evpnd has used of a processor.
func cpuTime(t *testing.T, ctx context.Context, lab *Lab, node string) time.Duration {
	t.Helper()
	out, _, err := lab.Exec(ctx, node, "sh", "-c", "cat /proc/$(pgrep -x evpnd)/stat")
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(out[strings.LastIndexByte(out, ')')+1:])
	var ticks int
	for _, field := range fields[11:13] { // utime and stime, proc(5)
		n, err := strconv.Atoi(field)
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / 100 // USER_HZ
}

// TestARPFlood: a VM sends as many ARP frames as it can, up to 300,000 a second, each for another address. The daemon looks
// at as many as a port may send, counts the rest, keeps its routes, and hears the VM next to it. The frames go to the
// bridge's own MAC, so that the kernel has no flooding to do.
func TestARPFlood(t *testing.T) {
	const offered, duration, rate, burst = 300_000, 3 * time.Second, 2000, 4000
	const quietMAC, quietIP = "02:00:00:64:77:09", "172.16.100.179"
	ctx := testContext(t, 2*time.Minute)
	lab := bringUp(t, ctx, "01-two-hosts")
	vms := twoHosts{vteps: [2]string{"10.255.0.1", "10.255.0.2"}}.vms()
	ping(t, ctx, lab, "vm11", "172.16.100.21")
	ping(t, ctx, lab, "vm12", "172.16.100.22")
	for _, v := range vms {
		agree(t, ctx, lab, "h2", false, v)
	}
	sessions, err := list[ctlPeer](ctx, lab, "h1", "show", "summary")
	if err != nil {
		t.Fatal(err)
	}

	flood, quiet := newVMPort(t, lab, "vm11", "eth1"), newVMPort(t, lab, "vm12", "eth1")
	frame := gratuitousARP([]byte{2, 0, 0, 0x64, 1, 1}, netip.MustParseAddr("10.0.0.0"))
	copy(frame, []byte{2, 0, 0, 0x64, 1, 0xfe})
	before, began := cpuTime(t, ctx, lab, "h1"), time.Now()
	sent := uint64(0)
	spoken := false
	for elapsed := time.Duration(0); elapsed < duration; elapsed = time.Since(began) {
		for due := min(uint64(elapsed.Seconds()*offered), sent+1000); sent < due; sent++ {
			binary.BigEndian.PutUint32(frame[28:], 10<<24|uint32(sent))
			copy(frame[38:42], frame[28:32]) // of its own address: asked for one of ours, the kernel takes down who asks
			flood.send(frame)
		}
		if !spoken && elapsed > duration/2 {
			quiet.send(gratuitousARP([]byte{2, 0, 0, 0x64, 0x77, 9}, netip.MustParseAddr(quietIP)))
			spoken = true
		}
	}
	took := time.Since(began)
	used := cpuTime(t, ctx, lab, "h1") - before
	t.Logf("%d frames offered in %s, %.0f/s: evpnd used %s, %.0f %% of a core", sent, took.Round(time.Millisecond),
		float64(sent)/took.Seconds(), used, 100*used.Seconds()/took.Seconds())

	within(t, ctx, 10*time.Second, "the VM next to it is heard", func() error {
		return all(wantARP(ctx, lab, "h1", 100, quietIP, quietMAC, "local", ""),
			wantARP(ctx, lab, "h2", 100, quietIP, quietMAC, "remote", "10.255.0.1"))
	})
	within(t, ctx, 10*time.Second, "every frame is counted", func() error {
		flood.send(frame) // losses are counted with the next frame
		n, err := snoopedFrames(ctx, lab, "h1", 100, "eth2")
		if err != nil {
			return err
		}
		if all := n["accepted"] + n["limited"] + n["lost"]; all < sent || n["limited"] == 0 {
			return fmt.Errorf("%v, want %d in all, and some of them limited", n, sent)
		}
		if most := uint64(burst + rate*time.Since(began).Seconds()); n["accepted"] > most {
			t.Errorf("%d frames accepted, want at most %d", n["accepted"], most)
		}
		t.Logf("frames of the port: %v", n)
		return nil
	})
	for _, v := range vms {
		agree(t, ctx, lab, "h2", false, v)
	}
	after, err := list[ctlPeer](ctx, lab, "h1", "show", "summary")
	same := func(a, b ctlPeer) bool { return a.Address == b.Address && a.State == b.State && a.Since == b.Since }
	if err != nil || !slices.EqualFunc(after, sessions, same) {
		t.Errorf("sessions were %+v and are %+v, %v", sessions, after, err)
	}
}
