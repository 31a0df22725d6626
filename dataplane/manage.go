package dataplane

import (
	"encoding/binary"

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
}

// wantedMend compares a device with what the configuration asks for. Without its word nothing is touched. ours says that
// neigh_suppress is on because of us.
func wantedMend(dev *link, p policy, ours bool) mend {
	if !p.manage {
		return mend{}
	}
	return mend{
		noLearning:     dev.vxlan.learning,
		noPortLearning: dev.port.learning,
		suppressOn:     p.suppresses() && !dev.port.suppress,
		suppressOff:    !p.suppresses() && dev.port.suppress && ours,
	}
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
	step(at.mend.suppressOn, "neigh_suppress on", func() error { return d.links.LinkSetBrNeighSuppress(port, true) })
	step(at.mend.suppressOff, "neigh_suppress off", func() error { return d.links.LinkSetBrNeighSuppress(port, false) })
}

// setNoLearning switches learning of a VXLAN device off. vishvananda/netlink 1.3.1 would send every setting of the
// device, and Linux refuses a change that merely names some of them, so the one attribute is sent by hand.
func (d *Dataplane) setNoLearning(ifindex int) error {
	return d.manager.rtnl.do(unix.RTM_NEWLINK, 0, func(b []byte) []byte {
		b = append(b, unix.AF_UNSPEC, 0, 0, 0)
		b = binary.NativeEndian.AppendUint32(b, uint32(ifindex))
		b = append(b, make([]byte, 8)...)
		info := putAttr(nil, unix.IFLA_INFO_KIND, []byte("vxlan\x00"))
		info = putAttr(info, unix.IFLA_INFO_DATA, putAttr(nil, unix.IFLA_VXLAN_LEARNING, []byte{0}))
		return putAttr(b, unix.IFLA_LINKINFO, info)
	})
}
