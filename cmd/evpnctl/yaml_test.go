package main

import (
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

func TestYAML(t *testing.T) {
	for _, row := range []struct{ name, json, want string }{
		{"numbers in base 60 stay text", `{"rt":"65000:10","mac":"12:34:56:10:20:30"}`, `rt: "65000:10"
mac: "12:34:56:10:20:30"
`},
		{"text with what YAML reads", `{"a":"","b":"x\n\"y\": #z","c":"no"}`, `a: ""
b: "x\n\"y\": #z"
c: "no"
`},
		{"other scalars", `{"vni":16777215,"sticky":true,"kernel":null}`, `vni: 16777215
sticky: true
kernel: null
`},
		{"list of objects in an object", `{"items":[{"vni":1,"ips":["fd00::1","fd00::2"]},{"vni":2,"kernel":{"state":"none"}}],"count":2}`, `items:
  - vni: 1
    ips:
      - "fd00::1"
      - "fd00::2"
  - vni: 2
    kernel:
      state: "none"
count: 2
`},
		{"nothing in it", `{"items":[],"status":{}}`, "items: []\nstatus: {}\n"},
		{"empty list in a list", `[[],[1]]`, "- []\n- - 1\n"},
		{"no items at all", `[]`, "[]\n"},
	} {
		t.Run(row.name, func(t *testing.T) {
			got, err := jsonToYAML([]byte(row.json))
			if err != nil || string(got) != row.want {
				t.Errorf("error %v, got\n%s\nwant\n%s", err, got, row.want)
			}
			back, err := yaml.YAMLToJSON(got)
			if err != nil || withoutSpace(string(back)) != withoutSpace(row.json) {
				t.Errorf("a reader of YAML makes %s of it, want %s, error %v", back, row.json, err)
			}
		})
	}
	if _, err := jsonToYAML([]byte(`{"a":`)); err == nil {
		t.Error("cut JSON gives no error")
	}
}

func withoutSpace(s string) string { return strings.Join(strings.Fields(s), "") }
