package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// bootFile holds the kernel's id of the boot in which the daemon ran last.
const bootFile = "boot"

const bootIDPath = "/proc/sys/kernel/random/boot_id"

// rebooted reports whether the host was rebooted since the daemon ran last: the kernel has forgotten all entries then, and
// peers must not be told that we went on forwarding (GR-01). Not when that is unknown.
func rebooted(dir string) (bool, error) {
	now, err := os.ReadFile(bootIDPath)
	if err != nil {
		return false, fmt.Errorf("read boot id: %w", err)
	}
	id := strings.TrimSpace(string(now))
	last, err := os.ReadFile(filepath.Join(dir, bootFile))
	switch {
	case err == nil && strings.TrimSpace(string(last)) == id:
		return false, nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return false, fmt.Errorf("read boot id of the last start: %w", err)
	}
	changed := err == nil
	if err := replaceFile(dir, bootFile, []byte(id)); err != nil {
		return changed, fmt.Errorf("save boot id: %w", err)
	}
	return changed, nil
}
