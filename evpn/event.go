package evpn

import (
	"net/netip"
	"time"
)

// Event is one fact that comes in. Facts are levels, not edges: saying one twice is saying it once.
type Event interface{ event() }

// PeerUp says that a BGP session with the EVPN family on both sides is established.
type PeerUp struct {
	Peer     netip.Addr
	ASN      uint32 // the peer's
	RouterID netip.Addr
	// Forwarding says that a peer that restarted kept its forwarding state (the F bit for EVPN, GR-06); routes retained
	// from its last session are dropped at once otherwise. LongLived says the same of those beyond the restart time (the F
	// bit of RFC 9494), and Keep that they stay in any case, as on-peer-loss says, until End-of-RIB.
	Forwarding bool
	LongLived  bool
	Keep       bool
	StaleTime  time.Duration // that the peer has for its End-of-RIB when routes were retained (GR-09); zero: 3 minutes
	NeedEncap  bool          // refuse this peer's routes without an encapsulation instead of reading them as VXLAN (EN-03)
	Limit      RouteLimit
	Left       int // routes that the limit has kept out of a session that is taken over; 0 for a new one
}

// RouteLimit bounds the routes of one peer (SE-04).
type RouteLimit struct {
	Most   int // routes; 0: no limit
	Warn   int // routes from which on the operator is told; 0: none
	Action LimitAction
}

// LimitAction says what becomes of a peer with more routes than it may have.
type LimitAction uint8

// Limit actions.
const (
	LimitStop  LimitAction = iota // further routes are not taken; those there are stay, and may change
	LimitWarn                     // nothing
	LimitReset                    // the session ends with Cease 6/1
)

var limitActions = [...]string{LimitStop: "stop", LimitWarn: "warn", LimitReset: "reset"}

func (a LimitAction) String() string { return limitActions[a] }

// PeerLimit replaces the limit that PeerUp came with.
type PeerLimit struct {
	Peer  netip.Addr
	Limit RouteLimit
}

// PeerDown says that the session ended, or that the peer left the configuration.
type PeerDown struct {
	Peer   netip.Addr
	Reason string
	// Retain asks to keep the peer's routes, as graceful restart negotiated says (GR-05).
	Retain time.Duration
	// LongLived asks to keep them for as long again after that, the least preferred of all (RFC 9494, LL-02).
	LongLived time.Duration
	// Keep asks to keep them so long, whatever was negotiated: on-peer-loss. Beyond Retain they are least preferred too.
	Keep time.Duration
	// Again says that what was retained already, since the session before, may stay when this one ends (GR-09, LL-04).
	Again bool
}

// EndOfRIB says that the peer has sent all it had (GR-04).
type EndOfRIB struct{ Peer netip.Addr }

// RefreshBegin says that the peer sends all its routes once more, up to RefreshEnd; those it does not send are gone then
// (RFC 7313, RR-03).
type RefreshBegin struct{ Peer netip.Addr }

// RefreshEnd says that the peer has sent all its routes since RefreshBegin.
type RefreshEnd struct{ Peer netip.Addr }

// Update is what one EVPN UPDATE says after RFC 7606: a route whose UPDATE must be treated as a withdraw stands in
// Unreach. Reach and Attrs are kept by the core and must not be changed afterwards.
type Update struct {
	Peer    netip.Addr
	Attrs   *Attrs // of Reach; nil when Reach is empty
	Reach   []Route
	Unreach []RouteKey
}

// Attachment is where a VNI meets the kernel: a VXLAN device that is a port of a bridge.
type Attachment struct {
	VNI       VNI
	Device    string // VXLAN device
	Bridge    string
	BridgeMAC MAC
	VLAN      uint16     // bridge VLAN of this VNI on a VLAN-aware bridge; 0 when the whole bridge is the VNI
	SourceVNI VNI        // on a device that carries many VNIs; 0 when the device is the VNI's own
	Local     netip.Addr // the device's tunnel source; the zero Addr when it has none
	Suppress  bool       // the bridge answers ARP and ND for remote hosts, and keeps what is gratuitous to itself
	Usable    bool       // up, and nothing in Faults stands against serving it
	Faults    []string   // what is wrong with the devices, in plain words, each with the command that mends it
}

// AttachmentUp says that an attachment exists, as given. Saying it again replaces what was said.
type AttachmentUp struct{ Attachment }

// AttachmentDown says that the VNI has no device any more.
type AttachmentDown struct{ VNI VNI }

// LocalMAC says that the bridge has a MAC of a local host, or no longer has it (Gone).
type LocalMAC struct {
	VNI    VNI
	MAC    MAC
	Port   string
	Static bool // put there by hand or by an orchestrator; survives whatever remotes say
	Gone   bool
}

// Witness is who knows the binding of an IP to a MAC.
type Witness uint8

// Witnesses. A binding lives while one of them stands by it; where they differ, the last word counts.
const (
	WitnessNeighbor Witness = iota // the kernel's neighbour table
	WitnessFrame                   // a frame that the host sent
	WitnessDHCP                    // a DHCP server's answer to the host, or the host that gives its address back
)

// LocalIP says that a witness knows the binding of an IP to a MAC on this host's side, or no longer knows it (Gone). A
// witness has one word on each IP: a new one replaces the old.
type LocalIP struct {
	VNI    VNI
	IP     netip.Addr
	MAC    MAC
	Source Witness
	Port   string // WitnessFrame: where the frame came in; WitnessDHCP: where the host is that asked
	Router bool   // the host is an IPv6 router (RFC 9047)
	Gone   bool
	// Lease is how long the host has the address from now on, by WitnessDHCP: the binding lives on through silence for as
	// long. 0 and below: it is as that of any frame. At most 2^32-1 s, which DHCP calls infinity (RFC 2131 §3.3).
	Lease time.Duration
	// Heard is when the frame came in, by the kernel's wall clock; zero where no frame told. Nothing is decided by it.
	Heard time.Time
}

// NeighborsGone says for each IP what a LocalIP of WitnessNeighbor with Gone does.
type NeighborsGone struct{ IPs []IPKey }

// Sighted says that a host sent a frame which tells of no binding. LocalIP from a frame implies it.
type Sighted struct {
	VNI  VNI
	MAC  MAC
	Port string
}

// Observed is what the kernel held for VNI when every batch up to AsOf had been written and no later one: our
// entries, foreign ones in places we may want, and local hosts. It replaces what was thought. Entries of later
// batches are not judged by it. MACs and IPs are complete and replace what was known of local hosts when they are not
// nil; only the reader of notifications can say that, since it alone knows the order of a dump and of what changed. IPs
// is the word of the neighbour table only.
type Observed struct {
	VNI     VNI // 0: the table of VTEPs, which all VNIs share
	AsOf    uint64
	Entries []ObservedEntry
	MACs    []LocalMAC
	IPs     []LocalIP
}

// ObservedEntry is one kernel entry.
type ObservedEntry struct {
	Key   EntryKey
	Entry Entry
	Ours  bool // made by this daemon, in this life or an earlier one
}

// VTEPReachable says whether the underlay has a way to a remote VTEP, one of those of Output.VTEPs. A VTEP of which nothing
// was said can be reached.
type VTEPReachable struct {
	VTEP      netip.Addr
	Reachable bool
	Reason    string // why it is not, such as "no route"
}

// Applied reports a batch of kernel ops: those not in Failed were acknowledged.
type Applied struct {
	Batch  uint64
	Failed []OpError
}

// OpError is one kernel op that was refused.
type OpError struct {
	Op  KernelOp
	Err error
	// Foreign says that an entry that is not ours stands in the way and was left alone.
	Foreign bool
	// Mend is the command that takes away what stands in the way; "" when there is none.
	Mend string
}

// ReadBackDone says that a read-back which Output.ReadBack asked for is over; its Observed facts came before, as far as
// it succeeded.
type ReadBackDone struct{}

// Tampered says that someone else changed or removed these entries of ours. They are written again.
type Tampered struct{ Keys []EntryKey }

// NexthopsGone says that someone else deleted the nexthops of these VTEPs. What the VXLAN devices held for the MACs behind them
// went along, of which the kernel says nothing; both are written again.
type NexthopsGone struct{ VTEPs []netip.Addr }

// Doubt says that someone else may have altered entries of ours unseen.
type Doubt struct{}

// Reported says that the adapter has told all it had noticed of what others do to our entries, when it had noticed as many
// such things as Number.
type Reported struct{ Number uint64 }

// Looked is what the kernel held of Keys when every batch up to AsOf had been written and no later one. Keys without an
// entry that is ours are gone, or were altered. A look that failed has no Keys. It answers Output.Look, of which there is one
// at a time: the room of the question serves the next one, and that of the answer may.
type Looked struct {
	AsOf    uint64
	Keys    []EntryKey
	Entries []ObservedEntry
}

// Remembered hands over what FramedBindings and Sequences said in an earlier life; it comes before Synced. Whatever of it does not hold
// any more is dropped without a word.
type Remembered struct {
	IPs       []LocalIP
	Sequences []Sequence
	// Hosts is what Estate said of ours: peers have these numbers, and know these hosts to be here. Nil when no predecessor
	// has handed over.
	Hosts []NumberedHost
}

// Synced says that the adapter has reported all there was when it started: local hosts and observed entries.
type Synced struct{}

// Configure replaces the core's configuration.
type Configure struct{ Config }

func (PeerUp) event()         {}
func (PeerDown) event()       {}
func (PeerLimit) event()      {}
func (RefreshBegin) event()   {}
func (RefreshEnd) event()     {}
func (EndOfRIB) event()       {}
func (*Update) event()        {}
func (AttachmentUp) event()   {}
func (AttachmentDown) event() {}
func (LocalMAC) event()       {}
func (LocalIP) event()        {}
func (NeighborsGone) event()  {}
func (Sighted) event()        {}
func (Observed) event()       {}
func (VTEPReachable) event()  {}
func (Applied) event()        {}
func (ReadBackDone) event()   {}
func (Tampered) event()       {}
func (NexthopsGone) event()   {}
func (Doubt) event()          {}
func (Reported) event()       {}
func (Looked) event()         {}
func (Remembered) event()     {}
func (Synced) event()         {}
func (Configure) event()      {}
