//go:build race

package speaker

import (
	"os"
	"strings"
)

// raceDetector says that it is on, and not told to leave the known race of GoBGP out (make race).
var raceDetector = !strings.Contains(os.Getenv("GORACE"), "suppressions=")
