package labs

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// record is what Up leaves in the state directory for Attach.
type record struct {
	Name     string
	Topology string // path of the file
	Nodes    []nodeRecord
}

// nodeRecord is one node as it runs.
type nodeRecord struct {
	Name    string
	Image   string
	PID     int    // of the init process, in the caller's PID namespace
	Start   uint64 // its start time, see startTime
	Netns   string // name under /run/netns, "" when it could not be named
	Env     map[string]string
	Process []string // what the node runs; nil when it idles
}

func (n nodeRecord) running() bool { return isRunning(n.PID, n.Start) }

const (
	recordFile = "lab.json"
	lockFile   = "lock"
)

// StateDir returns the directory that holds one directory for each lab: $EVPNLAB_STATE, else /run/evpnlab for root,
// else evpnlab in $XDG_RUNTIME_DIR.
func StateDir() (string, error) {
	if dir := os.Getenv("EVPNLAB_STATE"); dir != "" {
		return filepath.Abs(dir)
	}
	if os.Geteuid() == 0 {
		return "/run/evpnlab", nil
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		return filepath.Join(dir, "evpnlab"), nil
	}
	return "", errors.New("no place for the state of labs: set EVPNLAB_STATE")
}

// Running lists the names of labs in the state directory, running or left behind.
func Running() ([]string, error) {
	dir, err := StateDir()
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list labs: %w", err)
	}
	var names []string
	for _, e := range entries {
		if _, err := os.Stat(filepath.Join(dir, e.Name(), recordFile)); err == nil {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

func (r record) save(dir string) error {
	b, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return fmt.Errorf("save lab %s: %w", r.Name, err)
	}
	tmp := filepath.Join(dir, recordFile+".new")
	if err := os.WriteFile(tmp, b, 0o644); err != nil {
		return fmt.Errorf("save lab %s: %w", r.Name, err)
	}
	if err := os.Rename(tmp, filepath.Join(dir, recordFile)); err != nil {
		return fmt.Errorf("save lab %s: %w", r.Name, err)
	}
	return nil
}

// loadRecord reads what Up left; the error wraps fs.ErrNotExist when there is no such lab.
func loadRecord(dir string) (record, error) {
	var r record
	b, err := os.ReadFile(filepath.Join(dir, recordFile))
	if err != nil {
		return r, fmt.Errorf("read state of lab: %w", err)
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("read state of lab %s: %w", dir, err)
	}
	return r, nil
}

// lock keeps two Ups or Downs of one lab apart. It ends with the returned function, or with the process.
func lock(dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock lab: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock lab %s, which another process is starting or stopping: %w", filepath.Base(dir), err)
	}
	return func() { f.Close() }, nil
}
