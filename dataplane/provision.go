package dataplane

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	vishvananda "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/evpnd/evpnd/evpn"
)

const (
	// createdGroup is the link group of the devices that we made. Of all that can be read back it is the one mark that Linux
	// takes in the request that makes a device, so that no crash leaves a device of which nobody knows whose it is. It
	// follows the device when it is renamed, and `ip link set dev X group default` hands it over to the operator.
	createdGroup = 0x4556504e // "EVPN"

	createRetry    = time.Second // after a device could not be made, doubled up to createRetryMax
	createRetryMax = 30 * time.Second

	defaultUnderlayMTU = 1500 // where no route tells
	leastMTU           = 1280 // of the overlay: that of IPv6
)

// provisioner makes the devices of VNIs with create: true, and remembers what could not be made.
type provisioner struct {
	wake waker // holds a token when links or options have changed

	mu     sync.Mutex
	faults map[evpn.VNI]evpn.Fault
}

func newProvisioner() *provisioner {
	return &provisioner{wake: newWaker(), faults: map[evpn.VNI]evpn.Fault{}}
}

// changed never waits.
func (p *provisioner) changed() {
	p.wake.signal()
}

// failed returns what could not be made, and why.
func (p *provisioner) failed() map[evpn.VNI]evpn.Fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.faults)
}

// provide makes devices whenever some are missing, until ctx ends.
func (d *Dataplane) provide(ctx context.Context) {
	wait := createRetry
	for ctx.Err() == nil {
		var retry <-chan time.Time
		if d.provision() {
			wait = createRetry
		} else {
			retry = time.After(wait)
			wait = min(2*wait, createRetryMax)
		}
		select {
		case <-ctx.Done():
		case <-d.provisioner.wake:
		case <-retry:
		}
	}
}

// provision makes the devices that are missing; false when some could not be made.
func (d *Dataplane) provision() bool {
	d.manager.Lock()
	defer d.manager.Unlock()
	before, faults := d.provisioner.failed(), map[evpn.VNI]evpn.Fault{}
	opt := d.topo.options()
	mtu := sync.OnceValue(func() int { return d.underlayMTU(opt.VTEP) }) // the same for all, and not cheap
	for _, vni := range d.topo.incomplete() {
		v := opt.VNIs[vni]
		device, bridge := v.names(vni)
		log := d.log.WithFields(logrus.Fields{"vni": vni, "ifname": device})
		made, err := d.create(vni, v, opt.VTEP, mtu)
		if made {
			log.WithField("reason", "create: true, bridge "+bridge).Info("device made")
		}
		if err == nil {
			continue
		}
		faults[vni] = evpn.Fault{
			Code: evpn.FaultCreate, Severity: evpn.SeverityError, VNI: vni, Ifname: device,
			Detail: "device of the VNI not made: " + err.Error(), Remedy: remedyOf(err),
		}
		if before[vni] != faults[vni] {
			log.WithError(err).Warn("device not made, will retry")
		}
	}
	d.provisioner.mu.Lock()
	defer d.provisioner.mu.Unlock()
	d.provisioner.faults = faults
	return len(faults) == 0
}

// nameTaken says that the name of a device to be made is that of another one.
type nameTaken struct{ name, kind string }

func (e *nameTaken) Error() string {
	return fmt.Sprintf("%s exists already and is a %s that evpnd did not make", e.name, e.kind)
}

func remedyOf(err error) string {
	var taken *nameTaken
	if errors.As(err, &taken) {
		return fmt.Sprintf("rename it (ip link set dev %s name OTHER), or give the VNI another device or bridge", taken.name)
	}
	return "mend the cause, evpnd tries again every 30 s"
}

// create makes what is missing of the devices of a VNI. Each step can be repeated after a crash.
func (d *Dataplane) create(vni evpn.VNI, v VNIOptions, vtep netip.Addr, underlayMTU func() int) (made bool, err error) {
	if !vtep.IsValid() {
		return false, errors.New("the VTEP address is not known")
	}
	mtu := underlayMTU() - overheadOf(vtep)
	if mtu < leastMTU {
		return false, fmt.Errorf("the underlay's MTU leaves %d octets for the hosts, want at least %d", mtu, leastMTU)
	}
	deviceName, bridgeName := v.names(vni)
	bridge, err := d.ensureBridge(bridgeName, bridgeMAC(vtep, vni), mtu)
	if err != nil {
		return false, err
	}
	device, made, err := d.ensureVXLAN(deviceName, vni, vtep, mtu)
	if err != nil {
		return made, err
	}
	return made, steps(
		netlinkStep{"set addrgenmode none on " + deviceName, func() error { return d.links.LinkSetIP6AddrGenMode(device, 1) }},
		netlinkStep{"set up " + deviceName, func() error { return d.links.LinkSetUp(device) }},
		netlinkStep{"put " + deviceName + " into bridge " + bridgeName, func() error {
			return d.links.LinkSetMasterByIndex(device, bridge.Attrs().Index)
		}},
	)
}

// netlinkStep is one request of several.
type netlinkStep struct {
	what string
	do   func() error
}

func steps(all ...netlinkStep) error {
	for _, s := range all {
		if err := s.do(); err != nil {
			return fmt.Errorf("%s: %w", s.what, err)
		}
	}
	return nil
}

// ensureBridge finds the bridge, or makes it: with a MAC that does not follow its ports, no spanning tree, and no IGMP and
// MLD snooping, since the groups that hosts behind other VTEPs listen to are not known here.
func (d *Dataplane) ensureBridge(name string, mac evpn.MAC, mtu int) (vishvananda.Link, error) {
	found, err := d.find(name)
	if err != nil {
		return nil, err
	}
	if found != nil && found.Type() != "bridge" {
		return nil, &nameTaken{name, found.Type()}
	}
	if found == nil {
		off := false
		err := d.links.LinkAdd(&vishvananda.Bridge{
			LinkAttrs:         vishvananda.LinkAttrs{Name: name, MTU: mtu, HardwareAddr: net.HardwareAddr(mac[:]), Group: createdGroup},
			MulticastSnooping: &off,
		})
		if err != nil {
			return nil, fmt.Errorf("make bridge %s: %w", name, err)
		}
		if found, err = d.links.LinkByName(name); err != nil {
			return nil, fmt.Errorf("look up bridge %s: %w", name, err)
		}
	}
	if a := found.Attrs(); a.Group != createdGroup || a.Flags&net.FlagUp != 0 {
		return found, nil
	}
	// No link-local address: this host is no member of its tenants' networks.
	return found, steps(
		netlinkStep{"set addrgenmode none on " + name, func() error { return d.links.LinkSetIP6AddrGenMode(found, 1) }},
		netlinkStep{"set up " + name, func() error { return d.links.LinkSetUp(found) }},
	)
}

// ensureVXLAN finds the VXLAN device that an earlier try made, or makes it.
func (d *Dataplane) ensureVXLAN(name string, vni evpn.VNI, vtep netip.Addr, mtu int) (dev vishvananda.Link, made bool, err error) {
	found, err := d.find(name)
	if err != nil {
		return nil, false, err
	}
	if found != nil {
		if v, ok := found.(*vishvananda.Vxlan); ok && v.Attrs().Group == createdGroup && v.VxlanId == int(vni) {
			return found, false, nil
		}
		return nil, false, &nameTaken{name, found.Type()}
	}
	err = d.links.LinkAdd(&vishvananda.Vxlan{
		LinkAttrs: vishvananda.LinkAttrs{Name: name, MTU: mtu, Group: createdGroup},
		VxlanId:   int(vni), SrcAddr: vtep.AsSlice(), Port: vxlanPort,
		// Switches send VXLAN over IPv6 without UDP checksums (RFC 6935), and Linux drops that unless told to take it.
		UDP6ZeroCSumRx: vtep.Is6(),
	})
	if err != nil {
		return nil, false, fmt.Errorf("make vxlan device %s: %w", name, err)
	}
	if found, err = d.links.LinkByName(name); err != nil {
		return nil, true, fmt.Errorf("look up vxlan device %s: %w", name, err)
	}
	return found, true, nil
}

// find looks a device up by name; nil when there is none.
func (d *Dataplane) find(name string) (vishvananda.Link, error) {
	l, err := d.links.LinkByName(name)
	var missing vishvananda.LinkNotFoundError
	switch {
	case errors.As(err, &missing):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("look up device %s: %w", name, err)
	}
	return l, nil
}

// bridgeMAC is the MAC of a bridge that we make: the same whenever it is made again, another one on every host.
func bridgeMAC(vtep netip.Addr, vni evpn.VNI) (mac evpn.MAC) {
	sum := sha256.Sum256(binary.BigEndian.AppendUint32(vtep.AsSlice(), uint32(vni)))
	copy(mac[:], sum[:])
	mac[0] = mac[0]&^0x01 | 0x02 // one host's, locally administered
	return mac
}

// underlayMTU is what the tunnel may send: the MTU of the device that has our address, or, where that is a loopback or
// dummy device, the least of those that the routes through gateways lead to.
func (d *Dataplane) underlayMTU(vtep netip.Addr) int {
	if hosts, err := d.addresses(); err == nil {
		for index, addrs := range hosts {
			if mtu := d.topo.wireMTU(index); mtu > 0 && slices.Contains(addrs, vtep) {
				return mtu
			}
		}
	}
	family := unix.AF_INET
	if vtep.Is6() {
		family = unix.AF_INET6
	}
	routes, err := d.links.RouteListFiltered(family, &vishvananda.Route{Table: unix.RT_TABLE_MAIN}, vishvananda.RT_FILTER_TABLE)
	if err != nil {
		return defaultUnderlayMTU
	}
	least := 0
	consider := func(index int, gateway net.IP, mtu int) {
		if mtu == 0 {
			mtu = d.topo.wireMTU(index)
		}
		if gateway != nil && mtu > 0 && (least == 0 || mtu < least) {
			least = mtu
		}
	}
	for _, r := range routes {
		consider(r.LinkIndex, r.Gw, r.MTU)
		for _, hop := range r.MultiPath {
			consider(hop.LinkIndex, hop.Gw, r.MTU)
		}
	}
	if least == 0 {
		return defaultUnderlayMTU
	}
	return least
}

// removeCreated removes the devices that we made for VNIs that old names and the options in force do not. A bridge that
// has other ports stays, with its hosts.
func (d *Dataplane) removeCreated(old Options) {
	if !d.topo.isClaimed() {
		return
	}
	d.manager.Lock()
	defer d.manager.Unlock()
	now := d.topo.options()
	for _, vni := range slices.Sorted(maps.Keys(old.VNIs)) {
		if _, named := now.VNIs[vni]; named || !old.VNIs[vni].Create {
			continue
		}
		device, bridge := old.VNIs[vni].names(vni)
		for _, name := range []string{device, bridge} {
			log := d.log.WithFields(logrus.Fields{"vni": vni, "ifname": name})
			switch removed, err := d.removeDevice(name); {
			case err != nil:
				log.WithError(err).Warn("device that evpnd made not removed")
			case removed:
				log.Info("device removed")
			}
		}
	}
}

// removeDevice removes a device if we made it and, being a bridge, it has no ports.
func (d *Dataplane) removeDevice(name string) (removed bool, err error) {
	l, err := d.find(name)
	if l == nil || err != nil || l.Attrs().Group != createdGroup {
		return false, err
	}
	if l.Type() == "bridge" {
		ports, err := dumpLinks(d.manager.rtnl, l.Attrs().Index)
		if err != nil {
			return false, fmt.Errorf("list the ports of %s: %w", name, err)
		}
		if len(ports) > 0 {
			return false, fmt.Errorf("%s is still a port of it", ports[0].name)
		}
	}
	if err := d.links.LinkDel(l); err != nil {
		return false, fmt.Errorf("remove %s: %w", name, err)
	}
	return true, nil
}

// incomplete lists the VNIs whose devices are to be made.
func (t *topology) incomplete() []evpn.VNI {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return slices.Sorted(maps.Keys(t.unmade))
}

// neededBridges names the bridges of all VNIs of the configuration. t.mu is held.
func (t *topology) neededBridges() map[string]bool {
	needed := make(map[string]bool, len(t.opt.VNIs))
	for vni, v := range t.opt.VNIs {
		_, bridge := v.names(vni)
		needed[bridge] = true
	}
	return needed
}

// leftOver reports whether we made a device that no VNI of the configuration needs any more. t.mu is held.
func (t *topology) leftOver(l *link, needed map[string]bool) bool {
	if l.group != createdGroup {
		return false
	}
	if l.kind == "vxlan" {
		_, named := t.opt.VNIs[l.vxlan.vni]
		return !named
	}
	if needed[l.name] {
		return false
	}
	for index := range t.ports[l.index] {
		if port := t.links[index]; port.kind == "vxlan" && !t.leftOver(port, needed) {
			return false
		}
	}
	return true
}

// wireMTU is the MTU of a device that leads off the host; 0 for those that do not.
func (t *topology) wireMTU(ifindex int) int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	l := t.links[ifindex]
	if l == nil || l.loop || l.kind == "dummy" || l.kind == "vxlan" {
		return 0
	}
	return l.mtu
}
