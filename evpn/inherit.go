package evpn

import (
	"cmp"
	"net/netip"
	"slices"
)

// Estate is what a successor cannot learn from the kernel and would otherwise have to ask peers for: what they have said,
// and under which numbers we have announced our own hosts.
type Estate struct {
	Peers []PeerEstate
	Hosts []NumberedHost
}

// PeerEstate is what a peer that is up has said in its present session.
type PeerEstate struct {
	Peer     netip.Addr
	Routes   []*Update // one for each set of attributes; nothing is withdrawn
	EndOfRIB bool
	Left     int  // routes that its limit kept out: it is to be asked for them when there is room
	Retained bool // routes of an earlier session are still waiting to be confirmed; they are not among Routes
}

// NumberedHost is a local host as it is announced.
type NumberedHost struct {
	VNI VNI    `json:"vni"`
	MAC MAC    `json:"mac"`
	Seq uint32 `json:"seq"` // MAC Mobility sequence number
}

// Estate returns what a successor has to know, in a fixed order.
func (c *Core) Estate() Estate {
	var e Estate
	said := c.rib.from(func(p *Path) bool { return p.peer.up && p.session == p.peer.session })
	at := map[*peer]int{}
	for _, addr := range c.peerAddrs() {
		if p := c.peers[addr]; p.up {
			at[p] = len(e.Peers)
			e.Peers = append(e.Peers, PeerEstate{Peer: addr, EndOfRIB: p.complete, Left: p.limit.left, Retained: p.fresh != p.paths})
		}
	}
	type set struct {
		peer  *peer
		attrs *Attrs
	}
	updates := map[set]*Update{}
	for _, path := range said {
		k := set{path.peer, path.Attrs}
		u := updates[k]
		if u == nil {
			u = &Update{Peer: path.peer.addr, Attrs: path.Attrs}
			updates[k] = u
			of := &e.Peers[at[path.peer]]
			of.Routes = append(of.Routes, u)
		}
		u.Reach = append(u.Reach, path.Route())
	}
	for _, v := range c.vrfsInOrder() {
		for _, m := range v.macsInOrder() {
			if m.announced() {
				e.Hosts = append(e.Hosts, NumberedHost{VNI: v.vni, MAC: m.mac, Seq: m.seq()})
			}
		}
	}
	for vni, macs := range c.inherited { // not seen yet
		for mac, seq := range macs {
			e.Hosts = append(e.Hosts, NumberedHost{VNI: vni, MAC: mac, Seq: seq})
		}
	}
	slices.SortFunc(e.Hosts, NumberedHost.compare)
	return e
}

func (h NumberedHost) compare(o NumberedHost) int {
	return cmp.Or(cmp.Compare(h.VNI, o.VNI), slices.Compare(h.MAC[:], o.MAC[:]))
}

// numbers are those of the hosts that a predecessor has announced, until Synced.
type numbers map[VNI]map[MAC]uint32

func numbersOf(hosts []NumberedHost) numbers {
	n := numbers{}
	for _, h := range hosts {
		if n[h.VNI] == nil {
			n[h.VNI] = map[MAC]uint32{}
		}
		n[h.VNI][h.MAC] = h.Seq
	}
	return n
}

// inherit gives a MAC that the bridge had already when the predecessor ended the number it had: that it is first seen by
// us is no move (MM-17).
func (c *Core) inherit(m *macEntry) {
	seq, known := c.inherited[m.vrf.vni][m.mac]
	if !known {
		return
	}
	delete(c.inherited[m.vrf.vni], m.mac)
	m.own().seq = seq
	m.own().local.sighted = false
}
