package lifecycle

import (
	"fmt"
	"time"
)

// Usage is what an init's process and all that it started take. What several processes share counts
// for each of them.
type Usage struct {
	CPU       time.Duration // since it was started, those that have ended included
	Memory    int64         // bytes in memory
	Processes int
}

// InitUsage tells what runs below an init. One that has ended takes nothing. Where it cannot be
// learned (macOS): an error that wraps errors.ErrUnsupported.
func InitUsage(dir string) (Usage, error) {
	s, err := readStarted(dir)
	if err == nil && !s.alive() {
		return Usage{}, nil
	}
	var u Usage
	if err == nil {
		u, err = usage(s.PID)
	}
	if err != nil {
		return Usage{}, fmt.Errorf("usage below init: %w", err)
	}
	return u, nil
}

// InitListening returns the TCP ports on which an init's process and all that it started listen, in
// order. Where it cannot be learned (macOS): an error that wraps errors.ErrUnsupported.
func InitListening(dir string) ([]int, error) {
	s, err := readStarted(dir)
	if err == nil && !s.alive() {
		return nil, nil
	}
	var ports []int
	if err == nil {
		ports, err = listening(s.PID)
	}
	if err != nil {
		return nil, fmt.Errorf("ports below init: %w", err)
	}
	return ports, nil
}
