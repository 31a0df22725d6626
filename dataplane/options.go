package dataplane

import (
	"cmp"
	"fmt"
	"net/netip"
	"time"

	"github.com/evpnd/evpnd/config"
	"github.com/evpnd/evpnd/evpn"
)

// Options say what the dataplane serves and what it may change.
type Options struct {
	VTEP     netip.Addr // our tunnel address; the zero Addr: the devices' local addresses are not judged
	AutoVNIs bool       // serve every VXLAN device that is a port of a bridge, not only those in VNIs
	Snoop    bool       // take the addresses of local hosts from their ARP, ND and DHCP frames
	Manage   bool       // mend what may be mended on the devices of served VNIs
	Suppress *bool      // answer ARP and ND for remote hosts here, by neigh_suppress of the VXLAN port; nil: as the devices are
	VNIs     map[evpn.VNI]VNIOptions

	// Exclusive: serve nothing while another process that says so serves something in the network namespace. Only New looks.
	Exclusive bool

	Reachability config.Reachability // what counts as a way to a remote VTEP; "": a route

	Probe       time.Duration // between two probes of a remote VTEP; 0: none is probed
	ProbeMisses int           // probes in a row without answer that make it unreachable, at least 1

	SnoopRate      int           // frames that a port may send in a second; 0: config.DefaultSnoopingRate
	ReceiveBuffer  int           // octets for notifications; 0: 64 MiB. Room for 2500 of them per MiB
	ResyncInterval time.Duration // least time between two resyncs after lost notifications; 0: 2 s
}

// VNIOptions are the options of one VNI; the zero value follows Options.
type VNIOptions struct {
	Off      bool   // do not serve it
	Snoop    *bool  // nil: Options.Snoop
	Manage   *bool  // nil: Options.Manage
	Suppress *bool  // nil: Options.Suppress
	Create   bool   // make bridge and VXLAN device when there is no VXLAN device with the VNI
	Device   string // name of the VXLAN device to be made; "": vxlan and the VNI
	Bridge   string // name of its bridge, which is made when it does not exist; "": br and the VNI
}

// names returns the names of the devices of a VNI that are to be made.
func (v VNIOptions) names(vni evpn.VNI) (device, bridge string) {
	return cmp.Or(v.Device, fmt.Sprintf("vxlan%d", vni)), cmp.Or(v.Bridge, fmt.Sprintf("br%d", vni))
}

// OptionsFrom picks the dataplane's part of a configuration. The VTEP address must be resolved already.
func OptionsFrom(c *config.Config) Options {
	o := Options{
		VTEP: c.VTEP, AutoVNIs: c.AutoVNIs, Snoop: c.Snooping, SnoopRate: c.SnoopingRate, Manage: c.ManageDevices, Suppress: c.ARPSuppression,
		Exclusive:    true,
		Reachability: c.VTEPReachability, Probe: c.VTEPProbe, ProbeMisses: c.VTEPProbeMisses,
		VNIs: make(map[evpn.VNI]VNIOptions, len(c.VNIs)),
	}
	for vni, v := range c.VNIs {
		o.VNIs[vni] = VNIOptions{
			Off: v.Off, Snoop: v.Snooping, Manage: v.Manage, Suppress: v.ARPSuppression,
			Create: v.Create, Device: v.Device, Bridge: v.Bridge,
		}
	}
	return o
}

// serves reports whether a VNI is to be served.
func (o Options) serves(vni evpn.VNI) bool {
	v, named := o.VNIs[vni]
	return !v.Off && (named || o.AutoVNIs)
}

// snoops reports whether frames of the hosts of a VNI are to be read.
func (o Options) snoops(vni evpn.VNI) bool {
	if v := o.VNIs[vni]; v.Snoop != nil {
		return *v.Snoop
	}
	return o.Snoop
}

// snoopRate is how many frames a port may send in a second.
func (o Options) snoopRate() int { return cmp.Or(o.SnoopRate, config.DefaultSnoopingRate) }

// policy is what may be changed on the devices of one VNI.
type policy struct {
	manage   bool
	suppress *bool // nil: nothing is said
}

func (o Options) policy(vni evpn.VNI) policy {
	v := o.VNIs[vni]
	p := policy{manage: o.Manage, suppress: o.Suppress}
	if v.Manage != nil {
		p.manage = *v.Manage
	}
	if v.Suppress != nil {
		p.suppress = v.Suppress
	}
	return p
}

// suppresses reports whether neigh_suppress is to be on; false also when nothing is said.
func (p policy) suppresses() bool { return p.suppress != nil && *p.suppress }
