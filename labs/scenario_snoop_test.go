package labs

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// vmPort sends frames as they are out of a node's interface.
type vmPort struct {
	t  *testing.T
	fd int
}

// newVMPort opens a packet socket in a node, which receives nothing.
func newVMPort(t *testing.T, lab *Lab, node, ifname string) vmPort {
	t.Helper()
	w := vmPort{t: t, fd: packetSocket(t, lab, node, ifname, 0)}
	t.Cleanup(func() { unix.Close(w.fd) })
	return w
}

// packetSocket opens a packet socket in a node for frames of a protocol, which is in network order.
func packetSocket(t *testing.T, lab *Lab, node, ifname string, protocol uint16) (fd int) {
	t.Helper()
	err := inside(namespaceOf(t, lab, node), func() (err error) {
		fd, err = openPacketSocket(ifname, protocol)
		return err
	})
	if err != nil {
		t.Fatalf("packet socket on %s of %s: %v", ifname, node, err)
	}
	return fd
}

func openPacketSocket(ifname string, protocol uint16) (int, error) {
	link, err := netlink.LinkByName(ifname)
	if err != nil {
		return -1, err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: protocol, Ifindex: link.Attrs().Index}); err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

// inside runs f in a network namespace. A socket stays in the namespace of the thread that made it; the thread ends with its
// goroutine, since it is never unlocked.
func inside(ns netns.NsHandle, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := netns.Set(ns); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

func namespaceOf(t *testing.T, lab *Lab, node string) netns.NsHandle {
	t.Helper()
	n, err := lab.node(node)
	if err != nil {
		t.Fatal(err)
	}
	ns, err := netns.GetFromPid(n.PID)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	return ns
}

func (w vmPort) send(frame []byte) {
	w.t.Helper()
	if _, err := unix.Write(w.fd, frame); err != nil {
		w.t.Fatal(err)
	}
}

var broadcast = []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// gratuitousARP is the request by which a host tells its own address.
func gratuitousARP(mac []byte, ip netip.Addr) []byte {
	return slices.Concat(broadcast, mac, []byte{8, 6, 0, 1, 8, 0, 6, 4, 0, 1}, mac, ip.AsSlice(), make([]byte, 6), ip.AsSlice())
}

// unsolicitedNA is the same for IPv6, with the override flag. Snooping does not look at its checksum, the hosts would.
func unsolicitedNA(mac []byte, ip netip.Addr) []byte {
	icmp := slices.Concat([]byte{136, 0, 0, 0, 0x20, 0, 0, 0}, ip.AsSlice(), []byte{2, 1}, mac)
	head := slices.Concat([]byte{0x33, 0x33, 0, 0, 0, 1}, mac, []byte{0x86, 0xdd, 0x60, 0, 0, 0, 0, byte(len(icmp)), 58, 255})
	return slices.Concat(head, ip.AsSlice(), netip.MustParseAddr("ff02::1").AsSlice(), icmp)
}

// testGratuitous: VNI 100 has no address on our hosts' bridges, and yet one frame of a VM is enough for its address.
func testGratuitous(t *testing.T, ctx context.Context, lab *Lab) {
	const mac = "02:00:00:64:77:01"
	octets := []byte{2, 0, 0, 0x64, 0x77, 1}
	w := newVMPort(t, lab, "vm11", "eth1")
	for _, ip := range []string{"172.16.100.177", "fd00:100::177"} {
		addr := netip.MustParseAddr(ip)
		if addr.Is4() {
			w.send(gratuitousARP(octets, addr))
		} else {
			w.send(unsolicitedNA(octets, addr))
		}
		within(t, ctx, 20*time.Second, "everyone has "+ip, func() error {
			return all(
				wantARP(ctx, lab, "h1", 100, ip, mac, "local", ""),
				wantFRRARP(ctx, lab, "tor", 100, ip, mac, vteps02["h1"]),
				wantNextHop(ctx, lab, "tor", fmt.Sprintf("[2]:[0]:[48]:[%s]:[%d]:[%s]", mac, addr.BitLen(), ip), vteps02["h1"]),
				wantARP(ctx, lab, "h2", 100, ip, mac, "remote", vteps02["h1"]),
				wantNeighbor(ctx, lab, "h2", "br100", ip, mac),
				wantFDB(ctx, lab, "h2", "vxlan100", mac, vteps02["h1"]),
			)
		})
	}
	if rows, err := neighbors(ctx, lab, "h1", "br100"); err != nil || slices.ContainsFunc(rows, func(n neighbor) bool { return n.MAC == mac }) {
		t.Errorf("h1's own neighbour table: %v, %v", rows, err)
	}
	run(t, ctx, lab, "h1", "bridge fdb del "+mac+" dev eth2 master")
	within(t, ctx, 20*time.Second, "nobody has the VM that is gone", func() error {
		return all(
			wantNoMAC(ctx, lab, "h1", 100, mac),
			wantNoMAC(ctx, lab, "h2", 100, mac),
			want(ctx, lab, "h2", false, func(a ctlARP) bool { return a.MAC == mac }, "show", "arp"),
		)
	})
}

// TestFrameToRemoteKernel measures from a gratuitous frame of a host that nobody knew until the neighbour entry in the
// kernel of the other VTEP, which comes after the host's FDB entry.
func TestFrameToRemoteKernel(t *testing.T) {
	const hosts = 1000
	ctx := testContext(t, 3*time.Minute)
	lab := bringUp(t, ctx, "01-two-hosts")
	within(t, ctx, 30*time.Second, "h1 and h2 have a session", func() error {
		return all(wantEstablished(ctx, lab, "h1", "10.0.0.1"), wantVTEP(ctx, lab, "h1", true, 100, "10.255.0.2"),
			wantVTEP(ctx, lab, "h2", true, 100, "10.255.0.1"))
	})
	ns := namespaceOf(t, lab, "h2")
	updates, done := make(chan netlink.NeighUpdate, 4*hosts), make(chan struct{})
	defer close(done)
	err := netlink.NeighSubscribeWithOptions(updates, done, netlink.NeighSubscribeOptions{
		Namespace: &ns, ReceiveBufferSize: 32 << 20, ReceiveBufferForceSize: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	w := newVMPort(t, lab, "vm11", "eth1")
	host := func(round, i int) ([]byte, netip.Addr) {
		var n [2]byte
		binary.BigEndian.PutUint16(n[:], uint16(i))
		return []byte{2, 0, 1, byte(round), n[0], n[1]}, netip.AddrFrom4([4]byte{10, byte(round), n[0], n[1]})
	}
	await := func(wanted map[netip.Addr]time.Time) (took []time.Duration) {
		t.Helper()
		limit := time.After(time.Minute)
		for len(wanted) > 0 {
			select {
			case u := <-updates:
				ip, _ := netip.AddrFromSlice(u.IP.To4())
				if sent, ok := wanted[ip]; ok && u.Type == unix.RTM_NEWNEIGH {
					took = append(took, time.Since(sent))
					delete(wanted, ip)
				}
			case <-limit:
				t.Fatalf("%d hosts of %d never arrived", len(wanted), hosts)
			}
		}
		slices.Sort(took)
		return took
	}

	var one []time.Duration
	for i := range hosts {
		mac, ip := host(1, i)
		sent := time.Now()
		w.send(gratuitousARP(mac, ip))
		one = append(one, await(map[netip.Addr]time.Time{ip: sent})...)
	}
	slices.Sort(one)
	t.Logf("one by one: p50 %s, p99 %s, max %s", one[hosts/2], one[hosts*99/100], one[hosts-1])
	if one[hosts/2] > 50*time.Millisecond {
		t.Errorf("p50 %s, want less than 50 ms", one[hosts/2])
	}

	sent := map[netip.Addr]time.Time{}
	for i := range hosts {
		mac, ip := host(2, i)
		sent[ip] = time.Now()
		w.send(gratuitousARP(mac, ip))
	}
	burst := await(sent)
	t.Logf("all at once: p50 %s, p99 %s, max %s", burst[hosts/2], burst[hosts*99/100], burst[hosts-1])
}
