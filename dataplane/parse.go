package dataplane

import (
	"bytes"
	"encoding/binary"
	"errors"
	"iter"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/evpnd/evpnd/evpn"
)

// errShort says that a message ends before its fixed part does.
var errShort = errors.New("netlink message too short")

// row is one entry of a neighbour table or FDB, from RTM_NEWNEIGH or RTM_DELNEIGH. A dump has very many, so its fields are in
// an order that leaves no holes.
type row struct {
	ifindex int
	master  int        // bridge, in rows of a bridge's FDB
	dst     netip.Addr // FDB: the VTEP; neighbour: the host's IP
	nhid    uint32
	state   uint16
	mac     evpn.MAC
	family  uint8
	flags   uint8
	proto   uint8
}

func (r row) self() bool { return r.flags&unix.NTF_SELF != 0 }
func (r row) ext() bool  { return r.flags&unix.NTF_EXT_LEARNED != 0 }

// fixed reports a row that somebody put there by hand, as opposed to one the kernel learned.
func (r row) fixed() bool { return r.state&(unix.NUD_NOARP|unix.NUD_PERMANENT) != 0 }

// parseRow reads the payload of a neighbour message. Attributes of an unexpected size are taken as absent.
func parseRow(b []byte) (row, error) {
	if len(b) < unix.SizeofNdMsg {
		return row{}, errShort
	}
	r := row{
		family:  b[0],
		ifindex: int(int32(binary.NativeEndian.Uint32(b[4:]))),
		state:   binary.NativeEndian.Uint16(b[8:]),
		flags:   b[10],
	}
	for typ, v := range attrs(b[unix.SizeofNdMsg:]) {
		switch typ {
		case unix.NDA_DST:
			r.dst, _ = netip.AddrFromSlice(v)
		case unix.NDA_LLADDR:
			if len(v) == len(r.mac) {
				copy(r.mac[:], v)
			}
		case unix.NDA_MASTER:
			r.master = int(number(v))
		case ndaNHID:
			r.nhid = number(v)
		case ndaProtocol:
			r.proto = uint8(number(v))
		}
	}
	return r, nil
}

// nexthop is one nexthop object, from RTM_NEWNEXTHOP or RTM_DELNEXTHOP.
type nexthop struct {
	id      uint32
	proto   uint8
	fdb     bool
	gateway netip.Addr // of a single nexthop
	members []uint32   // of a group
}

func parseNexthop(b []byte) (nexthop, error) {
	if len(b) < unix.SizeofNhmsg {
		return nexthop{}, errShort
	}
	n := nexthop{proto: b[2]}
	for typ, v := range attrs(b[unix.SizeofNhmsg:]) {
		switch typ {
		case unix.NHA_ID:
			n.id = number(v)
		case unix.NHA_GATEWAY:
			n.gateway, _ = netip.AddrFromSlice(v)
		case unix.NHA_GROUP:
			for ; len(v) >= 8; v = v[8:] {
				n.members = append(n.members, binary.NativeEndian.Uint32(v))
			}
		case nhaFDB:
			n.fdb = true
		}
	}
	return n, nil
}

// link is what we need to know of a network device.
type link struct {
	index  int
	name   string
	kind   string // "vxlan", "bridge", …; "" when the message did not say
	mac    evpn.MAC
	mtu    int
	up     bool
	loop   bool
	master int
	vxlan  vxlanDevice
	port   bridgePort

	group uint32 // IFLA_GROUP: createdGroup marks what we made

	vlanFiltering bool          // bridge
	stp           bool          // bridge
	ageing        time.Duration // bridge
	ipv6Off       bool          // bridge; not from netlink
}

// vxlanDevice holds the settings of a VXLAN device.
type vxlanDevice struct {
	vni      evpn.VNI
	local    netip.Addr
	remote   netip.Addr // "remote" or "group" of the device
	port     uint16
	learning bool
	bound    int  // ifindex of "dev": packets leave by it, or by the routes of its VRF; 0: none
	manyVNIs bool // "external" or "vnifilter"
}

// bridgePort holds the settings of a device as a port of a bridge.
type bridgePort struct{ learning, suppress, locked, isolated bool }

// userTick is the unit in which a bridge tells its times.
const userTick = 10 * time.Millisecond

// linkMessage is one RTM_NEWLINK or RTM_DELLINK. Messages differ in how much they say of a device: those of family
// AF_BRIDGE speak of the port only, some have no details of the kind at all.
type linkMessage struct {
	link
	family  uint8
	hasKind bool // kind and its details are given
	hasPort bool // port is given
}

func parseLink(b []byte) (linkMessage, error) {
	if len(b) < unix.SizeofIfInfomsg {
		return linkMessage{}, errShort
	}
	flags := binary.NativeEndian.Uint32(b[8:])
	m := linkMessage{family: b[0], link: link{
		index: int(int32(binary.NativeEndian.Uint32(b[4:]))),
		up:    flags&unix.IFF_UP != 0,
		loop:  flags&unix.IFF_LOOPBACK != 0,
	}}
	for typ, v := range attrs(b[unix.SizeofIfInfomsg:]) {
		switch typ {
		case unix.IFLA_IFNAME:
			m.name = text(v)
		case unix.IFLA_ADDRESS:
			if len(v) == len(m.mac) {
				copy(m.mac[:], v)
			}
		case unix.IFLA_GROUP:
			m.group = number(v)
		case unix.IFLA_MTU:
			m.mtu = int(number(v))
		case unix.IFLA_MASTER:
			m.master = int(number(v))
		case unix.IFLA_LINKINFO:
			m.parseInfo(v)
		case unix.IFLA_PROTINFO:
			if m.family == unix.AF_BRIDGE {
				m.parsePort(v)
			}
		}
	}
	return m, nil
}

func (m *linkMessage) parseInfo(b []byte) {
	var data, slave []byte
	var slaveKind string
	for typ, v := range attrs(b) {
		switch typ {
		case unix.IFLA_INFO_KIND:
			m.kind, m.hasKind = text(v), true
		case unix.IFLA_INFO_DATA:
			data = v
		case unix.IFLA_INFO_SLAVE_KIND:
			slaveKind = text(v)
		case unix.IFLA_INFO_SLAVE_DATA:
			slave = v
		}
	}
	switch m.kind {
	case "vxlan":
		m.vxlan = parseVXLAN(data)
	case "bridge":
		for typ, v := range attrs(data) {
			switch typ {
			case unix.IFLA_BR_VLAN_FILTERING:
				m.vlanFiltering = number(v) != 0
			case unix.IFLA_BR_STP_STATE:
				m.stp = number(v) != 0
			case unix.IFLA_BR_AGEING_TIME:
				m.ageing = time.Duration(number(v)) * userTick
			}
		}
	}
	if slaveKind == "bridge" {
		m.parsePort(slave)
	}
}

func (m *linkMessage) parsePort(b []byte) {
	m.hasPort = true
	for typ, v := range attrs(b) {
		switch typ {
		case unix.IFLA_BRPORT_LEARNING:
			m.port.learning = number(v) != 0
		case unix.IFLA_BRPORT_NEIGH_SUPPRESS:
			m.port.suppress = number(v) != 0
		case unix.IFLA_BRPORT_ISOLATED:
			m.port.isolated = number(v) != 0
		case unix.IFLA_BRPORT_LOCKED:
			m.port.locked = number(v) != 0
		}
	}
}

func parseVXLAN(b []byte) vxlanDevice {
	var d vxlanDevice
	for typ, v := range attrs(b) {
		switch typ {
		case unix.IFLA_VXLAN_ID:
			d.vni = evpn.VNI(number(v))
		case unix.IFLA_VXLAN_LINK:
			d.bound = int(number(v))
		case unix.IFLA_VXLAN_LOCAL, unix.IFLA_VXLAN_LOCAL6:
			d.local, _ = netip.AddrFromSlice(v)
		case unix.IFLA_VXLAN_GROUP, unix.IFLA_VXLAN_GROUP6:
			d.remote, _ = netip.AddrFromSlice(v)
		case unix.IFLA_VXLAN_LEARNING:
			d.learning = number(v) != 0
		case unix.IFLA_VXLAN_PORT:
			if len(v) == 2 {
				d.port = binary.BigEndian.Uint16(v)
			}
		case unix.IFLA_VXLAN_COLLECT_METADATA:
			d.manyVNIs = d.manyVNIs || number(v) != 0
		case unix.IFLA_VXLAN_VNIFILTER:
			d.manyVNIs = d.manyVNIs || number(v) != 0
		}
	}
	return d
}

// attrs walks netlink attributes and stops where they no longer make sense.
func attrs(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= 4 {
			n := int(binary.NativeEndian.Uint16(b))
			if n < 4 || n > len(b) {
				return
			}
			typ := binary.NativeEndian.Uint16(b[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
			if !yield(typ, b[4:n]) {
				return
			}
			b = b[min((n+3)&^3, len(b)):]
		}
	}
}

// number reads an attribute of one, two or four octets; any other size reads as zero.
func number(v []byte) uint32 {
	switch len(v) {
	case 1:
		return uint32(v[0])
	case 2:
		return uint32(binary.NativeEndian.Uint16(v))
	case 4:
		return binary.NativeEndian.Uint32(v)
	default:
		return 0
	}
}

func text(v []byte) string {
	s, _, _ := bytes.Cut(v, []byte{0})
	return string(s)
}
