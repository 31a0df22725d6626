package dataplane

import (
	"net/netip"
	"strings"
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
			ok = c.ips[10][hostA].MAC == macA && c.ips[10][hostA].Port == "p77"
		})
		return ok
	})
}

func (l *lab) linkAt(ifindex int) *link {
	l.topo.mu.RLock()
	defer l.topo.mu.RUnlock()
	return l.topo.links[ifindex]
}

// TestSnoopOwnAddress: a host that claims an address of its bridge is not believed, as long as the bridge has it.
func TestSnoopOwnAddress(t *testing.T) {
	l, c := newSnoopLab(t)
	w := newWire(t, "h10")
	for _, row := range []struct {
		ip    netip.Addr
		has   string
		frame []byte
	}{
		{hostA, "10.1.1.1/24", gratuitous(macA, hostA)},
		{host6, "2001:db8::1/64 nodad", nd(136, flagOverride, macA, host6, macA)},
	} {
		run(t, "ip addr add "+row.has+" dev br10")
		eventually(t, "the address", func() bool { return l.snooper.own.has(l.topo.vni(10).bridge, row.ip) })
		spoofed := l.packets(protoARP, verdictSpoofed) + l.packets(protoND, verdictSpoofed)
		w.send(row.frame)
		eventually(t, "the claim to be refused", func() bool {
			return l.packets(protoARP, verdictSpoofed)+l.packets(protoND, verdictSpoofed) == spoofed+1
		})
		run(t, "ip addr del "+strings.Fields(row.has)[0]+" dev br10")
		eventually(t, "the address to go", func() bool { return !l.snooper.own.has(l.topo.vni(10).bridge, row.ip) })
		w.send(row.frame)
		c.binding(t, row.ip, evpn.LocalIP{MAC: macA, Port: "p10"})
	}
}
