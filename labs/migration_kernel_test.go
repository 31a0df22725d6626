package labs

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	mdlayher "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// This file reads the tables of a node's kernel by netlink: commands would take longer than what is measured.

// kernelRow is an FDB or neighbour entry.
type kernelRow struct {
	port   int  // of the device
	bridge bool // a row of the bridge's FDB, not of the device's own
	state  uint16
	flags  uint8
	mac    string
	dst    netip.Addr // the IP of a neighbour, the VTEP of an FDB row that names one
	group  uint32     // nexthop group, 0: none
}

// kernelTables reads the tables of one node.
type kernelTables struct {
	conn *mdlayher.Conn
	net  nodeNet
	// devices, by their index
	bridge, vxlan, port int
	frr                 bool
	sockets             string // file that lists the packet sockets
}

// leftBehind reports a row of the VXLAN device that FRR 8.4 does not remove when the MAC becomes local, nor when nobody has
// it any more. It does no harm while the bridge has a row of its own.
func (k *kernelTables) leftBehind(r kernelRow) bool { return k.frr && r.port == k.vxlan && !r.bridge }

func openTables(t *testing.T, lab *Lab, node string) *kernelTables {
	t.Helper()
	n, err := lab.node(node)
	if err != nil {
		t.Fatal(err)
	}
	k := &kernelTables{frr: roleOf(n.Image) == roleFRR, sockets: fmt.Sprintf("/proc/%d/net/packet", n.PID)}
	if k.net, err = openNet(n.PID); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.net.close)
	if k.conn, err = mdlayher.Dial(unix.NETLINK_ROUTE, &mdlayher.Config{NetNS: int(k.net.ns)}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.conn.Close() })
	for name, index := range map[string]*int{"br100": &k.bridge, "vxlan100": &k.vxlan, "eth2": &k.port} {
		link, err := k.net.handle.LinkByName(name)
		if err != nil {
			t.Fatalf("%s: %s: %v", node, name, err)
		}
		*index = link.Attrs().Index
	}
	return k
}

func (k *kernelTables) dump(kind uint16, header []byte) ([]mdlayher.Message, error) {
	return k.conn.Execute(mdlayher.Message{
		Header: mdlayher.Header{Type: mdlayher.HeaderType(kind), Flags: mdlayher.Request | mdlayher.Dump},
		Data:   header,
	})
}

// rows reads the FDB (unix.AF_BRIDGE) or the neighbours of a family: those of one MAC.
func (k *kernelTables) rows(family uint8, mac string) ([]kernelRow, error) {
	header := make([]byte, unix.SizeofNdMsg)
	header[0] = family
	messages, err := k.dump(unix.RTM_GETNEIGH, header)
	if err != nil {
		return nil, fmt.Errorf("dump entries of family %d: %w", family, err)
	}
	var rows []kernelRow
	for _, m := range messages {
		row, err := parseRow(m.Data)
		if err != nil {
			return nil, err
		}
		if row.mac == mac {
			rows = append(rows, row)
		}
	}
	return rows, nil
}

// ndaNexthop is NDA_NH_ID of linux/neighbour.h, which x/sys has not.
const ndaNexthop = 13

func parseRow(b []byte) (kernelRow, error) {
	if len(b) < unix.SizeofNdMsg {
		return kernelRow{}, fmt.Errorf("neighbour message of %d octets", len(b))
	}
	row := kernelRow{
		port:  int(int32(binary.NativeEndian.Uint32(b[4:]))),
		state: binary.NativeEndian.Uint16(b[8:]), flags: b[10],
	}
	attrs, err := mdlayher.NewAttributeDecoder(b[unix.SizeofNdMsg:])
	if err != nil {
		return row, err
	}
	for attrs.Next() {
		switch attrs.Type() {
		case unix.NDA_DST:
			row.dst, _ = netip.AddrFromSlice(attrs.Bytes())
		case unix.NDA_LLADDR:
			row.mac = macText(attrs.Bytes())
		case unix.NDA_MASTER:
			row.bridge = true
		case ndaNexthop:
			row.group = attrs.Uint32()
		}
	}
	return row, attrs.Err()
}

func macText(b []byte) string {
	if len(b) != 6 {
		return ""
	}
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", b[0], b[1], b[2], b[3], b[4], b[5])
}

// groups reads the VTEP of every nexthop group of one member.
func (k *kernelTables) groups() (map[uint32]netip.Addr, error) {
	messages, err := k.dump(unix.RTM_GETNEXTHOP, make([]byte, unix.SizeofNhmsg))
	if err != nil {
		return nil, fmt.Errorf("dump nexthops: %w", err)
	}
	vteps, members := map[uint32]netip.Addr{}, map[uint32]uint32{}
	for _, m := range messages {
		attrs, err := mdlayher.NewAttributeDecoder(m.Data[unix.SizeofNhmsg:])
		if err != nil {
			return nil, err
		}
		var id, member uint32
		var gateway netip.Addr
		for attrs.Next() {
			switch attrs.Type() {
			case unix.NHA_ID:
				id = attrs.Uint32()
			case unix.NHA_GROUP:
				if b := attrs.Bytes(); len(b) == unix.SizeofNexthopGrp {
					member = binary.NativeEndian.Uint32(b)
				}
			case unix.NHA_GATEWAY:
				gateway, _ = netip.AddrFromSlice(attrs.Bytes())
			}
		}
		if member != 0 {
			members[id] = member
		} else {
			vteps[id] = gateway
		}
	}
	for id, member := range members {
		vteps[id] = vteps[member]
	}
	return vteps, nil
}

// wantNothing wants no FDB entry for the MAC, and no neighbour entry that is not someone else's.
func (k *kernelTables) wantNothing(mac string) error {
	rows, err := k.rows(unix.AF_BRIDGE, mac)
	if err != nil {
		return err
	}
	for _, r := range rows {
		if !k.leftBehind(r) {
			return fmt.Errorf("there is %+v", r)
		}
	}
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		rows, err := k.rows(family, mac)
		if err != nil {
			return err
		}
		for _, r := range rows {
			if r.flags&unix.NTF_EXT_LEARNED != 0 {
				return fmt.Errorf("there is neighbour %+v", r)
			}
		}
	}
	return nil
}

// wantRemote wants the MAC behind the VTEP, in the VXLAN device's table and in the bridge's, and on no other port.
func (k *kernelTables) wantRemote(mac string, vtep netip.Addr) error {
	rows, err := k.rows(unix.AF_BRIDGE, mac)
	if err != nil {
		return err
	}
	device, bridge := false, false
	for _, r := range rows {
		switch {
		case r.port != k.vxlan:
			return fmt.Errorf("it is local: %+v", r)
		case r.bridge:
			bridge = true
		case r.group != 0:
			vteps, err := k.groups()
			if err != nil {
				return err
			}
			if vteps[r.group] != vtep {
				return fmt.Errorf("it is behind %s: %+v", vteps[r.group], r)
			}
			device = true
		case r.dst != vtep:
			return fmt.Errorf("it is behind %s: %+v", r.dst, r)
		default:
			device = true
		}
	}
	if !device || !bridge {
		return fmt.Errorf("not behind %s (device %t, bridge %t): %+v", vtep, device, bridge, rows)
	}
	return nil
}

// wantLocal wants the MAC on the VM's port alone, by a static row when static is set.
func (k *kernelTables) wantLocal(mac string, static bool) error {
	rows, err := k.rows(unix.AF_BRIDGE, mac)
	if err != nil {
		return err
	}
	rows = slices.DeleteFunc(rows, k.leftBehind)
	if len(rows) != 1 || rows[0].port != k.port || !rows[0].bridge {
		return fmt.Errorf("not on the VM's port alone: %+v", rows)
	}
	if static && rows[0].state&unix.NUD_NOARP == 0 {
		return fmt.Errorf("its static row is gone: %+v", rows[0])
	}
	return nil
}

// wantNeighbor wants a neighbour entry, a permanent one when permanent is set.
func (k *kernelTables) wantNeighbor(ip netip.Addr, mac string, permanent bool) error {
	family := uint8(unix.AF_INET)
	if ip.Is6() {
		family = unix.AF_INET6
	}
	rows, err := k.rows(family, mac)
	if err != nil {
		return err
	}
	for _, r := range rows {
		if r.port == k.bridge && r.dst == ip && (!permanent || r.state&unix.NUD_PERMANENT != 0) {
			return nil
		}
	}
	return fmt.Errorf("no neighbour %s (permanent %t): %+v", ip, permanent, rows)
}

// changes remembers when a VXLAN device's row of each MAC has changed last.
type changes struct {
	mu   sync.Mutex
	last map[string]time.Time
}

// follow listens until the test ends.
func (k *kernelTables) follow(t *testing.T) *changes {
	t.Helper()
	conn, err := mdlayher.Dial(unix.NETLINK_ROUTE, &mdlayher.Config{NetNS: int(k.net.ns)})
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.JoinGroup(unix.RTNLGRP_NEIGH); err != nil {
		t.Fatal(err)
	}
	c := &changes{last: map[string]time.Time{}}
	var done sync.WaitGroup
	done.Go(func() {
		for {
			messages, err := conn.Receive()
			if err != nil {
				return // closed
			}
			now := time.Now()
			c.mu.Lock()
			for _, m := range messages {
				if row, err := parseRow(m.Data); err == nil && row.port == k.vxlan && !row.bridge {
					c.last[row.mac] = now
				}
			}
			c.mu.Unlock()
		}
	})
	t.Cleanup(func() {
		conn.Close()
		done.Wait()
	})
	return c
}

func (c *changes) of(mac string) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last[mac]
}
