package labs

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/evpnd/evpnd/evpn/wire"
	"github.com/evpnd/evpnd/labs/rawpeer"
)

// Addresses in the long runs: of the raw peer on h1, and of the one on h2 that hears what FRR says.
var (
	rawAddr     = netip.MustParseAddr("10.255.9.1")
	monitorAddr = netip.MustParseAddr("10.255.9.254")
	h1Addr      = netip.MustParseAddr("10.255.0.1")
	rrAddr      = netip.MustParseAddr("10.255.0.254")
)

// soak is the lab of the long runs: 02-frr-rr, where h1 has a raw peer as well and shows metrics.
type soak struct {
	t     *testing.T
	ctx   context.Context
	lab   *Lab
	sites map[string]*site
	raw   rawHosts
}

// site is a VTEP and a VM's port behind it, in VNI 100.
type site struct {
	*kernelTables
	vm vmPort
}

func newSoak(t *testing.T, ctx context.Context) *soak {
	t.Helper()
	s := &soak{t: t, ctx: ctx, lab: bringUp(t, ctx, soakLab(t)), sites: map[string]*site{}}
	for node, addr := range map[string]netip.Addr{"h1": rawAddr, "h2": monitorAddr} {
		run(t, ctx, s.lab, node, fmt.Sprintf("ip addr add %s/32 dev lo", addr))
	}
	run(t, ctx, s.lab, "rr", fmt.Sprintf("ip route add %s/32 via 10.0.2.0", monitorAddr))
	wantMesh(t, ctx, s.lab, 100, vteps02)
	for node, vm := range map[string]string{"h1": "vm11", "h2": "vm21", "tor": "vm31"} {
		s.sites[node] = &site{kernelTables: openTables(t, s.lab, node), vm: newVMPort(t, s.lab, vm, "eth1")}
	}
	s.raw.within = func(f func() error) error { return inside(s.sites["h1"].net.ns, f) }
	if err := s.raw.dial(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.raw.peer.Close() })
	return s
}

// soakLab is 02-frr-rr with that.
func soakLab(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("02-frr-rr")); err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(dir, "rr", "frr.conf")
	rr, err := os.ReadFile(conf)
	if err != nil {
		t.Fatal(err)
	}
	monitor := fmt.Sprintf(" neighbor %[1]s peer-group clients\n neighbor %[1]s passive\n address-family", monitorAddr)
	files := map[string]string{conf: strings.Replace(string(rr), " address-family", monitor, 1)}
	for n := 1; n <= 2; n++ {
		yaml := fmt.Sprintf(`asn: 65000
vtep: 10.255.0.%[1]d
snooping-rate: 100000
api: {metrics: "127.0.0.1:9473"}
peers:
  - {address: %[2]s, asn: 65000, local-address: 10.255.0.%[1]d, connect-retry: 200ms}
`, n, rrAddr)
		if n == 1 {
			yaml += fmt.Sprintf("  - {address: %s, asn: 65000, passive: true}\n", rawAddr)
		}
		files[filepath.Join(dir, fmt.Sprintf("h%d/evpnd.yaml", n))] = yaml
	}
	for path, text := range files {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// fleeting is a host of the long runs, of one of up to 256 groups.
type fleeting struct {
	mac []byte
	ip  netip.Addr
}

func fleetingHost(group byte, n int) fleeting {
	mac := binary.BigEndian.AppendUint32([]byte{2, group}, uint32(n))
	return fleeting{mac: mac, ip: netip.AddrFrom4([4]byte{group, mac[3], mac[4], mac[5]})}
}

// comes has a host tell its address by a gratuitous ARP.
func (s *site) comes(h fleeting) error {
	if _, err := unix.Write(s.vm.fd, gratuitousARP(h.mac, h.ip)); err != nil {
		return fmt.Errorf("ARP of %s: %w", h.ip, err)
	}
	return nil
}

// goes takes a host's FDB row away, as the end of its port does. One that the bridge does not have any more is success.
func (s *site) goes(h fleeting) error {
	row := &netlink.Neigh{LinkIndex: s.port, Family: unix.AF_BRIDGE, Flags: unix.NTF_MASTER, HardwareAddr: h.mac}
	if err := s.net.handle.NeighDel(row); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("delete FDB row of %s: %w", macText(h.mac), err)
	}
	return nil
}

// The hosts that the raw peer tells of, in blocks that change one by one.
const (
	rawBlocks  = 100
	rawInBlock = 50
	rawFirst   = 0x40000 // beyond the addresses of the VMs
)

// rawVTEPs are the VTEPs that the raw peer's hosts move between. Nobody is there.
var rawVTEPs = []netip.Addr{netip.MustParseAddr("10.255.1.1"), netip.MustParseAddr("10.255.1.2")}

// rawHosts is the raw peer and what it has announced.
type rawHosts struct {
	within func(func() error) error
	peer   *rawpeer.Peer
	told   [rawBlocks]rawpeer.Load // N 0: nothing
}

// dial makes a session and announces everything that was announced in the one before.
func (r *rawHosts) dial(ctx context.Context) (err error) {
	if r.peer != nil {
		r.peer.Close()
	}
	if r.peer, err = rawpeer.Dial(ctx, r.within, rawAddr, h1Addr, nil); err != nil {
		return err
	}
	for _, l := range r.told {
		if l.N > 0 {
			if err := r.tell(l); err != nil {
				return err
			}
		}
	}
	return r.peer.Write(wire.AppendEoR(nil))
}

func (r *rawHosts) tell(l rawpeer.Load) error {
	messages, err := l.Messages()
	if err != nil {
		return err
	}
	return r.peer.Write(messages)
}

// change has the hosts of a block move to another VTEP, or, every fourth time, go and come again at the next one.
func (r *rawHosts) change(n int) error {
	block, round := n%rawBlocks, n/rawBlocks
	before := r.told[block]
	now := rawpeer.Load{
		From: rawFirst + block*rawInBlock, N: rawInBlock, VNI: 100, VNIs: 1, IPs: true, Seq: uint32(round),
		VTEP: rawVTEPs[round%2],
	}
	gone := before
	gone.Withdraw = true
	steps := []rawpeer.Load{now, gone}
	if round%4 == 3 {
		steps = []rawpeer.Load{gone, now}
	}
	for _, l := range steps {
		if l.N > 0 {
			if err := r.tell(l); err != nil {
				return err
			}
		}
	}
	r.told[block] = now
	return nil
}

// reachable waits until a session of h1 is up.
func (s *soak) reachable(ctx context.Context, peers ...netip.Addr) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for _, addr := range peers {
		err := waitFor(ctx, "session with "+addr.String(), func() (bool, error) {
			return wantEstablished(ctx, s.lab, "h1", addr.String()) == nil, nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
