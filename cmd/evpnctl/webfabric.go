package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	evpnv1 "github.com/evpnd/evpnd/api/evpn/v1"
)

// webHost is what one daemon says in its small tables.
type webHost struct {
	Name    string
	Problem string // why it says nothing
	Status  *evpnv1.Status
	Peers   []*evpnv1.Peer
	vnis    []*evpnv1.VNI
	vteps   []*evpnv1.VTEP
}

func readHost(ctx context.Context, t webTarget) *webHost {
	h := &webHost{Name: t.name}
	own, err := t.client.GetStatus(ctx, &evpnv1.GetStatusRequest{})
	if err == nil {
		h.Status = own.Status
		var r *evpnv1.ListPeersResponse
		r, err = whole(t.client.ListPeers(ctx, &evpnv1.ListPeersRequest{}))
		h.Peers = r.GetPeers()
	}
	if err == nil {
		var r *evpnv1.ListVNIsResponse
		r, err = whole(t.client.ListVNIs(ctx, &evpnv1.ListVNIsRequest{}))
		h.vnis = r.GetVnis()
	}
	if err == nil {
		var r *evpnv1.ListVTEPsResponse
		r, err = whole(t.client.ListVTEPs(ctx, &evpnv1.ListVTEPsRequest{}))
		h.vteps = r.GetVteps()
	}
	if status.Code(err) == codes.Unavailable {
		h.Problem = "evpnd is not reachable"
	} else if err != nil {
		_, _, h.Problem = classify(err)
	}
	return h
}

// Kernel says how its kernel stands.
func (h *webHost) Kernel() string { return kernelWord(h.Status) }

// Up is how long it has been running.
func (h *webHost) Up() string { return span(h.Status.GetUptime().AsDuration()) }

// vtepIn is its own tunnel address in a VNI; "" when it does not serve it.
func (h *webHost) vtepIn(vni uint32) string {
	for _, v := range h.vnis {
		if v.Vni == vni {
			return cmp.Or(v.Vtep, h.Status.GetVtep())
		}
	}
	return ""
}

// fabric is what all targets say together.
type fabric struct {
	Hosts []*webHost
	vnis  []uint32
	vteps []string
	names map[string]string // of the targets, by their VTEPs
	cells map[cellKey]*matrixCell
}

type cellKey struct {
	vtep string
	vni  uint32
}

// matrixCell is one VTEP in one VNI.
type matrixCell struct {
	VTEP  string
	VNI   uint32
	MACs  uint32
	Local bool   // of a target itself
	State string // ok, fault, none
	Why   string
}

func newFabric(hosts []*webHost) *fabric {
	f := &fabric{Hosts: hosts, names: map[string]string{}, cells: map[cellKey]*matrixCell{}}
	vnis := map[uint32]bool{}
	for _, h := range hosts {
		for _, v := range h.vnis {
			vnis[v.Vni] = true
			vtep := cmp.Or(v.Vtep, h.Status.GetVtep(), h.Name)
			f.names[vtep] = h.Name
			c := &matrixCell{VTEP: vtep, VNI: v.Vni, MACs: v.MacsLocal, Local: true, State: "ok"}
			if v.State != "up" {
				c.State, c.Why = "fault", strings.Join(append([]string{v.State}, v.Faults...), ": ")
			}
			f.cells[cellKey{vtep, v.Vni}] = c
		}
	}
	for _, h := range hosts {
		for _, v := range h.vteps {
			vnis[v.Vni] = true
			f.remote(h, v)
		}
	}
	f.missing()
	f.vnis = slices.Sorted(maps.Keys(vnis))
	vteps := map[string]bool{}
	for k := range f.cells {
		vteps[k.vtep] = true
	}
	f.vteps = slices.SortedFunc(maps.Keys(vteps), func(a, b string) int {
		x, _ := netip.ParseAddr(a)
		y, _ := netip.ParseAddr(b)
		return cmp.Or(x.Compare(y), cmp.Compare(a, b))
	})
	return f
}

// remote takes in what one host says of another VTEP.
func (f *fabric) remote(h *webHost, v *evpnv1.VTEP) {
	key := cellKey{v.Vtep, v.Vni}
	c := f.cells[key]
	if c == nil {
		c = &matrixCell{VTEP: v.Vtep, VNI: v.Vni, State: "ok"}
		f.cells[key] = c
	}
	if !c.Local {
		c.MACs = max(c.MACs, v.Macs)
	}
	if v.Reachability == "unreachable" {
		c.State, c.Why = "fault", joinWords(c.Why, h.Name+" cannot reach it")
	}
	kernel := v.Kernel.GetState()
	if !v.Flood || kernel == "blocked" || kernel == "failed" {
		c.State = "fault"
		c.Why = joinWords(c.Why, fmt.Sprintf("%s does not flood to it: %s", h.Name, cmp.Or(reason(v.Reason, v.Kernel), "no IMET route")))
	}
}

// missing marks targets that other targets do not know in a VNI which both are in.
func (f *fabric) missing() {
	for _, h := range f.Hosts {
		known := map[cellKey]bool{}
		for _, v := range h.vteps {
			known[cellKey{v.Vtep, v.Vni}] = true
		}
		for key, c := range f.cells {
			own := h.vtepIn(key.vni)
			if c.Local && own != "" && own != key.vtep && !known[key] {
				c.State, c.Why = "fault", joinWords(c.Why, h.Name+" does not know it")
			}
		}
	}
}

func joinWords(a, b string) string {
	if a == "" {
		return b
	}
	return a + "; " + b
}

func (f *fabric) host(name string) *webHost {
	for _, h := range f.Hosts {
		if h.Name == name {
			return h
		}
	}
	return nil
}

// A page shows so much of the matrix at once.
const (
	mostColumns = 64
	mostVTEPs   = 500
)

// matrix is the part of a fabric that a page shows.
type matrix struct {
	VNIs             []uint32
	Rows             []matrixRow
	First, Last, All int // VNIs, counted from 1
	Before, After    int // where other parts begin; -1: there are none
	HiddenVTEPs      int
}

type matrixRow struct {
	VTEP, Name string
	Cells      []*matrixCell // "none" where the VTEP is not in the VNI
}

func (f *fabric) matrix(from int) matrix {
	from = max(0, min(from, len(f.vnis)-1))
	to := min(from+mostColumns, len(f.vnis))
	m := matrix{VNIs: f.vnis[from:to], First: from + 1, Last: to, All: len(f.vnis), Before: -1, After: -1}
	if from > 0 {
		m.Before = max(0, from-mostColumns)
	}
	if to < len(f.vnis) {
		m.After = to
	}
	vteps := f.vteps[:min(len(f.vteps), mostVTEPs)]
	m.HiddenVTEPs = len(f.vteps) - len(vteps)
	for _, vtep := range vteps {
		row := matrixRow{VTEP: vtep, Name: f.names[vtep]}
		for _, vni := range m.VNIs {
			c := f.cells[cellKey{vtep, vni}]
			if c == nil {
				c = &matrixCell{VTEP: vtep, VNI: vni, State: "none", Why: "not in this VNI"}
			}
			row.Cells = append(row.Cells, c)
		}
		m.Rows = append(m.Rows, row)
	}
	return m
}
