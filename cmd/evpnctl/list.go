package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// printer prints a list whose items come some at a time, and keeps none of them: lists can be large.
type printer[T proto.Message] struct {
	c     *cli
	table *growingTable[T]
	kept  []json.RawMessage // YAML only, which is made of the whole
	asOf  *timestamppb.Timestamp
	count int
	begun bool

	target string // that the next items are from; "" when there is one only
}

func printerFor[T proto.Message](c *cli, columns []column[T]) *printer[T] {
	p := &printer[T]{c: c}
	if c.several() {
		from := column[T]{name: "TARGET", cell: func(T, time.Time) string { return p.target }}
		columns = append([]column[T]{from}, columns...)
	}
	p.table = newTable(c, columns)
	return p
}

// print prints some items.
func (p *printer[T]) print(items []T, asOf *timestamppb.Timestamp) error {
	if !p.begun {
		p.begun, p.asOf = true, asOf
		if p.c.format == formatJSON {
			if err := p.c.print("{\n  \"items\": ["); err != nil {
				return err
			}
		}
	}
	if p.c.format.forPeople() {
		return p.table.rows(items, asOf.AsTime())
	}
	var values []json.RawMessage
	for _, item := range items {
		raw, err := encode(item)
		if err != nil {
			return err
		}
		values = append(values, labelled(p.target, raw))
	}
	switch p.c.format {
	case formatYAML:
		p.kept = append(p.kept, values...)
	case formatJSON:
		return p.json(values)
	case formatJSONL:
		for _, value := range values {
			if err := p.c.printValue(value); err != nil {
				return err
			}
		}
	}
	return nil
}

// json prints items into the list of an envelope.
func (p *printer[T]) json(values []json.RawMessage) error {
	var b bytes.Buffer
	for _, raw := range values {
		if p.count++; p.count > 1 {
			b.WriteByte(',')
		}
		b.WriteString("\n    ")
		if err := json.Indent(&b, raw, "    ", "  "); err != nil {
			return &failure{codes.Internal, exitFailed, fmt.Errorf("encode the answer: %w", err)}
		}
	}
	return p.c.print("%s", b.Bytes())
}

// end prints what stands behind the items.
func (p *printer[T]) end() error {
	switch p.c.format {
	case formatYAML:
		return p.c.printList(envelope{Items: append([]json.RawMessage{}, p.kept...), AsOf: p.asOf.AsTime().Format(time.RFC3339Nano), Count: len(p.kept)})
	case formatJSON:
		closing := "]"
		if p.count > 0 {
			closing = "\n  ]"
		}
		return p.c.print("%s,\n  \"asOf\": %q,\n  \"count\": %d\n}\n", closing, p.asOf.AsTime().Format(time.RFC3339Nano), p.count)
	case formatJSONL:
		return nil
	}
	return p.table.flush()
}
