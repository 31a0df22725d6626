package daemon

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"google.golang.org/protobuf/types/known/timestamppb"

	evpnv1 "github.com/evpnd/evpnd/api/evpn/v1"
	"github.com/evpnd/evpnd/config"
	"github.com/evpnd/evpnd/dataplane"
	"github.com/evpnd/evpnd/evpn"
)

// Why a reload was refused, where it is not the file that is wrong.
var (
	errNeedsRestart = errors.New("these need a restart, nothing was changed")
	errNotApplied   = errors.New("configuration not applied") // the old one is in force again
)

// configState is the configuration in force.
type configState struct {
	reload sync.Mutex // one reload at a time; the rest is read meanwhile
	final  bool       // guarded by reload: the sessions are handed over, nothing is to change any more

	mu      sync.Mutex
	current *config.Config
	loaded  time.Time
	last    *evpnv1.Reload // nil before the first reload
}

func (s *configState) get() *config.Config {
	cfg, _, _ := s.state()
	return cfg
}

func (s *configState) state() (*config.Config, time.Time, *evpnv1.Reload) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current, s.loaded, s.last
}

// finish waits for a reload under way. Those that come later are refused.
func (s *configState) finish() {
	s.reload.Lock()
	defer s.reload.Unlock()
	s.final = true
}

// reloaded records the outcome of a reload; next is the configuration in force from now on when err is nil.
func (s *configState) reloaded(next *config.Config, err error) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = &evpnv1.Reload{Time: timestamppb.New(now), Successful: err == nil}
	if err != nil {
		s.last.Error = printable(err.Error())
		return
	}
	s.current, s.loaded = next, now
}

// Reload reads the configuration file again and applies it, all or nothing. It returns what became different once the new
// configuration is in force. Safe to call from any goroutine while Run runs.
func (d *Daemon) Reload() ([]config.Change, error) {
	d.config.reload.Lock()
	defer d.config.reload.Unlock()
	if d.config.final {
		d.log.Warn("reload refused, sessions are handed over")
		return nil, errStopped
	}
	defer d.manager.reloading()()
	old := d.config.get()
	next, changes, err := d.next(old)
	if err == nil {
		err = d.replace(old, next, changes)
	}
	d.config.reloaded(next, err)
	if err != nil {
		d.log.WithError(err).Error("reload refused, nothing changed")
		return nil, err
	}
	d.log.WithField("changes", len(changes)).Info("configuration reloaded")
	return changes, nil
}

// Preview says what Reload would do now.
func (d *Daemon) Preview() ([]config.Change, error) {
	_, changes, err := d.next(d.config.get())
	return changes, err
}

// next reads the configuration file and compares it with old.
func (d *Daemon) next(old *config.Config) (*config.Config, []config.Change, error) {
	next, err := config.Load(d.opts.ConfigPath)
	if err != nil {
		return nil, nil, err
	}
	if next.VTEPInterface != "" && next.VTEPInterface == old.VTEPInterface {
		if err := next.SetVTEP(old.VTEP); err != nil {
			return nil, nil, err
		}
	}
	return next, config.Diff(old, next), nil
}

// replace puts next in force in place of old.
func (d *Daemon) replace(old, next *config.Config, changes []config.Change) error {
	if fixed := config.Needing(config.Restart, changes); len(fixed) > 0 {
		var names []string
		for _, c := range fixed {
			names = append(names, c.Path())
		}
		return fmt.Errorf("%w: %s", errNeedsRestart, strings.Join(names, ", "))
	}
	opened, err := d.openFor(next)
	if err != nil {
		return fmt.Errorf("%w: %w", errNotApplied, err)
	}
	if err := d.bgp.Configure(next); err != nil {
		err = errors.Join(fmt.Errorf("%w: configure peers: %w", errNotApplied, err), d.bgp.Configure(old))
		if opened != nil {
			err = errors.Join(err, opened.sockets.release(d.sockets.Load()))
		}
		return err
	}
	d.kernel.Reconfigure(dataplane.OptionsFrom(next))
	configure := func(c *evpn.Core) {
		d.keepPeers(next)
		c.Handle(evpn.Configure{Config: next.Core()}, time.Now())
	}
	// A caller who gives up must not leave half of it done, so only the end of the daemon ends this.
	if err := d.onOwner(context.Background(), configure); err != nil {
		return err
	}
	SetLog(d.log, next.Log)
	return d.answerOn(opened)
}

// openFor opens what the API and the metrics of a configuration need besides what is open; nil: nothing is served.
func (d *Daemon) openFor(next *config.Config) (*serving, error) {
	now := d.sockets.Load()
	if now == nil {
		return nil, nil
	}
	return prepareServing(now, next.API)
}

// answerOn has the API and the metrics served as they were opened. What they were served on before is closed.
func (d *Daemon) answerOn(opened *serving) error {
	if opened == nil {
		return nil
	}
	l := listening{opened, make(chan struct{})}
	select {
	case d.listening <- l:
		<-l.taken
		return nil
	case <-d.stopped:
		return errors.Join(errStopped, opened.sockets.Close())
	}
}

// SetLog makes a logger log as a configuration says.
func SetLog(log *logrus.Logger, cfg config.Log) {
	if level, err := logrus.ParseLevel(cfg.Level); err == nil { // checked by config
		log.SetLevel(level)
	}
	if cfg.Format == "json" {
		log.SetFormatter(&logrus.JSONFormatter{})
	} else {
		log.SetFormatter(&logrus.TextFormatter{})
	}
}
