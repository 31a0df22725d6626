// Package config turns the YAML file of evpnd and its drop-ins into checked values. Files in, a value or all of their
// faults out, each with line, column and the lines before it; nothing else of the daemon is touched.
//
// A file goes through three steps: the decoder (decode.go) walks its syntax tree and stores values by the key tables of
// raw.go; the readers (scalar.go) refuse what can never be right; the checker (check.go, check_peer.go) compares values
// with each other and fills in defaults. None of them stops at a fault.
package config

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/evpnd/evpnd/evpn"
)

// Config is a checked configuration: every value is in range and every default filled in.
type Config struct {
	ASN              uint32     // 1 to 4294967295
	RouterID         netip.Addr // IPv4; default: the VTEP address; the zero Addr when VTEPInterface is to be asked for it
	VTEP             netip.Addr // our tunnel address; the zero Addr when VTEPInterface is to be asked
	VTEPInterface    string     // take the VTEP address from this device, "" when VTEP is given
	Listen           Listen
	Peers            []Peer
	DynamicPeers     []DynamicPeers
	VNIs             map[evpn.VNI]VNI
	RT               evpn.RTDialect       // for VNIs that list no route targets themselves; default auto
	AutoVNIs         bool                 // serve every VXLAN device that is a port of a bridge; default true
	Snooping         bool                 // take the addresses of local hosts from their ARP, ND and DHCP frames; default true
	SnoopingRate     int                  // frames that a port may send in a second, MinSnoopingRate to MaxSnoopingRate; default DefaultSnoopingRate
	ARPSuppression   *bool                // for VNIs that do not say; nil: as their devices are
	ManageDevices    bool                 // set on the devices of served VNIs what they need; default false
	Duplicates       evpn.DuplicatePolicy // every field filled in
	MaxMACs          evpn.MACLimits       // for VNIs that do not say
	OnPeerLoss       PeerLoss             // of peers that do not say
	VTEPReachability Reachability         // default any route
	VTEPHold         time.Duration        // longest pause before a VTEP that comes and goes is used again, 0 (none) to 1 h; default 60 s
	VTEPProbe        time.Duration        // between two probes of a remote VTEP, 0 (none is probed) to 1 h; default 0
	VTEPProbeMisses  int                  // probes in a row without answer that make it unreachable, 1 to 100; default 3
	FlushOnExit      bool                 // remove our kernel entries on a clean stop; default false
	StateDir         string               // default /var/lib/evpnd
	API              API
	Log              Log
}

// Bounds of Config.SnoopingRate.
const (
	MinSnoopingRate     = 100
	DefaultSnoopingRate = 2000
	MaxSnoopingRate     = 100_000
)

// Reachability says what counts as a way to a remote VTEP.
type Reachability string

// What counts as a way.
const (
	ReachabilityRoute     Reachability = "route"      // any route, the default one too
	ReachabilityNoDefault Reachability = "no-default" // any route but a default one
	ReachabilityOff       Reachability = "off"        // nothing is looked at: every VTEP is taken to be reachable
)

// Listen says where BGP sessions are accepted.
type Listen struct {
	Enabled   bool         // default: true when the file has a listen section, passive or dynamic peers
	Port      uint16       // default 179
	Addresses []netip.Addr // empty: all; link-local ones have a zone
}

// Peer is one BGP neighbour.
type Peer struct {
	// Address has a zone when it is link-local. Of a peer by interface alone it is what evpn.InterfacePeer makes.
	Address      netip.Addr
	Port         uint16 // default 179
	ASN          uint32 // 0: learned from the OPEN
	External     bool   // with ASN 0: any AS but ours
	Description  string
	Passive      bool       // only wait for the peer to connect
	LocalAddress netip.Addr // source of our connection; the zero Addr: the kernel chooses
	Interface    string     // bind the connection to this device; "": none
	// NoAdvertisements: send no Router Advertisements to an unnumbered peer, since something else on this host does. Default false.
	NoAdvertisements bool
	Multihop         uint8         // eBGP only: TTL of our packets, 2 to 255; 0: directly connected (TTL 1). iBGP: 0 is 64
	TTLSecurity      uint8         // GTSM: hops the peer may be away, 1 to 254; 0: off (SE-01). Excludes Multihop
	Password         string        // TCP MD5 key of 1 to 80 octets, read from password-file; "": none (SE-02)
	PasswordFile     string        // absolute path; "" when Password is
	HoldTime         time.Duration // 0 (never expires) or 3 s to 65535 s; default 90 s
	Keepalive        time.Duration // 1 s to less than HoldTime; default a third of it; 0 when HoldTime is 0
	ConnectRetry     time.Duration // longest pause between attempts to connect, 100 ms to 1 h; default 5 s
	GracefulRestart  time.Duration // restart time we announce, 0 (capability not sent) to 4095 s; default 120 s
	// LongLived is the long-lived stale time we announce (RFC 9494), and the longest that we keep the peer's routes for: 0
	// (capability not sent) to 16777215 s; default 0. Only with GracefulRestart.
	LongLived    time.Duration
	StaleTime    time.Duration // that a peer which came back has for its End-of-RIB (GR-09), 1 s to 1 h; default 180 s
	OnPeerLoss   PeerLoss
	RTConstraint bool // negotiate RFC 4684; default false. Then no VNI imports route targets of any AS
	NeedEncap    bool // refuse this peer's routes without an encapsulation community (EN-03); default false
	MaxRoutes    MaxRoutes
}

// Unnumbered reports whether the peer is whoever is at the other end of Interface.
func (p *Peer) Unnumbered() bool { return evpn.PeerInterface(p.Address) != "" }

// PeerLoss says what becomes of the routes of a peer whose session ends. The zero value: what graceful restart negotiated.
type PeerLoss struct {
	Withdraw bool          // they go at once
	Keep     time.Duration // they are kept so long at least, whatever was negotiated: 1 s to 7 days; 0: not. Excludes Withdraw
}

// MaxRoutes bounds the routes of one peer (SE-04).
type MaxRoutes struct {
	Most     int // 0: no limit; default 1000000
	Warn     int // percentage of Most from which on the operator is told, 1 to 100; default 75
	Action   evpn.LimitAction
	IdleHold time.Duration // LimitReset: until another session is allowed, 1 s to 1 day; default 5 minutes
}

// Limit is what the core is to know of it.
func (m MaxRoutes) Limit() evpn.RouteLimit {
	return evpn.RouteLimit{Most: m.Most, Warn: max(1, int(int64(m.Most)*int64(m.Warn)/100)), Action: m.Action}
}

// DynamicPeers accepts sessions from every address of Prefix. Such peers are always passive; the fields of Template that
// name one peer or are for dialling it (Address, Port, ConnectRetry) are zero.
type DynamicPeers struct {
	Prefix   netip.Prefix
	Limit    int // most sessions at a time, 1 to 65535; default 100
	Template Peer
}

// VNI is what the file says about one VNI; the zero value means all defaults. Import and Export are never empty without
// being nil, and no two VNIs have the same RD.
type VNI struct {
	Off            bool
	RD             evpn.RD          // zero: VTEP:n
	Import         []evpn.RTPattern // nil: by dialect
	Export         []evpn.RT        // nil: by dialect
	MaxMACs        evpn.MACLimits   // by default those of Config
	StrictTag      bool             // ET-04; default false
	Snooping       *bool            // nil: Config.Snooping
	ARPSuppression *bool            // nil: Config.ARPSuppression
	Manage         *bool            // nil: ManageDevices
	StickyStatic   bool             // announce static rows of the bridge as sticky (MM-09); default false
	Gateways       []evpn.Gateway   // of this host in the VNI's subnet; no two with one IP
	Create         bool             // make the VNI's devices when there are none; default false
	Device         string           // VXLAN device to make; default: vxlan and the VNI. Only with Create
	Bridge         string           // bridge to put it in, made when there is none; default: br and the VNI. Only with Create
}

// API is the gRPC interface, and the metrics.
type API struct {
	Socket     string // default /run/evpnd/evpnd.sock
	Group      string // group owning the socket; "": the daemon's
	AdminGroup string // who of those that may use the socket may change things; "": all of them
	TCP        APIListener
	Metrics    string // host:port of the HTTP listener for /metrics, /healthz, /readyz; "": none
}

// APIListener is the TCP listener of the gRPC interface. Its clients are known by their certificates. The zero value: there
// is none.
type APIListener struct {
	Address     string   // host:port
	Certificate File     // ours and those between it and its CA, PEM
	Key         File     // of Certificate, PEM
	ClientCA    File     // that clients' certificates are from, PEM
	Readers     []string // names of clients that may read
	Admins      []string // names of clients that may also change things; none is in Readers
}

// File is a file that the configuration names, as it was when that was read.
type File struct {
	Path    string // absolute
	Content string
}

// Log says what is logged and how.
type Log struct {
	Level  string // error, warn, info, debug; default info
	Format string // text, json; default text
}

// SetVTEP takes over the address that VTEPInterface turned out to have: as VTEP, and as RouterID when the file gives none.
// An address that is no VTEP's or is a peer's, or that leaves us without a router id, is an error and changes nothing.
func (c *Config) SetVTEP(addr netip.Addr) error {
	next := *c
	next.VTEP, next.RouterID = addr, routerID(c.RouterID, addr)
	if err := next.checkVTEP(); err != nil {
		return fmt.Errorf("take the vtep from interface %s: %w", c.VTEPInterface, err)
	}
	*c = next
	return nil
}

func (c *Config) checkVTEP() error {
	switch {
	case !c.VTEP.IsValid():
		return errors.New("it has no address")
	case !c.RouterID.IsValid():
		return fmt.Errorf("IPv6 address %s gives no router id: want router-id too", c.VTEP)
	case slices.ContainsFunc(c.Peers, func(p Peer) bool { return p.Address == c.VTEP }):
		return fmt.Errorf("%s is the address of a peer", c.VTEP)
	}
	return checkVTEP(c.VTEP)
}

// Core returns the part of the configuration that the core decides by. RDNumbers are left zero; what is said of single
// peers comes to the core with their sessions. What an earlier life of ours left in the kernel is kept for a peer as long as
// its routes would be.
func (c *Config) Core() evpn.Config {
	core := evpn.Config{
		ASN:         c.ASN,
		RouterID:    c.RouterID,
		VTEP:        c.VTEP,
		Dialect:     c.RT,
		Default:     evpn.VNIPolicy{Off: !c.AutoVNIs, Limits: c.MaxMACs},
		VNIs:        make(map[evpn.VNI]evpn.VNIPolicy, len(c.VNIs)),
		Duplicates:  c.Duplicates,
		LongestHold: c.VTEPHold,
	}
	for n, v := range c.VNIs {
		core.VNIs[n] = evpn.VNIPolicy{
			Off: v.Off, RD: v.RD, Import: v.Import, Export: v.Export, StrictTag: v.StrictTag,
			StickyStatic: v.StickyStatic, Gateways: v.Gateways, Limits: v.MaxMACs,
		}
	}
	for _, p := range c.Peers {
		core.Peers = append(core.Peers, p.Address)
		if keep := p.OnPeerLoss.Keep; keep > evpn.DefaultReapAfter {
			core.ReapAfter = max(core.ReapAfter, keep)
		}
	}
	return core
}
