package config

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// maxPEM bounds the files that a TCP listener of the API is made of; a bundle of all public CAs has a quarter of that.
const maxPEM = 1 << 20

// api checks the gRPC interface. Whether groups and addresses exist is for the daemon to find out: here that may be another
// host's.
func (c *checker) api(r *rawAPI) API {
	return API{
		Socket: r.socket.or(defaultSocket), Group: r.group.or(""), AdminGroup: r.adminGroup.or(""),
		TCP: c.apiListener(r), Metrics: r.metrics.or(""),
	}
}

// apiListener checks that who listens on TCP knows its clients, and that its files go together.
func (c *checker) apiListener(r *rawAPI) APIListener {
	files := []struct {
		name string
		f    field[string]
	}{{"certificate", r.certificate}, {"key", r.key}, {"client-ca", r.clientCA}}
	if !r.listen.given() {
		for _, file := range files {
			if file.f.given() {
				c.report(file.f.at, "%s: nothing uses it without listen", file.name)
			}
		}
		for _, names := range [][]field[string]{r.readers, r.admins} {
			if len(names) > 0 {
				c.report(names[0].at, "readers and admins: nothing uses them without listen")
			}
		}
		return APIListener{}
	}
	a := APIListener{Address: r.listen.value}
	for i, into := range []*File{&a.Certificate, &a.Key, &a.ClientCA} {
		if !files[i].f.given() {
			c.report(r.listen.at, "listen: %s is missing: clients and evpnd know each other by certificates", files[i].name)
			continue
		}
		*into = c.pemFile(files[i].name, files[i].f)
	}
	if len(r.readers)+len(r.admins) == 0 {
		c.report(r.listen.at, "listen: readers and admins are missing: nobody could use it")
	}
	a.Readers, a.Admins = c.clientNames(r)
	c.keyPair(r, &a)
	return a
}

// clientNames checks that no name has two permissions.
func (c *checker) clientNames(r *rawAPI) (readers, admins []string) {
	seen := firsts[string]{}
	for _, list := range []struct {
		key   string
		names []field[string]
		into  *[]string
	}{{"readers", r.readers, &readers}, {"admins", r.admins, &admins}} {
		for _, name := range list.names {
			if first, again := seen.again(name); again {
				c.report(name.at, "%s: %s is listed already at %s", list.key, name.value, first)
			}
			*list.into = append(*list.into, name.value)
		}
	}
	return readers, admins
}

// keyPair checks what is in the files. Certificates that have expired are no faults here: evpnd must start nonetheless.
func (c *checker) keyPair(r *rawAPI, a *APIListener) {
	if a.Certificate.Content != "" && a.Key.Content != "" {
		if _, err := tls.X509KeyPair([]byte(a.Certificate.Content), []byte(a.Key.Content)); err != nil {
			c.report(r.certificate.at, "certificate: %s with the key %s: %v", a.Certificate.Path, a.Key.Path, err)
		}
	}
	if a.ClientCA.Content == "" {
		return
	}
	if _, err := CertPool(a.ClientCA); err != nil {
		c.report(r.clientCA.at, "client-ca: %v", err)
	}
}

// CertPool makes a pool of the certificates in a file. One that cannot be read, or is missing, is an error.
func CertPool(f File) (*x509.CertPool, error) {
	pool, rest, n := x509.NewCertPool(), []byte(f.Content), 0
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d of %s: %w", n+1, f.Path, err)
		}
		pool.AddCert(cert)
		n++
	}
	if n == 0 {
		return nil, fmt.Errorf("%s has no certificate", f.Path)
	}
	return pool, nil
}

// pemFile reads a file that a key names.
func (c *checker) pemFile(name string, f field[string]) File {
	if !f.valid {
		return File{}
	}
	path := besideFile(f)
	content, err := readPEM(path)
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		c.report(f.at, "%s: read %s: %v", name, path, err)
		return File{}
	}
	return File{path, content}
}

func readPEM(path string) (string, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return "", cause(err)
	case !info.Mode().IsRegular(): // a pipe would keep us waiting
		return "", errors.New("is no regular file")
	case info.Size() > maxPEM:
		return "", fmt.Errorf("has %d octets: want at most %d", info.Size(), maxPEM)
	case info.Size() == 0:
		return "", errors.New("is empty")
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return "", cause(err)
	}
	return string(data), nil
}
