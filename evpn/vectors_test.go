package evpn_test

import (
	"encoding/hex"
	"encoding/json"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/evpnd/evpnd/evpn"
	"github.com/evpnd/evpnd/evpn/wire"
)

// vectorFile is what these tests need of the specification's vectors.
type vectorFile struct {
	Vectors []struct {
		Name, Tier, Hex string
		Reaction        struct{ Required string }
	}
	Scenarios []struct {
		Name, Tier string
		Steps      []step
	}
}

type step struct{ Peer, Hex, Event string }

func loadVectors(t *testing.T) (f vectorFile, octets map[string]string) {
	t.Helper()
	b, err := os.ReadFile("wire/testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &f); err != nil {
		t.Fatal(err)
	}
	octets = map[string]string{}
	for _, v := range f.Vectors {
		octets[v.Name] = v.Hex
	}
	return f, octets
}

var (
	vtepA = netip.MustParseAddr("192.0.2.1")
	vtepB = netip.MustParseAddr("192.0.2.3")
)

// vectorHost is the host of the vectors: VTEP 192.0.2.2 in AS 64512 with VNI 10100.
type vectorHost struct {
	t       *testing.T
	core    *evpn.Core
	notes   []evpn.Note
	decoder map[netip.Addr]*wire.Decoder
	write   func(evpn.KernelBatch) evpn.Applied
	read    func() map[evpn.EntryKey]evpn.Entry
	now     time.Time
}

func newVectorHost(t *testing.T, setup reaction) *vectorHost {
	cfg := evpn.Config{ASN: 64512, VTEP: netip.MustParseAddr("192.0.2.2"), RouterID: netip.MustParseAddr("192.0.2.2")}
	if setup.vtep6 {
		cfg.VTEP = netip.MustParseAddr("2001:db8:0:1::2")
	}
	vni := evpn.VNI(10100)
	if setup.vni != 0 {
		vni = setup.vni
	}
	policy := evpn.VNIPolicy{StrictTag: setup.strict}
	if setup.imports != "" {
		pattern, err := evpn.ParseRTPattern(setup.imports)
		if err != nil {
			t.Fatal(err)
		}
		policy.Import = []evpn.RTPattern{pattern}
	}
	cfg.VNIs = map[evpn.VNI]evpn.VNIPolicy{vni: policy}
	kernel := evpn.NewMapKernel()
	h := &vectorHost{
		t: t, core: evpn.New(cfg), decoder: map[netip.Addr]*wire.Decoder{}, now: time.Unix(0, 0),
		write: func(b evpn.KernelBatch) evpn.Applied { return evpn.Apply(kernel, b) },
		read:  func() map[evpn.EntryKey]evpn.Entry { return evpn.Ours(kernel) },
	}
	h.tell(evpn.AttachmentUp{Attachment: evpn.Attachment{VNI: vni, BridgeMAC: evpn.MAC{2, 0xbb, 0, 0, 0, 1}, Usable: true}})
	for _, peer := range []netip.Addr{vtepA, vtepB} {
		h.tell(evpn.PeerUp{Peer: peer, NeedEncap: setup.needEncap})
	}
	return h
}

func (h *vectorHost) tell(ev evpn.Event) { h.core.Handle(ev, h.now) }

// receive decodes a message as the session of peer does, and returns whether the session stands.
func (h *vectorHost) receive(peer netip.Addr, octets string, ebgp bool) bool {
	h.t.Helper()
	b, err := hex.DecodeString(octets)
	if err != nil {
		h.t.Fatal(err)
	}
	o := wire.Options{AS4: true, IBGP: !ebgp}
	kind, n, err := wire.Header(b, o)
	if err != nil {
		return false
	}
	if kind != wire.MessageUpdate {
		return true
	}
	if h.decoder[peer] == nil || ebgp {
		h.decoder[peer] = wire.NewDecoder(o)
	}
	var r wire.Result
	if err := h.decoder[peer].Update(b[wire.HeaderLen:n], &r); err != nil {
		return false
	}
	if u := r.Take(peer); u != nil {
		h.tell(u)
	}
	if r.EndOfRIB {
		h.tell(evpn.EndOfRIB{Peer: peer})
	}
	return true
}

// settle writes what is to be written and returns what the kernel holds, in the short words of the tables below.
func (h *vectorHost) settle() string {
	for {
		out := h.core.Flush(h.now)
		h.notes = append(h.notes, out.Notes...)
		if len(out.Kernel.Ops) == 0 {
			break
		}
		h.tell(h.write(out.Kernel))
	}
	var lines []string
	for key, e := range h.read() {
		if key.Table != evpn.TableVTEP {
			lines = append(lines, key.String()+e.Describe())
		}
	}
	slices.Sort(lines)
	return shorten(strings.Join(lines, "; "))
}

var shorten = strings.NewReplacer(
	" vni 10100", "", "00:00:5e:00:53:01", "M1", "00:00:5e:00:53:02", "M2", "02:00:c0:00:02:01", "R1", " mac ", " ", " vtep ", " ",
).Replace

// reaction is what the core must make of one vector.
type reaction struct {
	vector string
	before []string // vectors received first
	want   string

	vni       evpn.VNI
	imports   string
	vtep6     bool
	strict    bool
	needEncap bool
	ebgp      bool
	notes     string // a note with this reason
}

var reactions = []reaction{
	{vector: "t3-imet-ipv4", want: "flood 192.0.2.1"},
	{vector: "t3-imet-ipv6", vtep6: true, want: "flood 2001:db8:0:1::1"},
	{vector: "t3-imet-ipv6", notes: "next hop is not of the address family of our VTEP"},
	{vector: "t3-imet-ipv6-nh-ipv4-originator", vtep6: true, want: "flood 2001:db8:0:1::1"},
	{vector: "t3-imet-auto-rt", want: "flood 192.0.2.1"},
	{vector: "t3-imet-auto-rt", imports: "64512:10100"},
	{vector: "t3-imet-rt-4octet-as", ebgp: true, imports: "4200000001:10100", want: "flood 192.0.2.1"},
	{vector: "t3-imet-rt-4octet-as", ebgp: true, imports: "64512:10100"},
	{vector: "t3-imet-rt-ipv4", imports: "192.0.2.1:10", want: "flood 192.0.2.1"},
	{vector: "t3-imet-no-encap", want: "flood 192.0.2.1"},
	{vector: "t3-imet-no-encap", needEncap: true, notes: "no encapsulation given"},
	{vector: "t3-imet-encap-mpls", notes: "encapsulation is not VXLAN"},
	{vector: "t3-imet-encap-vxlan-nvgre", want: "flood 192.0.2.1"},
	{vector: "t3-imet-tunnel-encap-attr", want: "flood 192.0.2.1"},
	{vector: "t3-imet-pim-sm", notes: "PMSI tunnel type 4 is not ingress replication"},
	{vector: "t3-imet-leaf-flag", want: "flood 192.0.2.1"},
	{vector: "t3-imet-no-pmsi", notes: "no PMSI tunnel attribute"},
	{vector: "t3-imet-no-rt"},
	{vector: "t3-imet-other-rt"},
	{vector: "t3-imet-unknown-ec", want: "flood 192.0.2.1"},
	{vector: "t3-imet-reflected", want: "flood 192.0.2.1"},
	{vector: "t3-imet-pmsi-endpoint-differs", want: "flood 192.0.2.101"},
	{vector: "t3-imet-vlan-aware"},
	{vector: "t3-withdraw", before: []string{"t3-imet-ipv4"}},

	{vector: "t2-mac-only", want: "fdb M1 192.0.2.1"},
	{vector: "t2-mac-ipv4", want: "fdb M1 192.0.2.1; neighbor 198.51.100.11 M1"},
	{vector: "t2-mac-ipv6", want: "fdb M1 192.0.2.1; neighbor 2001:db8:100::11 M1"},
	{vector: "t2-mac-ipv6-arpnd-router", want: "fdb M1 192.0.2.1; neighbor 2001:db8:100::11 M1 router"},
	{vector: "t2-mac-ipv4-immutable", want: "fdb M1 192.0.2.1; neighbor 198.51.100.11 M1"},
	{vector: "t2-mac-ipv4-l3vni", want: "fdb M1 192.0.2.1; neighbor 198.51.100.11 M1"},
	{vector: "t2-mac-ipv4-l3vni-no-rmac", want: "fdb M1 192.0.2.1; neighbor 198.51.100.11 M1"},
	{vector: "t2-sticky", want: "fdb M1 192.0.2.1 sticky"},
	{vector: "t2-mobility-seq1", before: []string{"t2-mac-only"}, want: "fdb M1 192.0.2.3"},
	{vector: "t2-mobility-seq0-explicit", before: []string{"t2-mac-only"}, want: "fdb M1 192.0.2.1"},
	{vector: "t2-mobility-seq-max", want: "fdb M1 192.0.2.1"},
	{vector: "t2-mobility-two-ecs", before: []string{"t2-mobility-seq1"}, want: "fdb M1 192.0.2.1"},
	{vector: "t2-mobility-unknown-flags", before: []string{"t2-mobility-seq1"}, want: "fdb M1 192.0.2.1"},
	{vector: "t2-default-gateway", want: "fdb R1 192.0.2.1; neighbor 198.51.100.1 R1"},
	{vector: "t2-vlan-aware"},
	{vector: "t2-vlan-based-nonzero-tag", want: "fdb M1 192.0.2.1"},
	{vector: "t2-vlan-based-nonzero-tag", strict: true, notes: "ethernet tag 100 in a VLAN-based EVI"},
	{vector: "t2-unknown-mac-route", notes: "no host's MAC"},
	{vector: "t2-multicast-mac", notes: "no host's MAC"},
	{vector: "t2-own-vtep-nexthop", notes: "next hop is our own VTEP"},
	{vector: "t2-vni-mismatch", notes: "label names VNI 20200"},
	{vector: "t2-vni-max", vni: evpn.MaxVNI, imports: "64512:65535", want: "fdb vni 16777215 M1 192.0.2.1"},
	{vector: "t2-vni-zero", notes: "VNI 0"},
	{vector: "t2-two-nlri", want: "fdb M1 192.0.2.1; fdb M2 192.0.2.1; neighbor 198.51.100.11 M1; neighbor 2001:db8:100::11 M2"},
	{vector: "t2-ext-length-attr", want: "fdb M1 192.0.2.1"},
	{vector: "t2-mpreach-last", want: "fdb M1 192.0.2.1"},
	{vector: "t2-reach-and-unreach", before: []string{"t2-mac-only"}, want: "fdb M2 192.0.2.1"},
	{vector: "t2-withdraw", before: []string{"t2-mac-only"}},
	{vector: "t2-withdraw-label0", before: []string{"t2-mac-only"}},
	{vector: "t2-withdraw-ip", before: []string{"t2-two-nlri"}, want: "fdb M1 192.0.2.1; fdb M2 192.0.2.1; neighbor 2001:db8:100::11 M2"},
	{vector: "t2-withdraw-two-labels", before: []string{"t2-mac-ipv4-l3vni"}},
	{vector: "t2-withdraw-unknown", before: []string{"t2-mac-only"}, want: "fdb M1 192.0.2.1"},
	{vector: "multi-withdraw", before: []string{"t2-mac-only", "t2-mac-ipv4", "t3-imet-ipv4", "t5-ipv4"}},

	{vector: "t6-smet"},
	{vector: "t6-then-t2", want: "fdb M1 192.0.2.1"},
	{vector: "t8-then-t2-withdraw", before: []string{"t2-mac-only"}},
	{vector: "t9-per-region-ipmsi"},
	{vector: "t200-unassigned", want: "fdb M1 192.0.2.1; flood 192.0.2.1"},
	{vector: "t0-reserved-empty", want: "fdb M1 192.0.2.1"},
	{vector: "dup-extcomm", want: "fdb M1 192.0.2.1"},
}

// TestVectors: what the core makes of the specification's messages of types 2 and 3.
func TestVectors(t *testing.T) {
	f, octets := loadVectors(t)
	for _, r := range reactions {
		t.Run(r.vector, func(t *testing.T) {
			if octets[r.vector] == "" {
				t.Fatal("no such vector")
			}
			h := newVectorHost(t, r)
			for _, name := range append(slices.Clone(r.before), r.vector) {
				peer := vtepA
				if strings.HasPrefix(name, "t2-mobility-seq1") || strings.HasPrefix(name, "t2-mobility-seq0") {
					peer = vtepB // as its next hop says
				}
				if !h.receive(peer, octets[name], r.ebgp) {
					t.Fatalf("%s: session lost", name)
				}
			}
			if got := h.settle(); got != r.want {
				t.Errorf("kernel holds %q, want %q", got, r.want)
			}
			said := slices.ContainsFunc(h.notes, func(n evpn.Note) bool { return n.Kind == evpn.NoteRefused && n.Reason == r.notes })
			if r.notes != "" && !said {
				t.Errorf("want a note %q, got %+v", r.notes, h.notes)
			}
		})
	}
	for _, v := range f.Vectors {
		inScope := v.Tier == "core" || v.Tier == "host"
		isRoute := strings.HasPrefix(v.Name, "t2-") || strings.HasPrefix(v.Name, "t3-")
		if inScope && isRoute && !slices.ContainsFunc(reactions, func(r reaction) bool { return r.vector == v.Name }) {
			t.Errorf("%s (%s) is not tried", v.Name, v.Reaction.Required)
		}
	}
}

// TestMalformedVectors: a malformed message takes away at most the route it is about, or with the session all; it never
// adds anything.
func TestMalformedVectors(t *testing.T) {
	f, octets := loadVectors(t)
	for _, v := range f.Vectors {
		if v.Reaction.Required != "treat-as-withdraw" && v.Reaction.Required != "session-reset" {
			continue
		}
		t.Run(v.Name, func(t *testing.T) {
			h := newVectorHost(t, reaction{})
			for _, name := range []string{"t2-mac-only", "t2-mac-ipv4", "t3-imet-ipv4"} {
				h.receive(vtepA, octets[name], false)
			}
			before := h.settle()
			stands := h.receive(vtepA, v.Hex, false)
			if stands != (v.Reaction.Required == "treat-as-withdraw") {
				t.Fatalf("session stands: %v", stands)
			}
			if !stands {
				h.tell(evpn.PeerDown{Peer: vtepA})
			}
			after := h.settle()
			if !stands && after != "" {
				t.Errorf("after the session: %q", after)
			}
			for _, line := range strings.Split(after, "; ") {
				if line != "" && !strings.Contains(before, line) {
					t.Errorf("%q came from a malformed message", line)
				}
			}
		})
	}
}

// scenarios says what the kernel must hold after each step (specification B.5).
var scenarios = map[string][]string{
	"move-higher-sequence":       {"fdb M1 192.0.2.1", "fdb M1 192.0.2.3", "fdb M1 192.0.2.3"},
	"equal-sequence-lowest-vtep": {"fdb M1 192.0.2.3", "fdb M1 192.0.2.1"},
	"absent-equals-zero":         {"fdb M1 192.0.2.3", "fdb M1 192.0.2.1"},
	"sticky-beats-sequence":      {"fdb M1 192.0.2.1 sticky", "fdb M1 192.0.2.1 sticky"},
	"mac-ip-withdraw-keeps-fdb":  {"fdb M1 192.0.2.1", "fdb M1 192.0.2.1; neighbor 198.51.100.11 M1", "fdb M1 192.0.2.1"},
	"mac-ip-only-host":           {"fdb M1 192.0.2.1; neighbor 198.51.100.11 M1", ""},
	"two-ips-one-mac": {
		"fdb M1 192.0.2.1; neighbor 198.51.100.11 M1",
		"fdb M1 192.0.2.1; neighbor 198.51.100.11 M1; neighbor 2001:db8:100::11 M1",
		"fdb M1 192.0.2.1; neighbor 2001:db8:100::11 M1",
	},
	"unknown-type-keeps-session": {"", "fdb M1 192.0.2.1"},
	"eor-flush": {
		"fdb M1 192.0.2.1", "fdb M1 192.0.2.1; fdb M2 192.0.2.1", "fdb M1 192.0.2.1; fdb M2 192.0.2.1",
		"fdb M1 192.0.2.1; fdb M2 192.0.2.1", "fdb M1 192.0.2.1; fdb M2 192.0.2.1", "fdb M1 192.0.2.1",
	},
}

func TestScenarios(t *testing.T) {
	f, _ := loadVectors(t)
	for _, s := range f.Scenarios {
		want, known := scenarios[s.Name]
		if !known {
			if s.Tier == "core" || s.Tier == "host" {
				t.Errorf("%s is not tried", s.Name)
			}
			continue
		}
		t.Run(s.Name, func(t *testing.T) {
			h := newVectorHost(t, reaction{})
			for i, step := range s.Steps {
				h.step(step)
				if got := h.settle(); got != want[i] {
					t.Fatalf("after step %d: kernel holds %q, want %q", i+1, got, want[i])
				}
			}
			alerted := slices.ContainsFunc(h.notes, func(n evpn.Note) bool { return n.Kind == evpn.NoteStickyMAC })
			if alerted != (s.Name == "sticky-beats-sequence") {
				t.Errorf("operator alerted of a sticky MAC: %v", alerted)
			}
		})
		if s.Name == "equal-sequence-lowest-vtep" { // the order of arrival must not matter
			h := newVectorHost(t, reaction{})
			for _, step := range slices.Backward(s.Steps) {
				h.step(step)
				if got := h.settle(); got != "fdb M1 192.0.2.1" {
					t.Errorf("%s backwards: kernel holds %q", s.Name, got)
				}
			}
		}
	}
}

func (h *vectorHost) step(s step) {
	h.t.Helper()
	switch {
	case strings.HasPrefix(s.Event, "TCP session lost"):
		h.tell(evpn.PeerDown{Peer: vtepA, Retain: 120 * time.Second})
	case s.Event == "session up again":
		h.tell(evpn.PeerUp{Peer: vtepA, Forwarding: true})
		delete(h.decoder, vtepA)
	case s.Event != "":
		h.t.Fatalf("unknown event %q", s.Event)
	default:
		if !h.receive(netip.MustParseAddr(s.Peer), s.Hex, false) {
			h.t.Fatal("session lost")
		}
	}
}
