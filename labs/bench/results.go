package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

// about says where and of what results are: the first line of a results file.
type about struct {
	Date    string `json:"date"`
	Machine string `json:"machine"`
	CPUs    int    `json:"cpus"`
	Memory  string `json:"memory"`
	Kernel  string `json:"kernel_version"`
	EVPND   string `json:"evpnd_version"`
	FRR     string `json:"frr_version"`
	Go      string `json:"go"`
	Runs    int    `json:"runs"`
	Quick   bool   `json:"quick,omitempty"`
	// Failed says what was not done: the measure, by whom, and why.
	Failed []string `json:"failed,omitempty"`
}

// figure is one line of results: medians, and every sample they are of. A subject that does not do it has neither.
type figure struct {
	Name    string               `json:"name"`
	Unit    string               `json:"unit"`
	EVPND   *float64             `json:"evpnd"`
	FRR     *float64             `json:"frr"`
	Kernel  *float64             `json:"kernel"`
	Samples map[string][]float64 `json:"samples"`
}

// results collects samples, one of each run.
type results struct {
	about   about
	figures []*figure
}

func newResults(a about) *results { return &results{about: a} }

// fail notes that a subject did not do what a measure asks, by the first line of the reason.
func (r *results) fail(err error) {
	line, _, _ := strings.Cut(err.Error(), "\n")
	r.about.Failed = append(r.about.Failed, line)
}

// add takes in the figure of one run.
func (r *results) add(subject, name, unit string, value float64) {
	i := slices.IndexFunc(r.figures, func(f *figure) bool { return f.Name == name })
	if i < 0 {
		i = len(r.figures)
		r.figures = append(r.figures, &figure{Name: name, Unit: unit, Samples: map[string][]float64{}})
	}
	f := r.figures[i]
	f.Samples[subject] = append(f.Samples[subject], value)
	f.EVPND, f.FRR, f.Kernel = f.median(kindEVPND), f.median(kindFRR), f.median(kindKernel)
}

func (f *figure) median(subject string) *float64 {
	s := slices.Sorted(slices.Values(f.Samples[subject]))
	if len(s) == 0 {
		return nil
	}
	m := (s[(len(s)-1)/2] + s[len(s)/2]) / 2
	return &m
}

// quantile of samples of one run: the smallest that q of them do not exceed.
func quantile(samples []time.Duration, q float64) time.Duration {
	s := slices.Sorted(slices.Values(samples))
	return s[max(0, min(len(s)-1, int(q*float64(len(s))+0.9999)-1))]
}

// cell is a median, and the least and the most when there were several runs.
func (f *figure) cell(subject string) string {
	m := f.median(subject)
	if m == nil {
		return "–"
	}
	s := f.Samples[subject]
	if len(s) == 1 {
		return number(*m)
	}
	return fmt.Sprintf("%s (%s–%s)", number(*m), number(slices.Min(s)), number(slices.Max(s)))
}

// number prints three digits that count.
func number(v float64) string {
	switch {
	case v >= 100 || v == 0:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	case v >= 1:
		return fmt.Sprintf("%.2f", v)
	default:
		return fmt.Sprintf("%.3f", v)
	}
}

// ratio is how much more a takes than b.
func ratio(a, b *float64) string {
	if a == nil || b == nil || *b == 0 {
		return "–"
	}
	return fmt.Sprintf("%.2f", *a / *b)
}

func (f *figure) row() []string {
	return []string{
		f.Name, f.Unit, f.cell(kindEVPND), f.cell(kindFRR), f.cell(kindKernel), ratio(f.EVPND, f.FRR), ratio(f.EVPND, f.Kernel),
	}
}

var header = []string{"measure", "unit", "evpnd", "FRR", "kernel alone", "evpnd/FRR", "evpnd/kernel"}

func (r *results) printTable(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, strings.Join(header, "\t"))
	for _, f := range r.figures {
		fmt.Fprintln(t, strings.Join(f.row(), "\t"))
	}
	t.Flush()
	for _, f := range r.about.Failed {
		fmt.Fprintln(w, "not done:", f)
	}
}

// save writes the results file: what they are of, then a line for each figure.
func (r *results) save(path string) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	err := e.Encode(r.about)
	for _, f := range r.figures {
		err = errors.Join(err, e.Encode(f))
	}
	if err != nil {
		return fmt.Errorf("encode results: %w", err)
	}
	return os.WriteFile(path, b.Bytes(), 0o644)
}

// loadResults reads a results file.
func loadResults(path string) (*results, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	r := &results{}
	lines := bufio.NewScanner(bytes.NewReader(b))
	lines.Buffer(nil, len(b)+1)
	for n := 0; lines.Scan(); n++ {
		var into any = &r.about
		if n > 0 {
			f := &figure{}
			r.figures, into = append(r.figures, f), f
		}
		if err := json.Unmarshal(lines.Bytes(), into); err != nil {
			return nil, fmt.Errorf("%s line %d: %w", path, n+1, err)
		}
	}
	if len(r.figures) == 0 {
		return nil, fmt.Errorf("%s holds no figures", path)
	}
	return r, lines.Err()
}

// describeMachine also finds out whether everybody that is to be measured is there.
func describeMachine(ctx context.Context, s settings) (about, error) {
	a := about{
		Date: time.Now().UTC().Format(time.DateOnly), CPUs: runtime.NumCPU(), Go: runtime.Version(), Runs: s.runs, Quick: s.quick,
		Machine: "unknown", Memory: firstField("/proc/meminfo", "MemTotal:"),
	}
	if m := firstField("/proc/cpuinfo", "model name"); m != "" {
		a.Machine = strings.TrimLeft(m, ": \t")
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return a, fmt.Errorf("kernel's version: %w", err)
	}
	a.Kernel = unix.ByteSliceToString(u.Release[:])
	var err error
	if s.subjects.MatchString(kindEVPND) {
		if a.EVPND, err = version(ctx, s.evpnd); err != nil {
			return a, fmt.Errorf("%w: make build", err)
		}
	}
	if s.subjects.MatchString(kindFRR) {
		if a.FRR, err = version(ctx, filepath.Join(frrDir, "bgpd")); err != nil {
			return a, fmt.Errorf("%w: make deps, or -subjects 'evpnd|kernel'", err)
		}
	}
	return a, nil
}

// version is the last word of the first line that a program says of itself.
func version(ctx context.Context, program string) (string, error) {
	out, err := exec.CommandContext(ctx, program, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("%s --version: %w", program, err)
	}
	line, _, _ := strings.Cut(string(out), "\n")
	if words := strings.Fields(line); len(words) > 0 {
		return words[len(words)-1], nil
	}
	return "", fmt.Errorf("%s --version says nothing", program)
}

// firstField is what follows a prefix in the first line of a file that begins with it.
func firstField(path, prefix string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, prefix); ok {
			return strings.TrimSpace(rest)
		}
	}
	return ""
}
