package dataplane

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/evpnd/evpnd/evpn"
)

// dad is nd as a host sends it that has no address yet.
func dad(src evpn.MAC, target netip.Addr) []byte {
	b := nd(135, 0, src, target, evpn.MAC{})
	clear(b[22:38])
	b[56], b[57] = 0, 0
	binary.BigEndian.PutUint16(b[56:], icmpChecksum(b[54:], netip.IPv6Unspecified(), netip.AddrFrom16([16]byte(b[38:54]))))
	return b
}

// toOne sends the frame to a single host.
func toOne(b []byte) []byte {
	copy(b, macB[:])
	return b
}

func TestQuestion(t *testing.T) {
	for _, row := range []struct {
		name   string
		frame  []byte
		want   question
		target netip.Addr
	}{
		{"request", arp(1, macA, macA, hostA, evpn.MAC{}, hostB), request, hostB},
		{"probe", arp(1, macA, macA, zeroHost, evpn.MAC{}, hostB), dadProbe, hostB},
		{"gratuitous request", gratuitous(macA, hostA), announcement, hostA},
		{"gratuitous reply", arp(2, macA, macA, hostA, macA, hostA), announcement, hostA},
		{"reply to all", arp(2, macA, macA, hostA, macB, hostB), noQuestion, netip.Addr{}},
		{"request to one", toOne(arp(1, macA, macA, hostA, evpn.MAC{}, hostB)), noQuestion, netip.Addr{}},
		{"rarp", edit(edit(arp(3, macA, macA, zeroHost, macA, zeroHost), 12, 0x80), 13, 0x35), noQuestion, netip.Addr{}},
		{"ns", nd(135, 0, macA, host6, macA), request, host6},
		{"ns to one", toOne(nd(135, 0, macA, host6, macA)), noQuestion, netip.Addr{}},
		{"dad", dad(macA, host6), dadProbe, host6},
		{"unsolicited na", nd(136, flagOverride, macA, host6, macA), announcement, host6},
		{"unsolicited na, link-local", nd(136, flagOverride, macA, linkLocal, macA), announcement, linkLocal},
		{"solicited na", nd(136, flagOverride|0x40, macA, host6, macA), noQuestion, netip.Addr{}},
	} {
		t.Run(row.name, func(t *testing.T) {
			p := newFrameParser()
			if _, v := p.parse(row.frame); v != verdictAccepted {
				t.Fatal(v)
			}
			if q, target := p.question(); q != row.want || q != noQuestion && target != row.target {
				t.Errorf("%d, %s; want %d, %s", q, target, row.want, row.target)
			}
		})
	}
}

// suppressLab is a bridge without address that suppresses, behind it macB with hostB, and host6, which is a router.
func suppressLab(t *testing.T) (*lab, *core) {
	t.Helper()
	yes := true
	clean(t)
	addVNI(t, 10)
	opt := options()
	opt.Snoop, opt.Manage, opt.Suppress = true, true, &yes
	l := newPlane(t, opt)
	c := l.start()
	l.snooped(1)
	c.wait(t, "suppression", func() bool { return c.attached[10].Suppress })
	router := addNeighbor(host6, macB)
	router.Entry.Router = true
	l.must(addVTEP(vtep2), addFDB(macB, vtep2), addNeighbor(hostB, macB), router)
	return l, c
}

// asked waits for what VNI 10 has counted.
func (l *lab) asked(want QuestionCount) {
	l.t.Helper()
	want.VNI = 10
	var got []QuestionCount
	eventually(l.t, fmt.Sprintf("%+v", want), func() bool {
		got = l.Status().Questions
		return len(got) == 1 && got[0] == want
	})
}

// sent waits for a frame that goes out of the device.
func (w wire) sent(what string, wanted []byte) {
	w.t.Helper()
	buf := make([]byte, 2048)
	for {
		n, from, err := unix.Recvfrom(w.fd, buf, 0)
		if err != nil {
			w.t.Fatalf("%s: %v", what, err)
		}
		if from.(*unix.SockaddrLinklayer).Pkttype == unix.PACKET_OUTGOING && string(buf[:n]) == string(wanted) {
			return
		}
	}
}

// TestSuppressionAnswers: requests by the kernel, probes by us, each with the flags of the host that has the address.
func TestSuppressionAnswers(t *testing.T) {
	l, _ := suppressLab(t)
	w := newWire(t, "h10")
	reply := func(target evpn.MAC, ip netip.Addr) func([]byte) bool {
		want := toOne(arp(2, macB, macB, hostB, target, ip))
		copy(want, target[:])
		return func(b []byte) bool { return strings.HasPrefix(string(b), string(want)) }
	}
	na := func(flags byte) func([]byte) bool {
		return func(b []byte) bool {
			return len(b) == 86 && b[54] == 136 && b[58] == flags && netip.AddrFrom16([16]byte(b[62:78])) == host6 &&
				evpn.MAC(b[80:86]) == macB && evpn.MAC(b[6:12]) == macB
		}
	}
	const solicited = 0x40
	for _, row := range []struct {
		name   string
		frame  []byte
		answer func([]byte) bool
	}{
		{"request", arp(1, macA, macA, hostA, evpn.MAC{}, hostB), reply(macA, hostA)},
		{"probe", arp(1, macA, macA, zeroHost, evpn.MAC{}, hostB), reply(macA, zeroHost)},
		{"solicitation", nd(135, 0, macA, host6, macA), na(flagRouter | flagOverride | solicited)},
		{"duplicate address detection", dad(macA, host6), na(flagRouter | flagOverride)},
	} {
		w.send(row.frame)
		w.receive(row.name, row.answer)
	}
	l.asked(QuestionCount{Answered: 4})
}

// TestSuppressionFloods: what the kernel keeps to itself and nobody can answer goes into the tunnel.
func TestSuppressionFloods(t *testing.T) {
	l, c := suppressLab(t)
	w, vx := newWire(t, "h10"), newWire(t, "vx10")
	for i, frame := range [][]byte{
		arp(1, macA, macA, zeroHost, evpn.MAC{}, netip.MustParseAddr("10.1.1.77")),
		dad(macA, linkLocal),
		arp(1, macB, macB, zeroHost, evpn.MAC{}, hostB), // the host itself, before the bridge notices
	} {
		w.send(frame)
		vx.sent("probe", frame)
		l.asked(QuestionCount{Unknown: uint64(i + 1)})
	}
	for _, frame := range [][]byte{gratuitous(macA, hostA), nd(136, flagOverride, macA, linkLocal, macA)} {
		w.send(frame)
		vx.sent("announcement", frame)
	}
	l.must(del(addNeighbor(hostB, macB)))
	probe := arp(1, macC, macC, zeroHost, evpn.MAC{}, hostB)
	w.send(probe)
	vx.sent("probe for an address that is free again", probe)
	l.asked(QuestionCount{Unknown: 4})

	no := false
	opt := options()
	opt.Snoop, opt.Manage, opt.Suppress = true, true, &no
	l.Reconfigure(opt)
	c.wait(t, "suppression to end", func() bool { return !c.attached[10].Suppress })
	w.send(probe)
	vx.sent("probe on a bridge that floods", probe)
	l.asked(QuestionCount{Unknown: 4, Flooded: 1})

	opt.Suppress = nil
	opt.Manage = false
	l.Reconfigure(opt)
	run(t, "bridge link set dev vx10 neigh_suppress on") // by hand: what was written before is known
	c.wait(t, "suppression", func() bool { return c.attached[10].Suppress })
	eventually(t, "the answers", func() bool { _, known, _ := l.topo.answers.lookup(10, host6); return known })
	w.send(dad(macA, host6))
	w.receive("an answer", func(b []byte) bool { return len(b) == 86 && b[54] == 136 })
}

// TestAnswersOfOthers: the kernel answers from neighbours whoever put them there.
func TestAnswersOfOthers(t *testing.T) {
	l, c := suppressLab(t)
	run(t, "ip neigh add 10.1.1.9 lladdr "+macB.String()+" dev br10 nud permanent")
	var before int
	c.look(func() { before = c.observed[10] })
	l.pending.reread(10)
	c.wait(t, "a look", func() bool { return c.observed[10] > before })
	if _, known, _ := l.topo.answers.lookup(10, netip.MustParseAddr("10.1.1.9")); !known {
		t.Error("a neighbour that is not ours is not known")
	}
}

// TestSuppressFlagIsOurs: what we set we take back; what was set by hand is only told of.
func TestSuppressFlagIsOurs(t *testing.T) {
	yes, no := true, false
	flag := func() bool { return strings.Contains(run(t, "bridge -d link show dev vx10"), "neigh_suppress on") }
	fault := func(c *core) string {
		for _, f := range c.attached[10].Faults {
			if strings.Contains(f, "neigh_suppress") {
				return f
			}
		}
		return ""
	}
	for _, row := range []struct {
		name       string
		byHand     bool
		was, is    *bool
		manage     bool
		on         bool // afterwards
		toldBefore bool
		toldAfter  bool
	}{
		{name: "switched off", was: &yes, is: &no, manage: true},
		{name: "said no more", was: &yes, is: nil, manage: true},
		{name: "switched on", was: &no, is: &yes, manage: true, on: true},
		{name: "by hand, nothing said", byHand: true, manage: true, on: true},
		{name: "by hand, unwanted", byHand: true, is: &no, manage: true, on: true, toldAfter: true},
		{name: "not ours to change, wanted", was: &yes, is: &no, toldBefore: true},
		{name: "not ours to change, unwanted", byHand: true, was: &yes, is: &no, on: true, toldAfter: true},
	} {
		t.Run(row.name, func(t *testing.T) {
			clean(t)
			addVNI(t, 10)
			if row.byHand {
				run(t, "bridge link set dev vx10 neigh_suppress on")
			}
			opt := options()
			opt.Manage, opt.Suppress = row.manage, row.was
			l := newPlane(t, opt)
			c := l.start()
			c.look(func() {
				if told := fault(c); (told != "") != row.toldBefore {
					t.Errorf("told %q", told)
				}
			})
			opt.Suppress = row.is
			l.Reconfigure(opt)
			c.wait(t, "what is told", func() bool { return c.attached[10].Suppress == row.on && (fault(c) != "") == row.toldAfter })
			if flag() != row.on {
				t.Errorf("flag is on: %t", !row.on)
			}
			var told string
			c.look(func() { told = fault(c) })
			if _, command, found := strings.Cut(told, ": "); found {
				run(t, command)
				c.wait(t, "the fault to go with "+command, func() bool { return fault(c) == "" && c.attached[10].Usable })
			}
		})
	}
}

// TestSuppressFlagByHandAfterOurs: what was taken back once is not ours for ever.
func TestSuppressFlagByHandAfterOurs(t *testing.T) {
	l, c := suppressLab(t)
	opt := options()
	opt.Manage = true
	l.Reconfigure(opt)
	c.wait(t, "suppression to end", func() bool { return !c.attached[10].Suppress })
	run(t, "bridge link set dev vx10 neigh_suppress on")
	c.wait(t, "suppression", func() bool { return c.attached[10].Suppress })
	run(t, "ip link set vx10 down") // it is looked at again
	c.wait(t, "the device to be down", func() bool { return !c.attached[10].Usable })
	if !strings.Contains(run(t, "bridge -d link show dev vx10"), "neigh_suppress on") {
		t.Error("the flag is off")
	}
}

func TestQuestionAllocatesNothing(t *testing.T) {
	p, a := newFrameParser(), newAnswers()
	a.serve(10, &attached{Attachment: evpn.Attachment{VNI: 10, Suppress: true}})
	frame := nd(135, 0, macA, host6, macA)
	n := testing.AllocsPerRun(1000, func() {
		p.parse(frame)
		_, target := p.question()
		a.lookup(10, target)
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestSuppressionHeedsPorts: what the bridge would not let through is not passed on past it: frames from a locked port, and
// from an isolated one where the VXLAN port is isolated too.
func TestSuppressionHeedsPorts(t *testing.T) {
	l, _ := suppressLab(t)
	w, vx := newWire(t, "h10"), newWire(t, "vx10")
	frame := gratuitous(macA, hostA)
	for _, row := range []struct {
		set    string
		passes bool
	}{
		{"bridge link set dev p10 locked on learning off", false},
		{"bridge link set dev p10 locked off learning on", true},
		{"bridge link set dev p10 isolated on", true},
		{"bridge link set dev vx10 isolated on", false},
		{"bridge link set dev p10 isolated off", true},
	} {
		run(t, row.set)
		eventually(t, row.set, func() bool { return l.topo.relays(l.linkIndex("p10"), l.topo.vni(10)) == row.passes })
		heard := l.packets(protoARP, verdictAccepted)
		w.send(frame)
		l.counted(protoARP, verdictAccepted, heard+1)
		if n := vx.waiting(frame); (n > 0) != row.passes {
			t.Errorf("%s: %d frames passed on, want some: %v", row.set, n, row.passes)
		}
	}
}

// waiting counts the frames that went out of the device and were not read yet.
func (w wire) waiting(frame []byte) (n int) {
	buf := make([]byte, 2048)
	for {
		size, from, err := unix.Recvfrom(w.fd, buf, unix.MSG_DONTWAIT)
		if err != nil {
			return n
		}
		if from.(*unix.SockaddrLinklayer).Pkttype == unix.PACKET_OUTGOING && string(buf[:size]) == string(frame) {
			n++
		}
	}
}

func (l *lab) linkIndex(name string) int { return l.topo.portIndex(l.topo.vni(10).bridge, name) }
