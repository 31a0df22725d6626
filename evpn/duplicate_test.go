package evpn

import (
	"net/netip"
	"testing"
	"time"
)

// TestFlapsAreBounded: a MAC and IPs that move for ever are remembered by so many times as make a duplicate, and by
// nothing once they are quiet; those that never moved are not remembered at all.
func TestFlapsAreBounded(t *testing.T) {
	c := New(Config{
		ASN: 65000, VTEP: worldVTEPs[1], RouterID: worldVTEPs[1], Duplicates: DuplicatePolicy{Moves: 7, Action: DuplicateAlarm, RecoverAfter: time.Hour},
	})
	now := epoch
	c.Handle(attachment(100), now)
	c.Handle(PeerUp{Peer: worldPeers[0]}, now)
	c.Handle(LocalMAC{VNI: 100, MAC: worldMACs[1], Port: "tap1"}, now)
	ip, other := worldIPs[0], worldMACs[1]
	most := 0
	for i := range 2000 {
		a := &Attrs{NextHop: worldVTEPs[2], LocalPref: 100}
		a.SetExtComms(string(AppendMobility(AppendRT(nil, NewRT(65000, 100)), uint32(2*i+1), false)))
		r := Route{Key: RouteKey{Type: TypeMACIP, RD: NewRD(worldVTEPs[2], 100), MAC: worldMACs[0]}, Label1: 100}
		c.Handle(&Update{Peer: worldPeers[0], Attrs: a, Reach: []Route{r}}, now)
		c.Flush(now)
		c.Handle(LocalMAC{VNI: 100, MAC: worldMACs[0], Gone: true}, now)
		c.Handle(LocalMAC{VNI: 100, MAC: worldMACs[0], Port: "tap1"}, now)
		c.Handle(LocalIP{VNI: 100, IP: ip, MAC: worldMACs[0]}, now)
		c.Handle(LocalIP{VNI: 100, IP: ip, MAC: other}, now)
		for range 20 { // faster than they are decided
			c.Handle(LocalIP{VNI: 100, IP: worldIPs[1], MAC: worldMACs[0]}, now)
			c.Handle(LocalIP{VNI: 100, IP: worldIPs[1], MAC: other}, now)
		}
		for h := range c.flapping {
			most = max(most, cap((*h.flapping()).times))
		}
		c.Flush(now)
		now = now.Add(time.Duration(i%40) * time.Second)
	}
	if len(c.flapping) != 3 || c.vrfs[100].macs[other].flaps() != nil {
		t.Errorf("%d are remembered to have moved, want the MAC and the two IPs", len(c.flapping))
	}
	if most > 16 {
		t.Errorf("as many as %d times are kept, want about 7", most)
	}
	for range 10 { // it wakes up by itself
		wake := c.Flush(now).Wake
		if wake.IsZero() || !wake.After(now) {
			break
		}
		now = wake
	}
	if len(c.flapping) > 0 {
		t.Errorf("%d are still remembered", len(c.flapping))
	}
}

// TestDuplicateOfGoneVNI: what was held goes with its VNI, and a new one starts afresh.
func TestDuplicateOfGoneVNI(t *testing.T) {
	c := New(Config{ASN: 65000, VTEP: worldVTEPs[1], RouterID: worldVTEPs[1], Duplicates: DuplicatePolicy{Moves: 2}})
	for range 2 {
		c.Handle(attachment(100), epoch)
		for _, mac := range worldMACs[:3] {
			c.Handle(LocalMAC{VNI: 100, MAC: mac, Port: "tap1"}, epoch)
			c.Handle(LocalIP{VNI: 100, IP: worldIPs[0], MAC: mac}, epoch)
		}
		c.Flush(epoch)
		if v := c.Neighbors(100, false); len(v) != 1 || v[0].Duplicate == nil || v[0].Duplicate.Until != epoch.Add(DefaultDuplicateRecover) || v[0].MAC != worldMACs[2] {
			t.Fatalf("neighbors %+v, want one that is a duplicate", v)
		}
		c.Handle(AttachmentDown{VNI: 100}, epoch)
		c.Flush(epoch)
		if len(c.flapping) > 0 || c.ClearDuplicates(0, MAC{}, netip.Addr{}) != 0 {
			t.Errorf("%d are still remembered", len(c.flapping))
		}
	}
}
