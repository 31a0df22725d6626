package evpn

import (
	"fmt"
	"time"
)

var markNames = map[Mark]string{MarkOK: "ok", MarkInfo: "info", MarkWait: "wait", MarkFault: "FAULT"}

// explain prints an explanation, one step a line.
func (s *story) explain(w *words) {
	vni, mac, ip := w.named()
	all := s.core.Explain(vni, mac, ip)
	if len(all) == 0 {
		s.printf("not known")
		for _, line := range s.core.Unknown(vni, mac, ip) {
			s.printf("  %s", line)
		}
	}
	for _, x := range all {
		ip := ""
		if x.IP.IsValid() {
			ip = " ip " + x.IP.String()
		}
		s.printf("vni %d mac %s%s%s", x.VNI, x.MAC, ip, flags("well", x.Well()))
		for _, step := range x.Steps {
			since := ""
			if !step.Since.IsZero() {
				since = fmt.Sprintf(" (%s ago)", s.now.Sub(step.Since))
			}
			if step.Took != 0 {
				since += fmt.Sprintf(" (in %s)", step.Took.Round(time.Microsecond))
			}
			s.printf("  %-5s %s: %s%s", markNames[step.Mark], step.Topic, step.Text, since)
			if step.Mend != "" {
				s.printf("        mend: %s", step.Mend)
			}
		}
		for _, r := range x.Records {
			s.printf("  %s", s.describeRecord(r))
		}
	}
}
