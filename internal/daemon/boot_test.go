package daemon

import (
	"os"
	"path/filepath"
	"testing"
)

func TestRebooted(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	path := filepath.Join(dir, bootFile)
	want := func(what string, want bool) {
		t.Helper()
		if got, err := rebooted(dir); err != nil || got != want {
			t.Errorf("%s: rebooted %t, %v; want %t", what, got, err, want)
		}
	}
	want("first start", false)
	want("second start", false)
	if err := os.WriteFile(path, []byte("another boot\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	want("after a reboot", true)
	want("and once more", false)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if got, err := rebooted(dir); err == nil || got {
		t.Errorf("unreadable: rebooted %t, %v", got, err)
	}
}
