package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/evpnd/evpnd/labs"
)

// convergeTime is how long the demo waits for sessions and tables, each.
const convergeTime = 30 * time.Second

// demoVM is one host behind a VTEP of the demo's lab.
type demoVM struct{ node, ip4, ip6 string }

var (
	demoHosts = []string{"h1", "h2"}
	demoVMs   = []demoVM{
		{"vm11", "172.16.100.11", "fd00:100::11"},
		{"vm12", "172.16.100.12", "fd00:100::12"},
		{"vm21", "172.16.100.21", "fd00:100::21"},
		{"vm22", "172.16.100.22", "fd00:100::22"},
	}
)

func (o *options) demoCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "demo [DIR]",
		Short: "run 01-two-hosts, show its tables, ping every VM from every VM, end it",
		Long: `demo runs labs/01-two-hosts: two hosts with evpnd peering directly, two VMs each. It waits until both have learned
each other, prints their tables and the kernel's, pings every pair of VMs over IPv4 and IPv6, and takes the lab down.
KEEP=1 in the environment leaves it running. The exit code is 0 only when every ping was answered.`,
		Args: atMostOne,
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := demoDir(args)
			if err != nil {
				return err
			}
			return o.demo(cmd, dir)
		},
	}
}

// demoDir finds the demo's lab: as given, from the working directory, or from the program's place in bin/.
func demoDir(args []string) (string, error) {
	if len(args) == 1 {
		return args[0], nil
	}
	places := []string{"labs/01-two-hosts"}
	if self, err := os.Executable(); err == nil {
		places = append(places, filepath.Join(filepath.Dir(self), "..", "labs", "01-two-hosts"))
	}
	for _, dir := range places {
		if _, err := os.Stat(dir); err == nil {
			return dir, nil
		}
	}
	return "", usageError{fmt.Errorf("no %s: run it from the repository, or give the lab's directory", places[0])}
}

func (o *options) demo(cmd *cobra.Command, dir string) error {
	began := time.Now()
	d := demo{ctx: cmd.Context(), w: cmd.OutOrStdout()}
	if err := labs.Need("ping"); err != nil {
		return err
	}
	topo, err := labs.Load(dir)
	if err != nil {
		return err
	}
	d.say("starting %s: two hosts with evpnd, two VMs each, VNI 100 over VXLAN", topo.Name)
	if d.lab, err = labs.Up(d.ctx, topo, o.up()); err != nil {
		return err
	}
	err = d.run()
	if os.Getenv("KEEP") == "1" {
		fmt.Fprintf(d.w, "\nThe lab is left running. Look around:  evpnlab exec h1 -- evpnctl show mac\n"+
			"End it:  evpnlab down %s\n", d.lab.Name)
	} else {
		err = errors.Join(err, down(cmd, d.lab))
	}
	if err != nil {
		return fmt.Errorf("demo failed: %w", err)
	}
	fmt.Fprintf(d.w, "\ndemo: %d of %d pings answered, 0%% loss, %s in all\n", d.answered, d.sent, time.Since(began).Round(100*time.Millisecond))
	return nil
}

// demo is one run of the demo.
type demo struct {
	ctx            context.Context
	w              io.Writer
	lab            *labs.Lab
	sent, answered int
}

func (d *demo) say(format string, args ...any) {
	fmt.Fprintf(d.w, "\n==> "+format+"\n", args...)
}

func (d *demo) run() error {
	d.say("waiting until each host floods to the other")
	for _, host := range demoHosts {
		if err := d.await(host, "00:00:00:00:00:00 dst", "bridge", "fdb", "show", "dev", "vxlan100"); err != nil {
			return err
		}
	}
	d.say("pinging every VM from every VM, over VXLAN and within a host")
	if err := d.pingAll(); err != nil {
		return err
	}
	for _, host := range demoHosts {
		d.say("%s as evpnd sees it", host)
		for _, table := range []string{"summary", "vtep", "mac", "arp"} {
			if err := d.show(host, "evpnctl", "show", table); err != nil {
				return err
			}
		}
		d.say("%s as its kernel sees it", host)
		if err := d.show(host, "bridge", "fdb", "show", "dev", "vxlan100"); err != nil {
			return err
		}
	}
	return nil
}

// await repeats a command in a node until it prints want.
func (d *demo) await(node, want string, argv ...string) error {
	ctx, cancel := context.WithTimeout(d.ctx, convergeTime)
	defer cancel()
	if err := d.lab.Await(ctx, node, func(out string) bool { return strings.Contains(out, want) }, argv...); err != nil {
		return errors.Join(fmt.Errorf("%q did not show up: %w", want, err), d.logs(node))
	}
	return nil
}

// logs prints the end of what a node's process said, for a demo that failed.
func (d *demo) logs(node string) error {
	b, err := os.ReadFile(d.lab.LogFile(node))
	if err != nil {
		return err
	}
	fmt.Fprintf(d.w, "\nlog of %s:\n%s\n", node, b[max(0, len(b)-4000):])
	return nil
}

func (d *demo) show(node string, argv ...string) error {
	var out bytes.Buffer
	err := d.lab.Attached(d.ctx, node, nil, &out, &out, argv...)
	fmt.Fprintf(d.w, "\n%s# %s\n%s", node, strings.Join(argv, " "), out.String())
	if err != nil {
		return fmt.Errorf("%s: %q: %w", node, argv, err)
	}
	return nil
}

// pingAll pings every VM from every other one with five packets per family, and goes on after a loss to show all of them.
func (d *demo) pingAll() error {
	const packets = 5
	var faults []error
	for _, from := range demoVMs {
		for _, to := range demoVMs {
			if from == to {
				continue
			}
			for _, ip := range []string{to.ip4, to.ip6} {
				out, _, err := d.lab.Exec(d.ctx, from.node, "ping", "-n", "-q", "-c", fmt.Sprint(packets), "-i", "0.02", "-W", "2", ip)
				d.sent += packets
				if err != nil || !strings.Contains(out, " 0% packet loss") {
					faults = append(faults, fmt.Errorf("%s does not reach all of %s at %s: %w", from.node, to.node, ip, errors.Join(err, errors.New(out))))
					continue
				}
				d.answered += packets
				fmt.Fprintf(d.w, "%s -> %s  %-14s %s\n", from.node, to.node, ip, lossLine(out))
			}
		}
	}
	return errors.Join(faults...)
}

// lossLine picks ping's summary out of its output.
func lossLine(out string) string {
	for line := range strings.Lines(out) {
		if strings.Contains(line, "packet loss") {
			return strings.TrimSpace(line)
		}
	}
	return ""
}
