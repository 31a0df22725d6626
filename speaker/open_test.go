package speaker

import (
	"testing"

	"github.com/evpnd/evpnd/evpn"
	"github.com/evpnd/evpnd/evpn/wire"
)

// TestExtendedOpen: a session comes up with a peer that writes its optional parameters in the form of RFC 9072, whether it
// lacks what we add for GoBGP or not.
func TestExtendedOpen(t *testing.T) {
	for name, more := range map[string][]byte{"bare": nil, "with graceful restart": gr(0, 30, 0)} {
		t.Run(name, func(t *testing.T) {
			n, p := pair(t, nil)
			if err := n.Apply(manyRoutes(n, 1)); err != nil {
				t.Fatal(err)
			}
			n.ReleaseEoR()
			caps := append(wire.AppendCapability(nil, capMultiprotocol, []byte{0, 25, 0, 70}), more...)
			caps = wire.AppendCapability(caps, capAS4, []byte{0, 0, 0xfd, 0xe8})
			id := p.id.As4()
			body := append([]byte{4, 0xfd, 0xe8, 0, 90}, id[:]...)
			body = append(body, 255, 255, 0, byte(3+len(caps)), 2, 0, byte(len(caps)))
			p.send(wire.AppendMessage(nil, wire.MessageOpen, append(body, caps...)))
			p.handshakeRest()
			await[evpn.PeerUp](n, nil)
			if got := readRoutes(p, -1); got.keys != 1 {
				t.Errorf("%+v", got)
			}
		})
	}
}
