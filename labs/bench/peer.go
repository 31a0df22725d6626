package main

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

// peer is a BGP speaker that costs next to nothing: it writes what was made beforehand.
type peer struct {
	conn net.Conn
	// heard, when not nil, is called with the body of every UPDATE, on the reader's goroutine.
	heard  atomic.Pointer[func(at time.Time, body []byte)]
	reader chan struct{} // closed when the reader has ended
}

// dialPeer makes a session from local to the host's VTEP address, trying until the other side is ready for one.
func dialPeer(ctx context.Context, h *host, local netip.Addr, hears func(time.Time, []byte)) (*peer, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		p, err := tryPeer(ctx, h, local, hears)
		if err == nil {
			return p, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("session from %s to %s: %w", local, h.vtep, err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func tryPeer(ctx context.Context, h *host, local netip.Addr, hears func(time.Time, []byte)) (*peer, error) {
	p := &peer{reader: make(chan struct{})}
	p.listen(hears)
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: local.AsSlice()}, Timeout: 2 * time.Second}
	err := h.inside(func() (err error) {
		p.conn, err = dialer.DialContext(ctx, "tcp", netip.AddrPortFrom(h.vtep, 179).String())
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
func (p *peer) greet(r *bufio.Reader, local netip.Addr) error {
	if err := p.conn.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return err
	}
	hello := wire.AppendOpen(nil, wire.Open{ASN: asn, RouterID: local}, ibgp)
	if _, err := p.conn.Write(wire.AppendKeepalive(hello)); err != nil {
		return fmt.Errorf("write OPEN: %w", err)
	}
	for {
		kind, _, err := readMessage(r, nil)
		if err != nil {
			return fmt.Errorf("read OPEN: %w", err)
		}
		if kind == wire.MessageKeepalive {
			return p.conn.SetDeadline(time.Time{})
		}
	}
}

// readMessage reads one message; its body is good until buf is used again.
func readMessage(r io.Reader, buf []byte) (wire.MessageType, []byte, error) {
	var header [wire.HeaderLen]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return 0, nil, err
	}
	kind, length, err := wire.Header(header[:], ibgp)
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
func (p *peer) read(r io.Reader) {
	defer close(p.reader)
	defer p.conn.Close()
	buf := make([]byte, 1<<16)
	for {
		kind, body, err := readMessage(r, buf)
		if err != nil || kind == wire.MessageNotification {
			return
		}
		if heard := p.heard.Load(); heard != nil && kind == wire.MessageUpdate {
			(*heard)(time.Now(), body)
		}
	}
}

// listen has f called with every UPDATE from now on; nil: nobody.
func (p *peer) listen(f func(at time.Time, body []byte)) {
	if f == nil {
		p.heard.Store(nil)
		return
	}
	p.heard.Store(&f)
}

func (p *peer) write(messages []byte) error {
	if _, err := p.conn.Write(messages); err != nil {
		return fmt.Errorf("write %d octets of messages: %w", len(messages), err)
	}
	return nil
}

// close ends the session without a word, and waits for the reader.
func (p *peer) close() {
	p.conn.Close()
	<-p.reader
}
