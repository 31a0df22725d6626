package dataplane

import (
	"encoding/binary"
	"slices"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Most notifications are the echo of what we wrote ourselves. Two sockets listen, each with a filter: the watcher's hears all
// that is not ours for certain, the other one (echo.go) what looks like ours. What the first one hears, and soon enough, is what
// the writer counts on: a row of a VXLAN device that leads to our nexthop is ours to change, whoever wrote it.

// Where things stand in a notification.
const (
	typeAt      = 4  // nlmsg_type
	portAt      = 12 // nlmsg_pid: who asked for it, where the kernel says so
	familyAt    = 16 // ndm_family
	stateAt     = 16 + 8
	flagsAt     = 16 + 10
	attributeAt = 16 + 12 // the first attribute of a row
)

// What a filter does with a message.
var (
	keep = returns(1 << 31)
	drop = returns(0)
)

// noticed is the filter of the watcher's socket. Of new rows it passes what neither markedRows takes out nor the writer with
// the given port id wrote: of neighbours, unlike FDB rows, the kernel does say who.
func noticed(writer uint32, nexthops bool) ([]bpf.RawInstruction, error) {
	return bpf.Assemble(slices.Concat(
		given(load(typeAt, 2), bpf.JumpEqual, wire16(unix.RTM_NEWNEIGH), slices.Concat(
			markedRows(drop, nexthops),
			given(load(portAt, 4), bpf.JumpEqual, wire32(writer), drop),
		)),
		keep,
	))
}

// doubtful is the filter of the socket for marked rows that may be ours.
func doubtful(nexthops bool) ([]bpf.RawInstruction, error) {
	return bpf.Assemble(slices.Concat(
		given(load(typeAt, 2), bpf.JumpEqual, wire16(unix.RTM_NEWNEIGH), markedRows(keep, nexthops)),
		drop,
	))
}

// markedRows runs block for new rows of FDBs with NTF_EXT_LEARNED that may be ours: those of bridges, but for static ones,
// of flood lists, and of VXLAN devices where they lead to a nexthop of our range, or where there are no nexthops. A static row
// that is written by hand over an entry of ours keeps the flag, and is a host's.
func markedRows(block []bpf.Instruction, nexthops bool) []bpf.Instruction {
	device := block
	if nexthops {
		const prefix = ^uint32(2*maxVTEPs - 1) // of the ids in our range
		device = slices.Concat(
			given(attribute(unix.NDA_LLADDR, 0, 4), bpf.JumpEqual, 0,
				given(attribute(unix.NDA_LLADDR, 4, 2), bpf.JumpEqual, 0, block)),
			given(append(attribute(ndaNHID, 0, 4), bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: wire32(prefix)}),
				bpf.JumpEqual, wire32(firstID), block),
		)
	}
	bridge := given(load(stateAt, 2), bpf.JumpBitsNotSet, wire16(unix.NUD_NOARP), block)
	return given(load(familyAt, 1), bpf.JumpEqual, unix.AF_BRIDGE,
		given(load(flagsAt, 1), bpf.JumpBitsSet, unix.NTF_EXT_LEARNED, slices.Concat(
			given(load(flagsAt, 1), bpf.JumpBitsSet, unix.NTF_SELF, device),
			given(load(flagsAt, 1), bpf.JumpBitsNotSet, unix.NTF_SELF, bridge),
		)))
}

// attribute loads octets of an attribute, from one on; of the message's header where there is no such attribute.
func attribute(typ, from uint32, octets int) []bpf.Instruction {
	const header = 4 // length and type
	return []bpf.Instruction{
		bpf.LoadConstant{Dst: bpf.RegX, Val: typ},
		bpf.LoadConstant{Dst: bpf.RegA, Val: attributeAt},
		bpf.LoadExtension{Num: bpf.ExtNetlinkAttr},
		bpf.TAX{},
		bpf.LoadIndirect{Off: header + from, Size: octets},
	}
}

// BPF loads in network order what netlink writes in the machine's.

func wire16(v uint16) uint32 {
	return uint32(binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, v)))
}

func wire32(v uint32) uint32 {
	return binary.BigEndian.Uint32(binary.NativeEndian.AppendUint32(nil, v))
}
