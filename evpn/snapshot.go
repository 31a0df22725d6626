package evpn

import (
	"cmp"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// KernelStatus says how a kernel entry stands against what is wanted.
type KernelStatus struct {
	State  string // "none", "installed", "parked" (its VTEP cannot be reached), "pending", "blocked" (an entry that is not ours is in the way), "failed", "adopted"
	Reason string // of blocked and failed: what the kernel said; of parked: why
}

// MACView is one MAC as the API shows it.
type MACView struct {
	VNI        VNI
	MAC        MAC
	Local      bool       // ours to announce
	VTEP       netip.Addr // of a remote MAC
	Port       string     // of a local MAC, or of a row on a local port that has yielded
	Seq        uint32
	Sticky     bool
	Static     bool // the row on the local port was put there by someone
	Announced  bool
	IPs        []netip.Addr // bound to it, local and remote
	Since      time.Time
	Moves      uint32
	Reason     string // why the local row is not the owner; "" when it is, or when there is none
	Kernel     KernelStatus
	Duplicate  *Duplicate  // nil: it is none
	Routes     int         // received for it, whichever won
	Candidates []Candidate // only when asked for
}

// Candidate is one claim to a MAC or an IP, and why it lost.
type Candidate struct {
	Local  bool
	VTEP   netip.Addr
	Peer   netip.Addr
	RD     RD
	MAC    MAC
	IP     netip.Addr // the zero Addr of a MAC-only route
	Seq    uint32
	Sticky bool
	Port   string    // of a local one
	Since  time.Time // received or learned
	Best   bool
	Lost   string // the rule it lost by, or why it was refused; "" for the best
}

// NeighborView is one host address as the API shows it.
type NeighborView struct {
	VNI       VNI
	IP        netip.Addr
	MAC       MAC
	Local     bool
	VTEP      netip.Addr
	Port      string // of its MAC, when that is local
	Seq       uint32
	Sticky    bool
	Router    bool
	Announced bool
	Since     time.Time
	LeaseEnd  time.Time  // of a local host's DHCP lease; zero: none is known
	Duplicate *Duplicate // nil: it is none
	Kernel    KernelStatus
	// Candidates are the received routes for the address, and why they lost; only when asked for.
	Candidates []Candidate
}

// VTEPView is one remote VTEP in one VNI.
type VTEPView struct {
	VNI    VNI
	VTEP   netip.Addr
	Flood  bool // BUM frames go there
	MACs   int
	Since  time.Time    // of the oldest IMET route that names it; zero: none does
	RD     RD           // of that route
	Peers  []netip.Addr // that sent such routes
	Kernel KernelStatus // of the flood entry
	Way    WayView
}

// WayView is what is known of the underlay's way to a VTEP.
type WayView struct {
	Down   bool      // no frames are sent there
	Reason string    // why; "" while it is not down
	Since  time.Time // when Down changed last; zero: it never did
	Losses int       // lately; 0 after two calm minutes
	Until  time.Time // the way is there again, and used from then on; zero: it is missing, or in use
}

// VNIView is one MAC-VRF as the API shows it.
type VNIView struct {
	Attachment
	RD         RD
	Import     []RTPattern
	Export     []RT
	InService  bool
	Reason     string // why it is not in service
	Since      time.Time
	LocalMACs  int
	RemoteMACs int
	LocalIPs   int
	RemoteIPs  int
	VTEPs      int
	OwnRoutes  int // announced

	LocalIPv6, RemoteIPv6 int // of LocalIPs and RemoteIPs

	OverLimit     int // MACs that are known and beyond a limit
	DuplicateMACs int
	DuplicateIPs  int
	RefusedHosts  uint64 // times that a host claimed a gateway, or the bridge, of ours
}

// RouteView is one route, received or ours.
type RouteView struct {
	Route
	Attrs    Attrs
	Peer     netip.Addr // the zero Addr for our own
	Received time.Time
	Stale    string // "": of the peer's present session; "stale": of the one before; "long-lived": the least preferred
	Best     bool
	VNIs     []VNI  // that import it
	Rejected string // why it gives no forwarding state; "" when it does, or was not the best
}

// PeerView is what the core knows of a peer.
type PeerView struct {
	Peer    netip.Addr
	Up      bool
	Routes  int
	Refused int // of Routes: they give no forwarding state
	EoR     bool
	// Stale is the number of routes of an earlier session that are retained, Aged says that they are the least preferred,
	// Until when they go.
	Stale int
	Aged  bool
	Until time.Time
	Limit RouteLimit
	Left  int // routes of this session that were not taken, since the limit is reached
}

// Totals are the sums over all VNIs.
type Totals struct {
	VNIs, VNIsUp, VTEPs, LocalMACs, RemoteMACs, LocalIPs, RemoteIPs, Routes, OwnRoutes int

	Wanted    int // kernel entries
	Installed int // of these acknowledged
	Pending   int // of these not written or not acknowledged yet
	Problems  int // kernel entries that failed or are blocked
	Cut       int // VTEPs that no frames are sent to, since there is no way
	Holding   bool
	Retries   uint64 // writes that were tried again
	Losses    uint64 // times that the way to a VTEP was lost

	RoutesByType    map[RouteType]int // Routes
	OwnRoutesByType map[RouteType]int // OwnRoutes
	Unimported      int               // of Routes: no VNI here imports them
}

// Brief is what can be told without walking the tables.
type Brief struct {
	VNIs, MACs int
	Failed     int // kernel entries that the kernel refused
	Blocked    int // kernel entries whose place is held by someone else's
}

// Brief returns a summary whose cost grows with the VNIs and with what is wrong, not with the tables.
func (c *Core) Brief() Brief {
	var b Brief
	for _, p := range c.problems {
		if p.foreign {
			b.Blocked++
		} else {
			b.Failed++
		}
	}
	for _, v := range c.vrfs {
		if v.at != nil {
			b.VNIs++
			b.MACs += len(v.macs)
		}
	}
	return b
}

// InSync reports that the kernel holds what is wanted, as far as it has acknowledged, and nothing is in the way.
func (t Totals) InSync() bool { return t.Pending == 0 && t.Problems == 0 }

// Serves reports whether the VNI has a device here.
func (c *Core) Serves(vni VNI) bool {
	v := c.vrfs[vni]
	return v != nil && v.at != nil
}

func (c *Core) kernelStatus(h holder) KernelStatus {
	s := h.slot()
	switch p := c.problems[h.key()]; {
	case p != nil && p.foreign:
		return KernelStatus{State: "blocked", Reason: p.why}
	case p != nil:
		return KernelStatus{State: "failed", Reason: p.why}
	case s.is(adopted):
		return KernelStatus{State: "adopted"}
	case !s.settled() || s.batch > c.acked:
		return KernelStatus{State: "pending"}
	case s.have.there():
		if t := c.vtepAt(s.have); t != nil && c.cutOff(t.addr) {
			return KernelStatus{State: "parked", Reason: c.whyCutOff(t.addr)}
		}
		return KernelStatus{State: "installed"}
	default:
		return KernelStatus{State: "none"}
	}
}

// MACs returns the MACs of one VNI in order, or of all when vni is 0; with their candidates, which cost more than the rest,
// when asked.
func (c *Core) MACs(vni VNI, candidates bool) []MACView {
	var out []MACView
	for _, v := range c.vrfsFor(vni) {
		for _, m := range v.macsInOrder() {
			if m.shown() {
				view := c.macView(m)
				if candidates {
					view.Candidates = c.candidates(m)
				}
				out = append(out, view)
			}
		}
	}
	return out
}

// shown reports whether the MAC is a row of the table.
func (m *macEntry) shown() bool {
	return m.local() != nil || m.best != nil || m.over() || m.place.have.there() || m.flaps().duplicate()
}

func (c *Core) macView(m *macEntry) MACView {
	view := MACView{
		VNI: m.vrf.vni, MAC: m.mac, Local: m.isLocal(), Announced: m.announced(), Moves: m.moves(), Reason: m.reason(),
		Since: time.Unix(0, m.since), Kernel: c.kernelStatus(m), Routes: m.routes.len(), Duplicate: m.flaps().view(),
	}
	for _, e := range m.ips() {
		view.IPs = append(view.IPs, e.ip)
	}
	for p := range m.routes.all() {
		if ip := p.ip.addr(); p.hasIP() && !slices.Contains(view.IPs, ip) {
			view.IPs = append(view.IPs, ip)
		}
	}
	slices.SortFunc(view.IPs, netip.Addr.Compare)
	if m.local() != nil {
		view.Port, view.Static = m.local().port, m.local().static
		view.Seq, view.Sticky = m.mobility().seq, m.isSticky()
	}
	switch held := c.vtepAt(m.place.have); {
	case m.best != nil:
		view.VTEP, view.Seq, view.Sticky = m.best.Attrs.NextHop, m.best.Attrs.Seq, m.best.Attrs.Sticky
	case m.local() == nil && held != nil:
		view.VTEP = held.addr // left by an earlier life
	}
	return view
}

// candidates lists every claim to a MAC with the rule it lost by.
func (c *Core) candidates(m *macEntry) []Candidate {
	var out []Candidate
	winner := c.ownClaim(m)
	if m.best != nil {
		winner = m.best.claim()
	}
	if m.local() != nil {
		out = append(out, Candidate{Local: true, MAC: m.mac, Port: m.local().port, VTEP: c.cfg.VTEP, Seq: m.mobility().seq, Sticky: m.isSticky(), Since: time.Unix(0, m.since), Best: m.isLocal(), Lost: m.reason()})
	}
	for p := range m.routes.all() {
		cand := p.candidate()
		cand.Best = p == m.best
		if !cand.Best {
			cand.Lost = cmp.Or(c.refuse(m.vrf, p), m.flaps().verdict(), c.whyCutOff(p.Attrs.NextHop), beyond(m), winner.beats(p.claim()), "same claim by another route or peer")
		}
		out = append(out, cand)
	}
	return out
}

// ipCandidates lists every claim to an IP with the rule it lost by.
func (c *Core) ipCandidates(e *ipEntry) []Candidate {
	var out []Candidate
	if e.local() != nil {
		cand := Candidate{Local: true, MAC: e.local().mac, VTEP: c.cfg.VTEP, Since: time.Unix(0, e.local().since), Best: e.out() != nil}
		if !cand.Best {
			cand.Lost = "its MAC is not on a local port"
			if p := c.fixedElsewhere(e, e.local().mac); p != nil {
				cand.Lost = "fixed at " + p.Attrs.NextHop.String()
			}
			if e.vrf.isGatewayIP(e.ip) {
				cand.Lost = whyGatewayIP
			}
		}
		out = append(out, cand)
	}
	for p := range e.routes.all() {
		cand := p.candidate()
		cand.Best = p == e.best
		if !cand.Best {
			switch {
			case e.lost(p):
				cand.Lost = cmp.Or(e.flaps().verdict(), beyond(e.vrf.macs[p.mac]), "its MAC is on a local port")
			case e.best != nil:
				cand.Lost = cmp.Or(c.refuse(e.vrf, p), c.whyCutOff(p.Attrs.NextHop), e.best.claim().beats(p.claim()), "same claim by another route or peer")
			default:
				cand.Lost = cmp.Or(c.refuse(e.vrf, p), "a local host has the IP")
			}
		}
		out = append(out, cand)
	}
	return out
}

func (p *Path) candidate() Candidate {
	return Candidate{
		MAC: p.mac, IP: p.ip.addr(), VTEP: p.Attrs.NextHop, Peer: p.peer.addr, RD: p.rd,
		Seq: p.Attrs.Seq, Sticky: p.Attrs.Sticky, Since: time.Unix(0, p.received),
	}
}

// Neighbors returns the host addresses of one VNI in order, or of all when vni is 0; with their candidates when asked.
func (c *Core) Neighbors(vni VNI, candidates bool) []NeighborView {
	var out []NeighborView
	for _, v := range c.vrfsFor(vni) {
		for _, e := range v.ipsInOrder() {
			view, ok := c.neighborView(e)
			if !ok {
				continue
			}
			if candidates {
				view.Candidates = c.ipCandidates(e)
			}
			out = append(out, view)
		}
	}
	return out
}

// neighborView is false when the IP is no row of the table.
func (c *Core) neighborView(e *ipEntry) (NeighborView, bool) {
	view := NeighborView{VNI: e.vrf.vni, IP: e.ip, Kernel: c.kernelStatus(e), Announced: e.out() != nil, Duplicate: e.flaps().view()}
	switch {
	case e.best != nil:
		view.MAC, view.VTEP, view.Seq, view.Router = e.best.mac, e.best.Attrs.NextHop, e.best.Attrs.Seq, e.best.isRouter()
		view.Since, view.Sticky = time.Unix(0, e.best.received), e.best.Attrs.Sticky
	case e.binding() != nil:
		b := e.binding()
		view.MAC, view.Local, view.Router, view.Since = b.mac, true, b.router, time.Unix(0, b.since)
		if b.leased != 0 {
			view.LeaseEnd = time.Unix(0, b.leased)
		}
		if e.out() != nil {
			view.Seq = e.out().seq
		}
		if m := e.vrf.macs[b.mac]; m != nil && m.local() != nil {
			view.Port = m.local().port
		}
	case e.place.have.there():
		view.MAC, view.Router = e.place.have.mac(), e.place.have.router()
	default:
		return NeighborView{}, false
	}
	return view, true
}

// VTEPs returns the remote VTEPs of one VNI in order, or of all when vni is 0.
func (c *Core) VTEPs(vni VNI) []VTEPView {
	var out []VTEPView
	for _, v := range c.vrfsFor(vni) {
		macs := map[netip.Addr]int{}
		for _, m := range v.macs {
			if m.best != nil {
				macs[m.best.Attrs.NextHop]++
			}
		}
		for _, f := range v.floodInOrder() {
			if f.flooded || f.place.have.there() || f.routes.len() > 0 && c.cutOff(f.vtep) {
				macs[f.vtep] += 0
			}
		}
		first := len(out)
		for addr, n := range macs {
			view := VTEPView{VNI: v.vni, VTEP: addr, MACs: n, Way: c.wayView(addr)}
			if f := v.flood[addr]; f != nil {
				view.Flood, view.Kernel = f.flooded, c.kernelStatus(f)
				view.describe(&f.routes)
			}
			out = append(out, view)
		}
		slices.SortFunc(out[first:], func(a, b VTEPView) int { return a.VTEP.Compare(b.VTEP) })
	}
	return out
}

// describe fills in what the IMET routes of a VTEP say.
func (view *VTEPView) describe(routes *pathList) {
	for p := range routes.all() {
		if at := time.Unix(0, p.received); p == routes.first || at.Before(view.Since) {
			view.Since, view.RD = at, p.rd
		}
		if !slices.Contains(view.Peers, p.peer.addr) {
			view.Peers = append(view.Peers, p.peer.addr)
		}
	}
	slices.SortFunc(view.Peers, netip.Addr.Compare)
}

// VNIs returns the MAC-VRFs in order.
func (c *Core) VNIs() []VNIView {
	var out []VNIView
	for _, v := range c.vrfsFor(0) {
		view := VNIView{Attachment: *v.at, RD: v.rd, Import: v.importRTs, Export: v.exportRTs, InService: v.inService(), Reason: v.unfit, Since: time.Unix(0, v.since)}
		view.Faults = slices.Clone(v.at.Faults)
		for _, f := range v.flood {
			if f.flooded {
				view.VTEPs++
			}
		}
		if v.imet {
			view.OwnRoutes++
		}
		view.OwnRoutes += len(v.gateways)
		view.RefusedHosts, view.OverLimit = v.refusedHosts, v.room.over
		for _, m := range v.macs {
			if m.announced() {
				view.OwnRoutes++
			}
			if m.flaps().duplicate() {
				view.DuplicateMACs++
			}
			if m.isLocal() {
				view.LocalMACs++
			} else if m.best != nil {
				view.RemoteMACs++
			}
		}
		for e := range v.ips.all() {
			if e.out() != nil {
				view.OwnRoutes++
			}
			if e.flaps().duplicate() {
				view.DuplicateIPs++
			}
			six := 0
			if e.ip.Is6() {
				six = 1
			}
			if e.best != nil {
				view.RemoteIPs++
				view.RemoteIPv6 += six
			} else if e.local() != nil {
				view.LocalIPs++
				view.LocalIPv6 += six
			}
		}
		out = append(out, view)
	}
	return out
}

// Routes returns the received routes, or with peer the zero Addr those of all peers, ordered by key and peer.
func (c *Core) Routes(peer netip.Addr) []RouteView {
	var out []RouteView
	for _, p := range c.rib.from(func(p *Path) bool { return !peer.IsValid() || p.peer.addr == peer }) {
		out = append(out, c.routeView(p))
	}
	slices.SortFunc(out, func(a, b RouteView) int {
		return cmp.Or(a.Key.compare(b.Key), a.Peer.Compare(b.Peer))
	})
	return out
}

func (c *Core) routeView(p *Path) RouteView {
	view := RouteView{
		Route: p.Route(), Attrs: *p.Attrs, Peer: p.peer.addr,
		Received: time.Unix(0, p.received), Stale: p.staleness(),
	}
	for _, v := range c.importers(c.attrs[p.Attrs], p.Attrs) {
		view.VNIs = append(view.VNIs, v.vni)
		switch p.kind {
		case TypeMACIP:
			view.Best = view.Best || v.macs[p.mac] != nil && v.macs[p.mac].best == p || v.ips.get(p.ip.addr()) != nil && v.ips.get(p.ip.addr()).best == p
		case TypeIMET:
			view.Best = view.Best || c.refuse(v, p) == ""
		}
	}
	view.Rejected = c.rejected(p)
	return view
}

// rejected says why a path gives no forwarding state anywhere, whatever other paths there are; "" when it could.
func (c *Core) rejected(p *Path) string {
	vrfs := c.importers(c.attrs[p.Attrs], p.Attrs)
	switch {
	case len(vrfs) == 0 && len(p.Attrs.RTs()) == 0:
		return "no route target"
	case len(vrfs) == 0:
		return "no VNI here imports its route targets"
	case p.kind != TypeMACIP && p.kind != TypeIMET:
		return fmt.Sprintf("route type %d is stored only", p.kind)
	}
	why := ""
	for _, v := range vrfs {
		if why = c.refuse(v, p); why == "" {
			return ""
		}
	}
	return why
}

// OwnRoutes returns the routes we announce, ordered by key.
func (c *Core) OwnRoutes() []RouteView {
	var out []RouteView
	add := func(v *macVRF, r Route, a *Attrs) {
		out = append(out, RouteView{Route: r, Attrs: *a, Best: true, VNIs: []VNI{v.vni}})
	}
	for _, v := range c.vrfsFor(0) {
		if v.imet {
			add(v, c.ownIMET(v), c.imetAttrs(v))
		}
		for _, g := range v.gateways {
			add(v, c.ownRoute(v, g.MAC, g.IP), c.ownAttrs(v, g.setKey()))
		}
		for _, m := range v.macsInOrder() {
			if m.announced() {
				add(v, c.ownRoute(v, m.mac, netip.Addr{}), c.ownAttrs(v, setKey{mobility: m.announcedS()}))
			}
		}
		for _, e := range v.ipsInOrder() {
			if o := e.out(); o != nil {
				add(v, c.ownRoute(v, o.mac, e.ip), c.ownAttrs(v, o.setKey(e.ip)))
			}
		}
	}
	slices.SortFunc(out, func(a, b RouteView) int { return a.Key.compare(b.Key) })
	return out
}

// Peers returns what the core knows of its peers, by address.
func (c *Core) Peers() []PeerView {
	refused := map[netip.Addr]int{}
	for _, path := range c.rib.paths {
		for ; path != nil; path = path.nextKey {
			if c.rejected(path) != "" {
				refused[path.peer.addr]++
			}
		}
	}
	out := c.PeerStates()
	for i := range out {
		out[i].Refused = refused[out[i].Peer]
	}
	return out
}

// PeerStates is Peers without what takes a walk over all routes: Refused.
func (c *Core) PeerStates() []PeerView {
	var out []PeerView
	for _, addr := range c.peerAddrs() {
		p := c.peers[addr]
		view := PeerView{Peer: addr, Up: p.up, Routes: p.paths, EoR: p.complete, Limit: p.limit.RouteLimit, Left: p.limit.left}
		if !p.stale.refresh {
			view.Stale, view.Aged, view.Until = p.paths-p.fresh, p.stale.aged, p.stale.ends
		}
		out = append(out, view)
	}
	return out
}

// Totals returns the sums over all VNIs.
func (c *Core) Totals() Totals {
	_, t := c.VNIsAndTotals()
	return t
}

// VNIsAndTotals is VNIs and Totals in one walk over the tables.
func (c *Core) VNIsAndTotals() ([]VNIView, Totals) {
	vnis := c.VNIs()
	t := Totals{
		VTEPs: len(c.vteps), Problems: len(c.problems), Cut: c.waysDown, Holding: c.holding, Retries: c.retries, Losses: c.waysLost,
		RoutesByType: maps.Clone(c.received), OwnRoutesByType: map[RouteType]int{},
	}
	for _, v := range vnis {
		t.VNIs++
		if v.InService {
			t.VNIsUp++
		}
		t.OwnRoutes += v.OwnRoutes
		t.LocalMACs += v.LocalMACs
		t.RemoteMACs += v.RemoteMACs
		t.LocalIPs += v.LocalIPs
		t.RemoteIPs += v.RemoteIPs
	}
	for _, v := range c.vrfs {
		if v.at != nil && v.imet {
			t.OwnRoutesByType[TypeIMET]++
		}
	}
	if n := t.OwnRoutes - t.OwnRoutesByType[TypeIMET]; n > 0 {
		t.OwnRoutesByType[TypeMACIP] = n
	}
	for _, p := range c.peers {
		t.Routes += p.paths
	}
	for _, set := range c.attrs {
		if len(set.vrfs) == 0 {
			t.Unimported += set.paths
		}
	}
	for h := range c.allHolders() {
		sl := h.slot()
		if sl.want.there() {
			t.Wanted++
		}
		switch {
		case !sl.settled() || sl.batch > c.acked:
			if !sl.is(adopted) {
				t.Pending++
			}
		case sl.have.there():
			t.Installed++
		}
	}
	return vnis, t
}

// allHolders walks every kernel entry, in no particular order.
func (c *Core) allHolders() iter.Seq[holder] {
	return func(yield func(holder) bool) {
		for _, t := range c.vteps {
			if !yield(t) {
				return
			}
		}
		for _, v := range c.vrfs {
			for h := range v.holders() {
				if !yield(h) {
					return
				}
			}
		}
	}
}

// vrfsFor returns the MAC-VRF of vni, or all that have a device when vni is 0.
func (c *Core) vrfsFor(vni VNI) []*macVRF {
	var out []*macVRF
	for _, v := range c.vrfsInOrder() {
		if v.at != nil && (vni == 0 || v.vni == vni) {
			out = append(out, v)
		}
	}
	return out
}

func (k RouteKey) compare(o RouteKey) int {
	return cmp.Or(slices.Compare(k.RD[:], o.RD[:]), cmp.Compare(k.Type, o.Type), cmp.Compare(k.Tag, o.Tag),
		slices.Compare(k.MAC[:], o.MAC[:]), k.IP.Compare(o.IP), cmp.Compare(k.PrefixLen, o.PrefixLen), slices.Compare(k.ESI[:], o.ESI[:]))
}
