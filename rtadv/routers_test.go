package rtadv

import (
	"net/netip"
	"slices"
	"testing"
	"time"
)

// TestRouters: who advertises itself is there for its lifetime, and the last one for good.
func TestRouters(t *testing.T) {
	a, b := netip.MustParseAddr("fe80::a%eth0"), netip.MustParseAddr("fe80::b%eth0")
	start := time.Unix(1000, 0)
	var r routers
	check := func(after time.Duration, silent bool, want ...netip.Addr) {
		t.Helper()
		if got, s := r.present(start.Add(after)); !slices.Equal(got, want) || s != silent {
			t.Errorf("after %s: %v, silent %v, want %v, %v", after, got, s, want, silent)
		}
	}
	check(0, false)
	r.seen(a, start) // by the kernel
	check(0, false, a)
	r.seen(b, start) // which keeps those that are gone, too
	check(0, false, a)
	r.heard(b, 10*time.Second, start)
	check(0, false, a, b)
	r.heard(b, 0, start.Add(20*time.Second))
	check(29*time.Second, false, a, b)
	check(31*time.Second, false, b)
	check(60*time.Second, true, b)
	r.heard(a, 65535*time.Second, start.Add(time.Minute))
	check(time.Minute, false, a)
	check(31*time.Minute+time.Second, true, a)
	r.forget()
	check(time.Hour, false)
	for i := range byte(100) {
		r.heard(netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 15: i}), 0, start)
	}
	if list, _ := r.present(start); len(list) != maxRouters {
		t.Errorf("%d routers remembered, want %d", len(list), maxRouters)
	}
}
