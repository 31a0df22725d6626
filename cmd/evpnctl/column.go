package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/timestamppb"
)

// column is one column of a table of T. A cell without text prints as "-", so that awk counts columns right.
type column[T any] struct {
	name     string
	wideOnly bool // only with -o wide
	painted  bool // the cells are words for states, which have colours
	cell     func(item T, asOf time.Time) string
}

// wide keeps the column out of the narrow table.
func (c column[T]) wide() column[T] {
	c.wideOnly = true
	return c
}

func text[T any](name string, get func(T) string) column[T] {
	return column[T]{name: name, cell: func(item T, _ time.Time) string { return get(item) }}
}

// state is a text that says how something stands.
func state[T any](name string, get func(T) string) column[T] {
	c := text(name, get)
	c.painted = true
	return c
}

func number[T any](name string, get func(T) uint32) column[T] {
	return text(name, func(item T) string { return decimal(get(item)) })
}

// optional is a number whose zero means "none".
func optional[T any](name string, get func(T) uint32) column[T] {
	return text(name, func(item T) string { return nonZero(get(item)) })
}

func flag[T any](name string, get func(T) bool) column[T] {
	return text(name, func(item T) string { return yesNo(get(item)) })
}

func list[T any](name string, get func(T) []string) column[T] {
	return text(name, func(item T) string { return strings.Join(get(item), ",") })
}

// elapsed is how long before the snapshot something began.
func elapsed[T any](name string, get func(T) *timestamppb.Timestamp) column[T] {
	return column[T]{name: name, cell: func(item T, asOf time.Time) string {
		since := get(item)
		if since == nil {
			return ""
		}
		return span(asOf.Sub(since.AsTime()))
	}}
}

// printTable prints items in columns.
func printTable[T any](c *cli, columns []column[T], items []T, asOf time.Time) error {
	t := newTable(c, columns)
	if err := t.rows(items, asOf); err != nil {
		return err
	}
	return t.flush()
}

// waitingRows are looked at before the first one is printed, so that all but large tables have columns as wide as they need.
const waitingRows = 2000

// growingTable prints a table whose rows come some at a time. A cell of later rows that is wider than all before it moves
// what follows from there on.
type growingTable[T any] struct {
	c       *cli
	columns []column[T]
	widths  []int
	lines   [][]string // not printed yet
}

func newTable[T any](c *cli, columns []column[T]) *growingTable[T] {
	t := &growingTable[T]{c: c}
	for _, col := range columns {
		if !col.wideOnly || c.format == formatWide {
			t.columns = append(t.columns, col)
		}
	}
	t.widths = make([]int, len(t.columns))
	if !c.noHeaders {
		t.line(func(col column[T]) string { return col.name })
	}
	return t
}

func (t *growingTable[T]) line(cell func(column[T]) string) {
	cells := make([]string, len(t.columns))
	for i, col := range t.columns {
		cells[i] = cell(col)
		t.widths[i] = max(t.widths[i], utf8.RuneCountInString(cells[i]))
	}
	t.lines = append(t.lines, cells)
}

func (t *growingTable[T]) rows(items []T, asOf time.Time) error {
	for _, item := range items {
		t.line(func(col column[T]) string { return orDash(col.cell(item, asOf)) })
	}
	if len(t.lines) < waitingRows {
		return nil
	}
	return t.flush()
}

// flush prints what waits.
func (t *growingTable[T]) flush() error {
	var b strings.Builder
	for _, cells := range t.lines {
		for i, cell := range cells {
			if t.columns[i].painted {
				b.WriteString(t.c.paint(cell))
			} else {
				b.WriteString(cell)
			}
			if i < len(cells)-1 {
				b.WriteString(strings.Repeat(" ", t.widths[i]-utf8.RuneCountInString(cell)+2))
			}
		}
		b.WriteString("\n")
	}
	t.lines = t.lines[:0]
	return t.c.print("%s", b.String())
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func decimal(n uint32) string { return strconv.FormatUint(uint64(n), 10) }

func nonZero(n uint32) string {
	if n == 0 {
		return ""
	}
	return decimal(n)
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// span prints a duration in two units: 12s, 4m05s, 3h04m, 12d03h.
func span(d time.Duration) string {
	const day = 24 * time.Hour
	d = max(d, 0)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", d/time.Minute, d%time.Minute/time.Second)
	case d < day:
		return fmt.Sprintf("%dh%02dm", d/time.Hour, d%time.Hour/time.Minute)
	default:
		return fmt.Sprintf("%dd%02dh", d/day, d%day/time.Hour)
	}
}

// when prints a moment, "" when it never came.
func when(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return t.AsTime().Format(time.RFC3339)
}
