package dataplane

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/evpnd/evpnd/evpn"
)

// catchUpLimit is how many notifications the writer takes in itself, several times what a batch of its own causes.
const catchUpLimit = 8 * maxBatch

// watcher reads notifications and turns them into pending events. It never waits for anybody but the kernel.
type watcher struct {
	conn     *netlink.Conn
	raw      syscall.RawConn // conn's
	echoConn *netlink.Conn   // for marked FDB rows that may be ours
	rtnl     *rtnl           // to read the links anew after an overrun
	topo     *topology
	vteps    *vteps
	floods   *floods
	expected *rowSet
	standIns *rowSet
	replaced *rowSet
	echoes   *echoes
	overOurs overOurs
	unseen   bool // marked rows were lost; watchEchoes only
	pending  *pending
	counts   *counters
	log      logrus.FieldLogger

	reading sync.Mutex // from taking a notification off the socket until it is handled
	buf     []byte     // for one datagram
	behind  bool       // notifications were lost, and are not made up for yet
}

// watchedGroups are the multicast groups of rtnetlink that we read. That of IPv6 tells of IPv6 being switched on or off.
var watchedGroups = []uint32{unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH, unix.RTNLGRP_NEXTHOP, unix.RTNLGRP_IPV6_IFINFO}

// dialWatch opens the socket of the watcher and subscribes; from now on nothing is missed without ENOBUFS.
func dialWatch(receiveBuffer int) (*netlink.Conn, error) {
	c, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return nil, fmt.Errorf("open notification socket: %w", err)
	}
	err = c.SetReadBuffer(receiveBuffer)
	for _, g := range watchedGroups {
		err = errors.Join(err, c.JoinGroup(g))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("set up notification socket: %w", err), c.Close())
	}
	return c, nil
}

// listen has the sockets pass what is of interest. writer is the port id of the writing socket.
func (w *watcher) listen(writer uint32, nexthops bool) error {
	main, err1 := noticed(writer, nexthops)
	marked, err2 := doubtful(nexthops)
	raw, err3 := w.conn.SyscallConn()
	w.raw = raw
	if err := errors.Join(err1, err2, err3, w.conn.SetBPF(main), w.echoConn.SetBPF(marked)); err != nil {
		return fmt.Errorf("set up notification sockets: %w", err)
	}
	return nil
}

// run reads until ctx ends.
func (w *watcher) run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = w.conn.SetReadDeadline(time.Now()) })
	defer stop()
	for {
		var result error
		err := w.raw.Read(func(fd uintptr) bool {
			for result = w.next(fd); result == nil && ctx.Err() == nil; result = w.next(fd) {
			}
			if errors.Is(result, unix.EAGAIN) {
				result = nil
				return w.topo.unsettled() // false: wait
			}
			return true
		})
		switch err = errors.Join(err, result); {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS):
			if err := w.recover(ctx); err != nil {
				return err
			}
		case err != nil:
			return fmt.Errorf("receive notifications: %w", err)
		}
		w.topo.settle()
	}
}

// next takes in what one datagram says: EAGAIN when there is none, ENOBUFS until what was lost is made up for.
func (w *watcher) next(fd uintptr) error {
	w.reading.Lock()
	defer w.reading.Unlock()
	if w.behind {
		return unix.ENOBUFS
	}
	n, err := unix.Read(int(fd), w.buf)
	switch {
	case errors.Is(err, unix.EINTR):
		return nil
	case err != nil:
		w.behind = errors.Is(err, unix.ENOBUFS)
		return err
	}
	for m := range messages(w.buf[:n]) {
		w.handle(m)
	}
	return nil
}

// catchUp takes in what is notified by now, and reports whether that is all there was, up to some limit. Beside run it may be
// called by the writer.
func (w *watcher) catchUp() bool {
	var last error
	err := w.raw.Control(func(fd uintptr) {
		for n := 0; n < catchUpLimit && last == nil; n++ {
			last = w.next(fd)
		}
	})
	return err == nil && errors.Is(last, unix.EAGAIN) && !w.topo.unsettled()
}

// recover deals with lost notifications: it empties the queue, reads the links, and asks for everything else to be read.
func (w *watcher) recover(ctx context.Context) error {
	w.counts.overruns.Add(1)
	w.log.Warn("netlink notifications lost, reading everything again")
	if err := drain(ctx, w.raw, make([]byte, datagram)); err != nil {
		return err
	}
	w.expected.clear()
	w.replaced.clear()
	clear(w.overOurs)
	links, err := dumpLinks(w.rtnl, 0)
	for err != nil {
		w.log.WithError(err).Warn("links not read back")
		if !pause(ctx, retryAfter) {
			return nil
		}
		links, err = dumpLinks(w.rtnl, 0)
	}
	w.topo.replace(links)
	w.pending.lost()
	w.reading.Lock()
	defer w.reading.Unlock()
	w.behind = false
	return nil
}

// handle takes in one notification. A message that cannot be read is counted and skipped.
func (w *watcher) handle(m message) {
	var err error
	switch m.typ {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		var l linkMessage
		if l, err = parseLink(m.data); err != nil {
			break
		}
		if m.typ == unix.RTM_NEWLINK {
			w.topo.update(l)
		} else {
			w.topo.remove(l)
			w.floods.drop(l)
		}
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		var r row
		if r, err = parseRow(m.data); err == nil {
			w.row(r, m.typ == unix.RTM_DELNEIGH)
		}
	case unix.RTM_NEWNEXTHOP, unix.RTM_DELNEXTHOP:
		var n nexthop
		if n, err = parseNexthop(m.data); err == nil {
			w.nexthop(n, m.typ == unix.RTM_DELNEXTHOP)
		}
	}
	if err != nil {
		w.counts.malformed.Add(1)
	}
}

// row takes in a row of any table, in the light of the links that were reported before it. Making a port adds permanent
// rows; those tell of nothing, and making a thousand ports need not look at all links a thousand times.
func (w *watcher) row(r row, del bool) {
	if r.family == unix.AF_BRIDGE && !r.self() && !r.ext() && r.state&unix.NUD_PERMANENT != 0 {
		return
	}
	w.topo.settle()
	switch {
	case r.family != unix.AF_BRIDGE:
		ats := w.topo.onBridge(r.ifindex)
		for _, at := range ats {
			w.neighbor(at, r, del)
		}
		w.overOurs.follow(r, del || len(ats) == 0)
	case r.self():
		if at := w.topo.onDevice(r.ifindex); at != nil {
			w.deviceRow(at, r, del)
		}
	default:
		for _, at := range w.topo.onBridge(r.master) {
			w.bridgeRow(at, r, del)
		}
	}
}

// bridgeRow takes in a row of a bridge's FDB.
func (w *watcher) bridgeRow(at *attached, r row, del bool) {
	if w.topo.onDevice(r.ifindex) != nil { // the VXLAN port: nothing local
		switch {
		case r.ifindex != at.device:
		case del && !w.expected.take(rowKey{ifindex: r.ifindex, mac: r.mac}) && stood(r):
			w.counts.shifts.Add(1)
			w.pending.tamper(fdbKey(at, r))
		case !del && pinned(r):
			w.pending.tamper(fdbKey(at, r))
		}
		return
	}
	if del {
		w.counts.shifts.Add(1)
	}
	if isLocalMAC(r) {
		w.pending.host(macKey{at.VNI, r.mac}, localMAC(at, r, w.topo.portName(r.ifindex), del))
	}
}

// isLocalMAC reports whether a row of a bridge, on another port than the VXLAN device, tells of a host. Permanent rows
// are addresses of the bridge itself; rows with NTF_EXT_LEARNED were put there by another daemon, unless they are static:
// what is written with the flag never is, but a static row written over one of ours keeps the flag.
func isLocalMAC(r row) bool {
	static := r.state&unix.NUD_NOARP != 0
	return (!r.ext() || static) && r.state&unix.NUD_PERMANENT == 0 && !r.mac.IsGroup() && !r.mac.IsZero()
}

func localMAC(at *attached, r row, port string, gone bool) evpn.LocalMAC {
	return evpn.LocalMAC{VNI: at.VNI, MAC: r.mac, Port: port, Static: r.state&unix.NUD_NOARP != 0, Gone: gone}
}

// stood reports whether a row that someone removed was an entry of ours, or may have stood for one because it said the
// same.
func stood(r row) bool { return r.ext() || r.fixed() }

func fdbKey(at *attached, r row) evpn.EntryKey {
	return evpn.EntryKey{Table: evpn.TableFDB, VNI: at.VNI, MAC: r.mac}
}

// deviceRow takes in a row of a VXLAN device's own FDB.
func (w *watcher) deviceRow(at *attached, r row, del bool) {
	switch {
	case r.mac.IsZero():
		w.floodRow(at, r, del)
	case !del && r.ext():
		w.markedRow(r)
	case del:
		key := rowKey{ifindex: r.ifindex, self: true, mac: r.mac}
		w.replaced.take(key)
		if !w.expected.take(key) && stood(r) {
			w.pending.tamper(fdbKey(at, r))
		}
	case r.fixed() && (r.dst.IsValid() || r.nhid != 0):
		// Put by hand where ours may have been. (Linux 6.1 sends another one for ours, without a destination.)
		w.replaced.put(rowKey{ifindex: r.ifindex, self: true, mac: r.mac})
		w.pending.tamper(fdbKey(at, r))
	}
}

// floodRow takes in one dst of the flood list.
func (w *watcher) floodRow(at *attached, r row, del bool) {
	known := w.floods.owner(r.ifindex, r.dst)
	switch {
	case !r.dst.IsValid():
	case !del && known == nobody:
		if w.echoes.has(echo{ifindex: r.ifindex, self: true, dst: r.dst}) {
			return // ours, and what is known of it is older: it went, and is to be written again
		}
		w.floods.set(r.ifindex, r.dst, foreign)
	case !del && known == ours && !w.echoes.has(echo{ifindex: r.ifindex, self: true, dst: r.dst}): // an audit has put it back
		w.pending.tamper(evpn.EntryKey{Table: evpn.TableFlood, VNI: at.VNI, Addr: r.dst})
	case del && !w.expected.take(rowKey{ifindex: r.ifindex, self: true, addr: r.dst.As16()}):
		w.floods.set(r.ifindex, r.dst, nobody)
		w.pending.tamper(evpn.EntryKey{Table: evpn.TableFlood, VNI: at.VNI, Addr: r.dst})
	}
}

// neighbor takes in a row of a bridge's neighbour table that we did not write. A row that is removed is first reported as
// failed, without MAC.
// Our protocol number without our flag is a row of ours that someone replaced: the kernel keeps the number, unless it is given
// another one. Whoever removes a row, there is no local binding of its IP afterwards; but the cache rows that the kernel drops
// all day are no business of ours.
func (w *watcher) neighbor(at *attached, r row, del bool) {
	const unsettled = unix.NUD_INCOMPLETE | unix.NUD_FAILED
	if r.proto == protocolBGP && !del && r.state&unsettled != 0 {
		return
	}
	key := rowKey{ifindex: r.ifindex, addr: r.dst.As16()}
	tampered := !del && (r.proto != unix.RTPROT_UNSPEC || r.ext())
	if del {
		// The last word on a row has neither its flags nor its state. A protocol number is a daemon's, never the cache's.
		stoodIn, expected := w.standIns.take(key), w.expected.take(key)
		tampered = !expected && (stoodIn || r.proto != unix.RTPROT_UNSPEC)
		if theirs, overOurs := w.overOurs[key]; overOurs && expected {
			w.pending.giveBack(theirs)
		}
	}
	if tampered {
		w.pending.tamper(evpn.EntryKey{Table: evpn.TableNeighbor, VNI: at.VNI, Addr: r.dst})
	}
	switch {
	case del || r.state&unix.NUD_FAILED != 0 || r.ext():
		if r.dst.IsGlobalUnicast() {
			w.pending.free(at.VNI, r.dst)
		}
	case r.state&unix.NUD_INCOMPLETE == 0 && isHost(at, r):
		w.pending.host(ipKey{at.VNI, r.dst}, localIP(at, r))
	}
}

// nexthop takes in a nexthop or group. When one of ours goes, its other half may still be there, or something else of ours that
// is of no use any more.
func (w *watcher) nexthop(n nexthop, del bool) {
	vtep, same, ok := w.vteps.matches(n)
	if !ok || (same && !del) {
		return
	}
	if del {
		w.vteps.forget(vtep, false)
		w.pending.loseNexthops(vtep)
		return
	}
	w.pending.tamper(evpn.EntryKey{Table: evpn.TableVTEP, Addr: vtep})
	w.pending.reread(0)
}
