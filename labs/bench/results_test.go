package main

import (
	"bytes"
	"errors"
	"net/netip"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/evpnd/evpnd/evpn"
	"github.com/evpnd/evpnd/evpn/wire"
	"github.com/evpnd/evpnd/labs/rawpeer"
)

// TestLoad: the messages and the ops of a load say the same of the same hosts.
func TestLoad(t *testing.T) {
	type hostOf struct {
		vni  evpn.VNI
		mac  evpn.MAC
		ip   netip.Addr
		vtep netip.Addr
	}
	for _, l := range []load{
		{From: 7, N: 12_000, VNI: 100, VNIs: 1, IPs: true, VTEP: farVTEPs[0]},
		{N: 999, VNI: 100, VNIs: 10, VTEP: farVTEPs[1]},
		{N: 1, VNI: 101, VNIs: 1, VTEP: farVTEPs[1], Seq: 3},
	} {
		messages, err := l.Messages()
		if err != nil {
			t.Fatal(err)
		}
		told := map[hostOf]bool{}
		decoder, from := wire.NewDecoder(rawpeer.Options), bytes.NewReader(messages)
		for from.Len() > 0 {
			kind, body, err := rawpeer.ReadMessage(from, nil)
			if err != nil || kind != wire.MessageUpdate {
				t.Fatalf("message %v: %v", kind, err)
			}
			var r wire.Result
			if err := decoder.Update(body, &r); err != nil {
				t.Fatal(err)
			}
			if r.Attrs.Seq != l.Seq {
				t.Fatalf("sequence number %d, want %d", r.Attrs.Seq, l.Seq)
			}
			for _, route := range r.Reach {
				told[hostOf{evpn.VNI(route.Label1), route.Key.MAC, route.Key.IP, r.Attrs.NextHop}] = true
			}
		}
		written, ips := map[hostOf]bool{}, map[evpn.MAC]netip.Addr{}
		ops := opsOf(l)
		for _, op := range ops {
			if op.Key.Table == evpn.TableNeighbor {
				ips[op.Entry.MAC] = op.Key.Addr
			}
		}
		for _, op := range ops {
			if op.Key.Table == evpn.TableFDB {
				written[hostOf{op.Key.VNI, op.Key.MAC, ips[op.Key.MAC], op.Entry.VTEP}] = true
			}
		}
		if len(told) != l.N || !reflect.DeepEqual(told, written) {
			t.Errorf("%+v: %d hosts told of, %d written, or not the same ones", l, len(told), len(written))
		}
	}
}

// TestFigures: medians, quantiles, ratios, and a results file that says when read what was saved.
func TestFigures(t *testing.T) {
	r := newResults(about{Machine: "a machine", EVPND: "v1", FRR: "8.4.4", Runs: 4})
	for i, v := range []float64{4, 1, 3, 10} {
		r.add(kindEVPND, "move/10 p50", "ms", v)
		r.add(kindFRR, "move/10 p50", "ms", 10*v)
		r.add(kindEVPND, "local-mac p50", "ms", float64(i))
	}
	r.fail(errors.New("restart of frr: never came back\nits log"))
	f := r.figures[0]
	if *f.EVPND != 3.5 || *f.FRR != 35 || f.Kernel != nil {
		t.Errorf("%+v", f)
	}
	want := []string{"move/10 p50", "ms", "3.50 (1.00–10.0)", "35.0 (10.0–100)", "–", "0.10", "–"}
	if got := f.row(); !reflect.DeepEqual(got, want) {
		t.Errorf("row %q, want %q", got, want)
	}
	path := filepath.Join(t.TempDir(), "results.jsonl")
	if err := r.save(path); err != nil {
		t.Fatal(err)
	}
	again, err := loadResults(path)
	if err != nil || !reflect.DeepEqual(again.about, r.about) || !reflect.DeepEqual(again.figures, r.figures) {
		t.Errorf("saved %+v, loaded %+v, %v", r, again, err)
	}
	var docs strings.Builder
	if err := printDocs(&docs, path); err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"a machine", "FRR 8.4.4", "## move\n\nOne host moves", "| " + strings.Join(want, " | ") + " |", "## local-mac\n", "- restart of frr: never came back\n"} {
		if !strings.Contains(docs.String(), part) {
			t.Errorf("no %q in\n%s", part, docs.String())
		}
	}
}

func TestQuantile(t *testing.T) {
	var samples []time.Duration
	for i := range 100 {
		samples = append(samples, time.Duration((i*37)%100+1))
	}
	for _, row := range []struct {
		q    float64
		want time.Duration
	}{{0, 1}, {0.5, 50}, {0.99, 99}, {1, 100}} {
		if got := quantile(samples, row.q); got != row.want {
			t.Errorf("quantile %v of 1 to 100: %d, want %d", row.q, got, row.want)
		}
	}
	if got := quantile([]time.Duration{7}, 0.99); got != 7 {
		t.Errorf("of one sample: %d", got)
	}
}
