package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/evpnd/evpnd/internal/certtest"
)

// keyPair makes a certificate and its key, PEM.
func keyPair(t *testing.T) (cert, key string) {
	t.Helper()
	dir, ca := t.TempDir(), certtest.New(t, "ca")
	ca.Write(dir, "api", ca.Server())
	read := func(name string) string {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	return read("api.crt"), read("api.key")
}

// TestAPIListener: a TCP listener is complete, or there is none; what is wrong is said where it stands.
func TestAPIListener(t *testing.T) {
	cert, key := keyPair(t)
	_, other := keyPair(t)
	const files = ", certificate: api.crt, key: api.key, client-ca: ca.crt"
	for _, row := range []struct{ name, api, want string }{
		{"complete", `listen: "10.0.0.1:9474"` + files + `, readers: [a.example, "spiffe://x/y"], admins: [b@example]`, ""},
		{"only admins", `listen: ":9474"` + files + `, admins: [a]`, ""},
		{
			"nothing but an address", `listen: ":9474"`, "3:15: listen: certificate is missing: clients and evpnd know each other by certificates\n" +
				"3:15: listen: key is missing: clients and evpnd know each other by certificates\n" +
				"3:15: listen: client-ca is missing: clients and evpnd know each other by certificates\n" +
				"3:15: listen: readers and admins are missing: nobody could use it",
		},
		{"nobody", `listen: ":9474"` + files, "3:15: listen: readers and admins are missing: nobody could use it"},
		{"no address", "key: api.key, admins: [a]", "3:12: key: nothing uses it without listen\n3:30: readers and admins: nothing uses them without listen"},
		{"no port", `listen: 10.0.0.1` + files + ", admins: [a]", `3:15: listen: want host:port, for instance 127.0.0.1:9473 or [::1]:9473, have "10.0.0.1"`},
		{"twice", `listen: ":1"` + files + ", readers: [a, b], admins: [c, a]", "3:105: admins: a is listed already at evpnd.yaml:3:86"},
		{"no name", `listen: ":1"` + files + `, readers: ["a b"]`, `3:86: readers: want a name as it stands in a client's certificate, have "a b"`},
		{"no such file", `listen: ":1", certificate: api.crt, key: none, client-ca: ca.crt, admins: [a]`, "3:48: key: read none: no such file or directory"},
		{"a folder", `listen: ":1", certificate: api.crt, key: conf, client-ca: ca.crt, admins: [a]`, "3:48: key: read conf: is no regular file"},
		{"empty file", `listen: ":1", certificate: api.crt, key: empty, client-ca: ca.crt, admins: [a]`, "3:48: key: read empty: is empty"},
		{
			"key of another", `listen: ":1", certificate: api.crt, key: other.key, client-ca: ca.crt, admins: [a]`,
			"3:34: certificate: api.crt with the key other.key: tls: private key does not match public key",
		},
		{
			"no certificate", `listen: ":1", certificate: api.key, key: api.key, client-ca: api.key, admins: [a]`,
			"3:34: certificate: api.key with the key api.key: tls: failed to find certificate PEM data in certificate input, but did find a private key; PEM inputs may have been switched\n" +
				"3:68: client-ca: api.key has no certificate",
		},
		{"damaged CA", `listen: ":1", certificate: api.crt, key: api.key, client-ca: damaged, admins: [a]`, "3:68: client-ca: certificate 1 of damaged: x509: malformed certificate"},
	} {
		t.Run(row.name, func(t *testing.T) {
			c, faults := load(t, map[string]string{
				"evpnd.yaml": base + "api: {" + row.api + "}\n", "api.crt": cert, "api.key": key, "ca.crt": "a comment\n" + cert, "other.key": other,
				"empty": "", "conf/x": "", "damaged": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
			})
			if d := cmp.Diff(row.want, strings.ReplaceAll("\n"+faults, "\nevpnd.yaml:", "\n")[1:]); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
			if c != nil && (c.API.TCP.Certificate.Content != cert || c.API.TCP.Key.Content != key || !strings.HasSuffix(c.API.TCP.ClientCA.Path, "/ca.crt")) {
				t.Errorf("%+v", c.API.TCP)
			}
		})
	}
}

// TestRenewedCertificate: new files under the same names are a change, which has no secret in it.
func TestRenewedCertificate(t *testing.T) {
	of := func(cert, key string) *Config {
		c, faults := load(t, map[string]string{
			"evpnd.yaml": base + `api: {listen: ":1", certificate: api.crt, key: api.key, client-ca: api.crt, admins: [a]}`, "api.crt": cert, "api.key": key,
		})
		if faults != "" {
			t.Fatal(faults)
		}
		c.API.TCP.Certificate.Path, c.API.TCP.Key.Path, c.API.TCP.ClientCA.Path = "/api.crt", "/api.key", "/api.crt"
		return c
	}
	var got []string
	for _, c := range Diff(of(keyPair(t)), of(keyPair(t))) {
		got = append(got, c.Consequence()+" | "+c.String())
	}
	want := []string{"api.certificate: another secret", "api.key: another secret", "api.client-ca: another secret"}
	for i := range want {
		want[i] = "applies live | " + want[i]
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}
