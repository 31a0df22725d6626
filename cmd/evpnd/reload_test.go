package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	evpnv1 "github.com/evpnd/evpnd/api/evpn/v1"
	"github.com/evpnd/evpnd/config"
	"github.com/evpnd/evpnd/internal/certtest"
)

// The daemon whose configuration is changed, one that it dials and one that dials it.
const (
	changed = `
asn: 65000
vtep: 10.255.0.1
listen: {port: 1790, addresses: [127.0.0.1]}
peers: [{address: 127.0.0.2, asn: 65001, port: 1791, connect-retry: 100ms}, {interface: absent, asn: external}]
dynamic-peers: [{prefix: 127.0.3.0/24, asn: 65002}]
vnis: {100: {off: false}}
`
	dialled = `
asn: 65001
auto-vnis: false # the devices of this namespace are the other one's
vtep: 10.255.0.2
listen: {port: 1791, addresses: [127.0.0.2]}
peers: [{address: 127.0.0.1, asn: 65000, passive: true}]
`
	dialling = `
asn: 65002
auto-vnis: false
vtep: 10.255.0.3
peers: [{address: 127.0.0.1, asn: 65000, port: 1790, local-address: 127.0.3.1, connect-retry: 100ms}]
`
	dialledAddr, diallingAddr = "127.0.0.2", "127.0.3.1"
)

// edits change one key each: text of the file and what it becomes, in pairs.
var edits = map[string][]string{
	"asn": {"asn: 65000", "asn: 64999"}, "router-id": {"vtep:", "router-id: 10.9.9.9\nvtep:"},
	"vtep": {"10.255.0.1", "10.255.0.4"}, "vtep-interface": {"vtep: 10.255.0.1", "router-id: 10.255.0.1\nvtep-interface: lo"},
	"route-targets": {"vtep:", "route-targets: frr\nvtep:"}, "auto-vnis": {"vtep:", "auto-vnis: false\nvtep:"},
	"snooping": {"vtep:", "snooping: false\nvtep:"}, "arp-suppression": {"vtep:", "arp-suppression: true\nvtep:"},
	"vtep-reachability": {"vtep:", "vtep-reachability: no-default\nvtep:"}, "vtep-hold": {"vtep:", "vtep-hold: 5s\nvtep:"},
	"vtep-probe": {"vtep:", "vtep-probe: 5s\nvtep:"}, "vtep-probe-misses": {"vtep:", "vtep-probe-misses: 5\nvtep:"},
	"snooping-rate": {"vtep:", "snooping-rate: 500\nvtep:"},
	"max-macs":      {"vtep:", "max-macs: {port: 9}\nvtep:"}, "on-peer-loss": {"vtep:", "on-peer-loss: withdraw\nvtep:"},
	"manage-devices": {"vtep:", "manage-devices: true\nvtep:"}, "flush-on-exit": {"vtep:", "flush-on-exit: true\nvtep:"},
	"state-dir": {"state-dir: ", "state-dir: /tmp"},

	"listen.enabled": {"listen: {", "listen: {enabled: false, ", "dynamic-peers: [{prefix: 127.0.3.0/24, asn: 65002}]", ""},
	"listen.port":    {"port: 1790", "port: 1792"}, "listen.addresses": {"[127.0.0.1]", "[127.0.0.1, 127.0.0.9]"},

	"peers[].address": {"address: 127.0.0.2", "address: 127.0.0.9"}, "peers[].asn": {"asn: 65001", "asn: 65009"},
	"peers[].port": {"port: 1791", "port: 1792"}, "peers[].connect-retry": {"100ms", "200ms"},
	"peers[].passive":               {"port: 1791, connect-retry: 100ms", "passive: true"},
	"peers[].router-advertisements": {"interface: absent", "interface: absent, router-advertisements: false"},

	"dynamic-peers[].prefix": {"127.0.3.0/24", "127.0.3.0/25"}, "dynamic-peers[].asn": {"asn: 65002", "asn: any"},
	"dynamic-peers[].limit": {"asn: 65002", "asn: 65002, limit: 5"},

	"vnis[].off": {"off: false", "off: true"}, "vnis[].create": {"off: false", "create: true"},
	"vnis[].device": {"off: false", "create: true, device: vx7"}, "vnis[].bridge": {"off: false", "create: true, bridge: br7"},

	"duplicates.recover-after": {"vtep:", "duplicates: {recover-after: 1h}\nvtep:"},
	"api.socket":               {"evpnd.sock", "other.sock"},
	"api.group":                {"api: {", "api: {group: root, "}, "api.metrics": {"api: {", "api: {metrics: \"127.0.0.1:9473\", "},
	"api.admin-group": {"api: {", "api: {admin-group: root, "},
}

// listener is a TCP listener of the API; the files are made by the test.
const listener = "listen: \"127.0.0.1:9474\", certificate: api.crt, key: api.key, client-ca: ca.crt, admins: [ops]"

func init() {
	for key, value := range map[string]string{
		"description": "x", "local-address": "127.0.0.1", "interface": "lo", "multihop": "2", "ttl-security": "1",
		"password-file": "key", "hold-time": "30s", "keepalive": "5s", "graceful-restart": "60s", "rt-constraint": "true",
		"need-encapsulation": "true", "max-routes": "10", "long-lived": "60s", "stale-time": "20s", "on-peer-loss": "keep-for 5m",
	} {
		edits["peers[]."+key] = []string{"asn: 65001", "asn: 65001, " + key + ": " + value}
		edits["dynamic-peers[]."+key] = []string{"asn: 65002", "asn: 65002, " + key + ": " + value}
	}
	for _, list := range []string{"peers[]", "dynamic-peers[]"} { // nobody can be asked for routes of any AS
		edits[list+".rt-constraint"] = append(edits[list+".rt-constraint"], "vtep:", "route-targets: rfc8365\nvtep:")
	}
	for key, value := range map[string]string{
		"rd": "10.0.0.1:5", "import": "[\"65000:7\"]", "export": "[\"65000:7\"]", "strict-tag": "true", "static-macs": "sticky",
		"gateways": "[{mac: \"02:00:5e:00:01:01\", ip: 172.16.0.254}]", "snooping": "false", "arp-suppression": "true",
		"manage": "true", "max-macs": "{port: 9}",
	} {
		edits["vnis[]."+key] = []string{"off: false", key + ": " + value}
	}
	for _, key := range []string{"listen", "certificate", "key", "client-ca", "admins"} { // one is nothing without the others
		edits["api."+key] = []string{"api: {", "api: {" + listener + ", "}
	}
	edits["api.readers"] = []string{"api: {", "api: {" + listener + ", readers: [noc], "}
	for key, value := range map[string]string{"duplicates.moves": "6", "duplicates.within": "200s", "duplicates.action": "alarm", "log.level": "debug", "log.format": "json"} {
		section, name, _ := strings.Cut(key, ".")
		edits[key] = []string{"vtep:", fmt.Sprintf("%s: {%s: %s}\nvtep:", section, name, value)}
	}
}

// reload replaces the configuration file and has it read.
func (p *process) reload(ctx context.Context, text string) (*evpnv1.ReloadResponse, error) {
	p.t.Helper()
	if err := os.WriteFile(filepath.Join(p.dir, "evpnd.yaml"), []byte(text), 0o600); err != nil {
		p.t.Fatal(err)
	}
	return evpnv1.NewAdminServiceClient(p.conn).Reload(ctx, &evpnv1.ReloadRequest{})
}

// file is the configuration that the process was started with.
func (p *process) file() string {
	p.t.Helper()
	text, err := os.ReadFile(filepath.Join(p.dir, "evpnd.yaml"))
	if err != nil {
		p.t.Fatal(err)
	}
	return string(text)
}

// uptimes says since when each peer's session is up; a peer without one is not in it.
func (p *process) uptimes(ctx context.Context) map[string]time.Time {
	p.t.Helper()
	up := map[string]time.Time{}
	for _, peer := range p.peers(ctx) {
		if peer.State == "established" {
			up[peer.Address] = peer.Since.AsTime()
		}
	}
	return up
}

// awaitUp waits until all peers have a session.
func (p *process) awaitUp(ctx context.Context, peers ...string) map[string]time.Time {
	p.t.Helper()
	limit := time.Now().Add(deadline)
	for {
		up := p.uptimes(ctx)
		if !slices.ContainsFunc(peers, func(peer string) bool { return up[peer].IsZero() }) {
			return up
		}
		if time.Now().After(limit) {
			p.t.Fatalf("sessions %v, want %v", up, peers)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// TestEffects: every key, changed on a running daemon, does to sessions what config.Keys says, and to those of other
// peers nothing.
func TestEffects(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	t.Cleanup(func() { // runs when the daemons have ended, and left what vnis[].create has them make
		for _, link := range []string{"vxlan100", "br100", "vx7", "br7"} {
			_ = exec.Command("ip", "link", "del", link).Run() // it may not be there
		}
	})
	p := launch(t, changed)
	launch(t, dialled)
	launch(t, dialling)
	if err := os.WriteFile(filepath.Join(p.dir, "key"), []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ca := certtest.New(t, "clients")
	ca.Write(p.dir, "api", ca.Server())
	base := p.file()
	for _, key := range config.Keys() {
		text := base
		for pair := range slices.Chunk(edits[key.Path()], 2) {
			text = strings.Replace(text, pair[0], pair[1], 1)
		}
		if text == base {
			t.Errorf("no edit for %s", key.Path())
			continue
		}
		before := p.awaitUp(ctx, dialledAddr, diallingAddr)
		resp, err := p.reload(ctx, text)
		after := p.uptimes(ctx)
		if key.Effect == config.Restart {
			if message := status.Convert(err).Message(); status.Code(err) != codes.FailedPrecondition || !strings.Contains(message, key.Path()) {
				t.Errorf("%s: %v", key.Path(), err)
			}
		} else if err != nil {
			t.Errorf("%s: %v", key.Path(), err)
		} else if !slices.ContainsFunc(resp.Details, func(c *evpnv1.ConfigChange) bool {
			whole := c.Key == "" && (key.Name == "address" || key.Name == "prefix")
			return c.Section == key.Section && (c.Key == key.Name || whole) && (c.Effect == key.Effect.String() || whole)
		}) {
			t.Errorf("%s: it said %v", key.Path(), resp.Changes)
		}
		flapping := map[string]bool{
			dialledAddr:  key.Effect == config.Flaps && key.Section == "peers",
			diallingAddr: key.Effect == config.Flaps && key.Section == "dynamic-peers" || key.Path() == "listen.enabled",
		}
		for peer, flaps := range flapping {
			if stays := after[peer].Equal(before[peer]); stays == flaps {
				t.Errorf("%s: session with %s up since %s, before %s", key.Path(), peer, after[peer], before[peer])
			}
		}
		if _, err := p.reload(ctx, base); err != nil {
			t.Fatalf("%s, back: %v", key.Path(), err)
		}
	}
}

// TestKeyUnderSession: both ends change the TCP MD5 key, one after the other, and the session stays.
func TestKeyUnderSession(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	p, other := launch(t, changed), launch(t, dialled)
	before := p.awaitUp(ctx, dialledAddr)
	refused := refusedSegments(t)
	for _, end := range []struct {
		*process
		at string
	}{{p, "asn: 65001"}, {other, "asn: 65000, passive"}} {
		if err := os.WriteFile(filepath.Join(end.dir, "key"), []byte("secret\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := end.reload(ctx, strings.Replace(end.file(), end.at, "password-file: key, "+end.at, 1)); err != nil {
			t.Fatal(err)
		}
		if end.process == p { // what it sends now is signed, and the other end does not know by what
			if _, err := evpnv1.NewAdminServiceClient(p.conn).ClearPeer(ctx, &evpnv1.ClearPeerRequest{Address: dialledAddr, Soft: true}); err != nil {
				t.Fatal(err)
			}
			for refusedSegments(t) == refused {
				if ctx.Err() != nil {
					t.Fatal("the key is not in use")
				}
				time.Sleep(5 * time.Millisecond)
			}
		}
	}
	if up := p.uptimes(ctx); !up[dialledAddr].Equal(before[dialledAddr]) {
		t.Errorf("session up since %s, before %s", up[dialledAddr], before[dialledAddr])
	}
	// What was refused arrives now, and what follows it: the other end hears why the session ends. It stays down for a look.
	keyed := p.file()
	if _, err := p.reload(ctx, strings.Replace(keyed, "port: 1791, connect-retry: 100ms", "passive: true", 1)); err != nil {
		t.Fatal(err)
	}
	if _, err := evpnv1.NewAdminServiceClient(p.conn).ClearPeer(ctx, &evpnv1.ClearPeerRequest{Address: dialledAddr}); err != nil {
		t.Fatal(err)
	}
	for {
		if strings.Contains(other.peers(ctx)[0].Reason, "cleared by operator") {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if _, err := p.reload(ctx, keyed); err != nil {
		t.Fatal(err)
	}
	p.awaitUp(ctx, dialledAddr) // a new session, with the key from the start
}

// refusedSegments counts the TCP segments of this namespace that came with a wrong MD5 digest, or one nobody expected.
func refusedSegments(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("/proc/net/netstat")
	if err != nil {
		t.Fatal(err)
	}
	var names, counts []string
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) > 0 && fields[0] == "TcpExt:" {
			names, counts = counts, fields
		}
	}
	var out []string
	for i, name := range names {
		if strings.HasPrefix(name, "TCPMD5") {
			out = append(out, name+"="+counts[i])
		}
	}
	return strings.Join(out, " ")
}
