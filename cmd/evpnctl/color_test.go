package main

import (
	"bytes"
	"os"
	"testing"
)

func TestColorMode(t *testing.T) {
	file, err := os.Create(t.TempDir() + "/out")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	terminal := newTerminal(t, 80, 24)
	none := func(string) string { return "" }
	with := func(key, value string) func(string) string {
		return func(k string) string {
			if k == key {
				return value
			}
			return ""
		}
	}
	for _, row := range []struct {
		name string
		got  bool
		want bool
	}{
		{"terminal", colorMode("auto").on(terminal.tty, none), true},
		{"terminal with NO_COLOR", colorMode("auto").on(terminal.tty, with("NO_COLOR", "1")), false},
		{"dumb terminal", colorMode("auto").on(terminal.tty, with("TERM", "dumb")), false},
		{"never", colorMode("never").on(terminal.tty, none), false},
		{"file", colorMode("auto").on(file, none), false},
		{"no file at all", colorMode("auto").on(new(bytes.Buffer), none), false},
		{"always", colorMode("always").on(file, with("NO_COLOR", "1")), true},
	} {
		if row.got != row.want {
			t.Errorf("%s: %t, want %t", row.name, row.got, row.want)
		}
	}
}
