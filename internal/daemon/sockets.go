package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/evpnd/evpnd/config"
)

// Sockets are what a daemon answers on.
type Sockets struct {
	api     net.Listener
	metrics net.Listener // nil: none
	// successor is where the next evpnd asks to take over.
	successor *net.UnixListener
}

// Listen opens the sockets of a configuration. It is the first thing to do: where another evpnd answers already, nothing
// else may be touched. Run closes them.
func Listen(cfg config.API) (*Sockets, error) {
	api, err := listenUnix(cfg.Socket, cfg.Group)
	if err != nil {
		return nil, fmt.Errorf("api: %w", err)
	}
	s := &Sockets{api: api}
	if s.successor, err = listenSuccessor(handOverSocket(cfg)); err != nil {
		return nil, errors.Join(fmt.Errorf("take-over: %w", err), api.Close())
	}
	if cfg.Metrics != "" {
		if s.metrics, err = net.Listen("tcp", cfg.Metrics); err != nil {
			return nil, errors.Join(fmt.Errorf("metrics: %w", err), s.successor.Close(), api.Close())
		}
	}
	return s, nil
}

// Close closes what Run has not closed.
func (s *Sockets) Close() error {
	var errs []error
	listeners := []net.Listener{s.api, s.successor}
	if s.metrics != nil {
		listeners = append(listeners, s.metrics)
	}
	for _, l := range listeners {
		if err := l.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// listenUnix listens on path with mode 0660, owned by group when one is given.
func listenUnix(path, group string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make directory of socket: %w", err)
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	if err := setSocketAccess(path, group); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// removeStale removes a socket that nobody answers on any more. One that may be answered on is an error, since another
// daemon runs, and so is what is no socket, since it is not ours.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("look at old socket: %w", err)
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("listen on %s: a file that is no socket is there", path)
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	switch {
	case err == nil:
		return errors.Join(fmt.Errorf("listen on %s: another evpnd answers there", path), conn.Close())
	case errors.Is(err, syscall.ECONNREFUSED):
	case errors.Is(err, fs.ErrNotExist):
		return nil
	default:
		return fmt.Errorf("listen on %s: another evpnd may be there: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove old socket: %w", err)
	}
	return nil
}

func setSocketAccess(path, group string) error {
	if err := os.Chmod(path, 0o660); err != nil {
		return fmt.Errorf("set mode of socket: %w", err)
	}
	if group == "" {
		return nil
	}
	g, err := user.LookupGroup(group)
	if err != nil {
		return fmt.Errorf("group of socket: %w", err)
	}
	gid, err := strconv.Atoi(g.Gid)
	if err != nil {
		return fmt.Errorf("group of socket: id %q: %w", g.Gid, err)
	}
	if err := os.Chown(path, -1, gid); err != nil {
		return fmt.Errorf("set group of socket: %w", err)
	}
	return nil
}
