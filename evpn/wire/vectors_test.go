package wire

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/evpnd/evpnd/evpn"
)

// vector is one message of testdata/vectors.json as far as this package is concerned; docs/spec/evpn.md part B gives
// the format.
type vector struct {
	Name     string
	Hex      string
	Decoded  *message
	Reaction struct {
		Required     string
		Notification string
	}
}

type message struct {
	Type       MessageType `json:"message_type"`
	Length     int
	Attributes []attribute
}

type attribute struct {
	Type         uint8
	AFI          uint16
	SAFI         uint8
	NextHop      string            `json:"next_hop"`
	NLRI         []json.RawMessage // of EVPN an object, of RT constraint a string
	Origin       uint8
	ASPath       []uint32  `json:"as_path"`
	LocalPref    uint32    `json:"local_pref"`
	OriginatorID string    `json:"originator_id"`
	ClusterList  []string  `json:"cluster_list"`
	ExtComms     []extComm `json:"extended_communities"`
	PMSIFlags    uint8     `json:"pmsi_flags"`
	TunnelType   uint8     `json:"tunnel_type"`
	Label        uint32    `json:"label_field"`
	Endpoint     string
}

type extComm struct {
	Raw, Kind, Value            string
	TunnelType                  uint16 `json:"tunnel_type"`
	Sequence                    uint32
	Sticky                      bool
	Router, Override, Immutable bool
}

type nlri struct {
	Type             evpn.RouteType
	RD, ESI, MAC, IP string
	Tag              evpn.EthernetTag `json:"ethernet_tag"`
	Label            uint32           `json:"label_field"`
	Label1           uint32           `json:"label1_field"`
	Label2           uint32           `json:"label2_field"`
	Originator       string
	Prefix, Gateway  string
}

func loadVectors(t testing.TB) []vector {
	t.Helper()
	b, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Vectors []vector }
	if err := json.Unmarshal(b, &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Vectors) != 136 {
		t.Fatalf("%d vectors, want 136", len(file.Vectors))
	}
	return file.Vectors
}

func (v vector) octets(t testing.TB) []byte {
	t.Helper()
	b, err := hex.DecodeString(v.Hex)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// options: all vectors are of an IBGP session with 4-octet AS numbers, but one.
func (v vector) options() Options {
	return Options{AS4: true, IBGP: v.Name != "t3-imet-rt-4octet-as"}
}

// body returns what follows the header of an UPDATE vector with a sound header; ok is false for all others.
func (v vector) body(t testing.TB) (body []byte, ok bool) {
	t.Helper()
	b := v.octets(t)
	kind, _, err := Header(b, v.options())
	return b[HeaderLen:], err == nil && kind == MessageUpdate
}

func TestVectors(t *testing.T) {
	vectors := loadVectors(t)
	for _, v := range vectors {
		t.Run(v.Name, func(t *testing.T) {
			b := v.octets(t)
			kind, length, err := Header(b, v.options())
			if strings.HasPrefix(v.Reaction.Notification, "1/") {
				checkReset(t, v, err)
				return
			}
			if err != nil || length != len(b) {
				t.Fatalf("Header: length %d of %d, error %v", length, len(b), err)
			}
			if v.Decoded != nil && kind != v.Decoded.Type {
				t.Fatalf("message type %d, want %d", kind, v.Decoded.Type)
			}
			if kind == MessageUpdate {
				checkUpdate(t, v, vectors, b[HeaderLen:])
			} else if v.Reaction.Required != "accept" { // for GoBGP, whatever family it is about
				t.Fatalf("message type %d with reaction %q", kind, v.Reaction.Required)
			}
		})
	}
}

func checkUpdate(t *testing.T, v vector, vectors []vector, body []byte) {
	if strings.HasPrefix(v.Name, "rtc-") || v.Name == "eor-rtc" {
		if IsEVPN(body) {
			t.Fatal("IsEVPN: an UPDATE of RT constraint")
		}
		return
	}
	if !IsEVPN(body) {
		t.Fatal("IsEVPN says no")
	}
	var r Result
	err := NewDecoder(v.options()).Update(body, &r)
	switch v.Reaction.Required {
	case "session-reset":
		checkReset(t, v, err)
		if r.Verdict.Class != SessionReset || r.Verdict.Reason == "" || len(r.Reach)+len(r.Unreach) != 0 || r.Attrs != nil {
			t.Errorf("after a reset: %+v", r)
		}
		return
	case "treat-as-withdraw":
		checkWithdrawn(t, v, vectors, &r)
	case "attribute-discard": // the one such vector repeats the communities of a plain route with others
		if r.Verdict.Class != AttributeDiscard || r.Discarded != 1 {
			t.Errorf("verdict %+v, %d discarded", r.Verdict, r.Discarded)
		}
		checkContents(t, byName(t, vectors, "t2-mac-only"), &r)
	case "accept", "accept-by-policy", "accept-no-import", "accept-no-install", "accept-no-l3", "ignore-nlri":
		if (r.Verdict != Verdict{}) || r.Discarded != 0 {
			t.Errorf("verdict %+v, %d discarded", r.Verdict, r.Discarded)
		}
		checkContents(t, v, &r)
	default:
		t.Fatalf("unknown reaction %q", v.Reaction.Required)
	}
	if err != nil {
		t.Errorf("error %v", err)
	}
	if want := v.Name == "eor-evpn"; r.EndOfRIB != want {
		t.Errorf("EndOfRIB %v", r.EndOfRIB)
	}
	if r.Mixed {
		t.Error("Mixed")
	}
}

func checkReset(t *testing.T, v vector, err error) {
	t.Helper()
	if v.Reaction.Required != "session-reset" {
		t.Fatalf("required %q", v.Reaction.Required)
	}
	var re *ResetError
	if !errors.As(err, &re) {
		t.Fatalf("error %v, want a *ResetError", err)
	}
	want := strings.Fields(v.Reaction.Notification)[0]
	if got := fmt.Sprintf("%d/%d", re.Code, re.Subcode); got != want {
		t.Errorf("notification %s (%s), want %s", got, re.Reason, want)
	}
}

// noKey are the vectors whose only NLRI has no key: such a route was never taken, and there is nothing to withdraw.
var noKey = []string{
	"bad-t2-maclen-40", "bad-t2-maclen-0", "bad-t2-iplen-24", "bad-t3-iplen-24", "bad-t5-plen-33",
	"bad-t5-plen-129",
}

// checkWithdrawn: the malformed vectors are changes of a well-formed one, whose route must be withdrawn by them.
func checkWithdrawn(t *testing.T, v vector, vectors []vector, r *Result) {
	if r.Verdict.Class != TreatAsWithdraw || r.Verdict.Reason == "" {
		t.Errorf("verdict %+v", r.Verdict)
	}
	if len(r.Reach) != 0 || r.Attrs != nil {
		t.Errorf("announced %v", r.Reach)
	}
	base := "t2-mac-only"
	switch {
	case strings.HasPrefix(v.Name, "bad-t5-"):
		base = "t5-ipv4"
	case strings.HasPrefix(v.Name, "bad-pmsi-"):
		base = "t3-imet-ipv4"
	}
	reach, _, _ := byName(t, vectors, base).routes(t)
	want := []evpn.RouteKey{reach[0].Key}
	if slices.Contains(noKey, v.Name) {
		want = nil
	}
	if !slices.Equal(r.Unreach, want) {
		t.Errorf("withdrawn %v, want %v", r.Unreach, want)
	}
}

func checkContents(t *testing.T, v vector, r *Result) {
	t.Helper()
	reach, unreach, skipped := v.routes(t)
	if !slices.Equal(r.Reach, reach) {
		t.Errorf("announced %+v\nwant      %+v", r.Reach, reach)
	}
	if !slices.Equal(r.Unreach, unreach) {
		t.Errorf("withdrawn %v, want %v", r.Unreach, unreach)
	}
	if !slices.Equal(r.Skipped, skipped) {
		t.Errorf("skipped %v, want %v", r.Skipped, skipped)
	}
	if len(reach) == 0 {
		if r.Attrs != nil {
			t.Errorf("attributes without routes: %+v", *r.Attrs)
		}
		return
	}
	if want := v.attrs(t); *r.Attrs != want {
		t.Errorf("attributes %+v\nwant       %+v", *r.Attrs, want)
	}
	if got, want := fmt.Sprint(r.Attrs.RTs()), fmt.Sprint(v.routeTargets()); got != want {
		t.Errorf("route targets %s, want %s", got, want)
	}
}

func byName(t testing.TB, vectors []vector, name string) vector {
	t.Helper()
	i := slices.IndexFunc(vectors, func(v vector) bool { return v.Name == name })
	if i < 0 {
		t.Fatalf("no vector %q", name)
	}
	return vectors[i]
}

// routes says in our types what the vector's own decoding says.
func (v vector) routes(t testing.TB) (reach []evpn.Route, unreach []evpn.RouteKey, skipped []Skipped) {
	t.Helper()
	for _, a := range v.Decoded.Attributes {
		for _, raw := range a.NLRI {
			var n nlri
			if err := json.Unmarshal(raw, &n); err != nil {
				t.Fatal(err)
			}
			switch {
			case !decoded(n.Type):
				skipped = append(skipped, Skipped{n.Type, 1})
			case a.Type == codeMPReach:
				reach = append(reach, n.route(t))
			default:
				unreach = append(unreach, n.route(t).Key)
			}
		}
	}
	return reach, unreach, skipped
}

func (n nlri) route(t testing.TB) evpn.Route {
	t.Helper()
	r := evpn.Route{Key: evpn.RouteKey{Type: n.Type, Tag: n.Tag}, Label1: n.Label + n.Label1, Label2: n.Label2}
	var err error
	if r.Key.RD, err = evpn.ParseRD(n.RD); err != nil {
		t.Fatal(err)
	}
	if n.MAC != "" {
		if r.Key.MAC, err = evpn.ParseMAC(n.MAC); err != nil {
			t.Fatal(err)
		}
	}
	esi := esiOf(t, n.ESI)
	switch n.Type {
	case evpn.TypeEthernetAD, evpn.TypeES:
		r.Key.ESI = esi
	default:
		r.ESI = esi
	}
	r.Key.IP = addrOf(n.IP + n.Originator)
	if n.Prefix != "" {
		p := netip.MustParsePrefix(n.Prefix).Masked()
		r.Key.IP, r.Key.PrefixLen = p.Addr(), uint8(p.Bits())
	}
	if gw := addrOf(n.Gateway); gw.IsValid() && !gw.IsUnspecified() {
		r.GW = gw
	}
	return r
}

func esiOf(t testing.TB, s string) (esi evpn.ESI) {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, ":", ""))
	if err != nil {
		t.Fatal(err)
	}
	copy(esi[:], b)
	return esi
}

func addrOf(s string) netip.Addr {
	if s == "" {
		return netip.Addr{}
	}
	return netip.MustParseAddr(s)
}

// attrs says in our types what the vector's own decoding says.
func (v vector) attrs(t testing.TB) evpn.Attrs {
	t.Helper()
	want := evpn.Attrs{LocalPref: 100}
	for _, a := range v.Decoded.Attributes {
		switch a.Type {
		case codeMPUnreach:
		case codeMPReach:
			want.NextHop = addrOf(a.NextHop)
		case codeOrigin:
			want.Origin = a.Origin
		case codeASPath:
			want.ASPath = sequence(a.ASPath)
		case codeLocalPref:
			want.LocalPref = a.LocalPref
		case codeOriginatorID:
			want.OriginatorID = addrOf(a.OriginatorID)
		case codeClusterList:
			for _, id := range a.ClusterList {
				want.ClusterList += string(addrOf(id).AsSlice())
			}
		case codeExtComms:
			wantExtComms(t, &want, a.ExtComms)
		case codePMSI:
			want.PMSI = evpn.PMSI{
				Present: true, Flags: a.PMSIFlags, Tunnel: a.TunnelType, Label: a.Label,
				Endpoint: addrOf(a.Endpoint),
			}
		case codeTunnelEncap: // of the one vector that has it
			want.Encap = evpn.EncapVXLAN
		default:
			t.Fatalf("the test does not know attribute %d", a.Type)
		}
	}
	return want
}

func (v vector) routeTargets() (rts []string) {
	for _, a := range v.Decoded.Attributes {
		for _, ec := range a.ExtComms {
			if ec.Kind == "route-target" {
				rts = append(rts, ec.Value)
			}
		}
	}
	return rts
}

func sequence(asns []uint32) string {
	if len(asns) == 0 {
		return ""
	}
	p := []byte{2, byte(len(asns))}
	for _, asn := range asns {
		p = binary.BigEndian.AppendUint32(p, asn)
	}
	return string(p)
}

// wantExtComms goes through them backwards, so that the first of a kind has the last word.
func wantExtComms(t testing.TB, want *evpn.Attrs, ecs []extComm) {
	t.Helper()
	flag := func(set bool, bit uint8) uint8 {
		if set {
			return bit
		}
		return 0
	}
	for _, ec := range slices.Backward(ecs) {
		raw, err := hex.DecodeString(ec.Raw)
		if err != nil {
			t.Fatal(err)
		}
		want.ExtComms = string(raw) + want.ExtComms
		switch ec.Kind {
		case "encapsulation":
			if ec.TunnelType == 8 || want.Encap == evpn.EncapVXLAN {
				want.Encap = evpn.EncapVXLAN
			} else {
				want.Encap = evpn.EncapOther
			}
		case "mac-mobility":
			want.HasMobility, want.Seq, want.Sticky = true, ec.Sequence, ec.Sticky
		case "default-gateway":
			want.DefaultGateway = true
		case "router-mac":
			if want.RouterMAC, err = evpn.ParseMAC(ec.Value); err != nil {
				t.Fatal(err)
			}
		case "arp-nd":
			want.HasNDFlags = true
			want.NDFlags = flag(ec.Router, evpn.NDRouter) | flag(ec.Override, evpn.NDOverride) |
				flag(ec.Immutable, evpn.NDImmutable)
		}
	}
}
