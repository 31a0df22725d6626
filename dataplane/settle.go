package dataplane

import (
	"cmp"
	"maps"
	"slices"

	"github.com/evpnd/evpnd/evpn"
)

// Hosts have thousands of links, and an orchestrator makes them one by one. So links are noted as they change, and only the
// VNIs that these have a part in are worked out again; where a VNI depends on all links, which is the underlay's MTU, the
// links are counted (carriers).

// linkChanges is what changed since the last settle.
type linkChanges struct {
	all     bool // everything is to be worked out again
	links   map[int]bool
	bridges map[int]bool // bridges, and what VXLAN devices that changed have for a master
	vnis    map[evpn.VNI]bool
}

func newLinkChanges() linkChanges {
	return linkChanges{links: map[int]bool{}, bridges: map[int]bool{}, vnis: map[evpn.VNI]bool{}}
}

// note takes in a link that changes, as it was or as it is.
func (c *linkChanges) note(l *link) {
	c.links[l.index] = true
	switch l.kind {
	case "bridge":
		c.bridges[l.index] = true
	case "vxlan":
		c.bridges[l.master] = true
		c.vnis[l.vxlan.vni] = true
	}
}

// carriers counts the MTUs of the devices that may carry the tunnel.
type carriers struct {
	overlay map[int]bool // bridges with a VXLAN device that may be served
	mtu     map[int]int  // ifindex → MTU that is counted
	links   map[int]int  // MTU → number of links with it; few
}

func newCarriers() carriers {
	return carriers{overlay: map[int]bool{}, mtu: map[int]int{}, links: map[int]int{}}
}

// count counts a link with an MTU, 0 saying that it does not carry the tunnel.
func (c *carriers) count(index, mtu int) {
	if was := c.mtu[index]; was != 0 {
		if c.links[was]--; c.links[was] == 0 {
			delete(c.links, was)
		}
	}
	delete(c.mtu, index)
	if mtu != 0 {
		c.mtu[index] = mtu
		c.links[mtu]++
	}
}

// largest is the largest MTU; 0 when there is none.
func (c *carriers) largest() (mtu int) {
	for m := range c.links {
		mtu = max(mtu, m)
	}
	return mtu
}

// unsettled reports whether links changed since the last settle.
func (t *topology) unsettled() bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	c := &t.changed
	return c.all || len(c.links)+len(c.vnis) > 0
}

// settle brings the attachments up to date with the links, and reports what changed.
func (t *topology) settle() {
	if !t.unsettled() {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.changed
	t.changed = newLinkChanges()
	if c.all {
		t.everything(&c)
	}
	t.weigh(c)
	if env := t.environment(); env != t.env {
		t.env = env
		t.everything(&c)
	}
	t.spread(c)
	vnis := slices.Sorted(maps.Keys(c.vnis))
	old := t.rebuild(vnis)
	for _, vni := range vnis {
		t.answers.serve(vni, t.byVNI[vni])
		t.report(vni, old[vni])
	}
	t.turnPorts(c, old)
	t.noteUnmade(vnis)
	if !t.claimed {
		t.claimWanted()
	}
}

// everything notes that all links have changed, and all VNIs that there are, or that are or were configured.
func (t *topology) everything(c *linkChanges) {
	for _, l := range t.links {
		c.note(l)
	}
	for vni := range t.byVNI {
		c.vnis[vni] = true
	}
	for vni := range t.opt.VNIs {
		c.vnis[vni] = true
	}
	for vni := range t.unmade {
		c.vnis[vni] = true
	}
}

// servable reports whether a link is a VXLAN device that can be an attachment.
func (t *topology) servable(l *link) bool {
	vni, single := l.singleVNI()
	br := t.links[l.master]
	return single && br != nil && br.kind == "bridge" && t.opt.serves(vni) && t.claimed
}

// weigh counts the links that changed among those that may carry the tunnel: none that belongs to the overlay does.
func (t *topology) weigh(c linkChanges) {
	links := maps.Clone(c.links)
	for bridge := range c.bridges {
		was := t.carriers.overlay[bridge]
		delete(t.carriers.overlay, bridge)
		for port := range t.ports[bridge] {
			if t.servable(t.links[port]) {
				t.carriers.overlay[bridge] = true
				break
			}
		}
		if t.carriers.overlay[bridge] != was {
			links[bridge] = true
			maps.Copy(links, t.ports[bridge])
		}
	}
	overlay := t.carriers.overlay
	for index := range links {
		l := t.links[index]
		if l != nil && l.up && !l.loop && l.kind != "vxlan" && l.group != createdGroup && !overlay[index] && !overlay[l.master] {
			t.carriers.count(index, l.mtu)
		} else {
			t.carriers.count(index, 0)
		}
	}
}

// environment gathers what faults need to know beside the two devices.
func (t *topology) environment() environment {
	return environment{
		vtep: t.opt.VTEP, netfilter: sysctl("net/bridge/bridge-nf-call-iptables") == "1", underlayMTU: t.carriers.largest(),
	}
}

// spread adds the VNIs that have to do with those that changed: on the same bridge, or on one that they leave or come to.
func (t *topology) spread(c linkChanges) {
	for bridge := range c.bridges {
		for port := range t.ports[bridge] {
			if l := t.links[port]; l.kind == "vxlan" {
				c.vnis[l.vxlan.vni] = true
			}
		}
	}
	for _, vni := range slices.Collect(maps.Keys(c.vnis)) {
		var from, to int
		if was := t.byVNI[vni]; was != nil {
			from = was.bridge
		}
		if devices := t.devices(vni); len(devices) > 0 {
			to = devices[0].master
		}
		if from == to {
			continue
		}
		for _, at := range slices.Concat(t.byBridge[from], t.byBridge[to]) {
			c.vnis[at.VNI] = true
		}
	}
}

// devices returns the VXLAN devices with a VNI that can be its attachment. Of several, the one made first serves.
func (t *topology) devices(vni evpn.VNI) (list []*link) {
	for _, index := range t.vxlans[vni] {
		if l := t.links[index]; t.servable(l) {
			list = append(list, l)
		}
	}
	return list
}

// rebuild works out the attachments of VNIs, and returns what they were.
func (t *topology) rebuild(vnis []evpn.VNI) (old map[evpn.VNI]*attached) {
	old = make(map[evpn.VNI]*attached, len(vnis))
	for _, vni := range vnis {
		at := t.byVNI[vni]
		if at == nil {
			continue
		}
		old[vni] = at
		delete(t.byVNI, vni)
		delete(t.byDevice, at.device)
		// Readers keep the slices.
		t.byBridge[at.bridge] = slices.DeleteFunc(slices.Clone(t.byBridge[at.bridge]), func(a *attached) bool { return a == at })
		if len(t.byBridge[at.bridge]) == 0 {
			delete(t.byBridge, at.bridge)
		}
	}
	for _, vni := range vnis {
		if at := t.attach(vni, old[vni]); at != nil {
			t.byVNI[vni], t.byDevice[at.device] = at, at
			ats := append(slices.Clone(t.byBridge[at.bridge]), at)
			slices.SortFunc(ats, func(a, b *attached) int { return cmp.Compare(a.VNI, b.VNI) })
			t.byBridge[at.bridge] = ats
		}
	}
	for _, vni := range vnis {
		if at := t.byVNI[vni]; at != nil && t.byBridge[at.bridge][0] != at {
			at.fault(faultSharedBridge(t.byBridge[at.bridge][0], at))
		}
	}
	return old
}

// attach works out the attachment of a VNI, which was attached as was says; nil when no device can be it.
func (t *topology) attach(vni evpn.VNI, was *attached) *attached {
	devices := t.devices(vni)
	if len(devices) == 0 {
		return nil
	}
	dev := devices[0]
	br := t.links[dev.master]
	at := &attached{
		Attachment: evpn.Attachment{
			VNI: vni, Device: dev.name, Bridge: br.name, BridgeMAC: br.mac, Local: dev.vxlan.local, Suppress: dev.port.suppress,
		},
		device: dev.index, bridge: br.index, remote: dev.vxlan.remote,
	}
	if was != nil && was.device != dev.index {
		was = nil
	}
	p := t.opt.policy(vni)
	p.manage = p.manage || dev.group == createdGroup
	env := t.env
	at.managed, at.mend = p.manage, wantedMend(dev, br, env, p, t.silencedByUs(dev, was, p))
	env.ipv6Wanted, env.suppress, env.mend = t.wantIPv6[vni], p.suppress, at.mend
	if bound := t.links[dev.vxlan.bound]; bound != nil {
		env.bound = bound.name
	}
	list, usable := faults(dev, br, env)
	at.fault(list...)
	at.Usable = usable
	for _, other := range devices[1:] {
		at.fault(faultTwoDevices(dev, other))
	}
	return at
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

// report notes what the core is to be told of a VNI that was attached as was says.
func (t *topology) report(vni evpn.VNI, was *attached) {
	at := t.byVNI[vni]
	switch {
	case at == nil && was == nil:
		return
	case at == nil:
		t.pending.attachment(vni, nil)
		t.pending.leave(was)
		return
	case was != nil && (at.device != was.device || at.bridge != was.bridge):
		t.pending.leave(was)
	}
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

// turnPorts finds the ports whose frames are to be read from now on, or not any more, or that changed themselves.
func (t *topology) turnPorts(c linkChanges, old map[evpn.VNI]*attached) {
	for index := range c.links { // one that could not be read before may be now
		if t.access[index] {
			t.turned[index] = true
		}
	}
	links := c.links
	for vni := range c.vnis {
		for _, at := range []*attached{old[vni], t.byVNI[vni]} {
			if at != nil {
				maps.Copy(links, t.ports[at.bridge])
			}
		}
	}
	for index := range links {
		if want := t.wantsFrames(t.links[index]); want != t.access[index] {
			t.turned[index] = true
			if delete(t.access, index); want {
				t.access[index] = true
			}
		}
	}
	if len(t.turned) > 0 {
		t.portsChanged()
	}
}

// wantsFrames reports whether the frames of a port are to be read: those of bridges that are served, but for VXLAN devices.
// What comes through the overlay is another host's to tell (PX-02).
func (t *topology) wantsFrames(l *link) bool {
	return l != nil && l.kind != "vxlan" && len(t.snoopedOn(l.master)) > 0
}

// noteUnmade notes which VNIs have no devices and are to have them made: there is no VXLAN device, or one of ours without a
// bridge.
func (t *topology) noteUnmade(vnis []evpn.VNI) {
	news := false
	for _, vni := range vnis {
		v := t.opt.VNIs[vni]
		missing := v.Create && !v.Off && t.claimed && !slices.ContainsFunc(t.vxlans[vni], func(index int) bool {
			l := t.links[index]
			return l.master != 0 || l.group != createdGroup
		})
		news = news || missing || t.unmade[vni]
		if delete(t.unmade, vni); missing {
			t.unmade[vni] = true
		}
	}
	if news {
		t.unmadeChanged()
	}
}
