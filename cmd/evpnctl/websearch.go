package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	evpnv1 "github.com/evpnd/evpnd/api/evpn/v1"
)

// sighting is where one target sees a MAC, or an IP and its MAC.
type sighting struct {
	target    string
	vni       uint32
	mac, ip   string
	at        string // VTEP: its own where the host is local
	port      string
	seq       uint32
	since     time.Time
	standing  string
	duplicate bool
}

// search asks one target for a MAC or an IP.
func search(ctx context.Context, t webTarget, mac, ip string) (found []sighting) {
	own := map[uint32]string{}
	vnis, err := whole(t.client.ListVNIs(ctx, &evpnv1.ListVNIsRequest{}))
	if err != nil {
		return nil
	}
	for _, v := range vnis.Vnis {
		own[v.Vni] = v.Vtep
	}
	if ip != "" {
		stream, err := t.client.ListNeighbors(ctx, &evpnv1.ListNeighborsRequest{Ip: ip})
		_ = receive(stream, err, func(r *evpnv1.ListNeighborsResponse) error { // a target that is away is told of beside the matrix
			for _, n := range r.Neighbors {
				found = append(found, sighting{
					t.name, n.Vni, n.Mac, n.Ip, cmp.Or(n.Vtep, own[n.Vni]), n.Port, n.Sequence, n.Since.AsTime(),
					standing(n.Origin, n.Announced, n.Duplicate, n.Kernel), n.Duplicate != nil,
				})
			}
			return nil
		})
		return found
	}
	stream, err := t.client.ListMACs(ctx, &evpnv1.ListMACsRequest{Mac: mac})
	_ = receive(stream, err, func(r *evpnv1.ListMACsResponse) error { // as above
		for _, m := range r.Macs {
			found = append(found, sighting{
				t.name, m.Vni, m.Mac, "", cmp.Or(m.Vtep, own[m.Vni]), m.Port, m.Sequence, m.Since.AsTime(),
				standing(m.Origin, m.Announced, m.Duplicate, m.Kernel), m.Duplicate != nil,
			})
		}
		return nil
	})
	return found
}

// finding is what the targets say of a MAC or IP in one VNI.
type finding struct {
	VNI     uint32
	Places  []place // the one most targets name first
	Agree   bool
	Verdict string // "5 of 5 VTEPs agree"
}

// place is one that some targets name.
type place struct {
	MAC, IP, VTEP, Port, Since, Standing string
	Seq                                  uint32
	Targets                              []string
}

// merge puts together what all targets say.
func merge(answers [][]sighting) []finding {
	byVNI := map[uint32][]sighting{}
	var vnis []uint32
	for _, s := range slices.Concat(answers...) {
		if byVNI[s.vni] == nil {
			vnis = append(vnis, s.vni)
		}
		byVNI[s.vni] = append(byVNI[s.vni], s)
	}
	slices.Sort(vnis)
	var found []finding
	for _, vni := range vnis {
		f := finding{VNI: vni}
		for _, s := range byVNI[vni] {
			f.add(s)
		}
		slices.SortStableFunc(f.Places, func(a, b place) int { return cmp.Compare(len(b.Targets), len(a.Targets)) })
		most, all := len(f.Places[0].Targets), len(byVNI[vni])
		f.Agree, f.Verdict = most == all, fmt.Sprintf("%d of %d VTEPs agree", most, all)
		found = append(found, f)
	}
	return found
}

// add counts a sighting to the place it names; the target that has the host itself knows the port.
func (f *finding) add(s sighting) {
	i := slices.IndexFunc(f.Places, func(p place) bool { return p.MAC == s.mac && p.VTEP == s.at })
	if i < 0 {
		f.Places = append(f.Places, place{MAC: s.mac, IP: s.ip, VTEP: s.at, Seq: s.seq, Standing: s.standing})
		i = len(f.Places) - 1
	}
	p := &f.Places[i]
	p.Targets = append(p.Targets, s.target)
	if !s.since.Equal(time.Unix(0, 0)) && (p.Since == "" || s.port != "") {
		p.Since = s.since.Local().Format("2006-01-02 15:04:05")
	}
	if s.port != "" {
		p.Port, p.Standing = s.port, s.standing
	}
	if s.standing == "blocked" || s.standing == "failed" || s.duplicate {
		p.Standing = s.standing
	}
}
