package speaker

import (
	"bytes"
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

// originator turns our routes into GoBGP paths. It belongs to whoever holds Speaker.routing.
type originator struct {
	attrs map[*evpn.Attrs][]bgp.PathAttributeInterface
	paths [pathsPerCall]apiutil.Path // of the call that is being made: GoBGP keeps what is in them, and not them
}

// rawRoute is the EVPN route data of our own routes: the octets we want sent. It embeds a type-2 route only for the
// unexported method of the interface; every type switch in GoBGP misses it, whatever the route type. That is what keeps
// GoBGP's own MAC mobility away from our routes: it refuses equal or lower sequence numbers, invents numbers and
// withdraws local routes by itself (v4.8.0: fixupApiPath, handleMacMobility).
type rawRoute struct {
	*bgp.EVPNMacIPAdvertisementRoute
	nlri  bgp.EVPNNLRI // which this is the data of
	name  string       // see routeName
	value []byte       // without type and length
}

// noRoute is what all rawRoutes embed; nothing of it is sent.
var noRoute = &bgp.EVPNMacIPAdvertisementRoute{RD: bgp.NewRouteDistinguisherTwoOctetAS(0, 0)}

func (r *rawRoute) Len() int                     { return len(r.value) }
func (r *rawRoute) Serialize() ([]byte, error)   { return r.value, nil }
func (r *rawRoute) String() string               { return r.name }
func (r *rawRoute) MarshalJSON() ([]byte, error) { return fmt.Appendf(nil, "\"%x\"", r.name), nil }
func (r *rawRoute) DecodeFromBytes([]byte) error { return errors.New("a local route is never decoded") }

func newRoute(r *evpn.Route) (*rawRoute, error) {
	var room [64]byte // for all but a few
	b, err := wire.AppendNLRI(room[:0], r)
	if err != nil {
		return nil, err
	}
	raw := &rawRoute{EVPNMacIPAdvertisementRoute: noRoute, name: routeName(&r.Key), value: bytes.Clone(b[2:])}
	raw.nlri = bgp.EVPNNLRI{RouteType: b[0], Length: b[1], RouteTypeData: raw}
	return raw, nil
}

// routeName is the key of a route in GoBGP's table. GoBGP takes what an NLRI prints for that, and hashes or copies it some ten
// times for each route, so it is short and not for people: the octets of what names the route.
func routeName(k *evpn.RouteKey) string {
	var room [48]byte
	b := append(room[:0], byte(k.Type), k.PrefixLen)
	b = append(append(b, k.RD[:]...), k.MAC[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(k.Tag))
	if k.Type != evpn.TypeMACIP { // has no ESI in its name
		b = append(b, k.ESI[:]...)
	}
	b, _ = k.IP.AppendBinary(b)
	return string(b)
}

// path is what GoBGP takes to announce a route, or to withdraw it: the i-th of a call, good until the next call.
func (o *originator) path(i int, r *rawRoute, a *evpn.Attrs, withdraw bool) (*apiutil.Path, error) {
	p := &o.paths[i]
	*p = apiutil.Path{Family: bgp.RF_EVPN, Nlri: &r.nlri, Withdrawal: withdraw}
	if withdraw {
		return p, nil
	}
	var err error
	p.Attrs, err = o.attributes(a)
	return p, err
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
