package evpn

import "net/netip"

// SharedVNI is a VNI that a remote VTEP takes part in, and one host behind it.
type SharedVNI struct {
	VNI VNI
	IP  netip.Addr // the lowest that is behind the VTEP; the zero Addr: none is known
	MAC MAC        // of that host
}

// Shared lists, in order, the VNIs here that import a route which names a VTEP.
func (c *Core) Shared(vtep netip.Addr) []SharedVNI {
	var list []SharedVNI
	for _, v := range c.vrfsFor(0) {
		s := SharedVNI{VNI: v.vni}
		f := v.flood[vtep]
		shared := f != nil && f.routes.len() > 0
		for e := range v.ips.all() {
			if e.best == nil || e.best.Attrs.NextHop != vtep {
				continue
			}
			shared = true
			if !s.IP.IsValid() || e.ip.Less(s.IP) {
				s.IP, s.MAC = e.ip, e.best.mac
			}
		}
		if shared || v.hasMACBehind(vtep) {
			list = append(list, s)
		}
	}
	return list
}

func (v *macVRF) hasMACBehind(vtep netip.Addr) bool {
	for _, m := range v.macs {
		if m.best != nil && m.best.Attrs.NextHop == vtep {
			return true
		}
	}
	return false
}
