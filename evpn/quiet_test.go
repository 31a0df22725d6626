package evpn

import (
	"net/netip"
	"testing"
	"time"
)

// TestReadBackGetsItsTurn: under routes that never stop, a read-back waits no longer than readBackWait for a quiet moment
// (FW-06).
func TestReadBackGetsItsTurn(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	start := now
	c := New(Config{ASN: 65000, RouterID: netip.MustParseAddr("10.255.0.1"), VTEP: netip.MustParseAddr("10.255.0.1")})
	peer := netip.MustParseAddr("10.0.0.254")
	at := Attachment{VNI: 100, Local: netip.MustParseAddr("10.255.0.1"), Usable: true}
	for _, ev := range []Event{AttachmentUp{at}, Synced{}, PeerUp{Peer: peer}} {
		c.Handle(ev, now)
	}
	attrs := &Attrs{NextHop: netip.MustParseAddr("10.255.0.2"), LocalPref: 100}
	attrs.SetExtComms(string(AppendEncapVXLAN(AppendRT(nil, NewRT(65000, 100)))))
	var last uint64 // batch that is written and not acknowledged
	for n := byte(0); now.Sub(start) < 2*readBackWait; n++ {
		route := Route{Key: RouteKey{Type: TypeMACIP, RD: RD{7: 1}, MAC: MAC{2, 0, 0, 0, n >> 4, n}}, Label1: 100}
		c.Handle(&Update{Peer: peer, Attrs: attrs, Reach: []Route{route}}, now)
		out := c.Flush(now)
		if len(out.ReadBack) > 0 {
			return
		}
		// A new batch is out before the last one is acknowledged, so that there is never a quiet moment.
		if last != 0 {
			c.Handle(Applied{Batch: last}, now)
			last = 0
		}
		if len(out.Kernel.Ops) > 0 {
			last = out.Kernel.Seq
		}
		now = now.Add(100 * time.Millisecond)
	}
	t.Fatalf("no read-back within %s", 2*readBackWait)
}

// TestFirstReportIsNotReadAgain: what the first report says of a VNI is not asked for once more, since reading many entries is
// what a restart takes longest for; a VNI that comes later is read.
func TestFirstReportIsNotReadAgain(t *testing.T) {
	c := New(worldConfig())
	for _, ev := range []Event{attachment(100), Observed{VNI: 100}, Synced{}} {
		c.Handle(ev, epoch)
	}
	if again := c.Flush(epoch).ReadBack; len(again) > 0 {
		t.Errorf("VNIs %v are read again after the first report", again)
	}
	c.Handle(attachment(200), epoch)
	if later := c.Flush(epoch).ReadBack; len(later) != 1 || later[0] != 200 {
		t.Errorf("VNIs %v are read when 200 appears", later)
	}
}
