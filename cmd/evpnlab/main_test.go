package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"

	"github.com/evpnd/evpnd/labs"
)

func TestMain(m *testing.M) {
	labs.NodeInit()
	os.Exit(m.Run())
}

// evpnlab runs the command line and returns what it printed, its error text and its exit code.
func evpnlab(t *testing.T, args ...string) (stdout, problem string, code int) {
	t.Helper()
	var out bytes.Buffer
	log := logrus.New()
	log.Out = &out
	cmd := newCommand(log)
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(t.Context())
	if err != nil {
		problem = err.Error()
	}
	return out.String(), problem, exitCode(err)
}

// TestCommands walks one lab through all commands but demo, which the scenario of 01-two-hosts covers by its parts.
func TestCommands(t *testing.T) {
	t.Setenv("EVPNLAB_STATE", t.TempDir())
	dir := t.TempDir()
	name := fmt.Sprintf("cli%d", os.Getpid())
	for file, text := range map[string]string{
		"l.clab.yml":   "name: " + name + "\ntopology: {nodes: {a: {kind: linux, image: x}, s: {kind: nokia_srlinux}}}\n",
		"expect.txtar": "node a echo hello\nstdout hello\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []struct {
		args []string
		code int
		want string // in what is printed or in the error
	}{
		{[]string{"nonsense"}, 1, "unknown command"},
		{[]string{"up"}, 2, "accepts 1 arg"},
		{[]string{"up", "--nonsense", dir}, 2, "unknown flag"},
		{[]string{"exec", "a", "--", "true"}, 3, "not running"},
		{[]string{"down", dir}, 0, ""},
		{[]string{"status", "-o", "json"}, 0, `{"items":[]}`},
		{[]string{"up", filepath.Join(dir, "nosuch")}, 1, "no such file"},
		{[]string{"up", dir}, 0, "kind nokia_srlinux runs under containerlab only"},
		{[]string{"up", dir}, 1, "already running"},
		{[]string{"exec", "a", "--", "sh", "-c", "echo $0 in; exit 7", "it"}, 7, "it in"},
		{[]string{"exec", "b", "--", "true"}, 1, `no node "b"`},
		{[]string{"exec", "a"}, 2, "want NODE -- COMMAND"},
		{[]string{"status"}, 0, "running"},
		{[]string{"status", "-o", "xml"}, 2, "want table or json"},
		{[]string{"status", "-o", "json", name}, 0, `"node":"a","image":"x","state":"running"`},
		{[]string{"down", dir}, 0, "is down"},
		{[]string{"down", name}, 0, ""},
		{[]string{"test", dir}, 0, "PASS"},
		{[]string{"status", name}, 3, "not running"},
	} {
		out, problem, code := evpnlab(t, step.args...)
		if code != step.code || !strings.Contains(out+problem, step.want) {
			t.Errorf("evpnlab %v: exit code %d, want %d with %q; printed %s, error %q", step.args, code, step.code, step.want, out, problem)
		}
	}
}
