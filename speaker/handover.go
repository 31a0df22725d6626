package speaker

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/evpnd/evpnd/evpn"
	"github.com/evpnd/evpnd/evpn/wire"
)

// parkTime bounds how long a session may take to come to a message boundary in both directions.
const parkTime = 5 * time.Second

// Handover is a living session between two processes: all that the next one needs to go on where this one stopped, but
// for what the peer has said, which the core knows and Routes takes. The peer notices nothing.
type Handover struct {
	Peer     netip.Addr
	Settings json.RawMessage // config.Peer that the session serves, and whose options the connection has
	Dialed   bool
	Since    time.Time
	Counters Counters

	// Of the speaker: what our OPEN said beside Settings.
	ASN      uint32
	RouterID netip.Addr

	PeerOpen []byte   // the peer's OPEN as it came
	Open     []byte   // GoBGP's OPEN: another GoBGP must say the same
	Unread   []byte   // the beginning of the peer's next message
	Told     []byte   // digests of what the peer has been told
	Members  [][]byte // the peer's RT memberships, an UPDATE each
	Complete bool     // of Members: their End-of-RIB has come
	Asked    []uint32 // families that the peer has asked for with ROUTE-REFRESH, not answered yet
	Said     []byte   // UPDATEs: what the peer has said, with 4-octet AS numbers, whatever the session uses
	Routes   int      // in Said
	Left     int      `json:",omitempty"` // routes that the limit of the peer has kept out of it

	File *os.File `json:"-"` // the connection
}

var errParked = errors.New("session is handed over")

// HandOver stops everything at once: no peer is dialled or heard any more, and established sessions come to a message
// boundary in both directions and are returned. Those that cannot be are left to the end of Run, which comes next. Facts
// that the sessions have emitted by then are in the sink. No
// configuration may follow, and it can be called once.
func (s *Speaker) HandOver(ctx context.Context) []*Handover {
	s.configuring.Lock()
	defer s.configuring.Unlock()
	s.mu.Lock()
	ls := s.listening
	s.mu.Unlock()
	ls.close()
	var mu sync.Mutex
	var all []*Handover
	var wg sync.WaitGroup
	for _, p := range s.allPeers() {
		p.mu.Lock()
		p.closed = true
		x := p.current
		up := x != nil && x.phase == established
		p.mu.Unlock()
		if !up {
			continue
		}
		wg.Go(func() {
			h, err := x.park(ctx)
			if err != nil {
				x.log.WithError(err).Warn("session is not handed over, it starts anew")
				return
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, h)
		})
	}
	wg.Wait()
	slices.SortFunc(all, func(a, b *Handover) int { return a.Peer.Compare(b.Peer) })
	return all
}

// park brings the session to a message boundary in both directions and ends it without a sign to the peer. After an error
// it goes on until it is ended otherwise.
func (s *session) park(ctx context.Context) (*Handover, error) {
	s.outer.hurry(drainTime) // others are silent until this one is done
	if !s.lockLeg(ctx) {
		return nil, errors.New("another bgp engine is being put behind it")
	}
	defer s.moving.Unlock()
	if !s.neg.evpn || !s.marked {
		return nil, errors.New("it has no EVPN, or no mark at the end of a table")
	}
	s.hold()
	if err := s.stopReading(ctx); err != nil {
		return nil, err
	}
	h, err := s.stopWriting()
	if err != nil {
		s.end(&ending{reason: err.Error()}) // nobody reads any more
		return nil, err
	}
	return h, nil
}

// lockLeg takes s.moving; false: whoever has it, which may be for a minute, does not let go of it in time.
func (s *session) lockLeg(ctx context.Context) bool {
	for limit := time.Now().Add(parkTime); !s.moving.TryLock(); time.Sleep(time.Millisecond) {
		if ctx.Err() != nil || time.Now().After(limit) {
			return false
		}
	}
	return true
}

// stopReading waits until every whole message of the peer that has been read is dealt with.
func (s *session) stopReading(ctx context.Context) error {
	s.mu.Lock()
	s.parking = true
	_ = s.outer.SetReadDeadline(time.Unix(1, 0))
	s.mu.Unlock()
	limit := time.NewTimer(parkTime)
	defer limit.Stop()
	select {
	case <-s.halted:
		return nil
	case <-s.ending:
		return errEnded
	case <-limit.C:
		return errors.New("its last messages are not taken")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// isParking reports that the reader is to stop.
func (s *session) isParking() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.parking
}

// rest is the end of reading in a session that is handed over.
func (s *session) rest() error {
	s.flush()
	close(s.halted)
	<-s.ending
	return errEnded
}

// stopWriting writes what is to be written and describes the session, which is over then as far as this process goes.
func (s *session) stopWriting() (*Handover, error) {
	s.gate.Lock()
	defer s.gate.Unlock()
	switch {
	case s.isEnding():
		return nil, errEnded
	case s.told.lost:
		return nil, errUnread
	case s.told.comparing || s.leg.due() || !s.eor.settled(&s.neg):
		return nil, errUnsettled
	}
	s.flushLeg(s.leg)
	s.leg.done.Store(true)
	if err := s.outer.seal(); err != nil {
		return nil, err
	}
	h, err := s.describe()
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.parked = true
	s.mu.Unlock()
	s.end(&ending{reason: errParked.Error()})
	return h, nil
}

// describe says all there is to say about the session. s.gate is held, and nobody reads or writes.
func (s *session) describe() (*Handover, error) {
	s.legMu.Lock()
	defer s.legMu.Unlock()
	settings, err := json.Marshal(s.p.config()) // s.cfg is older than what retune has made of the connection
	if err != nil {
		return nil, fmt.Errorf("encode settings: %w", err)
	}
	f, err := s.outer.File()
	if err != nil {
		return nil, fmt.Errorf("duplicate the connection: %w", err)
	}
	h := &Handover{
		Peer: s.p.addr, Settings: settings, Dialed: s.dialed,
		ASN: s.p.sp.asn, RouterID: s.p.sp.routerID,
		PeerOpen: s.peerOpen, Open: s.leg.open, Unread: slices.Clone(s.in.buf[s.in.from:s.in.to]), Told: s.told.pack(),
		Complete: s.members.complete, File: f,
	}
	for _, msg := range s.members.routes {
		h.Members = append(h.Members, msg)
	}
	for _, family := range s.held {
		h.Asked = append(h.Asked, uint32(family))
	}
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	h.Since, h.Counters = s.p.since, s.p.counters
	return h, nil
}

// Say puts what the peer has said into the handover. It fails when that cannot be written.
func (h *Handover) Say(e evpn.PeerEstate) error {
	if e.Retained {
		return errors.New("routes of its last session are not confirmed yet")
	}
	o, err := parseOpen(h.PeerOpen)
	if err != nil {
		return err
	}
	opts := carried(h.ASN, &o)
	for _, u := range e.Routes {
		if h.Said, err = wire.AppendUpdate(h.Said, u.Attrs, u.Reach, opts); err != nil {
			return err
		}
		h.Routes += len(u.Reach)
	}
	h.Left = e.Left
	if e.EndOfRIB {
		h.Said = wire.AppendEoR(h.Said)
	}
	return nil
}

// carried are the options of Handover.Said, in which nothing is lost.
func carried(asn uint32, o *open) wire.Options {
	return wire.Options{AS4: true, Extended: true, IBGP: o.asn == asn}
}

// pack writes down what has been told: family, digest, length and octets of each NLRI.
func (t *told) pack() []byte {
	size := 0
	for k := range t.routes {
		size += 4 + 8 + 2 + len(k.nlri)
	}
	b := make([]byte, 0, size)
	for k, r := range t.routes {
		b = binary.BigEndian.AppendUint32(b, uint32(k.family))
		b = binary.BigEndian.AppendUint64(b, r.digest)
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(k.nlri))), k.nlri...)
	}
	return b
}

// unpack reads what pack wrote.
func (t *told) unpack(b []byte) error {
	t.routes = make(map[toldKey]toldRoute)
	for len(b) > 0 {
		if len(b) < 14 {
			return errors.New("what the peer was told ends early")
		}
		n := 14 + int(binary.BigEndian.Uint16(b[12:]))
		if len(b) < n {
			return errors.New("what the peer was told ends early")
		}
		k := toldKey{family(binary.BigEndian.Uint32(b)), string(b[14:n])}
		t.routes[k] = toldRoute{digest: binary.BigEndian.Uint64(b[4:])}
		b = b[n:]
	}
	return nil
}
