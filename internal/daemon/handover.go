package daemon

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/evpnd/evpnd/evpn"
	"github.com/evpnd/evpnd/speaker"
)

// will is what one evpnd leaves to the next: living sessions, and what only the core knows. It is written into a file in
// memory; the connections go beside it. Form changes whenever an older reader would misread it.
type will struct {
	Form     int
	Written  time.Time
	VTEP     netip.Addr
	Hosts    []evpn.NumberedHost
	Sessions []*speaker.Handover
}

const (
	willForm  = 1
	willMagic = "evpnWILL"
	// The file begins with an octet that is 0 until somebody takes the sessions, the magic, the length of the rest and its
	// SHA-256.
	willHead = 1 + len(willMagic) + 8 + sha256.Size
	willMost = 4 << 30
)

// errTaken says that somebody has the sessions already: two speakers on one connection would be noise to the peer.
var errTaken = errors.New("somebody else has taken over these sessions")

// seal writes the will into a file in memory.
func (w *will) seal() (*os.File, error) {
	text, err := json.Marshal(w)
	if err != nil {
		return nil, fmt.Errorf("encode hand-over: %w", err)
	}
	fd, err := unix.MemfdCreate("evpnd-handover", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make file of hand-over: %w", err)
	}
	f := os.NewFile(uintptr(fd), "evpnd-handover")
	sum := sha256.Sum256(text)
	head := append(make([]byte, 1, willHead), willMagic...)
	head = append(binary.BigEndian.AppendUint64(head, uint64(len(text))), sum[:]...)
	if _, err := f.Write(append(head, text...)); err != nil {
		return nil, errors.Join(fmt.Errorf("write hand-over: %w", err), f.Close())
	}
	return f, nil
}

// open reads a will and takes what it leaves, which can be done once. files are the connections in the order of the
// sessions; they are the will's, or closed after an error.
func open(f *os.File, files []*os.File) (*will, error) {
	w, err := read(f, len(files))
	if err == nil {
		err = take(f)
	}
	if err != nil {
		closeAll(files)
		return nil, fmt.Errorf("read hand-over: %w", err)
	}
	for i, s := range w.Sessions {
		s.File = files[i]
	}
	return w, nil
}

func read(f *os.File, connections int) (*will, error) {
	head := make([]byte, willHead)
	if _, err := f.ReadAt(head, 0); err != nil {
		return nil, err
	}
	magic, rest := head[1:1+len(willMagic)], head[1+len(willMagic):]
	n := binary.BigEndian.Uint64(rest)
	if string(magic) != willMagic || n > willMost {
		return nil, errors.New("it is none")
	}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() != int64(willHead)+int64(n) {
		return nil, fmt.Errorf("it has %d octets, not %d", info.Size(), int64(willHead)+int64(n))
	}
	text := make([]byte, n)
	if _, err := f.ReadAt(text, int64(willHead)); err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(text); !bytes.Equal(sum[:], rest[8:]) {
		return nil, errors.New("its checksum is wrong")
	}
	var form struct{ Form int }
	if err := json.Unmarshal(text, &form); err != nil {
		return nil, err
	}
	if form.Form != willForm {
		return nil, fmt.Errorf("form %d is not known", form.Form)
	}
	w := &will{}
	strict := json.NewDecoder(bytes.NewReader(text))
	strict.DisallowUnknownFields()
	if err := strict.Decode(w); err != nil {
		return nil, err
	}
	if len(w.Sessions) != connections {
		return nil, fmt.Errorf("%d connections for %d sessions", connections, len(w.Sessions))
	}
	return w, nil
}

// take marks the file, which other processes may have as well, and fails when it is marked already.
func take(f *os.File) error {
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("%w: %w", errTaken, err)
	}
	var mark [1]byte
	if _, err := f.ReadAt(mark[:], 0); err != nil {
		return err
	}
	if mark[0] != 0 {
		return errTaken
	}
	_, err := f.WriteAt([]byte{1}, 0)
	return err
}

func closeAll[C io.Closer](all []C) {
	for _, c := range all {
		_ = c.Close()
	}
}

// handOver stops all sessions at a message boundary and writes down what the next evpnd needs. There is no way back: the
// caller ends the daemon. Its queries are answered still.
func (d *Daemon) handOver(ctx context.Context) (*will, error) {
	d.config.finish()
	sessions := d.bgp.HandOver(ctx)
	w := &will{Form: willForm, Written: time.Now(), VTEP: d.opts.Config.VTEP}
	var estate evpn.Estate
	err := d.onOwner(ctx, func(c *evpn.Core) {
		d.handleWaiting() // what the sessions have said before they stopped
		estate = c.Estate()
	})
	if err != nil {
		for _, s := range sessions {
			_ = s.File.Close()
		}
		return nil, err
	}
	w.Hosts = estate.Hosts
	peers := map[netip.Addr]evpn.PeerEstate{}
	for _, p := range estate.Peers {
		peers[p.Peer] = p
	}
	for _, s := range sessions {
		if err := s.Say(peers[s.Peer]); err != nil {
			d.log.WithError(err).WithField("peer", evpn.PeerName(s.Peer)).Warn("session is not handed over, it starts anew")
			_ = s.File.Close()
			continue
		}
		w.Sessions = append(w.Sessions, s)
	}
	return w, nil
}

// handleWaiting takes in the facts that wait. It runs on the owner.
func (d *Daemon) handleWaiting() {
	for {
		select {
		case batch := <-d.events:
			d.handle(batch)
		default:
			return
		}
	}
}
