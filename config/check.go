package config

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/evpnd/evpnd/evpn"
)

// Defaults of the reference configuration.
const (
	defaultPort     = 179
	defaultStateDir = "/var/lib/evpnd"
	defaultSocket   = "/run/evpnd/evpnd.sock"
	defaultLevel    = "info"
	defaultFormat   = "text"
	defaultVTEPHold = time.Minute
	maxVTEPHold     = time.Hour

	maxVTEPProbe           = time.Hour
	defaultVTEPProbeMisses = 3
	maxVTEPProbeMisses     = 100
)

// defaultMaxMACs is far above what a host has use for, and what is beyond it would cost gigabytes.
var defaultMaxMACs = evpn.MACLimits{Local: 262_144, Remote: 1_048_576}

// checker compares the values with each other and fills in the defaults.
type checker struct {
	*collector
	main       *source
	onPeerLoss PeerLoss // for peers that do not say
}

func (c *checker) config(r *raw) *Config {
	cfg := &Config{
		ASN:              r.asn.value,
		VTEP:             r.vtep.value,
		VTEPInterface:    r.vtepInterface.value,
		RT:               r.routeTargets.or(evpn.RTAuto),
		AutoVNIs:         r.autoVNIs.or(true),
		Snooping:         r.snooping.or(true),
		SnoopingRate:     r.snoopingRate.or(DefaultSnoopingRate),
		ARPSuppression:   optional(r.arpSuppression),
		ManageDevices:    r.manageDevices.or(false),
		MaxMACs:          r.maxMACs.or(defaultMaxMACs),
		VTEPReachability: r.vtepReachability.or(ReachabilityRoute),
		VTEPHold:         r.vtepHold.or(defaultVTEPHold),
		VTEPProbe:        r.vtepProbe.or(0),
		VTEPProbeMisses:  r.vtepProbeMisses.or(defaultVTEPProbeMisses),
		FlushOnExit:      r.flushOnExit.or(false),
		StateDir:         r.stateDir.or(defaultStateDir),
		API:              c.api(&r.api),
		Log:              Log{r.log.level.or(defaultLevel), r.log.format.or(defaultFormat)},
	}
	c.identity(r)
	cfg.RouterID = routerID(r.routerID.value, cfg.VTEP)
	cfg.Listen = c.listen(r)
	own := c.own(r)
	c.onPeerLoss = r.onPeerLoss.value
	cfg.OnPeerLoss = c.onPeerLoss
	cfg.Peers = c.peers(r.peers, own, r.asn)
	cfg.DynamicPeers = c.dynamicPeers(r.dynamicPeers, r.asn)
	cfg.VNIs = c.vnis(r.vnis, cfg)
	cfg.Duplicates = c.duplicates(r.duplicates)
	c.dialect(r)
	c.constraint(r, cfg)
	c.suppression(r, cfg)
	return cfg
}

// Ranges of duplicates. The core keeps the times of that many moves for everything that moves.
const (
	maxDuplicateMoves   = 100
	minDuplicateWithin  = time.Second
	maxDuplicateWithin  = time.Hour
	maxDuplicateRecover = 24 * time.Hour
)

var (
	actions     = []evpn.DuplicateAction{evpn.DuplicateAlarm, evpn.DuplicateHold, evpn.DuplicateDrop}
	actionNames = []string{actions[0].String(), actions[1].String(), actions[2].String()}
)

// duplicates checks that what is held cannot be let go while the moves that made it a duplicate still count (MM-14).
func (c *checker) duplicates(r rawDuplicates) evpn.DuplicatePolicy {
	p := evpn.DuplicatePolicy{
		Moves:  r.moves.or(evpn.DefaultDuplicateMoves),
		Within: r.within.or(evpn.DefaultDuplicateWithin),
		Action: actions[max(0, slices.Index(actionNames, r.action.or(evpn.DuplicateHold.String())))],
	}
	p.RecoverAfter = r.recoverAfter.or(3 * p.Within)
	if r.recoverAfter.valid && p.RecoverAfter < 3*p.Within {
		c.report(r.recoverAfter.at, "recover-after: want at least three times within, which is %s, have %s", p.Within, p.RecoverAfter)
	}
	return p
}

// top is where a fault of the configuration as a whole is shown.
func (c *checker) top() place { return place{c.main, 1, 1} }

// identity checks who we are: AS, VTEP and router id.
func (c *checker) identity(r *raw) {
	if !r.asn.given() {
		c.report(c.top(), "asn is missing: want our AS number")
	}
	switch {
	case r.vtep.given() && r.vtepInterface.given():
		c.report(r.vtepInterface.at, "vtep is set at %s too: want vtep or vtep-interface, not both", r.vtep.at)
	case !r.vtep.given() && !r.vtepInterface.given():
		c.report(c.top(), "vtep is missing: want our tunnel address, or vtep-interface to take it from")
	case r.vtep.valid && r.vtep.value.Is6() && !r.routerID.given():
		c.report(r.vtep.at, "an IPv6 vtep gives no router id: want router-id too")
	}
}

// routerID is the one given, else an IPv4 VTEP address, else the zero Addr.
func routerID(given, vtep netip.Addr) netip.Addr {
	if !given.IsValid() && vtep.Is4() {
		return vtep
	}
	return given
}

func (c *checker) listen(r *raw) Listen {
	l := Listen{
		Enabled: r.listen.enabled.or(r.listen.at.src != nil || len(r.dynamicPeers) > 0),
		Port:    r.listen.port.or(defaultPort),
	}
	seen := firsts[netip.Addr]{}
	for _, a := range r.listen.addresses {
		if first, again := seen.again(a); again {
			c.report(a.at, "addresses: %s is listed already at %s", a.value, first)
		}
		l.Addresses = append(l.Addresses, a.value)
	}
	forbidden := r.listen.enabled.valid && !r.listen.enabled.value
	for _, p := range r.peers {
		if p.passive.value && forbidden {
			c.report(p.passive.at, "passive: nothing would listen for this peer, listen is false at %s", r.listen.enabled.at)
		}
		if p.passive.value && !r.listen.enabled.given() {
			l.Enabled = true
		}
	}
	for _, p := range r.dynamicPeers {
		if forbidden {
			c.report(p.at, "dynamic-peers: nothing would listen for them, listen is false at %s", r.listen.enabled.at)
		}
	}
	return l
}

// vnis checks the VNIs; every one must have an RD of its own (RD-01).
func (c *checker) vnis(raws []*rawVNI, cfg *Config) map[evpn.VNI]VNI {
	vnis := make(map[evpn.VNI]VNI, len(raws))
	seen := firsts[evpn.VNI]{}
	rds := firsts[evpn.RD]{}
	names := firsts[string]{}
	for _, r := range raws {
		if first, again := seen.again(r.vni); again {
			c.report(r.vni.at, "VNI %d is already configured at %s", r.vni.value, first)
			continue
		}
		if first, again := rds.again(r.rd); again {
			c.report(r.rd.at, "rd: %s is that of another VNI already, at %s", r.rd.value, first)
		}
		v := VNI{
			Off:            r.off.value,
			RD:             r.rd.value,
			Import:         unique(c, "import", r.imports),
			Export:         unique(c, "export", r.exports),
			MaxMACs:        r.maxMACs.or(cfg.MaxMACs),
			StrictTag:      r.strictTag.value,
			Snooping:       optional(r.snooping),
			ARPSuppression: optional(r.arpSuppression),
			Manage:         optional(r.manage),
			StickyStatic:   r.staticMACs.value == staticSticky,
			Gateways:       c.gateways(r.gateways),
			Create:         r.create.value,
			Device:         r.device.value,
			Bridge:         r.bridge.value,
		}
		c.created(r, names)
		vnis[r.vni.value] = v
		if r.vni.valid && !v.Off && !(r.imports.given() && r.exports.given()) {
			c.derivable(r.vni, cfg)
		}
	}
	return vnis
}

// suppression reports ARP suppression without snooping: the bridge keeps gratuitous ARP, unsolicited neighbour
// advertisements and duplicate address detection to itself, so somebody must read them.
func (c *checker) suppression(r *raw, cfg *Config) {
	const deaf = "arp-suppression: gratuitous ARP would be lost, snooping is off: want snooping too"
	if r.arpSuppression.value && !cfg.Snooping {
		c.report(r.arpSuppression.at, deaf)
	}
	for _, v := range r.vnis {
		if v.arpSuppression.value && !v.snooping.or(cfg.Snooping) {
			c.report(v.arpSuppression.at, deaf)
		} else if r.arpSuppression.value && !v.arpSuppression.valid && v.snooping.valid && !v.snooping.value {
			c.report(v.snooping.at, "snooping: gratuitous ARP would be lost, arp-suppression is on at %s", r.arpSuppression.at)
		}
	}
}

// gateways checks the gateways of one VNI.
func (c *checker) gateways(raws []*rawGateway) []evpn.Gateway {
	var gateways []evpn.Gateway
	seen := firsts[netip.Addr]{}
	for _, r := range raws {
		if !r.mac.given() || !r.ip.given() {
			c.report(r.at, "gateways: want both mac and ip")
			continue
		}
		if first, again := seen.again(r.ip); again {
			c.report(r.ip.at, "ip: %s is that of another gateway already, at %s", r.ip.value, first)
			continue
		}
		gateways = append(gateways, evpn.Gateway{MAC: r.mac.value, IP: r.ip.value})
	}
	return gateways
}

// created checks the names of devices that are to be made: each VNI needs two of its own.
func (c *checker) created(r *rawVNI, names firsts[string]) {
	if !r.create.value {
		if r.device.valid {
			c.report(r.device.at, "device: it names what evpnd makes, want create: true too")
		}
		if r.bridge.valid {
			c.report(r.bridge.at, "bridge: it names what evpnd makes, want create: true too")
		}
		return
	}
	for _, name := range []field[string]{
		named(r.device, r.vni, "vxlan"), named(r.bridge, r.vni, "br"),
	} {
		if first, again := names.again(name); again {
			c.report(name.at, "VNI %d: device %s is named by another VNI or twice, at %s", r.vni.value, name.value, first)
		}
	}
}

// named returns the name given, else the one that a prefix and the VNI make.
func named(given field[string], vni field[evpn.VNI], prefix string) field[string] {
	if given.valid {
		return given
	}
	return field[string]{value: fmt.Sprintf("%s%d", prefix, vni.value), at: vni.at, valid: vni.valid}
}

// derivable checks that a VNI has a route target in the form as4; the other forms do not depend on the VNI.
func (c *checker) derivable(vni field[evpn.VNI], cfg *Config) {
	if cfg.RT != evpn.RTAS4 {
		return
	}
	if _, _, err := evpn.DeriveRTs(cfg.RT, cfg.ASN, vni.value); err != nil {
		c.report(vni.at, "%v: want both import and export, or another dialect", err)
	}
}

// dialect reports a dialect that has no route targets for our AS, whatever the VNI.
func (c *checker) dialect(r *raw) {
	if r.routeTargets.value == evpn.RTRFC8365 && r.asn.value > 65535 {
		c.report(r.routeTargets.at, "route-targets: RFC 8365 derives none from a 4-octet AS such as %d: want auto, frr or as4", r.asn.value)
	}
}

// constraint reports external peers with RT constraint when we import route targets of any AS: memberships name single
// ones, and there is none for every AS (RFC 4684 §4), so that routes of other ASes would stay away without a word.
func (c *checker) constraint(r *raw, cfg *Config) {
	why := wildcard(r, cfg)
	if why == "" {
		return
	}
	sessions := make([]*rawSession, 0, len(r.peers)+len(r.dynamicPeers))
	for _, p := range r.peers {
		sessions = append(sessions, &p.rawSession)
	}
	for _, p := range r.dynamicPeers {
		sessions = append(sessions, &p.rawSession)
	}
	for _, s := range sessions {
		// Within our AS all export under its number, which is what we ask for in place of a wildcard.
		ours := s.asn.value.word == "internal" || s.asn.value.number == cfg.ASN
		if s.rtConstraint.value && !ours {
			c.report(s.rtConstraint.at, "rt-constraint: %s: nobody can be asked for that, want route targets of single ASes", why)
		}
	}
}

// wildcard says where the first VNI in service imports route targets of any AS; "" when none does.
func wildcard(r *raw, cfg *Config) string {
	derives := cfg.RT == evpn.RTAuto || cfg.RT == evpn.RTFRR
	if derives && cfg.AutoVNIs {
		return fmt.Sprintf("route-targets %s imports those of any AS", cfg.RT)
	}
	for _, v := range r.vnis {
		if v.off.value {
			continue
		}
		if derives && !v.imports.given() {
			return fmt.Sprintf("VNI %d at %s imports those of any AS by route-targets %s", v.vni.value, v.vni.at, cfg.RT)
		}
		for _, rt := range v.imports.items {
			if rt.value.AnyAdmin {
				return fmt.Sprintf("VNI %d imports %s at %s", v.vni.value, rt.value, rt.at)
			}
		}
	}
	return ""
}

// unique returns the values of a list, nil when it is not there; nothing may be in it twice, and it may not be empty.
func unique[T interface {
	comparable
	String() string
}](c *checker, key string, list rawList[T]) []T {
	if list.given() && len(list.items) == 0 {
		c.report(list.at, "%s is empty: want at least one route target, or leave the key out", key)
	}
	var values []T
	seen := firsts[T]{}
	for _, item := range list.items {
		if first, again := seen.again(item); again {
			c.report(item.at, "%s: %s is listed already at %s", key, item.value, first)
		}
		values = append(values, item.value)
	}
	return values
}

// firsts remembers where each value stood first.
type firsts[T comparable] map[T]place

// again returns where the value of f stood before; false when nowhere, or when it is bad.
func (m firsts[T]) again(f field[T]) (place, bool) {
	first, known := m[f.value]
	if f.valid && !known {
		m[f.value] = f.at
	}
	return first, known && f.valid
}

// optional returns a pointer to the value, nil when the key is absent.
func optional[T any](f field[T]) *T {
	if !f.valid {
		return nil
	}
	return &f.value
}
