package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	evpnv1 "github.com/evpnd/evpnd/api/evpn/v1"
	"github.com/evpnd/evpnd/config"
	"github.com/evpnd/evpnd/internal/daemon"
)

const (
	defaultTarget = "unix:///run/evpnd/evpnd.sock"
	askTime       = 30 * time.Second
	maxAnswer     = 64 << 20
)

// diffOptions say what is compared with what.
type diffOptions struct {
	next   string // file
	old    string // file; "": what the daemon runs with
	target string // its socket
	json   bool
}

func diffCommand(path *string) *cobra.Command {
	o := diffOptions{target: defaultTarget}
	if t := os.Getenv("EVPND_TARGET"); t != "" {
		o.target = t
	}
	cmd := &cobra.Command{
		Use:   "diff",
		Short: "Say what a configuration would change, and what that takes",
		Long: `Say what the configuration of -c would change in that of the running evpnd, or of another file.

Each line says what it takes: "applies live", "flaps peer ADDRESS", or "needs a restart", which makes a reload be refused
as a whole. Nothing is changed. Exit status: 0 no difference, 1 differences, 2 it could not be told.`,
		Example: "  evpnd diff -c new.yaml\n  evpnd diff -c new.yaml -o /etc/evpnd/evpnd.yaml --json",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.next = *path
			changes, err := o.changes(cmd.Context())
			if err == nil {
				err = o.print(cmd.OutOrStdout(), changes)
			}
			switch {
			case err != nil:
				return exitError{exitConfig, err}
			case len(changes) > 0:
				return exitError{code: exitDiffers}
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&o.old, "old", "o", "", "configuration `file` to compare with, in place of the daemon's")
	cmd.Flags().StringVar(&o.target, "target", o.target, "`socket` of the daemon; default from EVPND_TARGET")
	cmd.Flags().BoolVarP(&o.json, "json", "j", false, "print JSON")
	return cmd
}

func (o diffOptions) changes(ctx context.Context) ([]*evpnv1.ConfigChange, error) {
	next, err := config.Load(o.next)
	if err != nil {
		return nil, err
	}
	if o.old == "" {
		return o.ask(ctx, next)
	}
	old, err := config.Load(o.old)
	if err != nil {
		return nil, err
	}
	return daemon.ProtoChanges(config.Diff(old, next)), nil
}

// ask has the daemon compare.
func (o diffOptions) ask(ctx context.Context, next *config.Config) ([]*evpnv1.ConfigChange, error) {
	conn, err := grpc.NewClient(o.target,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)))
	if err != nil {
		return nil, fmt.Errorf("use target %q: %w", o.target, err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	client := evpnv1.NewInspectServiceClient(conn)
	if next.VTEPInterface != "" { // its address is what the daemon took at the start
		st, err := client.GetStatus(ctx, &evpnv1.GetStatusRequest{})
		if err != nil {
			return nil, fmt.Errorf("ask evpnd: %s", status.Convert(err).Message())
		}
		if err := daemon.TakeVTEP(next, st.Status.Vtep); err != nil {
			return nil, err
		}
	}
	resp, err := client.CompareConfig(ctx, daemon.CompareRequest(next, []byte(rand.Text())))
	if err != nil {
		return nil, fmt.Errorf("ask evpnd: %s", status.Convert(err).Message())
	}
	return resp.Changes, nil
}

func (o diffOptions) print(out io.Writer, changes []*evpnv1.ConfigChange) error {
	if o.json {
		text, err := protojson.MarshalOptions{EmitDefaultValues: true}.Marshal(&evpnv1.CompareConfigResponse{Changes: changes})
		if err != nil {
			return err
		}
		var b bytes.Buffer // protojson puts in spaces at random
		if err := json.Indent(&b, text, "", "  "); err != nil {
			return err
		}
		_, err = fmt.Fprintln(out, &b)
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, c := range changes {
		fmt.Fprintf(w, "%s\t%s\n", c.Consequence, c.Text)
	}
	return w.Flush()
}
