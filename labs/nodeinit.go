package labs

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// initEnv marks the re-executed program that becomes a node's init process.
const initEnv = "EVPNLAB_NODE_INIT"

// readyLine is what the init process answers once the node is made; anything else is an error text.
const readyLine = "ready"

// nodeSpec is what the init process is told on its standard input.
type nodeSpec struct {
	Hostname string
	Stage    string // existing directory of the host on which the node's root is built
	Masked   []string
	Binds    []Bind
	Sysctls  map[string]string
}

// NodeInit turns the calling program into a node's init process when Up started it as one, and then never returns. In
// any other case it does nothing. Call it first in main and in TestMain.
func NodeInit() {
	if os.Getenv(initEnv) == "" {
		return
	}
	os.Exit(runInit())
}

// runInit builds the node's root, answers on file descriptor 3, and reaps until it is killed. As PID 1 of its
// namespace it takes everything in the node with it.
func runInit() int {
	answer := os.NewFile(3, "answer")
	if err := becomeNode(); err != nil {
		fmt.Fprintln(answer, err)
		return 1
	}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, unix.SIGCHLD, unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	fmt.Fprintln(answer, readyLine)
	if err := answer.Close(); err != nil {
		return 1
	}
	for s := range signals {
		if s == unix.SIGTERM {
			return 0
		}
		reap()
	}
	return 0
}

// reap collects every orphan that has ended.
func reap() {
	for {
		pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
		if pid <= 0 || (err != nil && err != unix.EINTR) {
			return
		}
	}
}

func becomeNode() error {
	var spec nodeSpec
	if err := json.NewDecoder(os.Stdin).Decode(&spec); err != nil {
		return fmt.Errorf("read node specification: %w", err)
	}
	if err := unix.Sethostname([]byte(spec.Hostname)); err != nil {
		return fmt.Errorf("set hostname %s: %w", spec.Hostname, err)
	}
	root, err := buildRoot(spec)
	if err != nil {
		return err
	}
	if err := enterRoot(root); err != nil {
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(spec.Sysctls)) {
		path := filepath.Join("/proc/sys", strings.ReplaceAll(key, ".", "/"))
		if err := os.WriteFile(path, []byte(spec.Sysctls[key]), 0); err != nil {
			return fmt.Errorf("set sysctl %s=%s: %w", key, spec.Sysctls[key], err)
		}
	}
	return nil
}

// buildRoot mounts the node's root below the stage and returns its path. The overlay's upper layer is a tmpfs that ends
// with the mount namespace.
func buildRoot(spec nodeSpec) (string, error) {
	if err := mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return "", err
	}
	if err := mount("evpnlab", spec.Stage, "tmpfs", 0, "mode=755"); err != nil {
		return "", err
	}
	dir := func(name string) string { return filepath.Join(spec.Stage, name) }
	for _, name := range []string{"upper", "work", "root"} {
		if err := os.Mkdir(dir(name), 0o755); err != nil {
			return "", fmt.Errorf("make node root: %w", err)
		}
	}
	root := dir("root")
	layers := fmt.Sprintf("lowerdir=/,upperdir=%s,workdir=%s", dir("upper"), dir("work"))
	if err := mount("evpnlab", root, "overlay", 0, layers); err != nil {
		return "", fmt.Errorf("%w (overlay over /, which needs root outside of a user namespace)", err)
	}
	if err := mountSystem(root, spec.Masked); err != nil {
		return "", err
	}
	for _, b := range spec.Binds {
		if err := bindInto(root, b); err != nil {
			return "", err
		}
	}
	return root, nil
}

// mountSystem gives the root what is not in the host's root file system: kernel file systems, devices, parts of the
// installation that are mounts of their own, and the empty directories.
func mountSystem(root string, masked []string) error {
	if err := mount("proc", filepath.Join(root, "proc"), "proc", 0, ""); err != nil {
		return err
	}
	if err := mount("sysfs", filepath.Join(root, "sys"), "sysfs", 0, ""); err != nil {
		return err
	}
	if err := mount("/dev", filepath.Join(root, "dev"), "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	for _, path := range []string{"/usr", "/etc", "/opt"} {
		if !isMountPoint(path) {
			continue
		}
		if err := mount(path, filepath.Join(root, path), "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return err
		}
	}
	for _, path := range masked {
		target := filepath.Join(root, path)
		if err := os.MkdirAll(target, 0o755); err != nil {
			return fmt.Errorf("make node directory %s: %w", path, err)
		}
		if err := mount("evpnlab", target, "tmpfs", 0, "mode=755"); err != nil {
			return err
		}
	}
	return os.Chmod(filepath.Join(root, "tmp"), 0o1777)
}

// isMountPoint reports that path is on another device than the root.
func isMountPoint(path string) bool {
	var here, top unix.Stat_t
	return unix.Stat(path, &here) == nil && unix.Stat("/", &top) == nil && here.Dev != top.Dev
}

// bindInto mounts a file or directory of the host at its place in the root, making the place first.
func bindInto(root string, b Bind) error {
	target := filepath.Join(root, b.Target)
	info, err := os.Stat(b.Source)
	if err != nil {
		return fmt.Errorf("bind %s: %w", b.Target, err)
	}
	dir := target
	if !info.IsDir() {
		dir = filepath.Dir(target)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("bind %s: %w", b.Target, err)
	}
	if !info.IsDir() {
		f, err := os.OpenFile(target, os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			return fmt.Errorf("bind %s: %w", b.Target, err)
		}
		if err := f.Close(); err != nil {
			return fmt.Errorf("bind %s: %w", b.Target, err)
		}
	}
	if err := mount(b.Source, target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	if !b.ReadOnly {
		return nil
	}
	return mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
}

// enterRoot makes root the root of the mount namespace and lets go of the host's.
func enterRoot(root string) error {
	const old = ".host"
	if err := os.Mkdir(filepath.Join(root, old), 0o700); err != nil {
		return fmt.Errorf("enter node root: %w", err)
	}
	if err := unix.PivotRoot(root, filepath.Join(root, old)); err != nil {
		return fmt.Errorf("enter node root %s: %w", root, err)
	}
	if err := os.Chdir("/"); err != nil {
		return fmt.Errorf("enter node root: %w", err)
	}
	if err := unix.Unmount("/"+old, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leave host root: %w", err)
	}
	return os.Remove("/" + old)
}

func mount(source, target, fstype string, flags uintptr, data string) error {
	if err := unix.Mount(source, target, fstype, flags, data); err != nil {
		return fmt.Errorf("mount %s on %s: %w", cmp.Or(fstype, source, "options"), target, err)
	}
	return nil
}
