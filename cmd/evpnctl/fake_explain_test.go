package main

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	evpnv1 "github.com/evpnd/evpnd/api/evpn/v1"
)

var fakeEvents = []*evpnv1.Event{
	{Id: 7, Time: ago(20 * time.Second), Topic: "mac", What: "learned", Vni: 100, Mac: "02:00:00:00:00:03", To: "local", Reason: "tap3"},
	{
		Id: 9, Time: ago(2 * time.Second), Topic: "mac", What: "moved", Vni: 100, Mac: "02:00:00:00:00:03", From: "local", To: "10.255.0.3",
		Sequence: 1, Peer: "10.0.0.254", Rd: "10.255.0.3:100",
	},
	{
		Id: 11, Time: ago(time.Second), Topic: "kernel", What: "written", Vni: 100, Mac: "02:00:00:00:00:03", Ip: "172.16.100.3",
		Took: durationpb.New(312 * time.Microsecond), Reason: "neighbor",
	},
}

func (inspect) ListEvents(r *evpnv1.ListEventsRequest, stream grpc.ServerStreamingServer[evpnv1.ListEventsResponse]) error {
	events := keep(fakeEvents, func(e *evpnv1.Event) bool {
		return (r.Vni == 0 || r.Vni == e.Vni) && (r.Mac == "" || r.Mac == e.Mac) && (r.Ip == "" || r.Ip == e.Ip)
	})
	events = events[max(0, len(events)-int(r.Limit)):]
	return inChunks(events, func(chunk []*evpnv1.Event) error {
		return stream.Send(&evpnv1.ListEventsResponse{Events: chunk, AsOf: ago(0)})
	})
}

func (inspect) Explain(_ context.Context, r *evpnv1.ExplainRequest) (*evpnv1.ExplainResponse, error) {
	well := &evpnv1.Explanation{Vni: 100, Mac: "02:00:00:00:00:02", Well: true, Steps: []*evpnv1.Step{
		{Mark: "ok", Topic: "learned", Text: "02:00:00:00:00:02 by type 2 from 10.255.0.2 (peer 10.0.0.254, RD 10.255.0.2:100, seq 3)", Since: ago(30 * time.Second)},
		{Mark: "ok", Topic: "imported", Text: "RT 65000:100 matches import *:100 of VNI 100"},
		{Mark: "ok", Topic: "best", Text: "best of 2 routes"},
		{Mark: "info", Topic: "lost", Text: "10.255.0.3 (peer 10.0.0.254, RD 10.255.0.3:100), seq 2: lost by its lower sequence number", Since: ago(time.Hour)},
		{
			Mark: "ok", Topic: "fdb", Text: "vxlan100 dst 10.255.0.2, acknowledged by the kernel", Since: ago(30 * time.Second),
			Took: durationpb.New(412345 * time.Nanosecond),
		},
	}}
	blocked := &evpnv1.Explanation{Vni: 100, Mac: "02:00:00:00:00:03", Ip: "172.16.100.3", Events: fakeEvents, Steps: []*evpnv1.Step{
		{Mark: "ok", Topic: "learned", Text: "172.16.100.3 \u2192 02:00:00:00:00:03 by type 2 from 10.255.0.3 (peer 10.0.0.254, RD 10.255.0.3:100, seq 1)"},
		{Mark: "wait", Topic: "fdb", Text: "vxlan100 dst 10.255.0.3, on its way to the kernel"},
		{
			Mark: "fault", Topic: "neigh", Text: "br100 172.16.100.3 lladdr 02:00:00:00:00:03: held by an entry that is not ours: 02:00:00:64:09:09 on br100",
			Mend: "ip neigh del 172.16.100.3 dev br100",
		},
	}}
	switch {
	case r.Mac == well.Mac:
		return &evpnv1.ExplainResponse{Explanations: []*evpnv1.Explanation{well}, AsOf: ago(0)}, nil
	case r.Ip == blocked.Ip && r.Vni == 100:
		return &evpnv1.ExplainResponse{Explanations: []*evpnv1.Explanation{blocked}, AsOf: ago(0)}, nil
	case r.Ip == blocked.Ip:
		alien := &evpnv1.Explanation{Ip: r.Ip, Steps: []*evpnv1.Step{{Mark: "fault", Topic: "imported", Text: "no VNI here imports RT 65000:300, and VNI 300 has no device here"}}}
		return &evpnv1.ExplainResponse{Explanations: []*evpnv1.Explanation{blocked, alien}, AsOf: ago(0)}, nil
	}
	return nil, status.Errorf(codes.NotFound, "%s%s is not known", r.Mac, r.Ip)
}

// Watch sends a little of everything and then stops, as a daemon that is stopped does.
func (inspect) Watch(r *evpnv1.WatchRequest, stream grpc.ServerStreamingServer[evpnv1.WatchResponse]) error {
	messages := []*evpnv1.WatchResponse{{Reset_: true}, {Synced: true, Token: "me.1.7"}}
	switch r.Kinds[0] {
	case "event":
		events := keep(fakeEvents, func(e *evpnv1.Event) bool { return r.Topic == "" || r.Topic == e.Topic })
		messages = append(messages, &evpnv1.WatchResponse{Events: events, Token: "me.1.11"}, &evpnv1.WatchResponse{Lost: 12})
	case "mac":
		row := &evpnv1.MAC{Vni: 100, Mac: "02:00:00:00:00:02", Origin: "remote", Vtep: "10.255.0.2", Kernel: &evpnv1.KernelEntry{State: "installed"}}
		moved := &evpnv1.MAC{Vni: 100, Mac: "02:00:00:00:00:02", Origin: "local", Port: "tap2", Sequence: 1, Announced: true}
		messages = []*evpnv1.WatchResponse{
			messages[0],
			{Macs: []*evpnv1.MAC{row}},
			messages[1],
			{Macs: []*evpnv1.MAC{moved}},
			{Gone: []*evpnv1.GoneRow{{Vni: 100, Mac: "02:00:00:00:00:02"}}},
		}
	case "neighbor":
		row := &evpnv1.Neighbor{Vni: 100, Ip: "172.16.100.2", Mac: "02:00:00:00:00:02", Origin: "remote", Vtep: "10.255.0.2", Kernel: &evpnv1.KernelEntry{State: "pending"}}
		messages = append(messages, &evpnv1.WatchResponse{Neighbors: []*evpnv1.Neighbor{row}})
	case "route":
		row := &evpnv1.Route{Rd: "10.255.0.2:100", Key: "[3]:[0]:[32]:[10.255.0.2]", Peer: "10.0.0.254", NextHop: "10.255.0.2", Status: "chosen", Stale: "stale"}
		messages = append(messages, &evpnv1.WatchResponse{Routes: []*evpnv1.Route{row}},
			&evpnv1.WatchResponse{Gone: []*evpnv1.GoneRow{{Kind: "route", Rd: row.Rd, Key: row.Key, Peer: row.Peer}}})
	case "peer":
		peers, _ := fakePeers(&evpnv1.ListPeersRequest{})
		messages = append(messages, &evpnv1.WatchResponse{Peers: peers.Peers}, &evpnv1.WatchResponse{Gone: []*evpnv1.GoneRow{{Kind: "peer", Peer: "10.0.0.254"}}})
	case "vni":
		vnis, _ := fakeVNIs(&evpnv1.ListVNIsRequest{})
		messages = append(messages, &evpnv1.WatchResponse{Vnis: vnis.Vnis}, &evpnv1.WatchResponse{Gone: []*evpnv1.GoneRow{{Kind: "vni", Vni: 200}}})
	}
	for _, m := range messages {
		if err := stream.Send(m); err != nil {
			return err
		}
	}
	return status.Error(codes.Unavailable, "evpnd is stopping")
}
