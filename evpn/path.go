package evpn

import (
	"bytes"
	"cmp"
	"hash/maphash"
	"iter"
	"net/netip"
	"slices"
)

// Path is one route as one peer sent it. There are as many of them as there are routes in the network, so what few
// routes have is kept apart.
type Path struct {
	Attrs *Attrs

	peer     *peer
	nextKey  *Path  // the same key from another peer, or another key with the same hash
	rest     *extra // nil: what it holds is zero
	received int64  // Unix time in ns
	session  uint32 // the session of the peer that sent it last; older than the peer's is stale
	label1   uint32
	rd       RD
	mac      MAC
	kind     RouteType
	ip       address
}

// extra are the fields of a route that are zero in a type-2 or type-3 route of a single-homed host in a layer-2 VNI.
type extra struct {
	tag       EthernetTag
	label2    uint32
	prefixLen uint8
	keyESI    ESI
	esi       ESI
	gw        netip.Addr
}

// address is a netip.Addr without a zone in less room. The zero address is the zero Addr.
type address struct {
	octets [16]byte
	len    uint8 // of octets in use: 0, 4 or 16
}

func addressOf(a netip.Addr) address {
	switch {
	case !a.IsValid():
		return address{}
	case a.Is4():
		p := address{len: 4}
		b := a.As4()
		copy(p.octets[:], b[:])
		return p
	default:
		return address{octets: a.As16(), len: 16}
	}
}

func (a address) addr() netip.Addr {
	switch a.len {
	case 0:
		return netip.Addr{}
	case 4:
		return netip.AddrFrom4([4]byte(a.octets[:4]))
	default:
		return netip.AddrFrom16(a.octets)
	}
}

// newPath makes a path of a route that p sent; received and session are left to the caller.
func newPath(p *peer, r *Route, attrs *Attrs) *Path {
	path := &Path{peer: p, rd: r.Key.RD, mac: r.Key.MAC, kind: r.Key.Type, ip: addressOf(r.Key.IP)}
	path.say(r, attrs)
	return path
}

// say has the path say what r does, which has the same key.
func (p *Path) say(r *Route, attrs *Attrs) {
	p.Attrs, p.label1, p.rest = attrs, r.Label1, nil
	x := extra{r.Key.Tag, r.Label2, r.Key.PrefixLen, r.Key.ESI, r.ESI, r.GW}
	if x != (extra{}) {
		p.rest = new(x)
	}
}

// Key returns the key of the route.
func (p *Path) Key() RouteKey {
	k := RouteKey{Type: p.kind, RD: p.rd, MAC: p.mac, IP: p.ip.addr()}
	if x := p.rest; x != nil {
		k.Tag, k.PrefixLen, k.ESI = x.tag, x.prefixLen, x.keyESI
	}
	return k
}

// Route returns the route.
func (p *Path) Route() Route {
	r := Route{Key: p.Key(), Label1: p.label1}
	if x := p.rest; x != nil {
		r.Label2, r.ESI, r.GW = x.label2, x.esi, x.gw
	}
	return r
}

// hasIP reports whether the route names a host address.
func (p *Path) hasIP() bool { return p.ip.len != 0 }

// tag is the Ethernet tag of the route.
func (p *Path) tag() EthernetTag {
	if p.rest == nil {
		return 0
	}
	return p.rest.tag
}

// rib finds paths by peer and key. It is a table of hashes of keys: the key itself is in the path.
type rib struct {
	seed  maphash.Seed
	paths map[uint64]*Path // the first of those with the hash
}

func newRIB() rib { return rib{seed: maphash.MakeSeed(), paths: map[uint64]*Path{}} }

func (r *rib) hash(k *RouteKey) uint64 {
	b := make([]byte, 0, 64)
	b = append(b, byte(k.Type), k.PrefixLen, byte(k.Tag), byte(k.Tag>>8), byte(k.Tag>>16), byte(k.Tag>>24))
	b = append(append(append(b, k.RD[:]...), k.MAC[:]...), k.ESI[:]...)
	a := addressOf(k.IP)
	b = append(b, a.octets[:a.len]...)
	return maphash.Bytes(r.seed, b)
}

// find returns the path that p sent for the key, nil when there is none.
func (r *rib) find(k *RouteKey, p *peer) *Path {
	for path := r.paths[r.hash(k)]; path != nil; path = path.nextKey {
		if path.peer == p && path.mac == k.MAC && path.rd == k.RD && path.Key() == *k {
			return path
		}
	}
	return nil
}

func (r *rib) put(path *Path) {
	k := path.Key()
	h := r.hash(&k)
	path.nextKey = r.paths[h]
	r.paths[h] = path
}

func (r *rib) drop(path *Path) {
	k := path.Key()
	h := r.hash(&k)
	first := r.paths[h]
	switch {
	case first != path:
		for first.nextKey != path {
			first = first.nextKey
		}
		first.nextKey = path.nextKey
	case path.nextKey != nil:
		r.paths[h] = path.nextKey
	default:
		delete(r.paths, h)
	}
}

// from returns the paths for which the condition holds, in a fixed order.
func (r *rib) from(is func(*Path) bool) []*Path {
	var out []*Path
	for _, path := range r.paths {
		for ; path != nil; path = path.nextKey {
			if is(path) {
				out = append(out, path)
			}
		}
	}
	slices.SortFunc(out, (*Path).compare)
	return out
}

// compare orders paths by key and peer; it is called for very many of them, nearly all of type 2.
func (p *Path) compare(o *Path) int {
	if c := bytes.Compare(p.rd[:], o.rd[:]); c != 0 {
		return c
	}
	if p.kind == TypeMACIP && o.kind == TypeMACIP && p.tag() == o.tag() {
		if c := bytes.Compare(p.mac[:], o.mac[:]); c != 0 {
			return c
		}
	}
	return cmp.Or(p.Key().compare(o.Key()), p.peer.addr.Compare(o.peer.addr))
}

// pathList are the routes for one MAC, IP or VTEP. Nearly all of these have one, which needs no room of its own.
type pathList struct {
	first *Path
	more  *morePaths
}

// morePaths are the routes behind the first one, in the order in which they came: a chain, since most often it is one, of a
// second reflector or of a VTEP that a host has moved to.
type morePaths struct {
	path *Path
	next *morePaths
}

func (l *pathList) len() int {
	if l.first == nil {
		return 0
	}
	n := 1
	for m := l.more; m != nil; m = m.next {
		n++
	}
	return n
}

func (l *pathList) all() iter.Seq[*Path] {
	return func(yield func(*Path) bool) {
		if l.first == nil || !yield(l.first) {
			return
		}
		for m := l.more; m != nil; m = m.next {
			if !yield(m.path) {
				return
			}
		}
	}
}

func (l *pathList) add(p *Path) {
	if l.first == nil {
		l.first = p
		return
	}
	end := &l.more
	for *end != nil {
		end = &(*end).next
	}
	*end = &morePaths{path: p}
}

// remove takes out p, if it is there.
func (l *pathList) remove(p *Path) {
	if l.first == p {
		l.first = nil
		if next := l.more; next != nil {
			l.first, l.more = next.path, next.next
		}
		return
	}
	for at := &l.more; *at != nil; at = &(*at).next {
		if (*at).path == p {
			*at = (*at).next
			return
		}
	}
}
