package daemon

import (
	"context"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	evpnv1 "github.com/evpnd/evpnd/api/evpn/v1"
	"github.com/evpnd/evpnd/evpn"
)

// topics are the values of Event.topic.
var topics = []string{"route", "mac", "ip", "vtep", "vni", "peer", "kernel"}

const (
	defaultEvents = 1000
	mostEvents    = 100_000 // more than is remembered
)

func (s *inspect) ListEvents(req *evpnv1.ListEventsRequest, out evpnv1.InspectService_ListEventsServer) error {
	f, err := parseRecordFilter(req.Vni, req.Mac, req.Ip, req.Topic)
	if err != nil {
		return err
	}
	limit := min(int(req.Limit), mostEvents)
	if limit == 0 {
		limit = defaultEvents
	}
	var recs []evpn.Record
	at, err := s.snapshot(out.Context(), func(c *evpn.Core) { recs = c.History(f, limit) })
	if err != nil {
		return err
	}
	return stream(recs, func(part []evpn.Record) error {
		return out.Send(&evpnv1.ListEventsResponse{Events: protoEvents(part), AsOf: at})
	})
}

func parseRecordFilter(vni uint32, mac, ip, topic string) (f evpn.RecordFilter, err error) {
	f.VNI, f.Topic = evpn.VNI(vni), topic
	if f.MAC, _, f.IP, err = parseHost(mac, ip); err != nil {
		return f, err
	}
	if topic != "" && !slices.Contains(topics, topic) {
		return f, status.Errorf(codes.InvalidArgument, "topic %q: want one of %v", topic, topics)
	}
	return f, nil
}

func protoEvents(recs []evpn.Record) []*evpnv1.Event {
	out := make([]*evpnv1.Event, len(recs))
	for i := range recs {
		out[i] = protoEvent(&recs[i])
	}
	return out
}

func protoEvent(r *evpn.Record) *evpnv1.Event {
	e := &evpnv1.Event{
		Id: r.ID, Time: timestamp(r.At), Topic: r.Topic, What: r.What, Vni: uint32(r.VNI), Ip: text(r.IP), From: r.From, To: r.To,
		Peer: text(r.Peer), Sequence: r.Seq, Count: uint32(r.Count), Reason: printable(r.Reason),
	}
	if !r.MAC.IsZero() {
		e.Mac = r.MAC.String()
	}
	if r.RD != (evpn.RD{}) {
		e.Rd = r.RD.String()
	}
	if r.Took != 0 {
		e.Took = durationpb.New(r.Took)
	}
	return e
}

func (s *inspect) Explain(ctx context.Context, req *evpnv1.ExplainRequest) (*evpnv1.ExplainResponse, error) {
	mac, hasMAC, ip, err := parseHost(req.Mac, req.Ip)
	if err != nil {
		return nil, err
	}
	if hasMAC == ip.IsValid() {
		return nil, status.Error(codes.InvalidArgument, "want either a MAC or an IP")
	}
	if err := s.knowsVNI(ctx, req.Vni); err != nil {
		return nil, err
	}
	var all []evpn.Explanation
	var unknown []string
	at, err := s.snapshot(ctx, func(c *evpn.Core) {
		if all = c.Explain(evpn.VNI(req.Vni), mac, ip); len(all) == 0 {
			unknown = c.Unknown(evpn.VNI(req.Vni), mac, ip)
		}
	})
	switch {
	case err != nil:
		return nil, err
	case len(all) == 0:
		what := "IP " + ip.String()
		if hasMAC {
			what = "MAC " + mac.String()
		}
		return nil, status.Errorf(codes.NotFound, "%s is not known\n  %s", what, printable(strings.Join(unknown, "\n  ")))
	}
	resp := &evpnv1.ExplainResponse{AsOf: at}
	for i := range all {
		resp.Explanations = append(resp.Explanations, protoExplanation(&all[i]))
	}
	return resp, nil
}

var markNames = map[evpn.Mark]string{evpn.MarkOK: "ok", evpn.MarkInfo: "info", evpn.MarkWait: "wait", evpn.MarkFault: "fault"}

func protoExplanation(x *evpn.Explanation) *evpnv1.Explanation {
	p := &evpnv1.Explanation{Vni: uint32(x.VNI), Ip: text(x.IP), Well: x.Well(), Events: protoEvents(x.Records)}
	if !x.MAC.IsZero() {
		p.Mac = x.MAC.String()
	}
	for _, step := range x.Steps {
		st := &evpnv1.Step{
			Mark: markNames[step.Mark], Topic: step.Topic, Text: printable(step.Text), Since: timestamp(step.Since), Mend: printable(step.Mend),
		}
		if step.Took != 0 {
			st.Took = durationpb.New(step.Took)
		}
		p.Steps = append(p.Steps, st)
	}
	return p
}
