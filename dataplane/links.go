package dataplane

import (
	"cmp"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/evpnd/evpnd/evpn"
)

// attached is an attachment with what only the kernel's side needs to know. It is immutable: a change makes a new one.
type attached struct {
	evpn.Attachment
	device int // ifindex of the VXLAN device
	bridge int // ifindex of the bridge
	remote netip.Addr
	mend   mend
	// managed says that evpnd may change the devices, because it was told so or made them.
	managed bool
	faults  []evpn.Fault // Attachment.Faults says the same in words
}

// fault adds a fault.
func (a *attached) fault(faults ...evpn.Fault) {
	for _, f := range faults {
		a.faults = append(a.faults, f)
		a.Faults = append(a.Faults, f.String())
	}
}

// same reports whether the core would be told the same.
func (a *attached) same(b *attached) bool {
	x, y := a.Attachment, b.Attachment
	x.Faults, y.Faults = nil, nil
	return slices.Equal(a.Faults, b.Faults) && x.VNI == y.VNI && x.Device == y.Device && x.Bridge == y.Bridge &&
		x.BridgeMAC == y.BridgeMAC && x.Local == y.Local && x.Usable == y.Usable && x.Suppress == y.Suppress
}

// topology knows the links of the network namespace and the attachments they make. What a change of one link costs does not
// grow with their number: settle.go.
type topology struct {
	mu        sync.RWMutex
	opt       Options
	links     map[int]*link // each is immutable: a change makes a new one
	ports     map[int]map[int]bool
	vxlans    map[evpn.VNI][]int // VXLAN devices with one VNI each, in order of their making
	retired   map[int]string     // names of removed devices, whose FDB rows are still being reported
	byVNI     map[evpn.VNI]*attached
	byDevice  map[int]*attached
	byBridge  map[int][]*attached // in order of their VNIs
	wantIPv6  map[evpn.VNI]bool   // VNIs with IPv6 neighbours
	silenced  map[int]bool        // VXLAN devices whose neigh_suppress is on because of us
	changed   linkChanges
	claimed   bool        // the network namespace is ours; else nothing is served
	unclaimed error       // why it is not; nil: that is not known, or of no matter
	env       environment // as of the last settle
	carriers  carriers
	unmade    map[evpn.VNI]bool // VNIs whose devices are to be made
	access    map[int]bool      // ports whose frames are to be read, see wantsFrames
	turned    map[int]bool      // ports that came into access, left it, or changed, since turnedPorts
	pending   *pending
	answers   *answers

	portsChanged  func() // told when turnedPorts has something; must not wait
	unmadeChanged func() // told when incomplete may say something else; must not wait
	claimWanted   func() // told when there may be something to serve and no claim; must not wait
}

// retiredLimit bounds the names kept of removed devices.
const retiredLimit = 1024

func newTopology(opt Options, p *pending) *topology {
	return &topology{
		opt: opt, pending: p, answers: newAnswers(), claimed: !opt.Exclusive,
		portsChanged: func() {}, unmadeChanged: func() {}, claimWanted: func() {},
		links: map[int]*link{}, ports: map[int]map[int]bool{}, vxlans: map[evpn.VNI][]int{}, retired: map[int]string{},
		byVNI: map[evpn.VNI]*attached{}, byDevice: map[int]*attached{}, byBridge: map[int][]*attached{},
		wantIPv6: map[evpn.VNI]bool{}, silenced: map[int]bool{},
		changed: newLinkChanges(), carriers: newCarriers(),
		unmade: map[evpn.VNI]bool{}, access: map[int]bool{}, turned: map[int]bool{},
	}
}

// update takes in one RTM_NEWLINK. Messages that say less than we know leave the rest as it was.
func (t *topology) update(m linkMessage) {
	t.mu.Lock()
	defer t.mu.Unlock()
	old := t.links[m.index]
	if m.family == unix.AF_BRIDGE { // speaks of the port only
		if old != nil && m.hasPort && old.port != m.port {
			l := *old
			l.port = m.port
			t.put(m.index, &l)
		}
		return
	}
	if m.family == unix.AF_INET6 {
		if old != nil && old.kind == "bridge" && old.ipv6Off != ipv6Off(old.name) {
			l := *old
			l.ipv6Off = !old.ipv6Off
			t.put(m.index, &l)
		}
		return
	}
	l := m.link
	if old != nil && !m.hasKind {
		l.kind, l.vxlan = old.kind, old.vxlan
		l.vlanFiltering, l.stp, l.ageing = old.vlanFiltering, old.stp, old.ageing
	}
	if old != nil && !m.hasPort && l.master == old.master {
		l.port = old.port
	}
	if l.kind == "bridge" {
		l.ipv6Off = ipv6Off(l.name)
		if old != nil && (old.up != l.up || old.mac != l.mac) {
			t.wiped(l.index)
		}
	}
	if old != nil && old.name != l.name { // hosts are behind ports by name
		t.wiped(l.master)
	}
	if old == nil || *old != l {
		t.put(l.index, &l)
	}
}

// wiped asks for a fresh look at the VNIs of a bridge: when it went down or up or has another MAC the kernel throws away
// all neighbours on it, also permanent ones.
func (t *topology) wiped(bridge int) {
	for _, at := range t.byBridge[bridge] {
		t.pending.reread(at.VNI)
	}
}

// remove takes in one RTM_DELLINK. Family AF_BRIDGE says that a port left its bridge, which RTM_NEWLINK says as well, and
// AF_INET6 that IPv6 left a link.
func (t *topology) remove(m linkMessage) {
	if m.family != unix.AF_UNSPEC {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if l := t.links[m.index]; l != nil {
		if len(t.retired) >= retiredLimit {
			clear(t.retired)
		}
		t.retired[l.index] = l.name
		t.put(l.index, nil)
		delete(t.silenced, l.index)
	}
}

// put replaces what is known of a link, nil saying that it is gone, in all tables of links. t.mu is held.
func (t *topology) put(index int, l *link) {
	if old := t.links[index]; old != nil {
		t.changed.note(old)
		if delete(t.ports[old.master], index); len(t.ports[old.master]) == 0 {
			delete(t.ports, old.master)
		}
		if vni, ok := old.singleVNI(); ok {
			t.vxlans[vni] = slices.DeleteFunc(t.vxlans[vni], func(i int) bool { return i == index })
			if len(t.vxlans[vni]) == 0 {
				delete(t.vxlans, vni)
			}
		}
		if l == nil || l.name != old.name {
			t.changed.all = t.changed.all || t.carriesVXLAN(index) // faults have its name
		}
	}
	delete(t.links, index)
	if l == nil {
		return
	}
	t.changed.note(l)
	t.links[index] = l
	if l.master != 0 {
		if t.ports[l.master] == nil {
			t.ports[l.master] = map[int]bool{}
		}
		t.ports[l.master][index] = true
	}
	if vni, ok := l.singleVNI(); ok {
		at, _ := slices.BinarySearch(t.vxlans[vni], index)
		t.vxlans[vni] = slices.Insert(t.vxlans[vni], at, index)
	}
}

// carriesVXLAN reports whether a VXLAN device is bound to a link. t.mu is held.
func (t *topology) carriesVXLAN(index int) bool {
	for _, devices := range t.vxlans {
		if slices.ContainsFunc(devices, func(dev int) bool { return t.links[dev].vxlan.bound == index }) {
			return true
		}
	}
	return false
}

// singleVNI returns the VNI of a VXLAN device that has one.
func (l *link) singleVNI() (evpn.VNI, bool) {
	return l.vxlan.vni, l.kind == "vxlan" && !l.vxlan.manyVNIs && l.vxlan.vni.Check() == nil
}

// replace takes in a whole dump.
func (t *topology) replace(dump []linkMessage) {
	seen := make(map[int]bool, len(dump))
	for _, m := range dump {
		seen[m.index] = true
	}
	t.mu.RLock()
	known := slices.Collect(maps.Keys(t.links))
	t.mu.RUnlock()
	for _, index := range known {
		if !seen[index] {
			t.remove(linkMessage{link: link{index: index}})
		}
	}
	for _, m := range dump {
		t.update(m)
	}
	t.settle()
}

func (t *topology) configure(opt Options) {
	t.mu.Lock()
	t.opt, t.changed.all = opt, true
	t.mu.Unlock()
	t.settle()
}

// wantsIPv6 notes that the VNI has IPv6 neighbours, which makes IPv6 switched off on its bridge a fault.
func (t *topology) wantsIPv6(vni evpn.VNI) {
	t.mu.RLock()
	known := t.wantIPv6[vni]
	t.mu.RUnlock()
	if known {
		return
	}
	t.mu.Lock()
	t.wantIPv6[vni], t.changed.vnis[vni] = true, true
	t.mu.Unlock()
	t.settle()
}

// turnedPorts returns the ports that changed since it was called last: those whose frames are to be read, and those whose
// frames are not any more.
func (t *topology) turnedPorts() (wanted, gone []int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, index := range slices.Sorted(maps.Keys(t.turned)) {
		if t.access[index] {
			wanted = append(wanted, index)
		} else {
			gone = append(gone, index)
		}
	}
	clear(t.turned)
	return wanted, gone
}

// accessPorts returns the ports of bridges that are served, but for VXLAN devices, in order.
func (t *topology) accessPorts() []int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	ports := map[int]bool{}
	for _, at := range t.byVNI {
		for port := range t.ports[at.bridge] {
			if l := t.links[port]; l != nil && l.kind != "vxlan" {
				ports[port] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(ports))
}

// accessPort returns the name of a port, and the attachments that frames coming in there are for.
func (t *topology) accessPort(ifindex int) (string, []*attached) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	l := t.links[ifindex]
	if l == nil {
		return "", nil
	}
	return l.name, t.snoopedOn(l.master)
}

// snoopRate is how many frames a port may send in a second.
func (t *topology) snoopRate() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.opt.snoopRate()
}

// snoopedOn returns the attachments of a bridge that frames of its hosts are for.
func (t *topology) snoopedOn(bridge int) []*attached {
	ats := t.byBridge[bridge]
	unwanted := func(at *attached) bool { return !at.Usable || !t.opt.snoops(at.VNI) }
	if slices.ContainsFunc(ats, unwanted) {
		ats = slices.DeleteFunc(slices.Clone(ats), unwanted)
	}
	return ats
}

// portIndex finds a port of a bridge by name; 0 when there is none.
func (t *topology) portIndex(bridge int, name string) int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for index := range t.ports[bridge] {
		if t.links[index].name == name {
			return index
		}
	}
	return 0
}

// vni returns the attachment of a VNI, or nil.
func (t *topology) vni(v evpn.VNI) *attached {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.byVNI[v]
}

// onDevice returns the attachment of a VXLAN device, or nil.
func (t *topology) onDevice(ifindex int) *attached {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.byDevice[ifindex]
}

// onBridge returns the attachments of a bridge; almost always one. The slice must not be changed.
func (t *topology) onBridge(ifindex int) []*attached {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.byBridge[ifindex]
}

// portName names a port, also one that was just removed.
func (t *topology) portName(ifindex int) string {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if l := t.links[ifindex]; l != nil {
		return l.name
	}
	return t.retired[ifindex]
}

// mtu returns the MTU of a device; 0 when there is none.
func (t *topology) mtu(ifindex int) int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if l := t.links[ifindex]; l != nil {
		return l.mtu
	}
	return 0
}

// options returns the options in force.
func (t *topology) options() Options {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.opt
}

// all returns the attachments in the order of their VNIs.
func (t *topology) all() []*attached {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return slices.SortedFunc(maps.Values(t.byVNI), func(a, b *attached) int { return cmp.Compare(a.VNI, b.VNI) })
}

func ipv6Off(ifname string) bool { return sysctl("net/ipv6/conf/"+ifname+"/disable_ipv6") == "1" }

// sysctl reads a kernel setting; "" where the kernel does not have it.
func sysctl(path string) string {
	b, err := os.ReadFile("/proc/sys/" + path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
