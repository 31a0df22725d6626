package labs

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func TestMain(m *testing.M) {
	NodeInit()
	code := m.Run()
	for _, dir := range built {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

// built are the directories to remove at the end.
var built []string

// binaries builds evpnd and evpnctl of this tree once and returns the directory they are in.
var binaries = sync.OnceValues(func() (string, error) {
	if err := nameSources(); err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("", "evpnlab-bin-")
	if err != nil {
		return "", err
	}
	built = append(built, dir)
	out, err := exec.Command("go", "build", "-o", dir, "../cmd/evpnd", "../cmd/evpnctl").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build evpnd and evpnctl: %w\n%s", err, out)
	}
	return dir, nil
})

// nameSources looks at every source of the programs. go test repeats a result it has kept as long as no file that the test
// itself has looked at has changed, and the build is another process.
func nameSources() error {
	return filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return err
		}
		if name := entry.Name(); name == "bin" || name != ".." && strings.HasPrefix(name, ".") {
			return fs.SkipDir
		}
		return nil
	})
}
