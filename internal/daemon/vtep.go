package daemon

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/evpnd/evpnd/config"
)

// vtepPoll is how often a VTEP interface that has no address yet is looked at again.
const vtepPoll = time.Second

// ResolveVTEP fills in the VTEP address, and the BGP identifier that defaults to it, when the configuration takes them
// from an interface. Interfaces come late on hypervisors and in labs: it waits for the address until ctx ends, and says so
// to the log and, as a STATUS line of sd_notify(3), to notify.
func ResolveVTEP(ctx context.Context, cfg *config.Config, log logrus.FieldLogger, notify func(state string)) error {
	if cfg.VTEPInterface == "" {
		return nil
	}
	tick := time.NewTicker(vtepPoll)
	defer tick.Stop()
	for waiting := false; ; waiting = true {
		addr, err := interfaceAddr(cfg.VTEPInterface)
		if err == nil {
			return cfg.SetVTEP(addr)
		}
		if !waiting {
			log.WithField("ifname", cfg.VTEPInterface).WithError(err).Warn("waiting for the vtep address")
			notify("STATUS=waiting for an address of " + cfg.VTEPInterface)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the address of %s: %w", cfg.VTEPInterface, ctx.Err())
		case <-tick.C:
		}
	}
}

// interfaceAddr returns the first address of an interface that other hosts can reach, IPv4 before IPv6.
func interfaceAddr(name string) (netip.Addr, error) {
	ifi, err := net.InterfaceByName(name)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("look up vtep-interface %s: %w", name, err)
	}
	addrs, err := ifi.Addrs()
	if err != nil {
		return netip.Addr{}, fmt.Errorf("list addresses of %s: %w", name, err)
	}
	var v6 netip.Addr
	for _, a := range addrs {
		prefix, err := netip.ParsePrefix(a.String())
		if err != nil || !prefix.Addr().IsGlobalUnicast() {
			continue
		}
		if prefix.Addr().Is4() {
			return prefix.Addr(), nil
		}
		if !v6.IsValid() {
			v6 = prefix.Addr()
		}
	}
	if v6.IsValid() {
		return v6, nil
	}
	return netip.Addr{}, fmt.Errorf("interface %s has no address that others can reach", name)
}
