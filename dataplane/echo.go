package dataplane

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/evpnd/evpnd/evpn"
)

// FDB rows with NTF_EXT_LEARNED come back as notifications, most of them our own writes, and the kernel does not say who
// wrote a row. Those that do not show it (rowfilter.go) go to a socket of their own, with little room, that is looked at now and
// then: while thousands of rows a second are written, what does not fit is dropped for next to nothing, and nothing else is
// lost with it.
const (
	echoBuffer = 1 << 20                // octets: room for 2500 rows
	echoPeriod = 100 * time.Millisecond // between two looks; the most that a row stays unseen
	echoMemory = time.Second            // for which what we wrote is at least remembered
	echoRoom   = 1 << 14                // rows remembered per echoMemory; beyond, a row passes for ours
)

// echoes remembers what rows of ours said when they were written, for as long as their notifications may be under way.
type echoes struct {
	watched bool // somebody compares; set before anything is written

	mu         sync.Mutex
	seed       maphash.Seed
	young, old map[uint64]struct{}
	crowded    [2]bool // there was no room in young, in old
	turned     time.Time
}

// echo is what a row of a VXLAN device, or of its port, says.
type echo struct {
	ifindex int
	self    bool
	sticky  bool
	mac     evpn.MAC
	nhid    uint32
	dst     netip.Addr
}

func newEchoes() *echoes {
	return &echoes{seed: maphash.MakeSeed(), young: map[uint64]struct{}{}, old: map[uint64]struct{}{}}
}

// put notes a row that is about to be written.
func (e *echoes) put(rows ...echo) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.watched {
		return
	}
	for _, r := range rows {
		if len(e.young) >= echoRoom {
			e.crowded[0] = true
			return
		}
		e.young[maphash.Comparable(e.seed, r)] = struct{}{}
	}
}

// has reports whether a row may be ours: we wrote the same lately, or more than is remembered.
func (e *echoes) has(r echo) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	sum := maphash.Comparable(e.seed, r)
	_, young := e.young[sum]
	_, old := e.old[sum]
	return young || old || e.crowded[0] || e.crowded[1]
}

// drained says that every notification of before now was looked at. What was written since the last time but one is
// forgotten.
func (e *echoes) drained(now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if now.Sub(e.turned) < echoMemory {
		return
	}
	e.turned = now
	if len(e.young) == 0 && len(e.old) == 0 {
		return
	}
	e.old, e.young = e.young, map[uint64]struct{}{}
	e.crowded = [2]bool{false, e.crowded[0]}
}

func (e *echoes) watch(yes bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.watched = yes
}

// dialEchoes opens the socket for marked rows.
func dialEchoes() (*netlink.Conn, error) {
	c, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return nil, fmt.Errorf("open socket for marked rows: %w", err)
	}
	if err := errors.Join(c.SetReadBuffer(echoBuffer), c.JoinGroup(unix.RTNLGRP_NEIGH)); err != nil {
		return nil, errors.Join(fmt.Errorf("set up socket for marked rows: %w", err), c.Close())
	}
	return c, nil
}

// watchEchoes is the goroutine that looks for marked rows that we did not write, until ctx ends.
func (w *watcher) watchEchoes(ctx context.Context) error {
	raw, err := w.echoConn.SyscallConn()
	if err != nil {
		return fmt.Errorf("receive marked rows: %w", err)
	}
	buf := make([]byte, datagram)
	for pause(ctx, echoPeriod) {
		if err := w.readEchoes(ctx, raw, buf); err != nil {
			return err
		}
	}
	return nil
}

// readEchoes reads what is there.
func (w *watcher) readEchoes(ctx context.Context, raw syscall.RawConn, buf []byte) error {
	err := receive(raw, buf, func(b []byte) bool {
		for m := range messages(b) {
			if r, err := parseRow(m.data); err == nil {
				w.markedRow(r)
			}
		}
		return ctx.Err() != nil
	}, func() bool { return true })
	switch {
	case err == nil:
	case !errors.Is(err, unix.ENOBUFS):
		return fmt.Errorf("receive marked rows: %w", err)
	default: // until the queue has been empty once the kernel drops on
		if err := drain(ctx, raw, buf); err != nil {
			return err
		}
		w.unseen = true
	}
	if w.unseen && err == nil { // the storm is over
		w.unseen = false
		w.pending.doubted()
	}
	w.echoes.drained(time.Now())
	return nil
}

// markedRow takes in a row with NTF_EXT_LEARNED. One that we did not write stands, or may, where ours stood.
func (w *watcher) markedRow(r row) {
	if w.echoes.has(echo{r.ifindex, r.self(), r.flags&ntfSticky != 0, r.mac, r.nhid, r.dst}) {
		return
	}
	at := w.topo.onDevice(r.ifindex)
	switch {
	case at == nil && r.self():
	case at == nil:
		for _, at := range w.topo.onBridge(r.master) {
			w.pending.tamper(fdbKey(at, r))
		}
	case r.self() && r.mac.IsZero():
		w.floodRow(at, r, false)
	default:
		w.pending.tamper(fdbKey(at, r))
	}
}
