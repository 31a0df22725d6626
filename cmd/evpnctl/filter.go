package main

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/evpnd/evpnd/evpn"
)

// filters are what the flags of the show commands narrow an answer down to; zero values mean everything.
type filters struct {
	vni       uint32
	routeType uint32
	mac       string
	ip        string
	vtep      string
	rd        string
	peer      string
	origin    string // local, remote
	direction string // in, out
	duplicate bool
}

// filterFlag is one flag that sets a filter. FRR's word order uses the same words, so the same table reads both.
type filterFlag struct {
	usage string
	word  bool // takes no value
	set   func(*filters, string) error
}

var filterFlags = map[string]filterFlag{
	"vni": {usage: "only this `VNI`", set: func(f *filters, s string) (err error) {
		f.vni, err = parseVNI(s)
		return err
	}},
	"type": {usage: "only this route `type`: 1 to 5, or macip, multicast, …", set: func(f *filters, s string) (err error) {
		f.routeType, err = parseRouteType(s)
		return err
	}},
	"mac": {usage: "only this `MAC`", set: func(f *filters, s string) error {
		mac, err := evpn.ParseMAC(s)
		f.mac = mac.String()
		return err
	}},
	"rd": {usage: "only this route distinguisher (`RD`)", set: func(f *filters, s string) error {
		rd, err := evpn.ParseRD(s)
		f.rd = rd.String()
		return err
	}},
	"ip": {usage: "only this `IP` address", set: func(f *filters, s string) error { return setAddr(&f.ip, s) }},
	"vtep": {usage: "only what is behind this `VTEP`", set: func(f *filters, s string) error {
		return setAddr(&f.vtep, s)
	}},
	"peer": {usage: "only this `peer`", set: func(f *filters, s string) error { return setPeer(&f.peer, s) }},
	"local": {usage: "only what is on this host", word: true, set: func(f *filters, _ string) error {
		return setOnce(&f.origin, "local")
	}},
	"remote": {usage: "only what is behind other VTEPs", word: true, set: func(f *filters, _ string) error {
		return setOnce(&f.origin, "remote")
	}},
	"duplicate": {usage: "only what two hosts have", word: true, set: func(f *filters, _ string) error {
		f.duplicate = true
		return nil
	}},
	"in": {usage: "only received routes", word: true, set: func(f *filters, _ string) error {
		return setOnce(&f.direction, "in")
	}},
	"out": {usage: "only our own routes", word: true, set: func(f *filters, _ string) error {
		return setOnce(&f.direction, "out")
	}},
}

// addFilters gives cmd the named filter flags.
func (f *filters) addFilters(cmd *cobra.Command, names ...string) {
	for _, name := range names {
		flag := filterFlags[name]
		set := func(s string) error { return flag.set(f, s) }
		if flag.word {
			cmd.Flags().BoolFunc(name, flag.usage, set)
			continue
		}
		cmd.Flags().Func(name, flag.usage, set)
	}
}

// readWords reads what stands behind a show command: a VNI, or FRR's words ("vni 100 mac 02:… json").
func (c *cli) readWords(cmd *cobra.Command, words []string) error {
	for len(words) > 0 {
		word := words[0]
		words = words[1:]
		if _, err := strconv.ParseUint(word, 10, 64); err == nil {
			words = append([]string{word}, words...)
			word = "vni"
		}
		flag, known := filterFlags[word]
		known = known && cmd.Flags().Lookup(word) != nil
		switch {
		case word == "json":
			c.format = formatJSON
		case word == "detail":
			c.format = formatWide
		case word == "all":
		case !known:
			return fmt.Errorf("%q has no meaning behind %q; see %s --help", word, cmd.CommandPath(), cmd.CommandPath())
		case flag.word:
			if err := cmd.Flags().Set(word, "true"); err != nil {
				return err
			}
		case len(words) == 0:
			return fmt.Errorf("%q wants a value", word)
		default:
			if value := words[0]; word != "vni" || value != "all" {
				if err := cmd.Flags().Set(word, value); err != nil {
					return err
				}
			}
			words = words[1:]
		}
	}
	return nil
}

func parseVNI(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("%q: %w", s, evpn.ErrVNI)
	}
	return uint32(n), evpn.VNI(n).Check()
}

// routeTypes are the names FRR's command line has for them.
var routeTypes = map[string]uint32{"ead": 1, "macip": 2, "multicast": 3, "imet": 3, "es": 4, "prefix": 5}

func parseRouteType(s string) (uint32, error) {
	if n, ok := routeTypes[s]; ok {
		return n, nil
	}
	if n, err := strconv.ParseUint(s, 10, 8); err == nil && n >= 1 && n <= 5 {
		return uint32(n), nil
	}
	names := slices.Sorted(maps.Keys(routeTypes))
	return 0, fmt.Errorf("want 1 to 5 or one of %s", strings.Join(names, ", "))
}

func setAddr(to *string, s string) error {
	addr, err := netip.ParseAddr(s)
	if err != nil {
		return fmt.Errorf("%q is not an IP address", s)
	}
	*to = addr.String()
	return nil
}

func setPeer(to *string, s string) error {
	peer, err := evpn.ParsePeer(s)
	*to = evpn.PeerName(peer)
	return err
}

func setOnce(to *string, s string) error {
	if *to != "" && *to != s {
		return errors.New(*to + " and " + s + " exclude each other")
	}
	*to = s
	return nil
}
