package labs

import (
	"context"
	"fmt"
	"io"
	"regexp"
	"runtime"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// RunScript runs a testscript against a lab that is up and writes what it did to w. Beside the commands of testscript
// there are
//
//	node NODE COMMAND [ARG...]
//	eventually LIMIT PATTERN NODE COMMAND [ARG...]
//
// node runs a command in a node; its output is what stdout and stderr match next. eventually repeats it until it succeeds
// and its output matches PATTERN, at most for LIMIT (a Go duration). With ! before it, node wants the command to fail,
// and eventually wants output that does not match.
func RunScript(ctx context.Context, lab *Lab, path string, w io.Writer) error {
	s := script{ctx: ctx, lab: lab}
	run := &scriptRun{w: w}
	// testscript ends a failed script as testing does, with runtime.Goexit, which wants a goroutine of its own.
	done := make(chan struct{})
	go func() {
		defer close(done)
		testscript.RunT(run, testscript.Params{
			Files: []string{path},
			Cmds: map[string]func(*testscript.TestScript, bool, []string){
				"node":       s.node,
				"eventually": s.eventually,
			},
		})
	}()
	<-done
	if run.failed {
		return fmt.Errorf("%s: the lab does not do what it expects", path)
	}
	return nil
}

// script holds the two commands for one lab.
type script struct {
	ctx context.Context
	lab *Lab
}

func (s script) node(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: node NODE COMMAND [ARG...]")
	}
	stdout, stderr, err := s.lab.Exec(s.ctx, args[0], args[1:]...)
	fmt.Fprint(ts.Stdout(), stdout)
	fmt.Fprint(ts.Stderr(), stderr)
	switch {
	case err != nil && !neg:
		ts.Fatalf("%v", err)
	case err == nil && neg:
		ts.Fatalf("%s: %q succeeded", args[0], args[1:])
	}
}

func (s script) eventually(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 4 {
		ts.Fatalf("usage: eventually LIMIT PATTERN NODE COMMAND [ARG...]")
	}
	limit, err := time.ParseDuration(args[0])
	ts.Check(err)
	pattern, err := regexp.Compile("(?m)" + args[1])
	ts.Check(err)
	ctx, cancel := context.WithTimeout(s.ctx, limit)
	defer cancel()
	var stdout string
	err = s.lab.Await(ctx, args[2], func(out string) bool {
		stdout = out
		return pattern.MatchString(out) != neg
	}, args[3:]...)
	fmt.Fprint(ts.Stdout(), stdout)
	ts.Check(err)
}

// scriptRun is testscript's view of a test outside of go test.
type scriptRun struct {
	w      io.Writer
	failed bool
}

func (r *scriptRun) Run(_ string, f func(testscript.T)) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(r)
	}()
	<-done
}

func (r *scriptRun) Log(args ...any)   { fmt.Fprintln(r.w, args...) }
func (r *scriptRun) Skip(args ...any)  { r.Log(args...); runtime.Goexit() }
func (r *scriptRun) Fatal(args ...any) { r.Log(args...); r.FailNow() }
func (r *scriptRun) FailNow()          { r.failed = true; runtime.Goexit() }
func (r *scriptRun) Parallel()         {}
func (r *scriptRun) Verbose() bool     { return false }
