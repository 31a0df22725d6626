package daemon

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"net/netip"

	"google.golang.org/protobuf/types/known/timestamppb"

	evpnv1 "github.com/evpnd/evpnd/api/evpn/v1"
	"github.com/evpnd/evpnd/config"
)

// maxRequest is the most octets of a request: CompareConfig of some 100,000 VNIs.
const maxRequest = 16 << 20

func (s *inspect) GetConfig(_ context.Context, req *evpnv1.GetConfigRequest) (*evpnv1.GetConfigResponse, error) {
	cfg, loaded, _ := s.d.config.state()
	return &evpnv1.GetConfigResponse{Yaml: printable(cfg.YAML(req.Defaults)), Loaded: timestamppb.New(loaded)}, nil
}

func (s *inspect) CompareConfig(_ context.Context, req *evpnv1.CompareConfigRequest) (*evpnv1.CompareConfigResponse, error) {
	next := make([]config.Setting, 0, len(req.Settings))
	for _, r := range req.Settings {
		next = append(next, config.Setting{Section: r.Section, Of: r.Of, Key: r.Key, Value: r.Value, Secret: string(r.Secret)})
	}
	running := s.d.config.get().Settings(false)
	for i := range running {
		running[i].Secret = string(hideSecret(running[i].Secret, req.Salt))
	}
	return &evpnv1.CompareConfigResponse{Changes: ProtoChanges(config.DiffSettings(running, next))}, nil
}

// CompareRequest asks a daemon how cfg differs from what it runs with.
func CompareRequest(cfg *config.Config, salt []byte) *evpnv1.CompareConfigRequest {
	req := &evpnv1.CompareConfigRequest{Salt: salt}
	for _, s := range cfg.Settings(false) {
		req.Settings = append(req.Settings, &evpnv1.Setting{
			Section: s.Section, Of: s.Of, Key: s.Key, Value: s.Value, Secret: hideSecret(s.Secret, salt),
		})
	}
	return req
}

// TakeVTEP resolves the VTEP of cfg, which takes it from an interface, as a daemon did whose VTEP is vtep.
func TakeVTEP(cfg *config.Config, vtep string) error {
	addr, err := netip.ParseAddr(vtep)
	if err != nil {
		return fmt.Errorf("vtep of the daemon: %w", err)
	}
	return cfg.SetVTEP(addr)
}

// hideSecret is what can be compared in place of a secret.
func hideSecret(secret string, salt []byte) []byte {
	if secret == "" {
		return nil
	}
	h := hmac.New(sha256.New, salt)
	h.Write([]byte(secret))
	return h.Sum(nil)
}

// ProtoChanges is what the API says of differences between two configurations.
func ProtoChanges(changes []config.Change) []*evpnv1.ConfigChange {
	var out []*evpnv1.ConfigChange
	for _, c := range changes {
		out = append(out, &evpnv1.ConfigChange{
			Effect: c.Effect.String(), Section: printable(c.Section), Of: printable(c.Of), Key: printable(c.Key), Added: c.Added,
			From: printable(c.From), To: printable(c.To),
			Text: printable(c.String()), Consequence: printable(c.Consequence()),
		})
	}
	return out
}
