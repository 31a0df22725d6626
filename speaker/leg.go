package speaker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/evpnd/evpnd/config"
	"github.com/evpnd/evpnd/evpn/wire"
)

// legRole says what becomes of what GoBGP says on an inner leg. Guarded by session.gate.
type legRole uint8

const (
	legServing   legRole = iota // it goes to the peer
	legWaiting                  // the leg of a fresh engine: the peer has heard all that, and another leg serves
	legComparing                // only what the peer has not been told goes to it, until all has been compared
)

// leg is the inner leg of a session: a connection to the GoBGP neighbour that was made for it.
type leg struct {
	engine  *engine
	addr    netip.Addr // GoBGP's name for the session
	conn    *net.TCPConn
	opened  chan struct{} // closed when GoBGP's OPEN has gone out
	greeted chan struct{} // closed when its KEEPALIVE has
	gone    chan struct{} // closed when GoBGP has closed its end
	// caughtUp is closed when GoBGP has sent its table on a waiting leg, or refuses.
	caughtUp chan struct{}

	offered bool         // GoBGP has got the peer's OPEN
	running bool         // and KEEPALIVE, so that it calls the session established
	heardAt atomic.Int64 // when GoBGP sent last, nanoseconds
	evpn    dumps
	rtc     dumps

	done  atomic.Bool // nothing that comes goes anywhere any more; set with gate held
	role  legRole
	out   []byte   // for the peer, not written yet
	open  []byte   // GoBGP's OPEN, as it came
	fault error    // why a waiting leg is of no use
	began struct { // what out has in it
		open, keepalive bool
	}
}

// dumps says whether GoBGP owes us a dump of one family, which it ends with End-of-RIB: when the session comes up, and
// after a ROUTE-REFRESH.
type dumps struct {
	marked atomic.Bool
	owed   atomic.Bool
}

// expect says that the first one is coming. It is called before GoBGP can send anything of the family.
func (d *dumps) expect() {
	d.marked.Store(true)
	d.owed.Store(true)
}

// due reports whether GoBGP still owes a dump.
func (d *dumps) due() bool { return d.marked.Load() && d.owed.Load() }

// dumps gives the state of a family; nil for one that has none.
func (l *leg) dumps(f family) *dumps {
	switch f {
	case familyEVPN:
		return &l.evpn
	case familyRTC:
		return &l.rtc
	default:
		return nil
	}
}

// over notes that the dump of a family has been dealt with to its end; 0 is no family.
func (l *leg) over(marks family) {
	if d := l.dumps(marks); d != nil {
		d.owed.Store(false)
	}
}

// due reports whether GoBGP still owes a dump of any family.
func (l *leg) due() bool { return l.evpn.due() || l.rtc.due() }

// attach connects to the engine in use.
func (s *Speaker) attach(ctx context.Context, cfg config.Peer) (*leg, error) {
	for {
		e := s.serving.Load()
		l, err := e.attach(ctx, cfg)
		if errors.Is(err, errRetired) && s.serving.Load() != e {
			continue
		}
		return l, err
	}
}

func newLeg(e *engine, addr netip.Addr, conn *net.TCPConn) *leg {
	return &leg{
		engine: e, addr: addr, conn: conn,
		opened: make(chan struct{}), greeted: make(chan struct{}), gone: make(chan struct{}),
		caughtUp: make(chan struct{}),
	}
}

// write hands one message to GoBGP. The caller sees to it that nobody else writes.
func (l *leg) write(msg []byte) error {
	if l.absent() {
		return nil
	}
	if wire.MessageType(msg[18]) == wire.MessageRouteRefresh {
		if d := l.dumps(familyAt(msg[wire.HeaderLen:], 3)); d != nil {
			d.owed.Store(true)
		}
	}
	_ = l.conn.SetWriteDeadline(time.Now().Add(openTime)) // fails only when closed, and then so does the write
	if _, err := l.conn.Write(msg); err != nil {
		return fmt.Errorf("pass message to bgp engine: %w", err)
	}
	return nil
}

// close takes the leg down. Its relay must be running, and pass nothing on any more. routing keeps new routes away while
// quiet, which is settle or drain, waits for GoBGP to have nothing to send, and until it has let go of the neighbour.
func (l *leg) close(routing sync.Locker, quiet func()) {
	if l.absent() {
		return
	}
	routing.Lock()
	quiet()
	l.engine.detach(l.addr) // the leg is still open, and must be
	routing.Unlock()
	select {
	case <-l.gone: // GoBGP has closed its end
	case <-time.After(drainTime):
	}
	_ = l.conn.Close()
	<-l.gone
}

// drain has GoBGP send all it has for the leg: it is asked for its table, and what comes before the end of that was the last.
// Its silence for a while would mean little where routes come and go, or on a busy machine.
func (l *leg) drain(limit time.Duration) {
	end := time.After(limit)
	if l.evpn.marked.Load() && l.paid(end) && l.write(refreshMessage(familyEVPN)) == nil {
		l.paid(end)
	}
}

// paid waits until GoBGP owes no dump, and reports false when it never will.
func (l *leg) paid(end <-chan time.Time) bool {
	for l.due() {
		select {
		case <-l.gone:
			return false
		case <-end:
			return false
		case <-time.After(time.Millisecond):
		}
	}
	return true
}

// settle waits until GoBGP has dealt with what it got and has nothing to send any more: when a neighbour is deleted with
// messages in its send queue, a goroutine of the queue stays behind for ever (v4.8.0, cleanInfiniteChannel). The relay
// throws away what comes, so that this takes milliseconds.
func (l *leg) settle() {
	const calm, limit = 2 * time.Millisecond, 200 * time.Millisecond
	if l.offered {
		select {
		case <-l.greeted:
		case <-l.gone:
		case <-time.After(limit):
		}
	}
	for end := time.Now().Add(limit); l.running && time.Now().Before(end); {
		last := time.Unix(0, l.heardAt.Load())
		if time.Since(last) > calm && !l.evpn.due() {
			return
		}
		select {
		case <-l.gone:
			return
		case <-time.After(calm / 2):
		}
	}
}
