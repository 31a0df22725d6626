package labs

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// The VNIs that the test makes on both hosts, beside VNI 100, which no reload concerns.
const (
	firstGone, firstChanged, firstKept = 1001, 1016, 1031 // before
	firstNew, endNew                   = 1051, 1071       // after; those from firstGone to firstChanged are not there
)

// dropIn is the part of the configuration that changes: 50 VNIs, and three more peers of h1, which are h2's other addresses.
func dropIn(host string, after bool) string {
	var b strings.Builder
	if host == "h2" {
		b.WriteString("dynamic-peers: [{prefix: 10.9.0.0/24, asn: 65000}]\n")
	} else {
		b.WriteString("peers:\n")
		for n := 1; n <= 3; n++ {
			more := ""
			switch {
			case n == 1 && after, n == 3 && !after:
				continue
			case n == 2 && after:
				more = ", hold-time: 30s"
			}
			fmt.Fprintf(&b, "  - {address: 10.9.1.%d, local-address: 10.9.0.%d, asn: 65000, connect-retry: 100ms%s}\n", n, n, more)
		}
	}
	b.WriteString("vnis:\n")
	for vni := firstGone; vni < endNew; vni++ {
		if after && vni < firstChanged || !after && vni >= firstNew {
			continue
		}
		more := ""
		if after && vni >= firstChanged && vni < firstKept {
			more = fmt.Sprintf(", import: [\"65000:%[1]d\"], export: [\"65000:%[1]d\"]", vni+5000)
		}
		fmt.Fprintf(&b, "  %d: {create: true%s}\n", vni, more)
	}
	return b.String()
}

// reload writes a drop-in and has it read; the error is what evpnctl says.
func reload(ctx context.Context, lab *Lab, host, text string) error {
	script := "mkdir -p /etc/evpnd/conf.d; cat >/etc/evpnd/conf.d/tenants.yaml <<'END'\n" + text + "END\nevpnctl reload"
	_, stderr, err := lab.Exec(ctx, host, "sh", "-ec", script)
	if err != nil {
		return fmt.Errorf("%w: %s", err, stderr)
	}
	return nil
}

// sessionSince is when the session with a peer came up.
func sessionSince(t *testing.T, ctx context.Context, lab *Lab, node, peer string) string {
	t.Helper()
	peers, err := list[ctlPeer](ctx, lab, node, "show", "summary", "--peer", peer)
	if err != nil || len(peers) != 1 || !strings.EqualFold(peers[0].State, "established") {
		t.Fatalf("peer %s of %s: %v, %v", peer, node, peers, err)
	}
	return peers[0].Since
}

// TestReload: 50 VNIs and 3 peers change while 1,000 packets a second go each way in another VNI. None is lost, the
// untouched session stays, no row of untouched VNIs is deleted. A file with three faults changes nothing.
func TestReload(t *testing.T) {
	ctx := testContext(t, 3*time.Minute)
	lab := bringUp(t, ctx, "01-two-hosts")
	shell(t, ctx, lab, "h1", "for n in 1 2 3; do ip addr add 10.9.0.$n/32 dev lo; done; ip route add 10.9.1.0/24 via 10.0.0.1")
	shell(t, ctx, lab, "h2", "for n in 1 2 3; do ip addr add 10.9.1.$n/32 dev lo; done; ip route add 10.9.0.0/24 via 10.0.0.0")
	for _, host := range []string{"h2", "h1"} {
		if err := reload(ctx, lab, host, dropIn(host, false)); err != nil {
			t.Fatal(err)
		}
	}
	serves := func(host, other string, vnis ...int) error {
		var errs []error
		for _, vni := range vnis {
			errs = append(errs, wantVTEP(ctx, lab, host, true, vni, other))
		}
		return errors.Join(errs...)
	}
	within(t, ctx, 30*time.Second, "all is up", func() error {
		return all(serves("h1", "10.255.0.2", 100, firstGone, firstNew-1), serves("h2", "10.255.0.1", 100, firstGone, firstNew-1),
			wantEstablished(ctx, lab, "h1", "10.0.0.1"), wantEstablished(ctx, lab, "h1", "10.9.1.1"), wantEstablished(ctx, lab, "h1", "10.9.1.2"))
	})
	ping(t, ctx, lab, "vm11", "172.16.100.21")
	flow := startStreamEvery(t, ctx, lab, time.Millisecond, "vm11", "172.16.100.21")
	monitors := []monitor{startMonitor(t, ctx, lab, "h1"), startMonitor(t, ctx, lab, "h2")}
	up := sessionSince(t, ctx, lab, "h1", "10.0.0.1")
	kept := shell(t, ctx, lab, "h1", fmt.Sprintf("cat /sys/class/net/vxlan%d/ifindex", firstKept))

	for _, host := range []string{"h1", "h2"} {
		if err := reload(ctx, lab, host, dropIn(host, true)); err != nil {
			t.Fatal(err)
		}
	}
	within(t, ctx, 30*time.Second, "the new configuration works", func() error {
		return all(serves("h1", "10.255.0.2", 100, firstChanged, firstKept, firstNew, endNew-1),
			serves("h2", "10.255.0.1", 100, firstChanged, firstKept, firstNew, endNew-1),
			wantEstablished(ctx, lab, "h1", "10.9.1.2"), wantEstablished(ctx, lab, "h1", "10.9.1.3"),
			want(ctx, lab, "h1", false, func(p ctlPeer) bool { return p.Address == "10.9.1.1" }, "show", "summary"))
	})
	shell(t, ctx, lab, "h1", fmt.Sprintf("! ip link show vxlan%d 2>/dev/null", firstGone))
	if now := shell(t, ctx, lab, "h1", fmt.Sprintf("cat /sys/class/net/vxlan%d/ifindex", firstKept)); now != kept {
		t.Errorf("vxlan%d was made anew", firstKept)
	}

	before := shell(t, ctx, lab, "h1", "evpnctl show config")
	err := reload(ctx, lab, "h1", "vnis:\n  100: {of: true}\n  17: {rd: here}\npeers:\n  - {address: 10.0.0.1, asn: 65000}\n")
	for _, fault := range []string{"tenants.yaml:2:9: unknown key \"of\"", "tenants.yaml:3:12: rd: ", "tenants.yaml:5:15: address: peer 10.0.0.1 is already configured"} {
		if err == nil || !strings.Contains(err.Error(), fault) {
			t.Errorf("a file with three faults: %v, want %s", err, fault)
		}
	}
	if after := shell(t, ctx, lab, "h1", "evpnctl show config"); after != before {
		t.Errorf("a refused file changed the configuration:\n%s", after)
	}

	flow.more(t, ctx, 200)
	flow.stop(t, ctx)
	if now := sessionSince(t, ctx, lab, "h1", "10.0.0.1"); now != up {
		t.Errorf("the untouched session is up since %s, was since %s", now, up)
	}
	for _, m := range monitors {
		m.wantNothingDeleted(t, ctx, "vxlan100", fmt.Sprintf("vxlan%d", firstKept), fmt.Sprintf("vxlan%d", firstNew-1))
	}
}
