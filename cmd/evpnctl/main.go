// Command evpnctl shows what evpnd knows and tells it what to do, over the daemon's gRPC socket. One subcommand is one
// question, answered as a table, or as JSON with the keys of api/evpn/v1.
package main

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/evpnd/evpnd/internal/manual"
)

const defaultTarget = "unix:///run/evpnd/evpnd.sock"

// version is set by the linker; see the Makefile.
var version string

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is main with its surroundings as arguments; it returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	c := &cli{out: stdout, errors: stderr, format: formatTable, color: "auto"}
	c.configure()
	root := c.rootCommand()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	if err := root.ExecuteContext(ctx); err != nil {
		return c.report(stderr, err)
	}
	return exitOK
}

// cli holds the flags that every subcommand shares, and the target that is being asked.
type cli struct {
	out       io.Writer
	errors    io.Writer
	targets   []string
	known     map[string]string // targets of the user's configuration, by name
	wrong     error             // with that configuration
	tls       tlsFiles
	watch     bool               // show tables again when they change
	at        target             // set by each
	values    *[]json.RawMessage // of several targets, for programs; printed when all were asked
	color     colorMode
	colored   bool
	format    format
	noHeaders bool
	timeout   time.Duration
}

func (c *cli) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "evpnctl",
		Short: "Show what evpnd knows, and tell it what to do",
		Long: `Show what evpnd knows, and tell it what to do.

Exit status: 0 done, 1 the operation failed, 2 wrong usage, 3 no such VNI, MAC, IP or peer, 4 evpnd is not reachable,
5 no permission to use its socket. The subcommand health has its own.

Several targets are asked one after the other; tables get a column TARGET, objects for programs a key "target", and the exit
status is the highest. Those of other hosts are asked on TCP where evpnd listens there (api.listen), with a certificate, or
their sockets are brought here by ssh -L.

evpnctl/config.yaml in the user's configuration folder, or the file that EVPNCTL_CONFIG names, may have cert, key and ca, and
targets: a map of names to targets, which are asked when no others are given, and known to --target by their names.`,
		Example: `  evpnctl show summary
  evpnctl show mac 100 -o json
  evpnctl show evpn arp-cache vni all        # FRR's word order works too
  evpnctl --target h1=/run/h1.sock,h2=/run/h2.sock show mac 100
  evpnctl --target tcp:10.0.0.1:9474 --cert me.crt --key me.key --ca ca.crt show summary`,
		Args:          cobra.ArbitraryArgs,
		RunE:          wantSubcommand,
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRun: func(*cobra.Command, []string) {
			c.colored = c.color.on(c.out, os.Getenv)
		},
	}
	flags := root.PersistentFlags()
	flags.StringSliceVar(&c.targets, "target", c.targets, "`socket` of the daemon or tcp:host:port, or several, as NAME=socket; default from EVPND_TARGET")
	flags.StringVar(&c.tls.cert, "cert", c.tls.cert, "our certificate for targets on TCP, a PEM `file`; default from EVPND_CERT")
	flags.StringVar(&c.tls.key, "key", c.tls.key, "its key, a PEM `file`; default from EVPND_KEY")
	flags.StringVar(&c.tls.ca, "ca", c.tls.ca, "the CA of evpnd's certificate, a PEM `file`; default from EVPND_CA, else those that the host trusts")
	flags.Var(&c.color, "color", "auto, always or never")
	flags.VarP(&c.format, "output", "o", "table, wide, json, jsonl or yaml")
	flags.BoolFuncP("json", "j", "short for -o json", func(string) error { return c.format.Set("json") })
	flags.BoolVar(&c.noHeaders, "no-headers", false, "only the rows of a table")
	flags.DurationVar(&c.timeout, "timeout", 30*time.Second, "longest wait for an answer")
	register(root, "target", c.completeTargets)
	mustComplete(root, "output", formats)
	mustComplete(root, "color", colorModes)
	root.AddCommand(c.showCommand(), c.explainCommand(), c.historyCommand(), c.monitorCommand(), c.reloadCommand(), c.clearCommand(), c.logLevelCommand(), c.healthCommand(), c.doctorCommand(), c.pingCommand(), c.lintCommand(), c.topCommand(), c.webCommand(),
		c.versionCommand(), manual.Command("1"))
	return root
}

func (c *cli) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version of evpnctl; the daemon's is in show status",
		Example: "  evpnctl version",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if !c.format.forPeople() {
				return c.printValue(map[string]string{"version": clientVersion()})
			}
			return c.print("evpnctl %s\n", clientVersion())
		},
	}
}

// clientVersion falls back on what the Go toolchain recorded when the linker was told nothing.
func clientVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		return info.Main.Version
	}
	return "unknown"
}
