// Command evpnd turns a Linux host into an EVPN VTEP.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	sd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"github.com/evpnd/evpnd/config"
	"github.com/evpnd/evpnd/dataplane"
	"github.com/evpnd/evpnd/internal/daemon"
	"github.com/evpnd/evpnd/internal/manual"
	"github.com/evpnd/evpnd/speaker"
)

// version is set by the linker.
var version = "unknown"

const defaultConfig = "/etc/evpnd/evpnd.yaml"

// Exit codes.
const (
	exitFailed  = 1
	exitDiffers = 1 // evpnd diff: there are differences
	exitConfig  = 2 // the configuration, or the command line, is wrong; nothing was started
)

func main() {
	err := command().Execute()
	var faults config.Faults
	var use usageError
	exit := exitError{code: exitFailed, err: err}
	switch {
	case err == nil:
	case errors.As(err, &faults): // each names its file
		fmt.Fprintln(os.Stderr, faults)
		os.Exit(exitConfig)
	case errors.As(err, &use):
		fmt.Fprintf(os.Stderr, "evpnd: %v\nevpnd --help tells what there is\n", err)
		os.Exit(exitConfig)
	default:
		if errors.As(err, &exit); exit.err != nil {
			fmt.Fprintln(os.Stderr, "evpnd:", exit.err)
		}
		os.Exit(exit.code)
	}
}

// usageError is a wrong command line.
type usageError struct{ error }

// exitError ends the program with a code of its own, without a word when err is nil.
type exitError struct {
	code int
	err  error
}

func (e exitError) Error() string { return fmt.Sprintf("exit status %d: %v", e.code, e.err) }

func (e exitError) Unwrap() error { return e.err }

func command() *cobra.Command {
	var path string
	var pprof, takeOver bool
	root := &cobra.Command{
		Use:           "evpnd",
		Short:         "BGP EVPN VTEP for Linux bridges",
		Long:          "evpnd announces what lives on the local bridges as EVPN routes, and turns remote routes into kernel entries.",
		Example:       "  evpnd -c /etc/evpnd/evpnd.yaml",
		Version:       version,
		Args:          noArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), path, pprof, takeOver) },
	}
	root.PersistentFlags().StringVarP(&path, "config", "c", defaultConfig, "configuration `file`")
	root.Flags().BoolVar(&pprof, "pprof", false, "serve /debug/pprof/ on the metrics listener")
	root.Flags().BoolVar(&takeOver, "take-over", false, "go on with the sessions of the evpnd that runs with this configuration, and end it")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(&cobra.Command{
		Use:     "check",
		Short:   "Check a configuration file and print every fault with its place",
		Example: "  evpnd check -c /etc/evpnd/evpnd.yaml",
		Args:    noArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return check(cmd.OutOrStdout(), path) },
	}, &cobra.Command{
		Use:     "schema",
		Short:   "Print the JSON Schema of configuration files, for editors",
		Example: "  evpnd schema > evpnd.schema.json",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := cmd.OutOrStdout().Write(config.Schema())
			return err
		},
	}, diffCommand(&path), manual.Command("8", configPage()))
	return root
}

func noArgs(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("unexpected argument %q", args[0])}
	}
	return nil
}

func check(out io.Writer, path string) error {
	cfg, err := config.Load(path)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%s: ok, AS %d, %d peers, %d VNIs configured\n", path, cfg.ASN, len(cfg.Peers), len(cfg.VNIs))
	return err
}

// run starts the daemon and returns when a signal has stopped it. A second signal ends the process at once.
func run(ctx context.Context, path string, pprof, takeOver bool) error {
	hangups := make(chan os.Signal, 1) // from the first moment: a hangup that nobody takes kills
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	cfg, err := config.Load(path)
	if err != nil {
		return err
	}
	log := newLogger(cfg.Log)
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	notify := notifier(log)
	if err := daemon.ResolveVTEP(ctx, cfg, log, notify); err != nil {
		if ctx.Err() != nil {
			return nil // stopped while it waited
		}
		return err
	}
	store := daemon.OpenFDStore()
	legacy, err := inherit(ctx, cfg, store, takeOver, log)
	if err != nil {
		return err
	}
	sockets, err := daemon.Listen(cfg.API)
	if err != nil {
		return err
	}
	defer closing(log, "sockets", sockets)
	if pprof && cfg.API.Metrics == "" {
		log.Warn("no profiles without api.metrics in the configuration")
	}
	kernel, err := dataplane.New(dataplane.OptionsFrom(cfg), log.WithField("part", "dataplane"))
	if err != nil {
		return err
	}
	defer closing(log, "dataplane", kernel)
	events := daemon.NewEvents()
	bgp, err := speaker.New(cfg, events, log.WithField("part", "speaker"))
	if err != nil {
		return err
	}
	opts := daemon.Options{
		Config: cfg, ConfigPath: path, Version: version, Kernel: kernel, BGP: bgp, Events: events, Sockets: sockets,
		Log: log, Notify: notify, Watchdog: watchdog(log), Pprof: pprof, Store: store,
	}
	legacy.Adopt(bgp, &opts)
	d := daemon.New(opts)
	log.WithFields(logrus.Fields{"version": version, "asn": cfg.ASN, "vtep": cfg.VTEP}).Info("evpnd starting")
	err = serve(ctx, d, hangups)
	log.Info("evpnd stopped")
	return err
}

// inherit takes over from the evpnd before: at a restart by systemd by what that keeps, or from one that runs. What cannot be
// handed over is no reason not to start; that the other one goes on is.
func inherit(ctx context.Context, cfg *config.Config, store *daemon.FDStore, takeOver bool, log *logrus.Logger) (*daemon.Legacy, error) {
	if !takeOver {
		if store == nil {
			return &daemon.Legacy{}, nil
		}
		legacy, err := store.Take(activation.Files(true))
		if err != nil {
			log.WithError(err).Warn("nothing taken over, sessions start anew")
		}
		return legacy, nil
	}
	legacy, err := daemon.TakeOver(ctx, cfg)
	switch {
	case err == nil:
		return legacy, nil
	case errors.Is(err, daemon.ErrNobody):
		log.Info("no evpnd to take over from, starting")
		return &daemon.Legacy{}, nil
	case legacy == nil:
		return nil, err
	}
	log.WithError(err).Warn("nothing taken over, sessions start anew")
	return legacy, nil
}

// serve runs the daemon, and reloads its configuration at every hangup.
func serve(ctx context.Context, d *daemon.Daemon, hangups <-chan os.Signal) error {
	ctx, cancel := context.WithCancel(ctx)
	var reloader sync.WaitGroup
	reloader.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-hangups:
				_, _ = d.Reload() // a refusal is logged
			}
		}
	})
	err := d.Run(ctx)
	cancel()
	reloader.Wait()
	return err
}

func closing(log *logrus.Logger, what string, c io.Closer) {
	if err := c.Close(); err != nil {
		log.WithField("part", what).WithError(err).Warn("not closed cleanly")
	}
}

func newLogger(cfg config.Log) *logrus.Logger {
	log := logrus.New()
	daemon.SetLog(log, cfg)
	return log
}

// watchdog is how long systemd waits for a sign of life; 0: it does not watch.
func watchdog(log *logrus.Logger) time.Duration {
	limit, err := sd.SdWatchdogEnabled(false)
	if err != nil {
		log.WithError(err).Warn("systemd's watchdog is not fed")
	}
	return limit
}

// notifier tells systemd, if that started us.
func notifier(log *logrus.Logger) func(string) {
	return func(state string) {
		if _, err := sd.SdNotify(false, state); err != nil {
			log.WithError(err).Debug("systemd not notified")
		}
	}
}
