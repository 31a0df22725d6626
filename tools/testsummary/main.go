// Command testsummary runs "go test" with its arguments, shows one line a package and the whole output of what failed,
// and ends with what was skipped and why. Its exit code is that of "go test".
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
)

func main() {
	code, err := run(os.Args[1:], os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "testsummary:", err)
		os.Exit(2)
	}
	os.Exit(code)
}

// run returns the exit code of "go test".
func run(args []string, w io.Writer) (int, error) {
	cmd := exec.Command("go", append([]string{"test", "-json"}, args...)...)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("start go test: %w", err)
	}
	s := newSummary(w)
	if err := s.read(stdout); err != nil {
		return 0, errors.Join(err, cmd.Wait())
	}
	err = cmd.Wait()
	s.print()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode(), nil
	}
	return 0, err
}

// event is one line of "go test -json"; see "go doc test2json".
type event struct {
	Action     string
	Package    string
	ImportPath string // of build output
	Test       string // "" for the package itself
	Output     string
	Elapsed    float64 // seconds
}

// test names one test of one package.
type test struct{ pkg, name string }

type summary struct {
	w       io.Writer
	output  map[test][]string // what unfinished tests printed
	reasons map[string]int    // why tests were skipped
	count   map[string]int    // by action: pass, fail, skip
	failed  []test
}

func newSummary(w io.Writer) *summary {
	return &summary{w: w, output: map[test][]string{}, reasons: map[string]int{}, count: map[string]int{}}
}

func (s *summary) read(r io.Reader) error {
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			s.line(line)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the output of go test: %w", err)
		}
	}
}

// line takes one line; what is not JSON is shown as it is.
func (s *summary) line(line []byte) {
	var ev event
	if err := json.Unmarshal(line, &ev); err != nil {
		fmt.Fprintf(s.w, "%s", line)
		return
	}
	s.event(ev)
}

func (s *summary) event(ev event) {
	id := test{ev.Package, ev.Test}
	switch ev.Action {
	case "build-output":
		fmt.Fprint(s.w, ev.Output)
	case "output":
		s.output[id] = append(s.output[id], ev.Output)
	case "pass", "fail", "skip":
		if ev.Test == "" {
			s.endPackage(ev)
		} else {
			s.endTest(id, ev.Action)
		}
		delete(s.output, id)
	}
}

func (s *summary) endTest(id test, action string) {
	s.count[action]++
	switch action {
	case "fail":
		s.failed = append(s.failed, id)
		fmt.Fprint(s.w, strings.Join(s.output[id], ""))
	case "skip":
		s.reasons[skipReason(s.output[id])]++
	}
}

func (s *summary) endPackage(ev event) {
	id := test{ev.Package, ""}
	word := map[string]string{"pass": "ok  ", "fail": "FAIL", "skip": "-   "}[ev.Action]
	if ev.Action != "fail" {
		fmt.Fprintf(s.w, "%s %-50s %6.1fs\n", word, ev.Package, ev.Elapsed)
		return
	}
	// Of tests that never ended: a panic, or the time limit.
	for left := range s.output {
		if left.pkg == ev.Package && left.name != "" {
			s.count["fail"]++
			s.failed = append(s.failed, left)
			fmt.Fprint(s.w, strings.Join(s.output[left], ""))
			delete(s.output, left)
		}
	}
	fmt.Fprint(s.w, strings.Join(s.output[id], ""))
	fmt.Fprintf(s.w, "%s %-50s %6.1fs\n", word, ev.Package, ev.Elapsed)
	if !slices.ContainsFunc(s.failed, func(t test) bool { return t.pkg == ev.Package }) {
		s.count["fail"]++ // it did not build, or its TestMain failed
		s.failed = append(s.failed, id)
	}
}

// skipReason is the last thing a skipped test said, without the place in the code and the verdict.
func skipReason(output []string) string {
	for _, line := range slices.Backward(output) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "--- SKIP") || strings.HasPrefix(line, "=== ") {
			continue
		}
		if _, after, ok := strings.Cut(line, ".go:"); ok {
			if _, words, ok := strings.Cut(after, ": "); ok {
				return words
			}
		}
		return line
	}
	return "no reason given"
}

func (s *summary) print() {
	fmt.Fprintln(s.w)
	for _, id := range s.failed {
		fmt.Fprintf(s.w, "failed: %s %s\n", id.pkg, id.name)
	}
	for _, lane := range lanes() {
		fmt.Fprintln(s.w, lane)
	}
	for _, reason := range slices.Sorted(maps.Keys(s.reasons)) {
		fmt.Fprintf(s.w, "skipped %d: %s\n", s.reasons[reason], reason)
	}
	fmt.Fprintf(s.w, "%d passed, %d failed, %d skipped\n", s.count["pass"], s.count["fail"], s.count["skip"])
}

// lanes says which kinds of tests this machine can run.
func lanes() []string {
	root := os.Geteuid() == 0
	_, noBGPD := os.Stat("/usr/lib/frr/bgpd")
	_, noTshark := exec.LookPath("tshark")
	lines := []string{"lane unit: yes"}
	for _, lane := range []struct {
		name string
		can  bool
		need string
	}{
		{"kernel, in network namespaces", root, "root"},
		{"FRR", root && noBGPD == nil, "root and the package frr"},
		{"capture", root && noTshark == nil, "root and the package tshark"},
	} {
		if lane.can {
			lines = append(lines, fmt.Sprintf("lane %s: yes", lane.name))
		} else {
			lines = append(lines, fmt.Sprintf("lane %s: no, needs %s", lane.name, lane.need))
		}
	}
	return lines
}
