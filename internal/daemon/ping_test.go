package daemon

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	evpnv1 "github.com/evpnd/evpnd/api/evpn/v1"
	"github.com/evpnd/evpnd/dataplane"
	"github.com/evpnd/evpnd/evpn"
)

func (c *client) ping(vtep string, vni uint32) (steps []*evpnv1.PingStep, code codes.Code) {
	all, err := streamed(c.admin.PingVTEP(c.ctx, &evpnv1.PingVTEPRequest{Vtep: vtep, Vni: vni}))
	for _, m := range all {
		steps = append(steps, m.(*evpnv1.PingVTEPResponse).Step)
	}
	return steps, status.Code(err)
}

// TestPingVTEP: the kernel is asked about the VNIs that are shared with the VTEP, or the one that is named, and what it finds
// is handed on.
func TestPingVTEP(t *testing.T) {
	c := newClient(t, populatedConfig, nil)
	c.populate()
	var shared []evpn.SharedVNI
	c.look(func(core *evpn.Core) { shared = core.Shared(vtep2) })
	if len(shared) != 1 || shared[0].VNI != 100 || !shared[0].IP.IsValid() {
		t.Fatalf("shared %+v", shared)
	}
	steps, code := c.ping(vtep2.String(), 0)
	if code != codes.OK || len(steps) != 2 || steps[0].Vni != 100 || steps[0].Mark != "ok" || steps[0].Rtt.AsDuration() != time.Millisecond {
		t.Fatalf("%v, %s", steps, code)
	}
	if f := steps[1]; f.Mark != "fault" || f.Code != "path-mtu-too-small" || f.Text != "narrow\uFFFD" || f.Mend != "widen it" || f.Rtt != (*durationpb.Duration)(nil) {
		t.Errorf("fault %v", f)
	}
	asked := c.lines("pings")
	if want := shared[0].IP.String() + " " + shared[0].MAC.String(); len(asked) != 1 || !strings.Contains(asked[0], want) {
		t.Errorf("asked %q, want %s in it", asked, want)
	}
	if steps, code := c.ping("10.255.0.77", 0); code != codes.OK || len(steps) < 3 || steps[0].Topic != "bgp" || steps[0].Mark != "info" {
		t.Errorf("a VTEP that no route names: %v, %s", steps, code)
	}
	for _, row := range []struct {
		vtep string
		vni  uint32
		want codes.Code
	}{
		{"", 0, codes.InvalidArgument},
		{"x", 0, codes.InvalidArgument},
		{"10.255.0.1", 0, codes.InvalidArgument}, // ourselves
		{"2001:db8::1", 0, codes.InvalidArgument},
		{"127.0.0.1", 0, codes.InvalidArgument},
		{"224.0.0.1", 0, codes.InvalidArgument},
		{vtep2.String(), 999, codes.NotFound},
		{vtep2.String(), 100, codes.OK},
	} {
		if _, code := c.ping(row.vtep, row.vni); code != row.want {
			t.Errorf("%q in VNI %d: %s, want %s", row.vtep, row.vni, code, row.want)
		}
	}
}

// TestPingsAreFew: so many at once and no more; one whose client goes away ends.
func TestPingsAreFew(t *testing.T) {
	begun, ended := make(chan bool, maxPings), make(chan bool, maxPings)
	c := newClient(t, populatedConfig, func(_ *Options, w *world) {
		w.kernel.pinging = func(ctx context.Context, _ func(dataplane.PingStep)) error {
			begun <- true
			<-ctx.Done()
			ended <- true
			return ctx.Err()
		}
	})
	c.populate()
	ctx, cancel := context.WithCancel(c.ctx)
	for range maxPings {
		if _, err := c.admin.PingVTEP(ctx, &evpnv1.PingVTEPRequest{Vtep: vtep2.String()}); err != nil {
			t.Fatal(err)
		}
	}
	for range maxPings {
		<-begun
	}
	if _, code := c.ping(vtep2.String(), 0); code != codes.ResourceExhausted {
		t.Errorf("one more: %s", code)
	}
	cancel()
	for range maxPings {
		<-ended
	}
}
