package folder

import (
	"errors"
	"strings"
	"syscall"

	"github.com/dewpoint-go/dewpoint/cell"
)

// Groups is of Linux: here there is none.
type Groups struct{}

// OpenGroups says that there are none.
func OpenGroups(string) (*Groups, error) { return nil, errors.New("control groups are Linux's") }

// Describe does nothing.
func (g *Groups) Describe(*cell.Resources) {}

// Enter does nothing.
func (g *Groups) Enter(Place, int, *syscall.SysProcAttr) (flags []string, err error) { return nil, nil }

// Note does nothing.
func (g *Groups) Note(Place, Start) error { return nil }

// Lift implements Limiter.
func (g *Groups) Lift(string) error { return nil }

// Keep implements Limiter.
func (g *Groups) Keep([]Place) error { return nil }

// Usage implements Limiter.
func (g *Groups) Usage(Place, *cell.Usage) {}

// Exit implements Limiter.
func (g *Groups) Exit(Place, string, *cell.Exit) {}

func keyOf(states string) string { return strings.ToLower(strings.TrimPrefix(states, statePrefix)) }
