package speaker

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/evpnd/evpnd/config"
	"github.com/evpnd/evpnd/evpn"
)

// inNamespace runs the calling test again in a fresh network namespace, and returns true there.
func inNamespace(t *testing.T) bool {
	t.Helper()
	if os.Getenv("SPEAKER_NETNS") == t.Name() {
		return true
	}
	cmd := exec.Command("unshare", "-n", os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), "SPEAKER_NETNS="+t.Name())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	return false
}

func ip(t *testing.T, args string) {
	t.Helper()
	if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v: %s", args, err, out)
	}
}

// TestLoopbackDown: a fresh network namespace has lo down, and nothing works there until it is up.
func TestLoopbackDown(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	cfg := nodeConfig(65000, netip.MustParseAddr("127.0.0.1"), 179)
	_, err := New(cfg, nil, testLog(t))
	if err == nil || !strings.Contains(err.Error(), "ip link set lo up") {
		t.Errorf("got %v", err)
	}
}

// TestIPv6 brings sessions up over IPv6, global and link-local, with MD5 and GTSM, and bound to a device.
func TestIPv6(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	ip(t, "link set lo up")
	ip(t, "link add v0 type veth peer name v1")
	for i, dev := range []string{"v0", "v1"} {
		ip(t, "link set "+dev+" addrgenmode none")
		ip(t, "link set "+dev+" up")
		ip(t, fmt.Sprintf("address add fe80::%d/64 dev %s nodad", i+1, dev))
		ip(t, fmt.Sprintf("address add fd00::%d/128 dev lo nodad", i+1))
	}
	for name, c := range map[string]struct {
		a, b   string
		change func(*config.Peer)
	}{
		"global":             {"fd00::1", "fd00::2", func(*config.Peer) {}},
		"global, md5":        {"fd00::1", "fd00::2", func(p *config.Peer) { p.Password = "secret" }},
		"global, gtsm":       {"fd00::1", "fd00::2", func(p *config.Peer) { p.TTLSecurity = 1 }},
		"link-local":         {"fe80::1%v0", "fe80::2%v1", func(*config.Peer) {}},
		"link-local, device": {"fe80::1%v0", "fe80::2%v1", func(p *config.Peer) { p.Interface = p.LocalAddress.Zone() }},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := netip.MustParseAddr(c.a), netip.MustParseAddr(c.b)
			// each names the other with the zone of its own device
			seenFromA, seenFromB := b.WithZone(a.Zone()), a.WithZone(b.Zone())
			peerA, peerB := peerConfig(65001, seenFromA, 179, a), peerConfig(65000, seenFromB, 179, b)
			c.change(&peerA)
			c.change(&peerB)
			cfgA, cfgB := nodeConfig(65000, a, 179, peerA), nodeConfig(65001, b, 179, peerB)
			cfgB.RouterID = netip.MustParseAddr("10.0.0.2")
			na, nb := idleNode(t, cfgA), idleNode(t, cfgB)
			na.run()
			nb.run()
			if up := await[evpn.PeerUp](na, nil); up.Peer != seenFromA {
				t.Errorf("%+v", up)
			}
			await[evpn.PeerUp](nb, nil)
			vtep := netip.MustParseAddr("fd00::1")
			route := macRoute(evpn.NewRD(cfgA.RouterID, 1), mac1, ip6, 7)
			if err := na.Apply([]evpn.RouteOp{announce(route, &evpn.Attrs{NextHop: vtep, ExtComms: rt(65000, 7)})}); err != nil {
				t.Fatal(err)
			}
			if u := await[*evpn.Update](nb, nil); u.Attrs.NextHop != vtep || u.Reach[0] != route {
				t.Errorf("%+v", u)
			}
			na.stop()
			nb.stop()
		})
	}
}

// frr is a bgpd of Debian's FRR without zebra, a route reflector for 10.99.0.1 and 10.99.0.3.
type frr struct {
	t   *testing.T
	dir string
	cmd *exec.Cmd
}

func startFRR(t *testing.T, extra ...string) *frr {
	t.Helper()
	dir, err := os.MkdirTemp("", "speaker-frr")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	lines := []string{
		"router bgp 65000", " bgp router-id 10.99.0.2", " no bgp default ipv4-unicast", " timers bgp 3 9",
		" neighbor 10.99.0.1 remote-as 65000", " neighbor 10.99.0.3 remote-as 65000",
		" neighbor 10.99.0.1 timers connect 1", " neighbor 10.99.0.3 timers connect 1",
	}
	lines = append(lines, extra...)
	lines = append(lines, " address-family l2vpn evpn",
		"  neighbor 10.99.0.1 activate", "  neighbor 10.99.0.1 route-reflector-client",
		"  neighbor 10.99.0.3 activate", "  neighbor 10.99.0.3 route-reflector-client", " exit-address-family")
	conf := filepath.Join(dir, "bgpd.conf")
	if err := os.WriteFile(conf, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("chown", "-R", "frr:frr", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	f := &frr{t: t, dir: dir}
	f.cmd = exec.Command("/usr/lib/frr/bgpd", "-f", conf, "-i", filepath.Join(dir, "pid"), "--vty_socket", dir,
		"-l", "10.99.0.2", "-p", "179", "-P", "0", "-Z", "-S", "--log", "file:"+filepath.Join(dir, "log"))
	if err := f.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		f.cmd.Process.Kill()
		f.cmd.Wait()
		if log, err := os.ReadFile(filepath.Join(dir, "log")); err == nil && t.Failed() {
			t.Logf("bgpd:\n%s", log)
		}
	})
	return f
}

func (f *frr) show(command string, into any) error {
	out, err := exec.Command("vtysh", "--vty_socket", f.dir, "-d", "bgpd", "-c", command).CombinedOutput()
	if err != nil {
		return fmt.Errorf("vtysh: %w: %s", err, out)
	}
	return json.Unmarshal(out, into)
}

// TestFRR peers with FRR, dialing and being dialed, with and without MD5: it lists our routes as we meant them, reflects
// them to another speaker, and what it reflects back to us is no route of the fabric.
func TestFRR(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	ip(t, "link set lo up")
	for i := range 3 {
		ip(t, fmt.Sprintf("address add 10.99.0.%d/32 dev lo", i+1))
	}
	for name, c := range map[string]struct {
		passive  bool
		password string
		extra    []string
	}{
		"we dial":      {false, "", []string{" neighbor 10.99.0.1 passive", " neighbor 10.99.0.3 passive"}},
		"frr dials":    {true, "", []string{" neighbor 10.99.0.1 update-source 10.99.0.2", " neighbor 10.99.0.3 update-source 10.99.0.2"}},
		"md5, we dial": {false, "secret", []string{" neighbor 10.99.0.1 password secret", " neighbor 10.99.0.3 password secret"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := startFRR(t, c.extra...)
			rr := netip.MustParseAddr("10.99.0.2")
			node := func(addr string) *node {
				a := netip.MustParseAddr(addr)
				p := peerConfig(65000, rr, 179, a)
				p.Passive, p.Password, p.ConnectRetry = c.passive, c.password, time.Second
				return idleNode(t, nodeConfig(65000, a, 179, p))
			}
			a, b := node("10.99.0.1"), node("10.99.0.3")
			a.run()
			b.run()
			await[evpn.PeerUp](a, nil)
			await[evpn.PeerUp](b, nil)
			f.exchange(a, b)
			a.stop()
			if d := await(b, func(u *evpn.Update) bool { return len(u.Unreach) > 0 }); len(d.Reach) != 0 {
				t.Errorf("%+v", d)
			}
		})
	}
}

// exchange announces two routes at a and looks at them at FRR and at b.
func (f *frr) exchange(a, b *node) {
	t := f.t
	mac := macRoute(evpn.NewRD(a.addr, 7), mac1, ip4, 10100)
	imet := evpn.Route{Key: evpn.RouteKey{Type: evpn.TypeIMET, RD: evpn.NewRD(a.addr, 7), IP: a.addr}}
	macAttrs := &evpn.Attrs{NextHop: a.addr, ExtComms: rt(65000, 10100) + vxlanEncap + mobility(0, 4)}
	imetAttrs := &evpn.Attrs{
		NextHop: a.addr, ExtComms: rt(65000, 10100) + vxlanEncap,
		PMSI: evpn.PMSI{Present: true, Tunnel: evpn.TunnelIngressReplication, Label: 10100, Endpoint: a.addr},
	}
	if err := a.Apply([]evpn.RouteOp{announce(mac, macAttrs), announce(imet, imetAttrs)}); err != nil {
		t.Fatal(err)
	}
	a.ReleaseEoR()
	b.ReleaseEoR()
	var table map[string]json.RawMessage
	var text string
	until(t, "FRR lists both routes", func() bool {
		if f.show("show bgp l2vpn evpn route json", &table) != nil {
			return false
		}
		text = string(table["10.99.0.1:7"])
		return strings.Contains(text, "[2]:[0]:[48]:[02:00:00:00:00:01]:[32]:[10.1.0.1]") && strings.Contains(text, "[3]:[0]:[32]:[10.99.0.1]")
	})
	for _, want := range []string{"RT:65000:10100", "ET:8", "MM:4"} {
		if !strings.Contains(text, want) {
			t.Errorf("FRR does not show %s: %s", want, text)
		}
	}
	seen := make(map[evpn.RouteKey]*evpn.Attrs)
	for len(seen) < 2 {
		u := await[*evpn.Update](b, nil)
		for _, r := range u.Reach {
			seen[r.Key] = u.Attrs
		}
	}
	got := seen[mac.Key]
	if got == nil || got.NextHop != a.addr || got.OriginatorID != a.routerID || got.Seq != 4 {
		t.Errorf("%+v", got)
	}
	if p := seen[imet.Key]; p == nil || p.PMSI != imetAttrs.PMSI {
		t.Errorf("%+v", p)
	}
	quiet[evpn.PeerDown](a, 50*time.Millisecond)
	if i := a.info(netip.MustParseAddr("10.99.0.2")); i.State != StateEstablished || i.HoldTime != 9*time.Second || !i.EVPN {
		t.Errorf("%+v", i)
	}
}
