package evpn

import (
	"encoding/binary"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite the outputs in testdata/*.script")

// TestScripts plays every story in testdata: lines of facts, and after each the lines that begin with > and say what the
// core answers. A line holds facts that are decided together, separated by semicolons. Kernel batches are written and
// acknowledged at once, and read-backs answered, unless the script says hold.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.script")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".script"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := newStory(t, file).play(string(text))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			compareLines(t, file, string(text), got)
		})
	}
}

func compareLines(t *testing.T, file, want, got string) {
	t.Helper()
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range max(len(w), len(g)) {
		var a, b string
		if i < len(w) {
			a = w[i]
		}
		if i < len(g) {
			b = g[i]
		}
		if a != b {
			t.Fatalf("%s:%d:\n  want %s\n  got  %s\n(go test ./evpn -update rewrites the outputs)", file, i+1, a, b)
		}
	}
}

// story is one script being played.
type story struct {
	t          *testing.T
	file       string
	line       int
	core       *Core
	kernel     *mapKernel
	cfg        Config
	now        time.Time
	held       []KernelBatch // handed out and not written yet
	hold       bool
	lastIn     uint64     // last batch written
	remembered Remembered // by the last life
	estate     Estate     // of the last life
	wake       time.Time
	attrs      map[Attrs]*Attrs
	out        strings.Builder
}

func newStory(t *testing.T, file string) *story {
	return &story{
		t: t, file: file, kernel: newMapKernel(),
		cfg: Config{
			ASN: 65000, RouterID: netip.MustParseAddr("10.255.0.1"), VTEP: netip.MustParseAddr("10.255.0.1"),
			VNIs: map[VNI]VNIPolicy{}, RDNumbers: map[VNI]uint16{},
		},
		now:   time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		attrs: map[Attrs]*Attrs{},
	}
}

func (s *story) play(text string) string {
	for line := range strings.Lines(text) {
		s.line++
		line = strings.TrimRight(line, " \n")
		if strings.HasPrefix(line, ">") {
			continue
		}
		s.out.WriteString(line + "\n")
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		for fact := range strings.SplitSeq(line, ";") {
			s.do(&words{story: s, left: strings.Fields(fact)})
		}
		if s.core != nil {
			s.settle()
		}
	}
	return s.out.String()
}

func (s *story) fatalf(format string, args ...any) {
	s.t.Helper()
	s.t.Fatalf("%s:%d: %s", s.file, s.line, fmt.Sprintf(format, args...))
}

func (s *story) printf(format string, args ...any) {
	fmt.Fprintf(&s.out, "> "+format+"\n", args...)
}

// settle flushes until there is nothing more to do at this time.
func (s *story) settle() {
	for range 1000 {
		out := s.core.Flush(s.now)
		s.wake = out.Wake
		s.print(out)
		again := !out.Wake.IsZero() && !out.Wake.After(s.now)
		if len(out.Kernel.Ops) > 0 {
			s.held = append(s.held, out.Kernel)
			again = true
		}
		for !s.hold && len(s.held) > 0 {
			s.write()
			again = true
		}
		for _, vni := range out.ReadBack {
			s.core.Handle(s.kernel.observe(vni, s.lastIn), s.now)
		}
		if len(out.ReadBack) > 0 {
			s.core.Handle(ReadBackDone{}, s.now)
			again = true
		}
		if !again {
			return
		}
	}
	s.fatalf("the core does not come to rest")
}

// write gives the oldest batch to the kernel and tells the core what became of it.
func (s *story) write() {
	if len(s.held) == 0 {
		s.fatalf("no batch is waiting")
	}
	applied := s.kernel.apply(s.held[0])
	s.held, s.lastIn = s.held[1:], applied.Batch
	for _, f := range applied.Failed {
		s.printf("refused %s: %v", f.Op.Key, f.Err)
	}
	s.core.Handle(applied, s.now)
}

// advance lets time pass, waking the core when it asked for it.
func (s *story) advance(d time.Duration) {
	for end := s.now.Add(d); ; {
		if s.wake.IsZero() || s.wake.After(end) {
			s.now = end
			return
		}
		s.now = s.wake
		s.settle()
	}
}

// inherit goes on where the last life ended.
func (s *story) inherit() {
	remembered := s.remembered
	remembered.Hosts = s.estate.Hosts
	s.handle(remembered)
	for _, p := range s.estate.Peers {
		s.handle(PeerUp{Peer: p.Peer})
		for _, u := range p.Routes {
			s.handle(u)
		}
		if p.EndOfRIB {
			s.handle(EndOfRIB{Peer: p.Peer})
		}
	}
}

// do carries out one fact or command.
func (s *story) do(w *words) {
	verb := w.next()
	if s.core == nil && !slices.Contains([]string{"config", "left", "foreign"}, verb) {
		s.core = New(s.cfg)
	}
	switch verb {
	case "+", "-":
		s.fact(verb == "-", w)
	case "eor":
		s.handle(EndOfRIB{Peer: w.addr()})
	case "refresh-begin":
		s.handle(RefreshBegin{Peer: w.addr()})
	case "refresh-end":
		s.handle(RefreshEnd{Peer: w.addr()})
	case "limit":
		s.handle(PeerLimit{Peer: w.addr(), Limit: w.routeLimit()})
	case "synced":
		s.handle(Synced{})
	case "config":
		s.configure(w)
	case "wait":
		s.advance(w.duration())
	case "hold":
		s.hold = true
	case "ack":
		s.write()
	case "release":
		s.hold = false
	case "read":
		s.read(w)
	case "remember": // what the last life knew from frames
		s.handle(s.remembered)
	case "inherit": // what the last life handed over
		s.inherit()
	case "restart":
		s.remembered = Remembered{IPs: s.core.FramedBindings(), Sequences: s.core.Sequences()}
		s.estate = s.core.Estate()
		s.core, s.wake, s.lastIn, s.held = nil, time.Time{}, 0, nil
	case "left": // by an earlier life of ours
		key, e := w.entry()
		s.kernel.rows[key] = row{entry: e, ours: true}
	case "foreign": // put there by someone else
		key, e := w.entry()
		s.kernel.rows[key] = row{entry: e}
	case "lost", "tampered": // removed by someone else, unnoticed or noticed
		key, _ := w.entry()
		s.kernel.remove(key)
		if verb == "tampered" {
			s.handle(noticed(key))
		}
	case "replaced": // by an entry of someone else, noticed
		key, e := w.entry()
		s.kernel.rows[key] = row{entry: e}
		s.handle(Tampered{Keys: []EntryKey{key}})
	case "refuse":
		key, _ := w.entry()
		s.kernel.refuse[key] = fmt.Errorf("%s", w.rest())
	case "allow":
		key, _ := w.entry()
		delete(s.kernel.refuse, key)
	case "clear":
		s.clear(w)
	case "show":
		s.show(w)
	case "explain":
		s.explain(w)
	case "history":
		s.history(w)
	default:
		s.fatalf("unknown command %q", verb)
	}
	if left := w.rest(); left != "" {
		s.fatalf("what is %q?", left)
	}
}

// named reads which MAC or IP is meant.
func (w *words) named() (vni VNI, mac MAC, ip netip.Addr) {
	for w.more() {
		switch word := w.next(); word {
		case "vni":
			vni = w.vni()
		case "mac":
			mac = w.mac()
		case "ip":
			ip = w.addr()
		default:
			w.fatalf("unknown word %q", word)
		}
	}
	return vni, mac, ip
}

// clear is what an operator does about duplicates.
func (s *story) clear(w *words) {
	vni, mac, ip := w.named()
	s.printf("cleared %d", s.core.ClearDuplicates(vni, mac, ip))
}

func (s *story) handle(ev Event) { s.core.Handle(ev, s.now) }

func (s *story) fact(gone bool, w *words) {
	switch kind := w.next(); kind {
	case "vni":
		s.attachment(gone, w)
	case "peer":
		s.peer(gone, w)
	case "way": // to a VTEP, by the underlay
		s.handle(VTEPReachable{VTEP: w.addr(), Reachable: !gone, Reason: w.rest()})
	case "route":
		s.route(gone, w)
	case "local":
		s.localMAC(gone, w)
	case "heard":
		s.handle(Sighted{VNI: defaultVNI, MAC: w.mac(), Port: w.next()})
	case "ip":
		ev := LocalIP{Gone: gone, VNI: defaultVNI}
		for w.more() {
			switch word := w.next(); word {
			case "vni":
				ev.VNI = w.vni()
			case "mac":
				ev.MAC = w.mac()
			case "router":
				ev.Router = true
			case "port": // only a frame knows it
				ev.Source, ev.Port = max(ev.Source, WitnessFrame), w.next()
			case "lease": // only DHCP tells
				ev.Source, ev.Lease = WitnessDHCP, w.duration()
			default:
				ev.IP = w.parseAddr(word)
			}
		}
		s.handle(ev)
	default:
		s.fatalf("unknown fact %q", kind)
	}
}

// The VNI that a line without one speaks of, and the peer.
const defaultVNI VNI = 100

var defaultPeer = netip.MustParseAddr("10.0.0.254")

func (s *story) attachment(gone bool, w *words) {
	at := Attachment{VNI: w.vni(), Usable: true, BridgeMAC: MAC{2, 0xbb, 0, 0, 0, 1}}
	at.Device, at.Bridge, at.Local = fmt.Sprintf("vxlan%d", at.VNI), fmt.Sprintf("br%d", at.VNI), s.cfg.VTEP
	for w.more() {
		switch word := w.next(); word {
		case "device":
			at.Device = w.next()
		case "bridge":
			at.Bridge = w.next()
		case "mac":
			at.BridgeMAC = w.mac()
		case "fault":
			at.Usable = false
			at.Faults = append(at.Faults, w.rest())
		case "hint": // a fault that does not stop service
			at.Faults = append(at.Faults, w.rest())
		default:
			s.fatalf("unknown word %q", word)
		}
	}
	if gone {
		for _, key := range s.kernel.keys() {
			if key.VNI == at.VNI {
				delete(s.kernel.rows, key) // they go with the device
			}
		}
		s.handle(AttachmentDown{VNI: at.VNI})
		return
	}
	s.handle(AttachmentUp{Attachment: at})
}

func (s *story) peer(gone bool, w *words) {
	up, down := PeerUp{Peer: w.addr(), ASN: s.cfg.ASN}, PeerDown{Reason: "hold timer expired"}
	for w.more() {
		switch word := w.next(); word {
		case "forwarding":
			up.Forwarding = true
		case "long-lived-forwarding":
			up.LongLived = true
		case "kept":
			up.Keep = true
		case "limit":
			up.Limit = w.routeLimit()
		case "need-encap":
			up.NeedEncap = true
		case "retain":
			down.Retain = w.duration()
		case "long-lived":
			down.LongLived = w.duration()
		case "keep":
			down.Keep = w.duration()
		case "again":
			down.Again = true
		default:
			s.fatalf("unknown word %q", word)
		}
	}
	if gone {
		down.Peer = up.Peer
		s.handle(down)
		return
	}
	s.handle(up)
}

// routeLimit reads MOST WARN ACTION.
func (w *words) routeLimit() RouteLimit {
	l := RouteLimit{Most: int(w.number()), Warn: int(w.number())}
	word := w.next()
	i := slices.Index(limitActions[:], word)
	if i < 0 {
		w.fatalf("no limit action %q", word)
	}
	l.Action = LimitAction(i)
	return l
}

// community reads the name of a community.
func (w *words) community() string {
	names := map[string]uint32{"llgr-stale": communityLLGRStale, "no-llgr": communityNoLLGR}
	word := w.next()
	c, ok := names[word]
	if !ok {
		w.fatalf("no community %q", word)
	}
	return string(binary.BigEndian.AppendUint32(nil, c))
}

// localMAC puts the bridge's row into the kernel, over ours, and tells of it.
func (s *story) localMAC(gone bool, w *words) {
	ev := LocalMAC{VNI: defaultVNI, Gone: gone}
	for w.more() {
		switch word := w.next(); word {
		case "vni":
			ev.VNI = w.vni()
		case "port":
			ev.Port = w.next()
		case "static":
			ev.Static = true
		case "mac":
			ev.MAC = w.mac()
		default:
			s.fatalf("unknown word %q", word)
		}
	}
	key := EntryKey{Table: TableFDB, VNI: ev.VNI, MAC: ev.MAC}
	if !gone {
		s.kernel.rows[key] = row{learned: !ev.Static}
	} else if !s.kernel.rows[key].ours {
		delete(s.kernel.rows, key)
	}
	s.handle(ev)
}

func (s *story) route(gone bool, w *words) {
	u := Update{Peer: defaultPeer}
	attrs := Attrs{LocalPref: 100}
	var r Route
	var rts []RT
	encap, seq, sticky, hasSeq, router := "vxlan", uint32(0), false, false, false
	immutable, gateway := false, false
	vni, label := defaultVNI, int64(-1)
	for w.more() {
		switch word := w.next(); word {
		case "peer":
			u.Peer = w.addr()
		case "community":
			attrs.Communities += w.community()
		case "type2":
			r.Key.Type = TypeMACIP
		case "type3":
			r.Key.Type = TypeIMET
			attrs.PMSI.Present, attrs.PMSI.Tunnel = true, TunnelIngressReplication
		case "vni":
			vni = w.vni()
		case "mac":
			r.Key.MAC = w.mac()
		case "ip":
			r.Key.IP = w.addr()
		case "vtep":
			attrs.NextHop = w.addr()
		case "seq":
			seq, hasSeq = w.number(), true
		case "sticky":
			sticky = true
		case "router":
			router = true
		case "immutable":
			immutable = true
		case "gateway":
			gateway = true
		case "rd":
			r.Key.RD = w.rd()
		case "rt":
			rts = append(rts, w.rt())
		case "label":
			label = int64(w.number())
		case "tag":
			r.Key.Tag = EthernetTag(w.number())
		case "encap":
			encap = w.next()
		case "local-pref":
			attrs.LocalPref = w.number()
		case "endpoint":
			attrs.PMSI.Endpoint = w.addr()
		case "pmsi":
			attrs.PMSI.Present, attrs.PMSI.Tunnel = true, uint8(w.number())
		case "no-pmsi":
			attrs.PMSI = PMSI{}
		case "no-rt":
			rts = append(rts, RT{0xff})
		default:
			s.fatalf("unknown word %q", word)
		}
	}
	if label < 0 {
		label = int64(vni)
	}
	if r.Key.RD == (RD{}) {
		admin := attrs.NextHop
		if !admin.Is4() {
			admin = netip.MustParseAddr("192.0.2.66")
		}
		r.Key.RD = NewRD(admin, uint16(vni))
	}
	switch r.Key.Type {
	case TypeMACIP:
		r.Label1 = uint32(label)
	case TypeIMET:
		r.Key.IP = attrs.NextHop
		if attrs.PMSI.Present {
			attrs.PMSI.Label = uint32(label)
			if !attrs.PMSI.Endpoint.IsValid() {
				attrs.PMSI.Endpoint = attrs.NextHop
			}
		}
	}
	if gone {
		u.Unreach = []RouteKey{r.Key}
		s.handle(&u)
		return
	}
	if rts == nil {
		rts = []RT{NewRT(s.cfg.ASN, uint32(vni))}
	}
	var ec []byte
	for _, rt := range rts {
		if rt[0] != 0xff {
			ec = AppendRT(ec, rt)
		}
	}
	switch encap {
	case "vxlan":
		ec = AppendEncapVXLAN(ec)
	case "mpls":
		ec = append(ec, 0x03, 0x0c, 0, 0, 0, 0, 0, 10)
	case "none":
	default:
		s.fatalf("unknown encapsulation %q", encap)
	}
	if hasSeq || sticky {
		ec = AppendMobility(ec, seq, sticky)
	}
	if gateway {
		ec = AppendDefaultGateway(ec)
	}
	if router {
		ec = AppendNDFlags(ec, NDRouter|NDOverride)
	}
	if immutable {
		ec = AppendNDFlags(ec, NDImmutable)
	}
	attrs.SetExtComms(string(ec))
	if s.attrs[attrs] == nil {
		s.attrs[attrs] = &attrs
	}
	u.Reach, u.Attrs = []Route{r}, s.attrs[attrs]
	s.handle(&u)
}

// read is a read-back that nobody asked for, as after a lost notification; with "local" it says what hosts there are.
func (s *story) read(w *words) {
	o := s.kernel.observe(VNI(w.number()), s.lastIn)
	for w.more() {
		switch word := w.next(); word {
		case "local":
			o.MACs = []LocalMAC{}
			for _, key := range s.kernel.keys() {
				if r := s.kernel.rows[key]; key.Table == TableFDB && key.VNI == o.VNI && !r.ours {
					o.MACs = append(o.MACs, LocalMAC{VNI: o.VNI, MAC: key.MAC, Port: "tap1", Static: !r.learned})
				}
			}
		case "as-of":
			o.AsOf = uint64(w.number())
		default:
			s.fatalf("unknown word %q", word)
		}
	}
	s.handle(o)
}

// configure changes the configuration; before the first fact it is the one the core starts with.
func (s *story) configure(w *words) {
	switch key := w.next(); key {
	case "vni":
		vni := w.vni()
		p := s.cfg.VNIs[vni]
		s.policy(&p, w)
		s.cfg.VNIs = cloneWith(s.cfg.VNIs, vni, p)
	case "default":
		s.policy(&s.cfg.Default, w)
	case "asn":
		s.cfg.ASN = w.number()
	case "vtep":
		s.cfg.VTEP = w.addr()
	case "router-id":
		s.cfg.RouterID = w.addr()
	case "dialect":
		s.cfg.Dialect = RTDialect(w.next())
	case "longest-hold":
		s.cfg.LongestHold = w.duration()
	case "reap-after":
		s.cfg.ReapAfter = w.duration()
	case "duplicates":
		s.duplicates(w)
	case "peers":
		s.cfg.Peers = nil
		for w.more() {
			s.cfg.Peers = append(s.cfg.Peers, w.addr())
		}
	default:
		s.fatalf("unknown setting %q", key)
	}
	if s.core != nil {
		s.handle(Configure{Config: s.cfg})
	}
}

func (s *story) duplicates(w *words) {
	p := &s.cfg.Duplicates
	for w.more() {
		switch word := w.next(); word {
		case "moves":
			p.Moves = int(w.number())
		case "within":
			p.Within = w.duration()
		case "recover-after":
			p.RecoverAfter = w.duration()
		case "hold":
			p.Action = DuplicateHold
		case "alarm":
			p.Action = DuplicateAlarm
		case "drop":
			p.Action = DuplicateDrop
		default:
			s.fatalf("unknown word %q", word)
		}
	}
}

func cloneWith(m map[VNI]VNIPolicy, vni VNI, p VNIPolicy) map[VNI]VNIPolicy {
	out := map[VNI]VNIPolicy{vni: p}
	for k, v := range m {
		if k != vni {
			out[k] = v
		}
	}
	return out
}

func (s *story) policy(p *VNIPolicy, w *words) {
	for w.more() {
		switch word := w.next(); word {
		case "off":
			p.Off = true
		case "on":
			p.Off = false
		case "rd":
			p.RD = w.rd()
		case "import":
			pattern, err := ParseRTPattern(w.next())
			s.check(err)
			p.Import = append(p.Import[:0:0], pattern)
		case "export":
			p.Export = []RT{w.rt()}
		case "max-macs": // local port remote
			p.Limits = MACLimits{int(w.number()), int(w.number()), int(w.number())}
		case "strict-tag":
			p.StrictTag = true
		case "sticky-static":
			p.StickyStatic = true
		case "moving-static":
			p.StickyStatic = false
		case "gateway":
			p.Gateways = append(p.Gateways[:len(p.Gateways):len(p.Gateways)], Gateway{MAC: w.mac(), IP: w.addr()})
		case "no-gateway":
			p.Gateways = nil
		default:
			s.fatalf("unknown word %q", word)
		}
	}
}

func (s *story) check(err error) {
	s.t.Helper()
	if err != nil {
		s.fatalf("%v", err)
	}
}

// words are the words of a line that are still to be read.
type words struct {
	*story
	left []string
}

func (w *words) more() bool { return len(w.left) > 0 }

func (w *words) next() string {
	w.t.Helper()
	if !w.more() {
		w.fatalf("the line ends too early")
	}
	word := w.left[0]
	w.left = w.left[1:]
	return word
}

func (w *words) rest() string {
	s := strings.Join(w.left, " ")
	w.left = nil
	return s
}

func (w *words) number() uint32 {
	n, err := strconv.ParseUint(w.next(), 10, 32)
	w.check(err)
	return uint32(n)
}

func (w *words) vni() VNI { return VNI(w.number()) }

func (w *words) addr() netip.Addr { return w.parseAddr(w.next()) }

func (w *words) parseAddr(s string) netip.Addr {
	a, err := netip.ParseAddr(s)
	w.check(err)
	return a
}

func (w *words) mac() MAC {
	m, err := ParseMAC(w.next())
	w.check(err)
	return m
}

func (w *words) rd() RD {
	rd, err := ParseRD(w.next())
	w.check(err)
	return rd
}

func (w *words) rt() RT {
	rt, err := ParseRT(w.next())
	w.check(err)
	return rt
}

func (w *words) duration() time.Duration {
	d, err := time.ParseDuration(w.next())
	w.check(err)
	return d
}

// entry reads a kernel entry: vtep A | flood [vni V] A | fdb [vni V] mac M [vtep A] | neighbor [vni V] A [mac M].
func (w *words) entry() (key EntryKey, e Entry) {
	switch table := w.next(); table {
	case "vtep":
		key.Table, key.Addr = TableVTEP, w.addr()
		if w.more() && w.left[0] == "because" {
			w.next()
		}
		return key, e
	case "flood":
		key.Table = TableFlood
	case "fdb":
		key.Table = TableFDB
	case "neighbor":
		key.Table = TableNeighbor
	default:
		w.fatalf("unknown table %q", table)
	}
	key.VNI = defaultVNI
	for w.more() {
		switch word := w.next(); {
		case word == "vni":
			key.VNI = w.vni()
		case word == "mac" && key.Table == TableFDB:
			key.MAC = w.mac()
		case word == "mac":
			e.MAC = w.mac()
		case word == "vtep":
			e.VTEP = w.addr()
		case word == "because":
			return key, e
		default:
			key.Addr = w.parseAddr(word)
		}
	}
	return key, e
}
