package evpn

import (
	"iter"
	"net/netip"
)

// ipTable finds what is known of a host address. There are very many, nearly all of one family, and a key takes no more
// room than an address of its family. The zero ipTable is empty. Zones are left out: no host is known by one.
type ipTable struct {
	v4 map[[4]byte]*ipEntry
	v6 map[[16]byte]*ipEntry
}

// get returns the entry of ip, nil when there is none; the zero Addr has none.
func (t *ipTable) get(ip netip.Addr) *ipEntry {
	switch {
	case ip.Is4():
		return t.v4[ip.As4()]
	case ip.Is6():
		return t.v6[ip.As16()]
	}
	return nil
}

// put adds an entry, whose address is valid.
func (t *ipTable) put(e *ipEntry) {
	if e.ip.Is4() {
		if t.v4 == nil {
			t.v4 = map[[4]byte]*ipEntry{}
		}
		t.v4[e.ip.As4()] = e
		return
	}
	if t.v6 == nil {
		t.v6 = map[[16]byte]*ipEntry{}
	}
	t.v6[e.ip.As16()] = e
}

// drop takes out the entry of ip.
func (t *ipTable) drop(ip netip.Addr) {
	if ip.Is4() {
		delete(t.v4, ip.As4())
	} else {
		delete(t.v6, ip.As16())
	}
}

func (t *ipTable) len() int { return len(t.v4) + len(t.v6) }

// all walks the entries in no particular order.
func (t *ipTable) all() iter.Seq[*ipEntry] {
	return func(yield func(*ipEntry) bool) {
		for _, e := range t.v4 {
			if !yield(e) {
				return
			}
		}
		for _, e := range t.v6 {
			if !yield(e) {
				return
			}
		}
	}
}
