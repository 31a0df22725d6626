package config

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// Fault is one thing that is wrong with a configuration file.
type Fault struct {
	File    string // as given to Load, or the path of the drop-in
	Line    int    // from 1; 0 when the file as a whole is meant
	Column  int    // from 1, in characters; 0 when the file as a whole is meant
	Message string // what is wrong, and what is allowed
	Excerpt string // the line with its predecessors and a caret below the column; "" when Line is 0
}

// String prints the fault without its excerpt: file:line:column: message.
func (f Fault) String() string {
	if f.Line == 0 {
		return fmt.Sprintf("%s: %s", f.File, f.Message)
	}
	return fmt.Sprintf("%s:%d:%d: %s", f.File, f.Line, f.Column, f.Message)
}

// Faults are all the faults of a configuration: the main file's before those of its drop-ins, each file's by line.
type Faults []Fault

// Error prints every fault with its excerpt, for a terminal. The text ends without a newline.
func (f Faults) Error() string {
	var b strings.Builder
	for i, fault := range f {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(fault.String())
		if fault.Excerpt != "" {
			b.WriteByte('\n')
			b.WriteString(strings.TrimSuffix(fault.Excerpt, "\n"))
		}
	}
	return b.String()
}

// source is one file: its place in the order of files, and its lines for excerpts.
type source struct {
	name  string
	order int
	lines []string
}

// place is where something stands. The zero place is nowhere: a key that no file has.
type place struct {
	src          *source
	line, column int // from 1; both 0: the file as a whole
}

func (p place) String() string { return fmt.Sprintf("%s:%d:%d", p.src.name, p.line, p.column) }

// collector gathers faults in any order.
type collector struct {
	found []foundFault
}

type foundFault struct {
	at      place
	message string
}

func (c *collector) report(at place, format string, args ...any) {
	c.found = append(c.found, foundFault{at, fmt.Sprintf(format, args...)})
}

// faults returns what was found in the order Faults promises; nil when there is nothing.
func (c *collector) faults() Faults {
	slices.SortStableFunc(c.found, func(a, b foundFault) int {
		return cmp.Or(
			cmp.Compare(a.at.src.order, b.at.src.order),
			cmp.Compare(a.at.line, b.at.line),
			cmp.Compare(a.at.column, b.at.column))
	})
	var faults Faults
	for _, f := range c.found {
		faults = append(faults, Fault{
			File: f.at.src.name, Line: f.at.line, Column: f.at.column,
			Message: f.message, Excerpt: excerpt(f.at),
		})
	}
	return faults
}

const (
	excerptLines = 2   // lines shown before the one that is meant
	excerptWidth = 100 // characters shown of a line: a file made by a program may be one long line
)

// excerpt shows the line at a place the way goccy/go-yaml does: numbered, marked, a caret below the column.
func excerpt(at place) string {
	if at.line < 1 || at.line > len(at.src.lines) {
		return ""
	}
	first := 0 // leftmost character shown
	if at.column > excerptWidth {
		first = at.column - excerptWidth/2
	}
	digits := len(strconv.Itoa(at.line))
	var b strings.Builder
	for n := max(1, at.line-excerptLines); n <= at.line; n++ {
		mark := ' '
		if n == at.line {
			mark = '>'
		}
		fmt.Fprintf(&b, "%c %*d | %s\n", mark, digits, n, window(at.src.lines[n-1], first))
	}
	fmt.Fprintf(&b, "%*s\n", 2+digits+3+at.column-first, "^")
	return b.String()
}

// window cuts excerptWidth characters out of a line and makes them safe for a terminal.
func window(line string, first int) string {
	runes := []rune(line)
	runes = runes[min(first, len(runes)):]
	runes = runes[:min(excerptWidth, len(runes))]
	for i, r := range runes {
		switch {
		case r == '\t':
			runes[i] = ' ' // one column, as the parser counts it
		case !unicode.IsPrint(r):
			runes[i] = unicode.ReplacementChar
		}
	}
	return strings.TrimRight(string(runes), " ")
}
