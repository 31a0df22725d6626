package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	evpnv1 "github.com/evpnd/evpnd/api/evpn/v1"
	"github.com/evpnd/evpnd/evpn"
)

// parseSubject reads the MAC or the IP that a command is about.
func parseSubject(s string) (mac, ip string, err error) {
	if m, err := evpn.ParseMAC(s); err == nil {
		return m.String(), "", nil
	}
	addr, err := netip.ParseAddr(s)
	if err != nil {
		return "", "", fmt.Errorf("%q is neither a MAC nor an IP address", s)
	}
	return "", addr.String(), nil
}

func (c *cli) explainCommand() *cobra.Command {
	var f filters
	cmd := &cobra.Command{
		Use:   "explain MAC|IP",
		Short: "Say why a MAC or an IP is where it is, and what is wrong",
		Long: `Say why a MAC or an IP is where it is, from the frame or UPDATE it was learned from to the kernel's entry: who
else laid claim to it and why that lost, what happened to it lately, and where something is wrong, the command that mends it.

Exit status: 0 all is well, 1 something is wrong, 3 it is not known and was not lately.`,
		Example:           "  evpnctl explain 02:00:00:00:00:02\n  evpnctl explain 172.16.100.2 --vni 100",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: c.completeSubjects,
		RunE: c.asking(func(c *cli, cmd *cobra.Command, args []string) error {
			req := &evpnv1.ExplainRequest{Vni: f.vni}
			var err error
			if req.Mac, req.Ip, err = parseSubject(args[0]); err != nil {
				return err
			}
			var r *evpnv1.ExplainResponse
			err = c.call(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) (err error) {
				r, err = evpnv1.NewInspectServiceClient(conn).Explain(ctx, req)
				return err
			})
			if err != nil {
				return err
			}
			if err := c.printExplanations(args[0], r); err != nil {
				return err
			}
			for _, x := range r.Explanations {
				if !x.Well {
					return &failure{codes.FailedPrecondition, exitFailed, fmt.Errorf("something is wrong with %s", args[0])}
				}
			}
			return nil
		}),
	}
	f.addFilters(cmd, "vni")
	register(cmd, "vni", c.completeVNIs)
	return cmd
}

func (c *cli) printExplanations(subject string, r *evpnv1.ExplainResponse) error {
	if !c.format.forPeople() {
		e, err := encodeItems(r.Explanations, r.AsOf)
		if err != nil {
			return err
		}
		return c.printList(e)
	}
	asOf, signs := r.AsOf.AsTime(), signsFor(os.Getenv)
	for i, x := range r.Explanations {
		if i > 0 {
			subject = "\n" + subject
		}
		where := fmt.Sprintf("in VNI %d", x.Vni)
		if x.Vni == 0 {
			where = "in no VNI"
		}
		lines := []string{subject + " " + where}
		for _, s := range x.Steps {
			lines = append(lines, stepLine(s, asOf, c.paint(signs[s.Mark])))
			if s.Mend != "" {
				lines = append(lines, "   "+signs["mend"]+" mend it: "+s.Mend)
			}
		}
		if len(x.Events) > 0 {
			lines = append(lines, " lately")
		}
		for _, e := range x.Events {
			lines = append(lines, "   "+eventLine(e))
		}
		if err := c.print("%s\n", signs.plain(strings.Join(lines, "\n"))); err != nil {
			return err
		}
	}
	return nil
}

// stepLine is one step as people read it.
func stepLine(s *evpnv1.Step, asOf time.Time, mark string) string {
	line := fmt.Sprintf(" %s %-9s %s", mark, s.Topic, s.Text)
	var more []string
	if s.Since != nil {
		more = append(more, span(asOf.Sub(s.Since.AsTime()))+" ago")
	}
	if s.Took != nil {
		more = append(more, "written in "+s.Took.AsDuration().Round(10*time.Microsecond).String())
	}
	if len(more) > 0 {
		line += " [" + strings.Join(more, ", ") + "]"
	}
	return line
}

// signs are the marks of steps.
type signs map[string]string

var (
	utf8Signs  = signs{"ok": "✓", "info": "·", "wait": "…", "fault": "✗", "mend": "→"}
	asciiSigns = signs{"ok": "+", "info": "-", "wait": "~", "fault": "!", "mend": "->"}
)

// signsFor returns plain ASCII unless the locale is one of UTF-8, as setlocale(3) finds it.
func signsFor(getenv func(string) string) signs {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if locale := strings.ToLower(getenv(name)); locale != "" {
			if strings.Contains(locale, "utf-8") || strings.Contains(locale, "utf8") {
				return utf8Signs
			}
			break
		}
	}
	return asciiSigns
}

// plain leaves ASCII only where the locale has no more.
func (s signs) plain(text string) string {
	if s["ok"] == utf8Signs["ok"] {
		return text
	}
	return strings.NewReplacer("→", "->", "µs", "us").Replace(text)
}
