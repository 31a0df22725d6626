package evpn

import (
	"cmp"
	"slices"
)

// Sequence is a local MAC with its sequence number, which is not 0.
type Sequence struct {
	VNI VNI
	MAC MAC
	Seq uint32
}

func (s Sequence) compare(o Sequence) int {
	return cmp.Or(cmp.Compare(s.VNI, o.VNI), slices.Compare(s.MAC[:], o.MAC[:]))
}

// Sequences returns the numbers of local MACs that moved, in a fixed order: what the next life has to be told by Remembered,
// so that it announces them as this one does (MM-17). Until Synced that is what this one was told.
func (c *Core) Sequences() []Sequence {
	if !c.synced {
		return c.sequences
	}
	var out []Sequence
	for _, v := range c.vrfs {
		for _, m := range v.macs {
			if m.local() != nil && m.seq() != 0 {
				out = append(out, Sequence{VNI: v.vni, MAC: m.mac, Seq: m.seq()})
			}
		}
	}
	slices.SortFunc(out, Sequence.compare)
	return out
}

// resume gives a MAC that the bridge still has the number of the earlier life. What appears later has moved since.
func (c *Core) resume(m *macEntry) {
	if len(c.sequences) == 0 {
		return
	}
	i, found := slices.BinarySearchFunc(c.sequences, Sequence{VNI: m.vrf.vni, MAC: m.mac}, Sequence.compare)
	if found && newer(c.sequences[i].Seq, m.seq()) {
		m.own().seq = c.sequences[i].Seq
	}
}
