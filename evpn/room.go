package evpn

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// MACLimits bound the MACs of one VNI. Zero: no limit. MACs that are there stay when a limit becomes lower.
type MACLimits struct {
	Local  int // on local ports
	Port   int // on one local port
	Remote int // behind other VTEPs
}

// roomPause is how often it is looked whether MACs beyond a limit fit in now.
const roomPause = time.Second

// room counts the MACs of a MAC-VRF against their limits.
type room struct {
	local, remote int
	ports         map[string]int
	over          int  // MACs that are beyond a limit
	freed         bool // some of them may fit in now
}

// admitLocal counts a MAC on its port, or says which limit is in the way; what it was counted for before is given back. A
// MAC that is beyond a limit is as if it were not there, neither announced nor written, so that frames for it are flooded;
// it is taken when there is room.
func (c *Core) admitLocal(m *macEntry) (why string) {
	r, limits, port := &m.vrf.room, m.vrf.policy.Limits, ""
	if m.local() != nil {
		port = m.local().port
	}
	was := m.known().countedOn
	if was == port {
		return ""
	}
	if was != "" {
		r.local--
		if r.ports[was]--; r.ports[was] == 0 {
			delete(r.ports, was)
		}
		m.own().countedOn, r.freed = "", true
	}
	switch {
	case port == "":
		return ""
	case full(r.local, limits.Local):
		return fmt.Sprintf("more than %d local MACs", limits.Local)
	case full(r.ports[port], limits.Port):
		return fmt.Sprintf("more than %d MACs on %s", limits.Port, port)
	}
	if r.ports == nil {
		r.ports = map[string]int{}
	}
	m.own().countedOn = port
	r.ports[port]++
	r.local++
	return ""
}

// admitRemote is admitLocal for the best route of a MAC, which is given up when it is beyond the limit.
func (c *Core) admitRemote(m *macEntry) (why string) {
	r, limit := &m.vrf.room, m.vrf.policy.Limits.Remote
	switch {
	case m.counted && m.best == nil:
		m.counted, r.freed = false, true
		r.remote--
	case m.counted || m.best == nil:
	case full(r.remote, limit):
		m.best = nil
		return fmt.Sprintf("more than %d remote MACs", limit)
	default:
		m.counted = true
		r.remote++
	}
	return ""
}

func full(n, limit int) bool { return limit > 0 && n >= limit }

// setOver notes whether a MAC is beyond a limit, and tells of the first one.
func (c *Core) setOver(m *macEntry, why string) {
	if over := why != ""; over != m.over() {
		m.own().over = over
		if over {
			m.vrf.room.over++
			c.crowded[m.vrf] = struct{}{}
		} else if m.vrf.room.over--; m.vrf.room.over == 0 {
			delete(c.crowded, m.vrf)
		}
	}
	if why == "" {
		return
	}
	m.setReason("beyond the limit: " + why)
	if c.isNews(refusal{vni: m.vrf.vni, why: why}) {
		c.note(Note{Kind: NoteMACLimit, VNI: m.vrf.vni, MAC: m.mac, Reason: why})
	}
}

// makeRoom decides MACs beyond a limit anew when others have gone, as many as there is room for.
func (c *Core) makeRoom(now time.Time) {
	if len(c.crowded) == 0 || now.Before(c.nextRoom) {
		return
	}
	c.nextRoom = time.Time{}
	for _, v := range inVNIOrder(slices.Collect(maps.Keys(c.crowded))) {
		if !v.room.freed {
			continue
		}
		v.room.freed = false
		c.nextRoom = now.Add(roomPause)
		left := v.room
		left.ports = map[string]int{}
		maps.Copy(left.ports, v.room.ports)
		for _, m := range v.macsThat((*macEntry).over) {
			if left.fits(m) {
				c.dirtyMAC(m)
			}
		}
	}
}

// fits takes a place for m, if there is one.
func (r *room) fits(m *macEntry) bool {
	limits, h := m.vrf.policy.Limits, m.local()
	switch {
	case h == nil && full(r.remote, limits.Remote):
		return false
	case h == nil:
		r.remote++
		return true
	case full(r.local, limits.Local), full(r.ports[h.port], limits.Port):
		return false
	}
	r.local++
	r.ports[h.port]++
	return true
}

// isBeyond reports a MAC that nobody has here, because it is beyond a limit.
func (m *macEntry) isBeyond() bool { return m.over() && m.best == nil }

// beyond says so in words; "" when it is not.
func beyond(m *macEntry) string {
	if m == nil || !m.isBeyond() {
		return ""
	}
	return m.reason()
}
