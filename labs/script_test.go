package labs

import (
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestScript: both commands of lab scripts, and that a script which is not met fails and says where.
func TestScript(t *testing.T) {
	ctx := testContext(t, 60*time.Second)
	lab := bringUp(t, ctx, write(t, map[string]string{
		"s.clab.yml": "name: s\ntopology: {nodes: {a: {kind: linux, image: x}}}\n",
	}))
	for _, tc := range []struct{ name, script, want string }{
		{"met", `
node a echo hello
stdout '^hello$'
! node a sh -c 'echo bad >&2; exit 1'
stderr bad
eventually 5s '^[3-9]$' a sh -c 'echo >>/tmp/n; wc -l </tmp/n'
! eventually 5s '^[3-5]$' a sh -c 'echo >>/tmp/n; wc -l </tmp/n'
node a cat /etc/hostname-of-nobody-or-true
`, "hostname-of-nobody"},
		{"output differs", "node a echo hello\nstdout '^bye$'\n", "no match for"},
		{"never", "eventually 100ms yes a echo no\n", `printed "no`},
		{"never ends", "eventually 100ms yes a sleep 100\n", "deadline exceeded"},
		{"succeeds", "! node a true\n", "succeeded"},
		{"usage", "node a\n", "usage: node"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := write(t, map[string]string{"expect.txtar": tc.script})
			var out strings.Builder
			err := RunScript(ctx, lab, filepath.Join(dir, "expect.txtar"), &out)
			if err == nil || !strings.Contains(out.String(), tc.want) {
				t.Errorf("error %v, want one and %q in:\n%s", err, tc.want, &out)
			}
		})
	}
	dir := write(t, map[string]string{"expect.txtar": "# fine\nnode a true\n"})
	var out strings.Builder
	if err := RunScript(ctx, lab, filepath.Join(dir, "expect.txtar"), &out); err != nil {
		t.Errorf("%v\n%s", err, &out)
	}
}
