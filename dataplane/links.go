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

// topology knows the links of the network namespace and the attachments they make.
type topology struct {
	mu       sync.RWMutex
	opt      Options
	links    map[int]*link
	retired  map[int]string // names of removed devices, whose FDB rows are still being reported
	byVNI    map[evpn.VNI]*attached
	byDevice map[int]*attached
	byBridge map[int][]*attached
	wantIPv6 map[evpn.VNI]bool // VNIs with IPv6 neighbours
	silenced map[int]bool      // VXLAN devices whose neigh_suppress is on because of us
	unserved []evpn.Fault      // devices that could be attachments but are not
	dirty    bool
	pending  *pending
	answers  *answers

	portsChanged func() // told when accessPorts may have changed; must not wait
}

// retiredLimit bounds the names kept of removed devices.
const retiredLimit = 1024

func newTopology(opt Options, p *pending) *topology {
	return &topology{
		opt: opt, pending: p, answers: newAnswers(),
		portsChanged: func() {},
		links:        map[int]*link{}, retired: map[int]string{},
		byVNI: map[evpn.VNI]*attached{}, byDevice: map[int]*attached{}, byBridge: map[int][]*attached{},
		wantIPv6: map[evpn.VNI]bool{}, silenced: map[int]bool{},
	}
}

// update takes in one RTM_NEWLINK. Messages that say less than we know leave the rest as it was.
func (t *topology) update(m linkMessage) {
	t.mu.Lock()
	defer t.mu.Unlock()
	old := t.links[m.index]
	if m.family == unix.AF_BRIDGE { // speaks of the port only
		if old != nil && m.hasPort && old.port != m.port {
			old.port, t.dirty = m.port, true
		}
		return
	}
	if m.family == unix.AF_INET6 {
		if old != nil && old.kind == "bridge" {
			off := ipv6Off(old.name)
			t.dirty = t.dirty || off != old.ipv6Off
			old.ipv6Off = off
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
		t.links[l.index], t.dirty = &l, true
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
		delete(t.links, l.index)
		delete(t.silenced, l.index)
		t.dirty = true
	}
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
	t.opt, t.dirty = opt, true
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
	t.wantIPv6[vni], t.dirty = true, true
	t.mu.Unlock()
	t.settle()
}

// unsettled reports whether links changed since the last settle.
func (t *topology) unsettled() bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.dirty
}

// settle brings the attachments up to date with the links, and reports what changed.
func (t *topology) settle() {
	if !t.unsettled() {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.dirty = false
	old := t.byVNI
	t.rebuild()
	t.answers.serve(t.byVNI)
	defer t.portsChanged()
	for _, vni := range slices.Sorted(maps.Keys(old)) {
		was, at := old[vni], t.byVNI[vni]
		if at == nil {
			t.pending.attachment(vni, nil)
		}
		if at == nil || at.device != was.device || at.bridge != was.bridge {
			t.pending.leave(was)
		}
	}
	for _, vni := range slices.Sorted(maps.Keys(t.byVNI)) {
		at, was := t.byVNI[vni], old[vni]
		if at.managed && (was == nil || !was.managed || was.bridge != at.bridge) { // looked at once: sysfs is slow
			at.mend.pin = !macPinned(t.links[at.bridge])
		}
		if was == nil || !was.same(at) || at.mend != (mend{}) {
			t.pending.attachment(vni, at)
		}
		if was == nil || was.device != at.device || was.bridge != at.bridge || was.Usable != at.Usable ||
			at.Suppress && !was.Suppress { // the answers are filled from what is there
			t.pending.reread(vni)
		}
	}
}

// rebuild works out the attachments. Of several devices with one VNI, the one made first serves.
func (t *topology) rebuild() {
	devices := make(map[evpn.VNI][]*link)
	t.unserved = nil
	for _, index := range slices.Sorted(maps.Keys(t.links)) {
		l := t.links[index]
		br := t.links[l.master]
		switch {
		case l.kind != "vxlan" || br == nil || br.kind != "bridge":
		case l.vxlan.manyVNIs:
			t.unserved = append(t.unserved, faultManyVNIs(l))
		case l.vxlan.vni.Check() == nil && t.opt.serves(l.vxlan.vni):
			devices[l.vxlan.vni] = append(devices[l.vxlan.vni], l)
		}
	}
	env := t.environment(devices)
	t.byVNI = make(map[evpn.VNI]*attached, len(devices))
	before := t.byDevice
	t.byDevice = make(map[int]*attached, len(devices))
	t.byBridge = make(map[int][]*attached, len(devices))
	for vni, devs := range devices {
		dev := devs[0]
		br := t.links[dev.master]
		at := &attached{
			Attachment: evpn.Attachment{
				VNI: vni, Device: dev.name, Bridge: br.name, BridgeMAC: br.mac, Local: dev.vxlan.local, Suppress: dev.port.suppress,
			},
			device: dev.index, bridge: br.index, remote: dev.vxlan.remote,
		}
		p := t.opt.policy(vni)
		p.manage = p.manage || dev.group == createdGroup
		at.managed, at.mend = p.manage, wantedMend(dev, br, env, p, t.silencedByUs(dev, before[dev.index], p))
		env.ipv6Wanted, env.suppress, env.mend = t.wantIPv6[vni], p.suppress, at.mend
		list, usable := faults(dev, br, env)
		at.fault(list...)
		at.Usable = usable
		for _, other := range devs[1:] {
			at.fault(faultTwoDevices(dev, other))
		}
		t.byVNI[vni], t.byDevice[at.device] = at, at
		t.byBridge[at.bridge] = append(t.byBridge[at.bridge], at)
	}
	for _, ats := range t.byBridge {
		slices.SortFunc(ats, func(a, b *attached) int { return cmp.Compare(a.VNI, b.VNI) })
		for _, at := range ats[1:] {
			at.fault(faultSharedBridge(ats[0], at))
		}
	}
}

// silencedByUs reports whether neigh_suppress of a device, which was attached as was says, is ours to take back.
func (t *topology) silencedByUs(dev *link, was *attached, p policy) bool {
	switch {
	case p.manage && p.suppresses():
		t.silenced[dev.index] = true
	case was != nil && was.Suppress && !dev.port.suppress: // taken back
		delete(t.silenced, dev.index)
	}
	return t.silenced[dev.index]
}

// environment gathers what faults need to know beside the two devices.
func (t *topology) environment(devices map[evpn.VNI][]*link) environment {
	overlay := make(map[int]bool, len(devices))
	for _, devs := range devices {
		for _, d := range devs {
			overlay[d.master] = true
		}
	}
	env := environment{vtep: t.opt.VTEP, netfilter: sysctl("net/bridge/bridge-nf-call-iptables") == "1"}
	for _, l := range t.links {
		if l.up && !l.loop && l.kind != "vxlan" && !overlay[l.index] && !overlay[l.master] {
			env.underlayMTU = max(env.underlayMTU, l.mtu)
		}
	}
	return env
}

// accessPorts returns the ports whose frames are to be read: those of bridges that are served, but for VXLAN devices. What
// comes through the overlay is another host's to tell (PX-02).
func (t *topology) accessPorts() map[int]bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	ports := map[int]bool{}
	for _, l := range t.links {
		if l.kind != "vxlan" && len(t.snoopedOn(l.master)) > 0 {
			ports[l.index] = true
		}
	}
	return ports
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
	for _, l := range t.links {
		if l.master == bridge && l.name == name {
			return l.index
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
