//go:build race

package speaker

const raceDetector = true
