package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// format is the value of --output.
type format string

const (
	formatTable format = "table"
	formatWide  format = "wide"
	formatJSON  format = "json"
	formatJSONL format = "jsonl" // one item a line, without the envelope
	formatYAML  format = "yaml"
)

var formats = []string{"table", "wide", "json", "jsonl", "yaml"}

func (f *format) String() string { return string(*f) }
func (f *format) Type() string   { return "format" }

func (f *format) Set(s string) error {
	if !slices.Contains(formats, s) {
		return fmt.Errorf("want one of %s", strings.Join(formats, ", "))
	}
	*f = format(s)
	return nil
}

// forPeople reports a format that is text in columns.
func (f format) forPeople() bool { return f == formatTable || f == formatWide }

// envelope is what every list prints as JSON.
type envelope struct {
	Status json.RawMessage   `json:"status,omitempty"` // show summary only
	Items  []json.RawMessage `json:"items"`
	AsOf   string            `json:"asOf"`
	Count  int               `json:"count"`
}

func encodeItems[T proto.Message](items []T, asOf *timestamppb.Timestamp) (envelope, error) {
	e := envelope{
		Items: make([]json.RawMessage, 0, len(items)),
		AsOf:  asOf.AsTime().Format(time.RFC3339Nano),
		Count: len(items),
	}
	for _, item := range items {
		raw, err := encode(item)
		if err != nil {
			return envelope{}, err
		}
		e.Items = append(e.Items, raw)
	}
	return e, nil
}

// encode prints every field, set or not, so that a script finds the same keys in every item.
func encode(m proto.Message) (json.RawMessage, error) {
	raw, err := protojson.MarshalOptions{EmitDefaultValues: true}.Marshal(m)
	if err != nil {
		err = fmt.Errorf("encode %s: %w", m.ProtoReflect().Descriptor().Name(), err)
		return nil, &failure{codes.Internal, exitFailed, err}
	}
	return raw, nil
}

// printList prints items in one of the formats for programs.
func (c *cli) printList(e envelope) error {
	if c.format != formatJSONL && (c.values == nil || e.Status != nil) {
		return c.printValue(e)
	}
	for _, item := range e.Items {
		if err := c.printValue(item); err != nil {
			return err
		}
	}
	return nil
}

// printMessage prints one message in one of the formats for programs.
func (c *cli) printMessage(m proto.Message) error {
	raw, err := encode(m)
	if err != nil {
		return err
	}
	return c.printValue(raw)
}

// printValue prints one value in one of the formats for programs.
func (c *cli) printValue(v any) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if c.values != nil {
		err := enc.Encode(v)
		if err != nil {
			return &failure{codes.Internal, exitFailed, fmt.Errorf("encode the answer: %w", err)}
		}
		value := labelled(c.at.name, bytes.TrimSpace(b.Bytes()))
		if c.format == formatJSONL {
			return c.print("%s\n", value)
		}
		*c.values = append(*c.values, value)
		return nil
	}
	if c.format == formatJSON {
		enc.SetIndent("", "  ")
	}
	err := enc.Encode(v)
	text := b.Bytes()
	if err == nil && c.format == formatYAML {
		text, err = jsonToYAML(text)
	}
	if err != nil {
		return &failure{codes.Internal, exitFailed, fmt.Errorf("encode the answer: %w", err)}
	}
	return c.print("%s", text)
}

// print writes to standard output. A reader that went away is a failed operation, not wrong usage.
func (c *cli) print(text string, args ...any) error {
	if _, err := fmt.Fprintf(c.out, text, args...); err != nil {
		return &failure{codes.Unknown, exitFailed, fmt.Errorf("write the answer: %w", err)}
	}
	return nil
}
