package labs

import (
	"context"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// frrSession is what FRR counts of a session.
type frrSession struct {
	State       string `json:"bgpState"`
	Since       int64  `json:"bgpTimerUpEstablishedEpoch"`
	Established int    `json:"connectionsEstablished"`
	Dropped     int    `json:"connectionsDropped"`
	Messages    struct {
		Opens         int `json:"opensRecv"`
		Updates       int `json:"updatesRecv"`
		Notifications int `json:"notificationsRecv"`
		Refreshes     int `json:"routeRefreshRecv"`
	} `json:"messageStats"`
}

func frrSessionWith(t *testing.T, ctx context.Context, lab *Lab, node, peer string) frrSession {
	t.Helper()
	var all map[string]frrSession
	if err := vtysh(ctx, lab, node, &all, "show bgp neighbors "+peer+" json"); err != nil {
		t.Fatal(err)
	}
	return all[peer]
}

// wantUntouched wants that FRR has noticed nothing: the session is as old, and no message but KEEPALIVEs has come.
func wantUntouched(t *testing.T, before, after frrSession) {
	t.Helper()
	if drift := after.Since - before.Since; drift*drift == 1 { // FRR works the time out anew from its uptime in whole seconds
		after.Since = before.Since
	}
	if after != before || before.State != "Established" || before.Messages.Updates == 0 {
		t.Errorf("FRR noticed: before %+v\nafter  %+v", before, after)
	}
}

// testTakeOver: one evpnd after the other takes over on h1 while VMs exchange a thousand packets a second with one behind
// another evpnd and one behind FRR. Not one is lost, and the reflector counts no message more than KEEPALIVEs.
func testTakeOver(t *testing.T, ctx context.Context, lab *Lab, vms []vm) {
	const times = 3
	streams := []stream{
		startStreamEvery(t, ctx, lab, time.Millisecond, "vm11", "172.16.100.21"),
		startStreamEvery(t, ctx, lab, time.Millisecond, "vm12", "172.16.200.31"),
	}
	for _, s := range streams {
		s.more(t, ctx, 500)
	}
	n, err := lab.node("h1")
	if err != nil {
		t.Fatal(err)
	}
	before := frrSessionWith(t, ctx, lab, "rr", "10.255.0.1")
	var last *Process
	for i := range times {
		next, err := lab.Start("h1", fmt.Sprintf("successor%d", i), append(n.Process[:len(n.Process):len(n.Process)], "--take-over")...)
		if err != nil {
			t.Fatal(err)
		}
		within(t, ctx, 20*time.Second, "the successor serves", func() error {
			return all(wantInFile(next.Log, "session taken over"), wantEstablished(ctx, lab, "h1", "10.255.0.254"))
		})
		if last != nil {
			if err := last.Wait(ctx); err != nil {
				t.Errorf("the one before: %v", err)
			}
		}
		last = next
		for _, s := range streams {
			s.more(t, ctx, 300)
		}
	}
	for _, node := range []string{"h1", "h2", "tor"} {
		for _, v := range vms {
			agree(t, ctx, lab, node, node == "tor", v)
		}
	}
	for _, s := range streams {
		s.stop(t, ctx)
	}
	wantUntouched(t, before, frrSessionWith(t, ctx, lab, "rr", "10.255.0.1"))
	if err := last.Stop(ctx, unix.SIGTERM); err != nil {
		t.Error(err)
	}
	if err := lab.StartProcess("h1"); err != nil {
		t.Fatal(err)
	}
}
