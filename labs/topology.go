package labs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Topology is a checked .clab.yml: what this runner can run of it, with defaults, kinds and groups merged in.
type Topology struct {
	Name  string // of the lab; also in the names of its network namespaces
	Path  string // absolute path of the file
	Nodes []Node // sorted by name; without those of kinds that only containerlab can run
	Links []Link
	Notes []string // what of the file has no effect here, in plain words
}

// Node is one linux node.
type Node struct {
	Name         string
	Image        string            // see Image for what is made of it
	Exec         [][]string        // commands run inside once the links exist, in order
	Binds        []Bind            // files and directories of the host that appear inside
	Env          map[string]string // for the node's process and for Exec
	Sysctls      map[string]string // below /proc/sys, with dots
	Entrypoint   []string          // replaces the image's; nil: the image's
	Cmd          []string          // replaces the image's arguments; nil: the image's
	StartupDelay time.Duration     // between creating the node and starting its process
	Cut          bool              // a link of it was left out, so that exec may fail
}

// Bind is a file or directory of the host mounted in a node.
type Bind struct {
	Source   string // absolute, on the host
	Target   string // absolute, in the node
	ReadOnly bool
}

// Link is a veth pair between two nodes.
type Link struct {
	A, B Endpoint
	MTU  int // 68 to 65535; default 9500, as containerlab's
}

// Endpoint is one end of a link.
type Endpoint struct {
	Node      string
	Interface string // name in the node, at most 15 octets
}

func (e Endpoint) String() string { return e.Node + ":" + e.Interface }

// defaultMTU is containerlab's for links that name none.
const defaultMTU = 9500

// Node returns the node called name; ok is false when the lab has none.
func (t *Topology) Node(name string) (n Node, ok bool) {
	i, ok := slices.BinarySearchFunc(t.Nodes, name, func(n Node, name string) int { return strings.Compare(n.Name, name) })
	if !ok {
		return Node{}, false
	}
	return t.Nodes[i], true
}

// Load reads the topology at path: a file, or a directory with exactly one *.clab.yml. The error joins every fault of
// the file, each with line and column.
func Load(path string) (*Topology, error) {
	file, err := findTopology(path)
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read topology: %w", err)
	}
	raw, err := parse(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Base(file), err)
	}
	c := checker{raw: raw, dir: filepath.Dir(file), topo: &Topology{Name: raw.Name, Path: file}}
	c.check()
	if len(c.faults) > 0 {
		for i, f := range c.faults {
			c.faults[i] = fmt.Errorf("%s:%w", filepath.Base(file), f)
		}
		return nil, errors.Join(c.faults...)
	}
	return c.topo, nil
}

// findTopology turns a directory into the one topology file in it, and makes path absolute.
func findTopology(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("find topology %s: %w", path, err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("find topology: %w", err)
	}
	if !info.IsDir() {
		return path, nil
	}
	found, err := filepath.Glob(filepath.Join(path, "*.clab.y*ml"))
	if err != nil {
		return "", fmt.Errorf("find topology in %s: %w", path, err)
	}
	if len(found) != 1 {
		return "", fmt.Errorf("find topology in %s: want one *.clab.yml, have %d", path, len(found))
	}
	return found[0], nil
}
