package config

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Change is one difference between two configurations, and what it takes.
type Change struct {
	Effect   Effect
	Section  string // as in Setting
	Of       string
	Key      string // "" where the whole peer, prefix or VNI comes or goes
	From, To string // values as in the file, defaults filled in where they have a form; both "" for a secret
	Added    bool   // with Key ""; else it goes
}

// Diff lists what is different in next: top-level keys first, then section by section, peers and VNIs in order.
func Diff(old, next *Config) []Change { return DiffSettings(old.Settings(false), next.Settings(false)) }

// DiffSettings is Diff of what Settings(false) gave.
func DiffSettings(old, next []Setting) []Change {
	before, after := byPlace(old), byPlace(next)
	var changes []Change
	for at, s := range after {
		was, known := before[at]
		switch {
		case at.key == "" && !known:
			changes = append(changes, added(s, old))
		case at.key != "" && (was.Value != s.Value || was.Secret != s.Secret) && kept(at, before, after):
			changes = append(changes, changed(was, s))
		}
	}
	for at, s := range before {
		switch _, stays := after[at]; {
		case stays:
		case at.key == "":
			c := Change{Effect: Live, Section: s.Section, Of: s.Of}
			if s.Section != sectionVNIs {
				c.Effect = Flaps
			}
			changes = append(changes, c)
		case kept(at, before, after):
			changes = append(changes, changed(s, Setting{Section: s.Section, Of: s.Of, Key: s.Key}))
		}
	}
	slices.SortFunc(changes, func(a, b Change) int {
		return cmp.Or(
			cmp.Compare(sectionOrder[a.Section], sectionOrder[b.Section]),
			compareOf(a.Section, a.Of, b.Of),
			cmp.Compare(keyOrder[keyID{a.Section, a.Key}], keyOrder[keyID{b.Section, b.Key}]),
		)
	})
	return changes
}

// added is the coming of a peer, prefix or VNI. A peer that may have a session by its prefix so far starts it anew.
func added(s Setting, old []Setting) Change {
	c := Change{Effect: Live, Section: s.Section, Of: s.Of, Added: true}
	addr, err := netip.ParseAddr(s.Of)
	if s.Section == sectionPeers && err == nil && slices.ContainsFunc(old, func(o Setting) bool {
		prefix, err := netip.ParsePrefix(o.Of)
		return o.Section == sectionDynamicPeers && err == nil && prefix.Contains(addr.WithZone(""))
	}) {
		c.Effect = Flaps
	}
	return c
}

// settingPlace is where a setting stands, whatever its value.
type settingPlace struct{ section, of, key string }

func byPlace(all []Setting) map[settingPlace]Setting {
	m := make(map[settingPlace]Setting, len(all))
	for _, s := range all {
		m[settingPlace{s.Section, s.Of, s.Key}] = s
	}
	return m
}

// kept reports whether what a key is part of is there before and after.
func kept(at settingPlace, before, after map[settingPlace]Setting) bool {
	if at.of == "" {
		return true
	}
	at.key = ""
	_, was := before[at]
	_, is := after[at]
	return was && is
}

// changed is the change of one key; a side that does not have it has its default.
func changed(was, is Setting) Change {
	id := keyID{cmp.Or(is.Section, was.Section), cmp.Or(is.Key, was.Key)}
	c := Change{
		Effect: keyEffects[id], Section: id.section, Of: cmp.Or(is.Of, was.Of), Key: id.name,
		From: cmp.Or(was.Value, defaults[id]), To: cmp.Or(is.Value, defaults[id]),
	}
	if c.From == c.To { // the secret behind it is another
		c.From, c.To = "", ""
	}
	return c
}

var (
	keyEffects   = map[keyID]Effect{}
	keyOrder     = map[keyID]int{}
	sectionOrder = map[string]int{}
)

func init() {
	for i, k := range Keys() {
		id := keyID{k.Section, k.Name}
		keyEffects[id], keyOrder[id] = k.Effect, i+1
		if _, known := sectionOrder[k.Section]; !known {
			sectionOrder[k.Section] = len(sectionOrder)
		}
	}
}

// Path names what changed the way an operator would look for it in the file: log.level, peers.10.0.0.1.hold-time.
func (c Change) Path() string {
	return strings.Join(slices.DeleteFunc([]string{c.Section, c.Of, c.Key}, func(s string) bool { return s == "" }), ".")
}

// Subject is whose sessions start anew or end: the address of a peer, or the prefix of dynamic ones; "" for other effects.
func (c Change) Subject() string {
	if c.Effect != Flaps {
		return ""
	}
	return c.Of
}

// Consequence is the effect in words, for people.
func (c Change) Consequence() string {
	switch {
	case c.Effect == Live:
		return "applies live"
	case c.Effect == Restart:
		return "needs a restart"
	case c.Section == sectionDynamicPeers:
		return "flaps peers of " + c.Of
	default:
		return "flaps peer " + c.Of
	}
}

// String says what is different: "peers.10.0.0.1.hold-time: 90s -> 30s", "vnis.100: added".
func (c Change) String() string {
	switch {
	case c.Key == "" && c.Added:
		return c.Path() + ": added"
	case c.Key == "":
		return c.Path() + ": removed"
	case c.From == c.To:
		return c.Path() + ": another secret"
	default:
		return fmt.Sprintf("%s: %s -> %s", c.Path(), cmp.Or(c.From, "none"), cmp.Or(c.To, "none"))
	}
}

// Needing returns those changes that have an effect.
func Needing(effect Effect, changes []Change) []Change {
	return slices.DeleteFunc(slices.Clone(changes), func(c Change) bool { return c.Effect != effect })
}
