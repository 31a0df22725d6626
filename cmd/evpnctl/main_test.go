package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"evpnctl": main})
}

// TestScripts runs the program against a gRPC server with fixed tables; UPDATE_SCRIPTS=1 rewrites what is expected.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:           filepath.Join("testdata", "script"),
		UpdateScripts: os.Getenv("UPDATE_SCRIPTS") != "",
		Setup: func(env *testscript.Env) error {
			socket := filepath.Join(env.WorkDir, "evpnd.sock")
			env.Setenv("EVPND_TARGET", "unix://"+socket)
			stop, err := serveFake(socket)
			if err == nil {
				env.Defer(stop)
			}
			return err
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "width": width},
	})
}

// exits runs a program and wants an exit code: exits 3 evpnctl show mac 999.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits code program args…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("%s exits %d, want %d", strings.Join(args[1:], " "), got, want)
	}
}

// width wants every line of a file within so many columns: width 100 stdout.
func width(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: width columns file")
	}
	most, err := strconv.Atoi(args[0])
	ts.Check(err)
	for line := range strings.Lines(ts.ReadFile(args[1])) {
		if n := len([]rune(strings.TrimSuffix(line, "\n"))); n > most {
			ts.Fatalf("%d columns: %s", n, line)
		}
	}
}

// TestEveryCommandHasAnExample also proves that each example is a command line that parses.
func TestEveryCommandHasAnExample(t *testing.T) {
	root := (&cli{format: formatTable}).rootCommand()
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
		if cmd.Hidden {
			return
		}
		if cmd.Example == "" {
			t.Errorf("%s has no example", cmd.CommandPath())
		}
		for line := range strings.Lines(cmd.Example) {
			words := exampleWords(line)
			found, rest, err := root.Find(words)
			if err != nil || found == root {
				t.Errorf("example of %s: %q finds no command: %v", cmd.CommandPath(), line, err)
				continue
			}
			if err := found.ParseFlags(rest); err != nil {
				t.Errorf("example of %s: %q: %v", cmd.CommandPath(), line, err)
			}
		}
	}
	walk(root)
}

// exampleWords are the arguments of an example line, without what the shell does.
func exampleWords(line string) []string {
	line, _, _ = strings.Cut(line, "#")
	line, _, _ = strings.Cut(line, "&&")
	return strings.Fields(line)[1:]
}

// TestClosedOutput: a reader that goes away is a failed operation, not wrong usage.
func TestClosedOutput(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	defer w.Close()
	var stderr strings.Builder
	if got := run(context.Background(), []string{"version"}, w, &stderr); got != exitFailed {
		t.Errorf("exit %d, want %d; stderr %q", got, exitFailed, stderr.String())
	}
}
