package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Exit codes.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitUnreachable = 4
	exitPermission  = 5
)

// failure is an error whose class is known here. What is neither a failure nor a gRPC status comes from cobra or from
// reading the command line: wrong usage.
type failure struct {
	code codes.Code
	exit int
	err  error
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

func notFound(what string) error {
	return &failure{codes.NotFound, exitNotFound, fmt.Errorf("%s is not known", what)}
}

// classify gives the gRPC code, the exit code and the words of an error.
func classify(err error) (codes.Code, int, string) {
	var f *failure
	if errors.As(err, &f) {
		return f.code, f.exit, err.Error()
	}
	s, ok := status.FromError(err)
	if !ok {
		return codes.InvalidArgument, exitUsage, err.Error()
	}
	exit := exitFailed
	switch s.Code() {
	case codes.NotFound:
		exit = exitNotFound
	case codes.Unavailable, codes.DeadlineExceeded:
		exit = exitUnreachable
	case codes.PermissionDenied, codes.Unauthenticated:
		exit = exitPermission
	}
	return s.Code(), exit, s.Message()
}

// report prints err and returns the exit code; where the answer was to be JSON, so is the error.
func (c *cli) report(w io.Writer, err error) int {
	var done reported
	if errors.As(err, &done) {
		return int(done)
	}
	grpcCode, exit, message := classify(err)
	if c.format != formatJSON && c.format != formatJSONL {
		if name := c.label(); name != "" {
			message = name + ": " + message
		}
		fmt.Fprintf(w, "evpnctl: %s\n", message)
		if exit == exitUsage {
			fmt.Fprintln(w, "Help: evpnctl --help")
		}
		return exit
	}
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(struct {
		Target  string `json:"target,omitempty"`
		Code    string `json:"code"`
		Message string `json:"message"`
	}{c.label(), code.Code(grpcCode).String(), message}) // stderr is the last place to complain to
	return exit
}
