package config

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/evpnd/evpnd/evpn"
)

// FuzzParse: whatever a file says there is no panic; either there are faults, each with a message and in order, or the
// configuration is what its type promises.
func FuzzParse(f *testing.F) {
	for _, name := range []string{"reference.yaml", "testdata/many.yaml"} {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	for _, seed := range []string{
		peer, dynamic, base + "vnis: {100: {import: [65000:1, \"*:5\"], rd: 10.0.0.1:5}}",
		"asn: 4200000000\nvtep: fd00::1\nrouter-id: 1.1.1.1\nroute-targets: as4\n",
		"? a\n: b\n", "a: &x [*x]\n", "<<: *x\n", "%YAML 1.2\n---\n!!map {a: b}\n...\n---\n", "[[[[", "a: |\n b\n", "\xef\xbb\xbf\x00",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse("fuzz.yaml", data)
		if err == nil {
			if err := promised(c); err != nil {
				t.Errorf("%v in %+v", err, c)
			}
			c.Core()
			if again, err := Parse("again.yaml", []byte(c.YAML(true))); err != nil || len(Diff(c, again)) > 0 {
				t.Errorf("written and read again: %v in\n%s", err, c.YAML(true))
			}
			return
		}
		var faults Faults
		if !errors.As(err, &faults) || len(faults) == 0 || c != nil {
			t.Fatalf("Parse = %v, %v; want Faults alone", c, err)
		}
		for i, fault := range faults {
			if fault.Message == "" || fault.Line < 0 || i > 0 && fault.Line < faults[i-1].Line {
				t.Errorf("fault %d: %+v", i, fault)
			}
			if strings.ContainsRune(fault.Excerpt, '\x1b') {
				t.Errorf("excerpt with an escape: %q", fault.Excerpt)
			}
		}
	})
}

// promised checks what the doc comments of Config and its parts say.
func promised(c *Config) error {
	var errs []error
	claim := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	claim(c.ASN > 0, "asn 0")
	claim(c.VTEP.IsValid() != (c.VTEPInterface != ""), "vtep %s and vtep-interface %q", c.VTEP, c.VTEPInterface)
	claim(c.RouterID.Is4() || c.VTEPInterface != "", "router id %s", c.RouterID)
	claim(c.Listen.Port > 0, "listen port 0")
	claim(c.StateDir != "" && c.API.Socket != "" && c.Log.Level != "" && c.Log.Format != "", "a default is missing")
	seen := map[netip.Addr]bool{c.VTEP: true}
	for _, p := range c.Peers {
		claim((p.ASN > 0) != p.External && p.Port > 0 && p.Address.IsValid() && !seen[p.Address], "peer %s", p.Address)
		claim(!p.LocalAddress.IsValid() || p.LocalAddress.Is4() == p.Address.Is4(), "local address of %s", p.Address)
		claim(!p.Address.Is6() || p.Address.IsLinkLocalUnicast() == (p.Address.Zone() != ""), "zone of %s", p.Address)
		claim(p.Multihop == 0 || p.ASN != c.ASN, "multihop of iBGP peer %s", p.Address)
		claim(!p.Passive || c.Listen.Enabled, "nothing listens for %s", p.Address)
		claim(p.ConnectRetry >= 100*time.Millisecond, "connect-retry of %s", p.Address)
		seen[p.Address] = true
		errs = append(errs, promisedSession(p))
	}
	for i, d := range c.DynamicPeers {
		claim(d.Prefix.IsValid() && d.Prefix == d.Prefix.Masked() && d.Limit > 0, "dynamic peers %s", d.Prefix)
		claim(d.Template.Passive && c.Listen.Enabled, "nothing listens for %s", d.Prefix)
		claim(!slices.ContainsFunc(c.DynamicPeers[:i], func(o DynamicPeers) bool { return o.Prefix.Overlaps(d.Prefix) }),
			"%s overlaps", d.Prefix)
		errs = append(errs, promisedSession(d.Template))
	}
	rds := map[evpn.RD]bool{}
	for n, v := range c.VNIs {
		claim(n.Check() == nil, "VNI %d", n)
		claim(v.RD == evpn.RD{} || !rds[v.RD], "RD of VNI %d", n)
		claim((v.Import == nil) == (len(v.Import) == 0) && (v.Export == nil) == (len(v.Export) == 0), "route targets of VNI %d", n)
		_, _, err := evpn.DeriveRTs(c.RT, c.ASN, n)
		claim(err == nil || v.Off || v.Import != nil && v.Export != nil, "route targets of VNI %d: %v", n, err)
		rds[v.RD] = true
	}
	return errors.Join(errs...)
}

func promisedSession(p Peer) error {
	switch {
	case p.HoldTime != 0 && (p.HoldTime < 3*time.Second || p.HoldTime > 65535*time.Second),
		p.HoldTime == 0 && p.Keepalive != 0,
		p.HoldTime != 0 && (p.Keepalive < time.Second || p.Keepalive >= p.HoldTime):
		return fmt.Errorf("hold time %s with keepalive %s", p.HoldTime, p.Keepalive)
	case p.GracefulRestart < 0 || p.GracefulRestart > 4095*time.Second:
		return fmt.Errorf("graceful restart %s", p.GracefulRestart)
	case p.TTLSecurity > 0 && p.Multihop > 0, p.Multihop == 1, p.TTLSecurity == 255:
		return fmt.Errorf("ttl-security %d with multihop %d", p.TTLSecurity, p.Multihop)
	case len(p.Password) > 80, p.MaxRoutes.Most < 0, p.MaxRoutes.Warn < 1 || p.MaxRoutes.Warn > 100, p.OnPeerLoss.Withdraw && p.OnPeerLoss.Keep > 0:
		return fmt.Errorf("password of %d octets, max-routes %+v, on-peer-loss %+v", len(p.Password), p.MaxRoutes, p.OnPeerLoss)
	}
	return nil
}
