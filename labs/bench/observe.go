package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/evpnd/evpnd/evpn"
)

// observer reads the kernel's notifications of entries that come, go and change. It must cost little, since the machine it
// watches does its work too: the kernel drops what is of no interest, and the rest is read without the library's parser.
//
// Of an FDB entry it sees the VXLAN device's half come, which is written last, and the bridge's half go: when a nexthop group
// takes its FDB entries along, the kernel says nothing about the device's half.
type observer struct {
	conn *netlink.Conn
	raw  syscall.RawConn
	buf  []byte
}

// Offsets in a notification: header of the message, and row (struct ndmsg), then the first attribute, which is the MAC of an
// FDB entry.
const (
	typeOffset    = 4
	familyOffset  = 16
	ifindexOffset = 20
	flagsOffset   = 26
	macOffset     = 32
)

// entry is one notification: an FDB entry, or a neighbour.
type entry struct {
	gone, fdb bool
	mac       evpn.MAC // fdb
}

// observe begins to watch a host: one device, or all of them when device is empty.
func observe(h *host, device string) (*observer, error) {
	ifindex := 0
	if device != "" {
		if err := h.inside(func() error {
			link, err := net.InterfaceByName(device)
			if err == nil {
				ifindex = link.Index
			}
			return err
		}); err != nil {
			return nil, fmt.Errorf("find %s: %w", device, err)
		}
	}
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{NetNS: int(h.ns)})
	if err != nil {
		return nil, fmt.Errorf("open observer's socket: %w", err)
	}
	filter, err1 := bpf.Assemble(observerFilter(uint32(ifindex)))
	raw, err2 := conn.SyscallConn()
	err = errors.Join(err1, err2, conn.SetBPF(filter), conn.SetReadBuffer(512<<20), conn.JoinGroup(unix.RTNLGRP_NEIGH))
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("set up observer's socket: %w", err)
	}
	return &observer{conn: conn, raw: raw, buf: make([]byte, 1<<16)}, nil
}

// observerFilter is what the kernel runs on each notification: an FDB entry must be new in a VXLAN device, or gone from a
// bridge; ifindex 0 is any.
func observerFilter(ifindex uint32) []bpf.Instruction {
	// Loads are big-endian, the message is not.
	swapped := binary.BigEndian.Uint32(binary.NativeEndian.AppendUint32(nil, ifindex))
	deleted := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.RTM_DELNEIGH))
	filter := []bpf.Instruction{
		bpf.LoadAbsolute{Off: familyOffset, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.AF_BRIDGE, SkipTrue: 4}, // a neighbour: taken
		bpf.LoadAbsolute{Off: typeOffset, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(deleted), SkipTrue: 4},
		bpf.LoadAbsolute{Off: flagsOffset, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpBitsNotSet, Val: unix.NTF_SELF, SkipTrue: 1},
		bpf.RetConstant{Val: 1 << 18},
		bpf.RetConstant{Val: 0},
		bpf.LoadAbsolute{Off: flagsOffset, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: unix.NTF_SELF, SkipTrue: 1},
		bpf.RetConstant{Val: 1 << 18},
		bpf.RetConstant{Val: 0},
	}
	if ifindex == 0 {
		return filter
	}
	return append([]bpf.Instruction{
		bpf.LoadAbsolute{Off: ifindexOffset, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: swapped, SkipTrue: 1},
		bpf.RetConstant{Val: 0},
	}, filter...)
}

func (o *observer) close() { o.conn.Close() }

var errSilent = errors.New("the kernel said nothing more of what was awaited")

// await reads until seen says that it has what it wants, and returns when that was read. Within limit of each other the
// kernel must say something.
func (o *observer) await(limit time.Duration, seen func(entry) bool) (time.Time, error) {
	if err := o.conn.SetReadDeadline(time.Now().Add(limit)); err != nil {
		return time.Time{}, err
	}
	var failed error
	err := o.raw.Read(func(fd uintptr) bool {
		for {
			n, err := unix.Read(int(fd), o.buf)
			switch {
			case errors.Is(err, unix.EAGAIN):
				return false // wait for more
			case err != nil:
				failed = err
				return true
			case n > flagsOffset && seen(o.parse(n)):
				return true
			}
		}
	})
	end := time.Now()
	if err := errors.Join(err, failed); err != nil {
		return end, fmt.Errorf("%w: %w", errSilent, err)
	}
	return end, nil
}

func (o *observer) parse(n int) entry {
	e := entry{
		gone: binary.NativeEndian.Uint16(o.buf[typeOffset:]) == unix.RTM_DELNEIGH,
		fdb:  o.buf[familyOffset] == unix.AF_BRIDGE,
	}
	if e.fdb && n >= macOffset+len(e.mac) {
		e.mac = evpn.MAC(o.buf[macOffset:])
	}
	return e
}

// counted is a condition for await: that many FDB entries and neighbours have come, or gone.
func counted(gone bool, fdb, neighbors int) func(entry) bool {
	return func(e entry) bool {
		if e.gone == gone {
			if e.fdb {
				fdb--
			} else {
				neighbors--
			}
		}
		return fdb <= 0 && neighbors <= 0
	}
}

// arrived is a condition for await: the FDB entry of a MAC has come, or was changed.
func arrived(mac evpn.MAC) func(entry) bool {
	return func(e entry) bool { return e.fdb && !e.gone && e.mac == mac }
}
