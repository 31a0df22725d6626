package labs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// This file reads the state of a lab's nodes through the tools an operator would use, for scenario tests to compare.

const zeroMAC = "00:00:00:00:00:00"

// eventually polls until check returns nil; when ctx ends first, the test fails with the last of its errors.
func eventually(t *testing.T, ctx context.Context, what string, check func() error) {
	t.Helper()
	began := time.Now()
	var last error
	err := waitFor(ctx, what, func() (bool, error) {
		err := check()
		if ctx.Err() == nil || last == nil {
			last = err // one that only says that time is up would hide the reason
		}
		return err == nil, nil
	})
	if err != nil {
		t.Fatalf("%v: last: %v", err, last)
	}
	t.Logf("%s after %s", what, time.Since(began).Round(time.Millisecond))
}

// within is eventually with a limit of its own.
func within(t *testing.T, ctx context.Context, limit time.Duration, what string, check func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	eventually(t, ctx, what, check)
}

// query runs a command that prints JSON and decodes it.
func query(ctx context.Context, lab *Lab, node string, into any, argv ...string) error {
	out, _, err := lab.Exec(ctx, node, argv...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(out), into); err != nil {
		return fmt.Errorf("%s: %q: %w in %.200q", node, argv, err, out)
	}
	return nil
}

// pingOnce sends count packets fast and wants every one answered.
func pingOnce(ctx context.Context, lab *Lab, node, ip string, count int) error {
	out, _, err := lab.Exec(ctx, node, "ping", "-n", "-q", "-i", "0.02", "-W", "2", "-c", fmt.Sprint(count), ip)
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	if !strings.Contains(out, " 0% packet loss") {
		return fmt.Errorf("%s: ping %s: %s", node, ip, out)
	}
	return nil
}

// ping waits until ip answers and then wants no loss.
func ping(t *testing.T, ctx context.Context, lab *Lab, node, ip string) {
	t.Helper()
	within(t, ctx, 20*time.Second, node+" reaches "+ip, func() error { return pingOnce(ctx, lab, node, ip, 1) })
	if err := pingOnce(ctx, lab, node, ip, 10); err != nil {
		t.Error(err)
	}
}

// fdbEntry is one row of bridge -j fdb.
type fdbEntry struct {
	MAC    string   `json:"mac"`
	Ifname string   `json:"ifname"`
	Dst    string   `json:"dst"`
	NhID   uint32   `json:"nhid"`
	Master string   `json:"master"`
	State  string   `json:"state"`
	Flags  []string `json:"flags"`
}

func fdb(ctx context.Context, lab *Lab, node, dev string) ([]fdbEntry, error) {
	var rows []fdbEntry
	err := query(ctx, lab, node, &rows, "bridge", "-j", "fdb", "show", "dev", dev)
	return rows, err
}

// vtepOf tells where a row of a VXLAN device sends frames, through its nexthop group when it has one.
func vtepOf(ctx context.Context, lab *Lab, node string, e fdbEntry) (string, error) {
	if e.NhID == 0 {
		return e.Dst, nil
	}
	var hops []struct {
		ID      uint32 `json:"id"`
		Gateway string `json:"gateway"`
		Group   []struct {
			ID uint32 `json:"id"`
		} `json:"group"`
	}
	if err := query(ctx, lab, node, &hops, "ip", "-j", "nexthop", "show"); err != nil {
		return "", err
	}
	gateway, member := map[uint32]string{}, uint32(0)
	for _, h := range hops {
		gateway[h.ID] = h.Gateway
		if h.ID == e.NhID && len(h.Group) == 1 {
			member = h.Group[0].ID
		}
	}
	return gateway[member], nil
}

// wantFDB wants a row of the VXLAN device's own table that sends mac to vtep, and for a host's MAC the bridge's row too.
func wantFDB(ctx context.Context, lab *Lab, node, dev, mac, vtep string) error {
	rows, err := fdb(ctx, lab, node, dev)
	if err != nil {
		return err
	}
	self, master := false, mac == zeroMAC
	for _, e := range rows {
		if e.MAC != mac {
			continue
		}
		if slices.Contains(e.Flags, "self") {
			at, err := vtepOf(ctx, lab, node, e)
			if err != nil {
				return err
			}
			self = self || at == vtep
		} else if e.Master != "" {
			master = true
		}
	}
	if !self || !master {
		return fmt.Errorf("%s: %s has no %s → %s (device %t, bridge %t): %v", node, dev, mac, vtep, self, master, rows)
	}
	return nil
}

// wantNoFDB wants no row for mac on the device: neither the device's nor the bridge's.
func wantNoFDB(ctx context.Context, lab *Lab, node, dev, mac string) error {
	rows, err := fdb(ctx, lab, node, dev)
	if err != nil {
		return err
	}
	for _, e := range rows {
		if e.MAC == mac {
			return fmt.Errorf("%s: %s has %+v", node, dev, e)
		}
	}
	return nil
}

// neighbor is one row of ip -j neigh.
type neighbor struct {
	IP    string   `json:"dst"`
	MAC   string   `json:"lladdr"`
	State []string `json:"state"`
	// iproute2 prints the flags as keys without a value
	External *string `json:"extern_learn"`
}

func neighbors(ctx context.Context, lab *Lab, node, dev string) ([]neighbor, error) {
	var all []neighbor
	for _, family := range []string{"-4", "-6"} {
		var rows []neighbor
		if err := query(ctx, lab, node, &rows, "ip", family, "-j", "neigh", "show", "dev", dev); err != nil {
			return nil, err
		}
		all = append(all, rows...)
	}
	return all, nil
}

func wantNeighbor(ctx context.Context, lab *Lab, node, dev, ip, mac string) error {
	rows, err := neighbors(ctx, lab, node, dev)
	if err != nil {
		return err
	}
	for _, n := range rows {
		if n.IP == ip && n.MAC == mac {
			return nil
		}
	}
	return fmt.Errorf("%s: %s has no neighbour %s at %s: %v", node, dev, ip, mac, rows)
}

func wantNoNeighbor(ctx context.Context, lab *Lab, node, dev, ip string) error {
	rows, err := neighbors(ctx, lab, node, dev)
	if err != nil {
		return err
	}
	for _, n := range rows {
		if n.IP == ip && n.MAC != "" {
			return fmt.Errorf("%s: %s has neighbour %+v", node, dev, n)
		}
	}
	return nil
}

// vtysh runs one FRR command that prints JSON.
func vtysh(ctx context.Context, lab *Lab, node string, into any, command string) error {
	return query(ctx, lab, node, into, "vtysh", "-c", command)
}

// frrMAC is one MAC as FRR sees it.
type frrMAC struct {
	Type string `json:"type"` // local, remote
	VTEP string `json:"remoteVtep"`
	Port string `json:"intf"`
	Seq  uint32 `json:"localSequence"`
}

// frrMACs reads FRR's MAC table of one VNI, by MAC.
func frrMACs(ctx context.Context, lab *Lab, node string, vni int) (map[string]frrMAC, error) {
	var all map[string]struct {
		MACs map[string]frrMAC `json:"macs"`
	}
	err := vtysh(ctx, lab, node, &all, "show evpn mac vni all json")
	return all[fmt.Sprint(vni)].MACs, err
}

// wantFRRMAC wants FRR to hold mac as remote behind vtep.
func wantFRRMAC(ctx context.Context, lab *Lab, node string, vni int, mac, vtep string) error {
	macs, err := frrMACs(ctx, lab, node, vni)
	if err != nil {
		return err
	}
	if m := macs[mac]; m.Type != "remote" || m.VTEP != vtep {
		return fmt.Errorf("%s: VNI %d: FRR has %s as %+v, want remote behind %s", node, vni, mac, m, vtep)
	}
	return nil
}

func wantNoFRRMAC(ctx context.Context, lab *Lab, node string, vni int, mac string) error {
	macs, err := frrMACs(ctx, lab, node, vni)
	if err != nil {
		return err
	}
	if m, ok := macs[mac]; ok {
		return fmt.Errorf("%s: VNI %d: FRR has %s as %+v", node, vni, mac, m)
	}
	return nil
}

// frrARP reads FRR's neighbour table of one VNI: IP → entry. The table's JSON mixes entries with counters.
func frrARP(ctx context.Context, lab *Lab, node string, vni int) (map[string]frrARPEntry, error) {
	var all map[string]map[string]json.RawMessage
	if err := vtysh(ctx, lab, node, &all, "show evpn arp-cache vni all json"); err != nil {
		return nil, err
	}
	entries := map[string]frrARPEntry{}
	for ip, raw := range all[fmt.Sprint(vni)] {
		var e frrARPEntry
		if json.Unmarshal(raw, &e) == nil {
			entries[ip] = e
		}
	}
	return entries, nil
}

// frrARPEntry is one MAC-IP binding as FRR sees it.
type frrARPEntry struct {
	Type string `json:"type"` // local, remote
	MAC  string `json:"mac"`
	VTEP string `json:"remoteVtep"`
}

func wantFRRARP(ctx context.Context, lab *Lab, node string, vni int, ip, mac, vtep string) error {
	entries, err := frrARP(ctx, lab, node, vni)
	if err != nil {
		return err
	}
	if e := entries[ip]; e.Type != "remote" || e.MAC != mac || e.VTEP != vtep {
		return fmt.Errorf("%s: VNI %d: FRR has %s as %+v, want %s behind %s", node, vni, ip, e, mac, vtep)
	}
	return nil
}

// frrRoutes returns the prefixes FRR has from EVPN, each with the next hops of its paths.
func frrRoutes(ctx context.Context, lab *Lab, node string) (map[string][]string, error) {
	var all map[string]json.RawMessage
	if err := vtysh(ctx, lab, node, &all, "show bgp l2vpn evpn route json"); err != nil {
		return nil, err
	}
	routes := map[string][]string{}
	for rd, raw := range all {
		var prefixes map[string]json.RawMessage
		if json.Unmarshal(raw, &prefixes) != nil {
			continue // a counter, not a route distinguisher
		}
		for prefix, raw := range prefixes {
			var p struct {
				Paths [][]struct {
					Nexthops []struct {
						IP string `json:"ip"`
					} `json:"nexthops"`
				} `json:"paths"`
			}
			if json.Unmarshal(raw, &p) != nil {
				continue
			}
			for _, path := range p.Paths {
				for _, part := range path {
					for _, hop := range part.Nexthops {
						routes[rd+" "+prefix] = append(routes[rd+" "+prefix], hop.IP)
					}
				}
			}
		}
	}
	if len(routes) == 0 {
		return nil, errors.New("FRR has no EVPN routes")
	}
	return routes, nil
}
