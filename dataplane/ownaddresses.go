package dataplane

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// ownAddresses knows the addresses of this host's links. A host behind a port that claims one of its bridge's is not believed:
// other VTEPs would send it what is for us.
type ownAddresses struct {
	mu     sync.RWMutex
	onLink map[int][]netip.Addr // by ifindex
}

func (o *ownAddresses) has(ifindex int, ip netip.Addr) bool {
	o.mu.RLock()
	defer o.mu.RUnlock()
	return slices.Contains(o.onLink[ifindex], ip)
}

// read reads them anew.
func (o *ownAddresses) read(r *rtnl) error {
	found := map[int][]netip.Addr{}
	err := r.dump(unix.RTM_GETADDR, func(b []byte) []byte { return append(b, make([]byte, unix.SizeofIfAddrmsg)...) },
		func() { clear(found) }, func(data []byte) {
			if ifindex, ip := parseAddress(data); ip.IsValid() {
				found[ifindex] = append(found[ifindex], ip)
			}
		})
	if err != nil && !errors.Is(err, errInterrupted) { // the next notification has them read again
		return fmt.Errorf("dump addresses: %w", err)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.onLink = found
	return nil
}

// parseAddress reads the payload of an address message. An IPv6 address that another host turned out to have is none of ours.
func parseAddress(b []byte) (ifindex int, ip netip.Addr) {
	if len(b) < unix.SizeofIfAddrmsg || b[2]&unix.IFA_F_DADFAILED != 0 {
		return 0, netip.Addr{}
	}
	for typ, v := range attrs(b[unix.SizeofIfAddrmsg:]) {
		if typ == unix.IFA_LOCAL || typ == unix.IFA_ADDRESS && !ip.IsValid() { // with a peer, the latter is the peer's
			ip, _ = netip.AddrFromSlice(v)
		}
	}
	return int(binary.NativeEndian.Uint32(b[4:])), ip
}
