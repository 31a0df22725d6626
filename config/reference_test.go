package config

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestReference: the reference loads, names every key, and where it shows a default it shows the real one.
func TestReference(t *testing.T) {
	got, err := Load("reference.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("reference.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for section, known := range map[string]fields{
		"":              (&raw{}).keys(),
		"listen":        (&rawListen{}).keys(),
		"peers":         (&rawPeer{}).keys(),
		"dynamic-peers": {"prefix": nil, "asn": nil, "limit": nil}, // the others are those of peers, or refused
		"vnis":          (&rawVNI{}).keys(),
		"api":           (&rawAPI{}).keys(),
		"duplicates":    (&rawDuplicates{}).keys(),
		"log":           (&rawLog{}).keys(),
	} {
		for _, key := range slices.Sorted(maps.Keys(known)) {
			if !mentions(sectionOf(text, section), section, key) {
				t.Errorf("reference.yaml does not have %s in section %q", key, section)
			}
		}
	}

	want, err := Parse("minimal.yaml", []byte(`
asn: 65000
vtep: 10.255.0.1
listen: true
peers:
  - {address: 10.0.0.254, asn: 65000}
  - {address: 10.0.1.1, asn: 65001}
  - {interface: eth1, asn: external}
dynamic-peers: [{prefix: 10.1.0.0/16, asn: any}]
`))
	if err != nil {
		t.Fatal(err)
	}
	// These have no default that could be written down, so the reference shows an example.
	want.VNIs = got.VNIs
	want.API.Group, want.API.Metrics = got.API.Group, got.API.Metrics
	want.Peers[0].Description = got.Peers[0].Description
	want.Peers[0].Interface = got.Peers[0].Interface
	want.Peers[0].LocalAddress = got.Peers[0].LocalAddress
	if diff := cmp.Diff(want, got, values); diff != "" {
		t.Errorf("the reference differs from the defaults (-default +reference):\n%s", diff)
	}
}

// sectionOf cuts the block of a top-level key out of a file; all of it for "".
func sectionOf(text []byte, key string) []byte {
	if key == "" {
		return text
	}
	return regexp.MustCompile(`(?m)^` + key + `:\n(?:[ \n].*\n|\n)*`).Find(text)
}

// mentions reports whether a block has a key, be it in a comment; those of sections are indented.
func mentions(block []byte, section, key string) bool {
	indent := ` +(?:- |# )?`
	if section == "" {
		indent = `(?:# )?`
	}
	return regexp.MustCompile(`(?m)^` + indent + regexp.QuoteMeta(key) + `:(?: |$)`).Match(block)
}
