package evpn

import "testing"

// TestRivalsEndWithTheirVNI: a VNI that goes takes with it what was to be asked of its hosts.
func TestRivalsEndWithTheirVNI(t *testing.T) {
	s := newStory(t, "rivals")
	s.play("+ vni 100\n+ peer 10.0.0.254\nsynced\n" +
		"+ local mac 02:00:00:00:00:01 port tap1 ; + ip 172.16.0.1 mac 02:00:00:00:00:01 port tap1\n" +
		"+ route type2 mac 02:00:00:00:00:02 ip 172.16.0.1 vtep 10.255.0.2\n" +
		"- vni 100\n" +
		"wait 10m")
	left := s.core.remembered()
	if left["rivals"]+left["contested"]+left["asking"] != 0 {
		t.Errorf("remembered: %v", left)
	}
}

// TestBlockedEntryEndsWithItsVNI: a flood entry that someone else's stands in the way of is forgotten with its VNI switched off.
func TestBlockedEntryEndsWithItsVNI(t *testing.T) {
	s := newStory(t, "blocked")
	s.play("foreign flood 10.255.0.2\n+ vni 100\n+ peer 10.0.0.254\nsynced\n+ route type3 vtep 10.255.0.2\nconfig vni 100 off")
	if n := s.core.remembered()["flood 100"]; n != 0 {
		t.Errorf("%d flood entries remembered, want none", n)
	}
}
