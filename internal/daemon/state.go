package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/evpnd/evpnd/evpn"
)

// stateFile holds what peers must see unchanged after a restart: the numbers of VNIs in their route distinguishers
// where the VNI itself does not fit.
const stateFile = "state.json"

type state struct {
	RDNumbers map[evpn.VNI]uint16 `json:"rdNumbers"`
}

// loadRDNumbers reads the state file. A missing file is an empty one.
func loadRDNumbers(dir string) (map[evpn.VNI]uint16, error) {
	path := filepath.Join(dir, stateFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read state: %w", err)
	}
	var s state
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("read state %s: %w", path, err)
	}
	if err := s.check(); err != nil {
		return nil, fmt.Errorf("read state %s: %w", path, err)
	}
	return s.RDNumbers, nil
}

// check refuses what this daemon would not have written: two VNIs with one RD would be one to peers.
func (s state) check() error {
	seen := make(map[uint16]bool, len(s.RDNumbers))
	for vni, n := range s.RDNumbers {
		if err := vni.Check(); err != nil {
			return err
		}
		if seen[n] {
			return fmt.Errorf("number %d stands for two VNIs", n)
		}
		seen[n] = true
	}
	return nil
}

// saveRDNumbers replaces the state file.
func saveRDNumbers(dir string, numbers map[evpn.VNI]uint16) error {
	data, err := json.MarshalIndent(state{RDNumbers: numbers}, "", "  ")
	if err != nil {
		return fmt.Errorf("encode state: %w", err)
	}
	if err := replaceFile(dir, stateFile, data); err != nil {
		return fmt.Errorf("save state: %w", err)
	}
	return nil
}

// replaceFile writes a file of the state directory in one step, so that a crash leaves the old one or the new one.
func replaceFile(dir, name string, data []byte) (err error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, name+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, werr := f.Write(append(data, '\n'))
	if err := errors.Join(werr, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), filepath.Join(dir, name))
}
