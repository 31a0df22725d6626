package daemon

import (
	"errors"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	evpnv1 "github.com/evpnd/evpnd/api/evpn/v1"
	"github.com/evpnd/evpnd/config"
	"github.com/evpnd/evpnd/evpn"
	"github.com/evpnd/evpnd/speaker"
)

// faults asks for a diagnosis.
func (c *client) faults() []*evpnv1.Fault {
	c.t.Helper()
	r, err := c.inspect.Diagnose(c.ctx, &evpnv1.DiagnoseRequest{})
	if err != nil {
		c.t.Fatal(err)
	}
	return r.Faults
}

// wantFault waits until there is one fault, with this code, and returns it; "" wants none.
func (c *client) wantFault(code evpn.FaultCode) *evpnv1.Fault {
	c.t.Helper()
	var found []*evpnv1.Fault
	defer func() {
		if c.t.Failed() {
			c.t.Logf("found %v", found)
		}
	}()
	until(c.t, "the fault "+string(code), func() bool {
		found = c.faults()
		if code == "" {
			return len(found) == 0
		}
		return len(found) == 1 && found[0].Code == string(code)
	})
	if code == "" {
		return nil
	}
	return found[0]
}

// healthy is a daemon with two VTEPs and nothing wrong.
func healthy(t *testing.T) *client {
	t.Helper()
	c := newClient(t, "", nil)
	c.bgp.setSessions(up(peer1), up(peer2))
	c.report(attached(100), hasMAC(100, macA), evpn.Synced{}, peerUp(peer1), peerUp(peer2), imetRoute(peer1, 100, vtep2),
		macRoute(peer1, 100, vtep2, macB, netip.Addr{}), macRoute(peer1, 500, vtep2, macB, netip.Addr{}), // 500 is not here
		evpn.EndOfRIB{Peer: peer1}, evpn.EndOfRIB{Peer: peer2})
	c.wantFault("")
	return c
}

func up(peer netip.Addr) speaker.SessionInfo {
	return speaker.SessionInfo{Peer: peer, ASN: 65000, State: speaker.StateEstablished, EVPN: true, LastError: "of an hour ago"}
}

func refused(peer netip.Addr) speaker.SessionInfo {
	return speaker.SessionInfo{Peer: peer, State: speaker.StateActive, LastCause: os.NewSyscallError("connect", unix.ECONNREFUSED)}
}

// TestDiagnose: of each wrong set-up just one line is told, and it names what it is about.
func TestDiagnose(t *testing.T) {
	foreign := attrs(100, vtep2)
	foreign.SetExtComms(string(evpn.AppendEncapVXLAN(evpn.AppendRT(nil, evpn.NewRT(65009, 999)))))
	flapping := func(c *client) {
		for n := range 8 {
			route := macRoute(peer1, 100, vtep2, macC, netip.Addr{}).(*evpn.Update)
			route.Attrs = attrs(100, vtep2)
			route.Attrs.SetExtComms(string(evpn.AppendMobility([]byte(route.Attrs.ExtComms), uint32(2*n+1), false)))
			c.report(hasMAC(100, macC))
			c.report(route)
		}
	}
	for _, r := range []struct {
		code   evpn.FaultCode
		spoil  func(*client)
		detail string // a part of it
	}{
		{evpn.FaultPeerNoEVPN, func(c *client) {
			s := up(peer2)
			s.EVPN = false
			c.bgp.setSessions(up(peer1), s)
		}, "10.0.0.2 is up without the EVPN family"},
		{evpn.FaultPeerDown, func(c *client) {
			c.bgp.setSessions(up(peer1), speaker.SessionInfo{Peer: peer2, State: speaker.StateActive, LastError: "hold timer expired"})
		}, "10.0.0.2 is active: hold timer expired"},
		{evpn.FaultPeerUnseen, func(c *client) {
			c.bgp.setSessions(up(peer1), speaker.SessionInfo{Peer: evpn.InterfacePeer("eth1"), State: speaker.StateIdle})
		}, "nobody on eth1 advertises itself as a router"},
		{evpn.FaultPeerCrowd, func(c *client) {
			one, two := netip.MustParseAddr("fe80::1%eth1"), netip.MustParseAddr("fe80::2%eth1")
			s := up(evpn.InterfacePeer("eth1"))
			s.Remote, s.Link.Routers = two, []netip.Addr{one, two}
			c.bgp.setSessions(up(peer1), s)
		}, "2 routers advertise themselves on eth1 (fe80::1%eth1, fe80::2%eth1), and one is the peer: fe80::2%eth1 has the session"},
		{evpn.FaultPeerRefused, func(c *client) {
			c.bgp.setSessions(up(peer1), refused(peer2))
		}, "10.0.0.2 refuses connections to port 179, and nothing listens here"},
		{evpn.FaultRTMismatch, func(c *client) {
			c.report(&evpn.Update{Peer: peer1, Attrs: foreign, Reach: []evpn.Route{
				{Key: evpn.RouteKey{Type: evpn.TypeMACIP, RD: evpn.NewRD(vtep2, 9), MAC: macC}, Label1: 100},
			}})
		}, "10.0.0.1 sends 1 route of VNI 100 with RT 65009:999, and VNI 100 imports *:100"},
		{evpn.FaultNoIMET, func(c *client) {
			c.report(macRoute(peer2, 100, vtep3, macC, netip.Addr{}))
		}, "VTEP 10.255.0.3 announces 1 MAC of VNI 100 and no IMET route"},
		{evpn.FaultOwnVTEP, func(c *client) {
			c.report(macRoute(peer2, 100, vtepSelf, macC, netip.Addr{}), imetRoute(peer2, 100, vtepSelf))
		}, "10.0.0.2 sends 2 routes with our VTEP 10.255.0.1"},
		{evpn.FaultRouteRefused, func(c *client) {
			c.report(imetRoute(peer2, 100, vtep3), macRoute(peer2, 100, vtep3, evpn.MAC{1, 0, 0x5e, 0, 0, 1}, netip.Addr{}))
		}, "no host's MAC"},
		{evpn.FaultDuplicate, flapping, "two hosts have 1 address in VNI 100, such as 02:00:00:00:00:03"},
		{evpn.FaultEntryBlocked, func(c *client) {
			c.kernel.refuse(fdbKey(100, macC), errors.New("a static row is in the way"), true)
			c.report(macRoute(peer1, 100, vtep2, macC, netip.Addr{}))
		}, "1 kernel entry of VNI 100: a static row is in the way"},
		{evpn.FaultEntryRefused, func(c *client) {
			c.kernel.refuse(fdbKey(100, macC), errors.New("no space left on device"), false)
			c.report(macRoute(peer1, 100, vtep2, macC, netip.Addr{}))
		}, "1 kernel entry of VNI 100: no space left on device"},
		{evpn.FaultReload, func(c *client) {
			c.writeConfig("asm: 65000\n")
			_, _ = c.Reload()
		}, "evpnd.yaml was refused"},
	} {
		t.Run(string(r.code), func(t *testing.T) {
			c := healthy(t)
			r.spoil(c)
			f := c.wantFault(r.code)
			if !strings.Contains(f.Detail, r.detail) || f.Remedy == "" {
				t.Errorf("fault %v, want %q", f, r.detail)
			}
		})
	}
}

// TestDiagnoseRefusedPeer: where we listen the peer could dial, so what is wrong is that it has no BGP.
func TestDiagnoseRefusedPeer(t *testing.T) {
	c := healthy(t)
	cfg := *c.config.get()
	cfg.Listen.Enabled = true
	c.config.reloaded(&cfg, nil)
	c.bgp.setSessions(up(peer1), refused(peer2))
	if f := c.wantFault(evpn.FaultPeerRefused); strings.Contains(f.Remedy, "listen") || !strings.Contains(f.Detail, "no BGP speaker listens there") {
		t.Errorf("fault %v", f)
	}
}

// TestDiagnoseStateDir: the folder cannot be made, since a file is in its place.
func TestDiagnoseStateDir(t *testing.T) {
	c := healthy(t)
	cfg := *c.config.get()
	cfg.StateDir = c.opts.ConfigPath + "/state"
	c.config.reloaded(&cfg, nil)
	c.wantFault(evpn.FaultStateDir)
	cfg.StateDir = c.dir + "/not/there/yet"
	c.wantFault("")
}

// TestDiagnoseFileLimit lowers the limit of this process to little more than it uses.
func TestDiagnoseFileLimit(t *testing.T) {
	c := healthy(t)
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	open, _ := descriptors()
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: open + 3, Max: was.Max}); err != nil {
		t.Fatal(err)
	}
	defer unix.Setrlimit(unix.RLIMIT_NOFILE, &was)
	c.wantFault(evpn.FaultFileLimit)
}

func TestDiagnoseNoPeers(t *testing.T) {
	c := healthy(t)
	cfg := *c.config.get()
	cfg.Peers = nil
	c.config.reloaded(&cfg, nil)
	c.bgp.setSessions()
	c.wantFault(evpn.FaultNoPeers)
}

// TestDiagnoseJoinsDevices: the kernel is asked with the VTEPs that frames go to, and errors come first.
func TestDiagnoseJoinsDevices(t *testing.T) {
	c := healthy(t)
	c.kernel.mu.Lock()
	c.kernel.faults = []evpn.Fault{
		{Code: evpn.FaultBridgeMTU, VNI: 100, Ifname: "br100", Detail: "warning", Remedy: "r"},
		{Code: evpn.FaultVXLANDown, Severity: evpn.SeverityError, VNI: 200, Ifname: "vxlan200", Detail: "error", Remedy: "r"},
	}
	c.kernel.mu.Unlock()
	got := c.faults()
	if len(got) != 2 || got[0].Severity != "error" || got[0].Ifname != "vxlan200" || got[1].Severity != "warning" {
		t.Errorf("faults %v", got)
	}
	if !slices.Equal(c.kernel.asked, []netip.Addr{vtep2}) {
		t.Errorf("asked of %v", c.kernel.asked)
	}
}

// TestTroubleshootingListsEveryFault, and nothing else: a heading for each code.
func TestTroubleshootingListsEveryFault(t *testing.T) {
	source, err := os.ReadFile("../../evpn/fault.go")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("../../docs/troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	codes := find(`FaultCode = "([a-z0-9-]+)"`, source)
	listed := find("(?m)^\\| `([a-z0-9-]+)` \\|", text)
	for _, list := range [][]string{codes, listed} {
		slices.Sort(list)
		if unique := slices.Compact(slices.Clone(list)); len(unique) != len(list) || len(list) == 0 {
			t.Errorf("some code is there twice: %v", list)
		}
	}
	if !slices.Equal(codes, listed) {
		t.Errorf("docs/troubleshooting.md lists %v, the code has %v", listed, codes)
	}
}

func find(pattern string, text []byte) (list []string) {
	for _, m := range regexp.MustCompile(pattern).FindAllSubmatch(text, -1) {
		list = append(list, string(m[1]))
	}
	return list
}

// TestSessionDownByLink: what the link of a peer by interface suffers from comes before what a connection said last.
func TestSessionDownByLink(t *testing.T) {
	i := speaker.SessionInfo{
		Peer: evpn.InterfacePeer("eth1"), State: speaker.StateIdle, LastError: "peer closed the connection",
		Link: speaker.LinkInfo{Why: "interface eth1 is down"},
	}
	if code, detail, _ := sessionDown(i, config.Peer{}, true); code != evpn.FaultPeerUnseen || detail != "no session with the peer on eth1: interface eth1 is down" {
		t.Errorf("%s: %s", code, detail)
	}
	i.Link, i.Remote, i.LastError = speaker.LinkInfo{}, netip.MustParseAddr("fe80::1%eth1"), "hold timer expired"
	if code, detail, _ := sessionDown(i, config.Peer{}, true); code != evpn.FaultPeerDown || detail != "the session with eth1 (fe80::1%eth1) is idle: hold timer expired" {
		t.Errorf("%s: %s", code, detail)
	}
}
