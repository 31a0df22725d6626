package speaker

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/osrg/gobgp/v4/pkg/apiutil"
	"github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/evpnd/evpnd/evpn"
	"github.com/evpnd/evpnd/evpn/wire"
)

// pathsPerCall bounds how long one call keeps GoBGP's lock, under which it receives nothing: 64 paths are 1.4 ms.
const pathsPerCall = 48

// maxCachedAttrs bounds the attribute sets kept ready. There are a few per VNI and mobility sequence in use.
const maxCachedAttrs = 4096

// originator turns our routes into GoBGP paths. It belongs to the goroutine that calls Speaker.Apply.
type originator struct {
	attrs map[*evpn.Attrs][]bgp.PathAttributeInterface
}

// rawRoute is the EVPN route data of our own routes: the octets we want sent. It embeds a type-2 route only for the
// unexported method of the interface; every type switch in GoBGP misses it, whatever the route type. That is what keeps
// GoBGP's own MAC mobility away from our routes: it refuses equal or lower sequence numbers, invents numbers and
// withdraws local routes by itself (v4.8.0: fixupApiPath, handleMacMobility).
type rawRoute struct {
	*bgp.EVPNMacIPAdvertisementRoute
	name  string // key in GoBGP's table: RD and evpn.RouteKey
	value []byte // without type and length
}

// noRoute is what all rawRoutes embed; nothing of it is sent.
var noRoute = &bgp.EVPNMacIPAdvertisementRoute{RD: bgp.NewRouteDistinguisherTwoOctetAS(0, 0)}

func (r *rawRoute) Len() int                     { return len(r.value) }
func (r *rawRoute) Serialize() ([]byte, error)   { return r.value, nil }
func (r *rawRoute) String() string               { return r.name }
func (r *rawRoute) MarshalJSON() ([]byte, error) { return fmt.Appendf(nil, "%q", r.name), nil }
func (r *rawRoute) DecodeFromBytes([]byte) error { return errors.New("a local route is never decoded") }

func newNLRI(r *evpn.Route) (*bgp.EVPNNLRI, error) {
	b, err := wire.AppendNLRI(nil, r)
	if err != nil {
		return nil, err
	}
	return bgp.NewEVPNNLRI(b[0], &rawRoute{noRoute, routeName(r.Key), b[2:]}), nil
}

// routeName names a route for GoBGP's table and for errors.
func routeName(k evpn.RouteKey) string { return k.RD.String() + " " + k.String() }

// path builds what GoBGP takes to announce or withdraw a route.
func (o *originator) path(op *evpn.RouteOp) (*apiutil.Path, error) {
	nlri, err := newNLRI(&op.Route)
	if err != nil {
		return nil, err
	}
	p := &apiutil.Path{Family: bgp.RF_EVPN, Nlri: nlri, Withdrawal: op.Withdraw}
	if !op.Withdraw {
		if p.Attrs, err = o.attributes(op.Attrs); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// attributes gives the path attributes for a, the same objects each time: GoBGP keeps them by reference.
func (o *originator) attributes(a *evpn.Attrs) ([]bgp.PathAttributeInterface, error) {
	if a == nil {
		return nil, errors.New("no attributes")
	}
	if attrs, ok := o.attrs[a]; ok {
		return attrs, nil
	}
	attrs, err := newAttributes(a)
	if err != nil {
		return nil, err
	}
	if o.attrs == nil || len(o.attrs) >= maxCachedAttrs {
		o.attrs = make(map[*evpn.Attrs][]bgp.PathAttributeInterface)
	}
	o.attrs[a] = attrs
	return attrs, nil
}

// newAttributes builds the path attributes of a local route. AS_PATH, and LOCAL_PREF where we say nothing, are GoBGP's
// to add for each peer. The next hop is always explicit: GoBGP would put in the address of the inner leg.
func newAttributes(a *evpn.Attrs) ([]bgp.PathAttributeInterface, error) {
	nextHop, err := bgp.NewPathAttributeNextHop(a.NextHop)
	if err != nil {
		return nil, fmt.Errorf("next hop %s: %w", a.NextHop, err)
	}
	attrs := []bgp.PathAttributeInterface{bgp.NewPathAttributeOrigin(a.Origin), nextHop}
	if a.MED != 0 {
		attrs = append(attrs, bgp.NewPathAttributeMultiExitDisc(a.MED))
	}
	if a.LocalPref != 0 && a.LocalPref != 100 {
		attrs = append(attrs, bgp.NewPathAttributeLocalPref(a.LocalPref))
	}
	if n := len(a.Communities) / 4; n > 0 {
		values := make([]uint32, n)
		for i := range values {
			values[i] = binary.BigEndian.Uint32([]byte(a.Communities[4*i:]))
		}
		attrs = append(attrs, bgp.NewPathAttributeCommunities(values))
	}
	if n := len(a.ExtComms) / 8; n > 0 {
		values := make([]bgp.ExtendedCommunityInterface, n)
		for i := range values {
			values[i] = extendedCommunity([]byte(a.ExtComms[8*i : 8*i+8]))
		}
		attrs = append(attrs, bgp.NewPathAttributeExtendedCommunities(values))
	}
	if t := a.PMSI; t.Present {
		id := bgp.NewDefaultPmsiTunnelID(t.Endpoint.AsSlice())
		attrs = append(attrs, bgp.NewPathAttributePmsiTunnel(bgp.PmsiTunnelType(t.Tunnel), t.Flags&1 != 0, t.Label, id))
	}
	return attrs, nil
}

// extendedCommunity keeps the octets as they are. Only route targets get GoBGP's own type, which RT constraint needs.
func extendedCommunity(b []byte) bgp.ExtendedCommunityInterface {
	if b[1] == 2 && b[0] <= 2 {
		if ec, err := bgp.ParseExtended(b); err == nil {
			return ec
		}
	}
	return bgp.NewUnknownExtended(bgp.ExtendedCommunityAttrType(b[0]), b[1:])
}

// membership builds the route target membership of an import target (RFC 4684 §4). Its next hop means nothing to
// anybody, but 0.0.0.0 would become the address of the inner leg.
func membership(asn uint32, rt evpn.RT, nextHop netip.Addr, withdraw bool) (*apiutil.Path, error) {
	ec, err := bgp.ParseExtended(rt[:])
	if err != nil {
		return nil, fmt.Errorf("route target %s: %w", rt, err)
	}
	nh, err := bgp.NewPathAttributeNextHop(nextHop)
	if err != nil {
		return nil, fmt.Errorf("next hop %s: %w", nextHop, err)
	}
	return &apiutil.Path{
		Family:     bgp.RF_RTC_UC,
		Nlri:       bgp.NewRouteTargetMembershipNLRI(asn, ec),
		Attrs:      []bgp.PathAttributeInterface{bgp.NewPathAttributeOrigin(0), nh},
		Withdrawal: withdraw,
	}, nil
}
