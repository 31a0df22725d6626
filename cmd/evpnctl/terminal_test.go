package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/charmbracelet/x/ansi"
	"golang.org/x/sys/unix"
)

// terminal is a pseudo-terminal: what a program writes to tty is read from screen, and keys go the other way.
type terminal struct {
	screen *os.File
	tty    *os.File
}

func newTerminal(t *testing.T, columns, rows uint16) terminal {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatalf("open a pseudo-terminal: %v", err)
	}
	screen := os.NewFile(uintptr(fd), "/dev/ptmx")
	t.Cleanup(func() { screen.Close() })
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatalf("unlock the pseudo-terminal: %v", err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatalf("name the pseudo-terminal: %v", err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatalf("open the terminal: %v", err)
	}
	t.Cleanup(func() { tty.Close() })
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Col: columns, Row: rows}); err != nil {
		t.Fatalf("size the terminal: %v", err)
	}
	return terminal{screen, tty}
}

type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }

// await reads until the program has written text.
func (tm terminal) await(t *testing.T, text string) {
	t.Helper()
	if err := tm.screen.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	var seen []byte
	buf := make([]byte, 4096)
	for !strings.Contains(ansi.Strip(string(seen)), text) {
		n, err := tm.screen.Read(buf)
		if err != nil {
			t.Fatalf("wait for %q on the terminal: %v; it shows\n%q", text, err, seen)
		}
		seen = append(seen, buf[:n]...)
	}
}

func (tm terminal) send(t *testing.T, keys string) {
	t.Helper()
	if _, err := tm.screen.WriteString(keys); err != nil {
		t.Fatalf("type %q: %v", keys, err)
	}
}
