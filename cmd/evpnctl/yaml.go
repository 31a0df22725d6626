package main

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// jsonToYAML prints JSON as YAML in blocks. Every text is quoted, since readers of YAML 1.1 take an unquoted 65000:10 or
// 12:34:56:10:20:30 for a number in base 60; keys are the names of protobuf fields and need no quotes. goccy/go-yaml
// 1.19.2 quotes neither, and takes six times as long for 100 000 MACs.
func jsonToYAML(text []byte) ([]byte, error) {
	y := yamlWriter{in: json.NewDecoder(bytes.NewReader(text))}
	y.in.UseNumber()
	if err := y.value("", ""); err != nil {
		return nil, err
	}
	return y.out.Bytes(), nil
}

type yamlWriter struct {
	in  *json.Decoder
	out bytes.Buffer
}

// value prints the next value. What fits on a line follows after a space, where the line has begun; a block begins with
// start, and indent stands before each of its further lines.
func (y *yamlWriter) value(start, indent string) error {
	token, err := y.in.Token()
	if err != nil {
		return err
	}
	switch token {
	case json.Delim('{'):
		return y.block(start, indent, "{}", func() error {
			key, err := y.in.Token()
			if err != nil {
				return err
			}
			fmt.Fprintf(&y.out, "%s:", key)
			return y.value("\n"+indent+"  ", indent+"  ")
		})
	case json.Delim('['):
		return y.block(start, indent, "[]", func() error {
			y.out.WriteByte('-')
			return y.value(" ", indent+"  ")
		})
	}
	scalar, err := json.Marshal(token)
	if err != nil {
		return err
	}
	if start != "" {
		y.out.WriteByte(' ')
	}
	y.out.Write(append(scalar, '\n'))
	return nil
}

// block prints the entries of an object or array whose opening delimiter was read, or empty when there are none.
func (y *yamlWriter) block(start, indent, empty string, entry func() error) error {
	if !y.in.More() {
		if start != "" {
			y.out.WriteByte(' ')
		}
		y.out.WriteString(empty + "\n")
	}
	for lead := start; y.in.More(); lead = indent {
		y.out.WriteString(lead)
		if err := entry(); err != nil {
			return err
		}
	}
	_, err := y.in.Token() // the closing delimiter
	return err
}
