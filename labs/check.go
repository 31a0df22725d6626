package labs

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

var (
	validName      = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._-]*$`)
	validInterface = regexp.MustCompile(`^[^\s/:]{1,15}$`)
	validSysctl    = regexp.MustCompile(`^[a-z0-9_-]+([./][a-zA-Z0-9_-]+)+$`)
)

// checker turns a raw topology into a checked one and collects every fault on the way.
type checker struct {
	raw    *rawTopology
	dir    string // binds are relative to it
	topo   *Topology
	merged map[string]rawNode // by node name
	faults []error            // each begins with line:column, or a space when it has no place
	other  []string           // nodes of kinds that only containerlab can run
}

func (c *checker) fault(at text, format string, args ...any) {
	place := ""
	if at.place != "" {
		place = at.place + ":"
	}
	c.faults = append(c.faults, fmt.Errorf("%s %w", place, fmt.Errorf(format, args...)))
}

func (c *checker) note(format string, args ...any) {
	c.topo.Notes = append(c.topo.Notes, fmt.Sprintf(format, args...))
}

func (c *checker) check() {
	if !validName.MatchString(c.raw.Name) {
		c.fault(text{}, "name %q: want letters, digits, '.', '_' or '-'", c.raw.Name)
	}
	if len(c.raw.Topology.Nodes) == 0 {
		c.fault(text{}, "topology.nodes: a lab needs at least one node")
	}
	for _, kind := range slices.Sorted(maps.Keys(c.raw.Topology.Kinds)) {
		if kind != "linux" && !slices.Contains(otherKinds, kind) {
			c.fault(text{}, "topology.kinds: %q is not a kind of containerlab", kind)
		}
	}
	c.merged = make(map[string]rawNode)
	for _, name := range slices.Sorted(maps.Keys(c.raw.Topology.Nodes)) {
		c.merged[name] = c.merge(name)
		c.node(name, c.merged[name])
	}
	used := map[Endpoint]bool{}
	for i, l := range c.raw.Topology.Links {
		c.link(i, l, used)
	}
}

func (c *checker) node(name string, r rawNode) {
	if !validName.MatchString(name) {
		c.fault(text{}, "node %q: want letters, digits, '.', '_' or '-'", name)
		return
	}
	switch {
	case r.Kind.value == "":
		c.fault(r.Kind, "node %s: no kind, neither of its own nor from its group or the defaults", name)
		return
	case slices.Contains(otherKinds, r.Kind.value):
		c.other = append(c.other, name)
		c.note("node %s: kind %s runs under containerlab only; the node and its links are left out", name, r.Kind.value)
		return
	case r.Kind.value != "linux":
		c.fault(r.Kind, "node %s: %q is not a kind of containerlab", name, r.Kind.value)
		return
	}
	if keys := r.Ignored.keys(); len(keys) > 0 {
		c.note("node %s: no effect here: %s", name, strings.Join(keys, ", "))
	}
	if r.Image.value == "" {
		c.fault(r.Image, "node %s: no image", name)
	}
	if m := r.NetworkMode; !slices.Contains([]string{"", "none", "bridge"}, m.value) {
		c.fault(m, "node %s: network-mode %q shares a network that is not the node's; want none", name, m.value)
	}
	n := Node{
		Name: name, Image: r.Image.value, Env: r.Env, Sysctls: r.Sysctls,
		StartupDelay: time.Duration(r.StartupDelay) * time.Second,
		Entrypoint:   c.words(name, "entrypoint", r.Entrypoint),
		Cmd:          c.words(name, "cmd", r.Cmd),
	}
	for _, e := range r.Exec {
		if argv := c.words(name, "exec", e); argv != nil {
			n.Exec = append(n.Exec, argv)
		}
	}
	for _, b := range r.Binds {
		c.bind(&n, b)
	}
	for _, key := range slices.Sorted(maps.Keys(r.Sysctls)) {
		if !validSysctl.MatchString(key) {
			c.fault(text{}, "node %s: sysctl %q: want a name as in net.ipv4.ip_forward", name, key)
		}
	}
	c.topo.Nodes = append(c.topo.Nodes, n)
}

// merge lays the node over its group, its kind and the defaults, as containerlab does: single values by the first that
// has one, maps and lists together.
func (c *checker) merge(name string) rawNode {
	body := c.raw.Topology
	var r rawNode
	overlay := func(n *rawNode) {
		if n == nil {
			return
		}
		first(&r.Kind, n.Kind)
		first(&r.Group, n.Group)
		first(&r.Image, n.Image)
		first(&r.Entrypoint, n.Entrypoint)
		first(&r.Cmd, n.Cmd)
		first(&r.NetworkMode, n.NetworkMode)
		if r.StartupDelay == 0 {
			r.StartupDelay = n.StartupDelay
		}
		r.Env = under(r.Env, n.Env)
		r.Sysctls = under(r.Sysctls, n.Sysctls)
		r.Exec = append(slices.Clone(n.Exec), r.Exec...)
		r.Binds = append(slices.Clone(n.Binds), r.Binds...)
		if len(r.Ignored.keys()) == 0 {
			r.Ignored = n.Ignored
		}
	}
	overlay(body.Nodes[name])
	group := r.Group
	if group.value == "" && body.Defaults != nil {
		group = body.Defaults.Group
	}
	if group.value != "" {
		g, ok := body.Groups[group.value]
		if !ok {
			c.fault(group, "node %s: no group %q", name, group.value)
		}
		overlay(g)
	}
	kind := r.Kind
	if kind.value == "" && body.Defaults != nil {
		kind = body.Defaults.Kind
	}
	overlay(body.Kinds[kind.value])
	overlay(body.Defaults)
	return r
}

// first sets t unless it has a value already.
func first(t *text, v text) {
	if t.value == "" {
		*t = v
	}
}

// under returns over with the entries of base that it lacks.
func under(over, base map[string]string) map[string]string {
	if base == nil {
		return over
	}
	m := maps.Clone(base)
	maps.Copy(m, over)
	return m
}

func (c *checker) words(node, key string, t text) []string {
	argv, err := splitWords(t.value)
	if err != nil {
		c.fault(t, "node %s: %s %q: %w", node, key, t.value, err)
	}
	return argv
}

// bind reads SOURCE:TARGET[:OPTIONS]; the source must exist, or containerlab would create a directory in its place.
func (c *checker) bind(n *Node, t text) {
	parts := strings.Split(t.value, ":")
	if len(parts) < 2 || len(parts) > 3 || parts[0] == "" {
		c.fault(t, "node %s: bind %q: want SOURCE:TARGET or SOURCE:TARGET:ro", n.Name, t.value)
		return
	}
	b := Bind{Source: parts[0], Target: filepath.Clean(parts[1])}
	if !filepath.IsAbs(b.Source) {
		b.Source = filepath.Join(c.dir, b.Source)
	}
	if !filepath.IsAbs(b.Target) || b.Target == "/" {
		c.fault(t, "node %s: bind %q: the target must be an absolute path below /", n.Name, t.value)
	}
	if len(parts) == 3 {
		for _, o := range strings.Split(parts[2], ",") {
			switch o {
			case "ro":
				b.ReadOnly = true
			case "rw", "z", "Z":
			default:
				c.fault(t, "node %s: bind %q: unknown option %q", n.Name, t.value, o)
			}
		}
	}
	if _, err := os.Stat(b.Source); err != nil {
		c.fault(t, "node %s: bind %q: %w", n.Name, t.value, err)
	}
	n.Binds = append(n.Binds, b)
}

func (c *checker) link(i int, l rawLink, used map[Endpoint]bool) {
	if t := l.Type; t.value != "" && t.value != "veth" {
		c.fault(t, "link %d: type %q runs under containerlab only; want endpoints: [\"NODE:IF\", \"NODE:IF\"]", i+1, t.value)
		return
	}
	if len(l.Endpoints) != 2 {
		c.fault(text{}, "link %d: want 2 endpoints, have %d", i+1, len(l.Endpoints))
		return
	}
	link := Link{MTU: l.MTU}
	if link.MTU == 0 {
		link.MTU = defaultMTU
	}
	if link.MTU < 68 || link.MTU > 65535 {
		c.fault(l.Endpoints[0], "link %d: mtu %d: want 68 to 65535", i+1, l.MTU)
	}
	skip := false
	for side, t := range l.Endpoints {
		node, ifname, _ := strings.Cut(t.value, ":")
		e := Endpoint{Node: node, Interface: ifname}
		skip = skip || slices.Contains(c.other, node)
		c.endpoint(i, t, e, used)
		*[]*Endpoint{&link.A, &link.B}[side] = e
	}
	if skip {
		c.note("link %s %s: left out with its node", link.A, link.B)
		for i, n := range c.topo.Nodes {
			c.topo.Nodes[i].Cut = n.Cut || n.Name == link.A.Node || n.Name == link.B.Node
		}
		return
	}
	c.topo.Links = append(c.topo.Links, link)
}

func (c *checker) endpoint(i int, t text, e Endpoint, used map[Endpoint]bool) {
	if !validInterface.MatchString(e.Interface) {
		c.fault(t, "link %d: endpoint %q: want NODE:INTERFACE with an interface name of 1 to 15 characters", i+1, t.value)
	}
	n, ok := c.merged[e.Node]
	if !ok {
		c.fault(t, "link %d: endpoint %q: no node %q", i+1, t.value, e.Node)
		return
	}
	if e.Interface == "eth0" && n.NetworkMode.value != "none" {
		c.fault(t, "link %d: endpoint %q: eth0 is the management interface unless network-mode is none", i+1, t.value)
	}
	if used[e] {
		c.fault(t, "link %d: endpoint %q is used twice", i+1, t.value)
	}
	used[e] = true
}
