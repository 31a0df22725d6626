package evpnv1

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
)

var update = flag.Bool("update", false, "add what is new to frozen.txt")

// TestFrozen: all that frozen.txt lists is there as it was. What is new must be listed too, which -update does; it takes
// nothing away.
func TestFrozen(t *testing.T) {
	const path = "frozen.txt"
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var head, frozen []string
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSuffix(line, "\n"); strings.HasPrefix(line, "#") || line == "" {
			head = append(head, line)
		} else {
			frozen = append(frozen, line)
		}
	}
	broken, missing := compare(frozen, listing(File_evpn_v1_evpn_proto))
	for _, line := range broken {
		t.Errorf("version 1 is frozen, and this is no more: %s", line)
	}
	if t.Failed() || len(missing) == 0 {
		return
	}
	if !*update {
		t.Fatalf("new and not listed; go test ./api/... -run TestFrozen -update\n%s", strings.Join(missing, "\n"))
	}
	frozen = append(frozen, missing...)
	slices.Sort(frozen)
	if err := os.WriteFile(path, []byte(strings.Join(append(head, frozen...), "\n")+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
}

// compare returns what was frozen and is not there, and what is there and is not frozen.
func compare(frozen, now []string) (broken, missing []string) {
	for _, line := range frozen {
		if !slices.Contains(now, line) {
			broken = append(broken, line)
		}
	}
	for _, line := range now {
		if !slices.Contains(frozen, line) {
			missing = append(missing, line)
		}
	}
	return broken, missing
}

// listing has a line for each method and each field of a file, with all that a client depends on.
func listing(file protoreflect.FileDescriptor) []string {
	var lines []string
	for i := range file.Services().Len() {
		methods := file.Services().Get(i).Methods()
		for j := range methods.Len() {
			m := methods.Get(j)
			lines = append(lines, fmt.Sprintf("rpc %s(%s%s) %s%s", m.FullName(), streams(m.IsStreamingClient()), m.Input().FullName(),
				streams(m.IsStreamingServer()), m.Output().FullName()))
		}
	}
	for i := range file.Messages().Len() {
		lines = append(lines, fields(file.Messages().Get(i))...)
	}
	for i := range file.Enums().Len() {
		values := file.Enums().Get(i).Values()
		for j := range values.Len() {
			lines = append(lines, fmt.Sprintf("value %s = %d", values.Get(j).FullName(), values.Get(j).Number()))
		}
	}
	slices.Sort(lines)
	return lines
}

// fields lists a message: itself, what is in it, and the messages within.
func fields(m protoreflect.MessageDescriptor) []string {
	lines := []string{"message " + string(m.FullName())}
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		kind := f.Kind().String()
		if f.Message() != nil {
			kind = string(f.Message().FullName())
		} else if f.Enum() != nil {
			kind = string(f.Enum().FullName())
		}
		in := ""
		if o := f.ContainingOneof(); o != nil {
			in = " in " + string(o.Name())
		}
		lines = append(lines, fmt.Sprintf("field %s = %d %s %s, json %s%s", f.FullName(), f.Number(), f.Cardinality(), kind, f.JSONName(), in))
	}
	for i := range m.Messages().Len() {
		lines = append(lines, fields(m.Messages().Get(i))...)
	}
	return lines
}

func streams(is bool) string {
	if is {
		return "stream "
	}
	return ""
}

// TestCompare: every way to break a client is found.
func TestCompare(t *testing.T) {
	now := listing(File_evpn_v1_evpn_proto)
	for _, want := range []string{
		"rpc evpn.v1.InspectService.ListMACs(evpn.v1.ListMACsRequest) stream evpn.v1.ListMACsResponse",
		"message evpn.v1.MAC",
		"field evpn.v1.MAC.mac = 2 optional string, json mac",
		"field evpn.v1.MAC.ips = 10 repeated string, json ips",
		"field evpn.v1.MAC.kernel = 11 optional evpn.v1.KernelEntry, json kernel",
	} {
		if !slices.Contains(now, want) {
			t.Errorf("the listing lacks %q", want)
		}
	}
	for _, row := range []struct{ name, was, is string }{
		{"number", "v1.MAC.mac = 2 optional", "v1.MAC.mac = 20 optional"},
		{"name", "v1.MAC.mac = 2 optional string, json mac", "v1.MAC.address = 2 optional string, json address"},
		{"type", "v1.MAC.mac = 2 optional string", "v1.MAC.mac = 2 optional bytes"},
		{"list", "v1.MAC.ips = 10 repeated", "v1.MAC.ips = 10 optional"},
		{"stream", ") stream evpn.v1.ListMACsResponse", ") evpn.v1.ListMACsResponse"},
		{"method", "InspectService.ListMACs(", "InspectService.ListAllMACs("},
	} {
		var changed []string
		for _, line := range now {
			changed = append(changed, strings.Replace(line, row.was, row.is, 1))
		}
		if broken, missing := compare(now, changed); len(broken) != 1 || len(missing) != 1 {
			t.Errorf("another %s: broken %v, new %v", row.name, broken, missing)
		}
	}
	if broken, missing := compare(now[1:], now); len(broken) != 0 || len(missing) != 1 {
		t.Errorf("one more: broken %v, new %v", broken, missing)
	}
}
