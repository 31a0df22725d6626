package daemon

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/evpnd/evpnd/config"
)

// permission is what a client may do.
type permission uint8

const (
	mayNothing permission = iota
	mayRead
	mayAdmin // and read
)

// readServices are those whose methods change nothing. All others, known or not, want mayAdmin.
var readServices = []string{
	"evpn.v1.InspectService", "grpc.health.v1.Health",
	"grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection",
}

// wanted is what a call of a method takes, whose name is /package.Service/Method.
func wanted(method string) permission {
	service, _, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	if slices.Contains(readServices, service) {
		return mayRead
	}
	return mayAdmin
}

// access decides what clients of one listener may do, and in words who they are.
type access interface {
	of(credentials.AuthInfo) (may permission, who string)
}

// socketAccess is that of the UNIX socket, whose file says who may use it at all.
type socketAccess struct {
	adminGroup *uint32 // nil: everybody
}

func (a socketAccess) of(info credentials.AuthInfo) (permission, string) {
	p, ok := info.(peerInfo)
	switch {
	case !ok:
		return mayNothing, "an unknown user"
	case a.adminGroup == nil, p.uid == 0, int(p.uid) == os.Geteuid(), slices.Contains(p.groups, *a.adminGroup):
		return mayAdmin, p.String()
	default:
		return mayRead, p.String()
	}
}

// tcpAccess is that of the TCP listener.
type tcpAccess struct {
	readers, admins []string
}

func (a tcpAccess) of(info credentials.AuthInfo) (permission, string) {
	t, ok := info.(credentials.TLSInfo)
	if !ok || len(t.State.VerifiedChains) == 0 || len(t.State.VerifiedChains[0]) == 0 {
		return mayNothing, "a client without a certificate"
	}
	names := clientNames(t.State.VerifiedChains[0][0])
	who := fmt.Sprintf("client %q", names)
	switch {
	case time.Now().After(t.State.VerifiedChains[0][0].NotAfter): // while the connection lives
		return mayNothing, who + ", whose certificate has expired"
	case anyListed(names, a.admins):
		return mayAdmin, who
	case anyListed(names, a.readers):
		return mayRead, who
	default:
		return mayNothing, who
	}
}

// clientNames are the names that a certificate gives its holder: subject alternative names that are DNS names, e-mail
// addresses or URIs; the common name counts only when there is no alternative name of any kind, as RFC 6125 §6.4.4 had it.
func clientNames(cert *x509.Certificate) []string {
	names := slices.Concat(cert.DNSNames, cert.EmailAddresses)
	for _, u := range cert.URIs {
		names = append(names, u.String())
	}
	if len(names)+len(cert.IPAddresses) == 0 && cert.Subject.CommonName != "" {
		names = append(names, cert.Subject.CommonName)
	}
	return names
}

// anyListed compares whole names; there are no wildcards on either side.
func anyListed(names, list []string) bool {
	return slices.ContainsFunc(names, func(name string) bool { return slices.Contains(list, name) })
}

// tlsCredentials are those of the TCP listener.
func tlsCredentials(cfg config.APIListener) (credentials.TransportCredentials, error) {
	pair, err := tls.X509KeyPair([]byte(cfg.Certificate.Content), []byte(cfg.Key.Content))
	if err != nil {
		return nil, fmt.Errorf("certificate %s: %w", cfg.Certificate.Path, err)
	}
	pool, err := config.CertPool(cfg.ClientCA)
	if err != nil {
		return nil, err
	}
	return credentials.NewTLS(&tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{pair},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    pool,
	}), nil
}

// gate refuses calls that their clients may not make.
type gate struct {
	access access
	log    *logrus.Logger
	told   *rate.Limiter
}

func newGate(a access, log *logrus.Logger) *gate {
	return &gate{access: a, log: log, told: rate.NewLimiter(1, 10)}
}

// check returns PERMISSION_DENIED, with the reason, for a call that may not be made.
func (g *gate) check(ctx context.Context, method string) error {
	may, who := mayNothing, "a client"
	p, ok := peer.FromContext(ctx)
	if ok {
		may, who = g.access.of(p.AuthInfo)
	}
	want := wanted(method)
	if may >= want {
		return nil
	}
	if g.told.Allow() {
		g.log.WithFields(logrus.Fields{"call": method, "client": who}).Warn("api call refused")
	}
	if may == mayNothing {
		return status.Errorf(codes.PermissionDenied, "%s may not use this evpnd", who)
	}
	return status.Errorf(codes.PermissionDenied, "%s may only read", who)
}

func (g *gate) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if err := g.check(ctx, info.FullMethod); err != nil {
		return nil, err
	}
	return next(ctx, req)
}

func (g *gate) stream(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	if err := g.check(s.Context(), info.FullMethod); err != nil {
		return err
	}
	return next(srv, s)
}
