package labs

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestLoadMerges: a node takes single values from the first of node, group, kind and defaults, and lists and maps from all.
func TestLoadMerges(t *testing.T) {
	dir := write(t, map[string]string{"conf": "", "m.clab.yml": `
name: merge
topology:
  defaults: {env: {A: d, B: d}, exec: ["echo default"], network-mode: none}
  kinds:
    linux: {image: from-kind, env: {B: k}, sysctls: {net.ipv4.ip_forward: 1}, labels: {x: y}}
  groups:
    g: {kind: linux, env: {C: "g"}, exec: ["echo 'group it is'"], binds: ["conf:/etc/conf:ro"], startup-delay: 2}
  nodes:
    plain: {group: g}
    own: {group: g, image: mine, entrypoint: "run it", cmd: 'with "two words"', env: {C: own}, exec: [echo own]}
    switch: {kind: nokia_srlinux, image: srl}
  links:
    - endpoints: ["plain:eth0", "own:eth1"]
    - {type: veth, endpoints: ["plain:eth1", "own:eth2"], mtu: 1500}
    - endpoints: ["plain:eth2", "switch:e1-1"]
`})
	got, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	common := Node{
		Binds:        []Bind{{Source: filepath.Join(dir, "conf"), Target: "/etc/conf", ReadOnly: true}},
		Sysctls:      map[string]string{"net.ipv4.ip_forward": "1"},
		StartupDelay: 2 * time.Second,
	}
	plain, own := common, common
	plain.Name, plain.Image, plain.Cut = "plain", "from-kind", true
	plain.Env = map[string]string{"A": "d", "B": "k", "C": "g"}
	plain.Exec = [][]string{{"echo", "default"}, {"echo", "group it is"}}
	own.Name, own.Image = "own", "mine"
	own.Env = map[string]string{"A": "d", "B": "k", "C": "own"}
	own.Exec = append(plain.Exec, []string{"echo", "own"})
	own.Entrypoint, own.Cmd = []string{"run", "it"}, []string{"with", "two words"}
	want := &Topology{
		Name: "merge", Path: filepath.Join(dir, "m.clab.yml"), Nodes: []Node{own, plain},
		Links: []Link{
			{A: Endpoint{"plain", "eth0"}, B: Endpoint{"own", "eth1"}, MTU: 9500},
			{A: Endpoint{"plain", "eth1"}, B: Endpoint{"own", "eth2"}, MTU: 1500},
		},
		Notes: []string{
			"node switch: kind nokia_srlinux runs under containerlab only; the node and its links are left out",
			"link plain:eth2 switch:e1-1: left out with its node",
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestLoadFaults: every fault of a file is named with its place, all at once.
func TestLoadFaults(t *testing.T) {
	const node = "name: l\ntopology:\n  nodes:\n    a: {kind: linux, image: x, network-mode: none}\n"
	for _, tc := range []struct {
		name, text string
		want       []string
	}{
		{"unknown key", node + "    b: {kind: linux, image: x, imge: y}\n", []string{"[5:", `unknown field "imge"`}},
		{"key twice", "name: l\nname: m\n", []string{"[2:1]", "already defined"}},
		{"wrong type", node + "    b: {kind: linux, image: [x]}\n", []string{"5:", "want one value"}},
		{"not YAML", "name: [", []string{"[1:"}},
		{"no name", "topology:\n  nodes:\n    a: {kind: linux, image: x}\n", []string{`name ""`}},
		{"name that leaves the directory", strings.Replace(node, "name: l", "name: ../l", 1), []string{`"../l"`}},
		{"no nodes", "name: l\ntopology: {}\n", []string{"at least one node"}},
		{"unknown kind", node + "    b: {kind: linus, image: x}\n", []string{"5:15:", `"linus" is not a kind`}},
		{"unknown kind in kinds", node + "  kinds:\n    linuks: {image: x}\n", []string{"topology.kinds", `"linuks" is not a kind`}},
		{"no kind", node + "    b: {image: x}\n", []string{"node b: no kind"}},
		{"no image", node + "    b: {kind: linux}\n", []string{"node b: no image"}},
		{"unknown group", node + "    b: {kind: linux, image: x, group: g}\n", []string{"5:39:", `no group "g"`}},
		{"shared network", node + "    b: {kind: linux, image: x, network-mode: host}\n", []string{"5:", `network-mode "host"`}},
		{"binds", node + "    b: {kind: linux, image: x, binds: [nosuch:/x, \"l.clab.yml:rel\", one, \"l.clab.yml:/y:odd\"]}\n", []string{
			"5:40:", "nosuch", `"l.clab.yml:rel": the target`, `"one": want SOURCE:TARGET`, `unknown option "odd"`,
		}},
		{"open quote", node + "    b: {kind: linux, image: x, exec: [\"echo 'x\"]}\n", []string{"5:", "without an end"}},
		{"sysctl", node + "    b: {kind: linux, image: x, sysctls: {../x: 1}}\n", []string{`sysctl "../x"`}},
		{"links", node + `  links:
    - endpoints: ["a:eth1", "b:eth1"]
    - endpoints: ["a:eth2"]
    - endpoints: ["a:eth1", "a:this-is-too-long"]
    - {type: macvlan, endpoints: ["a:eth4", "a:eth5"]}
    - {endpoints: ["a:eth6", "a:eth7"], mtu: 20}
`, []string{
			`6:29:`, `no node "b"`, "link 2: want 2 endpoints", `"a:eth1" is used twice`, `"a:this-is-too-long"`, `type "macvlan"`, "mtu 20",
		}},
		{"management interface", strings.Replace(node, ", network-mode: none", "", 1) +
			"  links:\n    - endpoints: [\"a:eth0\", \"a:eth1\"]\n", []string{"6:", "eth0 is the management interface"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := Load(write(t, map[string]string{"l.clab.yml": tc.text}))
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range append(tc.want, "l.clab.yml:") {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("no %q in: %v", want, err)
				}
			}
		})
	}
}

func TestLoadFindsTheFile(t *testing.T) {
	const text = "name: l\ntopology: {nodes: {a: {kind: linux, image: x}}}\n"
	if _, err := Load(write(t, map[string]string{"a.clab.yaml": text})); err != nil {
		t.Error(err)
	}
	for name, files := range map[string]map[string]string{
		"none": {"a.yml": text}, "two": {"a.clab.yml": text, "b.clab.yml": text},
	} {
		if _, err := Load(write(t, files)); err == nil || !strings.Contains(err.Error(), "want one") {
			t.Errorf("%s: error %v", name, err)
		}
	}
	if _, err := Load(filepath.Join(t.TempDir(), "nosuch")); err == nil {
		t.Error("no error for a path that does not exist")
	}
}

// TestOwnLabs: every lab of this directory loads without a note: all of it runs here.
func TestOwnLabs(t *testing.T) {
	files, err := filepath.Glob("[0-9][0-9]-*/*.clab.yml")
	if err != nil || len(files) < 4 {
		t.Fatalf("labs %v, error %v", files, err)
	}
	for _, file := range files {
		topo, err := Load(file)
		if err != nil {
			t.Error(err)
			continue
		}
		if name := filepath.Base(filepath.Dir(file)); topo.Name != name || len(topo.Notes) > 0 {
			t.Errorf("%s: name %s, notes %v", file, topo.Name, topo.Notes)
		}
	}
}

func TestSplitWords(t *testing.T) {
	for line, want := range map[string][]string{
		"":                          nil,
		"  ip  link\tset up ":       {"ip", "link", "set", "up"},
		`sh -c 'a "b" $c'`:          {"sh", "-c", `a "b" $c`},
		`echo "a 'b' \" c" d\ e ''`: {"echo", `a 'b' " c`, "d e", ""},
		`a'b'"c"`:                   {"abc"},
	} {
		got, err := splitWords(line)
		if err != nil {
			t.Errorf("%q: %v", line, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q: %s", line, diff)
		}
	}
	for _, line := range []string{`a 'b`, `a "b`, `a\`} {
		if _, err := splitWords(line); err == nil {
			t.Errorf("%q: no error", line)
		}
	}
}

func TestRoleOf(t *testing.T) {
	for image, want := range map[string]role{
		"frrouting/frr:latest": roleFRR, "frr": roleFRR, "host.example/frr/alpine:3": roleIdle, "evpnd:lab": roleEVPND,
		"evpnd/tools:1": roleIdle, "me/evpnd-lab": roleEVPND, "alpine:frr": roleIdle,
	} {
		if got := roleOf(image); got != want {
			t.Errorf("%s: role %d, want %d", image, got, want)
		}
	}
}

func TestNeed(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if err := Need("ping"); err == nil || !strings.Contains(err.Error(), "apt-get install iputils-ping") {
		t.Errorf("error %v, want one that names the package", err)
	}
}
