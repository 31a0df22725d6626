package daemon

import (
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/time/rate"

	"github.com/evpnd/evpnd/evpn"
)

// A kind of note about single entries is logged so often at most: a kernel that refuses one entry may refuse them all.
const (
	notesPerSecond = 1
	notesAtOnce    = 20
)

// Events are logged at debug level, so often at most: a peer that sends its table is no reason for a million lines.
const (
	eventsPerSecond = 50
	eventsAtOnce    = 500
)

// noteStyle says how one kind of note is logged.
type noteStyle struct {
	level    logrus.Level
	message  string
	perEntry bool // there may be as many as there are entries
}

var noteStyles = map[evpn.NoteKind]noteStyle{
	evpn.NoteVNIUp:         {logrus.InfoLevel, "vni up", false},
	evpn.NoteVNIDown:       {logrus.InfoLevel, "vni down", false},
	evpn.NoteVNIFault:      {logrus.WarnLevel, "device fault", false},
	evpn.NoteMACMoved:      {logrus.DebugLevel, "mac moved", true},
	evpn.NoteStickyMAC:     {logrus.WarnLevel, "mac that is sticky elsewhere seen here", true},
	evpn.NoteGateway:       {logrus.WarnLevel, "gateway claimed by someone else", true},
	evpn.NoteFixedIP:       {logrus.WarnLevel, "ip that is fixed elsewhere claimed here", true},
	evpn.NoteDuplicateMAC:  {logrus.WarnLevel, "mac of two hosts", true},
	evpn.NoteDuplicateIP:   {logrus.WarnLevel, "ip of two hosts", true},
	evpn.NoteDuplicateOver: {logrus.InfoLevel, "duplicate let go", true},
	evpn.NoteVTEPLost:      {logrus.WarnLevel, "vtep unreachable", true},
	evpn.NoteVTEPBack:      {logrus.InfoLevel, "vtep reachable again", true},
	evpn.NoteRefused:       {logrus.WarnLevel, "route refused", true},
	evpn.NoteForeign:       {logrus.WarnLevel, "kernel entry of someone else in the way", true},
	evpn.NoteKernel:        {logrus.WarnLevel, "kernel refused a write, will retry", true},
	evpn.NoteDrift:         {logrus.WarnLevel, "kernel differed from what was wanted, repaired", true},
	evpn.NoteReaped:        {logrus.InfoLevel, "entries of an earlier life removed", false},
	evpn.NotePeerRoutes:    {logrus.InfoLevel, "routes of a peer changed with its session", false},
	evpn.NoteMACLimit:      {logrus.WarnLevel, "more macs than allowed", true},
	evpn.NoteRouteLimit:    {logrus.WarnLevel, "peer near or at the limit of its routes", false},
	evpn.NoteLimit:         {logrus.WarnLevel, "more host addresses than are taken from frames", true},
}

// styleOf never fails: a kind that is new here is logged all the same.
func styleOf(k evpn.NoteKind) noteStyle {
	if style, ok := noteStyles[k]; ok {
		return style
	}
	return noteStyle{logrus.WarnLevel, "note", true}
}

// noteLimit bounds the lines of one kind of note.
type noteLimit struct {
	*rate.Limiter
	dropped int // since the last line
}

// noteAll logs and counts what the core had to say.
func (d *Daemon) noteAll(notes []evpn.Note, now time.Time) {
	for i := range notes {
		n := &notes[i]
		d.counts.note(n)
		if n.Kind == evpn.NoteMACMoved {
			d.moves[n.VNI]++
		}
		style := styleOf(n.Kind)
		if !d.log.IsLevelEnabled(style.level) {
			continue
		}
		fields := noteFields(n)
		if style.perEntry && !d.mayLog(n.Kind, fields, now) {
			continue
		}
		d.log.WithFields(fields).Log(style.level, style.message)
	}
}

// mayLog reports whether the limit of a kind allows a line, and adds to it how many were left out before.
func (d *Daemon) mayLog(k evpn.NoteKind, fields logrus.Fields, now time.Time) bool {
	l := d.limits[k]
	if l == nil {
		l = &noteLimit{Limiter: rate.NewLimiter(notesPerSecond, notesAtOnce)}
		d.limits[k] = l
	}
	if !l.AllowN(now, 1) {
		l.dropped++
		return false
	}
	if l.dropped > 0 {
		fields["unlogged"] = l.dropped
		l.dropped = 0
	}
	return true
}

func noteFields(n *evpn.Note) logrus.Fields {
	f := logrus.Fields{}
	if n.VNI != 0 {
		f["vni"] = n.VNI
	}
	if !n.MAC.IsZero() {
		f["mac"] = n.MAC
	}
	if n.IP.IsValid() {
		f["ip"] = n.IP
	}
	if n.VTEP.IsValid() {
		f["vtep"] = n.VTEP
	}
	if n.Peer.IsValid() {
		f["peer"] = evpn.PeerName(n.Peer)
	}
	if n.Count != 0 {
		f["count"] = n.Count
	}
	if n.Reason != "" {
		f["reason"] = n.Reason
	}
	return f
}

// logEvents logs what happened and no note told of, as far as the limit goes. Without debug level it costs nothing.
func (d *Daemon) logEvents(now time.Time) {
	last, l := d.core.LastRecord(), &d.eventLog
	if !d.log.IsLevelEnabled(logrus.DebugLevel) {
		d.logged = last
		return
	}
	for d.logged < last {
		n := min(last-d.logged, eventsAtOnce)
		if left := l.TokensAt(now); float64(n) > left {
			n = uint64(max(0, left))
		}
		if n == 0 {
			l.dropped += int(last - d.logged)
			d.logged = last
			return
		}
		l.AllowN(now, int(n))
		records, upTo, lost := d.core.RecordsAfter(d.logged, evpn.RecordFilter{}, int(n))
		d.logged, l.dropped = upTo, l.dropped+int(lost)
		for i := range records {
			if !records[i].Noted {
				d.logEvent(&records[i])
			}
		}
	}
}

func (d *Daemon) logEvent(r *evpn.Record) {
	n := evpn.Note{VNI: r.VNI, MAC: r.MAC, IP: r.IP, Peer: r.Peer, Count: r.Count, Reason: r.Reason}
	fields := noteFields(&n)
	for name, value := range map[string]string{"from": r.From, "vtep": r.To} {
		if value != "" {
			fields[name] = value
		}
	}
	if r.RD != (evpn.RD{}) {
		fields["rd"] = r.RD
	}
	if r.Seq != 0 {
		fields["seq"] = r.Seq
	}
	if l := &d.eventLog; l.dropped > 0 {
		fields["unlogged"] = l.dropped
		l.dropped = 0
	}
	d.log.WithFields(fields).Debug(r.Topic + " " + r.What)
}
