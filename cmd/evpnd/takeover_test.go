package main

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	evpnv1 "github.com/evpnd/evpnd/api/evpn/v1"
)

// successor starts another evpnd with the configuration of p, to take over from it.
func (p *process) successor() *process {
	p.t.Helper()
	return p.again(exec.Command("evpnd", "-c", p.config(), "--take-over"))
}

// config is the configuration file.
func (p *process) config() string { return filepath.Join(p.dir, "evpnd.yaml") }

// restarted starts evpnd with the files that the service manager keeps, as systemd does.
func (p *process) restarted() *process {
	p.t.Helper()
	stored := p.manager.store()
	names := make([]string, len(stored))
	for i, f := range stored {
		names[i] = f.Name()
	}
	cmd := exec.Command("sh", "-c", `LISTEN_PID=$$ exec evpnd -c "$0"`, p.config())
	cmd.ExtraFiles = stored
	next := p.again(cmd, fmt.Sprintf("LISTEN_FDS=%d", len(stored)), "LISTEN_FDNAMES="+strings.Join(names, ":"))
	return next
}

// again starts a command that is to be the next evpnd.
func (p *process) again(cmd *exec.Cmd, env ...string) *process {
	p.t.Helper()
	next := &process{t: p.t, dir: p.dir, manager: p.manager, conn: p.conn}
	next.Cmd = cmd
	next.Env = append(slices.Clone(p.Env), env...)
	next.Stdout, next.Stderr = &next.log, &next.log
	if err := next.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() {
		if next.ProcessState == nil {
			_ = next.Process.Kill()
			_ = next.Wait()
		}
		if p.t.Failed() {
			p.t.Logf("successor:\n%s", next.log.String())
		}
	})
	return next
}

// peer is what p says of its only peer.
func (p *process) peer() *evpnv1.Peer {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	stream, err := evpnv1.NewInspectServiceClient(p.conn).ListPeers(ctx, &evpnv1.ListPeersRequest{})
	if err != nil {
		return &evpnv1.Peer{}
	}
	resp, err := stream.Recv()
	if err != nil || len(resp.Peers) != 1 {
		return &evpnv1.Peer{}
	}
	return resp.Peers[0]
}

// until polls a condition.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(deadline); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never came true: %s", what)
		}
	}
}

func up(p *process) func() bool {
	return func() bool { i := p.peer(); return i.State == "established" && i.EndOfRibReceived }
}

// twoDaemons are two evpnd that have a session.
func twoDaemons(t *testing.T) (a, b *process) {
	t.Helper()
	a = launch(t, `
asn: 65000
vtep: 10.255.0.1
flush-on-exit: true
listen: {port: 1790, addresses: [127.0.0.1]}
peers:
  - {address: 127.0.0.2, asn: 65000, passive: true, password-file: key}
`)
	b = launch(t, `
asn: 65000
vtep: 10.255.0.2
peers:
  - {address: 127.0.0.1, asn: 65000, port: 1790, local-address: 127.0.0.2, connect-retry: 100ms, password-file: key}
`)
	until(t, "session is up", func() bool { return up(a)() && up(b)() })
	return a, b
}

// TestTakeOver: one evpnd after the other goes on with a session, from either side; the peer counts one session and not one
// message more than keepalives.
func TestTakeOver(t *testing.T) {
	a, b := twoDaemons(t)
	before := b.peer()
	for range 3 {
		next := a.successor()
		if err := a.Wait(); err != nil {
			t.Fatalf("the old one: %v\n%s", err, a.log.String())
		}
		a.clean(t)
		if next.manager.await(regexp.MustCompile("^READY=1$")) == "" {
			t.Fatal("not ready")
		}
		a = next
		until(t, "the successor has the session", up(a))
	}
	next := b.successor()
	if err := b.Wait(); err != nil {
		t.Fatal(err)
	}
	b.clean(t)
	until(t, "the other side's successor has the session", up(next))
	after := next.peer()
	if after.Established != before.Established || !after.Since.AsTime().Equal(before.Since.AsTime()) || after.Counters.UpdatesReceived != before.Counters.UpdatesReceived {
		t.Errorf("before %v\nafter %v", before, after)
	}
	a.stop()
	next.stop()
}

// TestRestartBySystemd: where systemd keeps files from one life to the next, a restart is a take-over as well, and the files
// are gone from there when the next one has them. What is left there and wrong is not used.
func TestRestartBySystemd(t *testing.T) {
	t.Setenv("FDSTORE", "16")
	a, b := twoDaemons(t)
	before := a.peer()
	for range 2 {
		b.stop()
		b.clean(t)
		if n := len(b.manager.store()); n != 2 {
			t.Fatalf("%d files are stored", n)
		}
		b = b.restarted()
		if b.manager.await(regexp.MustCompile("^READY=1$")) == "" {
			t.Fatal("not ready")
		}
		until(t, "the next one has the session", up(b))
		if n := len(b.manager.store()); n != 0 {
			t.Errorf("%d files are stored", n)
		}
	}
	after := a.peer()
	if after.Established != 1 || after.Counters.UpdatesReceived != before.Counters.UpdatesReceived {
		t.Errorf("before %v\nafter %v", before, after)
	}
	b.stop()
	for _, f := range b.manager.store() {
		if f.Name() == "evpnd-will" {
			if _, err := f.WriteAt([]byte("x"), 70); err != nil {
				t.Fatal(err)
			}
		}
	}
	b = b.restarted()
	until(t, "the session starts anew", func() bool { return up(b)() && a.peer().Established == 2 })
	a.stop()
}

// clean wants a process that has handed over to have had nothing to complain of.
func (p *process) clean(t *testing.T) {
	t.Helper()
	log := p.log.String()
	if strings.Contains(log, "level=error") || strings.Contains(log, "level=warning") || !strings.Contains(log, "session handed over") {
		t.Errorf("the old one logs\n%s", log)
	}
}

// TestTakeOverFromNobody: where nothing runs it is a start.
func TestTakeOverFromNobody(t *testing.T) {
	a, b := twoDaemons(t)
	a.stop()
	next := a.successor()
	until(t, "session is up again", func() bool { return up(next)() && b.peer().Established == 2 })
}

// TestTakeOverKilled: when either process dies on the way, the session goes on or starts anew, and nothing but BGP is said
// on it.
func TestTakeOverKilled(t *testing.T) {
	a, b := twoDaemons(t)
	for round := range 8 {
		next := a.successor()
		time.Sleep(time.Duration(round*12) * time.Millisecond) // not to wait for anything: some moment
		victim := a
		if round%2 == 1 {
			victim = next
		}
		_ = victim.Process.Kill()
		_ = victim.Wait()
		for a = next; !a.serves(); a = a.successor() { // as a service manager does
		}
		until(t, "there is a session", func() bool { return up(a)() && up(b)() })
	}
	p := b.peer()
	if n := p.Counters; n.TreatedAsWithdraw != 0 || n.AttributesDiscarded != 0 {
		t.Errorf("%v", n)
	}
	if strings.Contains(p.Reason, "NOTIFICATION") {
		t.Error(p.Reason)
	}
	t.Logf("%d sessions over all", p.Established)
}

// serves waits until evpnd is there, and reports whether it is.
func (p *process) serves() bool {
	if p.ProcessState != nil {
		return false
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = p.Process.Wait()
	}()
	for {
		select {
		case <-ended:
			return false
		case <-time.After(10 * time.Millisecond):
		}
		if strings.Contains(p.peer().State, "e") {
			return true
		}
	}
}
