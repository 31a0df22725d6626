package speaker

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/evpnd/evpnd/evpn/wire"
)

// bufferSize holds one message of any size and the start of the next.
const bufferSize = 65536 + 4096

// messageReader cuts the octets of a connection into BGP messages.
type messageReader struct {
	conn     io.Reader
	opts     wire.Options
	buf      []byte
	from, to int // what is buffered
}

func newMessageReader(conn io.Reader, o wire.Options) *messageReader {
	return &messageReader{conn: conn, opts: o, buf: make([]byte, bufferSize)}
}

// next returns the next whole message, valid until the call after it. The error is a *wire.ResetError for a header that
// is wrong, else what reading gave.
func (r *messageReader) next() (wire.MessageType, []byte, error) {
	if err := r.need(wire.HeaderLen); err != nil {
		return 0, nil, err
	}
	kind, n, err := wire.Header(r.buf[r.from:r.to], r.opts)
	if err != nil {
		return 0, nil, err
	}
	if err := r.need(n); err != nil {
		return 0, nil, err
	}
	msg := r.buf[r.from : r.from+n : r.from+n]
	r.from += n
	return kind, msg, nil
}

// need reads until n octets are buffered.
func (r *messageReader) need(n int) error {
	if r.from == r.to {
		r.from, r.to = 0, 0
	}
	if r.from+n > len(r.buf) {
		r.to = copy(r.buf, r.buf[r.from:r.to])
		r.from = 0
	}
	for r.to-r.from < n {
		got, err := r.conn.Read(r.buf[r.to:])
		r.to += got
		if got == 0 && err != nil {
			return err
		}
	}
	return nil
}

// ready reports whether next would return without reading from the connection.
func (r *messageReader) ready() bool {
	have := r.to - r.from
	if have < wire.HeaderLen {
		return false
	}
	_, n, err := wire.Header(r.buf[r.from:r.to], r.opts)
	return err != nil || have >= n
}

var errFinal = errors.New("connection is closing")

// drainTime bounds how long a closed connection waits for the peer to read our last message. Closing at once would, with
// unread input, send RST, and RST makes the peer's kernel throw away what it has not read yet.
const drainTime = 2 * time.Second

// outerConn is the writing half of the connection to the peer. Messages are written whole, and nothing follows the last.
type outerConn struct {
	*net.TCPConn
	timeout atomic.Int64 // nanoseconds that one write may take
	closing atomic.Bool
	mu      sync.Mutex
	final   bool
}

func newOuterConn(c *net.TCPConn) *outerConn {
	o := &outerConn{TCPConn: c}
	o.timeout.Store(int64(30 * time.Second))
	return o
}

// write sends whole messages. A frozen peer ends it with an error after the timeout.
func (o *outerConn) write(b []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.final {
		return errFinal
	}
	o.setWriteDeadline(time.Duration(o.timeout.Load()))
	if o.closing.Load() {
		o.setWriteDeadline(drainTime)
	}
	_, err := o.Write(b)
	if err != nil {
		o.final = true // half a message may be out: nothing can follow it
	}
	return err
}

// hurry has every write end within d, the one under way as well.
func (o *outerConn) hurry(d time.Duration) {
	o.timeout.Store(min(o.timeout.Load(), int64(d)))
	o.setWriteDeadline(d)
}

// seal has nothing be written any more, and says nothing to the peer. It fails when half a message may be out.
func (o *outerConn) seal() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.final {
		return errFinal
	}
	o.final = true
	return nil
}

// finish sends last, which may be nil, and ends the sending direction. Later calls and writes do nothing.
func (o *outerConn) finish(last []byte) {
	o.closing.Store(true)
	o.setWriteDeadline(drainTime) // a write that hangs now lets go of the mutex
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.final {
		return
	}
	o.final = true
	if last != nil {
		o.setWriteDeadline(drainTime)
		_, _ = o.Write(last) // a peer that is gone needs no last word
	}
	_ = o.CloseWrite() // fails when the peer has closed first
}

// drain discards what still comes until the peer closes, then closes.
func (o *outerConn) drain() {
	_ = o.SetReadDeadline(time.Now().Add(drainTime))
	var b [4096]byte
	for {
		if _, err := o.Read(b[:]); err != nil {
			break
		}
	}
	_ = o.Close()
}

func (o *outerConn) setWriteDeadline(d time.Duration) {
	_ = o.SetWriteDeadline(time.Now().Add(d)) // fails only on a closed connection, and then the write says so
}
