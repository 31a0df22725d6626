package dataplane

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/evpnd/evpnd/config"
	"github.com/evpnd/evpnd/evpn"
)

const (
	// waysPause is how long what changes in the underlay is left alone after it was looked at. In a storm of routes the
	// kernel drops most notifications meanwhile, which costs it next to nothing and us nothing.
	waysPause = 10 * time.Millisecond
	// waysShare bounds the time for looking things up to a tenth.
	waysShare = 9
)

// wayGroups are the multicast groups of what may change a way. Routes that go with their link, their address or their
// nexthop object go without a word of their own.
var wayGroups = []uint32{
	unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE,
	unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_LINK, unix.RTNLGRP_NEXTHOP,
}

// ways watches whether the underlay has a way to each of the VTEPs that the core names. Notifications only say that it is
// time to look: what counts is what the kernel would do with a packet now.
type ways struct {
	topo    *topology
	pending *pending
	log     logrus.FieldLogger
	conn    *netlink.Conn           // notifications
	wake    waker                   // holds a token when it is time to look
	silent  func(netip.Addr) string // why a VTEP with a route cannot be reached all the same; "" when it can
	own     *ownAddresses

	asking sync.Mutex // guards rtnl
	rtnl   *rtnl

	mu    sync.Mutex
	vteps []netip.Addr
	told  map[netip.Addr]string // why a VTEP cannot be reached, as last reported; "" when it can
}

// wayKey is the key under which events of a VTEP are coalesced.
type wayKey struct{ vtep netip.Addr }

func newWays(t *topology, p *pending, own *ownAddresses, log logrus.FieldLogger) *ways {
	return &ways{topo: t, pending: p, own: own, log: log, wake: newWaker(), told: map[netip.Addr]string{}}
}

func (w *ways) open() (err error) {
	if w.rtnl, err = dialRTNL(); err != nil {
		return err
	}
	if w.conn, err = netlink.Dial(unix.NETLINK_ROUTE, nil); err != nil {
		return fmt.Errorf("open socket for route notifications: %w", err)
	}
	for _, g := range wayGroups {
		err = errors.Join(err, w.conn.JoinGroup(g))
	}
	if err != nil {
		return fmt.Errorf("set up socket for route notifications: %w", err)
	}
	return nil
}

func (w *ways) close() error {
	var errs []error
	if w.rtnl != nil {
		errs = append(errs, w.rtnl.close())
	}
	if w.conn != nil {
		errs = append(errs, w.conn.Close())
	}
	return errors.Join(errs...)
}

// watch replaces the VTEPs. What was said of those that are named no more is forgotten.
func (w *ways) watch(vteps []netip.Addr) {
	w.mu.Lock()
	defer w.mu.Unlock()
	told := make(map[netip.Addr]string, len(vteps))
	for _, a := range vteps {
		if why, ok := w.told[a]; ok {
			told[a] = why
		}
	}
	w.vteps, w.told = slices.Clone(vteps), told
	w.changed()
}

// again has everything said once more: events were dropped.
func (w *ways) again() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.told)
	w.changed()
}

func (w *ways) changed() {
	w.wake.signal()
}

// listen turns notifications into wakes until ctx ends.
func (w *ways) listen(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = w.conn.SetReadDeadline(time.Now()) })
	defer stop()
	raw, err := w.conn.SyscallConn()
	if err != nil {
		return fmt.Errorf("receive route notifications: %w", err)
	}
	for ctx.Err() == nil {
		err := await(raw)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("receive route notifications: %w", err)
		}
		w.changed()
		pause(ctx, waysPause)
	}
	return nil
}

// await waits until a socket holds something, or has lost something, and empties it.
func await(raw syscall.RawConn) error {
	var some bool
	var result error
	var octet [1]byte // enough to have a message taken off the queue
	err := raw.Read(func(fd uintptr) bool {
		for {
			switch _, err := unix.Read(int(fd), octet[:]); {
			case err == nil, errors.Is(err, unix.ENOBUFS):
				some = true
			case errors.Is(err, unix.EAGAIN):
				return some
			case !errors.Is(err, unix.EINTR):
				result = err
				return true
			}
		}
	})
	return errors.Join(err, result)
}

// run looks when it is time, until ctx ends.
func (w *ways) run(ctx context.Context) {
	w.changed()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
		}
		start := time.Now()
		if err := errors.Join(w.look(), w.readOwn()); err != nil {
			w.log.WithError(err).Warn("ways to vteps or own addresses not looked up")
			w.changed()
			if !pause(ctx, retryAfter) {
				return
			}
		}
		if !pause(ctx, waysShare*time.Since(start)) {
			return
		}
	}
}

// readOwn has the addresses of our links read anew.
func (w *ways) readOwn() error {
	w.asking.Lock()
	defer w.asking.Unlock()
	return w.own.read(w.rtnl)
}

// look reports what is not as it was said to be.
func (w *ways) look() error {
	w.mu.Lock()
	vteps := w.vteps
	w.mu.Unlock()
	reasons := make([]string, len(vteps))
	if policy := w.topo.options().Reachability; policy != config.ReachabilityOff {
		found, err := w.lookUp(vteps)
		if err != nil {
			return err
		}
		for i, f := range found {
			reasons[i] = f.unusable(policy)
		}
	}
	for i, a := range vteps {
		if reasons[i] == "" {
			reasons[i] = w.silent(a)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, a := range vteps {
		if _, watched := slices.BinarySearchFunc(w.vteps, a, netip.Addr.Compare); !watched {
			continue
		}
		if told, ok := w.told[a]; !ok || told != reasons[i] {
			w.told[a] = reasons[i]
			w.pending.host(wayKey{a}, evpn.VTEPReachable{VTEP: a, Reachable: reasons[i] == "", Reason: reasons[i]})
		}
	}
	return nil
}

// route is the route that the kernel would take.
type route struct {
	why     string // why there is none; "" when there is
	deflt   bool   // it is a default route
	oif     int    // device; of several, the first that works
	carrier bool   // some device that it leads over has a carrier
	mtu     int    // that somebody gave it; 0: nobody did
}

// unusable says why nothing reaches a VTEP by this route; "" when it does.
func (r route) unusable(policy config.Reachability) string {
	switch {
	case r.why != "":
		return r.why
	case !r.carrier:
		return "link without carrier"
	case r.deflt && policy == config.ReachabilityNoDefault:
		return "only a default route"
	}
	return ""
}

// lookUp asks the kernel for the route to each VTEP. Where VXLAN devices are bound to devices, as in a VRF, the best of
// what these lead to counts.
func (w *ways) lookUp(vteps []netip.Addr) ([]route, error) {
	w.asking.Lock()
	defer w.asking.Unlock()
	best := make([]route, len(vteps))
	for i, bound := range w.topo.boundTo() {
		for first := 0; first < len(vteps); first += maxBatch {
			part := vteps[first:min(first+maxBatch, len(vteps))]
			found, err := w.lookUpPart(part, bound)
			if err != nil {
				return nil, err
			}
			for j, r := range found {
				if b := &best[first+j]; i == 0 || b.rank() < r.rank() {
					*b = r
				}
			}
		}
	}
	return best, nil
}

// rank orders routes by what they are good for.
func (r route) rank() int {
	switch {
	case r.why != "":
		return 0
	case !r.carrier:
		return 1
	case r.deflt:
		return 2
	}
	return 3
}

// lookUpPart looks up as many routes as fit into one batch; bound is the device that packets must leave by, or 0.
func (w *ways) lookUpPart(vteps []netip.Addr, bound int) ([]route, error) {
	var b batch
	for _, a := range vteps {
		b.add(unix.RTM_GETROUTE, 0, func(p []byte) []byte { return putRouteQuery(p, a, bound) })
	}
	found := make([]route, len(vteps))
	err := w.rtnl.exchange(&b, func(i int, data []byte) { found[i] = parseRoute(data) })
	if err != nil {
		return nil, fmt.Errorf("look up routes: %w", err)
	}
	for i, err := range b.errs {
		switch {
		case err == nil:
		case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EHOSTUNREACH) && bound != 0: // would be sought on the link
			found[i].why = "no route"
		case errors.Is(err, unix.EHOSTUNREACH):
			found[i].why = "route of type unreachable"
		case errors.Is(err, unix.EACCES):
			found[i].why = "route of type prohibit"
		case errors.Is(err, unix.EINVAL):
			found[i].why = "route of type blackhole"
		default:
			return nil, fmt.Errorf("look up the route to %s: %w", vteps[i], err)
		}
	}
	return found, nil
}

func putRouteQuery(b []byte, to netip.Addr, bound int) []byte {
	b = append(b, family(to), uint8(to.BitLen()), 0, 0, 0, 0, 0, 0)
	b = binary.NativeEndian.AppendUint32(b, unix.RTM_F_FIB_MATCH)
	b = putAddr(b, unix.RTA_DST, to)
	if bound != 0 {
		b = putAttr32(b, unix.RTA_OIF, uint32(bound))
	}
	return b
}

// parseRoute reads the payload of RTM_NEWROUTE.
func parseRoute(b []byte) route {
	const useless = unix.RTNH_F_DEAD | unix.RTNH_F_LINKDOWN
	if len(b) < unix.SizeofRtMsg {
		return route{why: errShort.Error()}
	}
	r := route{deflt: b[1] == 0}
	single := true
	for typ, v := range attrs(b[unix.SizeofRtMsg:]) {
		switch typ {
		case unix.RTA_OIF:
			r.oif = cmp.Or(r.oif, int(number(v)))
		case unix.RTA_METRICS:
			for metric, v := range attrs(v) {
				if metric == unix.RTAX_MTU {
					r.mtu = int(number(v))
				}
			}
		case unix.RTA_MULTIPATH:
			single = false
			for len(v) >= unix.SizeofRtNexthop {
				n := int(binary.NativeEndian.Uint16(v))
				if n < unix.SizeofRtNexthop || n > len(v) {
					break
				}
				if v[2]&useless == 0 && !r.carrier {
					r.carrier, r.oif = true, int(binary.NativeEndian.Uint32(v[4:]))
				}
				v = v[min((n+3)&^3, len(v)):]
			}
		}
	}
	if single {
		r.carrier = binary.NativeEndian.Uint32(b[8:])&useless == 0
	}
	return r
}

// boundTo lists the devices that VXLAN devices in service are bound to; 0 stands for those that are not.
func (t *topology) boundTo() []int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	var list []int
	for index := range t.byDevice {
		if l := t.links[index]; l != nil {
			list = append(list, l.vxlan.bound)
		}
	}
	slices.Sort(list)
	if list = slices.Compact(list); len(list) == 0 {
		return []int{0}
	}
	return list
}

// WatchVTEPs replaces the VTEPs whose reachability Run reports: of each once, and then whenever it changes. It may be
// called from any goroutine and does not wait.
func (d *Dataplane) WatchVTEPs(vteps []netip.Addr) {
	d.prober.watch(vteps)
	d.ways.watch(vteps)
}
