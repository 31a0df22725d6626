package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/evpnd/evpnd/config"
)

// listening is what a reload has opened for serve: it takes the place of what is there.
type listening struct {
	*serving
	taken chan struct{} // closed when it has
}

// serving is what a configuration has the daemon answer on, with all that could go wrong behind it.
type serving struct {
	sockets  *Sockets
	api, tcp *apiServer // tcp nil: none
}

// prepareServing opens what the configuration needs besides what old has; with an error nothing is different.
func prepareServing(old *Sockets, cfg config.API) (*serving, error) {
	var a socketAccess
	if cfg.AdminGroup != "" {
		gid, err := groupID(cfg.AdminGroup)
		if err != nil {
			return nil, fmt.Errorf("api: admin-group: %w", err)
		}
		a.adminGroup = &gid
	}
	var creds credentials.TransportCredentials
	var err error
	if cfg.TCP.Address != "" {
		if creds, err = tlsCredentials(cfg.TCP); err != nil {
			return nil, fmt.Errorf("api: %w", err)
		}
	}
	s := &serving{}
	if s.sockets, err = old.next(cfg); err != nil {
		return nil, err
	}
	s.api = &apiServer{listener: s.sockets.api, creds: peerCredentials{}, access: a}
	if creds != nil {
		s.tcp = &apiServer{listener: s.sockets.tcp, creds: creds, access: tcpAccess{cfg.TCP.Readers, cfg.TCP.Admins}}
	}
	return s, nil
}

// service is one server that runs.
type service struct {
	part string
	stop context.CancelFunc
	deaf chan struct{} // closed when it accepts no more connections
}

// servers are those that run. One goroutine, serve, has them.
type servers struct {
	all    sync.WaitGroup
	failed chan error // what ended one that was not stopped

	api, tcp, metrics, successor *service
}

// start runs a server, for which it returns what ends it.
func (s *servers) start(ctx context.Context, part string, run func(ctx context.Context, deaf func()) error) *service {
	ctx, stop := context.WithCancel(ctx)
	v := &service{part: part, stop: stop, deaf: make(chan struct{})}
	deaf := sync.OnceFunc(func() { close(v.deaf) })
	s.all.Go(func() { // ends with ctx
		defer stop()
		defer deaf()
		if err := ended(ctx, part, run(ctx, deaf)); err != nil {
			select {
			case s.failed <- err:
			default: // one is enough
			}
		}
	})
	return v
}

// end stops a server. It goes on answering what it was asked, for a while.
func (v *service) end() {
	if v != nil {
		v.stop()
		<-v.deaf
	}
}

// serve answers on the sockets until ctx ends, and closes them. leave ends the daemon in favour of a successor.
func (d *Daemon) serve(ctx context.Context, sockets *Sockets, leave func()) error {
	now, err := prepareServing(sockets, sockets.cfg)
	if err != nil {
		return err
	}
	s := &servers{failed: make(chan error, 1)}
	d.replaceServers(ctx, s, &serving{sockets: &Sockets{}}, now, leave)
	err = nil
	for err == nil {
		select {
		case l := <-d.listening:
			d.replaceServers(ctx, s, now, l.serving, leave)
			now = l.serving
			d.sockets.Store(now.sockets)
			close(l.taken)
		case err = <-s.failed:
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	for _, v := range []*service{s.api, s.tcp, s.metrics, s.successor} {
		v.end()
	}
	closed := now.sockets.Close() // before calls have ended: nobody new may come
	s.all.Wait()
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	return errors.Join(err, closed)
}

// replaceServers starts the servers of next, and ends those of old that are not the same.
func (d *Daemon) replaceServers(ctx context.Context, s *servers, old, next *serving, leave func()) {
	serveAPI := func(a *apiServer) func(context.Context, func()) error {
		return func(ctx context.Context, deaf func()) error { return d.serveAPI(ctx, *a, deaf) }
	}
	if !sameAPI(old.sockets, next.sockets) {
		s.api.end()
		s.api = s.start(ctx, "api", serveAPI(next.api))
	}
	if !sameTCP(old.sockets, next.sockets) {
		s.tcp.end()
		s.tcp = nil
		if next.tcp != nil {
			s.tcp = s.start(ctx, "api over tcp", serveAPI(next.tcp))
		}
	}
	if l := next.sockets.successor; old.sockets.successor != l {
		s.successor.end()
		s.successor = s.start(ctx, "take-over", func(waiting context.Context, _ func()) error {
			d.serveSuccessor(ctx, waiting, l, leave) // who has asked is not left by a reload
			<-waiting.Done()
			return nil
		})
	}
	if l := next.sockets.metrics; old.sockets.metrics != l {
		s.metrics.end()
		s.metrics = nil
		if l != nil {
			s.metrics = s.start(ctx, "metrics", func(ctx context.Context, deaf func()) error { return d.serveMetrics(ctx, l, deaf) })
		}
	}
	if err := old.sockets.release(next.sockets); err != nil {
		d.log.WithError(err).Warn("sockets not closed cleanly")
	}
}

func sameAPI(a, b *Sockets) bool { return a.api == b.api && a.cfg.AdminGroup == b.cfg.AdminGroup }

// loan is a listener that one server has for a while. Closing it ends Accept and leaves the listener open.
type loan struct {
	net.Listener
	over atomic.Bool
}

// deadliner is what both kinds of listeners can besides.
type deadliner interface{ SetDeadline(time.Time) error }

// borrow lends a listener that nobody has.
func borrow(l net.Listener) *loan {
	if d, ok := l.(deadliner); ok {
		_ = d.SetDeadline(time.Time{})
	}
	return &loan{Listener: l}
}

func (l *loan) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil && l.over.Load() {
		return nil, net.ErrClosed
	}
	return c, err
}

// Close is described at loan; once is enough.
func (l *loan) Close() error {
	if l.over.Swap(true) {
		return nil
	}
	if d, ok := l.Listener.(deadliner); ok {
		return d.SetDeadline(time.Unix(1, 0))
	}
	return nil
}

// sameTCP compares all of it: a connection is judged by the certificates and names that were in force when it began.
func sameTCP(a, b *Sockets) bool {
	return a.tcp == b.tcp && slices.Equal(a.cfg.TCP.Readers, b.cfg.TCP.Readers) && slices.Equal(a.cfg.TCP.Admins, b.cfg.TCP.Admins) &&
		a.cfg.TCP.Certificate == b.cfg.TCP.Certificate && a.cfg.TCP.Key == b.cfg.TCP.Key && a.cfg.TCP.ClientCA == b.cfg.TCP.ClientCA
}
