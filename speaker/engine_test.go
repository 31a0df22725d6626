package speaker

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/evpnd/evpnd/evpn"
)

// TestInnerLegClosed: a local user who knows all addresses, but not the key, cannot connect to the engine, neither from
// the address of a neighbour in use nor from another one of its network.
func TestInnerLegClosed(t *testing.T) {
	n, p := pair(t, nil)
	p.handshake()
	await[evpn.PeerUp](n, nil)
	e := n.serving.Load()
	if e.key == "" {
		t.Fatal("kernel has no TCP MD5")
	}
	var inner netip.Addr
	e.mu.Lock()
	for addr := range e.active {
		inner = addr
	}
	e.mu.Unlock()
	for name, c := range map[string]struct {
		from netip.Addr
		key  string
	}{"no key": {e.host(0xfff0), ""}, "wrong key": {e.host(0xfff0), "guess"}, "as the neighbour": {inner, ""}} {
		if conn, err := e.dial(context.Background(), c.from, c.key, 100*time.Millisecond); err == nil {
			conn.Close()
			t.Errorf("%s: connected", name)
		}
	}
	outside, err := e.dial(context.Background(), netip.MustParseAddr("127.0.0.1"), "", time.Second)
	if err == nil {
		outside.SetReadDeadline(time.Now().Add(patience))
		if _, err = outside.Read(make([]byte, 1)); err == nil {
			t.Error("from outside its network: engine talks")
		}
		outside.Close()
	}
	if n.info(p.id).State != StateEstablished {
		t.Error("session suffered")
	}
}

// TestOpenListenerIsFound: tryKey would see that it can connect without the key.
func TestOpenListenerIsFound(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	e := engine{addr: l.Addr().(*net.TCPAddr).AddrPort()}
	for deadline := time.Now().Add(patience); ; {
		conn, err := e.dial(context.Background(), e.host(0xffff), "", keyPatience)
		if err == nil {
			conn.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}
