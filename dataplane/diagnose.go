package dataplane

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	vishvananda "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/evpnd/evpnd/evpn"
)

// Diagnose looks for what is set up wrongly on this host: everything that Status tells of devices, and what is only looked
// at when somebody asks, such as addresses and the routes to vteps, the remote ones. It changes nothing and may be called
// from any goroutine. The faults are in a fixed order, one for each thing to be mended. With an error some were not found.
func (d *Dataplane) Diagnose(vteps []netip.Addr) ([]evpn.Fault, error) {
	hosts, err := d.addresses()
	faults := append(d.topo.diagnose(hosts, d.provisioner.failed()), d.topo.diagnoseClaim()...)
	for _, at := range d.topo.all() {
		faults = append(faults, at.faults...)
		faults = append(faults, d.foreignFlood(at)...)
	}
	if vtep := d.topo.options().VTEP; err == nil && vtep.IsValid() && !hosts.has(vtep) {
		faults = append(faults, evpn.Fault{
			Code: evpn.FaultVTEPNotHere, Severity: evpn.SeverityError,
			Detail: fmt.Sprintf("our tunnel address %s is on no device of this host", vtep),
			Remedy: fmt.Sprintf("ip addr add %s dev lo", vtep),
		})
	}
	if off := d.snooper.status().Off; off != "" {
		faults = append(faults, evpn.Fault{
			Code:   evpn.FaultSnoopingForbidden,
			Detail: "frames of local hosts cannot be read, their addresses come from the neighbor table only (" + off + ")",
			Remedy: "give evpnd CAP_NET_RAW, or set snooping: false",
		})
	}
	routes, routeErr := d.underlay(vteps, faults)
	return merged(append(faults, routes...)), errors.Join(err, routeErr)
}

// Faulty counts the VNIs whose devices have a fault that stands against serving them, and those whose devices could not be
// made. It costs little and may be called from any goroutine.
func (d *Dataplane) Faulty() int {
	n := len(d.provisioner.failed())
	for _, at := range d.topo.all() {
		if !at.Usable {
			n++
		}
	}
	return n
}

// merged puts faults into order, and makes one of those that one command mends.
func merged(faults []evpn.Fault) []evpn.Fault {
	slices.SortStableFunc(faults, func(a, b evpn.Fault) int {
		return cmp.Or(cmp.Compare(a.Code, b.Code), cmp.Compare(a.Remedy, b.Remedy))
	})
	var out []evpn.Fault
	for _, f := range faults {
		if n := len(out) - 1; n >= 0 && out[n].Code == f.Code && out[n].Remedy == f.Remedy {
			if out[n].VNI != f.VNI {
				out[n].VNI = 0
			}
			if out[n].Ifname != f.Ifname {
				out[n].Ifname = ""
			}
			continue
		}
		out = append(out, f)
	}
	return out
}

// hostAddrs are the addresses of the devices of this host, by ifindex.
type hostAddrs map[int][]netip.Addr

func (h hostAddrs) has(a netip.Addr) bool {
	for _, addrs := range h {
		if slices.Contains(addrs, a) {
			return true
		}
	}
	return false
}

// routed reports whether a device has an address that its hosts can use.
func (h hostAddrs) routed(ifindex int) bool {
	return slices.ContainsFunc(h[ifindex], func(a netip.Addr) bool { return !a.IsLinkLocalUnicast() })
}

func (d *Dataplane) addresses() (hostAddrs, error) {
	list, err := d.links.AddrList(nil, unix.AF_UNSPEC)
	if err != nil && !errors.Is(err, vishvananda.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	found := hostAddrs{}
	for _, a := range list {
		if addr, ok := netip.AddrFromSlice(a.IP); ok {
			found[a.LinkIndex] = append(found[a.LinkIndex], addr.Unmap())
		}
	}
	return found, nil
}

// foreignFlood finds dsts of the flood list that somebody else put there.
func (d *Dataplane) foreignFlood(at *attached) (faults []evpn.Fault) {
	for _, dst := range d.floods.foreign(at.device) {
		if dst == at.remote {
			continue // the device was made with it: FaultRemoteSet
		}
		faults = append(faults, evpn.Fault{
			Code: evpn.FaultForeignFlood, VNI: at.VNI, Ifname: at.Device, Peer: dst,
			Detail: fmt.Sprintf("%s floods to %s, which evpnd did not put there and will not remove", at.Device, dst),
			Remedy: fmt.Sprintf("bridge fdb del 00:00:00:00:00:00 dev %s dst %s", at.Device, dst),
		})
	}
	return faults
}

// underlay checks the ways to the remote VTEPs. known are the faults found already.
func (d *Dataplane) underlay(vteps []netip.Addr, known []evpn.Fault) ([]evpn.Fault, error) {
	var faults []evpn.Fault
	var errs []error
	narrow := way{}
	routes, err := d.ways.lookUp(vteps)
	if err != nil {
		return nil, err
	}
	for i, vtep := range vteps {
		if why := routes[i].unusable(d.topo.options().Reachability); why != "" {
			faults = append(faults, evpn.Fault{
				Code: evpn.FaultVTEPUnreachable, Severity: evpn.SeverityError, Peer: vtep,
				Detail: fmt.Sprintf("%s to VTEP %s, nothing reaches the hosts behind it", why, vtep),
				Remedy: fmt.Sprintf("ip route get %s, and mend the underlay's routing", vtep),
			})
			continue
		}
		if why := d.prober.why(vtep); why != "" {
			faults = append(faults, evpn.Fault{
				Code: evpn.FaultVTEPSilent, Severity: evpn.SeverityError, Peer: vtep,
				Detail: fmt.Sprintf("VTEP %s falls silent: %s, and nothing is sent to the hosts behind it", vtep, why),
				Remedy: fmt.Sprintf("evpnctl ping vtep %s", vtep),
			})
			continue
		}
		w, err := d.wayTo(vtep)
		switch {
		case errors.Is(err, errNoRoute): // gone since
		case err != nil:
			errs = append(errs, err)
		case w.mtu > 0 && (narrow.mtu == 0 || w.mtu < narrow.mtu):
			narrow = w
		}
	}
	for _, at := range d.topo.all() {
		said := func(f evpn.Fault) bool { return f.Code == evpn.FaultUnderlayMTU && f.Ifname == at.Device }
		mtu, overhead := d.topo.mtu(at.device), overheadOf(at.Local)
		if narrow.mtu == 0 || mtu+overhead <= narrow.mtu || slices.ContainsFunc(known, said) {
			continue
		}
		faults = append(faults, evpn.Fault{
			Code: evpn.FaultUnderlayMTU, VNI: at.VNI, Ifname: at.Device, Peer: narrow.to,
			Detail: fmt.Sprintf("%s has MTU %d and needs %d below, the way to VTEP %s has %d", at.Device, mtu, mtu+overhead, narrow.to, narrow.mtu),
			Remedy: setMTU(at.Device, narrow.mtu-overhead),
		})
	}
	return faults, errors.Join(errs...)
}

// errNoRoute says that the kernel knows no way to a VTEP.
var errNoRoute = errors.New("no route")

// way is how the kernel sends to a VTEP.
type way struct {
	to  netip.Addr
	mtu int // of the route, or of its device; 0: not known
}

func (d *Dataplane) wayTo(vtep netip.Addr) (way, error) {
	routes, err := d.links.RouteGet(vtep.AsSlice())
	switch {
	// A blackhole gives EINVAL, an unreachable route EHOSTUNREACH, a prohibited one EACCES.
	case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.EINVAL), errors.Is(err, unix.EACCES):
		return way{}, errNoRoute
	case err != nil:
		return way{}, fmt.Errorf("look up the route to %s: %w", vtep, err)
	case len(routes) == 0:
		return way{}, errNoRoute
	}
	r := routes[0]
	return way{to: vtep, mtu: cmp.Or(r.MTU, d.topo.mtu(r.LinkIndex))}, nil
}

// diagnose finds faults of links that nobody has to be told of before somebody asks.
func (t *topology) diagnose(hosts hostAddrs, failed map[evpn.VNI]evpn.Fault) (faults []evpn.Fault) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	faults = t.unserved()
	for _, vni := range slices.Sorted(maps.Keys(t.opt.VNIs)) {
		f, bad := failed[vni]
		switch {
		case bad:
			faults = append(faults, f)
		case !t.opt.VNIs[vni].Off && t.byVNI[vni] == nil && t.claimed:
			faults = append(faults, t.missing(vni))
		}
	}
	for _, at := range t.byVNI {
		faults = append(faults, t.diagnoseMAC(at)...)
		if at.Usable && !t.inhabited(at.bridge) && !hosts.routed(at.bridge) {
			faults = append(faults, evpn.Fault{
				Code: evpn.FaultNoAccessPort, VNI: at.VNI, Ifname: at.Bridge,
				Detail: fmt.Sprintf("bridge %s has no port beside %s and no address: nobody uses VNI %d here", at.Bridge, at.Device, at.VNI),
				Remedy: fmt.Sprintf("ip link set dev PORT master %s", at.Bridge),
			})
		}
	}
	needed := t.neededBridges()
	for _, l := range t.links {
		if t.leftOver(l, needed) {
			faults = append(faults, evpn.Fault{
				Code: evpn.FaultLeftOver, Ifname: l.name,
				Detail: l.name + " was made by evpnd for a VNI that the configuration does not name any more",
				Remedy: "ip link del dev " + l.name,
			})
		}
	}
	return faults
}

// unserved tells of devices that could be attachments but are not. t.mu is held.
func (t *topology) unserved() (faults []evpn.Fault) {
	for _, index := range slices.Sorted(maps.Keys(t.links)) {
		l := t.links[index]
		if br := t.links[l.master]; l.kind == "vxlan" && l.vxlan.manyVNIs && br != nil && br.kind == "bridge" {
			faults = append(faults, faultManyVNIs(l))
		}
	}
	return faults
}

// missing says why a VNI that is configured has no attachment. t.mu is held.
func (t *topology) missing(vni evpn.VNI) evpn.Fault {
	if devices := t.vxlans[vni]; len(devices) > 0 {
		l := t.links[devices[0]]
		return evpn.Fault{
			Code: evpn.FaultVXLANNotInBridge, Severity: evpn.SeverityError, VNI: vni, Ifname: l.name,
			Detail: fmt.Sprintf("%s, which has VNI %d, is not a port of a bridge", l.name, vni),
			Remedy: fmt.Sprintf("ip link set dev %s master BRIDGE", l.name),
		}
	}
	return evpn.Fault{
		Code: evpn.FaultVXLANMissing, Severity: evpn.SeverityError, VNI: vni,
		Detail: fmt.Sprintf("VNI %d is configured and no VXLAN device has it", vni),
		Remedy: fmt.Sprintf("set create: true for it, or ip link add vxlan%d type vxlan id %d dstport %d local %s nolearning",
			vni, vni, vxlanPort, orVTEP(t.opt.VTEP)),
	}
}

// diagnoseMAC judges the MAC of the bridge. t.mu is held.
func (t *topology) diagnoseMAC(at *attached) (faults []evpn.Fault) {
	br := t.links[at.bridge]
	if br == nil {
		return nil // gone, and not settled yet
	}
	if !macPinned(br) {
		faults = append(faults, evpn.Fault{
			Code: evpn.FaultBridgeMAC, VNI: at.VNI, Ifname: br.name,
			Detail: fmt.Sprintf("the MAC of bridge %s follows its ports, and the kernel forgets all neighbors when it changes", br.name),
			Remedy: fmt.Sprintf("ip link set dev %s address %s", br.name, br.mac),
		})
	}
	return faults
}

// inhabited reports whether a bridge has a port beside VXLAN devices. t.mu is held.
func (t *topology) inhabited(bridge int) bool {
	for port := range t.ports[bridge] {
		if t.links[port].kind != "vxlan" {
			return true
		}
	}
	return false
}

// macPinned reports whether somebody chose the MAC of a bridge, so that it does not follow the ports'. Only sysfs knows;
// where it speaks of another network namespace than ours nothing is known, and all is taken to be well.
func macPinned(br *link) bool {
	const chosen = 3 // NET_ADDR_SET
	dir := "/sys/class/net/" + br.name + "/"
	read := func(file string) string {
		b, _ := os.ReadFile(dir + file)
		return strings.TrimSpace(string(b))
	}
	if read("ifindex") != strconv.Itoa(br.index) || read("address") != br.mac.String() {
		return true
	}
	return read("addr_assign_type") == strconv.Itoa(chosen)
}
