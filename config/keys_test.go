package config

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestKeysAreAll: every key that a file may have is in Keys, once, and nothing else is.
func TestKeysAreAll(t *testing.T) {
	known := map[string]fields{
		sectionTop:          (&raw{}).keys(),
		sectionListen:       (&rawListen{}).keys(),
		sectionPeers:        (&rawPeer{}).keys(),
		sectionDynamicPeers: (&rawDynamicPeers{}).keys(),
		sectionVNIs:         (&rawVNI{}).keys(),
		sectionDuplicates:   (&rawDuplicates{}).keys(),
		sectionAPI:          (&rawAPI{}).keys(),
		sectionLog:          (&rawLog{}).keys(),
	}
	for section := range known {
		delete(known[sectionTop], section)
	}
	for _, refused := range []string{"port", "passive", "connect-retry", "router-advertisements"} {
		delete(known[sectionDynamicPeers], refused)
	}
	seen := map[string]bool{}
	for _, k := range Keys() {
		if _, ok := known[k.Section][k.Name]; !ok || seen[k.Path()] {
			t.Errorf("%s is not a key, or there twice", k.Path())
		}
		seen[k.Path()] = true
		if k.Type == "" || k.Meaning == "" {
			t.Errorf("%s: %+v", k.Path(), k)
		}
	}
	for section, keys := range known {
		for _, name := range slices.Sorted(maps.Keys(keys)) {
			if path := (Key{Section: section, Name: name}).Path(); !seen[path] {
				t.Errorf("Keys lacks %s", path)
			}
		}
	}
}

// TestDefaults: what Keys calls a default is what a file without the key gives.
func TestDefaults(t *testing.T) {
	c, err := Parse("minimal.yaml", []byte(`
asn: 65000
vtep: 10.255.0.1
peers: [{address: 10.0.0.254, asn: 65001}]
dynamic-peers: [{prefix: 10.1.0.0/16, asn: any}]
vnis: {100: }
`))
	if err != nil {
		t.Fatal(err)
	}
	given := []string{"asn", "vtep", "listen.enabled", "peers[].asn", "dynamic-peers[].asn"}
	for _, s := range c.Settings(false) {
		if path := (Key{Section: s.Section, Name: s.Key}).Path(); s.Key != "" && !slices.Contains(given, path) {
			t.Errorf("%s has %s, Keys says %q", path, s.Value, defaults[s.id()])
		}
	}
	if d := Diff(c, c); len(d) > 0 {
		t.Errorf("it differs from itself: %v", d)
	}
}

const full = `
asn: 4200000001
router-id: 10.255.0.1
vtep: fd00::1
listen: {port: 1179, addresses: [10.0.0.1, "fe80::1%eth0"]}
peers:
  - {address: fe80::2, port: 1790, asn: internal, description: "on: *rack 7", local-address: fe80::1, interface: eth0,
     ttl-security: 1, password-file: secret, hold-time: 1m30s, keepalive: 10, connect-retry: 500ms, graceful-restart: 0,
     rt-constraint: true, need-encapsulation: true, max-routes: 5000}
  - {address: 10.0.0.2, asn: 65001, multihop: 3, passive: true, hold-time: 0, description: "null"}
dynamic-peers:
  - {prefix: 10.1.0.0/16, asn: any, limit: 7, max-routes: 9}
  - {prefix: "fd00:1::/32", asn: 65002}
vnis:
  90: {off: true, arp-suppression: false, manage: true}
  100: {rd: "10.0.0.1:5", import: ["65000:100", "*:5"], export: ["4200000001:100"], strict-tag: true, static-macs: sticky}
  300: {snooping: true, arp-suppression: true, gateways: [{mac: "02:00:5e:00:01:01", ip: "2001:db8::fe"}]}
  400: {create: true, device: vx-400, bridge: "br 400"}
  500:
route-targets: as4
auto-vnis: false
snooping: false
arp-suppression: false
manage-devices: true
duplicates: {moves: 7, within: 60, action: alarm, recover-after: 1h}
flush-on-exit: true
state-dir: /tmp/state dir
api:
  {socket: /run/e.sock, group: "1000", admin-group: wheel, metrics: "[::1]:9473", listen: "[fd00::1]:9474", certificate: api.crt,
   key: api.key, client-ca: api.crt, readers: [noc.example.net], admins: ["spiffe://x/ops", "a@b"]}
log: {level: debug, format: json}
`

// TestYAML: a configuration that is written and read again is the same, with the defaults and without them.
func TestYAML(t *testing.T) {
	text := strings.ReplaceAll(full, "br 400", "br400")
	cert, key := keyPair(t)
	for _, all := range []bool{true, false} {
		dir := tree(t, map[string]string{"secret": "s3cret\n", "evpnd.yaml": text, "api.crt": cert, "api.key": key})
		c, err := Load(dir + "/evpnd.yaml")
		if err != nil {
			t.Fatal(err)
		}
		written := c.YAML(all)
		if strings.Contains(written, "s3cret") || strings.Contains(written, "PRIVATE") {
			t.Error("the secret is printed")
		}
		again, err := Parse("again.yaml", []byte(written))
		if err != nil {
			t.Fatalf("%v in\n%s", err, written)
		}
		if d := cmp.Diff(c, again, values); d != "" {
			t.Errorf("read again (-was +is):\n%s\n%s", d, written)
		}
	}
}

// TestDiff: every difference has its line, in order, and its effect.
func TestDiff(t *testing.T) {
	dir := tree(t, map[string]string{"secret": "one\n", "old.yaml": `
asn: 65000
vtep: 10.255.0.1
peers:
  - {address: 10.0.0.10, asn: 65000, password-file: secret}
  - {address: 10.0.0.9, asn: 65000}
  - {address: 10.0.0.8, asn: 65000}
dynamic-peers: [{prefix: 10.1.0.0/16, asn: any, hold-time: 30}]
vnis: {20: , 100: {import: ["65000:1"]}, 3: {off: true}}
log: {level: debug}
`, "new.yaml": `
asn: 65001
vtep: 10.255.0.1
peers:
  - {address: 10.0.0.8, asn: 65000, hold-time: 9, description: rack 7}
  - {address: 10.0.0.10, asn: 65000, password-file: secret}
  - {address: 10.0.0.11, asn: 65000, hold-time: 9}
  - {address: 10.1.0.5, asn: 65000}
dynamic-peers: [{prefix: 10.1.0.0/16, asn: any, limit: 5}]
vnis: {100: {import: ["65000:2"]}, 3: {off: false}, 4: {off: true}}
`})
	old, err := Load(dir + "/old.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/secret", []byte("two\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	next, err := Load(dir + "/new.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range Diff(old, next) {
		got = append(got, c.Consequence()+" | "+c.String())
	}
	want := []string{
		"needs a restart | asn: 65000 -> 65001",
		"applies live | peers.10.0.0.8.description: none -> \"rack 7\"",
		"flaps peer 10.0.0.8 | peers.10.0.0.8.hold-time: 90s -> 9s",
		"flaps peer 10.0.0.9 | peers.10.0.0.9: removed",
		"applies live | peers.10.0.0.10.password-file: another secret",
		"applies live | peers.10.0.0.11: added",
		"flaps peer 10.1.0.5 | peers.10.1.0.5: added",
		"applies live | dynamic-peers.10.1.0.0/16.limit: 100 -> 5",
		"flaps peers of 10.1.0.0/16 | dynamic-peers.10.1.0.0/16.hold-time: 30s -> 90s",
		"applies live | vnis.3.off: true -> false",
		"applies live | vnis.4: added",
		"applies live | vnis.20: removed",
		"applies live | vnis.100.import: [\"65000:1\"] -> [\"65000:2\"]",
		"applies live | log.level: debug -> info",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// TestConfigurationDoc: docs/configuration.md is that of Keys; -update writes it.
func TestConfigurationDoc(t *testing.T) {
	const path = "../docs/configuration.md"
	want := configurationDoc()
	if *update {
		if err := os.WriteFile(path, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not that of the code: make gen", path)
	}
}

func configurationDoc() []byte {
	var b bytes.Buffer
	b.WriteString(docHead)
	section := "none"
	for _, k := range Keys() {
		if k.Section == sectionDynamicPeers && slices.ContainsFunc(sessionKeys, func(s Key) bool { return s.Name == k.Name }) {
			continue // those of peers
		}
		if k.Section != section {
			section = k.Section
			fmt.Fprintf(&b, "\n## %s\n\n%s| key | value | default | on reload | |\n|---|---|---|---|---|\n",
				titles[section].title, titles[section].words)
		}
		value := k.Type
		if k.Range != "" {
			value += ": " + k.Range
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", k.Name, value, k.Default, k.Effect, k.Meaning)
	}
	return b.Bytes()
}

const docHead = `# Configuration

Every key, made from the code (` + "`make gen`" + `). [config/reference.yaml](../config/reference.yaml) is a file with all of them, and more
words on each. Durations are ` + "`90s`, `1m30s`" + ` or plain seconds. ` + "`conf.d/*.yaml`" + ` beside the file are read too: lists and sections
are joined, one and the same value may be set in one file only.

` + "`evpnd check`" + ` names every fault of a file with its place. A reload (` + "`evpnctl reload`, SIGHUP" + `) applies all of a file or nothing:

| on reload | |
|---|---|
| live | in force when the reload returns; no session ends, no other VNI notices |
| flaps | the session with that peer starts anew; no other does. Removing a peer ends its session |
| restart | refused, with all such keys named; nothing is changed |

` + "`evpnctl reload --dry-run` and `evpnd diff -c NEW`" + ` say beforehand what would happen, key by key; ` + "`evpnctl show config`" + ` prints
what is in force. VNIs come and go live, and so do peers.
`

var titles = map[string]struct{ title, words string }{
	sectionTop:          {"Top level", ""},
	sectionListen:       {"listen", "In short `listen: true` or `listen: false`. Default: not at all, unless there are passive or dynamic peers.\n\n"},
	sectionPeers:        {"peers", "A list.\n\n"},
	sectionDynamicPeers: {"dynamic-peers", "A list of prefixes whose addresses may connect. Beside these keys those of peers from `description` on.\n\n"},
	sectionVNIs:         {"vnis", "A map: VNI, 1–16777215, to its settings.\n\n"},
	sectionDuplicates:   {"duplicates", ""},
	sectionAPI:          {"api", ""},
	sectionLog:          {"log", ""},
}
