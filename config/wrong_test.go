package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// base is right; the rows of TestWrong that do not replace it append to it.
const base = "asn: 65000\nvtep: 10.255.0.1\n"

// peer is a right list of one peer, to be continued by more keys of it, indented by four.
const peer = base + "peers:\n  - address: 10.0.0.1\n    asn: 65001\n"

// dynamic is a right list of one range of peers, to be continued likewise.
const dynamic = base + "dynamic-peers:\n  - prefix: 10.1.0.0/16\n    asn: any\n"

// TestWrong: every fault is named with its line and column, and nothing but it.
func TestWrong(t *testing.T) {
	for _, row := range []struct{ name, file, want string }{
		// The file as a whole.
		{"empty", "", "0:0: the file is empty: the least it needs is asn, vtep (or vtep-interface) and peers"},
		{"comments only", "# asn: 65000\n", "0:0: the file is empty: the least it needs is asn, vtep (or vtep-interface) and peers"},
		{"no mapping", "- asn\n", "1:1: the file: want keys with values, have a list"},
		{"two documents", base + "---\n" + base, "4:1: a second YAML document begins here: give each one a file of its own in conf.d"},
		{"tab", base + "log:\n\tlevel: info\n", "4:1: not YAML: found character '\t' that cannot start any token"},
		{"open bracket", base + "peers: [\n", "3:8: not YAML: sequence end token ']' not found"},
		{"nothing said", "{}\n", "1:1: asn is missing: want our AS number\n1:1: vtep is missing: want our tunnel address, or vtep-interface to take it from"},

		// Keys.
		{"misspelled", base + "router_id: 10.0.0.1\n", `3:1: unknown key "router_id": did you mean "router-id"?`},
		{"misspelled deep", peer + "    hold-tim: 9s\n", `6:5: unknown key "hold-tim": did you mean "hold-time"?`},
		{"foreign key", base + "log: {colour: true}\n", `3:7: unknown key "colour": known here are format, level`},
		{"duplicate key", base + "vtep: 10.255.0.2\n", "3:1: vtep is already set at t.yaml:2:1"},
		{"no value", "asn:\nvtep: 10.255.0.1\n", "1:5: asn has no value: want one value, or leave the key out"},
		{"list for scalar", "asn: [65000]\nvtep: 10.255.0.1\n", "1:6: asn: want one value, have a list"},
		{"scalar for list", base + "peers: 10.0.0.1\n", "3:8: peers: want a list, have one value"},
		{"list for section", base + "api: [a]\n", "3:6: api: want keys with values, have a list"},
		{"scalar in list of peers", base + "peers: [10.0.0.1]\n", "3:9: peers: want keys with values, have one value"},
		{"anchor", base + "peers: &p []\n", "3:8: peers: want a list, have an anchor, which is not supported"},
		{"merge key", base + "log:\n  <<: *x\n", "4:3: merge keys are not supported: write the keys out"},
		{"tag", base + "state-dir: !!str /x\n", "3:12: state-dir: want one value, have a tag, which is not supported"},

		// Who we are.
		{"asn zero", "asn: 0\nvtep: 10.255.0.1\n", `1:6: asn: want an AS number from 1 to 4294967295, have "0"`},
		{"asn too large", "asn: 4294967296\nvtep: 10.255.0.1\n", `1:6: asn: want an AS number from 1 to 4294967295, have "4294967296"`},
		{"asn octal", "asn: 0123\nvtep: 10.255.0.1\n", `1:6: asn: want an AS number from 1 to 4294967295, have "0123"`},
		{"asn of transition", "asn: 23456\nvtep: 10.255.0.1\n", "1:6: asn: AS 23456 stands for 4-octet AS numbers and is nobody's own (RFC 6793)"},
		{"vtep missing", "asn: 65000\n", "1:1: vtep is missing: want our tunnel address, or vtep-interface to take it from"},
		{"vtep twice", base + "vtep-interface: lo\n", "3:17: vtep is set at t.yaml:2:7 too: want vtep or vtep-interface, not both"},
		{"vtep no address", "asn: 65000\nvtep: 10.255.0.300\n", `2:7: vtep: want an IP address, have "10.255.0.300"`},
		{"vtep loopback", "asn: 65000\nvtep: 127.0.0.1\n", "2:7: vtep: 127.0.0.1 is a loopback address, which other VTEPs cannot send to"},
		{"vtep loopback IPv6", "asn: 65000\nrouter-id: 1.1.1.1\nvtep: ::1\n", "3:7: vtep: ::1 is a loopback address, which other VTEPs cannot send to"},
		{"vtep unspecified", "asn: 65000\nvtep: 0.0.0.0\n", "2:7: vtep: 0.0.0.0 is the unspecified address: want the address of one host"},
		{"vtep multicast", "asn: 65000\nvtep: 239.1.1.1\n", "2:7: vtep: 239.1.1.1 is no unicast address: want the address of one host"},
		{"vtep link-local", "asn: 65000\nrouter-id: 1.1.1.1\nvtep: fe80::1\n", "3:7: vtep: fe80::1 is a link-local address, which VTEPs beyond the link cannot send to"},
		{"vtep mapped", "asn: 65000\nvtep: ::ffff:10.0.0.1\n", "2:7: vtep: write ::ffff:10.0.0.1 as IPv4: 10.0.0.1"},
		{"vtep with zone", "asn: 65000\nvtep: fd00::1%eth0\n", "2:7: vtep: fd00::1 is not link-local: leave %eth0 out"},
		{"IPv6 vtep alone", "asn: 65000\nvtep: fd00::1\n", "2:7: an IPv6 vtep gives no router id: want router-id too"},
		{"vtep-interface", "asn: 65000\nvtep-interface: eth0/1\n", `2:17: vtep-interface: want an interface name of 1 to 15 octets, have "eth0/1"`},
		{"router-id IPv6", base + "router-id: fd00::1\n", `3:12: router-id: want a number in the form of an IPv4 address, have "fd00::1"`},
		{"router-id zero", base + "router-id: 0.0.0.0\n", "3:12: router-id: 0.0.0.0 cannot identify this host: want a unicast address"},

		// Listening.
		{"listen port", base + "listen: {port: 65536}\n", `3:16: port: want a number from 1 to 65535, have "65536"`},
		{"listen word", base + "listen: maybe\n", `3:9: listen: want true or false, have "maybe"`},
		{"listen address twice", base + "listen:\n  addresses: [10.0.0.9, 10.0.0.9]\n", "4:25: addresses: 10.0.0.9 is listed already at t.yaml:4:15"},
		{"listen link-local", base + "listen:\n  addresses: [\"fe80::1\"]\n", "4:15: addresses: fe80::1 is link-local: name its interface, fe80::1%eth0"},
		{"passive without listening", peer + "    passive: true\nlisten: false\n", "6:14: passive: nothing would listen for this peer, listen is false at t.yaml:7:9"},
		{"dynamic without listening", dynamic + "listen: {enabled: false}\n", "4:5: dynamic-peers: nothing would listen for them, listen is false at t.yaml:6:19"},

		// Peers.
		{"peer without address", base + "peers:\n  - asn: 65001\n", "4:5: address is missing: want the peer's IP address, or the interface that it is at the other end of"},
		{"peer without asn", base + "peers:\n  - address: 10.0.0.1\n", "4:5: asn is missing: want the peer's AS number, internal for ours, or external for any other"},
		{"peer asn zero", base + "peers:\n  - {address: 10.0.0.1, asn: 0}\n", `4:30: asn: want an AS number from 1 to 4294967295, have "0"; or one of these words: internal, external`},
		{"peer asn any", base + "peers:\n  - {address: 10.0.0.1, asn: any}\n", `4:30: asn: want an AS number from 1 to 4294967295, have "any"; or one of these words: internal, external`},
		{"peer address", base + "peers:\n  - {address: rr1, asn: 1}\n", `4:15: address: want an IP address, have "rr1"`},
		{"peer broadcast", base + "peers:\n  - {address: 255.255.255.255, asn: 1}\n", "4:15: address: 255.255.255.255 is no unicast address: want the address of one host"},
		{"peer twice", peer + "  - {address: 10.0.0.1, asn: 65002}\n", "6:15: address: peer 10.0.0.1 is already configured at t.yaml:4:14"},
		{
			"peer twice by zone", base + "router-id: 1.1.1.1\npeers:\n  - {address: \"fe80::1%eth0\", asn: 1}\n  - {address: \"fe80::1\", interface: eth0, asn: 1}\n",
			"6:15: address: peer fe80::1%eth0 is already configured at t.yaml:5:15",
		},
		{"peer is vtep", base + "peers:\n  - {address: 10.255.0.1, asn: 1}\n", "4:15: address: 10.255.0.1 is our own, it is the vtep at t.yaml:2:7"},
		{"peer is router-id", base + "router-id: 10.0.0.9\npeers:\n  - {address: 10.0.0.9, asn: 1}\n", "5:15: address: 10.0.0.9 is our own, it is the router-id at t.yaml:3:12"},
		{"peer is listen address", base + "listen: {addresses: [10.0.0.9]}\npeers:\n  - {address: 10.0.0.9, asn: 1}\n", "5:15: address: 10.0.0.9 is our own, it is the listen address at t.yaml:3:22"},
		{"peer is local-address", peer + "    local-address: 10.0.0.2\n  - {address: 10.0.0.2, asn: 1}\n", "7:15: address: 10.0.0.2 is our own, it is the local-address at t.yaml:6:20"},
		{"peer link-local", base + "peers:\n  - address: fe80::1\n    asn: 1\n", "4:14: address: fe80::1 is link-local: want its interface, by interface or as fe80::1%eth0"},
		{"peer zones differ", base + "peers:\n  - address: fe80::1%eth0\n    asn: 1\n    interface: eth1\n", "6:16: interface: eth1 differs from that of the address, eth0"},
		{
			"peer by interface twice", base + "peers:\n  - {interface: eth0, asn: 1}\n  - {interface: eth0, asn: external}\n",
			"5:17: interface: peer eth0 is already configured at t.yaml:4:17",
		},
		{"peer by interface like an address", base + "peers:\n  - {interface: 10.0.0.9, asn: 1}\n", "4:17: interface: 10.0.0.9 cannot be told from an address: want address too"},
		{"peer is any router", base + "peers:\n  - {address: \"fe80::\", interface: eth0, asn: 1}\n", "4:15: address: fe80:: is the address of no host: leave it out for whoever is at the other end of the interface"},
		{"peer by interface multihop", base + "peers:\n  - {interface: eth0, asn: 1, multihop: 2}\n", "4:41: multihop: eth0 is link-local and so directly connected: leave the key out"},
		{
			"peer by interface from elsewhere", base + "peers:\n  - {interface: eth0, asn: 1, local-address: \"fd00::1\"}\n",
			"4:46: local-address: fd00::1 is not link-local, as that of the peer on eth0: leave the key out",
		},
		{"peer by interface from IPv4", base + "peers:\n  - {interface: eth0, asn: 1, local-address: 10.0.0.2}\n", "4:46: local-address: 10.0.0.2 cannot reach eth0: want both IPv4 or both IPv6"},
		{"advertisements for an address", peer + "    router-advertisements: false\n", "6:28: router-advertisements: they are for a peer by interface: leave the key or address out"},
		{"families differ", peer + "    local-address: fd00::5\n", "6:20: local-address: fd00::5 cannot reach 10.0.0.1: want both IPv4 or both IPv6"},
		{"passive yes", peer + "    passive: yes\n", `6:14: passive: want true or false, have "yes"`},
		{
			"passive and dialled", peer + "    passive: true\n    port: 1179\n    connect-retry: 1s\n",
			"7:11: port: a passive peer is never dialled: leave port or passive out\n8:20: connect-retry: a passive peer is never dialled: leave connect-retry or passive out",
		},
		{"GTSM and multihop", peer + "    multihop: 4\n    ttl-security: 3\n", "7:19: ttl-security excludes multihop, set at t.yaml:6:15: ttl-security counts the hops itself"},
		{"iBGP multihop", base + "peers:\n  - {address: 10.0.0.1, asn: internal, multihop: 4}\n", "4:50: multihop: peers of our own AS may be any number of hops away: leave the key out"},
		{"link-local multihop", base + "peers:\n  - address: fe80::1%eth0\n    asn: 1\n    multihop: 4\n", "6:15: multihop: fe80::1%eth0 is link-local and so directly connected: leave the key out"},
		{"multihop of one", peer + "    multihop: 1\n", `6:15: multihop: want the TTL of our packets, 2 to 255, or 0 for a directly connected peer, have "1"`},
		{"ttl-security", peer + "    ttl-security: 255\n", `6:19: ttl-security: want a number from 0 to 254, have "255"`},
		{"duplicates moves", peer + "duplicates: {moves: 1}\n", `6:21: moves: want a number from 2 to 100, have "1"`},
		{"vtep-probe", peer + "vtep-probe: 2h\n", `6:13: vtep-probe: want whole seconds from 0s to 3600s, have 2h`},
		{"vtep-probe-misses", peer + "vtep-probe-misses: 0\n", `6:20: vtep-probe-misses: want a number from 1 to 100, have "0"`},
		{"vtep-reachability", peer + "vtep-reachability: ping\n", `6:20: vtep-reachability: want one of route, no-default, off, have "ping"`},
		{"duplicates action", peer + "duplicates: {action: freeze}\n", `6:22: action: want one of alarm, hold, drop, have "freeze"`},
		{"duplicates recover-after", peer + "duplicates: {within: 5m, recover-after: 540s}\n", "6:41: recover-after: want at least three times within, which is 5m0s, have 9m0s"},
		{"hold-time short", peer + "    hold-time: 2s\n", "6:16: hold-time: want 3s to 65535s, or 0 for a session that never expires, have 2s"},
		{"hold-time alone", peer + "    hold-time: 1\n    keepalive: 100\n", "6:16: hold-time: want 3s to 65535s, or 0 for a session that never expires, have 1"},
		{"hold-time long", peer + "    hold-time: 65536\n", "6:16: hold-time: want whole seconds from 0s to 65535s, have 65536"},
		{"hold-time fraction", peer + "    hold-time: 9.5s\n", "6:16: hold-time: want whole seconds from 0s to 65535s, have 9.5s"},
		{"hold-time text", peer + "    hold-time: long\n", `6:16: hold-time: want a duration such as 90s, or seconds, have "long"`},
		{"keepalive", peer + "    hold-time: 9\n    keepalive: 9\n", "7:16: keepalive: want 1s or more, and less than the hold time of 9s, have 9s"},
		{"keepalive of default", peer + "    keepalive: 90s\n", "6:16: keepalive: want 1s or more, and less than the hold time of 90s, have 90s"},
		{"keepalive none", peer + "    keepalive: 0\n", "6:16: keepalive: want 1s or more, and less than the hold time of 90s, have 0s"},
		{"keepalive of endless", peer + "    hold-time: 0\n    keepalive: 9\n", "7:16: keepalive: a session with hold-time 0 sends none: leave the key out"},
		{"connect-retry", peer + "    connect-retry: 10ms\n", "6:20: connect-retry: want 100ms to 1h0m0s, have 10ms"},
		{"graceful-restart", peer + "    graceful-restart: 4096\n", "6:23: graceful-restart: want whole seconds from 0s to 4095s, have 4096"},
		{"max-routes", peer + "    max-routes: -1\n", `6:17: max-routes: want a number from 0 to 100000000, have "-1"`},
		{"max-routes warn", peer + "    max-routes: {warn: 0}\n", `6:24: warn: want a number from 1 to 100, have "0"`},
		{"max-routes action", peer + "    max-routes: {action: none}\n", `6:26: action: want one of stop, warn, reset, have "none"`},
		{
			"idle-hold without reset", peer + "    max-routes: {limit: 5, idle-hold: 5m}\n",
			"6:39: idle-hold: no session is ended with action stop: want action: reset, or leave the key out",
		},
		{"long-lived", peer + "    long-lived: 16777216\n", "6:17: long-lived: want whole seconds from 0s to 16777215s, have 16777216"},
		{
			"long-lived alone", peer + "    graceful-restart: 0\n    long-lived: 5\n",
			"7:17: long-lived: it begins where graceful restart ends, and graceful-restart is 0 at t.yaml:6:23",
		},
		{"stale-time", peer + "    stale-time: 0\n", "6:17: stale-time: want whole seconds from 1s to 3600s, have 0"},
		{
			"on-peer-loss", peer + "    on-peer-loss: keep\n",
			`6:19: on-peer-loss: want graceful-restart, withdraw, or keep-for with a time, such as keep-for 10m, have "keep"`,
		},
		{"on-peer-loss time", peer + "on-peer-loss: keep-for 0s\n", "6:15: on-peer-loss: keep-for: want whole seconds from 1s to 604800s, have 0s"},
		{
			"rt-constraint and auto", peer + "    rt-constraint: true\n",
			"6:20: rt-constraint: route-targets auto imports those of any AS: nobody can be asked for that, want route targets of single ASes",
		},
		{
			"rt-constraint and frr", dynamic + "    rt-constraint: true\nroute-targets: frr\nauto-vnis: false\nvnis:\n  7: {off: true}\n  100: {export: [65000:1]}\n",
			"6:20: rt-constraint: VNI 100 at t.yaml:11:3 imports those of any AS by route-targets frr: nobody can be asked for that, want route targets of single ASes",
		},
		{
			"rt-constraint and wildcard", peer + "    rt-constraint: true\nroute-targets: as4\nvnis: {100: {import: [65000:1, \"*:1\"]}}\n",
			"6:20: rt-constraint: VNI 100 imports *:1 at t.yaml:8:32: nobody can be asked for that, want route targets of single ASes",
		},
		{
			"arp-suppression without snooping", base + "snooping: false\narp-suppression: true\n",
			"4:18: arp-suppression: gratuitous ARP would be lost, snooping is off: want snooping too",
		},
		{
			"arp-suppression of a VNI without snooping", base + "snooping: false\nvnis:\n  7: {arp-suppression: true}\n  8: {arp-suppression: true, snooping: true}\n",
			"5:24: arp-suppression: gratuitous ARP would be lost, snooping is off: want snooping too",
		},
		{
			"a VNI not snooped, arp-suppression", base + "arp-suppression: true\nvnis:\n  7: {snooping: false}\n  8: {snooping: false, arp-suppression: false}\n",
			"5:17: snooping: gratuitous ARP would be lost, arp-suppression is on at t.yaml:3:18",
		},
		{"description", peer + "    description: \"a\\nb\"\n", `6:18: description: want a text of one line, have "a\nb"`},

		// Dynamic peers.
		{"dynamic without prefix", base + "dynamic-peers:\n  - asn: any\n", "4:5: prefix is missing: want the addresses to accept peers from, such as 10.0.0.0/24"},
		{"dynamic without asn", base + "dynamic-peers:\n  - prefix: 10.1.0.0/16\n", "4:5: asn is missing: want the peer's AS number, internal for ours, or external for any other"},
		{"dynamic host bits", base + "dynamic-peers:\n  - {prefix: 10.1.0.1/16, asn: any}\n", "4:14: prefix: 10.1.0.1/16 has bits set beyond its length: want 10.1.0.0/16"},
		{"dynamic overlap", dynamic + "  - {prefix: 10.1.2.0/24, asn: 7}\n", "6:14: prefix: 10.1.2.0/24 overlaps 10.1.0.0/16 at t.yaml:4:13"},
		{
			"dynamic and active", dynamic + "    passive: false\n    connect-retry: 1s\n    port: 179\n",
			"6:14: passive: dynamic peers are always passive: leave the key out\n" +
				"7:20: connect-retry: dynamic peers are always passive: leave the key out\n" +
				"8:11: port: dynamic peers are always passive: leave the key out",
		},
		{"dynamic limit", dynamic + "    limit: 0\n", `6:12: limit: want a number from 1 to 65535, have "0"`},
		{"dynamic link-local", base + "dynamic-peers:\n  - {prefix: \"fe80::/64\", asn: any}\n", "4:14: prefix: fe80::/64 is link-local: want interface too"},
		{"dynamic family", dynamic + "    local-address: fd00::1\n", "6:20: local-address: fd00::1 cannot reach 10.1.0.0: want both IPv4 or both IPv6"},

		// VNIs and route targets.
		{"VNI zero", base + "vnis: {0: }\n", `3:8: VNI: want a number from 1 to 16777215, have "0"`},
		{"VNI too large", base + "vnis: {16777216: }\n", `3:8: VNI: want a number from 1 to 16777215, have "16777216"`},
		{"VNI hexadecimal", base + "vnis: {0x64: }\n", `3:8: VNI: want a number from 1 to 16777215, have "0x64"`},
		{"VNI twice", base + "vnis:\n  100:\n  200:\n  \"100\": {off: true}\n", "6:3: VNI 100 is already configured at t.yaml:4:3"},
		{"list of VNIs", base + "vnis: [100]\n", "3:7: vnis: want keys with values: the VNIs, each with its settings, have a list"},
		{
			"device not made", base + "vnis:\n  100: {device: vx, bridge: lan}\n",
			"4:17: device: it names what evpnd makes, want create: true too\n4:29: bridge: it names what evpnd makes, want create: true too",
		},
		{
			"device of two VNIs", base + "vnis:\n  100: {create: true, bridge: lan}\n  200: {create: true, bridge: lan}\n",
			"5:31: VNI 200: device lan is named by another VNI or twice, at t.yaml:4:31",
		},
		{"device name", base + "vnis: {100: {create: true, device: a/b}}\n", `3:36: device: want an interface name of 1 to 15 octets, have "a/b"`},
		{"VNI settings", base + "vnis: {100: off}\n", "3:13: VNI 100: want keys with values, have one value"},
		{"static macs", base + "vnis: {100: {static-macs: firm}}\n", `3:27: static-macs: want one of normal, sticky, have "firm"`},
		{"gateways", base + "vnis: {100: {gateways: 172.16.0.254}}\n", "3:24: gateways: want a list, have one value"},
		{"gateway without mac", base + "vnis: {100: {gateways: [{ip: 172.16.0.254}]}}\n", "3:25: gateways: want both mac and ip"},
		{"gateway's group mac", base + "vnis:\n  100:\n    gateways:\n      - mac: 01:00:5e:00:01:01\n        ip: 172.16.0.254\n", "6:14: mac: 01:00:5e:00:01:01 is no host's MAC: want one with an even first octet"},
		{"gateway's link-local ip", base + "vnis:\n  100:\n    gateways:\n      - mac: 02:00:5e:00:01:01\n        ip: fe80::1\n", "7:13: ip: fe80::1 stays on its host or link: want an address of the subnet"},
		{"gateway twice", base + "vnis:\n  100:\n    gateways:\n      - {mac: 02:00:5e:00:01:01, ip: 172.16.0.254}\n      - {mac: 02:00:5e:00:01:02, ip: 172.16.0.254}\n", "7:38: ip: 172.16.0.254 is that of another gateway already, at t.yaml:6:38"},
		{"rd", base + "vnis: {100: {rd: 100}}\n", `3:18: rd: "100": not a route distinguisher: want ADMIN:NUMBER`},
		{"rd number", base + "vnis: {100: {rd: 10.0.0.1:65536}}\n", `3:18: rd: "10.0.0.1:65536": not a route distinguisher: number after an IPv4 address must be 0 to 65535`},
		{"rd zero", base + "vnis: {100: {rd: 0:0}}\n", "3:18: rd: 0:0 distinguishes nothing: leave the key out for the default, VTEP:n"},
		{"rd twice", base + "vnis:\n  100: {rd: 10.0.0.1:5}\n  200: {rd: 10.0.0.1:5}\n", "5:13: rd: 10.0.0.1:5 is that of another VNI already, at t.yaml:4:13"},
		{"import", base + "vnis:\n  100:\n    import: [65000:x]\n", `5:14: import: "65000:x": not a route target: number after a 2-octet AS must be 0 to 4294967295`},
		{"import unquoted wildcard", base + "vnis:\n  100:\n    import: [*:100]\n", "5:14: import: *:100 is an alias of YAML, which is not supported: quote a value that begins with *"},
		{"import wildcard", base + "vnis:\n  100:\n    import: [\"*:x\"]\n", `5:14: import: "*:x": not a route target: number after *: must be 0 to 4294967295`},
		{"import twice", base + "vnis: {100: {import: [65000:1, 65000:1]}}\n", "3:32: import: 65000:1 is listed already at t.yaml:3:23"},
		{"import empty", base + "vnis: {100: {import: []}}\n", "3:22: import is empty: want at least one route target, or leave the key out"},
		{"export wildcard", base + "vnis: {100: {export: [\"*:1\"]}}\n", `3:23: export: "*:1": not a route target: administrator must be an IPv4 address or an AS number up to 4294967295`},
		{"export of 4-octet AS", base + "vnis: {100: {export: [4200000000:65536]}}\n", `3:23: export: "4200000000:65536": not a route target: number after a 4-octet AS must be 0 to 65535`},
		{"dialect", base + "route-targets: cisco\n", `3:16: route-targets: want one of auto, frr, rfc8365, as4, have "cisco"`},
		{
			"as4 and large VNI", "asn: 4200000000\nvtep: 10.255.0.1\nroute-targets: as4\nvnis:\n  65536: {import: [1:1]}\n",
			"5:3: derive route target of VNI 65536: the 4-octet-AS form has room for VNIs up to 65535: want both import and export, or another dialect",
		},
		{
			"rfc8365 and 4-octet AS", "asn: 4200000000\nvtep: 10.255.0.1\nroute-targets: rfc8365\n",
			"3:16: route-targets: RFC 8365 derives none from a 4-octet AS such as 4200000000: want auto, frr or as4",
		},

		// The rest.
		{"auto-vnis", base + "auto-vnis: 1\n", `3:12: auto-vnis: want true or false, have "1"`},
		{"state-dir", base + "state-dir: var\n", `3:12: state-dir: want an absolute path, have "var"`},
		{"socket", base + "api: {socket: /" + strings.Repeat("x", 107) + "}\n", "3:15: socket: want a path of at most 107 octets for a UNIX socket, have 108"},
		{"metrics", base + "api: {metrics: localhost}\n", `3:16: metrics: want host:port, for instance 127.0.0.1:9473 or [::1]:9473, have "localhost"`},
		{"metrics port", base + "api: {metrics: \"localhost:http\"}\n", `3:16: metrics: port: want a number from 1 to 65535, have "http"`},
		{"level", base + "log: {level: trace}\n", `3:14: level: want one of error, warn, info, debug, have "trace"`},
		{"format", base + "log: {format: xml}\n", `3:15: format: want one of text, json, have "xml"`},
	} {
		t.Run(row.name, func(t *testing.T) {
			_, err := Parse("t.yaml", []byte(row.file))
			if diff := cmp.Diff(row.want, positions(t, err)); diff != "" {
				t.Errorf("faults (-want +got):\n%s\nof\n%s", diff, row.file)
			}
		})
	}
}

// positions prints faults as line:column: message.
func positions(t *testing.T, err error) string {
	t.Helper()
	var faults Faults
	if !errors.As(err, &faults) {
		t.Fatalf("error %v (%T), want Faults", err, err)
	}
	var lines []string
	for _, f := range faults {
		lines = append(lines, fmt.Sprintf("%d:%d: %s", f.Line, f.Column, f.Message))
		if (f.Line > 0) != (f.Excerpt != "") {
			t.Errorf("line %d with excerpt %q", f.Line, f.Excerpt)
		}
	}
	if !slices.IsSortedFunc(faults, func(a, b Fault) int { return a.Line - b.Line }) {
		t.Errorf("not in order of lines: %v", lines)
	}
	return strings.Join(lines, "\n")
}
