package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"path"
	"strings"

	"github.com/spf13/cobra"
)

// target is one daemon that is asked.
type target struct {
	name    string // as it is printed beside what it answers
	network string // unix, tcp; "": none was chosen yet
	addr    string // path of its socket, or host:port
}

// parseTarget accepts unix:///path, unix:path, a bare path and tcp:host:port, each also behind a name of the user's:
// h1=/run/h1.sock.
func parseTarget(s string) (target, error) {
	name, addr, named := strings.Cut(s, "=")
	if !named || strings.ContainsAny(name, "/:") {
		name, addr = "", s
	}
	if hostport, ok := strings.CutPrefix(addr, "tcp:"); ok {
		hostport = strings.TrimPrefix(hostport, "//")
		if host, port, err := net.SplitHostPort(hostport); err != nil || host == "" || port == "" {
			return target{}, fmt.Errorf("target %q: want tcp:host:port", s)
		}
		return target{cmp.Or(name, hostport), "tcp", hostport}, nil
	}
	p := strings.TrimPrefix(strings.TrimPrefix(addr, "unix:"), "//")
	if p == "" || p == addr && !strings.Contains(addr, "/") {
		return target{}, fmt.Errorf("target %q: want unix:///path/of/socket, tcp:host:port, or NAME= and one of these", s)
	}
	return target{cmp.Or(name, path.Clean(p)), "unix", p}, nil
}

// parseTargets reads all targets that are to be asked; names alone are those of the user's configuration.
func (c *cli) parseTargets() ([]target, error) {
	if c.wrong != nil {
		return nil, c.wrong
	}
	var targets []target
	seen := map[string]bool{}
	for _, s := range c.targets {
		if known := c.known[s]; known != "" {
			s += "=" + known
		}
		t, err := parseTarget(s)
		if err != nil {
			return nil, err
		}
		if seen[t.name] {
			return nil, fmt.Errorf("target %q is given twice", t.name)
		}
		seen[t.name] = true
		targets = append(targets, t)
	}
	if len(targets) == 0 {
		return nil, fmt.Errorf("no target is given")
	}
	return targets, nil
}

// reported is the exit code of errors that were printed where they happened.
type reported int

func (r reported) Error() string { return fmt.Sprintf("failed with exit code %d", int(r)) }

// each runs fn for every target, one after the other, on a copy of c that asks this target. With several, one that fails is
// reported at once and keeps none of the others from being asked; the error is then the worst exit code. What fn prints is
// headed by the target's name, and values for programs get a key "target" and go into one list; tables have a column instead.
func (c *cli) each(fn func(*cli) error) error {
	targets, err := c.parseTargets()
	if err != nil {
		return err
	}
	if len(targets) == 1 {
		one := *c
		one.at = targets[0]
		return fn(&one)
	}
	var values []json.RawMessage
	worst, begun := exitOK, false
	for _, t := range targets {
		one := *c
		one.at, one.values = t, &values
		if c.format.forPeople() {
			one.out = &headed{to: c.out, head: t.name + ":\n", begun: &begun}
		}
		if err := fn(&one); err != nil {
			worst = max(worst, one.report(c.errors, err))
		}
	}
	if len(values) > 0 {
		e := struct {
			Items []json.RawMessage `json:"items"`
			Count int               `json:"count"`
		}{values, len(values)}
		if err := c.printValue(e); err != nil {
			return err
		}
	}
	if worst != exitOK {
		return reported(worst)
	}
	return nil
}

// asking makes a command of what it does with one target.
func (c *cli) asking(run func(*cli, *cobra.Command, []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		return c.each(func(c *cli) error { return run(c, cmd, args) })
	}
}

// several says whether answers must tell which target they are from.
func (c *cli) several() bool { return len(c.targets) > 1 }

// label is the name that goes with answers; "" when there is one target only.
func (c *cli) label() string {
	if !c.several() {
		return ""
	}
	return c.at.name
}

// headed writes a head before the first write, and an empty line before that where something was written earlier.
type headed struct {
	to    io.Writer
	head  string
	begun *bool
}

func (h *headed) Write(b []byte) (int, error) {
	if h.head != "" {
		head := h.head
		if *h.begun {
			head = "\n" + head
		}
		h.head, *h.begun = "", true
		if _, err := io.WriteString(h.to, head); err != nil {
			return 0, err
		}
	}
	return h.to.Write(b)
}

// labelled gives a JSON object the key "target"; without a name it stays as it is.
func labelled(name string, object json.RawMessage) json.RawMessage {
	if name == "" {
		return object
	}
	quoted, err := json.Marshal(name)
	if err != nil {
		return object // a text always has a JSON form
	}
	out := append([]byte(`{"target":`), quoted...)
	rest := bytes.TrimSpace(object[1:])
	if len(rest) > 0 && rest[0] != '}' {
		out = append(out, ',')
	}
	return append(out, rest...)
}
