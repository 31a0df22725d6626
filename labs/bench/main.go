// Command bench measures evpnd beside FRR and beside the kernel alone, in one run: `make bench`.
//
// Each measure plays the same story for each of the compared, one after the other, in a network namespace made for it, as
// many times as -runs says; so what else the machine does falls on all of them. A raw BGP peer writes messages that were made
// beforehand, and an observer takes the time from the kernel's own notifications: neither knows whom it measures.
//
//	evpnd   the daemon as it is installed, with its defaults
//	frr     bgpd and zebra of Debian's FRR with advertise-all-vni, and Debian's options
//	kernel  the same entries written by evpnd's own writer (package dataplane) from memory, and nothing else
//
// Processor time and resident memory are those of all processes of a subject.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"syscall"
	"time"
)

// settings are the flags.
type settings struct {
	run      *regexp.Regexp
	subjects *regexp.Regexp
	runs     int
	quick    bool
	huge     bool
	idle     time.Duration
	evpnd    string
	out      string
	docs     string
}

func main() {
	if len(os.Args) > 2 && os.Args[1] == writerCommand {
		exit(writeFor(os.Args[2], os.Stdin, os.Stdout))
		return
	}
	s, err := parseFlags(os.Args[1:])
	if err != nil {
		exit(err)
		return
	}
	if s.docs != "" {
		exit(printDocs(os.Stdout, s.docs))
		return
	}
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	exit(bench(ctx, s))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func parseFlags(args []string) (settings, error) {
	var s settings
	f := flag.NewFlagSet("bench", flag.ExitOnError)
	run := f.String("run", "", "measures to take: a regular expression on their names")
	subjects := f.String("subjects", "", "whom to measure: a regular expression on evpnd, frr, kernel")
	list := f.Bool("list", false, "print the names of the measures and end")
	f.IntVar(&s.runs, "runs", 5, "runs of each measure")
	f.BoolVar(&s.quick, "quick", false, "the short form: few measures, few samples")
	f.BoolVar(&s.huge, "huge", false, "with a million routes too: some 3 GB of memory")
	f.DurationVar(&s.idle, "idle", 0, "how long nothing is done to see what that costs; 10m has an audit of evpnd in it; 0: some seconds")
	f.StringVar(&s.evpnd, "evpnd", "bin/evpnd", "the program to measure")
	f.StringVar(&s.out, "o", "", "file for the results, as lines of JSON")
	f.StringVar(&s.docs, "docs", "", "print a results file as Markdown, and end")
	if err := f.Parse(args); err != nil {
		return s, err
	}
	var err1, err2 error
	s.run, err1 = regexp.Compile(*run)
	s.subjects, err2 = regexp.Compile(*subjects)
	if err := errors.Join(err1, err2); err != nil {
		return s, err
	}
	if *list {
		for _, m := range measures(s) {
			fmt.Println(m.name)
		}
		os.Exit(0)
	}
	return s, nil
}

// bench takes every measure that is asked for. One that fails is reported, and the others go on.
func bench(ctx context.Context, s settings) error {
	about, err := describeMachine(ctx, s)
	if err != nil {
		return err
	}
	chosen := slices.DeleteFunc(measures(s), func(m measure) bool { return !s.run.MatchString(m.name) })
	if len(chosen) == 0 {
		return fmt.Errorf("no measure is called %q: see -list", s.run)
	}
	r := newResults(about)
	var faults []error
measuring:
	for _, m := range chosen {
		for run := range s.runs {
			for _, kind := range kinds {
				if !s.subjects.MatchString(kind.name) || (kind.name == kindKernel && m.speakersOnly) ||
					(m.only != "" && m.only != kind.name) {
					continue
				}
				began := time.Now()
				err := m.once(ctx, s, kind, r)
				if ctx.Err() != nil { // what was measured so far is worth keeping
					faults = append(faults, fmt.Errorf("ended in %s: %w", m.name, ctx.Err()))
					break measuring
				}
				fmt.Fprintf(os.Stderr, "%s %s %d/%d in %s\n", m.name, kind.name, run+1, s.runs, time.Since(began).Round(time.Millisecond))
				if err == nil {
					continue
				}
				err = fmt.Errorf("%s of %s, run %d: %w", m.name, kind.name, run+1, err)
				fmt.Fprintln(os.Stderr, "bench:", err)
				r.fail(err)
				if kind.name != kindFRR { // what FRR does not do is a result
					faults = append(faults, err)
				}
			}
		}
	}
	r.printTable(os.Stdout)
	if s.out != "" {
		faults = append(faults, r.save(s.out))
	}
	return errors.Join(faults...)
}
