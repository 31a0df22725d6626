package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// Exit codes of health, as container runtimes and Nagios read them.
const (
	healthDegraded = 1
	healthDown     = 2
)

// healthParts are the names evpnd reports under beside "", which is the daemon as a whole.
var healthParts = []string{"bgp", "kernel", "devices"}

func (c *cli) healthCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "health",
		Short: "Ask whether all is well; for container health checks and monitoring",
		Long: `Ask whether all is well; for container health checks and monitoring.

The parts are bgp (a session is established), kernel (it has been read and refuses nothing) and devices (they can serve their
VNIs; evpnctl doctor names what is wrong).

Exit status: 0 healthy, 1 degraded (a part of evpnd is not serving), 2 down (evpnd does not answer).`,
		Example: "  evpnctl health && echo all is well",
		Args:    cobra.NoArgs,
		RunE: c.asking(func(c *cli, cmd *cobra.Command, _ []string) error {
			var bad []string
			err := c.call(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) (err error) {
				bad, err = notServing(ctx, healthv1.NewHealthClient(conn))
				return err
			})
			if err != nil {
				code, _, message := classify(err)
				return &failure{code, healthDown, fmt.Errorf("down: %s", message)}
			}
			if len(bad) > 0 {
				err := fmt.Errorf("degraded: not serving: %s", strings.Join(bad, ", "))
				return &failure{codes.Unavailable, healthDegraded, err}
			}
			if !c.format.forPeople() {
				return c.printValue(map[string]bool{"healthy": true})
			}
			return c.print("healthy\n")
		}),
	}
}

// notServing names the parts of the daemon that do not serve; a part it does not have is not missed. Where all parts do
// but the daemon as a whole does not, it names "evpnd".
func notServing(ctx context.Context, client healthv1.HealthClient) ([]string, error) {
	whole, err := client.Check(ctx, &healthv1.HealthCheckRequest{})
	if err != nil {
		return nil, err
	}
	var bad []string
	for _, part := range healthParts {
		r, err := client.Check(ctx, &healthv1.HealthCheckRequest{Service: part})
		if status.Code(err) == codes.NotFound {
			continue
		}
		if err != nil {
			return nil, err
		}
		if r.Status != healthv1.HealthCheckResponse_SERVING {
			bad = append(bad, part)
		}
	}
	if len(bad) == 0 && whole.Status != healthv1.HealthCheckResponse_SERVING {
		bad = append(bad, "evpnd")
	}
	return bad, nil
}
