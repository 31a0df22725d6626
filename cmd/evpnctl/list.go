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
	kept  []T // YAML only, which is made of the whole
	asOf  *timestamppb.Timestamp
	count int
	begun bool
}

func printerFor[T proto.Message](c *cli, columns []column[T]) *printer[T] {
	return &printer[T]{c: c, table: newTable(c, columns)}
}

// print prints some items.
func (p *printer[T]) print(items []T, asOf *timestamppb.Timestamp) error {
	p.asOf = asOf
	switch p.c.format {
	case formatYAML:
		p.kept = append(p.kept, items...)
		return nil
	case formatJSON:
		return p.json(items)
	case formatJSONL:
		for _, item := range items {
			if err := p.c.printMessage(item); err != nil {
				return err
			}
		}
		return nil
	default:
		return p.table.rows(items, asOf.AsTime())
	}
}

// json prints items into the list of an envelope.
func (p *printer[T]) json(items []T) error {
	var b bytes.Buffer
	if !p.begun {
		b.WriteString("{\n  \"items\": [")
		p.begun = true
	}
	for _, item := range items {
		raw, err := encode(item)
		if err != nil {
			return err
		}
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
		e, err := encodeItems(p.kept, p.asOf)
		if err != nil {
			return err
		}
		return p.c.printList(e)
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
