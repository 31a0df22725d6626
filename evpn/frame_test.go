package evpn

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

// frameCore is a core that serves VNI 100 and has macs MACs on port tap1.
func frameCore(macs int) *Core {
	c := New(worldConfig())
	c.Handle(attachment(100), epoch)
	for i := range macs {
		c.Handle(LocalMAC{VNI: 100, MAC: frameMAC(i), Port: "tap1"}, epoch)
	}
	c.Flush(epoch)
	return c
}

func frameMAC(i int) MAC { return MAC{2, 1, 0, byte(i >> 16), byte(i >> 8), byte(i)} }

func frameIP(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
}

// TestFrameLimits: a host that makes addresses up fills its own share and nothing else, is told of once, and what it no
// longer answers for makes room again.
func TestFrameLimits(t *testing.T) {
	c := frameCore(2)
	now := epoch
	for i := range 1000 {
		c.Handle(LocalIP{VNI: 100, IP: frameIP(i), MAC: frameMAC(0), Source: WitnessFrame, Port: "tap1"}, now)
	}
	c.Handle(LocalIP{VNI: 100, IP: frameIP(2000), MAC: frameMAC(1), Source: WitnessFrame, Port: "tap1"}, now)
	out := c.Flush(now)
	if n := len(out.Routes); n != maxFramedPerMAC+1 {
		t.Errorf("%d routes, want %d", n, maxFramedPerMAC+1)
	}
	if len(out.Notes) != 1 || out.Notes[0].Kind != NoteLimit || out.Notes[0].MAC != frameMAC(0) {
		t.Errorf("notes %+v, want one about the limit", out.Notes)
	}
	for range 4 {
		now = now.Add(probeAfter)
		c.Handle(LocalIP{VNI: 100, IP: frameIP(2000), MAC: frameMAC(1), Source: WitnessFrame, Port: "tap1"}, now)
		c.Flush(now)
	}
	v := c.vrfs[100]
	if v.framed != 1 || v.ips.len() != 1 || len(c.ageing) != 1 {
		t.Errorf("%d bindings, %d addresses and %d in the queue of probes left, want 1 each", v.framed, v.ips.len(), len(c.ageing))
	}
	c.Handle(LocalIP{VNI: 100, IP: frameIP(999), MAC: frameMAC(0), Source: WitnessFrame, Port: "tap1"}, now)
	if n := len(c.Flush(now).Routes); n != 1 {
		t.Errorf("%d routes for an address after the others are gone, want 1", n)
	}
}

// TestFrameLimitOfVNI: many hosts together are bounded too.
func TestFrameLimitOfVNI(t *testing.T) {
	const macs = maxFramedPerVNI/maxFramedPerMAC + 1
	c := frameCore(macs)
	for i := range macs * maxFramedPerMAC {
		c.Handle(LocalIP{VNI: 100, IP: frameIP(i), MAC: frameMAC(i / maxFramedPerMAC), Source: WitnessFrame, Port: "tap1"}, epoch)
	}
	if n := c.vrfs[100].framed; n != maxFramedPerVNI {
		t.Errorf("%d bindings, want %d", n, maxFramedPerVNI)
	}
	// An address that is known may still move to another host, when the one that has it does not answer.
	c.Handle(LocalIP{VNI: 100, IP: frameIP(0), MAC: frameMAC(macs - 1), Source: WitnessFrame, Port: "tap1"}, epoch)
	for i := range askTries {
		c.Flush(epoch.Add(time.Duration(i+1) * askEvery))
	}
	if mac := c.vrfs[100].ips.get(frameIP(0)).local().mac; mac != frameMAC(macs-1) {
		t.Errorf("%s is bound to %s, want %s", frameIP(0), mac, frameMAC(macs-1))
	}
}

// TestFrameUnconfirmed: MACs that the bridge never has leave nothing behind, however many.
func TestFrameUnconfirmed(t *testing.T) {
	c := frameCore(0)
	for i := range 2 * maxAwaiting {
		port := fmt.Sprintf("tap%d", i/(maxPortAwaiting/2))
		c.Handle(LocalIP{VNI: 100, IP: frameIP(i), MAC: frameMAC(i), Source: WitnessFrame, Port: port}, epoch)
	}
	out := c.Flush(epoch)
	if len(out.Routes) != 0 || len(c.vrfs[100].macs) != maxAwaiting || len(out.Notes) != 8 {
		t.Errorf("%d routes, %d MACs, notes %+v; want none, %d and one for each port", len(out.Routes), len(c.vrfs[100].macs), out.Notes, maxAwaiting)
	}
	if want := epoch.Add(confirmWithin); !out.Wake.Equal(want) {
		t.Errorf("wakes at %s, want %s", out.Wake, want)
	}
	c.Flush(epoch.Add(confirmWithin))
	if n := len(c.vrfs[100].macs) + c.vrfs[100].ips.len() + len(c.awaiting) + len(c.unconfirmed); n != 0 {
		t.Errorf("%d things left", n)
	}
}

// TestFrameUnconfirmedPort: a host that makes MACs up on a port from which the bridge learns nothing does not keep the words of
// others from being heard, and what the bridge confirms makes room again.
func TestFrameUnconfirmedPort(t *testing.T) {
	c := frameCore(0)
	for i := range 2 * maxAwaiting {
		c.Handle(LocalIP{VNI: 100, IP: frameIP(i), MAC: frameMAC(i), Source: WitnessFrame, Port: "locked"}, epoch)
	}
	for i := range 2 * maxPortAwaiting {
		mac := frameMAC(1<<16 + i)
		c.Handle(LocalIP{VNI: 100, IP: frameIP(1<<16 + i), MAC: mac, Source: WitnessFrame, Port: "tap1"}, epoch)
		c.Handle(LocalMAC{VNI: 100, MAC: mac, Port: "tap1"}, epoch)
	}
	if n := c.vrfs[100].ips.len(); n != 2*maxPortAwaiting {
		t.Errorf("%d addresses of honest hosts, want %d", n, 2*maxPortAwaiting)
	}
}

// BenchmarkFrame is the usual case: a frame that says what is known.
func BenchmarkFrame(b *testing.B) {
	c := frameCore(1000)
	var ev Event
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		ev = LocalIP{VNI: 100, IP: frameIP(i % 1000), MAC: frameMAC(i % 1000), Source: WitnessFrame, Port: "tap1"}
		c.Handle(ev, epoch.Add(time.Duration(i)))
	}
}
