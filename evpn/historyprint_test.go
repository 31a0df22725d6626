package evpn

import (
	"fmt"
	"strings"
	"time"
)

// history prints what happened to a MAC or an IP, or to all.
func (s *story) history(w *words) {
	vni, mac, ip := w.named()
	for _, r := range s.core.History(RecordFilter{VNI: vni, MAC: mac, IP: ip}, 1000) {
		s.printf("%s", s.describeRecord(r))
	}
}

func (s *story) describeRecord(r Record) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %s", s.now.Sub(r.At).Round(time.Second), r.Topic, r.What)
	say := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, " %s %s", name, value)
		}
	}
	if r.VNI != 0 {
		say("vni", r.VNI.String())
	}
	if !r.MAC.IsZero() {
		say("mac", r.MAC.String())
	}
	if r.IP.IsValid() {
		say("ip", r.IP.String())
	}
	say("from", r.From)
	say("to", r.To)
	if r.Peer.IsValid() {
		say("peer", r.Peer.String())
	}
	if r.RD != (RD{}) {
		say("rd", r.RD.String())
	}
	if r.Seq != 0 {
		fmt.Fprintf(&b, " seq %d", r.Seq)
	}
	if r.Count != 0 {
		fmt.Fprintf(&b, " count %d", r.Count)
	}
	if r.Took != 0 {
		say("took", r.Took.String())
	}
	if r.Reason != "" {
		b.WriteString(": " + r.Reason)
	}
	return b.String()
}
