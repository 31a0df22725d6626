package daemon

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	evpnv1 "github.com/evpnd/evpnd/api/evpn/v1"
	"github.com/evpnd/evpnd/evpn"
)

// TestInspectChangesNothing calls every method of InspectService, as the contract lists them, with an empty request and with
// one that names what is there. Neither kernel, BGP and configuration nor the core see anything of it.
func TestInspectChangesNothing(t *testing.T) {
	c := newClient(t, populatedConfig, nil)
	c.populate()
	reads := regexp.MustCompile(`^(Get|List|Explain|Watch|Diagnose|Compare)`)
	service := evpnv1.File_evpn_v1_evpn_proto.Services().ByName("InspectService")
	before := c.everything()
	for i := range service.Methods().Len() {
		method := service.Methods().Get(i)
		if !reads.MatchString(string(method.Name())) {
			t.Errorf("%s does not sound like reading", method.Name())
		}
		for _, filled := range []bool{false, true} {
			answered := c.invoke(method, filled)
			if d := cmp.Diff(before, c.everything()); d != "" {
				t.Errorf("%s, filled %v (-before +after):\n%s", method.Name(), filled, d)
			}
			if !answered && (filled || method.Name() != "Explain") {
				t.Errorf("%s, filled %v: no answer", method.Name(), filled)
			}
		}
	}
}

// invoke makes a call and reports whether there was an answer.
func (c *client) invoke(method protoreflect.MethodDescriptor, filled bool) bool {
	c.t.Helper()
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	in, err := protoregistry.GlobalTypes.FindMessageByName(method.Input().FullName())
	if err != nil {
		c.t.Fatal(err)
	}
	out, err := protoregistry.GlobalTypes.FindMessageByName(method.Output().FullName())
	if err != nil {
		c.t.Fatal(err)
	}
	req := in.New()
	if filled {
		fill(req)
	}
	name := "/" + string(method.Parent().FullName()) + "/" + string(method.Name())
	stream, err := c.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, name)
	if err == nil {
		err = stream.SendMsg(req.Interface())
	}
	if err == nil {
		err = stream.CloseSend()
	}
	if err != nil {
		c.t.Fatal(err)
	}
	return stream.RecvMsg(out.New().Interface()) == nil
}

// fill sets fields by their names to what a populated daemon knows.
func fill(req protoreflect.Message) {
	fields := req.Descriptor().Fields()
	for _, value := range []struct {
		field string
		value any
	}{
		{"vni", uint32(100)},
		{"mac", macB.String()},
		{"address", peer1.String()},
		{"peer", peer1.String()},
		{"limit", uint32(5)},
		{"topic", "mac"},
		{"candidates", true},
		{"type", uint32(2)},
	} {
		if f := fields.ByName(protoreflect.Name(value.field)); f != nil {
			req.Set(f, protoreflect.ValueOf(value.value))
		}
	}
}

// everything is what a client could have changed, and what happens.
func (c *client) everything() []string {
	var last uint64
	c.look(func(core *evpn.Core) { last = core.LastRecord() })
	return append(c.inForce(), fmt.Sprint(last))
}

// inForce is what a client could have changed.
func (c *client) inForce() []string {
	all := c.lines("announce", "withdraw", "import", "release", "close", "refresh", "kernel", "probed")
	for key, e := range c.kernel.hold() {
		all = append(all, fmt.Sprint(key, e))
	}
	for row, words := range c.tables() {
		all = append(all, row+" "+words)
	}
	all = append(all, fmt.Sprint(c.Daemon.log.GetLevel(), len(c.bgp.configsSoFar())))
	slices.Sort(all)
	return all
}
