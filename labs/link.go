package labs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// netnsPrefix begins the names of our network namespaces, so that nothing else is ever taken for one.
const netnsPrefix = "evpnlab-"

// netnsDir is where iproute2 looks for named network namespaces.
const netnsDir = "/run/netns"

// nameNetns makes the network namespace of a process known to ip netns and returns its name.
func nameNetns(name string, pid int) (string, error) {
	if err := os.MkdirAll(netnsDir, 0o755); err != nil {
		return "", fmt.Errorf("name network namespace %s: %w", name, err)
	}
	path := filepath.Join(netnsDir, name)
	if err := unnameNetns(name); err != nil {
		return "", err
	}
	if err := os.WriteFile(path, nil, 0o444); err != nil {
		return "", fmt.Errorf("name network namespace %s: %w", name, err)
	}
	if err := mount(fmt.Sprintf("/proc/%d/ns/net", pid), path, "", unix.MS_BIND, ""); err != nil {
		return "", errors.Join(err, os.Remove(path))
	}
	return name, nil
}

// unnameNetns undoes nameNetns; a name that is not there is success.
func unnameNetns(name string) error {
	if name == "" {
		return nil
	}
	path := filepath.Join(netnsDir, name)
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove network namespace %s: %w", name, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove network namespace %s: %w", name, err)
	}
	return nil
}

// nodeNet is a node's network namespace and a netlink handle in it.
type nodeNet struct {
	ns     netns.NsHandle
	handle *netlink.Handle
}

func openNet(pid int) (nodeNet, error) {
	ns, err := netns.GetFromPid(pid)
	if err != nil {
		return nodeNet{}, fmt.Errorf("open network namespace of process %d: %w", pid, err)
	}
	handle, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		ns.Close()
		return nodeNet{}, fmt.Errorf("open netlink in network namespace of process %d: %w", pid, err)
	}
	return nodeNet{ns: ns, handle: handle}, nil
}

func (n nodeNet) close() {
	n.handle.Close()
	n.ns.Close()
}

func (n nodeNet) setUp(ifname string) error {
	link, err := n.handle.LinkByName(ifname)
	if err != nil {
		return fmt.Errorf("set %s up: %w", ifname, err)
	}
	if err := n.handle.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", ifname, err)
	}
	return nil
}

// addLink makes the veth pair of a link with both ends already in their nodes: the host's own namespace never sees it.
func addLink(l Link, a, b nodeNet) error {
	veth := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: l.A.Interface, MTU: l.MTU},
		PeerName:  l.B.Interface, PeerMTU: uint32(l.MTU), PeerNamespace: netlink.NsFd(b.ns),
	}
	if err := a.handle.LinkAdd(veth); err != nil {
		return fmt.Errorf("add link %s %s: %w", l.A, l.B, err)
	}
	for _, end := range []struct {
		net  nodeNet
		name string
	}{{a, l.A.Interface}, {b, l.B.Interface}} {
		if err := end.net.setUp(end.name); err != nil {
			return fmt.Errorf("add link %s %s: %w", l.A, l.B, err)
		}
	}
	return nil
}
