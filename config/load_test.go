package config

import (
	"errors"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/evpnd/evpnd/evpn"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// values compares configurations: addresses and prefixes by value.
var values = cmp.Options{cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})}

// tree writes files below a new folder and returns the folder.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// load loads evpnd.yaml below a new folder and returns what it says, or its faults with the folder cut off.
func load(t *testing.T, files map[string]string) (*Config, string) {
	t.Helper()
	dir := tree(t, files)
	c, err := Load(filepath.Join(dir, "evpnd.yaml"))
	if err == nil {
		return c, ""
	}
	var faults Faults
	if !errors.As(err, &faults) || c != nil {
		t.Fatalf("Load = %v, %T, want no Config and Faults", c, err)
	}
	var lines []string
	for _, f := range faults {
		lines = append(lines, strings.ReplaceAll(f.String(), dir+"/", ""))
	}
	return nil, strings.Join(lines, "\n")
}

func TestLoadMinimal(t *testing.T) {
	got, faults := load(t, map[string]string{"evpnd.yaml": `
asn: 65000
vtep: 10.255.0.1
peers:
  - address: 10.0.0.254
    asn: 65000
`})
	want := &Config{
		ASN:      65000,
		RouterID: netip.MustParseAddr("10.255.0.1"),
		VTEP:     netip.MustParseAddr("10.255.0.1"),
		Listen:   Listen{Port: 179},
		Peers: []Peer{{
			Address: netip.MustParseAddr("10.0.0.254"), Port: 179, ASN: 65000,
			HoldTime: 90 * time.Second, Keepalive: 30 * time.Second, ConnectRetry: 5 * time.Second,
			GracefulRestart: 120 * time.Second, StaleTime: 180 * time.Second, MaxRoutes: MaxRoutes{Most: 1_000_000, Warn: 75},
		}},
		VNIs:     map[evpn.VNI]VNI{},
		RT:       evpn.RTAuto,
		AutoVNIs: true, Snooping: true, SnoopingRate: 2000,
		MaxMACs: evpn.MACLimits{Local: 262144, Remote: 1048576},
		Duplicates: evpn.DuplicatePolicy{
			Moves: 5, Within: 180 * time.Second, RecoverAfter: 540 * time.Second, Action: evpn.DuplicateHold,
		},
		VTEPReachability: ReachabilityRoute, VTEPHold: time.Minute, VTEPProbeMisses: 3,
		StateDir: "/var/lib/evpnd",
		API:      API{Socket: "/run/evpnd/evpnd.sock"},
		Log:      Log{Level: "info", Format: "text"},
	}
	if faults != "" {
		t.Fatal(faults)
	}
	if diff := cmp.Diff(want, got, values); diff != "" {
		t.Errorf("minimal file (-want +got):\n%s", diff)
	}
}

// TestLoadFull: every key arrives where it belongs.
func TestLoadFull(t *testing.T) {
	got, faults := load(t, map[string]string{
		"secret": "s3cret\n",
		"evpnd.yaml": `
asn: 4200000001
router-id: 10.255.0.1
vtep: fd00::1
listen: {port: 1179, addresses: [10.0.0.1, "fe80::1%eth0"]}
peers:
  - address: fe80::2
    port: 1790
    asn: internal
    description: rack 7
    local-address: fe80::1
    interface: eth0
    ttl-security: 1
    password-file: secret
    hold-time: 1m30s
    keepalive: 10
    connect-retry: 500ms
    graceful-restart: 0
    rt-constraint: true
    need-encapsulation: true
    max-routes: 5000
  - address: 10.0.0.2
    asn: 65001
    multihop: 3
    passive: true
    hold-time: 0
    long-lived: 1h
    stale-time: 20
    on-peer-loss: keep-for 10m
    max-routes: {limit: 9, warn: 50, action: reset, idle-hold: 60}
dynamic-peers:
  - {prefix: 10.1.0.0/16, asn: any, limit: 7, max-routes: {limit: 9, action: reset}}
vnis:
  100: {rd: 10.0.0.1:5, import: [65000:100, 10.0.0.1:5], export: [4200000001:100], strict-tag: true}
  200: {off: true, arp-suppression: false, manage: true}
  300: {snooping: true, arp-suppression: true}
  400: {static-macs: sticky, max-macs: {local: 5, port: 3}}
  500:
    static-macs: normal
    gateways:
      - {mac: 02:00:5e:00:01:01, ip: 172.16.0.254}
      - mac: 02:00:5e:00:01:01
        ip: 2001:db8::fe
route-targets: as4
auto-vnis: false
snooping: false
snooping-rate: 500
arp-suppression: false
manage-devices: true
duplicates: {moves: 7, within: 60, action: alarm, recover-after: 1h}
vtep-reachability: no-default
vtep-hold: 0
vtep-probe: 1m
vtep-probe-misses: 7
flush-on-exit: true
max-macs: {local: 0, remote: 0}
on-peer-loss: withdraw
state-dir: /srv/evpnd/
api: {socket: /run/x.sock, group: evpn, metrics: "[::1]:9473"}
log: {level: debug, format: json}
`,
	})
	if faults != "" {
		t.Fatal(faults)
	}
	yes, no := true, false
	want := &Config{
		ASN:      4200000001,
		RouterID: netip.MustParseAddr("10.255.0.1"),
		VTEP:     netip.MustParseAddr("fd00::1"),
		Listen: Listen{Enabled: true, Port: 1179, Addresses: []netip.Addr{
			netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fe80::1%eth0"),
		}},
		Peers: []Peer{{
			Address: netip.MustParseAddr("fe80::2%eth0"), Port: 1790, ASN: 4200000001, Description: "rack 7",
			LocalAddress: netip.MustParseAddr("fe80::1%eth0"), Interface: "eth0", TTLSecurity: 1, Password: "s3cret",
			HoldTime: 90 * time.Second, Keepalive: 10 * time.Second, ConnectRetry: 500 * time.Millisecond,
			RTConstraint: true, NeedEncap: true, OnPeerLoss: PeerLoss{Withdraw: true}, StaleTime: 3 * time.Minute,
			MaxRoutes: MaxRoutes{Most: 5000, Warn: 75},
		}, {
			Address: netip.MustParseAddr("10.0.0.2"), Port: 179, ASN: 65001, Multihop: 3, Passive: true,
			ConnectRetry: 5 * time.Second, GracefulRestart: 120 * time.Second, LongLived: time.Hour, StaleTime: 20 * time.Second,
			OnPeerLoss: PeerLoss{Keep: 10 * time.Minute},
			MaxRoutes:  MaxRoutes{Most: 9, Warn: 50, Action: evpn.LimitReset, IdleHold: time.Minute},
		}},
		DynamicPeers: []DynamicPeers{{
			Prefix: netip.MustParsePrefix("10.1.0.0/16"), Limit: 7,
			Template: Peer{
				Passive: true, HoldTime: 90 * time.Second, Keepalive: 30 * time.Second,
				GracefulRestart: 120 * time.Second, StaleTime: 3 * time.Minute, OnPeerLoss: PeerLoss{Withdraw: true},
				MaxRoutes: MaxRoutes{Most: 9, Warn: 75, Action: evpn.LimitReset, IdleHold: 5 * time.Minute},
			},
		}},
		VNIs: map[evpn.VNI]VNI{
			100: {
				RD: evpn.NewRD(netip.MustParseAddr("10.0.0.1"), 5),
				Import: []evpn.RTPattern{
					{RT: evpn.NewRT(65000, 100)},
					{RT: evpn.RT{1, 2, 10, 0, 0, 1, 0, 5}},
				},
				Export:    []evpn.RT{evpn.NewAS4RT(4200000001, 100)},
				StrictTag: true,
			},
			200: {Off: true, ARPSuppression: &no, Manage: &yes},
			300: {Snooping: &yes, ARPSuppression: &yes},
			400: {StickyStatic: true, MaxMACs: evpn.MACLimits{Local: 5, Port: 3}},
			500: {Gateways: []evpn.Gateway{
				{MAC: evpn.MAC{2, 0, 0x5e, 0, 1, 1}, IP: netip.MustParseAddr("172.16.0.254")},
				{MAC: evpn.MAC{2, 0, 0x5e, 0, 1, 1}, IP: netip.MustParseAddr("2001:db8::fe")},
			}},
		},
		RT: evpn.RTAS4, Snooping: false, SnoopingRate: 500, ARPSuppression: &no, ManageDevices: true, FlushOnExit: true, VTEPProbe: time.Minute, VTEPProbeMisses: 7, StateDir: "/srv/evpnd",
		OnPeerLoss: PeerLoss{Withdraw: true},
		Duplicates: evpn.DuplicatePolicy{
			Moves: 7, Within: time.Minute, RecoverAfter: time.Hour, Action: evpn.DuplicateAlarm,
		},
		VTEPReachability: ReachabilityNoDefault,
		API:              API{Socket: "/run/x.sock", Group: "evpn", Metrics: "[::1]:9473"},
		Log:              Log{Level: "debug", Format: "json"},
	}
	if file := got.Peers[0].PasswordFile; !filepath.IsAbs(file) || filepath.Base(file) != "secret" {
		t.Errorf("password-file %q", file)
	}
	got.Peers[0].PasswordFile = ""
	if diff := cmp.Diff(want, got, values); diff != "" {
		t.Errorf("full file (-want +got):\n%s", diff)
	}
}

func TestListenDefault(t *testing.T) {
	for _, row := range []struct {
		name, more string
		want       bool
	}{
		{"peers that are dialled", "peers: [{address: 10.0.0.1, asn: 1}]", false},
		{"a passive peer", "peers: [{address: 10.0.0.1, asn: 1, passive: true}]", true},
		{"dynamic peers", "dynamic-peers: [{prefix: 10.0.0.0/8, asn: 1}]", true},
		{"true", "listen: true", true},
		{"false", "listen: false", false},
		{"a section", "listen: {port: 1179}", true},
		{"a section that says no", "listen: {port: 1179, enabled: false}", false},
	} {
		c, err := Parse("t.yaml", []byte(base+row.more))
		if err != nil || c.Listen.Enabled != row.want {
			t.Errorf("%s: listen %v, %v; want %v", row.name, c, err, row.want)
		}
	}
}

func TestLoadDropIns(t *testing.T) {
	c, faults := load(t, map[string]string{
		"evpnd.yaml":               base + "log: {level: warn}\nvnis: {100: }\n",
		"conf.d/20-b.yaml":         "peers: [{address: 10.0.0.2, asn: 1, password-file: key}]\nvnis: {200: }\n",
		"conf.d/10-a.yaml":         "peers: [{address: 10.0.0.1, asn: 1}]\nlog: {format: json}\n",
		"conf.d/30-empty.yaml":     "# nothing\n",
		"conf.d/key":               "k",
		"conf.d/.hidden.yaml":      "asn: 7\n",
		"conf.d/readme.txt":        "asn: 7\n",
		"conf.d/folder.yaml/x.txt": "",
	})
	if faults != "" {
		t.Fatal(faults)
	}
	if len(c.Peers) != 2 || c.Peers[0].Address != netip.MustParseAddr("10.0.0.1") || c.Peers[1].Password != "k" {
		t.Errorf("peers %+v, want 10.0.0.1 and then 10.0.0.2 with the password beside its drop-in", c.Peers)
	}
	if len(c.VNIs) != 2 || c.Log != (Log{"warn", "json"}) {
		t.Errorf("vnis %v and log %v, want what both files say", c.VNIs, c.Log)
	}
}

// TestLoadWrong: faults between files, and of files as a whole.
func TestLoadWrong(t *testing.T) {
	for _, row := range []struct {
		name  string
		files map[string]string
		want  string
	}{
		{"no file", nil, "evpnd.yaml: read the configuration: no such file or directory"},
		{"a folder", map[string]string{"evpnd.yaml/x": ""}, "evpnd.yaml: read the configuration: is a directory"},
		{"conf.d is a file", map[string]string{"evpnd.yaml": base, "conf.d": ""}, "conf.d: list the drop-ins: not a directory"},
		{
			"set in two files",
			map[string]string{"evpnd.yaml": base, "conf.d/a.yaml": "asn: 65000\n", "conf.d/b.yaml": "vtep-interface: lo\n"},
			"conf.d/a.yaml:1:6: asn is already set at evpnd.yaml:1:6: only one file may set it\n" +
				"conf.d/b.yaml:1:17: vtep is set at evpnd.yaml:2:7 too: want vtep or vtep-interface, not both",
		},
		{"VNI and peer in two files", map[string]string{
			"evpnd.yaml":    base,
			"conf.d/a.yaml": "vnis: {100: }\npeers: [{address: 10.0.0.1, asn: 1}]\n",
			"conf.d/b.yaml": "peers: [{address: 10.0.0.1, asn: 1}]\nvnis: {100: }\n",
		}, "conf.d/b.yaml:1:19: address: peer 10.0.0.1 is already configured at conf.d/a.yaml:2:19\n" +
			"conf.d/b.yaml:2:8: VNI 100 is already configured at conf.d/a.yaml:1:8"},
		// What a file that is not YAML would have said is not called missing; the faults of the others are shown.
		{
			"no YAML in one",
			map[string]string{"evpnd.yaml": "asn: [\n", "conf.d/a.yaml": "vtp: 10.0.0.1\n"},
			"evpnd.yaml:1:6: not YAML: sequence end token ']' not found\n" +
				`conf.d/a.yaml:1:1: unknown key "vtp": did you mean "vtep"?`,
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			if _, got := load(t, row.files); got != row.want {
				t.Errorf("faults\n%s\nwant\n%s", got, row.want)
			}
		})
	}
}

func TestPassword(t *testing.T) {
	dir := tree(t, map[string]string{
		"good": "s3cret", "newline": "s3cret\n", "dos": "s3cret\r\n", "longest": strings.Repeat("k", 80) + "\n",
		"empty": "", "blank": "\n", "lines": "a\nb\n", "long": strings.Repeat("k", 81), "huge": strings.Repeat("k", 1<<20),
		"folder/x": "",
	})
	if err := syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct{ file, want, fault string }{
		{"good", "s3cret", ""},
		{"newline", "s3cret", ""},
		{"dos", "s3cret", ""},
		{"longest", strings.Repeat("k", 80), ""},
		{"absent", "", "no such file or directory"},
		{"empty", "", "is empty"},
		{"blank", "", "is empty"},
		{"lines", "", "has more than one line"},
		{"long", "", "has 81 octets: want 1 to 80"},
		{"huge", "", "has 1048576 octets: want 1 to 80"},
		{"folder", "", "is no regular file"},
		{"fifo", "", "is no regular file"},
	} {
		c, err := Parse(filepath.Join(dir, "t.yaml"), []byte(peer+"    password-file: "+row.file+"\n"))
		if row.fault == "" {
			if err != nil || c.Peers[0].Password != row.want {
				t.Errorf("%s: %v, want password %q", row.file, err, row.want)
			}
			continue
		}
		want := "6:20: password-file: read " + filepath.Join(dir, row.file) + ": " + row.fault
		if got := positions(t, err); got != want {
			t.Errorf("%s: fault %q, want %q", row.file, got, want)
		}
	}
}

// TestManyFaults: the terminal's view of a file with a dozen faults. The golden file is rewritten by -update.
func TestManyFaults(t *testing.T) {
	data, err := os.ReadFile("testdata/many.yaml")
	if err != nil {
		t.Fatal(err)
	}
	_, got := Parse("many.yaml", data)
	if got == nil {
		t.Fatal("no faults")
	}
	golden := "testdata/many.golden"
	if *update {
		if err := os.WriteFile(golden, []byte(got.Error()+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got.Error()+"\n"); diff != "" {
		t.Errorf("faults (-want +got):\n%s", diff)
	}
}

// TestUnnumbered: a peer by interface goes by its name everywhere, and through a file that is written.
func TestUnnumbered(t *testing.T) {
	base := "asn: 65000\nvtep: 10.255.0.1\npeers:\n  - interface: eth0\n    asn: external\n"
	parse := func(text string) *Config {
		t.Helper()
		c, err := Parse("t.yaml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	c := parse(base)
	p := c.Peers[0]
	if !p.Unnumbered() || p.Address != evpn.InterfacePeer("eth0") || p.Interface != "eth0" || p.ASN != 0 || !p.External || p.NoAdvertisements {
		t.Errorf("%+v", p)
	}
	for _, all := range []bool{false, true} {
		if diff := cmp.Diff(c, parse(c.YAML(all)), values); diff != "" {
			t.Errorf("after a round trip, all %v (-before +after):\n%s\n%s", all, diff, c.YAML(all))
		}
	}
	other := parse("asn: 65000\nvtep: 10.255.0.1\npeers: [{address: fe80::1, interface: eth0, asn: 65001}]\n")
	if other.Peers[0].Unnumbered() {
		t.Errorf("%+v", other.Peers[0])
	}
	var got []string
	for _, next := range []*Config{parse(base + "    router-advertisements: false\n"), parse(base + "    hold-time: 9s\n"), other} {
		for _, change := range Diff(c, next) {
			got = append(got, change.String()+", "+change.Consequence())
		}
	}
	want := []string{
		"peers.eth0.router-advertisements: true -> false, applies live",
		"peers.eth0.hold-time: 90s -> 9s, flaps peer eth0",
		"peers.eth0: removed, flaps peer eth0",
		"peers.fe80::1%eth0: added, applies live",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("differences (-want +got):\n%s", diff)
	}
}

// TestRTConstraint: it goes with every configuration that imports no route target of any AS.
func TestRTConstraint(t *testing.T) {
	internal, err := Parse("t.yaml", []byte(strings.Replace(peer, "asn: 65001", "asn: internal", 1)+"    rt-constraint: true\n"))
	if err != nil || !internal.Peers[0].RTConstraint {
		t.Errorf("a peer of our own AS: %v", err)
	}
	for _, more := range []string{
		"route-targets: rfc8365\n",
		"route-targets: as4\nvnis: {100: {off: true, import: [\"*:1\"]}}\n",
		"auto-vnis: false\nvnis: {100: {import: [65000:1]}, 200: {off: true}}\n",
	} {
		cfg, err := Parse("t.yaml", []byte(peer+"    rt-constraint: true\n"+more))
		if err != nil {
			t.Errorf("%s: %v", more, err)
		} else if !cfg.Peers[0].RTConstraint {
			t.Errorf("%s: no rt-constraint", more)
		}
	}
}

// TestExcerpt: what a terminal must not get, and what would not fit on it.
func TestExcerpt(t *testing.T) {
	_, err := Parse("t.yaml", []byte("asn: 1\r\nvtep: \"\x1b[31m\"\t# é\r\n"))
	var faults Faults
	if !errors.As(err, &faults) {
		t.Fatal(err)
	}
	if want := "  1 | asn: 1\n> 2 | vtep: \"\ufffd[31m\" # é\n            ^\n"; faults[0].Excerpt != want {
		t.Errorf("excerpt %q, want %q", faults[0].Excerpt, want)
	}

	_, err = Parse("t.yaml", []byte(`{"asn": 1, "vtep": "10.0.0.1", "peers": [`+
		strings.Repeat(`{"address": "10.0.0.2", "asn": 1}, `, 1000)+`]}`))
	if !errors.As(err, &faults) || len(faults) != 999 {
		t.Fatalf("%d faults, want a duplicate for each but the first", len(faults))
	}
	lines := strings.Split(faults[998].Excerpt, "\n")
	if caret := strings.Index(lines[1], "^"); len(lines[0]) > 120 || !strings.HasPrefix(lines[0][caret:], `"10.0.0.2"`) {
		t.Errorf("excerpt of a long line:\n%s", faults[998].Excerpt)
	}
}
