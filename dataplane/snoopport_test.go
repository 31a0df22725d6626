package dataplane

import (
	"testing"

	"github.com/evpnd/evpnd/evpn"
)

// TestSnoopIndexUsedAgain: a port that goes and comes back under the same index, as one does that was moved to another network
// namespace and back, before anybody looks at the ports, is heard.
func TestSnoopIndexUsedAgain(t *testing.T) {
	l, c := newSnoopLab(t)
	const add = `ip link add p77 index 777 mtu 1450 type veth peer name h77
		ip link set p77 master br10 up
		ip link set h77 up`
	run(t, add)
	l.snooped(2)
	before := l.linkAt(777)
	l.snooper.mu.Lock()
	run(t, "ip link del p77\n"+add)
	eventually(t, "the new port to be known", func() bool {
		p := l.linkAt(777)
		return p != nil && p.mac != before.mac && p.up && p.master != 0
	})
	l.snooper.mu.Unlock()
	w := newWire(t, "h77")
	eventually(t, "the new port to be heard", func() (ok bool) {
		w.send(gratuitous(macA, hostA))
		c.look(func() {
			ok = c.ips[10][hostA] == evpn.LocalIP{VNI: 10, IP: hostA, MAC: macA, Source: evpn.WitnessFrame, Port: "p77"}
		})
		return ok
	})
}

func (l *lab) linkAt(ifindex int) *link {
	l.topo.mu.RLock()
	defer l.topo.mu.RUnlock()
	return l.topo.links[ifindex]
}
