package config

import (
	"net/netip"
	"time"

	"github.com/goccy/go-yaml/ast"

	"github.com/evpnd/evpnd/evpn"
)

// raw is what the files say, all of them together: each value is right by itself, nothing is checked against anything
// else and no default is filled in. The keys methods are the one list of what a file may say.
type raw struct {
	asn              field[uint32]
	routerID         field[netip.Addr]
	vtep             field[netip.Addr]
	vtepInterface    field[string]
	listen           rawListen
	peers            []*rawPeer
	dynamicPeers     []*rawDynamicPeers
	vnis             []*rawVNI
	routeTargets     field[evpn.RTDialect]
	autoVNIs         field[bool]
	snooping         field[bool]
	snoopingRate     field[int]
	arpSuppression   field[bool]
	manageDevices    field[bool]
	duplicates       rawDuplicates
	onPeerLoss       field[PeerLoss]
	maxMACs          rawMaxMACs
	vtepReachability field[Reachability]
	vtepHold         field[time.Duration]
	vtepProbe        field[time.Duration]
	vtepProbeMisses  field[int]
	flushOnExit      field[bool]
	stateDir         field[string]
	api              rawAPI
	log              rawLog
}

func (r *raw) keys() fields {
	return fields{
		"asn":               scalar(&r.asn, readAS),
		"router-id":         scalar(&r.routerID, readRouterID),
		"vtep":              scalar(&r.vtep, readVTEP),
		"vtep-interface":    scalar(&r.vtepInterface, readInterface),
		"listen":            r.listen.set,
		"peers":             list(r.addPeer),
		"dynamic-peers":     list(r.addDynamicPeers),
		"vnis":              r.addVNIs,
		"route-targets":     scalar(&r.routeTargets, oneOf(evpn.RTAuto, evpn.RTFRR, evpn.RTRFC8365, evpn.RTAS4)),
		"auto-vnis":         scalar(&r.autoVNIs, readBool),
		"snooping":          scalar(&r.snooping, readBool),
		"snooping-rate":     scalar(&r.snoopingRate, number(MinSnoopingRate, MaxSnoopingRate)),
		"arp-suppression":   scalar(&r.arpSuppression, readBool),
		"manage-devices":    scalar(&r.manageDevices, readBool),
		"duplicates":        section(r.duplicates.keys()),
		"on-peer-loss":      scalar(&r.onPeerLoss, readPeerLoss),
		"max-macs":          section(r.maxMACs.keys()),
		"vtep-reachability": scalar(&r.vtepReachability, oneOf(ReachabilityRoute, ReachabilityNoDefault, ReachabilityOff)),
		"vtep-hold":         scalar(&r.vtepHold, seconds(0, maxVTEPHold)),
		"vtep-probe":        scalar(&r.vtepProbe, seconds(0, maxVTEPProbe)),
		"vtep-probe-misses": scalar(&r.vtepProbeMisses, number(1, maxVTEPProbeMisses)),
		"flush-on-exit":     scalar(&r.flushOnExit, readBool),
		"state-dir":         scalar(&r.stateDir, readAbsolutePath),
		"api":               section(r.api.keys()),
		"log":               section(r.log.keys()),
	}
}

func (r *raw) addPeer(d *decoder, key string, n ast.Node) {
	p := &rawPeer{rawSession: rawSession{at: placeOf(d.src, n)}}
	if d.mapping(key, n, p.keys()) {
		r.peers = append(r.peers, p)
	}
}

func (r *raw) addDynamicPeers(d *decoder, key string, n ast.Node) {
	p := &rawDynamicPeers{rawSession: rawSession{at: placeOf(d.src, n)}}
	if d.mapping(key, n, p.keys()) {
		r.dynamicPeers = append(r.dynamicPeers, p)
	}
}

// addVNIs decodes the map of VNIs, whose keys are values.
func (r *raw) addVNIs(d *decoder, key string, n ast.Node) {
	switch n := n.(type) {
	case *ast.NullNode:
	case *ast.MappingNode:
		for _, entry := range n.Values {
			v := &rawVNI{vni: readScalar(d, "VNI", entry.Key, readVNI)}
			r.vnis = append(r.vnis, v)
			section(v.keys())(d, "VNI "+entry.Key.GetToken().Value, entry.Value)
		}
	default:
		d.wrongKind(key, n, "keys with values: the VNIs, each with its settings")
	}
}

type rawListen struct {
	at        place
	enabled   field[bool]
	port      field[uint16]
	addresses []field[netip.Addr]
}

// set decodes listen, which is a mapping or, in short, true or false.
func (r *rawListen) set(d *decoder, key string, n ast.Node) {
	if _, ok := n.(*ast.MappingNode); !ok {
		scalar(&r.enabled, readBool)(d, key, n)
		return
	}
	if r.at.src == nil {
		r.at = placeOf(d.src, n)
	}
	d.mapping(key, n, r.keys())
}

func (r *rawListen) keys() fields {
	return fields{
		"enabled":   scalar(&r.enabled, readBool),
		"port":      scalar(&r.port, readPort),
		"addresses": scalars(&r.addresses, readListenAddress),
	}
}

// rawSession is what peers and dynamic peers have in common.
type rawSession struct {
	at              place
	asn             field[peerAS]
	description     field[string]
	localAddress    field[netip.Addr]
	iface           field[string]
	multihop        field[uint8]
	ttlSecurity     field[uint8]
	passwordFile    field[string]
	holdTime        field[time.Duration]
	keepalive       field[time.Duration]
	gracefulRestart field[time.Duration]
	rtConstraint    field[bool]
	needEncap       field[bool]
	longLived       field[time.Duration]
	staleTime       field[time.Duration]
	onPeerLoss      field[PeerLoss]
	maxRoutes       rawMaxRoutes
}

func (r *rawSession) keys() fields {
	return fields{
		"description":        scalar(&r.description, readText),
		"local-address":      scalar(&r.localAddress, readUnicast),
		"interface":          scalar(&r.iface, readInterface),
		"multihop":           scalar(&r.multihop, readMultihop),
		"ttl-security":       scalar(&r.ttlSecurity, number[uint8](0, 254)),
		"password-file":      scalar(&r.passwordFile, readText),
		"hold-time":          scalar(&r.holdTime, readHoldTime),
		"keepalive":          scalar(&r.keepalive, seconds(0, maxHoldTime)),
		"graceful-restart":   scalar(&r.gracefulRestart, seconds(0, maxGracefulRestart)),
		"rt-constraint":      scalar(&r.rtConstraint, readBool),
		"need-encapsulation": scalar(&r.needEncap, readBool),
		"long-lived":         scalar(&r.longLived, seconds(0, maxLongLived)),
		"stale-time":         scalar(&r.staleTime, seconds(time.Second, maxStaleTime)),
		"on-peer-loss":       scalar(&r.onPeerLoss, readPeerLoss),
		"max-routes":         r.maxRoutes.set,
	}
}

type rawMaxMACs struct {
	local, port, remote field[int]
}

func (r *rawMaxMACs) keys() fields {
	most := number[int](0, maxMaxRoutes)
	return fields{"local": scalar(&r.local, most), "port": scalar(&r.port, most), "remote": scalar(&r.remote, most)}
}

// or returns the limits, with those of def where there is none.
func (r *rawMaxMACs) or(def evpn.MACLimits) evpn.MACLimits {
	return evpn.MACLimits{Local: r.local.or(def.Local), Port: r.port.or(def.Port), Remote: r.remote.or(def.Remote)}
}

type rawMaxRoutes struct {
	limit    field[int]
	warn     field[int]
	action   field[string]
	idleHold field[time.Duration]
}

// set decodes max-routes, which is a mapping or, in short, the limit.
func (r *rawMaxRoutes) set(d *decoder, key string, n ast.Node) {
	limit := number[int](0, maxMaxRoutes)
	if _, ok := n.(*ast.MappingNode); !ok {
		scalar(&r.limit, limit)(d, key, n)
		return
	}
	d.mapping(key, n, fields{
		"limit":     scalar(&r.limit, limit),
		"warn":      scalar(&r.warn, number[int](1, 100)),
		"action":    scalar(&r.action, oneOf(limitActionNames...)),
		"idle-hold": scalar(&r.idleHold, seconds(time.Second, maxIdleHold)),
	})
}

type rawPeer struct {
	rawSession
	address      field[netip.Addr]
	port         field[uint16]
	passive      field[bool]
	connectRetry field[time.Duration]
	advertise    field[bool]
}

func (r *rawPeer) keys() fields {
	keys := r.rawSession.keys()
	keys["address"] = scalar(&r.address, readUnicast)
	keys["asn"] = scalar(&r.asn, readPeerAS("internal", "external"))
	keys["port"] = scalar(&r.port, readPort)
	keys["passive"] = scalar(&r.passive, readBool)
	keys["connect-retry"] = scalar(&r.connectRetry, readConnectRetry)
	keys["router-advertisements"] = scalar(&r.advertise, readBool)
	return keys
}

type rawDynamicPeers struct {
	rawSession
	prefix field[netip.Prefix]
	limit  field[int]
}

func (r *rawDynamicPeers) keys() fields {
	keys := r.rawSession.keys()
	keys["prefix"] = scalar(&r.prefix, readPrefix)
	keys["asn"] = scalar(&r.asn, readPeerAS("internal", "external", "any"))
	keys["limit"] = scalar(&r.limit, number[int](1, maxDynamicPeers))
	for _, key := range []string{"port", "passive", "connect-retry", "router-advertisements"} {
		keys[key] = refuse("dynamic peers are always passive: leave the key out")
	}
	return keys
}

type rawVNI struct {
	vni            field[evpn.VNI]
	off            field[bool]
	rd             field[evpn.RD]
	imports        rawList[evpn.RTPattern]
	exports        rawList[evpn.RT]
	strictTag      field[bool]
	snooping       field[bool]
	arpSuppression field[bool]
	manage         field[bool]
	staticMACs     field[string]
	maxMACs        rawMaxMACs
	gateways       []*rawGateway
	create         field[bool]
	device         field[string]
	bridge         field[string]
}

func (r *rawVNI) keys() fields {
	return fields{
		"off":             scalar(&r.off, readBool),
		"rd":              scalar(&r.rd, readRD),
		"import":          r.imports.setter(evpn.ParseRTPattern),
		"export":          r.exports.setter(evpn.ParseRT),
		"strict-tag":      scalar(&r.strictTag, readBool),
		"snooping":        scalar(&r.snooping, readBool),
		"arp-suppression": scalar(&r.arpSuppression, readBool),
		"manage":          scalar(&r.manage, readBool),
		"static-macs":     scalar(&r.staticMACs, oneOf(staticNormal, staticSticky)),
		"max-macs":        section(r.maxMACs.keys()),
		"gateways":        list(r.addGateway),
		"create":          scalar(&r.create, readBool),
		"device":          scalar(&r.device, readInterface),
		"bridge":          scalar(&r.bridge, readInterface),
	}
}

// The words for static-macs.
const (
	staticNormal = "normal"
	staticSticky = "sticky"
)

type rawGateway struct {
	at  place
	mac field[evpn.MAC]
	ip  field[netip.Addr]
}

func (r *rawVNI) addGateway(d *decoder, key string, n ast.Node) {
	g := &rawGateway{at: placeOf(d.src, n)}
	if d.mapping(key, n, fields{"mac": scalar(&g.mac, readHostMAC), "ip": scalar(&g.ip, readGatewayIP)}) {
		r.gateways = append(r.gateways, g)
	}
}

// rawList is a list for which being empty differs from not being there.
type rawList[T any] struct {
	at    place
	items []field[T]
}

func (r *rawList[T]) setter(read reader[T]) setter {
	return func(d *decoder, key string, n ast.Node) {
		r.at = placeOf(d.src, n)
		scalars(&r.items, read)(d, key, n)
	}
}

func (r *rawList[T]) given() bool { return r.at.src != nil }

type rawAPI struct {
	socket      field[string]
	group       field[string]
	adminGroup  field[string]
	listen      field[string]
	certificate field[string]
	key         field[string]
	clientCA    field[string]
	readers     []field[string]
	admins      []field[string]
	metrics     field[string]
}

func (r *rawAPI) keys() fields {
	return fields{
		"socket":      scalar(&r.socket, readSocketPath),
		"group":       scalar(&r.group, readText),
		"admin-group": scalar(&r.adminGroup, readText),
		"listen":      scalar(&r.listen, readHostPort),
		"certificate": scalar(&r.certificate, readText),
		"key":         scalar(&r.key, readText),
		"client-ca":   scalar(&r.clientCA, readText),
		"readers":     scalars(&r.readers, readClientName),
		"admins":      scalars(&r.admins, readClientName),
		"metrics":     scalar(&r.metrics, readHostPort),
	}
}

type rawDuplicates struct {
	moves        field[int]
	within       field[time.Duration]
	action       field[string]
	recoverAfter field[time.Duration]
}

func (r *rawDuplicates) keys() fields {
	return fields{
		"moves":         scalar(&r.moves, number[int](2, maxDuplicateMoves)),
		"within":        scalar(&r.within, seconds(minDuplicateWithin, maxDuplicateWithin)),
		"action":        scalar(&r.action, oneOf(actionNames...)),
		"recover-after": scalar(&r.recoverAfter, seconds(minDuplicateWithin, maxDuplicateRecover)),
	}
}

type rawLog struct {
	level  field[string]
	format field[string]
}

func (r *rawLog) keys() fields {
	return fields{
		"level":  scalar(&r.level, oneOf("error", "warn", "info", "debug")),
		"format": scalar(&r.format, oneOf("text", "json")),
	}
}
