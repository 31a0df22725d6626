package labs

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/evpnd/evpnd/config"
)

// TestScenarioScripts runs the labs whose expect.txtar says all there is to check.
func TestScenarioScripts(t *testing.T) {
	for _, dir := range []string{"06-reflector-pair", "07-unnumbered", "08-frr-underlay"} {
		t.Run(dir, func(t *testing.T) {
			t.Parallel() // they mostly wait
			ctx := testContext(t, 3*time.Minute)
			runExpectations(t, ctx, bringUp(t, ctx, dir), dir)
		})
	}
}

// startupFile finds the files that a topology gives to a switch, which this runner does not look at.
var startupFile = regexp.MustCompile(`(?:startup-config: |")(tor/[a-z0-9.]+)`)

// TestVendorLabs: the topologies with a vendor's switch load with the switch left out and nothing else, the switch's files are
// there and name the route target that the hosts import, the hosts' configurations are valid, and a host comes up.
func TestVendorLabs(t *testing.T) {
	files, err := filepath.Glob("vendor-tor/*.clab.yml")
	if err != nil || len(files) != 4 {
		t.Fatalf("topologies %v, error %v", files, err)
	}
	for _, file := range files {
		topo, err := Load(file)
		if err != nil {
			t.Error(err)
			continue
		}
		want := "vendor-tor-" + strings.TrimSuffix(filepath.Base(file), ".clab.yml")
		if topo.Name != want || len(topo.Nodes) != 5 || len(topo.Links) != 2 {
			t.Errorf("%s: name %s, nodes %v, links %v", file, topo.Name, topo.Nodes, topo.Links)
		}
		if len(topo.Notes) != 4 || !strings.Contains(topo.Notes[0], "runs under containerlab only") {
			t.Errorf("%s: notes %q, want the switch and its three links", file, topo.Notes)
		}
		for _, n := range topo.Nodes {
			if cut := n.Name != "vm1" && n.Name != "vm2"; n.Cut != cut {
				t.Errorf("%s: node %s has lost a link: %t, want %t", file, n.Name, n.Cut, cut)
			}
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		switchConfig := ""
		for _, m := range startupFile.FindAllStringSubmatch(string(text), -1) {
			part, err := os.ReadFile(filepath.Join("vendor-tor", m[1]))
			if err != nil {
				t.Errorf("%s: %v", file, err)
			}
			switchConfig += string(part)
		}
		if !strings.Contains(switchConfig, "65000:100\n") || !strings.Contains(switchConfig, "10100") {
			t.Errorf("%s: the switch has not route target 65000:100 and VNI 10100", file)
		}
	}
	ctx := testContext(t, time.Minute)
	lab := bringUp(t, ctx, files[0])
	served := func(vnis string) bool { return strings.Contains(vnis, "\n10100  up ") }
	if err := lab.Await(ctx, "h1", served, "evpnctl", "show", "vni"); err != nil {
		t.Errorf("h1 does not serve its VNI without the switch: %v", err)
	}
	for _, host := range []string{"h1", "h2"} {
		if _, err := config.Load(filepath.Join("vendor-tor", host, "evpnd.yaml")); err != nil {
			t.Error(err)
		}
	}
}
