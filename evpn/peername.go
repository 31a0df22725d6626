package evpn

import (
	"fmt"
	"net/netip"
	"strings"
	"unicode"
)

// anyRouter is the Subnet-Router anycast address of the link-local prefix (RFC 4291 §2.6.1): with a zone it says "the router on
// this link", and no host has it as its own.
var anyRouter = netip.AddrFrom16([16]byte{0xfe, 0x80})

// maxInterfaceName is the longest name of a device in Linux, in octets.
const maxInterfaceName = 15

// InterfacePeer names the peer at the other end of a link, whatever link-local address it has: fe80::%eth0. Everything that
// belongs to a peer (routes, sessions, metrics) goes by this, so that another address does not make another peer of it.
func InterfacePeer(ifname string) netip.Addr { return anyRouter.WithZone(ifname) }

// PeerInterface returns the interface of what InterfacePeer made; "" for a peer that is named by its own address.
func PeerInterface(peer netip.Addr) string {
	if peer.WithZone("") == anyRouter {
		return peer.Zone()
	}
	return ""
}

// PeerName is how a peer is shown: eth0 for one that is configured by interface, else its address. The zero Addr is "".
func PeerName(peer netip.Addr) string {
	switch name := PeerInterface(peer); {
	case !peer.IsValid():
		return ""
	case name != "":
		return name
	default:
		return peer.String()
	}
}

// ParsePeer reads what PeerName wrote: an address, or the name of an interface. An IPv4-mapped address is taken as IPv4.
func ParsePeer(text string) (netip.Addr, error) {
	if addr, err := netip.ParseAddr(text); err == nil {
		return addr.Unmap(), nil
	}
	bad := func(r rune) bool {
		return r == '/' || r == ':' || r == '%' || unicode.IsSpace(r) || !unicode.IsPrint(r)
	}
	if text == "" || len(text) > maxInterfaceName || text == "." || text == ".." || strings.ContainsFunc(text, bad) {
		return netip.Addr{}, fmt.Errorf("%q is neither an IP address nor the name of an interface", text)
	}
	return InterfacePeer(text), nil
}
