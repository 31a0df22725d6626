package labs

import (
	"testing"
	"time"
)

// TestRunnerFRR: two FRR VTEPs find each other and their VMs talk over VXLAN: what evpnd is later compared with works in
// these namespaces without it.
func TestRunnerFRR(t *testing.T) {
	ctx := testContext(t, 90*time.Second)
	lab := bringUp(t, ctx, "testdata/two-frr")
	for node, vtep := range map[string]string{"leaf1": "10.255.0.2", "leaf2": "10.255.0.1"} {
		eventually(t, ctx, "flood entry of "+node, func() error {
			return wantFDB(ctx, lab, node, "vxlan100", zeroMAC, vtep)
		})
	}
	ping(t, ctx, lab, "vm1", "172.16.100.2")
	ping(t, ctx, lab, "vm2", "fd00:100::1")
	eventually(t, ctx, "MAC of vm2 on leaf1", func() error {
		return wantFDB(ctx, lab, "leaf1", "vxlan100", "02:00:00:64:02:01", "10.255.0.2")
	})
}
