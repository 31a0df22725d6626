package rtadv

import (
	"net/netip"
	"slices"
	"time"
)

// Bounds of how long a router counts as there without being heard. FRR advertises every 10 s towards an unnumbered peer,
// radvd up to every 600 s; routers that are no default routers say nothing about it (lifetime 0).
const (
	leastPatience = 30 * time.Second
	mostPatience  = 30 * time.Minute
	maxRouters    = 16 // that are remembered of one link; more are not worth telling apart
)

// routers are those heard of on a link, until when.
type routers struct {
	until map[netip.Addr]time.Time
	last  netip.Addr // the one heard last
}

// heard notes an advertisement.
func (r *routers) heard(from netip.Addr, lifetime time.Duration, now time.Time) {
	if r.until == nil {
		r.until = make(map[netip.Addr]time.Time)
	}
	if _, known := r.until[from]; !known && len(r.until) >= maxRouters {
		return
	}
	r.until[from] = now.Add(min(max(lifetime, leastPatience), mostPatience))
	r.last = from
}

// seen notes a router that the kernel knows of, if nobody was heard.
func (r *routers) seen(from netip.Addr, now time.Time) {
	if len(r.until) == 0 {
		r.heard(from, 0, now)
	}
}

// present lists those that are there. When all are silent it is the last one: somebody who does not advertise any more may
// well be there, and a BGP session tells that better.
func (r *routers) present(now time.Time) (list []netip.Addr, silent bool) {
	for addr, until := range r.until {
		if now.Before(until) {
			list = append(list, addr)
		} else if addr != r.last {
			delete(r.until, addr)
		}
	}
	if len(list) == 0 && r.last.IsValid() {
		return []netip.Addr{r.last}, true
	}
	slices.SortFunc(list, netip.Addr.Compare)
	return list, false
}

// forget is for a link that went down.
func (r *routers) forget() { *r = routers{} }
