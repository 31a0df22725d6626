package main

import (
	"errors"
	"net"
	"os"
	"syscall"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestClassify(t *testing.T) {
	refused := func(errno syscall.Errno) error {
		return unreachable(&net.OpError{Op: "dial", Net: "unix", Err: os.NewSyscallError("connect", errno)})
	}
	for _, row := range []struct {
		name string
		err  error
		code codes.Code
		exit int
	}{
		{"socket of another group", refused(syscall.EACCES), codes.PermissionDenied, exitPermission},
		{"no socket", refused(syscall.ENOENT), codes.Unavailable, exitUnreachable},
		{"nobody listens", refused(syscall.ECONNREFUSED), codes.Unavailable, exitUnreachable},
		{"no answer in time", status.Error(codes.DeadlineExceeded, ""), codes.DeadlineExceeded, exitUnreachable},
		{"daemon says no", status.Error(codes.PermissionDenied, ""), codes.PermissionDenied, exitPermission},
		{"daemon does not have it", status.Error(codes.NotFound, ""), codes.NotFound, exitNotFound},
		{"faults in the configuration", status.Error(codes.InvalidArgument, ""), codes.InvalidArgument, exitFailed},
		{"older daemon", status.Error(codes.Unimplemented, ""), codes.Unimplemented, exitFailed},
		{"command line", errors.New("unknown flag"), codes.InvalidArgument, exitUsage},
	} {
		t.Run(row.name, func(t *testing.T) {
			code, exit, _ := classify(row.err)
			if code != row.code || exit != row.exit {
				t.Errorf("%v, exit %d; want %v, exit %d", code, exit, row.code, row.exit)
			}
		})
	}
}
