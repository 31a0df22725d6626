// Command evpnlab runs the labs of this project, or any topology of linux nodes in the containerlab format, in plain
// network namespaces.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/evpnd/evpnd/labs"
)

func main() {
	labs.NodeInit()
	os.Exit(run())
}

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	log := logrus.New()
	log.SetFormatter(&logrus.TextFormatter{DisableTimestamp: true})
	err := newCommand(log).ExecuteContext(ctx)
	if err != nil && !errors.Is(err, errExec) {
		fmt.Fprintln(os.Stderr, "evpnlab:", err)
	}
	return exitCode(err)
}

// exitCode is 0 for success, 2 for wrong usage, 3 for a lab that does not run, 1 for anything else; exec passes on the code
// of its command, which has said itself what was wrong.
func exitCode(err error) int {
	var exit *exec.ExitError
	var usage usageError
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errExec) && errors.As(err, &exit):
		return exit.ExitCode()
	case errors.As(err, &usage):
		return 2
	case errors.Is(err, labs.ErrNotRunning):
		return 3
	default:
		return 1
	}
}
