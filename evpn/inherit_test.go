package evpn

import (
	"slices"
	"testing"
	"time"
)

// TestInheritedNumbers: what a predecessor announced a host with counts, whatever number was saved for the next start
// meanwhile; peers know that one. The saved one is for hosts that were not announced. Both are told on until they are
// used: a successor may itself be succeeded before it has seen the bridges.
func TestInheritedNumbers(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	announced, saved, gone := worldMACs[0], worldMACs[1], worldMACs[2]
	hosts := []NumberedHost{{VNI: 100, MAC: announced, Seq: 3}, {VNI: 100, MAC: gone, Seq: 0}}
	c := New(worldConfig())
	c.Handle(Remembered{
		Hosts:     hosts,
		Sequences: []Sequence{{VNI: 100, MAC: announced, Seq: 7}, {VNI: 100, MAC: saved, Seq: 7}},
	}, now)
	if got := c.Estate().Hosts; !slices.Equal(got, hosts) {
		t.Errorf("before anything is seen %v is left", got)
	}
	c.Handle(attachment(100), now)
	for _, mac := range []MAC{announced, saved} {
		c.Handle(LocalMAC{VNI: 100, MAC: mac, Port: "tap1"}, now)
	}
	c.Flush(now)
	want := []NumberedHost{hosts[0], {VNI: 100, MAC: saved, Seq: 7}, hosts[1]}
	if got := c.Estate().Hosts; !slices.Equal(got, want) {
		t.Errorf("hosts %v, want %v", got, want)
	}
	c.Handle(Synced{}, now)
	c.Flush(now)
	if got := c.Estate().Hosts; !slices.Equal(got, want[:2]) {
		t.Errorf("hosts %v, want %v", got, want[:2])
	}
}
