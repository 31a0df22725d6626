package labs

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// role is what a node's image name means without containers.
type role int

const (
	roleIdle  role = iota // nothing runs but what exec starts: the stand-in of a virtual machine
	roleFRR               // FRR's daemons as the bound /etc/frr/daemons enables them
	roleEVPND             // evpnd -c /etc/evpnd/evpnd.yaml
)

// roleOf reads an image name, without its registry and its tag: one with frr in it is FRR, one with evpnd is evpnd, any
// other one idles.
func roleOf(image string) role {
	name := image[strings.LastIndexByte(image, '/')+1:]
	name, _, _ = strings.Cut(name, ":")
	switch {
	case strings.Contains(name, "evpnd"):
		return roleEVPND
	case strings.Contains(name, "frr"):
		return roleFRR
	default:
		return roleIdle
	}
}

const watchfrr = "/usr/lib/frr/watchfrr"

// frrScript is what FRR's own image runs at start: the daemons named in /etc/frr/daemons, under watchfrr, with the
// integrated configuration. Bound files keep their owner on the host: vtysh reads them as root.
const frrScript = `set -e
chown frr:frr /etc/frr
install -d -o frr -g frr /run/frr
[ -e /etc/frr/vtysh.conf ] || echo 'service integrated-vtysh-config' >/etc/frr/vtysh.conf
[ -e /etc/frr/daemons ] || echo 'vtysh_enable=yes' >/etc/frr/daemons
[ -e /etc/frr/frr.conf ] || install -o frr -g frr -m 640 /dev/null /etc/frr/frr.conf
set +e
log_success_msg() { :; }; log_warning_msg() { echo "$@"; }; log_failure_msg() { echo "$@" >&2; }
. /usr/lib/frr/frrcommon.sh
exec ` + watchfrr + ` $(daemon_list)`

// processOf returns what the node runs; nil when it idles.
func processOf(n Node) []string {
	if n.Entrypoint != nil {
		return append(n.Entrypoint, n.Cmd...)
	}
	switch roleOf(n.Image) {
	case roleFRR:
		if n.Cmd != nil {
			return n.Cmd
		}
		return []string{"bash", "-c", frrScript}
	case roleEVPND:
		if n.Cmd != nil {
			return append([]string{"evpnd"}, n.Cmd...)
		}
		return []string{"evpnd", "-c", "/etc/evpnd/evpnd.yaml"}
	default:
		return n.Cmd
	}
}

// masked are directories that are empty in every node, whatever the host has there: they belong to the image.
var masked = []string{"/etc/frr", "/etc/evpnd", "/run", "/tmp"}

// packages names the Debian package of each program a lab may need.
var packages = map[string]string{
	"ip": "iproute2", "bridge": "iproute2", "nsenter": "util-linux", "ping": "iputils-ping", watchfrr: "frr", "tshark": "tshark",
}

// Need reports a program that is not installed, and the Debian package it is in.
func Need(program string) error {
	if _, err := exec.LookPath(program); err != nil {
		return fmt.Errorf("%s is not installed: apt-get install %s", program, packages[program])
	}
	return nil
}

// isProgram reports that the file at path can be run.
func isProgram(path string) bool {
	_, err := exec.LookPath(path)
	return err == nil
}

// findTools returns the binaries of this project that nodes may call: name → path. evpnd itself must exist when
// required; they are looked for in dir when it is given, else beside the running program, in bin/ of the repository
// the topology is part of, and in PATH.
func findTools(dir, topology string, required bool) (map[string]string, error) {
	var dirs []string
	if dir != "" {
		dirs = []string{dir}
	} else {
		if self, err := os.Executable(); err == nil {
			dirs = append(dirs, filepath.Dir(self))
		}
		for d := filepath.Dir(topology); d != "/"; d = filepath.Dir(d) {
			if _, err := os.Stat(filepath.Join(d, "go.mod")); err == nil {
				dirs = append(dirs, filepath.Join(d, "bin"))
				break
			}
		}
		dirs = append(dirs, filepath.SplitList(os.Getenv("PATH"))...)
	}
	tools := map[string]string{}
	for _, name := range []string{"evpnd", "evpnctl"} {
		for _, d := range dirs {
			path, err := filepath.Abs(filepath.Join(d, name))
			if err == nil && isProgram(path) {
				tools[name] = path
				break
			}
		}
	}
	if required && tools["evpnd"] == "" {
		return nil, fmt.Errorf("evpnd is not built: make build, or give the directory it is in (looked in %s)", strings.Join(dirs, ", "))
	}
	return tools, nil
}
