package speaker

import (
	"maps"
	"slices"

	"github.com/evpnd/evpnd/evpn/wire"
)

// members are the peer's RT memberships (RFC 4684), as GoBGP has been told of them: another GoBGP needs them too.
type members struct {
	routes   map[string][]byte // by NLRI, an UPDATE with that one alone
	complete bool              // the peer has sent their End-of-RIB
}

// update takes note of an UPDATE of the peer that has nothing but RT memberships.
func (m *members) update(msg []byte) {
	if isEndOfRIB(msg, familyRTC) {
		m.complete = true
		return
	}
	var u update
	if !u.split(msg) {
		return // GoBGP ends the session over it
	}
	for _, p := range u.parts {
		for n := range p.routes() {
			if p.code == codeMPUnreach {
				delete(m.routes, string(n))
				continue
			}
			if m.routes == nil {
				m.routes = make(map[string][]byte)
			}
			one := p
			one.nlri = n
			alone := update{parts: []mpPart{one}, rest: u.rest}
			m.routes[string(n)] = alone.message()
		}
	}
}

// replay lists the UPDATEs that say all that again.
func (m *members) replay() [][]byte {
	out := slices.Collect(maps.Values(m.routes))
	if m.complete {
		out = append(out, wire.AppendMessage(nil, wire.MessageUpdate, []byte{0, 0, 0, 6, 0x80, 15, 3, 0, 1, 132}))
	}
	return out
}
