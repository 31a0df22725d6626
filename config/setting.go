package config

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/evpnd/evpnd/evpn"
)

// Setting is one value of a configuration.
type Setting struct {
	Section string // "" for a top-level key; see Key
	Of      string // which peer, prefix or VNI; "" elsewhere
	Key     string // "" says that the peer, prefix or VNI is there, and nothing more
	Value   string // as it stands in the file, quoted where it must be; "" when it is not there
	Secret  string // what the file has that Value names; never printed
}

// Settings lists the values of a configuration that differ from the defaults of Keys: top-level ones, then section by
// section. all has those too that are their default, as far as it can be written down.
func (c *Config) Settings(all bool) []Setting {
	l := settings{}
	l.top(c)
	l.in(sectionListen, "")
	l.add("enabled", strconv.FormatBool(c.Listen.Enabled))
	l.add("port", number10(c.Listen.Port))
	l.add("addresses", listOf(c.Listen.Addresses))
	for i := range c.Peers {
		p := &c.Peers[i]
		l.in(sectionPeers, evpn.PeerName(p.Address))
		l.add("asn", p.AS())
		if !p.Passive { // a passive peer is never dialled
			l.add("port", number10(p.Port))
			l.add("connect-retry", seconds10(p.ConnectRetry))
		}
		l.add("passive", strconv.FormatBool(p.Passive))
		if p.Unnumbered() {
			l.add("router-advertisements", strconv.FormatBool(!p.NoAdvertisements))
		}
		l.session(p)
	}
	for i := range c.DynamicPeers {
		d := &c.DynamicPeers[i]
		l.in(sectionDynamicPeers, d.Prefix.String())
		l.add("asn", d.Template.AS())
		l.add("limit", number10(d.Limit))
		l.session(&d.Template)
	}
	for _, n := range slices.Sorted(maps.Keys(c.VNIs)) {
		l.vni(n, c.VNIs[n], c.MaxMACs)
	}
	l.rest(c)
	if all {
		return l.all
	}
	return slices.DeleteFunc(l.all, func(s Setting) bool { return s.Key != "" && s.Value == defaults[s.id()] })
}

// defaults are those of Keys.
var defaults = func() map[keyID]string {
	m := make(map[keyID]string)
	for _, k := range Keys() {
		if !strings.HasPrefix(k.Default, "required") {
			m[keyID{k.Section, k.Name}] = k.Default
		}
	}
	return m
}()

type keyID struct{ section, name string }

func (s Setting) id() keyID { return keyID{s.Section, s.Key} }

// settings gathers them.
type settings struct {
	section, of string
	all         []Setting
}

// in begins a section or an element of one.
func (l *settings) in(section, of string) {
	l.section, l.of = section, of
	if of != "" {
		l.all = append(l.all, Setting{Section: section, Of: of})
	}
}

func (l *settings) add(key, value string) {
	if value != "" {
		l.all = append(l.all, Setting{Section: l.section, Of: l.of, Key: key, Value: value})
	}
}

func (l *settings) top(c *Config) {
	l.add("asn", number10(c.ASN))
	if c.RouterID.IsValid() && c.RouterID != c.VTEP {
		l.add("router-id", c.RouterID.String())
	}
	if c.VTEPInterface == "" {
		l.add("vtep", quoted(c.VTEP.String()))
	}
	l.add("vtep-interface", quoted(c.VTEPInterface))
	l.add("route-targets", string(c.RT))
	l.add("auto-vnis", strconv.FormatBool(c.AutoVNIs))
	l.add("snooping", strconv.FormatBool(c.Snooping))
	l.add("snooping-rate", number10(c.SnoopingRate))
	l.add("arp-suppression", optionalBool(c.ARPSuppression))
	l.add("vtep-reachability", string(c.VTEPReachability))
	l.add("vtep-hold", seconds10(c.VTEPHold))
	l.add("vtep-probe", seconds10(c.VTEPProbe))
	l.add("vtep-probe-misses", number10(c.VTEPProbeMisses))
	l.add("manage-devices", strconv.FormatBool(c.ManageDevices))
	l.add("max-macs", macLimits(c.MaxMACs))
	l.add("on-peer-loss", c.OnPeerLoss.words())
	l.add("flush-on-exit", strconv.FormatBool(c.FlushOnExit))
	l.add("state-dir", quoted(c.StateDir))
}

func (l *settings) rest(c *Config) {
	l.in(sectionDuplicates, "")
	l.add("moves", number10(c.Duplicates.Moves))
	l.add("within", seconds10(c.Duplicates.Within))
	l.add("action", c.Duplicates.Action.String())
	if c.Duplicates.RecoverAfter != 3*c.Duplicates.Within {
		l.add("recover-after", seconds10(c.Duplicates.RecoverAfter))
	}
	l.in(sectionAPI, "")
	l.add("socket", quoted(c.API.Socket))
	l.add("group", quoted(c.API.Group))
	l.add("admin-group", quoted(c.API.AdminGroup))
	l.apiListener(c.API.TCP)
	l.add("metrics", quoted(c.API.Metrics))
	l.in(sectionLog, "")
	l.add("level", c.Log.Level)
	l.add("format", c.Log.Format)
}

func (l *settings) apiListener(a APIListener) {
	l.add("listen", quoted(a.Address))
	for _, f := range []struct {
		key string
		File
	}{{"certificate", a.Certificate}, {"key", a.Key}, {"client-ca", a.ClientCA}} {
		if f.Path != "" {
			l.add(f.key, quoted(f.Path))
			l.all[len(l.all)-1].Secret = f.Content
		}
	}
	l.add("readers", nameList(a.Readers))
	l.add("admins", nameList(a.Admins))
}

func nameList(names []string) string {
	if len(names) == 0 {
		return ""
	}
	var words []string
	for _, name := range names {
		words = append(words, quoted(name))
	}
	return "[" + strings.Join(words, ", ") + "]"
}

// session adds what peers and dynamic peers have in common.
func (l *settings) session(p *Peer) {
	l.add("description", quoted(p.Description))
	if p.LocalAddress.IsValid() {
		l.add("local-address", quoted(p.LocalAddress.String()))
	}
	if !p.Unnumbered() { // else it is the peer's name
		l.add("interface", quoted(p.Interface))
	}
	l.add("multihop", number10(p.Multihop))
	l.add("ttl-security", number10(p.TTLSecurity))
	if p.PasswordFile != "" {
		l.add("password-file", quoted(p.PasswordFile))
		l.all[len(l.all)-1].Secret = p.Password
	}
	l.add("hold-time", seconds10(p.HoldTime))
	if p.Keepalive != defaultKeepalive(p.HoldTime) {
		l.add("keepalive", seconds10(p.Keepalive))
	}
	l.add("graceful-restart", seconds10(p.GracefulRestart))
	l.add("rt-constraint", strconv.FormatBool(p.RTConstraint))
	l.add("need-encapsulation", strconv.FormatBool(p.NeedEncap))
	l.add("long-lived", seconds10(p.LongLived))
	l.add("stale-time", seconds10(p.StaleTime))
	l.add("on-peer-loss", p.OnPeerLoss.words())
	l.add("max-routes", p.MaxRoutes.mapping())
}

// vni adds a VNI; all are the limits of those that do not say.
func (l *settings) vni(n evpn.VNI, v VNI, all evpn.MACLimits) {
	l.in(sectionVNIs, number10(n))
	l.add("off", strconv.FormatBool(v.Off))
	if v.RD != (evpn.RD{}) {
		l.add("rd", quoted(v.RD.String()))
	}
	l.add("import", listOf(v.Import))
	l.add("export", listOf(v.Export))
	l.add("strict-tag", strconv.FormatBool(v.StrictTag))
	if v.StickyStatic {
		l.add("static-macs", staticSticky)
	} else {
		l.add("static-macs", staticNormal)
	}
	l.add("gateways", gatewayList(v.Gateways))
	l.add("snooping", optionalBool(v.Snooping))
	l.add("arp-suppression", optionalBool(v.ARPSuppression))
	l.add("manage", optionalBool(v.Manage))
	if v.MaxMACs != all {
		l.add("max-macs", macLimits(v.MaxMACs))
	}
	l.add("create", strconv.FormatBool(v.Create))
	l.add("device", quoted(v.Device))
	l.add("bridge", quoted(v.Bridge))
}

// AS is the AS of the peer as it stands in the file.
func (p *Peer) AS() string {
	switch {
	case p.External:
		return "external"
	case p.ASN == 0:
		return "any"
	default:
		return number10(p.ASN)
	}
}

func macLimits(m evpn.MACLimits) string {
	return fmt.Sprintf("{local: %d, port: %d, remote: %d}", m.Local, m.Port, m.Remote)
}

func (l PeerLoss) words() string {
	switch {
	case l.Withdraw:
		return "withdraw"
	case l.Keep > 0:
		return "keep-for " + seconds10(l.Keep)
	default:
		return "graceful-restart"
	}
}

func (m MaxRoutes) mapping() string {
	text := fmt.Sprintf("{limit: %d, warn: %d, action: %s", m.Most, m.Warn, m.Action)
	if m.Action == evpn.LimitReset {
		text += ", idle-hold: " + seconds10(m.IdleHold)
	}
	return text + "}"
}

func number10[T ~int | ~uint8 | ~uint16 | ~uint32](n T) string {
	return strconv.FormatUint(uint64(n), 10)
}

func seconds10(d time.Duration) string {
	if d%time.Second != 0 {
		return d.String()
	}
	if d == 0 {
		return "0"
	}
	return strconv.FormatInt(int64(d/time.Second), 10) + "s"
}

func optionalBool(b *bool) string {
	if b == nil {
		return ""
	}
	return strconv.FormatBool(*b)
}

func listOf[T fmt.Stringer](values []T) string {
	if len(values) == 0 {
		return ""
	}
	var words []string
	for _, v := range values {
		words = append(words, quoted(v.String()))
	}
	return "[" + strings.Join(words, ", ") + "]"
}

func gatewayList(gateways []evpn.Gateway) string {
	if len(gateways) == 0 {
		return ""
	}
	var words []string
	for _, g := range gateways {
		words = append(words, fmt.Sprintf("{mac: %s, ip: %s}", quoted(g.MAC.String()), quoted(g.IP.String())))
	}
	return "[" + strings.Join(words, ", ") + "]"
}

// plain is text that every reader of YAML takes for itself, in braces too. A colon may make a number to base 60.
var plain = regexp.MustCompile(`^[A-Za-z/][A-Za-z0-9_./+-]*$|^[0-9]+(\.[0-9]+){3}$`)

// reserved are words that some reader takes for something else than text.
var reserved = regexp.MustCompile(`(?i)^(null|true|false|yes|no|on|off|y|n)$`)

// quoted is text as it stands in YAML.
func quoted(text string) string {
	if text == "" || plain.MatchString(text) && !reserved.MatchString(text) {
		return text
	}
	b, err := json.Marshal(text)
	if err != nil { // a string has no reason
		return strconv.Quote(text)
	}
	return string(b)
}

// YAML is the configuration as a file that Load takes, without what is the default unless all is set. Secrets stay in the
// files that it names.
func (c *Config) YAML(all bool) string {
	var b strings.Builder
	section, of := "", ""
	for _, s := range c.Settings(all) {
		if s.Section != section {
			fmt.Fprintf(&b, "%s:\n", s.Section)
			section, of = s.Section, ""
		}
		switch {
		case s.Key != "":
			if of != "" {
				b.WriteString("  ")
			}
			if section != "" {
				b.WriteString("  ")
			}
			fmt.Fprintf(&b, "%s: %s\n", s.Key, s.Value)
		case section == sectionPeers:
			of = s.Of
			key := "address"
			if _, err := netip.ParseAddr(of); err != nil {
				key = "interface"
			}
			fmt.Fprintf(&b, "  - %s: %s\n", key, quoted(of))
		case section == sectionDynamicPeers:
			of = s.Of
			fmt.Fprintf(&b, "  - prefix: %s\n", quoted(of))
		default:
			of = s.Of
			fmt.Fprintf(&b, "  %s:\n", of)
		}
	}
	return b.String()
}

// compareOf orders peers, prefixes and VNIs of a section.
func compareOf(section, a, b string) int {
	switch section {
	case sectionPeers:
		x, _ := evpn.ParsePeer(a)
		y, _ := evpn.ParsePeer(b)
		return x.Compare(y)
	case sectionVNIs:
		x, _ := strconv.ParseUint(a, 10, 32)
		y, _ := strconv.ParseUint(b, 10, 32)
		return int(x) - int(y)
	default:
		return strings.Compare(a, b)
	}
}
