package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"google.golang.org/protobuf/types/known/timestamppb"

	evpnv1 "github.com/evpnd/evpnd/api/evpn/v1"
	"github.com/evpnd/evpnd/config"
	"github.com/evpnd/evpnd/dataplane"
	"github.com/evpnd/evpnd/evpn"
)

// Why a reload was refused, where it is not the file that is wrong.
var (
	errNeedsRestart = errors.New("these need a restart, nothing was changed")
	errNotApplied   = errors.New("configuration not applied") // the old one is in force again
)

// configState is the configuration in force.
type configState struct {
	reload sync.Mutex // one reload at a time; the rest is read meanwhile

	mu      sync.Mutex
	current *config.Config
	loaded  time.Time
	last    *evpnv1.Reload // nil before the first reload
}

func (s *configState) get() *config.Config {
	cfg, _, _ := s.state()
	return cfg
}

func (s *configState) state() (*config.Config, time.Time, *evpnv1.Reload) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current, s.loaded, s.last
}

// reloaded records the outcome of a reload; next is the configuration in force from now on when err is nil.
func (s *configState) reloaded(next *config.Config, err error) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = &evpnv1.Reload{Time: timestamppb.New(now), Successful: err == nil}
	if err != nil {
		s.last.Error = printable(err.Error())
		return
	}
	s.current, s.loaded = next, now
}

// Reload reads the configuration file again and applies it, all or nothing. It returns what became different, in words,
// once the new configuration is in force. Safe to call from any goroutine while Run runs.
func (d *Daemon) Reload() ([]string, error) {
	d.config.reload.Lock()
	defer d.config.reload.Unlock()
	defer d.manager.reloading()()
	old := d.config.get()
	next, err := d.reload(old)
	d.config.reloaded(next, err)
	if err != nil {
		d.log.WithError(err).Error("reload refused, nothing changed")
		return nil, err
	}
	changes := differences(old, next)
	d.log.WithField("changes", len(changes)).Info("configuration reloaded")
	return changes, nil
}

// reload finds out whether the file can replace old, and does it.
func (d *Daemon) reload(old *config.Config) (*config.Config, error) {
	next, err := config.Load(d.opts.ConfigPath)
	if err != nil {
		return nil, err
	}
	if next.VTEPInterface != "" && next.VTEPInterface == old.VTEPInterface {
		if err := next.SetVTEP(old.VTEP); err != nil {
			return nil, err
		}
	}
	if fixed := needRestart(old, next); len(fixed) > 0 {
		return nil, fmt.Errorf("%w: %s", errNeedsRestart, strings.Join(fixed, ", "))
	}
	level, err := logrus.ParseLevel(next.Log.Level)
	if err != nil {
		return nil, fmt.Errorf("log level: %w", err)
	}
	if err := d.bgp.Configure(next); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: configure peers: %w", errNotApplied, err), d.bgp.Configure(old))
	}
	d.kernel.Reconfigure(dataplane.OptionsFrom(next))
	configure := func(c *evpn.Core) {
		d.keepPeers(next)
		c.Handle(evpn.Configure{Config: next.Core()}, time.Now())
	}
	// A caller who gives up must not leave half of it done, so only the end of the daemon ends this.
	if err := d.onOwner(context.Background(), configure); err != nil {
		return nil, err
	}
	d.log.SetLevel(level)
	return next, nil
}

// needRestart names what differs and cannot change while the daemon runs. Peers have been told in the OPENs whether we
// forward while we restart, so flush-on-exit is among it.
func needRestart(a, b *config.Config) []string {
	var names []string
	for _, f := range []struct {
		name string
		same bool
	}{
		{"asn", a.ASN == b.ASN},
		{"router-id", a.RouterID == b.RouterID || !b.RouterID.IsValid()}, // follows the vtep
		{"vtep", a.VTEP == b.VTEP && a.VTEPInterface == b.VTEPInterface},
		{"listen", reflect.DeepEqual(a.Listen, b.Listen)},
		{"flush-on-exit", a.FlushOnExit == b.FlushOnExit},
		{"state-dir", a.StateDir == b.StateDir},
		{"api", a.API == b.API},
		{"log format", a.Log.Format == b.Log.Format},
	} {
		if !f.same {
			names = append(names, f.name)
		}
	}
	return names
}

// differences lists in words what a reload changed.
func differences(a, b *config.Config) []string {
	out := changes("peer", peersOf(a), peersOf(b), netip.Addr.Compare)
	out = append(out, changes("VNI", a.VNIs, b.VNIs, cmp.Compare[evpn.VNI])...)
	for _, part := range []struct {
		name string
		same bool
	}{
		{"dynamic-peers", reflect.DeepEqual(a.DynamicPeers, b.DynamicPeers)},
		{"route-targets", a.RT == b.RT},
		{"auto-vnis", a.AutoVNIs == b.AutoVNIs},
		{"duplicates", a.Duplicates == b.Duplicates},
		{"snooping", a.Snooping == b.Snooping},
		{"snooping-rate", a.SnoopingRate == b.SnoopingRate},
		{"arp-suppression", reflect.DeepEqual(a.ARPSuppression, b.ARPSuppression)},
		{"manage-devices", a.ManageDevices == b.ManageDevices},
		{"log level", a.Log.Level == b.Log.Level},
	} {
		if !part.same {
			out = append(out, part.name+" changed")
		}
	}
	return out
}

func peersOf(c *config.Config) map[netip.Addr]config.Peer {
	peers := make(map[netip.Addr]config.Peer, len(c.Peers))
	for _, p := range c.Peers {
		peers[p.Address] = p
	}
	return peers
}

// changes names the members of a that b lacks, has otherwise, or has beside them, in order.
func changes[K comparable, V any](kind string, a, b map[K]V, compare func(K, K) int) []string {
	all := map[K]V{}
	maps.Copy(all, a)
	maps.Copy(all, b)
	var out []string
	for _, key := range slices.SortedFunc(maps.Keys(all), compare) {
		was, before := a[key]
		is, after := b[key]
		word := "changed"
		switch {
		case !before:
			word = "added"
		case !after:
			word = "removed"
		case reflect.DeepEqual(was, is):
			continue
		}
		out = append(out, fmt.Sprintf("%s %v %s", kind, key, word))
	}
	return out
}
