package config

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// validator is the schema as an editor would use it.
func validator(t *testing.T) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(Schema()))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("evpnd.schema.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("evpnd.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// validate holds a file to the schema. The keys of maps become text, as in JSON.
func validate(s *jsonschema.Schema, text []byte) error {
	raw, err := yaml.YAMLToJSON(text)
	if err != nil {
		return err
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		return err
	}
	return s.Validate(doc)
}

// TestSchemaFile: docs/evpnd.schema.json is that of Keys; -update writes it.
func TestSchemaFile(t *testing.T) {
	const path = "../docs/evpnd.schema.json"
	if *update {
		if err := os.WriteFile(path, Schema(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, Schema()) {
		t.Errorf("%s is not that of the code: make gen", path)
	}
}

// TestSchemaTakes: every configuration of the repository, and what is in the documentation.
func TestSchemaTakes(t *testing.T) {
	s := validator(t)
	files := 0
	err := filepath.WalkDir("..", func(path string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case e.IsDir() && (e.Name() == "bin" || e.Name() == ".git" || e.Name() == "testdata"):
			return fs.SkipDir
		case e.Name() != "evpnd.yaml" && e.Name() != "reference.yaml" && !strings.Contains(path, "/conf.d/") || filepath.Ext(path) != ".yaml":
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		files++
		if err := validate(s, text); err != nil {
			t.Errorf("%s: %v", path, err)
		}
		return nil
	})
	if err != nil || files < 15 {
		t.Errorf("%d files, error %v", files, err)
	}
	if err := validate(s, []byte(full)); err != nil {
		t.Errorf("a file with all keys: %v", err)
	}
	for _, short := range []string{"listen: true\n", "peers:\n", "vnis:\n  100:\n", "peers: [{address: 10.0.0.1, asn: 1, hold-time: 90}]\n", "log: {level: debug}\n"} {
		if err := validate(s, []byte(short)); err != nil {
			t.Errorf("%q: %v", short, err)
		}
	}
}

// TestSchemaRefuses: wrong files do not pass, a key of each kind for each way to be wrong.
func TestSchemaRefuses(t *testing.T) {
	s := validator(t)
	for _, text := range []string{
		"asm: 1\n", "asn: 0\n", "asn: 23456\n", "asn: x\n", "asn: 4294967296\n", "vtep: nowhere\n", "auto-vnis: 7\n", "snooping-rate: 99\n", "snooping-rate: fast\n",
		"route-targets: cisco\n", "vtep-hold: soon\n", "on-peer-loss: keep\n", "max-macs: 5\n", "max-macs: {locale: 5}\n", "state-dir: here\n",
		"peers: {address: 10.0.0.1}\n", "peers: [{asn: 1}]\n", "peers: [{address: 10.0.0.1}]\n", "peers: [{address: 10.0.0.1, asn: any}]\n",
		"peers: [{address: 10.0.0.1, asn: 1, multihop: 1}]\n", "peers: [{address: 10.0.0.1, asn: 1, holdtime: 9}]\n",
		"peers: [{address: 10.0.0.1, asn: 1, max-routes: {action: panic}}]\n", "peers: [{address: 10.0.0.1, asn: 1, ttl-security: 255}]\n",
		"dynamic-peers: [{prefix: 10.0.0.0/8, asn: any, port: 1}]\n", "dynamic-peers: [{prefix: 10.0.0.0, asn: any}]\n",
		"vnis: {0: }\n", "vnis: {x: }\n", "vnis: [100]\n", "vnis: {100: {rd: x}}\n", "vnis: {100: {import: []}}\n", "vnis: {100: {import: [x]}}\n",
		"vnis: {100: {gateways: [{mac: 02:00:5e:00:01:01}]}}\n", "vnis: {100: {static-macs: glued}}\n",
		"duplicates: {moves: 1}\n", "duplicates: {action: shout}\n", "api: {socket: evpnd.sock}\n", "api: {metrics: 9473}\n", "api: {admins: ops}\n",
		"api: {admins: [a b]}\n", "log: {level: loud}\n", "listen: {port: 0}\n", "listen: {port: 65536}\n", "listen: 179\n",
	} {
		if _, err := Parse("t.yaml", []byte(base+text)); err == nil && !strings.Contains(text, "asn: ") {
			t.Errorf("%q is right", text)
		}
		if err := validate(s, []byte(text)); err == nil {
			t.Errorf("the schema takes %q", text)
		}
	}
}
