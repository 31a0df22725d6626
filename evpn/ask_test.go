package evpn

import "testing"

// TestSilentHostIsForgotten: where a host was is forgotten once it does not answer and no remote VTEP has its MAC, also when a
// static row that did not count stood there while it was asked (invariant: what is withdrawn is forgotten).
func TestSilentHostIsForgotten(t *testing.T) {
	s := newStory(t, "silent host")
	s.play("+ vni 100\n+ peer 10.0.0.254\nsynced\n" +
		"+ local mac 02:00:00:00:00:01 port tap1 ; + ip 172.16.0.1 mac 02:00:00:00:00:01 port tap1\n" +
		"- local mac 02:00:00:00:00:01\n" +
		"+ route type2 mac 02:00:00:00:00:01 vtep 10.255.0.2 sticky ; + local mac 02:00:00:00:00:01 port tap1 static\n" +
		"wait 10s\n" +
		"- local mac 02:00:00:00:00:01 ; - route type2 mac 02:00:00:00:00:01 vtep 10.255.0.2\n" +
		"wait 10s")
	if n := s.core.remembered()["macs 100"]; n != 0 {
		t.Errorf("%d MACs remembered, want none", n)
	}
}
