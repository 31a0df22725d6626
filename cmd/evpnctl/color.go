package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/charmbracelet/x/term"
)

// colorMode is the value of --color.
type colorMode string

var colorModes = []string{"auto", "always", "never"}

func (m *colorMode) String() string { return string(*m) }
func (m *colorMode) Type() string   { return "when" }

func (m *colorMode) Set(s string) error {
	if !slices.Contains(colorModes, s) {
		return fmt.Errorf("want one of %s", strings.Join(colorModes, ", "))
	}
	*m = colorMode(s)
	return nil
}

// on says whether what goes to out is coloured: by default on a terminal that can, unless NO_COLOR (no-color.org) is set.
func (m colorMode) on(out io.Writer, getenv func(string) string) bool {
	switch m {
	case "always":
		return true
	case "never":
		return false
	}
	f, isFile := out.(*os.File)
	return isFile && getenv("NO_COLOR") == "" && getenv("TERM") != "dumb" && term.IsTerminal(f.Fd())
}

// Colours say what the words say as well.
const (
	green  = "\x1b[32m"
	yellow = "\x1b[33m"
	red    = "\x1b[31m"
	plain  = "\x1b[0m"
)

// wordColors are the words for states of all tables. What has none is neither good nor bad.
var wordColors = map[string]string{
	"up": green, "established": green, "installed": green, "announced": green, "chosen": green, "reachable": green, "advertised": green, "✓": green, "+": green,
	"pending": yellow, "adopted": yellow, "warning": yellow, "held": yellow, "…": yellow, "~": yellow, "connect": yellow, "active": yellow,
	"opensent": yellow, "openconfirm": yellow, "unannounced": yellow,
	"fault": red, "unreachable": red, "missing": red, "down": red, "blocked": red, "failed": red, "refused": red, "duplicate": red, "error": red, "idle": red,
	"✗": red, "!": red,
}

// paint colours a word for a state.
func (c *cli) paint(word string) string {
	color := wordColors[word]
	if !c.colored || color == "" {
		return word
	}
	return color + word + plain
}
