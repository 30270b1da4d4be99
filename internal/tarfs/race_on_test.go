//go:build race

package tarfs

// The race detector takes several times the memory.
const raceEnabled = true
