package labs

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// wantAgreement proves that what evpnd says, what its kernel has and what FRR has are the same, both ways.
func (s *soak) wantAgreement() {
	s.t.Helper()
	if err := reload(s.ctx, s.lab, "h1", "{}\n"); err != nil {
		s.t.Fatal(err)
	}
	if err := s.reachable(s.ctx, rrAddr, rawAddr); err != nil {
		s.t.Fatal(err)
	}
	for _, host := range []string{"h1", "h2"} {
		within(s.t, s.ctx, time.Minute, host+" and its kernel agree", func() error { return s.kernelAgrees(host) })
		within(s.t, s.ctx, time.Minute, host+" and FRR agree", func() error { return s.reflectorAgrees(host) })
		within(s.t, s.ctx, time.Minute, host+" and the ToR agree", func() error { return s.torAgrees(host) })
	}
	if err := s.rawAgrees(); err != nil {
		s.t.Error(err)
	}
}

// same says what the first differences of two tables are.
func same[K, V comparable](what string, got, want map[K]V) error {
	var faults []error
	for k, v := range want {
		if g, ok := got[k]; g != v || !ok {
			faults = append(faults, fmt.Errorf("%v: %v (there: %t), want %v", k, g, ok, v))
		}
	}
	for k, v := range got {
		if _, ok := want[k]; !ok {
			faults = append(faults, fmt.Errorf("%v: %v, want none", k, v))
		}
	}
	if len(faults) == 0 {
		return nil
	}
	return fmt.Errorf("%s: %d differences of %d: %w", what, len(faults), len(want), errors.Join(faults[:min(len(faults), 5)]...))
}

// kernelAgrees compares the tables of VNI 100: remote MACs in both tables of the kernel, local ones, and neighbours.
func (s *soak) kernelAgrees(host string) error {
	macs, err := list[ctlMAC](s.ctx, s.lab, host, "show", "mac", "--vni", "100")
	if err != nil {
		return err
	}
	remote, local := map[string]netip.Addr{}, map[string]bool{}
	for _, m := range macs {
		if m.Origin == "remote" {
			remote[m.MAC], _ = netip.ParseAddr(m.VTEP)
		} else {
			local[m.MAC] = true
		}
	}
	device, bridge, learned, err := s.sites[host].forwarding()
	if err != nil {
		return err
	}
	ips, err := list[ctlARP](s.ctx, s.lab, host, "show", "arp", "--vni", "100")
	if err != nil {
		return err
	}
	wanted := map[netip.Addr]string{}
	for _, a := range ips {
		if a.Origin == "remote" {
			wanted[netip.MustParseAddr(a.IP)] = a.MAC
		}
	}
	neighbors, err := s.sites[host].external()
	if err != nil {
		return err
	}
	return errors.Join(same("FDB of the VXLAN device", device, remote), same("FDB of the bridge", bridge, keys(remote)),
		same("local hosts", local, learned), same("neighbours", neighbors, wanted))
}

func keys[K comparable, V any](m map[K]V) map[K]bool {
	set := make(map[K]bool, len(m))
	for k := range m {
		set[k] = true
	}
	return set
}

// forwarding is the FDB of the VXLAN device, what the bridge has there, and what it has on other ports, without its ports' own
// addresses.
func (k *kernelTables) forwarding() (device map[string]netip.Addr, bridge, learned map[string]bool, err error) {
	header := make([]byte, unix.SizeofNdMsg)
	header[0] = unix.AF_BRIDGE
	messages, err := k.dump(unix.RTM_GETNEIGH, header)
	if err != nil {
		return nil, nil, nil, err
	}
	vteps, err := k.groups()
	if err != nil {
		return nil, nil, nil, err
	}
	device, bridge, learned = map[string]netip.Addr{}, map[string]bool{}, map[string]bool{}
	ports, err := k.ports()
	if err != nil {
		return nil, nil, nil, err
	}
	for _, m := range messages {
		r, err := parseRow(m.Data)
		if err != nil {
			return nil, nil, nil, err
		}
		switch {
		case r.mac == zeroMAC || r.state&unix.NUD_PERMANENT != 0 && r.port != k.vxlan:
		case r.port == k.vxlan && r.bridge:
			if r.state&unix.NUD_PERMANENT == 0 {
				bridge[r.mac] = true
			}
		case r.port == k.vxlan && r.group != 0:
			device[r.mac] = vteps[r.group]
		case r.port == k.vxlan:
			device[r.mac] = r.dst
		case r.bridge && ports[r.port]:
			learned[r.mac] = true
		}
	}
	return device, bridge, learned, nil
}

// ports are the bridge's.
func (k *kernelTables) ports() (map[int]bool, error) {
	links, err := k.net.handle.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list ports: %w", err)
	}
	ports := map[int]bool{}
	for _, l := range links {
		if l.Attrs().MasterIndex == k.bridge {
			ports[l.Attrs().Index] = true
		}
	}
	return ports, nil
}

// external are the neighbours of the bridge that a control plane has written.
func (k *kernelTables) external() (map[netip.Addr]string, error) {
	all := map[netip.Addr]string{}
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		header := make([]byte, unix.SizeofNdMsg)
		header[0] = family
		messages, err := k.dump(unix.RTM_GETNEIGH, header)
		if err != nil {
			return nil, err
		}
		for _, m := range messages {
			r, err := parseRow(m.Data)
			if err != nil {
				return nil, err
			}
			if r.port == k.bridge && r.flags&unix.NTF_EXT_LEARNED != 0 {
				all[r.dst] = r.mac
			}
		}
	}
	return all, nil
}

type ctlRouteKey struct {
	RD      string `json:"rd"`
	Key     string `json:"key"`
	NextHop string `json:"nextHop"`
}

// reflectorAgrees compares all routes of a host with FRR's, both ways.
func (s *soak) reflectorAgrees(host string) error {
	own := vteps02[host]
	frr, err := frrRoutes(s.ctx, s.lab, "rr")
	if err != nil {
		return err
	}
	reflectedOwn, reflectedOther := map[string]string{}, map[string]string{}
	for route, hops := range frr {
		if slices.Contains(hops, own) {
			reflectedOwn[route] = own
		} else {
			reflectedOther[route] = hops[0]
		}
	}
	out, err := s.routes(host, "--out")
	if err != nil {
		return err
	}
	for route := range out {
		out[route] = own
	}
	in, err := s.routes(host, "--in", "--peer", rrAddr.String())
	if err != nil {
		return err
	}
	return errors.Join(same("routes at the reflector", reflectedOwn, out), same("routes of the reflector", in, reflectedOther))
}

func (s *soak) routes(host string, args ...string) (map[string]string, error) {
	routes, err := list[ctlRouteKey](s.ctx, s.lab, host, append([]string{"show", "route"}, args...)...)
	if err != nil {
		return nil, err
	}
	all := map[string]string{}
	for _, r := range routes {
		all[r.RD+" "+r.Key] = r.NextHop
	}
	return all, nil
}

// torAgrees compares the MACs that a host has on its ports with those that the ToR has behind it, and the other way round.
func (s *soak) torAgrees(host string) error {
	macs, err := list[ctlMAC](s.ctx, s.lab, host, "show", "mac", "--vni", "100")
	if err != nil {
		return err
	}
	own, behind := map[string]bool{}, map[string]bool{}
	for _, m := range macs {
		switch {
		case m.Origin == "local":
			own[m.MAC] = true
		case m.VTEP == vteps02["tor"]:
			behind[m.MAC] = true
		}
	}
	frr, err := frrMACs(s.ctx, s.lab, "tor", 100)
	if err != nil {
		return err
	}
	remote, local := map[string]bool{}, map[string]bool{}
	for mac, m := range frr {
		switch {
		case m.Type == "local":
			local[mac] = true
		case m.VTEP == vteps02[host]:
			remote[mac] = true
		}
	}
	return errors.Join(same("MACs at the ToR", remote, own), same("MACs of the ToR", behind, local))
}

// rawAgrees wants the raw peer's hosts where it has said last.
func (s *soak) rawAgrees() error {
	device, _, _, err := s.sites["h1"].forwarding()
	if err != nil {
		return err
	}
	want := map[string]netip.Addr{}
	for _, l := range s.raw.told {
		for i := range l.N {
			want[l.MAC(i).String()] = l.VTEP
		}
	}
	maps.DeleteFunc(device, func(_ string, vtep netip.Addr) bool { return !slices.Contains(rawVTEPs, vtep) })
	return same("hosts of the raw peer", device, want)
}
