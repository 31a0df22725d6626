package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/vishvananda/netns"
)

// host is one hypervisor: a network namespace with a bridge and a VXLAN device for each VNI. In the first VNI's bridge is
// "port", whose other end, "guest", is where frames of virtual machines come from. What leaves for other VTEPs goes out of
// "under".
type host struct {
	name string
	vtep netip.Addr
	vnis int
	ns   netns.NsHandle
	dir  string // of the subject's files

	create int // VNIs behind vnis whose devices evpnd is to make
}

// newHost makes a host whose underlay ends in nothing, which is enough to see what would be sent.
func newHost(ctx context.Context, vtep netip.Addr, vnis int) (*host, error) {
	h := &host{name: fmt.Sprintf("evpnbench-%d-%s", os.Getpid(), vtep), vtep: vtep, vnis: vnis}
	if err := h.make(ctx); err != nil {
		return nil, errors.Join(err, h.close())
	}
	return h, nil
}

func (h *host) make(ctx context.Context) (err error) {
	if h.dir, err = os.MkdirTemp("", "evpnbench-"); err != nil {
		return err
	}
	if err := command(ctx, "", "ip", "netns", "add", h.name); err != nil {
		return err
	}
	if h.ns, err = netns.GetFromName(h.name); err != nil {
		return fmt.Errorf("open namespace %s: %w", h.name, err)
	}
	// Hosts of our own making say nothing by themselves.
	if err := h.sysctl("ipv6/conf/default/disable_ipv6", "1"); err != nil {
		return err
	}
	var script strings.Builder
	add := func(format string, args ...any) { fmt.Fprintf(&script, format+"\n", args...) }
	add("link set lo up")
	add("addr add %s/32 dev lo", h.vtep)
	for _, p := range peers {
		add("addr add %s/32 dev lo", p)
	}
	add("link add under type veth peer name void")
	add("link set void up")
	add("link set under arp off up")
	add("route add 10.255.0.0/16 dev under src %s", h.vtep)
	for vni := firstVNI; vni < firstVNI+h.vnis; vni++ {
		add("link add br%d address 02:ff:00:00:00:01 type bridge", vni)
		add("link add vxlan%d type vxlan id %d dstport 4789 local %s nolearning", vni, vni, h.vtep)
		add("link set vxlan%d master br%d", vni, vni)
		add("link set vxlan%d type bridge_slave learning off", vni)
		add("link set br%d up", vni)
		add("link set vxlan%d up", vni)
	}
	add("link add guest type veth peer name port")
	add("link set port master br%d", firstVNI)
	add("link set port up")
	add("link set guest up")
	return command(ctx, script.String(), "ip", "-n", h.name, "-batch", "-")
}

// joinUnderlays joins the underlays of two hosts.
func joinUnderlays(ctx context.Context, a, b *host) error {
	for _, h := range []*host{a, b} {
		if err := command(ctx, "", "ip", "-n", h.name, "link", "del", "under"); err != nil {
			return err
		}
	}
	if err := command(ctx, "", "ip", "-n", a.name, "link", "add", "under", "type", "veth", "peer", "name", "under", "netns", b.name); err != nil {
		return err
	}
	for _, h := range []*host{a, b} {
		script := fmt.Sprintf("link set under up\nroute add 10.255.0.0/16 dev under src %s\n", h.vtep)
		if err := command(ctx, script, "ip", "-n", h.name, "-batch", "-"); err != nil {
			return err
		}
	}
	return nil
}

// close removes the devices, all but lo, before their namespace: the kernel takes a namespace down later, and that of a hundred
// VXLAN devices holds the lock of all network devices for a second of the next measure.
func (h *host) close() error {
	if h.ns > 0 {
		h.ns.Close()
	}
	ctx := context.Background()
	_ = command(ctx, "link set lo group 1\nlink del group default\n", "ip", "-n", h.name, "-batch", "-") // an error if there are none
	err := command(ctx, "", "ip", "netns", "del", h.name)
	return errors.Join(err, os.RemoveAll(h.dir))
}

// inside runs f on a thread in the host's namespace. A socket stays where it was made.
func (h *host) inside(f func() error) error {
	done := make(chan error)
	go func() { // ends with f; its thread is thrown away
		runtime.LockOSThread()
		if err := netns.Set(h.ns); err != nil {
			done <- fmt.Errorf("enter namespace %s: %w", h.name, err)
			return
		}
		done <- f()
	}()
	return <-done
}

func (h *host) sysctl(name, value string) error {
	return h.inside(func() error { return os.WriteFile(filepath.Join("/proc/sys/net", name), []byte(value), 0o644) })
}

// command runs a program to its end with input on its standard input; its output is the reason when it fails.
func command(ctx context.Context, input, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = strings.NewReader(input)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return nil
}
