package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	evpnv1 "github.com/evpnd/evpnd/api/evpn/v1"
)

func (c *cli) webCommand() *cobra.Command {
	var listen string
	var hosts []string
	cmd := &cobra.Command{
		Use:   "web",
		Short: "Serve a page to look at: VTEPs by VNIs, a search and events",
		Long: `Serve a page to look at: which VTEP is in which VNI with how many MACs, a search for a MAC or an IP, and
events as they happen. With several targets it says whether they agree.

The page changes nothing, sets no cookies and loads nothing from elsewhere. It asks nobody for a password: whoever reaches the
listener sees the tables, so it listens on this machine only unless told otherwise. Requests under another host name than
localhost, an address, or one of --host are refused, which keeps pages of other sites from reading it.`,
		Example: "  evpnctl web\n  evpnctl web --listen 127.0.0.1:8080 --target h1=/run/h1.sock,h2=/run/h2.sock",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			targets, err := c.parseTargets()
			if err != nil {
				return err
			}
			if _, err := netip.ParseAddrPort(listen); err != nil {
				return fmt.Errorf("listen on %q: want an address and a port", listen)
			}
			l, err := net.Listen("tcp", listen)
			if err != nil {
				return &failure{codes.Unavailable, exitFailed, err}
			}
			if err := c.print("http://%s/\n", l.Addr()); err != nil {
				l.Close()
				return err
			}
			return c.serveWeb(cmd.Context(), l, targets, hosts)
		},
	}
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:8470", "`address` and port to listen on; port 0: any free one")
	cmd.Flags().StringSliceVar(&hosts, "host", nil, "further `names` that the page may be asked for under")
	return cmd
}

// webTarget is one daemon, and the connection to it.
type webTarget struct {
	target
	client inspector
}

// serveWeb serves the page until ctx ends.
func (c *cli) serveWeb(ctx context.Context, l net.Listener, targets []target, hosts []string) error {
	var asked []webTarget
	var serve func(left []target) error
	serve = func(left []target) error {
		if len(left) > 0 {
			one := *c
			one.at = left[0]
			return one.connect(func(conn *grpc.ClientConn) error {
				asked = append(asked, webTarget{left[0], evpnv1.NewInspectServiceClient(conn)})
				return serve(left[1:])
			})
		}
		return c.listenWeb(ctx, l, asked, hosts)
	}
	return serve(targets)
}

func (c *cli) listenWeb(ctx context.Context, l net.Listener, targets []webTarget, hosts []string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := &http.Server{
		Handler:           guard(hosts, newSite(targets, c.timeout).handler()),
		ReadHeaderTimeout: 10 * time.Second,
		MaxHeaderBytes:    64 << 10,
		BaseContext:       func(net.Listener) context.Context { return ctx }, // ends the event streams
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }() // ends with Shutdown or Close
	select {
	case err := <-ended:
		return &failure{codes.Unavailable, exitFailed, fmt.Errorf("serve the page: %w", err)}
	case <-ctx.Done():
	}
	grace, stop := context.WithTimeout(context.Background(), 2*time.Second)
	defer stop()
	if err := s.Shutdown(grace); err != nil {
		s.Close()
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return &failure{codes.Unavailable, exitFailed, fmt.Errorf("serve the page: %w", err)}
	}
	return nil
}

// guard lets requests through that only read and that name this host; a name that someone else's DNS points here is not one.
func guard(hosts []string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "+
			"form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		switch {
		case !knownHost(r.Host, hosts):
			http.Error(w, "this host name is not served here; evpnctl web --host allows more", http.StatusMisdirectedRequest)
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			h.Set("Allow", "GET, HEAD")
			http.Error(w, "this page only shows", http.StatusMethodNotAllowed)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

func knownHost(hostport string, hosts []string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	host = strings.Trim(host, "[]")
	if _, err := netip.ParseAddr(host); err == nil {
		return true // nobody's DNS has a say in it
	}
	for _, known := range append([]string{"localhost"}, hosts...) {
		if strings.EqualFold(host, known) {
			return true
		}
	}
	return false
}
