package dataplane

import (
	"slices"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Where things stand in a frame without VLAN tag, and for IPv6 without extension headers.
const (
	networkAt     = 14
	innerTypeAt   = etherTypeAt + 4 // behind a VLAN tag
	protocol4At   = networkAt + 9
	fragment4At   = networkAt + 6
	nextHeader6At = networkAt + 6
	payload6At    = networkAt + 40
	udpPortAt     = 2 // destination, in a UDP header

	fragmentOffset = 0x1fff
	vlanID         = 0x0fff
)

// Ports that DHCP is sent to (RFC 2131 §4.1, RFC 8415 §7.2).
const (
	dhcp4ServerPort = 67
	dhcp4ClientPort = 68
	dhcp6ClientPort = 546
	dhcp6ServerPort = 547
)

// snoopFilter passes, of what comes in, ARP, RARP, neighbour solicitations and advertisements, and DHCP; of what goes out to
// the hosts the answers of DHCP servers alone, so that the ARP that one port floods costs the rings of the others nothing.
// An ARP frame with two VLAN tags passes to be counted; the first tag is not in the frame any more.
func snoopFilter() []unix.SockFilter {
	short, none := returns(frameOctets), returns(0)
	tagged := slices.Concat(load(innerTypeAt, 2), when(unix.ETH_P_ARP, short), none)
	return assembled(slices.Concat(
		[]bpf.Instruction{bpf.LoadExtension{Num: bpf.ExtType}},
		when(unix.PACKET_OUTGOING, slices.Concat(load(etherTypeAt, 2),
			when(unix.ETH_P_IP, dhcp4To(dhcp4ClientPort)),
			when(unix.ETH_P_IPV6, slices.Concat(load(nextHeader6At, 1),
				when(unix.IPPROTO_UDP, dhcp6To(dhcp6ClientPort)), none)),
			none)),
		load(etherTypeAt, 2),
		when(unix.ETH_P_IP, dhcp4To(dhcp4ServerPort, dhcp4ClientPort)),
		when(unix.ETH_P_IPV6, slices.Concat(load(nextHeader6At, 1),
			when(unix.IPPROTO_UDP, dhcp6To(dhcp6ServerPort, dhcp6ClientPort)),
			when(unix.IPPROTO_ICMPV6, slices.Concat(load(payload6At, 1),
				when(icmpv6Solicitation, short), when(icmpv6Advertisement, short), none)),
			none)),
		when(unix.ETH_P_ARP, short), when(unix.ETH_P_RARP, short),
		when(unix.ETH_P_8021Q, tagged), when(unix.ETH_P_8021AD, tagged),
		none,
	))
}

// assembled is a program in the form that sockets take.
func assembled(instructions []bpf.Instruction) []unix.SockFilter {
	program, err := bpf.Assemble(instructions)
	if err != nil {
		panic(err) // the programs are constants
	}
	filter := make([]unix.SockFilter, len(program))
	for i, ins := range program {
		filter[i] = unix.SockFilter{Code: ins.Op, Jt: ins.Jt, Jf: ins.Jf, K: ins.K}
	}
	return filter
}

// given runs block if what load loads stands the test, and else what comes next; as it does where block ends.
func given(load []bpf.Instruction, test bpf.JumpTest, val uint32, block []bpf.Instruction) []bpf.Instruction {
	return slices.Concat(load, []bpf.Instruction{bpf.JumpIf{Cond: test, Val: val, SkipFalse: uint8(len(block))}}, block)
}

// when is given for what was loaded last, and one value of it.
func when(val uint32, block []bpf.Instruction) []bpf.Instruction {
	return given(nil, bpf.JumpEqual, val, block)
}

func load(at uint32, octets int) []bpf.Instruction {
	return []bpf.Instruction{bpf.LoadAbsolute{Off: at, Size: octets}}
}

func returns(octets uint32) []bpf.Instruction {
	return []bpf.Instruction{bpf.RetConstant{Val: octets}}
}

// dhcp4To passes UDP over IPv4 to one of ports, unless it is a fragment without the header.
func dhcp4To(ports ...uint32) []bpf.Instruction {
	block := slices.Concat(
		given(load(fragment4At, 2), bpf.JumpBitsSet, fragmentOffset, returns(0)),
		[]bpf.Instruction{bpf.LoadMemShift{Off: networkAt}, bpf.LoadIndirect{Off: networkAt + udpPortAt, Size: 2}},
		oneOf(ports),
	)
	return slices.Concat(load(protocol4At, 1), when(unix.IPPROTO_UDP, block), returns(0))
}

// dhcp6To passes UDP over IPv6 to one of ports.
func dhcp6To(ports ...uint32) []bpf.Instruction {
	return slices.Concat(load(payload6At+udpPortAt, 2), oneOf(ports))
}

func oneOf(ports []uint32) (block []bpf.Instruction) {
	for _, port := range ports {
		block = append(block, when(port, returns(dhcpOctets))...)
	}
	return append(block, returns(0)...)
}
