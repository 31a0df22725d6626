package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// session is a peer in a subject's configuration.
type session struct {
	peer    netip.Addr
	passive bool
}

const frrDir = "/usr/lib/frr"

// startEVPND starts the daemon with its defaults.
func startEVPND(ctx context.Context, s settings, h *host, sessions []session) ([]*exec.Cmd, error) {
	var config strings.Builder
	fmt.Fprintf(&config, "asn: %d\nvtep: %s\nstate-dir: %s\napi: {socket: %s/evpnd.sock}\nlog: {level: warn}\npeers:\n", asn, h.vtep, h.dir, h.dir)
	for _, p := range sessions {
		fmt.Fprintf(&config, "  - {address: %s, asn: %d, passive: %t, hold-time: 0s}\n", p.peer, asn, p.passive)
	}
	if h.create > 0 {
		config.WriteString("vnis:\n")
		for vni := firstVNI + h.vnis; vni < firstVNI+h.vnis+h.create; vni++ {
			fmt.Fprintf(&config, "  %d: {create: true}\n", vni)
		}
	}
	path := filepath.Join(h.dir, "evpnd.yaml")
	if err := os.WriteFile(path, []byte(config.String()), 0o600); err != nil {
		return nil, err
	}
	program, err := filepath.Abs(s.evpnd)
	if err != nil {
		return nil, err
	}
	cmd, err := h.start(ctx, program, "-c", path)
	return []*exec.Cmd{cmd}, err
}

// startFRR starts zebra with the socket buffer that Debian gives it, and bgpd.
func startFRR(ctx context.Context, _ settings, h *host, sessions []session) ([]*exec.Cmd, error) {
	var config strings.Builder
	fmt.Fprintf(&config, "router bgp %d\n bgp router-id %s\n no bgp default ipv4-unicast\n", asn, h.vtep)
	for _, p := range sessions {
		fmt.Fprintf(&config, " neighbor %s remote-as %d\n neighbor %s update-source %s\n neighbor %s timers 0 0\n", p.peer, asn, p.peer, h.vtep, p.peer)
		if p.passive {
			fmt.Fprintf(&config, " neighbor %s passive\n", p.peer)
		} else {
			fmt.Fprintf(&config, " neighbor %s timers connect 1\n", p.peer)
		}
	}
	config.WriteString(" address-family l2vpn evpn\n")
	for _, p := range sessions {
		fmt.Fprintf(&config, "  neighbor %s activate\n", p.peer)
	}
	config.WriteString("  advertise-all-vni\n")
	// Linux then keeps the addresses of gratuitous ARPs, which is where FRR has them from.
	for vni := firstVNI; vni < firstVNI+h.vnis; vni++ {
		if err := h.sysctl(fmt.Sprintf("ipv4/conf/br%d/arp_accept", vni), "1"); err != nil {
			return nil, err
		}
	}
	// They give up being root and write there as the user of the package.
	if err := os.Chmod(h.dir, 0o777); err != nil {
		return nil, err
	}
	var started []*exec.Cmd
	for _, d := range []struct {
		name, config string
		more         []string
	}{
		{"zebra", "", []string{"-s", "90000000"}},
		{"bgpd", config.String(), nil},
	} {
		path := filepath.Join(h.dir, d.name+".conf")
		if err := os.WriteFile(path, []byte(d.config), 0o644); err != nil {
			return started, err
		}
		args := append([]string{
			"-f", path, "-i", filepath.Join(h.dir, d.name+".pid"), "-z", filepath.Join(h.dir, "zserv.api"),
			"--vty_socket", h.dir, "-A", "127.0.0.1", "-P", "0",
		}, d.more...)
		cmd, err := h.start(ctx, filepath.Join(frrDir, d.name), args...)
		if err != nil {
			return started, err
		}
		started = append(started, cmd)
		if d.name == "zebra" {
			if err := poll(ctx, 20*time.Second, "zebra's socket", func() bool {
				_, err := os.Stat(filepath.Join(h.dir, "zserv.api"))
				return err == nil
			}); err != nil {
				return started, err
			}
		}
	}
	return started, nil
}
