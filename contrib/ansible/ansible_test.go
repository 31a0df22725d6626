// Package ansible_test runs the role against this machine, into a folder of its own.
package ansible_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const playbook = `
- hosts: localhost
  connection: local
  gather_facts: false
  roles: [evpnd]
`

// build makes the program that checks configurations.
func build(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "evpnd")
	if out, err := exec.Command("go", "build", "-o", program, "../../cmd/evpnd").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return program
}

// play runs the role with more variables; dir is where the configuration goes.
func play(t *testing.T, program, dir, vars string) (string, error) {
	t.Helper()
	work := t.TempDir()
	roles, err := filepath.Abs("roles")
	if err != nil {
		t.Fatal(err)
	}
	vars = `
evpnd_package: ""
evpnd_manage_service: false
evpnd_owner: root
evpnd_group: root
evpnd_program: ` + program + `
evpnd_config_dir: ` + dir + "\n" + vars
	for name, text := range map[string]string{"play.yml": playbook, "vars.yml": vars} {
		if err := os.WriteFile(filepath.Join(work, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("/usr/bin/ansible-playbook", "-i", "localhost,", "-e", "@vars.yml", "play.yml")
	cmd.Dir = work
	cmd.Env = append(os.Environ(), "ANSIBLE_ROLES_PATH="+roles, "ANSIBLE_HOME="+work, "ANSIBLE_LOCAL_TEMP="+work, "ANSIBLE_NOCOLOR=1",
		"LC_ALL=C.UTF-8")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestRole: the configuration is written once, and one that evpnd refuses never takes its place.
func TestRole(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to give files their owner")
	}
	program := build(t)
	dir := filepath.Join(t.TempDir(), "evpnd")
	vars := `
evpnd_config:
  asn: 65000
  vtep: 10.255.0.1
  peers:
    - {address: 10.0.0.254, asn: 65000, password-file: ` + dir + `/rr.key}
  vnis:
    100: {import: ["*:100"]}
evpnd_keys: {rr.key: secret}
`
	if out, err := play(t, program, dir, vars); err != nil || !strings.Contains(out, "changed=3") {
		t.Fatalf("%v\n%s", err, out)
	}
	if out, err := play(t, program, dir, vars); err != nil || !strings.Contains(out, "changed=0") {
		t.Fatalf("the second time: %v\n%s", err, out)
	}
	file := filepath.Join(dir, "evpnd.yaml")
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	out, err := play(t, program, dir, strings.Replace(vars, "asn: 65000\n", "asm: 65000\n", 1))
	if err == nil || !strings.Contains(out, "unknown key") {
		t.Errorf("a bad configuration: %v\n%s", err, out)
	}
	if after, err := os.ReadFile(file); err != nil || string(after) != string(before) {
		t.Errorf("the configuration after a bad one: %v\n%s", err, after)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("%v %v", info.Mode(), err)
	}
}

// TestYAMLLint: role, alert rules and manifests.
func TestYAMLLint(t *testing.T) {
	out, err := exec.Command("/usr/bin/yamllint", "--strict", "-c", ".yamllint", ".", "../prometheus",
		"../../deploy", "../../packaging/package").CombinedOutput()
	if err != nil {
		t.Errorf("yamllint: %v\n%s", err, out)
	}
}
