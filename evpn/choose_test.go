package evpn

import (
	"math"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestBeats(t *testing.T) {
	low, high := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.3")
	v6 := netip.MustParseAddr("2001:db8::1")
	of := func(vtep netip.Addr, seq uint32, sticky bool) claim {
		return claim{vtep: vtep, mobility: mobility{seq: seq, sticky: sticky}}
	}
	gateway := claim{vtep: high, gateway: true}
	for _, tt := range []struct {
		name string
		a, b claim
		rule string // by which a beats b; "" when it does not
	}{
		{"sticky beats any number", of(high, 0, true), of(low, 9, false), "sticky"},
		{"a gateway beats a sticky one", gateway, of(low, 9, true), "gateway"},
		{"and is not beaten by it", of(low, 9, true), gateway, ""},
		{"nor is a sticky one by a number", of(low, 9, false), of(high, 0, true), ""},
		{"of two sticky ones the number counts", of(high, 1, true), of(low, 0, true), "sequence"},
		{"the higher number wins", of(high, 2, false), of(low, 1, false), "sequence"},
		{"the lower loses", of(low, 1, false), of(high, 2, false), ""},
		{"0 follows the largest", of(high, 0, false), of(low, math.MaxUint32, false), "sequence"},
		{"equal: lowest VTEP", of(low, 1, false), of(high, 1, false), "lowest VTEP"},
		{"equal: not the highest", of(high, 1, false), of(low, 1, false), ""},
		{"IPv4 before IPv6", of(high, 1, false), of(v6, 1, false), "lowest VTEP"},
		{"not itself", of(low, 1, false), of(low, 1, false), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.a.beats(tt.b); got != tt.rule {
				t.Errorf("%+v beats %+v by %q, want %q", tt.a, tt.b, got, tt.rule)
			}
		})
	}
}

func TestNewer(t *testing.T) {
	for _, tt := range []struct {
		a, b uint32
		want bool
	}{
		{1, 0, true},
		{0, 1, false},
		{0, 0, false},
		{0, math.MaxUint32, true},
		{math.MaxUint32, 0, false},
		{1<<31 - 1, 0, true},
		{1 << 31, 0, true}, // half the circle: by size
		{0, 1 << 31, false},
		{1<<31 + 1, 0, false},
		{5, 1<<31 + 6, true},
	} {
		if got := newer(tt.a, tt.b); got != tt.want {
			t.Errorf("newer(%d, %d) = %v", tt.a, tt.b, got)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		a, b := rapid.Uint32().Draw(t, "a"), rapid.Uint32().Draw(t, "b")
		if a != b && newer(a, b) == newer(b, a) {
			t.Fatalf("newer(%d, %d) and the other way round: both %v", a, b, newer(a, b))
		}
	})
}

// TestBetterPath: copies of one claim are told apart as BGP does (BP-04).
func TestBetterPath(t *testing.T) {
	peers := []*peer{{addr: netip.MustParseAddr("10.0.0.253")}, {addr: netip.MustParseAddr("10.0.0.254")}}
	path := func(change func(*Path)) *Path {
		p := &Path{Attrs: &Attrs{NextHop: netip.MustParseAddr("192.0.2.1"), LocalPref: 100}, peer: peers[1]}
		p.rd = RD{0, 0, 0, 1, 0, 0, 0, 1}
		change(p)
		return p
	}
	plain := path(func(*Path) {})
	for _, tt := range []struct {
		name   string
		better *Path
		than   *Path
	}{
		{"sequence before local preference", path(func(p *Path) { p.Attrs.Seq, p.Attrs.LocalPref = 1, 50 }), path(func(p *Path) { p.Attrs.LocalPref = 200 })},
		{"local preference", path(func(p *Path) { p.Attrs.LocalPref = 200 }), plain},
		{"shorter AS path", plain, path(func(p *Path) { p.Attrs.ASPath = "\x02\x01\x00\x00\xfc\x00" })},
		{"origin", plain, path(func(p *Path) { p.Attrs.Origin = 2 })},
		{"MAC-only before MAC/IP", plain, path(func(p *Path) { p.ip = addressOf(netip.MustParseAddr("172.16.0.1")) })},
		{"lower RD", plain, path(func(p *Path) { p.rd[3] = 2 })},
		{"lower tag", plain, path(func(p *Path) { p.rest = &extra{tag: 7} })},
		{"lower MAC", plain, path(func(p *Path) { p.mac[0] = 2 })},
		{"lower peer", path(func(p *Path) { p.peer = peers[0] }), plain},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if !betterPath(tt.better, tt.than) || betterPath(tt.than, tt.better) {
				t.Errorf("better: %v, other way round: %v", betterPath(tt.better, tt.than), betterPath(tt.than, tt.better))
			}
		})
	}
}

func TestRTPattern(t *testing.T) {
	parse := func(s string) RT {
		rt, err := ParseRT(s)
		if err != nil {
			t.Fatal(err)
		}
		return rt
	}
	for _, tt := range []struct {
		pattern, rt string
		want        bool
	}{
		{"65000:100", "65000:100", true},
		{"65000:100", "65001:100", false},
		{"65000:100", "65000:101", false},
		{"*:100", "65000:100", true},
		{"*:100", "1:100", true},
		{"*:100", "65000:101", false},
		{"*:100", "4200000000:100", true}, // 4-octet AS
		{"*:100", "10.0.0.1:100", true},
		{"*:268445556", "65000:268445556", true}, // RFC 8365 form of VNI 10100
		{"*:10100", "65000:268445556", false},
		{"*:70000", "65000:70000", true},
		{"*:70000", "65000:4464", false},     // 70000 mod 65536: the 2-octet-AS form has room for all of it
		{"*:70000", "4200000000:4464", true}, // this one has not
		{"10.0.0.1:5", "10.0.0.1:5", true},
		{"10.0.0.1:5", "2560:5", false}, // RT-05: forms differ
	} {
		pattern, err := ParseRTPattern(tt.pattern)
		if err != nil {
			t.Fatal(err)
		}
		if got := pattern.Matches(parse(tt.rt)); got != tt.want {
			t.Errorf("%s matches %s: %v", tt.pattern, tt.rt, got)
		}
	}
	// RT-05: two octets of AS 1 and four octets of AS 1 print alike and differ.
	if (RTPattern{RT: NewRT(1, 1)}).Matches(NewAS4RT(1, 1)) {
		t.Error("0002:… matches 0202:…")
	}
}

// TestImportIndex: the index of route targets says what the patterns say.
func TestImportIndex(t *testing.T) {
	drawRT := func(t *rapid.T) RT {
		rt := RT{0: rapid.SampledFrom([]byte{0, 1, 2}).Draw(t, "form"), 1: 2, 3: 1}
		rt[5] = rapid.SampledFrom([]byte{0, 1}).Draw(t, "bit 16")
		rt[7] = rapid.SampledFrom([]byte{100, 200}).Draw(t, "local")
		return rt
	}
	rapid.Check(t, func(t *rapid.T) {
		c := New(worldConfig())
		for vni := range VNI(rapid.IntRange(1, 4).Draw(t, "vnis")) {
			v := &macVRF{vni: vni + 1}
			for range rapid.IntRange(0, 3).Draw(t, "patterns") {
				p := RTPattern{RT: drawRT(t)}
				if rapid.Bool().Draw(t, "any") {
					p = anyAdmin(rapid.SampledFrom([]uint32{100, 200, 1<<16 + 100}).Draw(t, "local"))
				}
				v.importRTs = append(v.importRTs, p)
			}
			c.vrfs[v.vni] = v
			c.importIndex.add(v)
		}
		rts := []RT{drawRT(t), drawRT(t)}
		var want []*macVRF
		for _, v := range c.vrfsInOrder() {
			if slices.ContainsFunc(v.importRTs, func(p RTPattern) bool { return slices.ContainsFunc(rts, p.Matches) }) {
				want = append(want, v)
			}
		}
		if got := c.importIndex.find(rts); !slices.Equal(got, want) {
			t.Fatalf("%v is imported by %v, want %v", rts, got, want)
		}
		for _, v := range c.vrfs {
			c.importIndex.remove(v)
		}
		if x := c.importIndex; len(x.exact)+len(x.any)+len(x.any16) != 0 {
			t.Fatalf("left behind: %v", x)
		}
	})
}
