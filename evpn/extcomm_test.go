package evpn

import (
	"slices"
	"testing"
)

// TestExtCommsRoundTrip: what the constructors write is what SetExtComms reads.
func TestExtCommsRoundTrip(t *testing.T) {
	rt, mac := NewRT(64512, 10100), MAC{2, 0, 0, 0, 0, 1}
	b := AppendRT(nil, rt)
	b = AppendEncapVXLAN(b)
	b = AppendMobility(b, 0xfffffffe, true)
	b = AppendNDFlags(b, NDRouter|NDOverride|0xf0)
	b = AppendRouterMAC(b, mac)
	var a Attrs
	a.SetExtComms(string(b))
	want := Attrs{
		ExtComms: string(b), Encap: EncapVXLAN, HasMobility: true, Seq: 0xfffffffe, Sticky: true,
		HasNDFlags: true, NDFlags: NDRouter | NDOverride, RouterMAC: mac,
	}
	if a != want {
		t.Errorf("got %+v\nwant %+v", a, want)
	}
	if got := a.RTs(); !slices.Equal(got, []RT{rt}) {
		t.Errorf("route targets %v", got)
	}
}

func TestSetExtComms(t *testing.T) {
	vxlan, mpls := AppendEncapVXLAN(nil), []byte{3, 0x0c, 0, 0, 0, 0, 0, 10}
	tests := []struct {
		name  string
		comms [][]byte
		want  Attrs // less ExtComms
	}{
		{"none", nil, Attrs{}},
		{"unknown ones mean nothing: ER-13", [][]byte{{6, 0xee, 1, 2, 3, 4, 5, 6}, {0x43, 0x0c, 0, 0, 0, 0, 0, 8}}, Attrs{}},
		{"MPLS only: EN-04", [][]byte{mpls}, Attrs{Encap: EncapOther}},
		{"MPLS, then VXLAN", [][]byte{mpls, vxlan}, Attrs{Encap: EncapVXLAN}},
		{"VXLAN, then MPLS", [][]byte{vxlan, mpls}, Attrs{Encap: EncapVXLAN}},
		{
			"first mobility counts: ER-14",
			[][]byte{AppendMobility(nil, 3, false), AppendMobility(nil, 9, true)},
			Attrs{HasMobility: true, Seq: 3},
		},
		{"undefined mobility flags: MM-11", [][]byte{{6, 0, 0xfe, 7, 0, 0, 0, 2}}, Attrs{HasMobility: true, Seq: 2}},
		{
			"first ARP/ND counts: ND-05",
			[][]byte{AppendNDFlags(nil, NDImmutable), AppendNDFlags(nil, NDRouter)},
			Attrs{HasNDFlags: true, NDFlags: NDImmutable},
		},
		{
			"first router MAC counts: IR-05",
			[][]byte{AppendRouterMAC(nil, MAC{2}), AppendRouterMAC(nil, MAC{4})},
			Attrs{RouterMAC: MAC{2}},
		},
		{
			"a gateway does not move: DG-04",
			[][]byte{AppendMobility(nil, 3, true), AppendDefaultGateway(nil)},
			Attrs{DefaultGateway: true},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			octets := string(slices.Concat(tt.comms...))
			a := Attrs{
				Seq: 9, HasMobility: true, Sticky: true, HasNDFlags: true, NDFlags: 1, RouterMAC: MAC{8},
				DefaultGateway: true, Encap: EncapOther,
			}
			a.SetExtComms(octets + "cut")
			tt.want.ExtComms = octets
			if a != tt.want {
				t.Errorf("got %+v\nwant %+v", a, tt.want)
			}
		})
	}
}
