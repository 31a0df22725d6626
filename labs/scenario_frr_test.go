package labs

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// vmsOf02 are the VMs of 02-frr-rr: one per VNI behind each of h1, h2 and the ToR.
func vmsOf02() []vm {
	var vms []vm
	for i, at := range []string{"h1", "h2", "tor"} {
		for n, vni := range []int{100, 200} {
			vms = append(vms, vm{
				node: fmt.Sprintf("vm%d%d", i+1, n+1), at: at, vni: vni,
				mac: fmt.Sprintf("02:00:00:%02x:%02x:01", vni, i+1),
				ip4: fmt.Sprintf("172.16.%d.%d1", vni, i+1), ip6: fmt.Sprintf("fd00:%d::%d1", vni, i+1),
				vtep: fmt.Sprintf("10.255.0.%d", i+1), port: fmt.Sprintf("eth%d", n+2), frrBehind: at == "tor",
			})
		}
	}
	return vms
}

// vteps02 are the VTEPs of 02-frr-rr.
var vteps02 = map[string]string{"h1": "10.255.0.1", "h2": "10.255.0.2", "tor": "10.255.0.3"}

func TestScenario02FRRReflector(t *testing.T) {
	ctx := testContext(t, 5*time.Minute)
	lab := bringUp(t, ctx, "02-frr-rr")
	vms := vmsOf02()
	for _, vni := range []int{100, 200} {
		wantMesh(t, ctx, lab, vni, vteps02)
	}
	t.Run("every VM reaches every other one", func(t *testing.T) { pingAll(t, ctx, lab, vms) })
	t.Run("all have every MAC", func(t *testing.T) {
		for node := range vteps02 {
			for _, v := range vms {
				agree(t, ctx, lab, node, node == "tor", v)
			}
		}
	})
	t.Run("IPs are where a kernel learns them too", func(t *testing.T) { testIPs(t, ctx, lab, vms) })
	t.Run("ARP and ND for a host behind FRR are answered here", func(t *testing.T) { testAnsweredForFRR(t, ctx, lab) })
	t.Run("one frame is enough without an address on the bridge", func(t *testing.T) { testGratuitous(t, ctx, lab) })
	t.Run("a DHCP lease is enough", func(t *testing.T) { testDHCP(t, ctx, lab) })
	t.Run("and one of DHCPv6", func(t *testing.T) { testDHCPv6(t, ctx, lab) })
	t.Run("a reflected route keeps its next hop", func(t *testing.T) {
		eventually(t, ctx, "our IMET routes on the ToR", func() error {
			return all(wantNextHop(ctx, lab, "tor", "[3]:[0]:[32]:[10.255.0.1]", "10.255.0.1"),
				wantNextHop(ctx, lab, "tor", "[2]:[0]:[48]:["+vms[0].mac+"]", "10.255.0.1"))
		})
	})
	t.Run("a VM's port goes down", func(t *testing.T) {
		testPortDown(t, ctx, lab, vms[0]) // known by its MAC alone
		testPortDown(t, ctx, lab, vms[1]) // and one with IPs
	})
	t.Run("a VNI comes and goes", func(t *testing.T) { testVNIComesAndGoes(t, ctx, lab) })
	t.Run("one daemon takes over from the other", func(t *testing.T) { testTakeOver(t, ctx, lab, vms) })
	t.Run("killed daemon comes back", func(t *testing.T) {
		if err := lab.StopProcess(ctx, "h1", unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if err := lab.StartProcess("h1"); err != nil {
			t.Fatal(err)
		}
		for _, vni := range []int{100, 200} {
			wantMesh(t, ctx, lab, vni, vteps02)
		}
		for _, v := range vms {
			agree(t, ctx, lab, "h1", false, v)
		}
		pingAll(t, ctx, lab, vms)
	})
	t.Run("expectations", func(t *testing.T) { runExpectations(t, ctx, lab, "02-frr-rr") })
}

// wantMesh waits until each node floods the VNI to all others, in its own tables and in its kernel's.
func wantMesh(t *testing.T, ctx context.Context, lab *Lab, vni int, vteps map[string]string) {
	t.Helper()
	for node := range vteps {
		within(t, ctx, 40*time.Second, fmt.Sprintf("%s floods VNI %d to all others", node, vni), func() error {
			for other, vtep := range vteps {
				if other == node {
					continue
				}
				if err := wantFDB(ctx, lab, node, fmt.Sprintf("vxlan%d", vni), zeroMAC, vtep); err != nil {
					return err
				}
				if strings.HasPrefix(node, "h") {
					if err := wantVTEP(ctx, lab, node, true, vni, vtep); err != nil {
						return err
					}
				}
			}
			return nil
		})
	}
}

// testIPs: VNI 200 has addresses on our hosts' bridges and both VNIs on the ToR's: an exchange with them puts a VM's IPs
// into that kernel's neighbour table, and from there into everyone's.
func testIPs(t *testing.T, ctx context.Context, lab *Lab, vms []vm) {
	for _, v := range vms {
		suffix := map[string]string{"h1": "251", "h2": "252", "tor": "253"}[v.at]
		if v.vni == 100 && !v.frrBehind {
			continue // no address on that bridge
		}
		run(t, ctx, lab, v.node, fmt.Sprintf("ping -n -c1 -W2 172.16.%d.%s", v.vni, suffix))
		run(t, ctx, lab, v.node, fmt.Sprintf("ping -n -c1 -W2 fd00:%d::%s", v.vni, suffix))
	}
	for _, v := range vms {
		for _, ip := range []string{v.ip4, v.ip6} {
			if v.vni == 100 && !v.frrBehind {
				continue
			}
			for _, host := range []string{"h1", "h2"} {
				within(t, ctx, 20*time.Second, host+" has "+ip, func() error {
					if v.at == host {
						return wantARP(ctx, lab, host, v.vni, ip, v.mac, "local", "")
					}
					return all(
						wantARP(ctx, lab, host, v.vni, ip, v.mac, "remote", v.vtep),
						wantNeighbor(ctx, lab, host, v.bridge(), ip, v.mac),
					)
				})
			}
			if v.frrBehind {
				continue
			}
			within(t, ctx, 20*time.Second, "tor has "+ip, func() error {
				return all(
					wantFRRARP(ctx, lab, "tor", v.vni, ip, v.mac, v.vtep),
					wantNeighbor(ctx, lab, "tor", v.bridge(), ip, v.mac),
				)
			})
		}
	}
}

// wantNextHop wants FRR to have a route with this prefix, in whatever RD, and every path of it with this next hop.
func wantNextHop(ctx context.Context, lab *Lab, node, prefix, nextHop string) error {
	routes, err := frrRoutes(ctx, lab, node)
	if err != nil {
		return err
	}
	found := false
	for name, hops := range routes {
		if !strings.HasSuffix(name, " "+prefix) {
			continue
		}
		for _, hop := range hops {
			found = true
			if hop != nextHop {
				return fmt.Errorf("%s: %s has next hop %s, want %s", node, name, hop, nextHop)
			}
		}
	}
	if !found {
		return fmt.Errorf("%s: FRR has no %s in %v", node, prefix, routes)
	}
	return nil
}

// testPortDown: the port's MAC, and its IPs with it, leave every table and both kinds of kernels, and the MAC comes back
// with the port.
func testPortDown(t *testing.T, ctx context.Context, lab *Lab, v vm) {
	run(t, ctx, lab, v.at, "ip link set "+v.port+" down")
	within(t, ctx, 20*time.Second, "everyone forgets "+v.node, func() error {
		return all(
			wantNoMAC(ctx, lab, "h1", v.vni, v.mac),
			wantNoMAC(ctx, lab, "h2", v.vni, v.mac), wantNoFDB(ctx, lab, "h2", v.vxlan(), v.mac),
			wantNoNeighbor(ctx, lab, "h2", v.bridge(), v.ip4), wantNoNeighbor(ctx, lab, "h2", v.bridge(), v.ip6),
			want(ctx, lab, "h2", false, func(a ctlARP) bool { return a.VNI == v.vni && a.MAC == v.mac }, "show", "arp"),
			wantNoFRRMAC(ctx, lab, "tor", v.vni, v.mac), wantNoFDB(ctx, lab, "tor", v.vxlan(), v.mac),
		)
	})
	run(t, ctx, lab, v.at, "ip link set "+v.port+" up")
	ping(t, ctx, lab, v.node, fmt.Sprintf("172.16.%d.21", v.vni))
	ping(t, ctx, lab, v.node, fmt.Sprintf("172.16.%d.31", v.vni))
	for node := range vteps02 {
		agree(t, ctx, lab, node, node == "tor", v)
	}
}

// testVNIComesAndGoes: VNI 300 is made on all three VTEPs while everything runs, floods to all, and is gone from all when
// one host removes it. Its type-3 routes are read from the wire.
func testVNIComesAndGoes(t *testing.T, ctx context.Context, lab *Lab) {
	capture := startCapture(t, ctx, lab, "rr", "eth1")
	for node, vtep := range vteps02 {
		for _, line := range []string{
			"ip link add br300 type bridge",
			"ip link add vxlan300 type vxlan id 300 dstport 4789 local " + vtep + " nolearning",
			"ip link set vxlan300 master br300",
			"bridge link set dev vxlan300 learning off",
			"ip link set br300 up",
			"ip link set vxlan300 up",
		} {
			run(t, ctx, lab, node, line)
		}
	}
	wantMesh(t, ctx, lab, 300, vteps02)
	capture.wantIMET(t, ctx, lab)

	run(t, ctx, lab, "h1", "ip link del vxlan300")
	const gone = "10.255.0.1"
	within(t, ctx, 20*time.Second, "the others forget h1 in VNI 300", func() error {
		rows, err := fdb(ctx, lab, "tor", "vxlan300")
		if err != nil {
			return err
		}
		more, err := fdb(ctx, lab, "h2", "vxlan300")
		if err != nil {
			return err
		}
		for _, e := range append(rows, more...) {
			if e.Dst == gone {
				return fmt.Errorf("still there: %+v", e)
			}
		}
		return all(
			wantVTEP(ctx, lab, "h2", false, 300, gone),
			wantVTEP(ctx, lab, "h2", true, 300, "10.255.0.3"),
			want(ctx, lab, "h1", false, func(v ctlVTEP) bool { return v.VNI == 300 }, "show", "vtep"),
			want(ctx, lab, "h1", false, func(v ctlVTEP) bool { return v.VNI == 300 }, "show", "vni"),
		)
	})
	for _, node := range []string{"h2", "tor"} {
		run(t, ctx, lab, node, "ip link del vxlan300")
	}
	within(t, ctx, 20*time.Second, "nobody has VNI 300", func() error {
		return want(ctx, lab, "h2", false, func(v ctlVTEP) bool { return v.VNI == 300 }, "show", "vtep")
	})
	for node := range vteps02 {
		run(t, ctx, lab, node, "ip link del br300")
	}
}

func TestScenario04EBGPSpine(t *testing.T) {
	ctx := testContext(t, 3*time.Minute)
	lab := bringUp(t, ctx, "04-ebgp-spine")
	vteps := map[string]string{"h1": "10.255.0.1", "h2": "10.255.0.2", "leaf1": "10.255.0.11", "leaf2": "10.255.0.12"}
	var vms []vm
	for node, at := range map[string]string{"vm1": "h1", "vm2": "h2", "vm11": "leaf1", "vm12": "leaf2"} {
		number := strings.TrimPrefix(node, "vm")
		v := vm{
			node: node, at: at, vni: 100, mac: "02:00:00:64:" + ("0" + number)[len(number)-1:] + ":01",
			ip4: "172.16.100." + number, ip6: "fd00:100::" + number,
			vtep: vteps[at], port: "eth2", frrBehind: strings.HasPrefix(at, "leaf"),
		}
		if v.frrBehind {
			v.port = "eth3"
		}
		vms = append(vms, v)
	}
	wantMesh(t, ctx, lab, 100, vteps)
	t.Run("every VM reaches every other one", func(t *testing.T) { pingAll(t, ctx, lab, vms) })
	t.Run("all have every MAC", func(t *testing.T) {
		for node := range vteps {
			for _, v := range vms {
				agree(t, ctx, lab, node, strings.HasPrefix(node, "leaf"), v)
			}
		}
	})
	t.Run("next hops are unchanged on every hop", func(t *testing.T) {
		for _, node := range []string{"leaf1", "spine", "leaf2"} {
			for _, v := range vms {
				within(t, ctx, 20*time.Second, node+" has "+v.node+" behind "+v.vtep, func() error {
					return all(
						wantNextHop(ctx, lab, node, "[2]:[0]:[48]:["+v.mac+"]", v.vtep),
						wantNextHop(ctx, lab, node, "[3]:[0]:[32]:["+v.vtep+"]", v.vtep),
					)
				})
			}
		}
	})
	t.Run("expectations", func(t *testing.T) { runExpectations(t, ctx, lab, "04-ebgp-spine") })
}
