package daemon

import (
	"sync"

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
