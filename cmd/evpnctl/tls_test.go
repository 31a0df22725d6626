package main

import (
	"context"
	"crypto/tls"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/credentials"

	"github.com/evpnd/evpnd/internal/certtest"
)

// TestTCPTarget: a daemon on TCP is asked with a certificate, by flags, the environment or the user's file, beside others.
func TestTCPTarget(t *testing.T) {
	dir, ca, foreign := t.TempDir(), certtest.New(t, "ca"), certtest.New(t, "foreign")
	ca.Write(dir, "me", ca.Client("me", "", ""))
	if err := os.Mkdir(filepath.Join(dir, "foreign"), 0o700); err != nil {
		t.Fatal(err)
	}
	foreign.Write(filepath.Join(dir, "foreign"), "me", foreign.Client("me", "", ""))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	stop := serveFakeOn(l, credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{ca.Server()}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: ca.Pool(), MinVersion: tls.VersionTLS13,
	}))
	defer stop()
	socket := filepath.Join(dir, "evpnd.sock")
	stopSocket, err := serveFake(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer stopSocket()
	at := "tcp:" + l.Addr().String()
	me := []string{"--cert", dir + "/me.crt", "--key", dir + "/me.key", "--ca", dir + "/ca.crt"}
	file := filepath.Join(dir, "evpnctl.yaml")
	text := "cert: me.crt\nkey: me.key\nca: ca.crt\ntargets:\n  h2: " + at + "\n  h1: unix://" + socket + "\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "wrong.yaml"), []byte("certificate: me.crt\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	fromFile := map[string]string{"EVPNCTL_CONFIG": file}
	show := []string{"show", "mac", "--local", "--no-headers"}
	for _, row := range []struct {
		name string
		env  map[string]string
		args []string
		exit int
		want string // of both outputs
	}{
		{"flags", nil, append([]string{"--target", at}, me...), exitOK, "02:00:00:00:00:01"},
		{"environment", map[string]string{"EVPND_TARGET": at, "EVPND_CERT": dir + "/me.crt", "EVPND_KEY": dir + "/me.key", "EVPND_CA": dir + "/ca.crt"}, nil, exitOK, "02:00:00:00:00:01"},
		{"file", fromFile, nil, exitOK, "h2  100  02:00:00:00:00:01  local  tap1  0  no  announced\nh1  100"},
		{"a name of the file", fromFile, []string{"--target", "h1"}, exitOK, "100  02:00:00:00:00:01"},
		{"both ways", nil, append([]string{"--target", "x=" + at + ",y=" + socket}, me...), exitOK, "x  100  02:00:00:00:00:01  local  tap1  0  no  announced\ny "},
		{"no certificate", nil, []string{"--target", at, "--ca", dir + "/ca.crt"}, exitUsage, "want a certificate and its key: --cert and --key"},
		{"unreadable", nil, []string{"--target", at, "--cert", dir + "/none", "--key", dir + "/me.key"}, exitUsage, "certificate of evpnctl: open " + dir + "/none: no such file"},
		{"no CA in it", nil, []string{"--target", at, "--cert", dir + "/me.crt", "--key", dir + "/me.key", "--ca", dir + "/me.key"}, exitUsage, "me.key has no certificate"},
		{"not trusted", nil, []string{"--target", at, "--cert", dir + "/me.crt", "--key", dir + "/me.key", "--ca", dir + "/foreign/ca.crt"}, exitPermission, "no connection to evpnd: no trust: "},
		{"refused", nil, []string{"--target", at, "--cert", dir + "/foreign/me.crt", "--key", dir + "/foreign/me.key", "--ca", dir + "/ca.crt"}, exitPermission, "it refuses our certificate: "},
		{"no port", nil, []string{"--target", "tcp:h1"}, exitUsage, "want tcp:host:port"},
		{"nobody", nil, append([]string{"--target", "tcp:127.0.0.1:1"}, me...), exitUnreachable, "connection refused"},
		{"an unknown name", fromFile, []string{"--target", "h3"}, exitUsage, `target "h3": want unix:`},
		{"a wrong file", map[string]string{"EVPNCTL_CONFIG": dir + "/wrong.yaml"}, nil, exitUsage, `unknown field "certificate"`},
		{"no file", map[string]string{"EVPNCTL_CONFIG": dir + "/none.yaml"}, nil, exitUsage, "no such file"},
	} {
		t.Run(row.name, func(t *testing.T) {
			for _, name := range []string{"EVPND_TARGET", "EVPND_CERT", "EVPND_KEY", "EVPND_CA", "EVPNCTL_CONFIG"} {
				t.Setenv(name, row.env[name])
			}
			t.Setenv("XDG_CONFIG_HOME", dir+"/nothing")
			var out, errs strings.Builder
			exit := run(context.Background(), append(show, row.args...), &out, &errs)
			if got := out.String() + errs.String(); exit != row.exit || !strings.Contains(got, row.want) {
				t.Errorf("exit %d, want %d, and %q in\n%s", exit, row.exit, row.want, got)
			}
		})
	}
}
