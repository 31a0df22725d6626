package dataplane

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"github.com/gopacket/gopacket/layers"

	"github.com/evpnd/evpnd/evpn"
)

const (
	maxAddresses6  = 64 // of one message that are looked at; the core keeps no more for one MAC
	identityOctets = 12 // of an IA_NA, before its options (RFC 8415 §21.4)
	addressOctets  = 24 // of an IA Address, before its options (RFC 8415 §21.6)
)

// asked6 takes in what a host sends to a server (RFC 8415 §18.2). Its MAC is that of the frame: a DUID is none.
func (d *dhcpReader) asked6(now time.Time) (evpn.MAC, verdict) {
	mac, v := d.sender()
	if v != verdictAccepted {
		return mac, v
	}
	if d.udp.DstPort != dhcp6ServerPort {
		return mac, verdictServer
	}
	var q wish
	switch d.v6.MsgType {
	case layers.DHCPv6MsgTypeSolicit:
		q.open = slices.ContainsFunc(d.v6.Options, func(o layers.DHCPv6Option) bool { return o.Code == layers.DHCPv6OptRapidCommit })
	case layers.DHCPv6MsgTypeRequest, layers.DHCPv6MsgTypeRenew, layers.DHCPv6MsgTypeRebind:
		for _, l := range d.addresses6() {
			q.named = append(q.named, l.ip)
		}
	case layers.DHCPv6MsgTypeConfirm, layers.DHCPv6MsgTypeInformationRequest:
	case layers.DHCPv6MsgTypeRelease, layers.DHCPv6MsgTypeDecline:
		for _, l := range d.addresses6() {
			if v := d.end(l.ip); v != verdictAccepted {
				return mac, v
			}
		}
	case layers.DHCPv6MsgTypeAdvertise, layers.DHCPv6MsgTypeReply, layers.DHCPv6MsgTypeReconfigure, layers.DHCPv6MsgTypeRelayReply:
		return mac, verdictServer
	case layers.DHCPv6MsgTypeRelayForward:
		return mac, verdictRelayed
	default:
		return mac, verdictMalformed
	}
	return mac, d.ask(d.exchange6(mac), q, now)
}

// answered6 takes in what a server, or a relay in its place, sends to a host.
func (d *dhcpReader) answered6(now time.Time) (evpn.MAC, verdict) {
	if d.v6.MsgType == layers.DHCPv6MsgTypeRelayForward || d.v6.MsgType == layers.DHCPv6MsgTypeRelayReply {
		return evpn.MAC{}, verdictMalformed // not for a client
	}
	x := d.exchange6(evpn.MAC(d.eth.DstMAC))
	q, ok := d.questions[x]
	if !ok || now.After(q.until) {
		return x.mac, verdictUnasked
	}
	if d.v6.MsgType != layers.DHCPv6MsgTypeReply {
		return x.mac, verdictAccepted
	}
	delete(d.questions, x)
	v := verdictAccepted
	for _, l := range d.addresses6() { // some of which may be new to the host: it names them when it renews them
		if v = d.grant(q, l); v == verdictMalformed {
			return x.mac, v
		}
	}
	if len(d.leases) > 0 {
		v = verdictAccepted
	}
	return x.mac, v
}

func (d *dhcpReader) exchange6(mac evpn.MAC) exchange {
	id := d.v6.TransactionID
	return exchange{protoDHCPv6, uint32(id[0])<<16 | uint32(id[1])<<8 | uint32(id[2]), mac}
}

// addresses6 lists the non-temporary addresses of a message. One whose valid lifetime is 0 is over.
func (d *dhcpReader) addresses6() (out []lease) {
	for i := range d.v6.Options {
		o := &d.v6.Options[i]
		if o.Code != layers.DHCPv6OptIANA || len(o.Data) < identityOctets {
			continue
		}
		for rest := o.Data[identityOctets:]; len(rest) >= 4; {
			kind, n := layers.DHCPv6Opt(binary.BigEndian.Uint16(rest)), int(binary.BigEndian.Uint16(rest[2:]))
			if rest = rest[4:]; n > len(rest) {
				break
			}
			if kind == layers.DHCPv6OptIAAddr && n >= addressOctets && len(out) < maxAddresses6 {
				valid := time.Duration(binary.BigEndian.Uint32(rest[20:])) * time.Second
				out = append(out, lease{netip.AddrFrom16([16]byte(rest)), valid, valid == 0})
			}
			rest = rest[n:]
		}
	}
	return out
}
