package dataplane

import (
	"encoding/binary"
	"net/netip"

	"github.com/sirupsen/logrus"
	vishvananda "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// mend says what is to be changed on a VXLAN device that we were told to manage. The zero value: nothing.
type mend struct {
	noLearning     bool // the device's own learning
	noPortLearning bool
	suppressOn     bool
	suppressOff    bool
	local          netip.Addr // tunnel address; the zero Addr: leave it
	bridgeMTU      int        // 0: leave it
	pin            bool       // the bridge's MAC, as it is
}

// wantedMend compares a device with what the configuration asks for. Without its word nothing is touched. ours says that
// neigh_suppress is on because of us.
func wantedMend(dev, br *link, env environment, p policy, ours bool) mend {
	if !p.manage {
		return mend{}
	}
	m := mend{
		noLearning:     dev.vxlan.learning,
		noPortLearning: dev.port.learning,
		suppressOn:     p.suppresses() && !dev.port.suppress,
		suppressOff:    !p.suppresses() && dev.port.suppress && ours,
	}
	if env.vtep.IsValid() && dev.vxlan.local != env.vtep {
		m.local = env.vtep
	}
	if br.mtu > dev.mtu { // the device's own is left: an underlay that is down for a moment tells a wrong one
		m.bridgeMTU = dev.mtu
	}
	return m
}

// manage carries out what at needs. The kernel reports the result as a link notification, so a fault that was mended
// disappears from the attachment by itself; one that could not be mended stays in it.
func (d *Dataplane) manage(at *attached) {
	if at.mend == (mend{}) {
		return
	}
	d.manager.Lock()
	defer d.manager.Unlock()
	port := &vishvananda.Device{LinkAttrs: vishvananda.LinkAttrs{Index: at.device, Name: at.Device}}
	bridge := &vishvananda.Device{LinkAttrs: vishvananda.LinkAttrs{Index: at.bridge, Name: at.Bridge}}
	step := func(wanted bool, what string, do func() error) {
		if !wanted {
			return
		}
		log := d.log.WithFields(logrus.Fields{"vni": at.VNI, "ifname": at.Device, "reason": what})
		if err := do(); err != nil {
			log.WithError(err).Warn("device setting refused")
			return
		}
		log.Info("device setting changed")
	}
	step(at.mend.noLearning, "nolearning", func() error { return d.setNoLearning(at.device) })
	step(at.mend.noPortLearning, "learning off", func() error { return d.links.LinkSetLearning(port, false) })
	step(at.mend.local.IsValid(), "local address", func() error { return d.setLocal(at.device, at.mend.local) })
	step(at.mend.bridgeMTU > 0, "mtu of bridge", func() error { return d.links.LinkSetMTU(bridge, at.mend.bridgeMTU) })
	step(at.mend.pin, "bridge mac pinned", func() error {
		return d.links.LinkSetHardwareAddr(bridge, at.BridgeMAC[:])
	})
	step(at.mend.suppressOn, "neigh_suppress on", func() error { return d.links.LinkSetBrNeighSuppress(port, true) })
	step(at.mend.suppressOff, "neigh_suppress off", func() error { return d.links.LinkSetBrNeighSuppress(port, false) })
}

// setNoLearning switches learning of a VXLAN device off.
func (d *Dataplane) setNoLearning(ifindex int) error {
	return d.setVXLAN(ifindex, unix.IFLA_VXLAN_LEARNING, []byte{0})
}

// setLocal sets the tunnel address of a VXLAN device.
func (d *Dataplane) setLocal(ifindex int, local netip.Addr) error {
	if local.Is4() {
		return d.setVXLAN(ifindex, unix.IFLA_VXLAN_LOCAL, local.AsSlice())
	}
	return d.setVXLAN(ifindex, unix.IFLA_VXLAN_LOCAL6, local.AsSlice())
}

// setVXLAN sets one setting of a VXLAN device. vishvananda/netlink 1.3.1 would send every setting of the device, and Linux
// refuses a change that merely names some of them, so the one attribute is sent by hand.
func (d *Dataplane) setVXLAN(ifindex int, attr uint16, value []byte) error {
	return d.manager.rtnl.do(unix.RTM_NEWLINK, 0, func(b []byte) []byte {
		b = append(b, unix.AF_UNSPEC, 0, 0, 0)
		b = binary.NativeEndian.AppendUint32(b, uint32(ifindex))
		b = append(b, make([]byte, 8)...)
		info := putAttr(nil, unix.IFLA_INFO_KIND, []byte("vxlan\x00"))
		info = putAttr(info, unix.IFLA_INFO_DATA, putAttr(nil, attr, value))
		return putAttr(b, unix.IFLA_LINKINFO, info)
	})
}
