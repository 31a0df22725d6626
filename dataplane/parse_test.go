package dataplane

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/evpnd/evpnd/evpn"
)

// TestParseReadsWhatTheBuildersWrite: our own messages come back as rows and nexthops.
func TestParseReadsWhatTheBuildersWrite(t *testing.T) {
	b := putNDM(nil, unix.AF_BRIDGE, 7, remoteState, bothHalves|ourMark)
	b = putMAC(b, macA)
	b = putAddr(b, unix.NDA_DST, host6)
	b = putAttr32(b, ndaNHID, 99)
	b = putAttr32(b, unix.NDA_MASTER, 5)
	b = putAttr(b, ndaProtocol, []byte{protocolBGP})
	want := row{
		family: unix.AF_BRIDGE, ifindex: 7, state: remoteState, flags: bothHalves | ourMark,
		mac: macA, dst: host6, nhid: 99, master: 5, proto: protocolBGP,
	}
	if got, err := parseRow(b); err != nil || got != want {
		t.Errorf("row %+v %v, want %+v", got, err, want)
	}
	if got, err := parseNexthop(putNexthop(nil, 8, vtep2)); err != nil || got.id != 8 || got.gateway != vtep2 || !got.fdb || got.proto != protocolBGP {
		t.Errorf("nexthop %+v %v", got, err)
	}
	if got, err := parseNexthop(putGroup(nil, 9, 8)); err != nil || got.id != 9 || !slices.Equal(got.members, []uint32{8}) || !got.fdb {
		t.Errorf("group %+v %v", got, err)
	}
}

func TestShortMessagesAreErrors(t *testing.T) {
	for n := range 8 {
		b := make([]byte, n)
		_, rowErr := parseRow(b)
		_, nexthopErr := parseNexthop(b)
		_, linkErr := parseLink(b)
		if rowErr == nil || nexthopErr == nil || linkErr == nil {
			t.Errorf("%d octets: %v %v %v", n, rowErr, nexthopErr, linkErr)
		}
	}
}

// TestPartialLinkMessagesKeepWhatIsKnown: messages of family AF_BRIDGE, and those without details of the kind, say less
// than earlier ones.
func TestPartialLinkMessagesKeepWhatIsKnown(t *testing.T) {
	vx := link{index: 3, name: "vx10", kind: "vxlan", up: true, master: 2, mtu: 1450}
	vx.vxlan = vxlanDevice{vni: 10, local: netip.MustParseAddr(vtepSelf), port: vxlanPort}
	br := link{index: 2, name: "br10", kind: "bridge", up: true, mtu: 1450}
	topo := newTopology(options(), newPending())
	topo.replace([]linkMessage{{link: br, hasKind: true}, {link: vx, hasKind: true, hasPort: true}})

	bare := vx
	bare.kind, bare.vxlan, bare.mtu = "", vxlanDevice{}, 1400
	topo.update(linkMessage{link: bare})
	topo.update(linkMessage{family: unix.AF_BRIDGE, link: link{index: 3, port: bridgePort{learning: true}}, hasPort: true})
	topo.update(linkMessage{family: unix.AF_BRIDGE, link: link{index: 3}})
	topo.remove(linkMessage{family: unix.AF_BRIDGE, link: link{index: 3}})
	topo.settle()
	at := topo.vni(10)
	if at == nil || at.Local != vx.vxlan.local || len(at.Faults) < 2 { // port learning, and the bridge's larger MTU
		t.Fatalf("attachment %+v", at)
	}
	topo.remove(linkMessage{link: link{index: 3}})
	topo.settle()
	if topo.vni(10) != nil || topo.portName(3) != "vx10" {
		t.Errorf("after removal: %+v, name %q", topo.vni(10), topo.portName(3))
	}
}

// FuzzParse: no payload of a notification makes the watcher panic, and none of it makes attributes run past their end.
func FuzzParse(f *testing.F) {
	rowSeed := putAddr(putMAC(putNDM(nil, unix.AF_BRIDGE, 3, 2, unix.NTF_SELF), macA), unix.NDA_DST, vtep2)
	f.Add(uint16(unix.RTM_NEWNEIGH), rowSeed)
	f.Add(uint16(unix.RTM_DELNEIGH), putAddr(putNDM(nil, unix.AF_INET, 2, 2, 0), unix.NDA_DST, hostA))
	f.Add(uint16(unix.RTM_NEWNEXTHOP), putNexthop(nil, firstID, vtep2))
	f.Add(uint16(unix.RTM_DELNEXTHOP), putGroup(nil, firstID+1, firstID))
	l := append(make([]byte, 4), binary.NativeEndian.AppendUint32(nil, 3)...)
	l = append(l, make([]byte, 8)...)
	info := putAttr(putAttr(nil, unix.IFLA_INFO_KIND, []byte("vxlan\x00")), unix.IFLA_INFO_DATA, putAttr32(nil, unix.IFLA_VXLAN_ID, 10))
	f.Add(uint16(unix.RTM_NEWLINK), putAttr(putAttr32(l, unix.IFLA_MASTER, 2), unix.IFLA_LINKINFO, info))

	f.Fuzz(func(t *testing.T, typ uint16, b []byte) {
		p := newPending()
		topo := newTopology(options(), p)
		topo.replace([]linkMessage{
			{link: link{index: 2, name: "br10", kind: "bridge", up: true}, hasKind: true},
			{link: link{index: 3, name: "vx10", kind: "vxlan", up: true, master: 2, vxlan: vxlanDevice{vni: 10}}, hasKind: true},
		})
		w := &watcher{
			topo: topo, vteps: newVTEPs(false), floods: newFloods(), expected: newRowSet(), standIns: newRowSet(), pending: p, counts: &counters{},
		}
		w.vteps.reserve(vtep2)
		w.handle(message{typ: typ, data: b})
		w.topo.settle()
		for _, ev := range p.take().hosts {
			if m, ok := ev.(evpn.LocalMAC); ok && (m.MAC.IsGroup() || m.MAC.IsZero() || m.VNI.Check() != nil) {
				t.Errorf("no host: %+v", m)
			}
		}
	})
}
