// Package package_test installs, upgrades and removes what `make deb` makes, below a folder.
package package_test

import (
	"debug/elf"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// root is a file system with nothing in it but dpkg's database.
type root struct {
	t   *testing.T
	dir string
}

func newRoot(t *testing.T) root {
	t.Helper()
	r := root{t, t.TempDir()}
	for _, dir := range []string{"etc", "var/lib/dpkg/info", "var/lib/dpkg/updates", "var/lib/dpkg/triggers"} {
		r.check(os.MkdirAll(r.path(dir), 0o755))
	}
	for _, file := range []string{"status", "available"} {
		r.check(os.WriteFile(r.path("var/lib/dpkg", file), nil, 0o644))
	}
	return r
}

func (r root) path(parts ...string) string {
	return filepath.Join(append([]string{r.dir}, parts...)...)
}

func (r root) check(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// dpkg works below the folder; the scripts of the package run outside of it, told where it is by DPKG_ROOT.
func (r root) dpkg(args ...string) {
	r.t.Helper()
	cmd := exec.Command("dpkg", append([]string{
		"--root=" + r.dir, "--force-script-chrootless", "--force-not-root", "--log=" + r.path("dpkg.log"), "--force-confold", "--force-unsafe-io",
	}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		r.t.Fatalf("dpkg %v: %v\n%s", args, err, out)
	}
}

// files are the names below a folder of the root.
func (r root) files(folder string) []string {
	r.t.Helper()
	var names []string
	r.check(filepath.WalkDir(r.path(folder), func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			names = append(names, strings.TrimPrefix(path, r.dir))
		}
		return err
	}))
	return names
}

// build makes the package of a version as `make deb` does, with programs of its own: other tests use those in bin.
func build(t *testing.T, version string) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("make", "-C", "../..", "deb", "PACKAGE_VERSION="+version, "PACKAGES="+dir,
		"BIN="+filepath.Join(dir, "bin"), "STAGE="+filepath.Join(dir, "stage"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("make deb: %v\n%s", err, out)
	}
	found, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil || len(found) != 1 {
		t.Fatalf("made %q, %v", found, err)
	}
	return found[0]
}

// TestDebLife installs a package, upgrades it, removes it and purges it.
func TestDebLife(t *testing.T) {
	r := newRoot(t)
	r.dpkg("--install", build(t, "0.1.0"))
	for _, program := range []string{"evpnd", "evpnctl"} {
		static(t, r.path("usr/bin", program))
	}
	installed := r.files(".")
	for _, want := range []string{
		"/usr/lib/systemd/system/evpnd.service", "/usr/lib/sysusers.d/evpnd.conf", "/usr/lib/tmpfiles.d/evpnd.conf",
		"/usr/share/man/man8/evpnd.8.gz", "/usr/share/man/man5/evpnd.yaml.5.gz", "/usr/share/man/man1/evpnctl-show-mac.1.gz",
		"/usr/share/bash-completion/completions/evpnctl", "/usr/share/zsh/vendor-completions/_evpnctl",
		"/usr/share/fish/vendor_completions.d/evpnctl.fish", "/usr/share/doc/evpnd/copyright",
	} {
		if !slices.Contains(installed, want) {
			t.Errorf("%s is not installed", want)
		}
	}
	sample := r.path("etc/evpnd/evpnd.yaml")
	if out, err := exec.Command(r.path("usr/bin/evpnd"), "check", "-c", sample).CombinedOutput(); err != nil {
		t.Errorf("the configuration of the package: %v\n%s", err, out)
	}
	passwd, err := os.ReadFile(r.path("etc/passwd"))
	if err != nil || !strings.Contains(string(passwd), "evpnd:") {
		t.Errorf("no user evpnd: %v\n%s", err, passwd)
	}
	for path, want := range map[string]fs.FileMode{"etc/evpnd": 0o750 | fs.ModeDir, "etc/evpnd/evpnd.yaml": 0o640} {
		if info, err := os.Stat(r.path(path)); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v, want %v", path, info.Mode(), err, want)
		}
	}

	const mine = "asn: 65001\nvtep: 10.255.0.7\npeers: []\n"
	r.check(os.WriteFile(sample, []byte(mine), 0o640))
	state := r.path("var/lib/evpnd/state.json")
	r.check(os.MkdirAll(filepath.Dir(state), 0o750))
	r.check(os.WriteFile(state, nil, 0o640))
	before := r.files(".")
	r.dpkg("--install", build(t, "0.2.0"))
	if d := cmp.Diff(before, r.files(".")); d != "" {
		t.Errorf("files before and after an upgrade:\n%s", d)
	}
	if got, err := os.ReadFile(sample); err != nil || string(got) != mine {
		t.Errorf("the configuration after an upgrade: %v\n%s", err, got)
	}

	r.dpkg("--remove", "evpnd")
	if _, err := os.Stat(r.path("usr")); err == nil {
		t.Errorf("left in usr after a remove: %q", r.files("usr"))
	}
	for _, path := range []string{sample, state} {
		if _, err := os.Stat(path); err != nil {
			t.Errorf("gone with a remove: %v", err)
		}
	}
	r.dpkg("--purge", "evpnd")
	for _, path := range []string{"etc/evpnd", "var/lib/evpnd"} {
		if _, err := os.Stat(r.path(path)); err == nil {
			t.Errorf("%s is left after a purge", path)
		}
	}
}

// static wants a program without an interpreter and without a dynamic section.
func static(t *testing.T, path string) {
	t.Helper()
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("%s has a %v segment", path, p.Type)
		}
	}
}
