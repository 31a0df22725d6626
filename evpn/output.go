package evpn

import (
	"fmt"
	"net/netip"
	"time"
)

// Table says which kernel table an entry is in.
type Table uint8

// The tables we write. The order is the order in which entries are added; they are removed in the opposite order.
const (
	TableVTEP     Table = iota + 1 // FDB nexthop and its one-member group: one pair per remote VTEP, shared by all VNIs
	TableFlood                     // all-zero MAC of the VXLAN device, one dst per VTEP (FW-01)
	TableFDB                       // remote MAC: bridge → VXLAN port, and VXLAN device → VTEP (FW-02)
	TableNeighbor                  // remote IP → MAC on the bridge (FW-03)
)

func (t Table) String() string {
	switch t {
	case TableVTEP:
		return "vtep"
	case TableFlood:
		return "flood"
	case TableFDB:
		return "fdb"
	case TableNeighbor:
		return "neighbor"
	default:
		return fmt.Sprintf("table %d", uint8(t))
	}
}

// EntryKey names one kernel entry. Fields that a table does not use are zero.
type EntryKey struct {
	Table Table
	VNI   VNI        // all but TableVTEP
	MAC   MAC        // TableFDB
	Addr  netip.Addr // TableVTEP and TableFlood: the VTEP; TableNeighbor: the host's IP
}

func (k EntryKey) String() string {
	switch k.Table {
	case TableVTEP:
		return fmt.Sprintf("vtep %s", k.Addr)
	case TableFDB:
		return fmt.Sprintf("fdb vni %d mac %s", k.VNI, k.MAC)
	default:
		return fmt.Sprintf("%s vni %d %s", k.Table, k.VNI, k.Addr)
	}
}

// Entry is what a kernel entry says beside its key; comparable. TableFlood entries say nothing more.
type Entry struct {
	VTEP   netip.Addr // TableFDB: the VTEP the MAC is behind
	MAC    MAC        // TableNeighbor: the host's MAC
	Sticky bool       // TableFDB: local frames must not move it (RFC 7432 §15.2)
	Router bool       // TableNeighbor: the host is an IPv6 router
	Parked bool       // TableVTEP: what is behind it stays, and frames for it are dropped
}

// KernelOp makes one kernel entry so, or absent. Idempotent: an entry already there, or already gone, is success.
type KernelOp struct {
	Key   EntryKey
	Entry Entry
	Del   bool
	// Replace allows to overwrite what the core knows to be there: an entry of ours, or one the bridge learned from a
	// local frame. Without it an entry of ours is overwritten all the same, and one that is not ours is an error with
	// Foreign set. A delete never removes an entry that is not ours.
	Replace bool
	// Intact says that an entry of ours, acknowledged, stands there, that nothing is known to have happened to it since, and that
	// the op removes it or leaves its stickiness as it is.
	Intact bool
	// Stood says that an entry of ours, acknowledged, was here until someone else interfered. What stands there now and
	// shows that it came of that entry is ours to put right.
	Stood bool
}

// KernelBatch is a run of ops that are to be applied in order. Ops are not to be changed, nor to be looked at when Applied
// has been handed in: the core writes later batches in their place.
type KernelBatch struct {
	Seq  uint64 // counts up by one from 1
	AsOf uint64 // Number of the last Reported; what was noticed later is not in the ops
	Ops  []KernelOp
}

// RouteOp announces or withdraws one of our own routes. Attrs is nil in a withdraw, shared and immutable otherwise.
type RouteOp struct {
	Withdraw bool
	Route    Route
	Attrs    *Attrs
}

// NoteKind classifies what the core has to tell the operator.
type NoteKind uint8

// Notes.
const (
	NoteVNIUp NoteKind = iota + 1
	NoteVNIDown
	NoteVNIFault   // a device fault, or two devices for one VNI
	NoteMACMoved   // a MAC changed its owner
	NoteStickyMAC  // a MAC that is sticky elsewhere was seen here (MM-10)
	NoteRefused    // a received route gives no forwarding state; Reason says why
	NoteForeign    // an entry that is not ours stands where we want ours
	NoteKernel     // the kernel refused a write; it will be tried again
	NoteDrift      // the kernel did not hold what it had acknowledged; repaired
	NoteReaped     // entries of an earlier life that nobody announced any more were removed
	NotePeerRoutes // what happened to the routes of a peer that went away
	NoteVTEPLost   // no way to a remote VTEP; Count is how often that was so lately
	NoteVTEPBack   // it is used again
	NoteLimit      // a host, or a VNI, has more addresses than are taken from frames
	NoteMACLimit   // a MAC-VRF or a port has more MACs than it may
	NoteRouteLimit // a peer nears the limit of its routes, or has reached it

	NoteGateway // a host or VTEP claims a gateway, or the bridge, of ours (DG-02)
	NoteFixedIP // a host claims an IP that is fixed elsewhere (ND-04)

	NoteDuplicateMAC  // a MAC moves so often that two hosts must have it (MM-13); Reason says what is done
	NoteDuplicateIP   // an IP likewise (PX-12); MAC is the one it stays with
	NoteDuplicateOver // a MAC or IP counts as a duplicate no more (MM-14)
)

// Note is one thing that happened and that an operator may look for. The loop logs and counts notes.
type Note struct {
	Kind   NoteKind
	VNI    VNI
	MAC    MAC
	IP     netip.Addr
	VTEP   netip.Addr
	Peer   netip.Addr
	Count  int
	Reason string
}

// Probe asks a local host whether it still has an address: a unicast ARP request or neighbour solicitation, sent out of
// the port it was last heard on. Its answer comes back as a fact; silence ends the binding.
type Probe struct {
	VNI  VNI
	Port string
	MAC  MAC
	IP   netip.Addr
}

// Output is what Flush wants done.
type Output struct {
	Kernel    KernelBatch // empty Ops: nothing to write
	Backlog   int         // kernel entries that wait for a later batch
	Routes    []RouteOp
	Notes     []Note
	Probes    []Probe
	VTEPs     []netip.Addr // when not nil: the remote VTEPs to report VTEPReachable of
	ReadBack  []VNI        // read these VNIs back once Kernel is written; 0 is the table of VTEPs
	Look      []EntryKey   // look these entries of TableFDB and TableNeighbor up, behind Kernel; see Looked
	Resets    []PeerReset  // peers with more routes than they may have
	Refreshes []netip.Addr // peers to ask for all their routes: some were not taken, and there is room now
	// RDNumbers, when not nil, must be remembered for the next life before Routes are announced.
	RDNumbers map[VNI]uint16
	// Resequenced says that Sequences changed, which should be remembered soon.
	Resequenced bool
	ImportRTs   []RT      // when not nil: the route targets that peers with RT constraint should send (RFC 4684)
	ReleaseEoR  bool      // all local routes are announced: End-of-RIB may go out (GR-04)
	Wake        time.Time // when Flush next has something to say by itself; zero: never
}
