package evpn

import (
	"errors"
	"slices"
	"testing"
)

// TestDeriveRTs shows the octets of each dialect for VNI 10100 (RT-03 to RT-05).
func TestDeriveRTs(t *testing.T) {
	anyAS := RTPattern{AnyAdmin: true, Local: 10100}
	anyAS8365 := RTPattern{AnyAdmin: true, Local: 0x10002774}
	exactly := func(rt RT) []RTPattern { return []RTPattern{{RT: rt}} }
	plain := RT{0x00, 0x02, 0xfd, 0xe8, 0x00, 0x00, 0x27, 0x74}     // 65000:10100
	rfc8365 := RT{0x00, 0x02, 0xfd, 0xe8, 0x10, 0x00, 0x27, 0x74}   // 65000:268445556
	truncated := RT{0x00, 0x02, 0xea, 0x01, 0x00, 0x00, 0x27, 0x74} // 4200000001 & 0xffff = 59905, as FRR
	as4 := RT{0x02, 0x02, 0xfa, 0x56, 0xea, 0x01, 0x27, 0x74}       // 4200000001:10100
	as4Small := RT{0x02, 0x02, 0x00, 0x00, 0xfd, 0xe8, 0x27, 0x74}  // 65000 in four octets: another RT than plain

	for _, row := range []struct {
		dialect RTDialect
		asn     uint32
		imports []RTPattern
		export  RT
	}{
		{"", 65000, []RTPattern{anyAS, anyAS8365}, plain},
		{RTAuto, 65000, []RTPattern{anyAS, anyAS8365}, plain},
		{RTAuto, 4200000001, []RTPattern{anyAS, anyAS8365}, truncated},
		{RTFRR, 65000, []RTPattern{anyAS}, plain},
		{RTFRR, 4200000001, []RTPattern{anyAS}, truncated},
		{RTRFC8365, 65000, exactly(rfc8365), rfc8365},
		{RTAS4, 65000, exactly(as4Small), as4Small},
		{RTAS4, 4200000001, exactly(as4), as4},
	} {
		imports, exports, err := DeriveRTs(row.dialect, row.asn, 10100)
		if err != nil || !slices.Equal(imports, row.imports) || !slices.Equal(exports, []RT{row.export}) {
			t.Errorf("%q AS %d: import %v export %v, %v; want import %v export %v (%x)",
				row.dialect, row.asn, imports, exports, err, row.imports, row.export, row.export)
		}
		if !slices.ContainsFunc(imports, func(p RTPattern) bool { return p.Matches(row.export) }) {
			t.Errorf("%q AS %d: does not import its own export %v", row.dialect, row.asn, row.export)
		}
	}
}

// TestDeriveRTsLimits: where a dialect has no route target, it says so instead of sending a wrong one.
func TestDeriveRTsLimits(t *testing.T) {
	for _, row := range []struct {
		dialect RTDialect
		asn     uint32
		vni     VNI
		ok      bool
	}{
		{RTAuto, 4294967295, MaxVNI, true},
		{RTFRR, 4294967295, MaxVNI, true},
		{RTRFC8365, 65535, MaxVNI, true},
		{RTRFC8365, 65536, 1, false}, // RT-03
		{RTAS4, 65536, 65535, true},
		{RTAS4, 65536, 65536, false},
		{RTAS4, 1, 65536, false},
		{"cisco", 1, 1, false},
	} {
		imports, exports, err := DeriveRTs(row.dialect, row.asn, row.vni)
		if (err == nil) != row.ok || row.ok != (len(imports) > 0 && len(exports) > 0) {
			t.Errorf("%q AS %d VNI %d: %v %v %v", row.dialect, row.asn, row.vni, imports, exports, err)
		}
	}
}

// TestAutoImports: what the default accepts for VNI 10100, and what it does not.
func TestAutoImports(t *testing.T) {
	imports, _, err := DeriveRTs(RTAuto, 65000, 10100)
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		name string
		rt   RT
		want bool
	}{
		{"our AS", NewRT(65000, 10100), true},
		{"another AS", NewRT(65001, 10100), true},
		{"RFC 8365", NewRT(65001, RFC8365Local(10100)), true},
		{"RFC 8365, domain 3", NewRT(65001, 3<<24|RFC8365Local(10100)), false},
		{"4-octet AS", NewAS4RT(4200000001, 10100), true},
		{"IPv4 address", RT{0x01, 0x02, 10, 0, 0, 1, 0x27, 0x74}, true},
		{"another VNI", NewRT(65000, 10101), false},
		{"another VNI in 4-octet AS", NewAS4RT(65000, 10101), false},
		{"same low 16 bits", NewRT(65000, 1<<16|10100), false},
	} {
		got := slices.ContainsFunc(imports, func(p RTPattern) bool { return p.Matches(row.rt) })
		if got != row.want {
			t.Errorf("%s %v: imported %v, want %v", row.name, row.rt, got, row.want)
		}
	}
}

// TestRFC8365Local: the formula of RT-03.
func TestRFC8365Local(t *testing.T) {
	for vni, want := range map[VNI]uint32{0: 0x10000000, 10100: 268445556, MaxVNI: 0x10ffffff} {
		if got := RFC8365Local(vni); got != want {
			t.Errorf("VNI %d: %#x, want %#x", vni, got, want)
		}
	}
}

func TestParseRTPattern(t *testing.T) {
	for text, want := range map[string]RTPattern{
		"65000:100":      {RT: RT{0x00, 0x02, 0xfd, 0xe8, 0, 0, 0, 100}},
		"4200000001:100": {RT: RT{0x02, 0x02, 0xfa, 0x56, 0xea, 0x01, 0, 100}},
		"10.0.0.1:5":     {RT: RT{0x01, 0x02, 10, 0, 0, 1, 0, 5}},
		"*:100":          {AnyAdmin: true, Local: 100},
		"*:4294967295":   {AnyAdmin: true, Local: 4294967295},
	} {
		got, err := ParseRTPattern(text)
		if err != nil || got != want || got.String() != text {
			t.Errorf("%s: %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "*", "*:", "*:-1", "*:4294967296", "*:x", "65000:*", "100", "fd00::1:5"} {
		if got, err := ParseRTPattern(text); !errors.Is(err, ErrRT) {
			t.Errorf("%q: %v, %v; want ErrRT", text, got, err)
		}
	}
}
