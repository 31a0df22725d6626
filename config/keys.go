package config

import (
	"fmt"
	"slices"
)

// Effect says what it takes to change a key while evpnd runs.
type Effect uint8

// The effects, the mildest first.
const (
	Live    Effect = iota // in force when the reload returns; no session ends, no other VNI notices
	Flaps                 // the session with the peer, or those with the dynamic peers of the prefix, start anew
	Restart               // a reload is refused as a whole
)

var effects = []string{Live: "live", Flaps: "flaps", Restart: "restart"}

func (e Effect) String() string { return effects[e] }

// Key is one key of the file: what a reload tells by and docs/configuration.md is made of.
type Key struct {
	Section string // "" for a top-level one, else the section, list or map that it stands in
	Name    string
	Type    string // what the value is
	Range   string // which values are taken; "" where the type says it all
	Default string // as it would stand in the file where that is possible, else in words; "" none; "required"
	Effect  Effect
	Meaning string
}

// Path names a key from the top of the file: asn, log.level, peers[].hold-time.
func (k Key) Path() string {
	switch k.Section {
	case "":
		return k.Name
	case sectionPeers, sectionDynamicPeers, sectionVNIs:
		return k.Section + "[]." + k.Name
	default:
		return k.Section + "." + k.Name
	}
}

// The sections of the file, in its order.
const (
	sectionTop          = ""
	sectionListen       = "listen"
	sectionPeers        = "peers"
	sectionDynamicPeers = "dynamic-peers"
	sectionVNIs         = "vnis"
	sectionDuplicates   = "duplicates"
	sectionAPI          = "api"
	sectionLog          = "log"
)

// Keys lists every key that a file may have, in the order of docs/configuration.md.
func Keys() []Key {
	return slices.Concat(
		topKeys,
		listenKeys,
		peerKeys,
		inSection(sectionPeers, sessionKeys),
		dynamicKeys,
		inSection(sectionDynamicPeers, sessionKeys),
		vniKeys,
		duplicateKeys,
		apiKeys,
		logKeys,
	)
}

func inSection(section string, keys []Key) []Key {
	all := slices.Clone(keys)
	for i := range all {
		all[i].Section = section
	}
	return all
}

var topKeys = []Key{
	{"", "asn", "AS number", "1–4294967295, without 23456", "required", Restart, "our AS"},
	{"", "router-id", "IPv4 address", "unicast", "the VTEP address, when that is IPv4", Restart, "BGP identifier, different on every speaker"},
	{"", "vtep", "IP address", "unicast, neither loopback nor link-local", "required, or vtep-interface", Restart, "our tunnel address"},
	{"", "vtep-interface", "interface", "", "", Restart, "device to take the tunnel address from at the start"},
	{"", "route-targets", "word", "auto, frr, rfc8365, as4", "auto", Live, "how route targets are derived for VNIs that list none"},
	{"", "auto-vnis", "true or false", "", "true", Live, "serve every VXLAN device that is a port of a bridge"},
	{"", "snooping", "true or false", "", "true", Live, "take the IPs of local hosts from their ARP, ND and DHCP frames"},
	{"", "snooping-rate", "number", "100–100000", "2000", Live, "frames that a port may send in a second"},
	{"", "arp-suppression", "true or false", "", "as each device is", Live, "answer ARP and ND for remote hosts on the bridge"},
	{"", "vtep-reachability", "word", "route, no-default, off", "route", Live, "what counts as a way to a remote VTEP; one without is parked"},
	{"", "vtep-hold", "duration", "0–1h", "60s", Live, "longest pause before a VTEP that comes and goes is used again"},
	{"", "vtep-probe", "duration", "0–1h", "0", Live, "time between two ICMP echo requests to each remote VTEP; 0: none is sent"},
	{"", "vtep-probe-misses", "number", "1–100", "3", Live, "so many without answer, of a VTEP that has answered before, park it"},
	{"", "manage-devices", "true or false", "", "false", Live, "mend the devices of served VNIs"},
	{"", "max-macs", "{local, port, remote}", "0–100000000; 0: no limit", "{local: 262144, port: 0, remote: 1048576}", Live, "most MACs of a VNI: on local ports, on one of them, behind other VTEPs"},
	{"", "on-peer-loss", "words", "graceful-restart, keep-for 1s–168h, withdraw", "graceful-restart", Live, "what becomes of the routes of a lost peer that does not say itself"},
	{"", "flush-on-exit", "true or false", "", "false", Live, "remove our kernel entries on a clean stop"},
	{"", "state-dir", "absolute path", "", defaultStateDir, Restart, "folder for what must survive a restart"},
}

var listenKeys = []Key{
	{sectionListen, "enabled", "true or false", "", "true in a section, or with passive or dynamic peers", Live, "accept connections of peers"},
	{sectionListen, "port", "number", "1–65535", "179", Live, "TCP port"},
	{sectionListen, "addresses", "list of IP addresses", "of this host", "all", Live, "where to listen"},
}

var peerKeys = []Key{
	{sectionPeers, "address", "IP address", "unicast; link-local with interface or %zone", "required, or interface", Flaps, "another address is another peer; none: whoever is at the other end of interface"},
	{sectionPeers, "asn", "AS number, `internal` or `external`", "1–4294967295, without 23456", "required", Flaps, "AS of the peer; external: any but ours"},
	{sectionPeers, "port", "number", "1–65535", "179", Live, "TCP port that is dialled, from the next time on"},
	{sectionPeers, "passive", "true or false", "", "false", Live, "never dial, from the next time on"},
	{sectionPeers, "connect-retry", "duration", "100ms–1h", "5s", Live, "longest pause between attempts to connect"},
	{sectionPeers, "router-advertisements", "true or false", "only without address", "true", Live, "tell the peer by interface our address by Router Advertisements"},
}

// sessionKeys are those that peers and dynamic peers share.
var sessionKeys = []Key{
	{"", "description", "text", "one line", "", Live, "shown beside the peer"},
	{"", "local-address", "IP address", "of the peer's family", "as the kernel chooses", Flaps, "source of our connection"},
	{"", "interface", "interface", "", "any", Flaps, "device the connection is bound to; without address: where the peer is"},
	{"", "multihop", "number", "0, 2–255; eBGP only", "0", Live, "TTL of our packets; 0: directly connected"},
	{"", "ttl-security", "number", "0–254; not with multihop", "0", Live, "GTSM: hops the peer may be away"},
	{"", "password-file", "path", "a line of 1–80 octets", "none", Live, "TCP MD5 key; change it at both ends within the hold time"},
	{"", "hold-time", "duration", "0, 3s–65535s", "90s", Flaps, "0: the session never expires"},
	{"", "keepalive", "duration", "1s to less than hold-time", "a third of hold-time", Live, "time between our KEEPALIVEs, from the next one on"},
	{"", "graceful-restart", "duration", "0–4095s", "120s", Flaps, "how long peers keep our routes while we restart"},
	{"", "rt-constraint", "true or false", "", "false", Flaps, "ask for the routes of our VNIs only (RFC 4684)"},
	{"", "need-encapsulation", "true or false", "", "false", Flaps, "refuse routes that do not say VXLAN"},
	{"", "long-lived", "duration", "0–16777215s; with graceful-restart", "0", Flaps, "how long routes outlive graceful restart, as the last choice"},
	{"", "stale-time", "duration", "1s–1h", "180s", Live, "time for the End-of-RIB of a peer that came back"},
	{"", "on-peer-loss", "words", "as on-peer-loss", "graceful-restart", Live, "on-peer-loss for this peer; else that of the file counts"},
	{"", "max-routes", "number or {limit, warn, action, idle-hold}", "limit 0–100000000, 0: none; warn 1–100 %; action warn, stop, reset; idle-hold 1s–24h", "{limit: 1000000, warn: 75, action: stop}", Live, "most routes of the peer, and what is done above that"},
}

var dynamicKeys = []Key{
	{sectionDynamicPeers, "prefix", "prefix", "no two may overlap", "required", Flaps, "another prefix is another range of peers"},
	{sectionDynamicPeers, "asn", "AS number, `internal`, `external` or `any`", "1–4294967295, without 23456", "required", Flaps, "AS of these peers"},
	{sectionDynamicPeers, "limit", "number", "1–65535", "100", Live, "most sessions at a time; those there are stay"},
}

var vniKeys = []Key{
	{sectionVNIs, "off", "true or false", "", "false", Live, "do not serve the VNI"},
	{sectionVNIs, "rd", "route distinguisher", "ADDRESS:0–65535 or AS:NUMBER", "VTEP:n", Live, "its routes are withdrawn and announced under the new one"},
	{sectionVNIs, "import", "list of route targets", "AS:n, ADDRESS:n, *:n", "by route-targets", Live, "what to accept; received routes are kept and judged anew"},
	{sectionVNIs, "export", "list of route targets", "AS:n, ADDRESS:n", "by route-targets", Live, "what to send; the VNI's routes are announced again"},
	{sectionVNIs, "strict-tag", "true or false", "", "false", Live, "refuse routes with an Ethernet Tag other than 0"},
	{sectionVNIs, "static-macs", "word", "normal, sticky", "normal", Live, "what static rows of the bridge are announced as"},
	{sectionVNIs, "gateways", "list of {mac, ip}", "no IP twice", "none", Live, "addresses of this host in the subnet"},
	{sectionVNIs, "snooping", "true or false", "", "as snooping", Live, "as snooping, for this VNI"},
	{sectionVNIs, "arp-suppression", "true or false", "", "as arp-suppression", Live, "as arp-suppression, for this VNI"},
	{sectionVNIs, "manage", "true or false", "", "as manage-devices", Live, "as manage-devices, for this VNI"},
	{sectionVNIs, "max-macs", "{local, port, remote}", "as max-macs", "as max-macs", Live, "as max-macs, for this VNI"},
	{sectionVNIs, "create", "true or false", "", "false", Live, "make the devices when there are none; made ones go when it does"},
	{sectionVNIs, "device", "interface", "", "vxlan and the VNI", Live, "VXLAN device to make"},
	{sectionVNIs, "bridge", "interface", "", "br and the VNI", Live, "bridge to put it into"},
}

var duplicateKeys = []Key{
	{sectionDuplicates, "moves", "number", "2–100", "5", Live, "that many moves make a duplicate"},
	{sectionDuplicates, "within", "duration", "1s–1h", "180s", Live, "in that time"},
	{sectionDuplicates, "action", "word", "alarm, hold, drop", "hold", Live, "what is done then"},
	{sectionDuplicates, "recover-after", "duration", "3 × within to 24h", "3 × within", Live, "until it is decided anew"},
}

var apiKeys = []Key{
	{sectionAPI, "socket", "absolute path", fmt.Sprintf("up to %d octets", maxSocketPath), defaultSocket, Live, "UNIX socket of the gRPC interface"},
	{sectionAPI, "group", "group", "", "the daemon's", Live, "group that may use the socket"},
	{sectionAPI, "admin-group", "group", "", "all who may use the socket", Live, "group that may also change things there; root and evpnd's own user may"},
	{sectionAPI, "listen", "host:port", "", "none", Live, "TCP listener of the gRPC interface: TLS 1.3, clients by certificate"},
	{sectionAPI, "certificate", "path", "PEM; with listen", "none", Live, "our certificate, and those between it and its CA; read again by a reload"},
	{sectionAPI, "key", "path", "PEM; with listen", "none", Live, "its private key"},
	{sectionAPI, "client-ca", "path", "PEM; with listen", "none", Live, "certificates of the CAs that clients' certificates are from"},
	{sectionAPI, "readers", "list of names", "with listen", "none", Live, "names of clients, in their certificates, that may read"},
	{sectionAPI, "admins", "list of names", "with listen; none of readers", "none", Live, "names of clients that may also change things"},
	{sectionAPI, "metrics", "host:port", "", "none", Live, "HTTP listener for /metrics, /healthz, /readyz"},
}

var logKeys = []Key{
	{sectionLog, "level", "word", "error, warn, info, debug", defaultLevel, Live, "what is logged"},
	{sectionLog, "format", "word", "text, json", defaultFormat, Live, "how"},
}
