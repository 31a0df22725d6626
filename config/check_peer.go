package config

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/evpnd/evpnd/evpn"
)

const (
	defaultHoldTime        = 90 * time.Second
	defaultConnectRetry    = 5 * time.Second
	defaultGracefulRestart = 120 * time.Second
	defaultDynamicLimit    = 100
	defaultStaleTime       = 180 * time.Second
	defaultMaxRoutes       = 1_000_000
	defaultMaxRoutesWarn   = 75
	defaultIdleHold        = 5 * time.Minute
	maxPassword            = 80 // TCP_MD5SIG_MAXKEYLEN of Linux
)

// claim is an address of this host and the key that says so.
type claim struct {
	key string
	at  place
}

// own lists the addresses that the configuration says are this host's.
func (c *checker) own(r *raw) map[netip.Addr]claim {
	own := map[netip.Addr]claim{}
	add := func(key string, f field[netip.Addr]) {
		if _, known := own[f.value]; f.valid && !known {
			own[f.value] = claim{key, f.at}
		}
	}
	add("vtep", r.vtep)
	add("router-id", r.routerID)
	for _, a := range r.listen.addresses {
		add("listen address", a)
	}
	for _, p := range r.peers {
		add("local-address", zoned(p.localAddress, p.zone()))
	}
	for _, p := range r.dynamicPeers {
		add("local-address", zoned(p.localAddress, p.iface.value))
	}
	return own
}

// zone is the interface a link-local peer is on, "" when none is named.
func (r *rawPeer) zone() string {
	if z := r.address.value.Zone(); z != "" {
		return z
	}
	return r.iface.value
}

// zoned adds the zone to an IPv6 link-local address without one.
func zoned(f field[netip.Addr], zone string) field[netip.Addr] {
	if f.value.Is6() && f.value.IsLinkLocalUnicast() && f.value.Zone() == "" {
		f.value = f.value.WithZone(zone)
	}
	return f
}

func (c *checker) peers(raws []*rawPeer, own map[netip.Addr]claim, asn field[uint32]) []Peer {
	var peers []Peer
	seen := firsts[netip.Addr]{}
	for _, r := range raws {
		p := c.session(&r.rawSession, asn, r.zone())
		p.Address = c.peerAddress(r, own)
		if first, again := seen.again(r.name()); again {
			key := "address"
			if !r.address.given() {
				key = "interface"
			}
			c.report(r.name().at, "%s: peer %s is already configured at %s", key, evpn.PeerName(p.Address), first)
		}
		if p.Address.IsValid() {
			c.localAddress(&r.rawSession, p.Address, p.LocalAddress)
		}
		p.NoAdvertisements = r.advertise.valid && !r.advertise.value
		if r.advertise.given() && r.address.given() {
			c.report(r.advertise.at, "router-advertisements: they are for a peer by interface: leave the key or address out")
		}
		p.Port = r.port.or(defaultPort)
		p.ConnectRetry = r.connectRetry.or(defaultConnectRetry)
		p.Passive = r.passive.value
		if p.Passive && r.port.given() {
			c.report(r.port.at, "port: a passive peer is never dialled: leave port or passive out")
		}
		if p.Passive && r.connectRetry.given() {
			c.report(r.connectRetry.at, "connect-retry: a passive peer is never dialled: leave connect-retry or passive out")
		}
		if p.Multihop > 0 && p.Address.IsLinkLocalUnicast() {
			c.report(r.multihop.at, "multihop: %s is link-local and so directly connected: leave the key out", evpn.PeerName(p.Address))
		}
		peers = append(peers, p)
	}
	return peers
}

// name is the address of a peer, or what stands for it where only the interface is named.
func (r *rawPeer) name() field[netip.Addr] {
	if r.address.given() || !r.iface.valid {
		return zoned(r.address, r.zone())
	}
	f := r.address
	f.value, f.valid, f.at = evpn.InterfacePeer(r.iface.value), true, r.iface.at
	return f
}

// peerAddress returns the address of a peer, with its zone when it needs one.
func (c *checker) peerAddress(r *rawPeer, own map[netip.Addr]claim) netip.Addr {
	if !r.address.given() && !r.iface.given() {
		c.report(r.at, "address is missing: want the peer's IP address, or the interface that it is at the other end of")
	}
	f := r.name()
	if !f.valid {
		return netip.Addr{}
	}
	switch a := f.value; {
	case a.WithZone("") == evpn.InterfacePeer("") && r.address.given():
		c.report(f.at, "address: %s is the address of no host: leave it out for whoever is at the other end of the interface", a.WithZone(""))
		return netip.Addr{}
	case a.Is6() && a.IsLinkLocalUnicast() && a.Zone() == "" && !r.iface.given():
		c.report(f.at, "address: %s is link-local: want its interface, by interface or as %s%%eth0", a, a)
	case !r.address.given() && !nameable(r.iface.value):
		c.report(f.at, "interface: %s cannot be told from an address: want address too", r.iface.value)
		return netip.Addr{}
	case a.Zone() != "" && r.iface.valid && a.Zone() != r.iface.value:
		c.report(r.iface.at, "interface: %s differs from that of the address, %s", r.iface.value, a.Zone())
	}
	if mine, ok := own[f.value]; ok {
		c.report(f.at, "address: %s is our own, it is the %s at %s", f.value, mine.key, mine.at)
	}
	return f.value
}

// nameable reports whether a peer can go by the name of an interface.
func nameable(ifname string) bool {
	peer, err := evpn.ParsePeer(ifname)
	return err == nil && peer == evpn.InterfacePeer(ifname)
}

// localAddress checks that both ends of a session are of one family.
func (c *checker) localAddress(r *rawSession, peer, local netip.Addr) {
	if local.IsValid() && local.Is4() != peer.Is4() {
		c.report(r.localAddress.at, "local-address: %s cannot reach %s: want both IPv4 or both IPv6", local, evpn.PeerName(peer))
	}
	if evpn.PeerInterface(peer) != "" && local.Is6() && !local.IsLinkLocalUnicast() {
		c.report(r.localAddress.at, "local-address: %s is not link-local, as that of the peer on %s: leave the key out", local, evpn.PeerName(peer))
	}
}

func (c *checker) dynamicPeers(raws []*rawDynamicPeers, asn field[uint32]) []DynamicPeers {
	var all []DynamicPeers
	for i, r := range raws {
		d := DynamicPeers{
			Prefix:   r.prefix.value,
			Limit:    r.limit.or(defaultDynamicLimit),
			Template: c.session(&r.rawSession, asn, r.iface.value),
		}
		d.Template.Passive = true
		all = append(all, d)
		if !r.prefix.given() {
			c.report(r.at, "prefix is missing: want the addresses to accept peers from, such as 10.0.0.0/24")
		}
		if !r.prefix.valid {
			continue
		}
		c.localAddress(&r.rawSession, d.Prefix.Addr(), d.Template.LocalAddress)
		if d.Prefix.Addr().Is6() && d.Prefix.Addr().IsLinkLocalUnicast() && !r.iface.given() {
			c.report(r.prefix.at, "prefix: %s is link-local: want interface too", d.Prefix)
		}
		for _, o := range raws[:i] {
			if o.prefix.valid && o.prefix.value.Overlaps(d.Prefix) {
				c.report(r.prefix.at, "prefix: %s overlaps %s at %s", d.Prefix, o.prefix.value, o.prefix.at)
			}
		}
	}
	return all
}

// session checks what peers and dynamic peers have in common.
func (c *checker) session(r *rawSession, ours field[uint32], zone string) Peer {
	p := Peer{
		ASN:             c.peerAS(r, ours),
		External:        r.asn.value.word == "external",
		Description:     r.description.value,
		LocalAddress:    zoned(r.localAddress, zone).value,
		Interface:       r.iface.value,
		Multihop:        r.multihop.value,
		TTLSecurity:     r.ttlSecurity.value,
		HoldTime:        r.holdTime.or(defaultHoldTime),
		GracefulRestart: r.gracefulRestart.or(defaultGracefulRestart),
		RTConstraint:    r.rtConstraint.value,
		NeedEncap:       r.needEncap.value,
		LongLived:       r.longLived.value,
		StaleTime:       r.staleTime.or(defaultStaleTime),
		OnPeerLoss:      r.onPeerLoss.or(c.onPeerLoss),
		MaxRoutes:       c.maxRoutes(&r.maxRoutes),
	}
	if p.LongLived > 0 && p.GracefulRestart == 0 && (r.gracefulRestart.valid || !r.gracefulRestart.given()) {
		c.report(r.longLived.at, "long-lived: it begins where graceful restart ends, and graceful-restart is 0 at %s", r.gracefulRestart.at)
	}
	p.PasswordFile, p.Password = c.password(r.passwordFile)
	p.Keepalive = c.keepalive(r, p.HoldTime)
	if p.Multihop > 0 && p.TTLSecurity > 0 {
		c.report(r.ttlSecurity.at, "ttl-security excludes multihop, set at %s: ttl-security counts the hops itself", r.multihop.at)
	}
	if p.Multihop > 0 && ours.valid && p.ASN == ours.value {
		c.report(r.multihop.at, "multihop: peers of our own AS may be any number of hops away: leave the key out")
	}
	return p
}

var (
	limitActions     = []evpn.LimitAction{evpn.LimitStop, evpn.LimitWarn, evpn.LimitReset}
	limitActionNames = []string{limitActions[0].String(), limitActions[1].String(), limitActions[2].String()}
)

// maxRoutes checks the limit of a peer's routes.
func (c *checker) maxRoutes(r *rawMaxRoutes) MaxRoutes {
	m := MaxRoutes{
		Most: r.limit.or(defaultMaxRoutes), Warn: r.warn.or(defaultMaxRoutesWarn),
		Action: limitActions[max(0, slices.Index(limitActionNames, r.action.value))],
	}
	if m.Action == evpn.LimitReset {
		m.IdleHold = r.idleHold.or(defaultIdleHold)
	} else if r.idleHold.given() && (r.action.valid || !r.action.given()) {
		c.report(r.idleHold.at, "idle-hold: no session is ended with action %s: want action: reset, or leave the key out", m.Action)
	}
	return m
}

// peerAS returns the AS number of a peer, 0 for one that its OPEN tells.
func (c *checker) peerAS(r *rawSession, ours field[uint32]) uint32 {
	switch {
	case !r.asn.given():
		c.report(r.at, "asn is missing: want the peer's AS number, internal for ours, or external for any other")
	case r.asn.value.word == "internal":
		return ours.value
	}
	return r.asn.value.number
}

// keepalive returns the time between our KEEPALIVEs: a third of the hold time unless given (RFC 4271 §4.4).
func (c *checker) keepalive(r *rawSession, hold time.Duration) time.Duration {
	switch {
	case !r.keepalive.valid:
		return defaultKeepalive(hold)
	case r.holdTime.given() && !r.holdTime.valid: // reported already, and hold is not what was meant
	case hold == 0 && r.keepalive.value > 0:
		c.report(r.keepalive.at, "keepalive: a session with hold-time 0 sends none: leave the key out")
	case hold > 0 && (r.keepalive.value == 0 || r.keepalive.value >= hold):
		c.report(r.keepalive.at, "keepalive: want 1s or more, and less than the hold time of %ds, have %ds",
			hold/time.Second, r.keepalive.value/time.Second)
	}
	return r.keepalive.value
}

func defaultKeepalive(hold time.Duration) time.Duration { return (hold / 3).Truncate(time.Second) }

// password reads the file that holds a TCP MD5 key; its path starts at the folder of the file that names it.
func (c *checker) password(f field[string]) (path, key string) {
	if !f.valid {
		return "", ""
	}
	path = besideFile(f)
	key, err := readPassword(path)
	if err != nil {
		c.report(f.at, "password-file: read %s: %v", path, err)
		return "", ""
	}
	if path, err = filepath.Abs(path); err != nil {
		c.report(f.at, "password-file: %v", err)
	}
	return path, key
}

// besideFile is the path that a key names: a relative one starts at the folder of the file that names it.
func besideFile(f field[string]) string {
	if filepath.IsAbs(f.value) {
		return f.value
	}
	return filepath.Join(filepath.Dir(f.at.src.name), f.value)
}

// readPassword returns the one line of a file, without its newline.
func readPassword(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", cause(err)
	}
	if !info.Mode().IsRegular() { // a pipe would keep us waiting
		return "", errors.New("is no regular file")
	}
	if info.Size() > maxPassword+int64(len("\r\n")) {
		return "", fmt.Errorf("has %d octets: want 1 to %d", info.Size(), maxPassword)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return "", cause(err)
	}
	key := strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
	switch {
	case key == "":
		return "", errors.New("is empty")
	case strings.ContainsAny(key, "\r\n"):
		return "", errors.New("has more than one line")
	case len(key) > maxPassword:
		return "", fmt.Errorf("has %d octets: want 1 to %d", len(key), maxPassword)
	}
	return key, nil
}
