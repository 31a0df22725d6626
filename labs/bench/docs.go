package main

import (
	"fmt"
	"io"
	"strings"
)

// printDocs prints a results file as docs/performance.md.
func printDocs(w io.Writer, path string) error {
	r, err := loadResults(path)
	if err != nil {
		return err
	}
	a := r.about
	fmt.Fprintf(w, `# Performance

<!-- Made by make bench-docs from a results file of make bench: do not edit. -->

Measured on %s: %s, %d CPUs, memory %s, Linux %s. evpnd %s (%s), FRR %s from Debian (bgpd and zebra). Figures are
medians of %d runs, with the least and the most in parentheses; the compared take turns in every run.

- **kernel alone** is the same entries written by evpnd's own writer from memory, and nothing else: what nobody can be below.
- Times are wall time, from the first octet that a raw BGP peer writes, or the frame that a host sends, to the kernel's
  notification of the entry, or the octets at the peer.
- Processor time and memory are those of all processes of a subject; pages that processes share count for each.
- The peer, the observer and the traffic run on the same CPUs as what they measure.

`, a.Date, a.Machine, a.CPUs, a.Memory, a.Kernel, a.EVPND, a.Go, a.FRR, a.Runs)
	for _, m := range r.groups() {
		fmt.Fprintf(w, "## %s\n\n", m.name)
		if about := aboutMeasure(m.name); about != "" {
			fmt.Fprintf(w, "%s%s.\n\n", strings.ToUpper(about[:1]), about[1:])
		}
		row := func(cells []string) { fmt.Fprintf(w, "| %s |\n", strings.Join(cells, " | ")) }
		row(header)
		fmt.Fprintf(w, "|---|---|%s\n", strings.Repeat("---:|", len(header)-2))
		for _, f := range m.figures {
			row(f.row())
		}
		fmt.Fprintln(w)
	}
	if len(a.Failed) > 0 {
		fmt.Fprintf(w, "## Not done\n\n")
		for _, f := range a.Failed {
			fmt.Fprintf(w, "- %s\n", f)
		}
	}
	return nil
}

// group is the figures of measures whose names begin alike.
type group struct {
	name    string
	figures []*figure
}

func groupOf(name string) string {
	first, _, _ := strings.Cut(name, " ")
	first, _, _ = strings.Cut(first, "/")
	return first
}

func (r *results) groups() []group {
	var all []group
	for _, f := range r.figures {
		name := groupOf(f.Name)
		if len(all) == 0 || all[len(all)-1].name != name {
			all = append(all, group{name: name})
		}
		last := &all[len(all)-1]
		last.figures = append(last.figures, f)
	}
	return all
}

// aboutMeasure is what the measures of a group take.
func aboutMeasure(group string) string {
	for _, m := range measures(settings{}) {
		if groupOf(m.name) == group {
			return m.about
		}
	}
	return ""
}
