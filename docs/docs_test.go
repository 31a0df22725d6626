// Package docs_test holds the texts of this project to what there is: files, commands, flags, make targets, keys, metrics.
package docs_test

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/evpnd/evpnd/config"
)

// text is one page.
type text struct{ path, body string }

// pages reads every Markdown file of the repository but the requirements, which quote other people's.
func pages(t *testing.T) (all []text) {
	t.Helper()
	err := filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		name := entry.Name()
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (name == "bin" || name == "spec" || name != ".." && strings.HasPrefix(name, ".")):
			return fs.SkipDir
		case filepath.Ext(name) != ".md":
			return nil
		}
		body, err := os.ReadFile(path)
		all = append(all, text{path, string(body)})
		return err
	})
	if err != nil || len(all) < 20 {
		t.Fatalf("%d pages, error %v", len(all), err)
	}
	return all
}

var (
	fence  = regexp.MustCompile("(?ms)^ *```([a-z]*)\n(.*?)^ *```$")
	inline = regexp.MustCompile("`([^`\n]+)`")
	link   = regexp.MustCompile(`\]\(([^)#\s]+)(#[^)]*)?\)`)
)

// code returns the lines of fenced blocks, and what is marked as code within lines.
func (p text) code() (lines []string) {
	for _, m := range fence.FindAllStringSubmatch(p.body, -1) {
		lines = append(lines, strings.Split(m[2], "\n")...)
	}
	return append(lines, p.inline()...)
}

// inline returns what is marked as code within lines.
func (p text) inline() (lines []string) {
	for _, m := range inline.FindAllStringSubmatch(fence.ReplaceAllString(p.body, ""), -1) {
		lines = append(lines, m[1])
	}
	return lines
}

func TestLinks(t *testing.T) {
	for _, p := range pages(t) {
		for _, m := range link.FindAllStringSubmatch(fence.ReplaceAllString(p.body, ""), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(p.path), m[1])); err != nil {
				t.Errorf("%s: link to %s: %v", p.path, m[1], err)
			}
		}
	}
}

var (
	program = regexp.MustCompile(`^(?:\$ |sudo |[a-z0-9]+# |bin/)*(evpnctl|evpnd|evpnlab)( \S.*)?$`)
	usage   = regexp.MustCompile(`(?m)^Usage:\n  (.*)$`)
	word    = regexp.MustCompile(`^[a-z][a-z-]*$`)
	flag    = regexp.MustCompile(`^--?[a-z]`)
	end     = regexp.MustCompile(`\s(#|[|>&;]).*|\.\.\.|…`)
)

// TestCommands: every command of ours in the texts exists, with its flags.
func TestCommands(t *testing.T) {
	dir := t.TempDir()
	if out, err := exec.Command("go", "build", "-o", dir, "../cmd/...").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	seen := map[string]bool{}
	for _, p := range pages(t) {
		for _, line := range p.code() {
			for _, part := range strings.Split(strings.ReplaceAll(line, " -- ", " && "), "&&") {
				m := program.FindStringSubmatch(strings.TrimSpace(part))
				if m == nil {
					continue
				}
				command := m[1] + end.ReplaceAllString(m[2], "")
				if !seen[command] {
					seen[command] = true
					checkCommand(t, p.path, dir, strings.Fields(command))
				}
			}
		}
	}
	if len(seen) < 30 {
		t.Errorf("found %d commands only: %v", len(seen), seen)
	}
}

// checkCommand asks the program itself for help on the words of a command line, and looks for its flags there.
func checkCommand(t *testing.T, page, dir string, words []string) {
	t.Helper()
	var names, flags []string
	for _, w := range words[1:] {
		if flag.MatchString(w) {
			flags = append(flags, w)
		} else if len(flags) == 0 && word.MatchString(w) {
			names = append(names, w)
		}
	}
	if len(names) > 1 && names[0] == "show" && slices.Contains([]string{"evpn", "bgp"}, names[1]) {
		return // FRR's word order, which is translated before
	}
	out, err := exec.Command(filepath.Join(dir, words[0]), append(names, "--help")...).CombinedOutput()
	help := string(out)
	m := usage.FindStringSubmatch(help)
	if err != nil || m == nil {
		t.Errorf("%s: %q: %v %s", page, words, err, help)
		return
	}
	path := strings.Fields(m[1])
	for i, name := range names {
		if strings.Contains(help, "Available Commands:") && (len(path) < i+2 || path[i+1] != name) {
			t.Errorf("%s: %q: there is no %s", page, words, name)
		}
	}
	for _, f := range flags {
		name, _, _ := strings.Cut(f, "=")
		if !regexp.MustCompile(`(?m)^\s+(-\w, )?` + name + `[, \n]`).MatchString(help) {
			t.Errorf("%s: %q: no flag %s", page, words, f)
		}
	}
}

var target = regexp.MustCompile(`^(?:sudo )?make ((?:[a-z-]+ ?)+)`)

// TestMakeTargets: every make target in the texts exists.
func TestMakeTargets(t *testing.T) {
	makefile, err := os.ReadFile("../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pages(t) {
		for _, line := range p.code() {
			m := target.FindStringSubmatch(strings.TrimSpace(line))
			if m == nil {
				continue
			}
			for _, name := range strings.Fields(m[1]) {
				if !regexp.MustCompile(`(?m)^` + name + `:`).Match(makefile) {
					t.Errorf("%s: %q: no target %s", p.path, line, name)
				}
			}
		}
	}
}

var (
	key    = regexp.MustCompile(`^\{?([a-z][a-z-]*): `)
	metric = regexp.MustCompile(`\bevpnd?_[a-z_]+\b`)
)

// TestKeysAndMetrics: every key of the configuration and every metric in the texts exists, and whole configurations are valid.
func TestKeysAndMetrics(t *testing.T) {
	reference, err := os.ReadFile("../config/reference.yaml")
	if err != nil {
		t.Fatal(err)
	}
	metrics, err := os.ReadFile("metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pages(t) {
		if strings.HasPrefix(p.path, "../labs") || strings.HasPrefix(p.path, "../contrib") {
			continue // keys of containerlab, variables of Ansible
		}
		for _, line := range p.inline() {
			if m := key.FindStringSubmatch(line); m != nil && !regexp.MustCompile(`(?m)(^|[ {])`+m[1]+`:`).Match(reference) {
				t.Errorf("%s: %q: no key %s", p.path, line, m[1])
			}
			for _, name := range metric.FindAllString(line, -1) {
				if !strings.Contains(string(metrics), "`"+name+"`") {
					t.Errorf("%s: no metric %s", p.path, name)
				}
			}
		}
		for _, m := range fence.FindAllStringSubmatch(p.body, -1) {
			if m[1] == "yaml" && strings.Contains(m[2], "asn:") {
				checkConfig(t, p.path, m[2])
			}
		}
	}
}

func checkConfig(t *testing.T, page, body string) {
	t.Helper()
	indent := body[:len(body)-len(strings.TrimLeft(body, " "))]
	file := filepath.Join(t.TempDir(), "evpnd.yaml")
	if err := os.WriteFile(file, []byte(strings.ReplaceAll("\n"+body, "\n"+indent, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := config.Load(file); err != nil {
		t.Errorf("%s: %v", page, err)
	}
}
