package dataplane

import (
	"bytes"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/evpnd/evpnd/evpn"
)

// FuzzPingMessage: what is read is written alike, whatever comes.
func FuzzPingMessage(f *testing.F) {
	m := pingMessage{kind: pingAnswer, flags: pingKnown, port: 4789, vni: 10, mtu: 1450, nonce: 1, vtep: vtep2, device: "vx10", bridge: "br10"}
	f.Add(m.put(nil, 0))
	m.vtep, m.device = netip.MustParseAddr("2001:db8::1"), "a-name-of-fifteen"
	f.Add(m.put(nil, 1500))
	f.Add([]byte(pingMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parsePing(b)
		if err != nil {
			return
		}
		again, err := parsePing(m.put(nil, len(b)))
		if err != nil || again != m {
			t.Fatalf("%+v is read again as %+v, %v", m, again, err)
		}
		if n := len(m.put(nil, len(b))); n != len(b) {
			t.Fatalf("%d octets of %d", n, len(b))
		}
	})
}

// FuzzParseEcho and the error queue: no packet makes the reader panic.
func FuzzParseEcho(f *testing.F) {
	f.Add(echoMessage(host6, true, 1, 2, []byte("x")), false)
	f.Add(append(make([]byte, 20), echoMessage(vtep2, false, 1, 2, nil)...), true)
	f.Fuzz(func(t *testing.T, b []byte, v4 bool) {
		if e, ok := parseEcho(b, v4); ok && len(e.data) > len(b)-icmpHeader {
			t.Fatal("more data than there is")
		}
		_, _ = parsePingFrame(b)
		_, _ = parsePingError(b)
		_ = saysAddress(b, hostA)
		_ = saysAddress(b, host6)
	})
}

func TestPingMessage(t *testing.T) {
	m := pingMessage{kind: pingCall, vni: 10, nonce: 1, vtep: vtep2, device: "vx10"}
	good := m.put(nil, 0)
	if len(good) != pingOctets {
		t.Errorf("a message has %d octets", len(good))
	}
	for name, b := range map[string][]byte{
		"short": good[:pingOctets-1], "other magic": edit(good, 0, 'x'), "no kind": edit(good, 8, 0), "unknown kind": edit(good, 8, 3),
		"vni too large": edit(good, 12, 1), "no vtep": append(bytes.Clone(good[:28]), make([]byte, 100)...),
	} {
		if _, err := parsePing(b); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	frame := pingDatagram(vtep2, m, 0)[8:]
	if got, err := parsePingFrame(frame); err != nil || got != m {
		t.Errorf("frame is read as %+v, %v", got, err)
	}
	if _, err := parsePingFrame(edit(frame, 5, 0x0b)); err == nil {
		t.Error("a frame to another group is taken")
	}
	if evpn.MAC(frame[6:12]).IsZero() || frame[6]&3 != 2 {
		t.Errorf("source %x is not a local unicast MAC", frame[6:12])
	}
}

// TestPingErrors sorts ICMP errors.
func TestPingErrors(t *testing.T) {
	for _, row := range []struct {
		e    pingError
		want pingReason
	}{
		{pingError{v4: true, typ: 3, code: 1, errno: unix.EHOSTUNREACH}, reasonUnreachable},
		{pingError{v4: true, typ: 3, code: 3, errno: unix.ECONNREFUSED}, reasonPort},
		{pingError{v4: true, typ: 3, code: 4, errno: unix.EMSGSIZE}, reasonTooBig},
		{pingError{v4: true, typ: 3, code: 13, errno: unix.EHOSTUNREACH}, reasonProhibited},
		{pingError{v4: true, typ: 11, errno: unix.EHOSTUNREACH}, reasonLoop},
		{pingError{typ: 1, code: 0, errno: unix.ENETUNREACH}, reasonUnreachable},
		{pingError{typ: 1, code: 1, errno: unix.EACCES}, reasonProhibited},
		{pingError{typ: 1, code: 4, errno: unix.ECONNREFUSED}, reasonPort},
		{pingError{typ: 2, errno: unix.EMSGSIZE}, reasonTooBig},
		{pingError{typ: 3, errno: unix.EHOSTUNREACH}, reasonLoop},
		{pingError{local: true, errno: unix.EPERM}, reasonProhibited},
		{pingError{local: true, errno: unix.EMSGSIZE}, reasonTooBig},
		{pingError{local: true, errno: unix.ENETUNREACH}, reasonUnreachable},
	} {
		if got := row.e.reason(); got != row.want {
			t.Errorf("%+v: %d, want %d", row.e, got, row.want)
		}
	}
}
