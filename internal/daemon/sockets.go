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
	cfg     config.API   // that they are for
	api     net.Listener // *net.UnixListener
	tcp     net.Listener // nil: none
	metrics net.Listener // nil: none
	// successor is where the next evpnd asks to take over.
	successor *net.UnixListener
}

// Listen opens the sockets of a configuration. It is the first thing to do: where another evpnd answers already, nothing
// else may be touched. Run closes them.
func Listen(cfg config.API) (*Sockets, error) { return new(Sockets).next(cfg) }

// next returns the sockets of another configuration: those of s where the address is the same, and new ones. With an error
// s is as it was. Whichever of the two is not used has to be given to release.
func (s *Sockets) next(cfg config.API) (*Sockets, error) {
	n := *s
	n.cfg = cfg
	if err := n.open(s); err != nil {
		return nil, errors.Join(err, n.release(s))
	}
	return &n, nil
}

// open opens what s, a copy of old, has to have besides.
func (s *Sockets) open(old *Sockets) (err error) {
	switch {
	case old.api == nil || s.cfg.Socket != old.cfg.Socket:
		s.api, s.successor = nil, nil
		api, err := listenUnix(s.cfg.Socket, s.cfg.Group)
		if err != nil {
			return fmt.Errorf("api: %w", err)
		}
		s.api = api
		if s.successor, err = listenSuccessor(handOverSocket(s.cfg)); err != nil {
			return fmt.Errorf("take-over: %w", err)
		}
	case s.cfg.Group != old.cfg.Group:
		if err := setSocketAccess(s.cfg.Socket, s.cfg.Group); err != nil {
			return fmt.Errorf("api: %w", err)
		}
	}
	if s.tcp, err = listenTCP(s.cfg.TCP.Address, old.tcp, old.cfg.TCP.Address); err != nil {
		return fmt.Errorf("api: %w", err)
	}
	if s.metrics, err = listenTCP(s.cfg.Metrics, old.metrics, old.cfg.Metrics); err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	return nil
}

// listenTCP keeps the listener whose address is the same; "" is none.
func listenTCP(address string, old net.Listener, oldAddress string) (net.Listener, error) {
	switch address {
	case "":
		return nil, nil
	case oldAddress:
		return old, nil
	}
	return net.Listen("tcp", address)
}

// release closes the sockets that kept does not have, and gives the socket file back to kept's group.
func (s *Sockets) release(kept *Sockets) error {
	var errs []error
	for _, pair := range [][2]net.Listener{{s.api, kept.api}, {s.tcp, kept.tcp}, {s.metrics, kept.metrics}, {unixOrNil(s.successor), unixOrNil(kept.successor)}} {
		if pair[0] == nil || pair[0] == pair[1] {
			continue
		}
		if err := pair[0].Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	if kept.api != nil && s.cfg.Socket == kept.cfg.Socket && s.cfg.Group != kept.cfg.Group {
		errs = append(errs, setSocketAccess(kept.cfg.Socket, kept.cfg.Group))
	}
	return errors.Join(errs...)
}

// unixOrNil keeps a nil listener nil as an interface.
func unixOrNil(l *net.UnixListener) net.Listener {
	if l == nil {
		return nil
	}
	return l
}

// Close closes what Run has not closed.
func (s *Sockets) Close() error { return s.release(&Sockets{}) }

// listenUnix listens on path with mode 0660, owned by group, or by ours when none is given.
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
	gid := os.Getegid()
	if group != "" {
		id, err := groupID(group)
		if err != nil {
			return fmt.Errorf("group of socket: %w", err)
		}
		gid = int(id)
	}
	if err := os.Chown(path, -1, gid); err != nil {
		return fmt.Errorf("set group of socket: %w", err)
	}
	return nil
}

func groupID(name string) (uint32, error) {
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, err
	}
	gid, err := strconv.ParseUint(g.Gid, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("id %q of group %s: %w", g.Gid, name, err)
	}
	return uint32(gid), nil
}
