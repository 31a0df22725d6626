package evpn

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"sort"
	"time"
)

// Record is one thing that happened, in words.
type Record struct {
	ID    uint64 // counts up from 1, in the order in which things happened
	At    time.Time
	Topic string // route, mac, ip, vtep, vni, peer, kernel
	What  string // received, withdrawn, learned, moved, gone, written, failed, …: the set may grow
	VNI   VNI    // 0: of no VNI
	MAC   MAC
	IP    netip.Addr
	From  string // where it was: a VTEP, "local", or "" for nowhere
	To    string // where it is
	Peer  netip.Addr
	RD    RD
	Seq   uint32 // MAC Mobility sequence number
	Count int
	Took  time.Duration // kernel: from the decision to the acknowledgement
	// Reason is why, in plain words; of a local MAC the port.
	Reason string
	Noted  bool // a Note told of it as well
}

// word is what a kind of record is called.
type word struct{ topic, what string }

var recordWords = [...]word{
	routeReceived:  {"route", "received"},
	routeWithdrawn: {"route", "withdrawn"},
	routeDropped:   {"route", "dropped"},
	macLearned:     {"mac", "learned"},
	macMoved:       {"mac", "moved"},
	macGone:        {"mac", "gone"},
	ipLearned:      {"ip", "learned"},
	ipMoved:        {"ip", "moved"},
	ipGone:         {"ip", "gone"},
	vtepJoined:     {"vtep", "joined"},
	vtepLeft:       {"vtep", "left"},
	peerUp:         {"peer", "up"},
	peerDown:       {"peer", "down"},
	peerEndOfRIB:   {"peer", "end-of-rib"},
	noted:          {"", ""},
}

var noteWords = [...]word{
	NoteVNIUp:         {"vni", "up"},
	NoteVNIDown:       {"vni", "down"},
	NoteVNIFault:      {"vni", "fault"},
	NoteMACMoved:      {"mac", "moved"},
	NoteStickyMAC:     {"mac", "sticky"},
	NoteRefused:       {"route", "refused"},
	NoteForeign:       {"kernel", "blocked"},
	NoteKernel:        {"kernel", "failed"},
	NoteDrift:         {"kernel", "repaired"},
	NoteReaped:        {"kernel", "reaped"},
	NotePeerRoutes:    {"peer", "routes"},
	NoteLimit:         {"ip", "limit"},
	NoteVTEPLost:      {"vtep", "lost"},
	NoteVTEPBack:      {"vtep", "back"},
	NoteRouteLimit:    {"peer", "limit"},
	NoteMACLimit:      {"mac", "limit"},
	NoteGateway:       {"mac", "gateway"},
	NoteFixedIP:       {"ip", "fixed"},
	NoteDuplicateMAC:  {"mac", "duplicate"},
	NoteDuplicateIP:   {"ip", "duplicate"},
	NoteDuplicateOver: {"mac", "duplicate-over"},
}

func (rec *record) word() word {
	if rec.kind != noted {
		return recordWords[rec.kind]
	}
	w := word{"vni", "note"} // of a kind that is new here
	if int(rec.detail) < len(noteWords) {
		w = noteWords[rec.detail]
	}
	if NoteKind(rec.detail) == NoteDuplicateOver && rec.ip != (address{}) {
		w.topic = "ip"
	}
	return w
}

// view puts a record into words.
func (rec *record) view() Record {
	w := rec.word()
	r := Record{
		ID: rec.id, At: time.Unix(0, rec.at), Topic: w.topic, What: w.what, VNI: rec.vni, MAC: rec.mac, IP: rec.ip.addr(),
		RD: rec.rd, Seq: rec.seq, Noted: rec.kind == noted || rec.kind == macMoved,
	}
	if rec.kind == macGone || rec.kind == ipGone {
		r.From = placeName(rec.place.addr())
	} else {
		r.To = placeName(rec.place.addr())
	}
	if rec.peer != nil {
		r.Peer = *rec.peer
	}
	if m := rec.more; m != nil {
		r.Reason, r.Count = m.text, m.count
		if m.from.IsValid() {
			r.From = placeName(m.from)
		}
	}
	switch rec.kind {
	case routeReceived, routeWithdrawn, routeDropped:
		r.Reason = fmt.Sprintf("type %d", rec.detail)
	}
	return r
}

func placeName(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return ownerName(a)
}

// view puts the i-th op of a batch into words.
func (b *carriedOut) view(i int) Record {
	op := &b.ops[i]
	r := Record{
		ID: b.first + uint64(i), At: time.Unix(0, b.done), Topic: "kernel", What: "written", VNI: op.Key.VNI, MAC: op.Key.MAC,
		Took: time.Duration(b.done - b.at), Reason: op.Key.Table.String(),
	}
	if op.Del {
		r.What = "removed"
	}
	switch op.Key.Table {
	case TableFDB:
		r.To = placeName(op.Entry.VTEP)
	case TableNeighbor:
		r.IP, r.MAC = op.Key.Addr, op.Entry.MAC
	default:
		r.To = placeName(op.Key.Addr)
	}
	return r
}

// RecordFilter chooses records; zero fields choose all.
type RecordFilter struct {
	VNI   VNI
	MAC   MAC
	IP    netip.Addr
	Topic string
}

func (f *RecordFilter) picks(rec *record) bool {
	return (f.VNI == 0 || rec.vni == f.VNI) && (f.MAC.IsZero() || rec.mac == f.MAC) &&
		(!f.IP.IsValid() || rec.ip == addressOf(f.IP)) && (f.Topic == "" || f.Topic == rec.word().topic)
}

// picksOp leaves out what has failed: that has a record of its own.
func (f *RecordFilter) picksOp(b *carriedOut, i int) bool {
	op := &b.ops[i]
	mac, ip := op.Key.MAC, netip.Addr{}
	if op.Key.Table == TableNeighbor {
		mac, ip = op.Entry.MAC, op.Key.Addr
	}
	return (f.VNI == 0 || op.Key.VNI == f.VNI) && (f.MAC.IsZero() || mac == f.MAC) && (!f.IP.IsValid() || ip == f.IP) &&
		(f.Topic == "" || f.Topic == "kernel") && !(len(b.failed) > 0 && b.failed[op.Key])
}

// History returns the last records that the filter chooses, oldest first and at most limit of them.
func (c *Core) History(f RecordFilter, limit int) []Record {
	h := &c.history
	var out []Record
	for _, r := range []*ring{&h.routine, &h.notable} {
		n := 0
		for i := r.length - 1; i >= 0 && n < limit; i-- {
			if rec := r.at(i); f.picks(rec) {
				out, n = append(out, rec.view()), n+1
			}
		}
	}
	n := 0
	for i := len(h.kernel.batches) - 1; i >= 0; i-- {
		b := &h.kernel.batches[i]
		for j := len(b.ops) - 1; j >= 0 && n < limit; j-- {
			if f.picksOp(b, j) {
				out, n = append(out, b.view(j)), n+1
			}
		}
	}
	sortRecords(out)
	return out[max(0, len(out)-limit):]
}

func sortRecords(recs []Record) {
	slices.SortFunc(recs, func(a, b Record) int { return cmp.Compare(a.ID, b.ID) })
}

// LastRecord is the id of the newest record; 0: nothing has happened yet.
func (c *Core) LastRecord() uint64 { return c.history.last }

// RecordsAfter looks at the records with the ids id+1 to upTo, which are at most limit, and returns those that the filter
// chooses. Of the others lost are forgotten.
func (c *Core) RecordsAfter(id uint64, f RecordFilter, limit int) (out []Record, upTo, lost uint64) {
	h := &c.history
	id = min(id, h.last)
	upTo = min(id+uint64(limit), h.last)
	lost = upTo - id
	for _, r := range []*ring{&h.routine, &h.notable} {
		for i := r.after(id); i < r.length && r.at(i).id <= upTo; i++ {
			lost--
			if rec := r.at(i); f.picks(rec) {
				out = append(out, rec.view())
			}
		}
	}
	for i := range h.kernel.batches {
		b := &h.kernel.batches[i]
		for j := max(id+1, b.first); j <= upTo && j < b.first+uint64(len(b.ops)); j++ {
			lost--
			if n := int(j - b.first); f.picksOp(b, n) {
				out = append(out, b.view(n))
			}
		}
	}
	sortRecords(out)
	return out, upTo, lost
}

// after returns the number of the first record with a greater id.
func (r *ring) after(id uint64) int {
	return sort.Search(r.length, func(i int) bool { return r.at(i).id > id })
}
