package dataplane

import (
	"errors"
	"slices"

	"github.com/mdlayher/netlink"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// A neighbour that we remove was ours when it was looked at, or when the last notification was read. An orchestrator may have
// written its own over it since: the static row of a guest that arrives comes right after that of its MAC, for which we remove
// ours. The kernel removes whatever stands there when our message comes. But it tells of everything in order, so that we know
// afterwards what it was, and write it once more.

// maxOverOurs bounds what is remembered of others' rows.
const maxOverOurs = 1 << 14

// overOurs are neighbours that were written over ours, or may have been, until they go: those of others with a protocol number,
// which our row leaves to the one that takes its place.
type overOurs map[rowKey]row

// follow takes in a row of a neighbour table that we did not write. One that is removed is first reported as failed, unless we
// asked for that.
func (o overOurs) follow(r row, gone bool) {
	key := rowKey{ifindex: r.ifindex, addr: r.dst.As16()}
	if gone || r.proto == unix.RTPROT_UNSPEC || neighborOwner(r) == nobody || r.ext() {
		delete(o, key)
	} else if _, known := o[key]; known || len(o) < maxOverOurs {
		o[key] = r
	}
}

// giveBack writes neighbours of others that we removed, each where nothing stands by now.
func (d *Dataplane) giveBack(rows []row) {
	if len(rows) == 0 {
		return
	}
	d.kernel.Lock()
	defer d.kernel.Unlock()
	var b batch
	for chunk := range slices.Chunk(rows, maxBatch) {
		b.reset()
		for _, r := range chunk {
			b.add(unix.RTM_NEWNEIGH, netlink.Create|netlink.Excl, func(buf []byte) []byte { return putTheirs(buf, r) })
		}
		err := d.reader.exchange(&b, nil)
		for i, r := range chunk {
			log := d.log.WithFields(logrus.Fields{"ip": r.dst, "mac": r.mac, "ifname": d.topo.portName(r.ifindex)})
			switch refused := errors.Join(err, b.errs[i]); {
			case refused == nil:
				log.Info("neighbor of someone else put back")
			case !errors.Is(refused, unix.EEXIST) && !gone(refused):
				log.WithError(refused).Warn("neighbor of someone else lost")
			}
		}
	}
}

// putTheirs writes a neighbour as someone else has: with their protocol number, but not with the one that was left from ours.
func putTheirs(b []byte, r row) []byte {
	b = putNDM(b, r.family, r.ifindex, r.state, r.flags&unix.NTF_ROUTER)
	b = putAddr(b, unix.NDA_DST, r.dst)
	b = putMAC(b, r.mac)
	if r.proto == protocolBGP {
		return b
	}
	return putAttr(b, ndaProtocol, []byte{r.proto})
}
