package daemon

import (
	"context"
	"fmt"
	"time"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/evpnd/evpnd/evpn"
	"github.com/evpnd/evpnd/speaker"
)

const (
	healthPeriod  = time.Second
	healthTimeout = 5 * time.Second // an owner that does not answer for so long is not well
)

// condition is how the daemon is, for health checks and for the line that systemd shows.
type condition struct {
	alive   bool // the owner answers
	bgp     bool // a session is established
	kernel  bool // the kernel has been read, and refuses nothing; a place that someone else holds is their right
	devices bool // every VNI that has devices can be served with them
	line    string
}

// well reports whether the daemon does its part. Devices are the operator's: a new daemon would find them as they are.
func (c condition) well() bool { return c.alive && c.bgp && c.kernel }

func (d *Daemon) health(ctx context.Context) condition {
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	var b evpn.Brief
	if err := d.ask(ctx, func(c *evpn.Core) { b = c.Brief() }); err != nil {
		return condition{line: err.Error()}
	}
	up, all := 0, 0
	for _, p := range d.bgp.Sessions() {
		all++
		if p.State == speaker.StateEstablished {
			up++
		}
	}
	faulty := d.kernel.Faulty()
	c := condition{
		alive:   true,
		bgp:     up > 0,
		kernel:  d.ready.Load() && b.Failed == 0,
		devices: faulty == 0,
		line:    fmt.Sprintf("%d/%d peers, %d VNIs, %d MACs", up, all, b.VNIs, b.MACs),
	}
	if !d.ready.Load() {
		c.line += ", reading the kernel"
	}
	if b.Failed > 0 {
		c.line += fmt.Sprintf(", %d kernel entries refused", b.Failed)
	}
	if faulty > 0 {
		c.line += fmt.Sprintf(", %d VNIs with faulty devices", faulty)
	}
	if b.Blocked > 0 {
		c.line += fmt.Sprintf(", %d blocked", b.Blocked)
	}
	return c
}

// watchHealth keeps grpc.health.v1 and systemd's line up to date until ctx ends: "bgp", "kernel" and "devices" are
// those of condition, "" is the first two.
func (d *Daemon) watchHealth(ctx context.Context) {
	tick := time.NewTicker(healthPeriod)
	defer tick.Stop()
	for {
		c := d.health(ctx)
		if ctx.Err() != nil {
			d.checks.Shutdown()
			return
		}
		d.checks.SetServingStatus("bgp", servingStatus(c.bgp))
		d.checks.SetServingStatus("kernel", servingStatus(c.kernel))
		d.checks.SetServingStatus("devices", servingStatus(c.devices))
		d.checks.SetServingStatus("", servingStatus(c.well()))
		d.manager.describe(c.line)
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

func servingStatus(ok bool) healthpb.HealthCheckResponse_ServingStatus {
	if ok {
		return healthpb.HealthCheckResponse_SERVING
	}
	return healthpb.HealthCheckResponse_NOT_SERVING
}
