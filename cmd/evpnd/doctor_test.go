package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	evpnv1 "github.com/evpnd/evpnd/api/evpn/v1"
)

// diagnosed waits until a running evpnd finds just this fault, "" being none, and returns it.
func (p *process) diagnosed(code string) *evpnv1.Fault {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*deadline)
	defer cancel()
	for {
		r, err := evpnv1.NewInspectServiceClient(p.conn).Diagnose(ctx, &evpnv1.DiagnoseRequest{})
		switch {
		case err != nil:
			p.t.Fatal(err)
		case code == "" && len(r.Faults) == 0:
			return nil
		case len(r.Faults) == 1 && r.Faults[0].Code == code:
			return r.Faults[0]
		}
		select {
		case <-ctx.Done():
			p.t.Fatalf("waited for %q, found %v", code, r.Faults)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func ip(t *testing.T, args string) {
	t.Helper()
	if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v: %s", args, err, out)
	}
}

// TestDoctorOnSessions: why a real session does not come up is told by its own code.
func TestDoctorOnSessions(t *testing.T) {
	for _, address := range []string{"10.255.0.1", "10.255.0.2"} {
		ip(t, "addr add "+address+"/32 dev lo")
		t.Cleanup(func() { ip(t, "addr del "+address+"/32 dev lo") })
	}
	keys := t.TempDir()
	for _, key := range []string{"one", "other"} {
		if err := os.WriteFile(filepath.Join(keys, key), []byte(key), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name            string
		listen, dial    string // more keys of the peer on either side; no listen: nobody does
		atDial, atOther string // codes
	}{
		{"well", "asn: 65000", "asn: 65000", "", ""},
		{"refused", "", "asn: 65000", "peer-refused", ""},
		{"wrong AS", "asn: 65000", "asn: 65001", "peer-wrong-as", "peer-wrong-as"},
		{
			"MD5 mismatch", "asn: 65000, password-file: " + keys + "/one", "asn: 65000, password-file: " + keys + "/other",
			"peer-no-answer", "peer-not-established",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			var other *process
			if c.listen != "" {
				other = launch(t, fmt.Sprintf(`
asn: 65000
vtep: 10.255.0.1
listen: {port: 1790, addresses: [127.0.0.1]}
peers:
  - {address: 127.0.0.2, passive: true, %s}
`, c.listen))
			}
			dialing := launch(t, fmt.Sprintf(`
asn: 65000
vtep: 10.255.0.2
peers:
  - {address: 127.0.0.1, port: 1790, local-address: 127.0.0.2, connect-retry: 100ms, %s}
`, c.dial))
			if f := dialing.diagnosed(c.atDial); f != nil && f.Peer != "127.0.0.1" {
				t.Errorf("fault %v", f)
			}
			if other != nil {
				other.diagnosed(c.atOther)
			}
		})
	}
	t.Run("no route", func(t *testing.T) {
		launch(t, "asn: 65000\nvtep: 10.255.0.1\npeers:\n  - {address: 192.0.2.1, asn: 65000}\n").diagnosed("peer-no-route")
	})
}

// TestCreatedDevices are there when evpnd is ready, survive its violent end, are the same after a restart, and go when a
// reload takes their VNI away.
func TestCreatedDevices(t *testing.T) {
	ip(t, "addr add 10.255.0.1/32 dev lo")
	t.Cleanup(func() { ip(t, "addr del 10.255.0.1/32 dev lo") })
	text := "asn: 65000\nvtep: 10.255.0.1\nvnis:\n  50: {create: true, device: tenant50, bridge: tenants}\n"
	first := launch(t, text)
	was := indexOf("tenant50")
	if was == 0 || indexOf("tenants") == 0 {
		t.Fatal("the devices are not there")
	}
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = first.Wait()
	second := launch(t, text)
	if is := indexOf("tenant50"); is != was {
		t.Errorf("after a restart the device has index %d, had %d", is, was)
	}
	path := filepath.Join(second.dir, "evpnd.yaml")
	old, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	without := strings.ReplaceAll(string(old), "  50: {create: true, device: tenant50, bridge: tenants}\n", "  60: {off: true}\n")
	if err := os.WriteFile(path, []byte(without), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	if _, err := evpnv1.NewAdminServiceClient(second.conn).Reload(ctx, &evpnv1.ReloadRequest{}); err != nil {
		t.Fatal(err)
	}
	if indexOf("tenant50") != 0 || indexOf("tenants") != 0 {
		t.Error("the devices are left after the reload")
	}
	second.stop()
}

// indexOf returns the index of a device; 0 when there is none.
func indexOf(name string) int {
	l, err := net.InterfaceByName(name)
	if err != nil {
		return 0
	}
	return l.Index
}
