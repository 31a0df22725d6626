package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// systemd keeps files of a service from one life to the next: at a restart the old process leaves the sessions there, and
// the new one finds them among the files it is started with. This is what they are called there.
const (
	storedWill    = "evpnd-will"
	storedSession = "evpnd-session-" // and its number
)

// FDStore is systemd's store of files for this service (sd_notify(3), FDSTORE=1).
type FDStore struct {
	socket string
	room   int // most files
}

// OpenFDStore finds the store in the environment; nil: there is none. systemd tells of it from version 254 on.
func OpenFDStore() *FDStore {
	room, err := strconv.Atoi(os.Getenv("FDSTORE"))
	socket := os.Getenv("NOTIFY_SOCKET")
	if err != nil || room <= 0 || socket == "" {
		return nil
	}
	return &FDStore{socket: socket, room: room}
}

// Take has BGP go on with the sessions that the evpnd before has left in the store, which is empty then. files are what
// systemd has started us with, each with its name.
func (s *FDStore) Take(files []*os.File) (*Legacy, error) {
	var stored *os.File
	sessions := make([]*os.File, 0, len(files))
	for _, f := range files {
		if f.Name() == storedWill {
			stored = f
		}
	}
	for i := range files {
		for _, f := range files {
			if f.Name() == storedSession+strconv.Itoa(i) {
				sessions = append(sessions, f)
			}
		}
	}
	if stored == nil && len(sessions) == 0 {
		return &Legacy{}, nil
	}
	if err := s.empty(len(sessions)); err != nil {
		closeAll(files)
		return &Legacy{}, err
	}
	if stored == nil {
		closeAll(sessions)
		return &Legacy{}, errors.New("take over: sessions without a description")
	}
	defer stored.Close()
	w, err := open(stored, sessions)
	if err != nil {
		return &Legacy{}, fmt.Errorf("take over: %w", err)
	}
	return &Legacy{will: w}, nil
}

// put stores the will and its sessions.
func (s *FDStore) put(w *will) error {
	if len(w.Sessions)+1 > s.room {
		return fmt.Errorf("%d sessions are more than FileDescriptorStoreMax=%d has room for", len(w.Sessions), s.room)
	}
	f, err := w.seal()
	if err != nil {
		return err
	}
	defer f.Close()
	for i, session := range w.Sessions {
		if err := s.notify("FDSTORE=1\nFDPOLL=0\nFDNAME="+storedSession+strconv.Itoa(i), session.File); err != nil {
			return err
		}
	}
	if err := s.notify("FDSTORE=1\nFDPOLL=0\nFDNAME="+storedWill, f); err != nil {
		return err
	}
	return s.barrier()
}

// empty has systemd drop the will and n sessions.
func (s *FDStore) empty(n int) error {
	err := s.notify("FDSTOREREMOVE=1\nFDNAME="+storedWill, nil)
	for i := range n {
		err = errors.Join(err, s.notify("FDSTOREREMOVE=1\nFDNAME="+storedSession+strconv.Itoa(i), nil))
	}
	return errors.Join(err, s.barrier())
}

// notify sends a state, and a file with it unless that is nil.
func (s *FDStore) notify(state string, f *os.File) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0) // package net sends no files from these
	if err != nil {
		return fmt.Errorf("tell systemd: %w", err)
	}
	defer unix.Close(fd)
	limit := unix.NsecToTimeval(int64(askTime))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit); err != nil {
		return fmt.Errorf("tell systemd: %w", err)
	}
	var oob []byte
	if f != nil {
		oob = unix.UnixRights(int(f.Fd()))
	}
	if err := unix.Sendmsg(fd, []byte(state), oob, &unix.SockaddrUnix{Name: s.socket}, unix.MSG_NOSIGNAL); err != nil {
		return fmt.Errorf("tell systemd: %w", err)
	}
	return nil
}

// barrier waits until systemd has taken in what it was told.
func (s *FDStore) barrier() error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	err = s.notify("BARRIER=1", w) // systemd closes it when it is its turn
	if cerr := w.Close(); err != nil || cerr != nil {
		return errors.Join(err, cerr)
	}
	_ = r.SetReadDeadline(time.Now().Add(askTime))
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		return fmt.Errorf("wait for systemd: %w", err)
	}
	return nil
}

// leave ends the daemon when the process is to stop; where systemd keeps files for the next start, the sessions are made
// ready for that first. With flush-on-exit there is nothing to go on with.
func (d *Daemon) leave(stop, ctx context.Context, end func()) {
	select {
	case <-ctx.Done():
		return
	case <-stop.Done():
	}
	defer end()
	if d.opts.Store == nil || d.config.get().FlushOnExit || !d.leaving.CompareAndSwap(false, true) {
		return
	}
	w, err := d.handOver(ctx)
	if err != nil {
		d.log.WithError(err).Error("nothing is left for the next start, sessions start anew")
		return
	}
	d.will = w
}

// store leaves what is ready to the next start.
func (d *Daemon) store() error {
	var files []*os.File
	for _, s := range d.will.Sessions {
		files = append(files, s.File)
	}
	defer closeAll(files)
	if err := d.opts.Store.put(d.will); err != nil {
		return fmt.Errorf("leave the sessions to the next start: %w", err)
	}
	d.log.WithField("sessions", len(files)).Info("sessions left to the next start")
	return nil
}
