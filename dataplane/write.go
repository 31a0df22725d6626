package dataplane

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/evpnd/evpnd/evpn"
)

// errForeign says that an entry that is not ours stands where ours is wanted, and was left alone.
var errForeign = errors.New("held by an entry that is not ours")

// writer turns ops into netlink messages and sends them. Dataplane.kernel guards it.
type writer struct {
	rtnl     *rtnl
	topo     *topology
	vteps    *vteps
	floods   *floods
	expected *rowSet // deletes sent and not yet seen notified: the notifications do not say who asked
	standIns *rowSet // rows of others that say what we were to write: neighbours, and MACs by their VXLAN device
	replaced *rowSet // rows of VXLAN devices that someone wrote by hand without removing first what stood there
	echoes   *echoes

	undisturbed func(asOf uint64) bool // entries of ours are as the core believes
	asOf        uint64                 // what the core knew when it made the batch that is being written
	trusting    bool                   // the steps

	batch  batch
	owners []*step // of the messages in batch
	steps  []step
	keys   map[evpn.EntryKey]struct{}
	looks  []evpn.KernelOp // what look asks for, as ops that do nothing
}

// phase is what a step waits for next.
type phase uint8

const (
	done   phase = iota // nothing: err is the result
	trust               // do as the core says, which knows what stands there
	claim               // make an entry where nothing stands
	bind                // FDB: mark the claimed entry and add the VXLAN device's half
	look                // read what stands there, then decide
	yield               // neighbour: remove the learned row, then change
	change              // write what was decided
	undo                // FDB: take the bridge's half away again
)

// step is one op on its way into the kernel.
type step struct {
	op    *evpn.KernelOp
	at    *attached
	group uint32 // FDB: nexthop group of the VTEP; 0 in dst mode
	phase phase
	err   error
	mend  string // the command that takes away what is in the way; "": none is known
	made  bool   // FDB: the bridge's half is of our making, not found there

	near row // what look found: the bridge's row, or the neighbour
	far  row // what look found: the VXLAN device's row

	nearBy, farBy owner // FDB: whose near and far are
}

func (s *step) fail(err error) {
	s.phase = done
	if s.err == nil {
		s.err = fmt.Errorf("%s: %w", describe(s.op), err)
	}
}

func describe(op *evpn.KernelOp) string {
	if op.Del {
		return "delete " + op.Key.String()
	}
	return "add " + op.Key.String()
}

// apply carries out the ops of a batch in order and returns those that were refused. lock is held for each chunk.
func (w *writer) apply(ctx context.Context, b evpn.KernelBatch, lock sync.Locker, counts *counters) []evpn.OpError {
	var failed []evpn.OpError
	ops := b.Ops
	for len(ops) > 0 {
		if err := ctx.Err(); err != nil {
			for _, op := range ops {
				failed = append(failed, evpn.OpError{Op: op, Err: err})
			}
			return failed
		}
		lock.Lock()
		w.asOf = b.AsOf
		n := w.chunk(ops)
		refused := w.write(ops[:n])
		lock.Unlock()
		counts.add(ops[:n], refused)
		failed = append(failed, refused...)
		ops = ops[n:]
	}
	return failed
}

// chunk returns how many ops from the first on may be written together: of one table, all additions or all deletes, no
// key twice, so that the order among them does not matter.
func (w *writer) chunk(ops []evpn.KernelOp) int {
	if w.keys == nil {
		w.keys = make(map[evpn.EntryKey]struct{}, maxBatch)
	}
	clear(w.keys)
	for i := range ops {
		op := &ops[i]
		if _, twice := w.keys[op.Key]; twice || i == maxBatch || op.Key.Table != ops[0].Key.Table || op.Del != ops[0].Del {
			return i
		}
		w.keys[op.Key] = struct{}{}
	}
	return len(ops)
}

// write carries out one chunk.
func (w *writer) write(ops []evpn.KernelOp) []evpn.OpError {
	w.steps = w.steps[:0]
	for i := range ops {
		w.steps = append(w.steps, step{op: &ops[i]})
	}
	switch table := ops[0].Key.Table; table {
	case evpn.TableVTEP:
		for i := range w.steps {
			w.steps[i].err = w.writeVTEP(ops[i])
		}
	case evpn.TableFlood:
		w.writeFlood()
	case evpn.TableFDB:
		w.writeFDB()
	case evpn.TableNeighbor:
		w.writeNeighbors()
	default:
		for i := range w.steps {
			w.steps[i].fail(fmt.Errorf("no such table: %s", table))
		}
	}
	var failed []evpn.OpError
	for i := range w.steps {
		if s := &w.steps[i]; s.err != nil {
			failed = append(failed, evpn.OpError{Op: *s.op, Err: s.err, Foreign: errors.Is(s.err, errForeign), Mend: s.mend})
		}
	}
	return failed
}

// look adds what stands under keys. Those that cannot be looked up are left out.
func (w *writer) look(keys []evpn.EntryKey, found *evpn.Looked) {
	w.looks = append(w.looks[:0], make([]evpn.KernelOp, len(keys))...)
	w.steps = w.steps[:0]
	for i, key := range keys {
		w.looks[i].Key = key
		w.steps = append(w.steps, step{op: &w.looks[i], phase: look})
	}
	w.locate()
	w.send(look, func(s *step) {
		switch {
		case s.at == nil:
		case s.op.Key.Table == evpn.TableFDB:
			w.buildLook(s)
		case s.op.Key.Table == evpn.TableNeighbor:
			w.buildNeighborLook(s)
		case s.op.Key.Table == evpn.TableFlood && w.floods.owner(s.at.device, s.op.Key.Addr) == ours:
			w.putFlood(s, unix.RTM_NEWNEIGH, netlink.Create|netlink.Append)
		}
	}, keepRow, func(s *step, err error) {
		if err != nil && !gone(err) {
			s.fail(err)
		}
	})
	for i := range w.steps {
		s := &w.steps[i]
		if s.at == nil || s.err != nil {
			continue
		}
		found.Keys = append(found.Keys, s.op.Key)
		switch s.op.Key.Table {
		case evpn.TableFDB:
			if e, ok := fdbEntry(s.at, w.vteps, halves{s.near, s.far}); ok {
				e.Key = s.op.Key
				found.Entries = append(found.Entries, e)
			}
		case evpn.TableNeighbor:
			if neighborOwner(s.near) == ours {
				found.Entries = append(found.Entries, neighborEntry(s.op.Key.VNI, s.near))
			}
		case evpn.TableFlood:
			if w.floods.owner(s.at.device, s.op.Key.Addr) != nobody { // theirs floods there as well
				found.Entries = append(found.Entries, evpn.ObservedEntry{Key: s.op.Key, Ours: true})
			}
		}
	}
}

// decideTrust finds out whether steps whose op says Intact may be carried out without looking first, if there are any.
func (w *writer) decideTrust() {
	w.trusting = false
	for i := range w.steps {
		if w.steps[i].op.Intact {
			w.trusting = w.undisturbed(w.asOf)
			return
		}
	}
}

// trusted reports whether a step may be, under whose key nobody else's row stands for ours.
func (w *writer) trusted(s *step, key rowKey) bool {
	return w.trusting && s.op.Intact && !w.standIns.has(key)
}

// locate finds the attachment of each step. A delete where there is no device is done.
func (w *writer) locate() {
	for i := range w.steps {
		s := &w.steps[i]
		if s.at = w.topo.vni(s.op.Key.VNI); s.at == nil && !s.op.Del {
			s.fail(fmt.Errorf("no VXLAN device on a bridge has VNI %d", s.op.Key.VNI))
		}
	}
}

// send lets build add the messages of every step in phase p, sends them in batches, and hands the answer to each message
// to then. An error of the socket is the answer to all messages of its batch.
func (w *writer) send(p phase, build func(*step), reply func(*step, row), then func(*step, error)) {
	const mostPerStep = 4
	w.batch.reset()
	w.owners = w.owners[:0]
	flush := func() {
		err := w.rtnl.exchange(&w.batch, w.onReply(reply))
		for i, s := range w.owners {
			if err == nil {
				then(s, w.batch.errs[i])
			} else {
				then(s, err)
			}
		}
		w.batch.reset()
		w.owners = w.owners[:0]
	}
	for i := range w.steps {
		s := &w.steps[i]
		if s.phase != p {
			continue
		}
		build(s)
		for len(w.owners) < w.batch.len() {
			w.owners = append(w.owners, s)
		}
		if w.batch.len() > maxBatch-mostPerStep {
			flush()
		}
	}
	flush()
}

// rowSet is a set of rows that the writer has a word on for the watcher.
type rowSet struct {
	watched atomic.Bool // somebody takes out what is put in
	mu      sync.Mutex
	rows    map[rowKey]struct{}
}

// rowKey names one row of the kernel. It holds no pointer, so that the garbage collector passes a full table by.
type rowKey struct {
	ifindex int
	self    bool
	mac     evpn.MAC
	addr    [16]byte
}

func newRowSet() *rowSet { return &rowSet{rows: map[rowKey]struct{}{}} }

func (s *rowSet) put(k rowKey) {
	if !s.watched.Load() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rows[k] = struct{}{}
}

// take reports whether k is in the set, and crosses it out.
func (s *rowSet) take(k rowKey) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.rows[k]
	delete(s.rows, k)
	return ok
}

func (s *rowSet) has(k rowKey) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.rows[k]
	return ok
}

func (s *rowSet) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.rows)
}

// forget crosses out the rows of a device.
func (s *rowSet) forget(ifindex int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.rows, func(k rowKey, _ struct{}) bool { return k.ifindex == ifindex })
}

// gone reports whether a refused delete merely found nothing.
func gone(err error) bool { return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) }

// onReply hands the rows that looks find to reply.
func (w *writer) onReply(reply func(*step, row)) func(int, []byte) {
	if reply == nil {
		return nil
	}
	return func(i int, data []byte) {
		if r, err := parseRow(data); err == nil {
			reply(w.owners[i], r)
		}
	}
}
