package daemon

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	evpnv1 "github.com/evpnd/evpnd/api/evpn/v1"
	"github.com/evpnd/evpnd/evpn"
)

const (
	rowLogPeriod  = time.Second
	rowLogShare   = 10      // looking takes no more than one part in so many of the time
	rowLogRecords = 1 << 14 // changes that are remembered; who is farther behind starts over
)

// rowLog remembers which rows of peers and VNIs changed, for those who follow them. What is in such rows comes from several
// parts, much of it is counted, and there are not many of them: so they are looked at once a second and compared, by
// whoever follows, once for all of them.
type rowLog struct {
	read func(ctx context.Context) (peers []*evpnv1.Peer, vnis []*evpnv1.VNI, err error)

	mu      sync.Mutex
	next    time.Time // when to look again
	rows    map[rowName]proto.Message
	changes *evpn.ChangeLog[rowName]
}

// rowName names a peer by its address, or a VNI.
type rowName struct {
	peer string
	vni  uint32
}

func (s *inspect) readRows(ctx context.Context) ([]*evpnv1.Peer, []*evpnv1.VNI, error) {
	peers, _, err := s.peers(ctx, netip.Addr{})
	if err != nil {
		return nil, nil, err
	}
	vnis, _, err := s.vnis(ctx, 0)
	return peers, vnis, err
}

// look compares the rows with those before, unless that was done a moment ago.
func (l *rowLog) look(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	begin := time.Now()
	if begin.Before(l.next) {
		return nil
	}
	peers, vnis, err := l.read(ctx)
	if err != nil {
		return err
	}
	now := make(map[rowName]proto.Message, len(peers)+len(vnis))
	for _, p := range peers {
		now[rowName{peer: p.Address}] = p
	}
	for _, v := range vnis {
		now[rowName{vni: v.Vni}] = v
	}
	for name, row := range now {
		if was := l.rows[name]; was == nil || !proto.Equal(was, row) {
			l.changes.Add(name)
		}
	}
	for name := range l.rows {
		if now[name] == nil {
			l.changes.Add(name)
		}
	}
	l.rows, l.next = now, begin.Add(max(rowLogPeriod, rowLogShare*time.Since(begin)))
	return nil
}

// last returns the number of the last change.
func (l *rowLog) last() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changes.Last()
}

// all returns the rows, in no order, and the number of the last change that is in them.
func (l *rowLog) all() (rows []proto.Message, upTo uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, row := range l.rows {
		rows = append(rows, row)
	}
	return rows, l.changes.Last()
}

// changedRows are rows that have changed: those that are there, and the names of the others.
type changedRows struct {
	rows []proto.Message
	gone []rowName
	upTo uint64
	lost uint64
}

// after returns the rows that the next changes behind a number name, at most limit of them.
func (l *rowLog) after(number uint64, limit int) (ch changedRows) {
	l.mu.Lock()
	defer l.mu.Unlock()
	names, upTo, lost := l.changes.After(number, limit)
	ch.upTo, ch.lost = upTo, lost
	seen := make(map[rowName]bool)
	for _, name := range names {
		if seen[name] {
			continue
		}
		seen[name] = true
		if row := l.rows[name]; row != nil {
			ch.rows = append(ch.rows, row)
		} else {
			ch.gone = append(ch.gone, name)
		}
	}
	return ch
}

// sorted separates rows of peers and VNIs, and puts each into order.
func sorted(rows []proto.Message) (peers []*evpnv1.Peer, vnis []*evpnv1.VNI) {
	for _, row := range rows {
		switch row := row.(type) {
		case *evpnv1.Peer:
			peers = append(peers, row)
		case *evpnv1.VNI:
			vnis = append(vnis, row)
		}
	}
	slices.SortFunc(peers, func(a, b *evpnv1.Peer) int { return addrOf(a).Compare(addrOf(b)) })
	slices.SortFunc(vnis, func(a, b *evpnv1.VNI) int { return int(a.Vni) - int(b.Vni) })
	return peers, vnis
}

// addrOf is the address of a peer, which we have written ourselves.
func addrOf(p *evpnv1.Peer) netip.Addr {
	a, _ := evpn.ParsePeer(p.Address)
	return a
}
