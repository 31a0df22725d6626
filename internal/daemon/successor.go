package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/evpnd/evpnd/config"
	"github.com/evpnd/evpnd/speaker"
)

// A successor connects to the socket of the old evpnd and asks; the old one stops its sessions, ends all it does, and sends
// files: the will first, then the connections. Packets are kept apart by the kernel, and an end before the last one leaves
// the successor with nothing.
const (
	askForWill    = "evpnd take over 1"
	willGranted   = "granted"
	willRefused   = "refused: "
	filesPerSend  = 64 // of 253 that a packet can carry
	askTime       = 5 * time.Second
	handOverTime  = 30 * time.Second // from the question to the last file
	maxWillPacket = 512
)

// handOverSocket is where a successor asks, beside the API's socket.
func handOverSocket(cfg config.API) string { return cfg.Socket + ".take-over" }

// Legacy is what TakeOver got of the evpnd before.
type Legacy struct {
	will *will
}

// TakeOver asks the evpnd that runs with this configuration to hand its sessions over and to end. It has ended, but for its
// last breath, when TakeOver returns without an error. ErrNobody means that none runs. With any other error and a Legacy, in
// which there is nothing then, it is gone or on its way; without one it goes on as if nothing had been asked.
func TakeOver(ctx context.Context, cfg *config.Config) (*Legacy, error) {
	path := handOverSocket(cfg.API)
	d := net.Dialer{Timeout: askTime}
	c, err := d.DialContext(ctx, "unixpacket", path)
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED):
		return nil, ErrNobody
	case err != nil:
		return nil, fmt.Errorf("take over: %w", err)
	}
	defer c.Close()
	conn := c.(*net.UnixConn)
	if err := checkCredentials(conn); err != nil {
		return nil, fmt.Errorf("take over: %s: %w", path, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	_ = conn.SetDeadline(time.Now().Add(handOverTime))
	if err := ask(conn); errors.Is(err, errRefused) {
		return nil, fmt.Errorf("take over: %s: %w", path, err)
	} else if err != nil {
		return &Legacy{}, fmt.Errorf("take over: %s: %w", path, err)
	}
	files, err := receiveFiles(conn)
	if err == nil && len(files) == 0 {
		err = errors.New("it has ended without handing over")
	}
	if err != nil {
		return &Legacy{}, fmt.Errorf("take over: %w", err)
	}
	defer files[0].Close()
	w, err := open(files[0], files[1:])
	if err != nil {
		return &Legacy{}, fmt.Errorf("take over: %w", err)
	}
	return &Legacy{will: w}, nil
}

// ErrNobody says that there is no evpnd to take over from.
var ErrNobody = errors.New("take over: no evpnd is running")

func ask(c *net.UnixConn) error {
	if _, err := c.Write([]byte(askForWill)); err != nil {
		return err
	}
	b := make([]byte, maxWillPacket)
	n, err := c.Read(b)
	switch {
	case err != nil:
		return err
	case string(b[:n]) != willGranted:
		return fmt.Errorf("%w: %s", errRefused, b[:n])
	}
	return nil
}

var errRefused = errors.New("the evpnd that runs does not hand over")

// receiveFiles takes files until the packet that says how many they were.
func receiveFiles(c *net.UnixConn) (files []*os.File, err error) {
	defer func() {
		if err != nil {
			closeAll(files)
		}
	}()
	b, oob := make([]byte, maxWillPacket), make([]byte, unix.CmsgSpace(4*filesPerSend))
	for {
		n, oobn, flags, _, err := c.ReadMsgUnix(b, oob)
		if err != nil {
			return files, err
		}
		got, err := rights(oob[:oobn])
		files = append(files, got...)
		switch {
		case err != nil:
			return files, err
		case flags&unix.MSG_CTRUNC != 0:
			return files, errors.New("connections are missing")
		case string(b[:n]) == fmt.Sprintf("%d files", len(files)):
			return files, nil
		case string(b[:n]) != "files":
			return files, fmt.Errorf("it says %q after %d files", b[:n], len(files))
		}
	}
}

// rights takes the descriptors out of a control message.
func rights(oob []byte) ([]*os.File, error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	var files []*os.File
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			continue // of another kind
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "handed over"))
		}
	}
	return files, nil
}

// sendFiles is the other end of receiveFiles.
func sendFiles(c *net.UnixConn, files []*os.File) error {
	for from := 0; from < len(files); from += filesPerSend {
		var fds []int
		for _, f := range files[from:min(from+filesPerSend, len(files))] {
			fds = append(fds, int(f.Fd()))
		}
		if _, _, err := c.WriteMsgUnix([]byte("files"), unix.UnixRights(fds...), nil); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(c, "%d files", len(files))
	return err
}

// checkCredentials wants the other end to be of our user, or root.
func checkCredentials(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var cerr error
	if err := raw.Control(func(fd uintptr) { cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return err
	}
	if cerr != nil {
		return cerr
	}
	if cred.Uid != 0 && int(cred.Uid) != os.Geteuid() {
		return fmt.Errorf("user %d is on the other end", cred.Uid)
	}
	return nil
}

// Adopt has BGP go on with the sessions, and puts what there is to know of the evpnd before into the options of the next. A
// session that cannot go on starts anew.
func (l *Legacy) Adopt(bgp *speaker.Speaker, o *Options) {
	w := l.will
	if w == nil {
		return
	}
	if w.VTEP != o.Config.VTEP { // nothing that was said of it holds
		o.Log.WithField("vtep", w.VTEP).Warn("sessions are not taken over, the vtep was another")
		for _, s := range w.Sessions {
			_ = s.File.Close()
		}
		return
	}
	o.Hosts = w.Hosts
	adopted := 0
	for _, s := range w.Sessions {
		facts, err := bgp.Adopt(s)
		if err != nil {
			o.Log.WithError(err).Warn("session starts anew")
			continue
		}
		o.Facts = append(o.Facts, facts...)
		adopted++
	}
	o.Log.WithFields(logrus.Fields{"sessions": adopted, "after": time.Since(w.Written).String()}).Info("taken over")
}

// awaitSuccessor waits for a successor. It returns when one has asked and may have what there is, or when ctx ends.
func (d *Daemon) awaitSuccessor(ctx context.Context, l *net.UnixListener) *net.UnixConn {
	stop := context.AfterFunc(ctx, func() { _ = l.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			if ctx.Err() == nil {
				d.log.WithError(err).Warn("no successor can take over")
			}
			return nil
		}
		_ = c.SetDeadline(time.Now().Add(askTime))
		if err := answer(c); err != nil {
			d.log.WithError(err).Warn("take-over refused")
			_ = c.Close()
			continue
		}
		return c
	}
}

// answer grants or refuses.
func answer(c *net.UnixConn) error {
	b := make([]byte, maxWillPacket)
	n, err := c.Read(b) // unread it would take our answer with it
	if err == nil {
		err = checkCredentials(c)
	}
	if err == nil && string(b[:n]) != askForWill {
		err = fmt.Errorf("it asks %q", b[:n])
	}
	if err != nil {
		_, _ = c.Write([]byte(willRefused + err.Error())) // who asks wrongly may not listen
		return err
	}
	_, err = c.Write([]byte(willGranted))
	return err
}

// serveSuccessor waits for a successor until waiting ends, and ends the daemon when all is ready for it.
func (d *Daemon) serveSuccessor(ctx, waiting context.Context, l *net.UnixListener, end func()) {
	c := d.awaitSuccessor(waiting, l)
	if c == nil {
		return
	}
	if !d.leaving.CompareAndSwap(false, true) {
		_ = c.Close() // too late: it is stopping, and leaves the sessions to the next start
		return
	}
	d.log.Info("a successor takes over")
	w, err := d.handOver(ctx)
	if err != nil {
		d.log.WithError(err).Error("nothing is handed over, sessions start anew")
	}
	d.heir, d.will = c, w
	end()
}

// bequeath hands over what is ready for a successor, when all else has ended.
func (d *Daemon) bequeath() error {
	defer d.heir.Close()
	if d.will == nil {
		return nil
	}
	var files []*os.File
	for _, s := range d.will.Sessions {
		files = append(files, s.File)
	}
	defer closeAll(files)
	f, err := d.will.seal()
	if err != nil {
		return err
	}
	defer f.Close()
	_ = d.heir.SetDeadline(time.Now().Add(askTime))
	if err := sendFiles(d.heir, append([]*os.File{f}, files...)); err != nil {
		return fmt.Errorf("hand over to the successor: %w", err)
	}
	return nil
}

// listenSuccessor opens the socket for a successor, which only our user and root can use.
func listenSuccessor(path string) (*net.UnixListener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make directory of socket: %w", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) { // the API's socket says that no other runs
		return nil, fmt.Errorf("remove old socket: %w", err)
	}
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("set mode of socket: %w", err), l.Close())
	}
	return l, nil
}
