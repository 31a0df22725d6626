package main

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
)

// column is one column of a table of T. A cell without text prints as "-", so that awk counts columns right.
type column[T any] struct {
	name     string
	wideOnly bool // only with -o wide
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
	var b bytes.Buffer
	tw := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	row := func(cell func(column[T]) string) {
		var cells []string
		for _, col := range columns {
			if !col.wideOnly || c.format == formatWide {
				cells = append(cells, cell(col))
			}
		}
		fmt.Fprintln(tw, strings.Join(cells, "\t"))
	}
	if !c.noHeaders {
		row(func(col column[T]) string { return col.name })
	}
	for _, item := range items {
		row(func(col column[T]) string { return orDash(col.cell(item, asOf)) })
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	return c.print("%s", b.Bytes())
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
