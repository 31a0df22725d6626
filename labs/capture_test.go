package labs

import (
	"context"
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// capture is tshark writing BGP to a file in a node.
type capture struct {
	node    string
	process *Process
}

const captureFile = "/tmp/bgp.pcap"

// startCapture records BGP on an interface, from now on until the lab ends.
func startCapture(t *testing.T, ctx context.Context, lab *Lab, node, ifname string) capture {
	t.Helper()
	if err := Need("tshark"); err != nil {
		t.Fatal(err)
	}
	p, err := lab.Start(node, "tshark", "tshark", "-Q", "-l", "-i", ifname, "-f", "tcp port 179", "-w", captureFile)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), cleanupTime)
		defer cancel()
		if err := p.Stop(ctx, unix.SIGKILL); err != nil {
			t.Log(err)
		}
	})
	within(t, ctx, 20*time.Second, "tshark captures", func() error {
		// The packet socket of dumpcap is what says that nothing is missed from here on.
		out, _, err := lab.Exec(ctx, node, "cat", "/proc/net/packet")
		if err == nil && strings.Count(out, "\n") < 2 {
			err = fmt.Errorf("no packet socket in %s: %q", node, out)
		}
		return err
	})
	return capture{node: node, process: p}
}

// imet are the octets of what h1 must announce for VNI 300 at VTEP 10.255.0.1 (RFC 7432 §7.3, RFC 8365 §5.1.3).
var imet = map[string]*regexp.Regexp{
	// type 3, length 17, RD of type 1, Ethernet tag 0, 32 bits, VTEP
	"inclusive multicast route": regexp.MustCompile(`03110001[0-9a-f]{12}00000000200aff0001`),
	// PMSI tunnel attribute: optional transitive, ingress replication, VNI 300 in the whole 24 bits, VTEP
	"PMSI tunnel attribute": regexp.MustCompile(`(c01609|d0160009)000600012c0aff0001`),
	// encapsulation VXLAN
	"encapsulation community": regexp.MustCompile(`030c000000000008`),
	// route target 65000:300
	"route target": regexp.MustCompile(`0002fde80000012c`),
	// next hop of AFI 25, SAFI 70
	"next hop": regexp.MustCompile(`001946040aff0001`),
}

// wantIMET wants one message from h1 that has all of imet, and tshark to read it as type 3 without complaint.
func (c capture) wantIMET(t *testing.T, ctx context.Context, lab *Lab) {
	t.Helper()
	read := func(filter string, fields ...string) (string, error) {
		argv := []string{"tshark", "-r", captureFile, "-Y", filter, "-T", "fields"}
		for _, f := range fields {
			argv = append(argv, "-e", f)
		}
		// The file is still written to: tshark complains of a packet cut short and prints the ones before it.
		out, stderr, err := lab.Exec(ctx, c.node, argv...)
		if err != nil && !strings.Contains(stderr, "cut short") {
			return "", err
		}
		return out, nil
	}
	within(t, ctx, 30*time.Second, "h1's type-3 route on the wire", func() error {
		out, err := read("ip.src == 10.255.0.1 && bgp.evpn.nlri.rt == 3", "tcp.payload")
		if err != nil {
			return err
		}
		missing := "any message"
		for payload := range strings.Lines(out) {
			for _, message := range bgpMessages(strings.TrimSpace(payload)) {
				if missing = missingOctets(message); missing == "" {
					return nil
				}
			}
		}
		return fmt.Errorf("no message with %s in %s", missing, out)
	})
	out, err := read("_ws.malformed && ip.src == 10.255.0.1", "frame.number")
	if err != nil || out != "" {
		t.Errorf("tshark calls frames of h1 malformed: %s %v", out, err)
	}
}

func missingOctets(message string) string {
	for what, octets := range imet {
		if !octets.MatchString(message) {
			return what
		}
	}
	return ""
}

// bgpMessages splits the hexadecimal payload of a segment at the markers of BGP messages (RFC 4271 §4.1). One that is
// cut by the end of the segment is left out.
func bgpMessages(payload string) []string {
	b, err := hex.DecodeString(strings.ReplaceAll(payload, ":", ""))
	if err != nil {
		return nil
	}
	var messages []string
	for len(b) >= 19 {
		n := int(b[16])<<8 | int(b[17])
		if n < 19 || n > len(b) {
			break
		}
		messages = append(messages, hex.EncodeToString(b[:n]))
		b = b[n:]
	}
	return messages
}
