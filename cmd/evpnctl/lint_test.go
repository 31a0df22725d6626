package main

import (
	"testing"

	evpnv1 "github.com/evpnd/evpnd/api/evpn/v1"
)

func TestLintRT(t *testing.T) {
	lint := rtLint{routes: map[unimported]int{}, heard: map[uint32]bool{}, vnis: []*evpnv1.VNI{
		{Vni: 100, State: "up", ImportRts: []string{"*:100"}},
		{Vni: 200, State: "up", ImportRts: []string{"65000:200"}},
		{Vni: 300, State: "missing", ImportRts: []string{"*:300"}},
	}}
	imet := &evpnv1.Route{Type: 3, Peer: "10.0.0.1", RouteTargets: []string{"65001:200"}, Pmsi: &evpnv1.PMSI{Label: 200}}
	lint.add([]*evpnv1.Route{{Type: 2, Peer: "10.0.0.1", RouteTargets: []string{"65000:100"}, Label1: 100, Vnis: []uint32{100}}, imet})
	lint.add([]*evpnv1.Route{
		{Type: 2, Peer: "10.0.0.1", RouteTargets: []string{"65001:200"}, Label1: 200},
		{Type: 2, Peer: "10.0.0.2", Label1: 900},
	})
	want := []string{
		"error route-target-mismatch: peer 10.0.0.1 sends RT 65001:200 with VNI 200, which imports 65000:200 (2 routes)",
		"warning route-target-unheard: VNI 200 imports 65000:200 and no peer sends that",
		"info route-target-unused: peer 10.0.0.2 sends RT (none), no VNI here imports it, and VNI 900 is not here (1 routes)",
	}
	found := lint.faults()
	if len(found) != len(want) {
		t.Fatalf("%d found, want %d: %v", len(found), len(want), found)
	}
	for i, f := range found {
		if got := f.Severity + " " + f.Code + ": " + f.Detail; got != want[i] {
			t.Errorf("got  %s\nwant %s", got, want[i])
		}
	}
}
