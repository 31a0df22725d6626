package daemon

import (
	"context"
	"sync"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
)

// serviceManager tells systemd how the daemon is, in the words of sd_notify(3).
type serviceManager struct {
	send func(state string) // nil: nobody listens

	mu     sync.Mutex
	ready  bool
	over   bool
	status string
}

// tell sends state unless the daemon is stopping. m.mu is held.
func (m *serviceManager) tell(state string) {
	if m.send != nil && !m.over {
		m.send(state)
	}
}

// heartbeat is how the owner says that it turns. The owner is never kept waiting for whoever listens.
type heartbeat struct {
	every time.Duration // 0: nobody wants to know
	beats chan struct{} // holds a beat that has not been passed on yet
}

// newHeartbeat makes one for a service manager that gives up on a service after limit without a word; 0: never.
func newHeartbeat(limit time.Duration) heartbeat {
	return heartbeat{every: limit / 3, beats: make(chan struct{}, 1)}
}

// ticks is when the owner should call beat, and a function that ends it.
func (h heartbeat) ticks() (<-chan time.Time, func()) {
	if h.every <= 0 {
		return nil, func() {}
	}
	t := time.NewTicker(h.every)
	return t.C, t.Stop
}

func (h heartbeat) beat() {
	select {
	case h.beats <- struct{}{}:
	default: // the last one has not been passed on
	}
}

// feedWatchdog is the goroutine that passes the owner's beats on to the service manager: an owner that hangs, and that
// alone, stops the feed.
func (d *Daemon) feedWatchdog(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.heart.beats:
			d.manager.alive()
		}
	}
}

// alive feeds the watchdog.
func (m *serviceManager) alive() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tell(sd.SdNotifyWatchdog)
}

// started says that the start is complete.
func (m *serviceManager) started() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ready = true
	m.tell(sd.SdNotifyReady)
}

// reloading says that a reload begins, and returns what says that it is over. During the start neither is said: READY=1
// would be taken for the end of the start. Without its time systemd would wait for another RELOADING=1.
func (m *serviceManager) reloading() (over func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.ready {
		return func() {}
	}
	m.tell(sd.SdNotifyReloading + "\n" + sd.SdNotifyMonotonicUsec())
	return m.started
}

// stopping says that the end begins. Nothing is said after it.
func (m *serviceManager) stopping() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tell(sd.SdNotifyStopping + "\nSTATUS=stopping")
	m.over = true
}

// describe sets the line that systemctl status shows.
func (m *serviceManager) describe(status string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if status != m.status {
		m.status = status
		m.tell("STATUS=" + status)
	}
}
