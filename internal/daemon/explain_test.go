package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	evpnv1 "github.com/evpnd/evpnd/api/evpn/v1"
	"github.com/evpnd/evpnd/evpn"
)

// claimed is a type 2 route of macA with ipA, as peer1 sends it.
func claimed(vtep netip.Addr, seq uint32, sticky bool) *evpn.Update {
	u := macRoute(peer1, 100, vtep, macA, ipA).(*evpn.Update)
	a := *u.Attrs
	a.SetExtComms(string(evpn.AppendMobility([]byte(a.ExtComms), seq, sticky)))
	u.Attrs = &a
	return u
}

// TestExplain plays the stories that testdata/explain-*.script of package evpn tells, and compares what the API says with
// testdata/explain.txt.
func TestExplain(t *testing.T) {
	withdrawn, alien := claimed(vtep2, 4, false), claimed(vtep2, 0, false)
	alien.Attrs = attrs(999, vtep2)
	long := time.Now().Add(-150 * time.Second)
	var got bytes.Buffer
	for _, story := range []struct {
		name   string
		config string
		before func(*client)
		facts  []evpn.Event
		ready  string // a step that the story ends with
	}{
		{name: "remote by type 2", facts: []evpn.Event{claimed(vtep3, 2, false)}, ready: "acknowledged"},
		{name: "beaten by sequence", facts: []evpn.Event{claimed(vtep2, 1, false), claimed(vtep3, 2, false)}, ready: "acknowledged"},
		{name: "beaten by tie", facts: []evpn.Event{claimed(vtep3, 1, false), claimed(vtep2, 1, false)}, ready: "acknowledged"},
		{name: "sticky", facts: []evpn.Event{claimed(vtep2, 0, true), claimed(vtep3, 7, false)}, ready: "acknowledged"},
		{name: "route target not imported", facts: []evpn.Event{alien}},
		{name: "next hop unreachable", facts: []evpn.Event{
			claimed(vtep2, 1, false), nil, evpn.VTEPReachable{VTEP: vtep2, Reason: "no route"},
		}, ready: "nothing is sent there"},
		{name: "foreign row in the way", before: func(c *client) {
			c.kernel.refuse(fdbKey(100, macA), errors.New("held by an entry that is not ours: bridge port tap9"), true)
		}, facts: []evpn.Event{claimed(vtep2, 1, false)}, ready: "not ours"},
		{name: "kernel write refused", before: func(c *client) {
			c.kernel.refuse(fdbKey(100, macA), errors.New("no space left on device"), false)
		}, facts: []evpn.Event{claimed(vtep2, 1, false)}, ready: "no space"},
		{name: "frozen duplicate", config: "duplicates: {moves: 2}\n", facts: []evpn.Event{
			claimed(vtep2, 1, false), nil,
			hasMAC(100, macA), nil, claimed(vtep2, 3, false), nil, hasMAC(100, macA), nil, claimed(vtep2, 5, false),
		}},
		{name: "our own VTEP", facts: []evpn.Event{claimed(vtepSelf, 1, false)}},
		{name: "silent host probed", before: func(c *client) {
			c.look(func(core *evpn.Core) { // as if it had been heard then
				core.Handle(hasMAC(100, macA), long)
				core.Handle(evpn.LocalIP{VNI: 100, IP: ipA, MAC: macA, Source: evpn.WitnessFrame, Port: "tap1"}, long)
			})
		}, ready: "asked 1 time"},
		{name: "gone", facts: []evpn.Event{withdrawn, nil, &evpn.Update{Peer: peer1, Unreach: []evpn.RouteKey{withdrawn.Reach[0].Key}}}, ready: "nobody"},
	} {
		c := newClient(t, story.config, nil)
		c.report(attached(100), evpn.Synced{}, peerUp(peer1), evpn.EndOfRIB{Peer: peer1})
		if story.before != nil {
			story.before(c)
		}
		for _, fact := range story.facts {
			c.report(fact) // nil: what was said so far is decided first
		}
		for _, req := range []*evpnv1.ExplainRequest{{Mac: macA.String()}, {Ip: ipA.String()}} {
			var text string
			until(t, story.name, func() bool {
				resp, err := c.inspect.Explain(c.ctx, req)
				text = explained(resp, err)
				return strings.Contains(text, story.ready) || req.Ip != "" || story.ready == "asked 1 time"
			})
			fmt.Fprintf(&got, "%s: %s%s\n%s\n", story.name, req.Mac, req.Ip, text)
		}
		_ = c.stop()
	}
	golden(t, "explain.txt", got.Bytes())
}

var moments = regexp.MustCompile(`\d{4}-\d\d-\d\dT[0-9:]+Z|tried \d+ times?`)

// explained prints an answer without what differs from run to run.
func explained(r *evpnv1.ExplainResponse, err error) string {
	if err != nil {
		return err.Error() + "\n"
	}
	var b strings.Builder
	for _, x := range r.Explanations {
		fmt.Fprintf(&b, "vni %d mac %s ip %s well %v\n", x.Vni, x.Mac, x.Ip, x.Well)
		for _, s := range x.Steps {
			fmt.Fprintf(&b, "  %s %s: %s", s.Mark, s.Topic, moments.ReplaceAllString(s.Text, "*"))
			if s.Since != nil {
				b.WriteString(" (since)")
			}
			if s.Took != nil {
				b.WriteString(" (took)")
			}
			if s.Mend != "" {
				fmt.Fprintf(&b, " mend: %s", s.Mend)
			}
			b.WriteString("\n")
		}
	}
	return b.String()
}

func TestExplainWrongly(t *testing.T) {
	c := newClient(t, "", nil)
	c.report(attached(100))
	for _, row := range []struct {
		req  proto.Message
		code codes.Code
		text string
	}{
		{&evpnv1.ExplainRequest{}, codes.InvalidArgument, "either"},
		{&evpnv1.ExplainRequest{Mac: "02:00:00:00:00:01", Ip: "10.0.0.1"}, codes.InvalidArgument, "either"},
		{&evpnv1.ExplainRequest{Mac: "x"}, codes.InvalidArgument, "mac: "},
		{&evpnv1.ExplainRequest{Ip: "x"}, codes.InvalidArgument, "ip: "},
		{&evpnv1.ExplainRequest{Ip: "10.0.0.1"}, codes.NotFound, "IP 10.0.0.1 is not known"},
		{&evpnv1.ExplainRequest{Mac: "2:0:0:0:0:1", Vni: 100}, codes.NotFound, "MAC 02:00:00:00:00:01 is not known"},
		{&evpnv1.ExplainRequest{Mac: "02:00:00:00:00:01", Vni: 999}, codes.NotFound, "VNI 999 "},
		{&evpnv1.ListEventsRequest{Topic: "weather"}, codes.InvalidArgument, "topic \"weather\""},
		{&evpnv1.ListEventsRequest{Mac: "x"}, codes.InvalidArgument, "mac: "},
	} {
		_, err := c.call(row.req)
		if status.Code(err) != row.code || !strings.Contains(status.Convert(err).Message(), row.text) {
			t.Errorf("%T{%v}: %v, want %v with %q", row.req, row.req, err, row.code, row.text)
		}
	}
}

// TestListEvents: what happened comes oldest first, filtered, and the newest of it when it is too much.
func TestListEvents(t *testing.T) {
	c := newClient(t, populatedConfig, nil)
	c.populate()
	for _, row := range []struct {
		req  *evpnv1.ListEventsRequest
		want string
	}{
		{&evpnv1.ListEventsRequest{Mac: macC.String(), Vni: 100}, "route received, mac learned, kernel blocked"},
		{&evpnv1.ListEventsRequest{Ip: ipB.String(), Topic: "ip"}, "ip learned"},
		{&evpnv1.ListEventsRequest{Topic: "peer"}, "peer up, peer up, peer end-of-rib, peer down, peer routes"},
		{&evpnv1.ListEventsRequest{Topic: "peer", Limit: 2}, "peer down, peer routes"},
		{&evpnv1.ListEventsRequest{Vni: 400}, "vni down, vni fault"},
		{&evpnv1.ListEventsRequest{Mac: "02:00:00:00:00:99"}, ""},
	} {
		answers, err := c.call(row.req)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, m := range answers {
			for _, e := range m.(*evpnv1.ListEventsResponse).Events {
				got = append(got, e.Topic+" "+e.What)
			}
		}
		if text := strings.Join(got, ", "); text != row.want {
			t.Errorf("%v: %s, want %s", row.req, text, row.want)
		}
	}
}
