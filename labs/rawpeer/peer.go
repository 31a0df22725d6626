// Package rawpeer is a BGP peer for measures and long runs that costs next to nothing: it writes UPDATEs that were made
// beforehand and reads what comes without keeping anything. It knows no timers, for the hold time is 0, and no rules.
package rawpeer

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/evpnd/evpnd/evpn/wire"
)

// ASN is the autonomous system of the peer, and of whoever it talks to.
const ASN = 65000

// Options are those of its sessions: 4-octet AS numbers, iBGP.
var Options = wire.Options{AS4: true, IBGP: true}

// Peer is one session.
type Peer struct {
	conn net.Conn
	// heard, when not nil, is called with the body of every UPDATE, on the reader's goroutine.
	heard  atomic.Pointer[func(at time.Time, body []byte)]
	reader chan struct{} // closed when the reader has ended
}

// Dial makes a session from local to remote, port 179, trying for a minute until the other side is ready for one. The
// connection is opened by within, which may do so in another network namespace. As with Listen, hears is called with every
// UPDATE, the first ones as well; nil: nobody is.
func Dial(ctx context.Context, within func(func() error) error, local, remote netip.Addr, hears func(time.Time, []byte)) (*Peer, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		p, err := try(ctx, within, local, remote, hears)
		if err == nil {
			return p, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("session from %s to %s: %w", local, remote, err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func try(ctx context.Context, within func(func() error) error, local, remote netip.Addr, hears func(time.Time, []byte)) (*Peer, error) {
	p := &Peer{reader: make(chan struct{})}
	p.Listen(hears)
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: local.AsSlice()}, Timeout: 2 * time.Second}
	err := within(func() (err error) {
		p.conn, err = dialer.DialContext(ctx, "tcp", netip.AddrPortFrom(remote, 179).String())
		return err
	})
	if err != nil {
		return nil, err
	}
	buffered := bufio.NewReaderSize(p.conn, 1<<20)
	if err := p.greet(buffered, local); err != nil {
		p.conn.Close()
		return nil, err
	}
	go p.read(buffered) // ends with the connection
	return p, nil
}

// greet exchanges OPEN and KEEPALIVE. The hold time is 0, so that nobody need say anything more.
func (p *Peer) greet(r *bufio.Reader, local netip.Addr) error {
	if err := p.conn.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return err
	}
	hello := wire.AppendOpen(nil, wire.Open{ASN: ASN, RouterID: local}, Options)
	if _, err := p.conn.Write(wire.AppendKeepalive(hello)); err != nil {
		return fmt.Errorf("write OPEN: %w", err)
	}
	for {
		kind, _, err := ReadMessage(r, nil)
		if err != nil {
			return fmt.Errorf("read OPEN: %w", err)
		}
		if kind == wire.MessageKeepalive {
			return p.conn.SetDeadline(time.Time{})
		}
	}
}

// ReadMessage reads one message; its body is good until buf is used again.
func ReadMessage(r io.Reader, buf []byte) (wire.MessageType, []byte, error) {
	var header [wire.HeaderLen]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return 0, nil, err
	}
	kind, length, err := wire.Header(header[:], Options)
	if err != nil {
		return 0, nil, err
	}
	if cap(buf) < length {
		buf = make([]byte, length)
	}
	body := buf[:length-len(header)]
	_, err = io.ReadFull(r, body)
	return kind, body, err
}

// read hears the other side until it ends the session, and then does so too: who has said why waits for that.
func (p *Peer) read(r io.Reader) {
	defer close(p.reader)
	defer p.conn.Close()
	buf := make([]byte, 1<<16)
	for {
		kind, body, err := ReadMessage(r, buf)
		if err != nil || kind == wire.MessageNotification {
			return
		}
		if heard := p.heard.Load(); heard != nil && kind == wire.MessageUpdate {
			(*heard)(time.Now(), body)
		}
	}
}

// Listen has f called with every UPDATE from now on; nil: nobody.
func (p *Peer) Listen(f func(at time.Time, body []byte)) {
	if f == nil {
		p.heard.Store(nil)
		return
	}
	p.heard.Store(&f)
}

// Write sends messages as they are.
func (p *Peer) Write(messages []byte) error {
	if _, err := p.conn.Write(messages); err != nil {
		return fmt.Errorf("write %d octets of messages: %w", len(messages), err)
	}
	return nil
}

// Close ends the session without a word, and waits for the reader.
func (p *Peer) Close() {
	p.conn.Close()
	<-p.reader
}
