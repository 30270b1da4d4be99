package folder

import (
	"errors"
	"hash/fnv"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/internal/cgroup"
)

// Groups limits containers by control groups, where this program may make some. It is a part of a Kind, which so
// has the power [Limiter]; nil does nothing.
type Groups struct {
	in *cgroup.Parent
}

// OpenGroups finds a place for the groups of the cell whose folder is dir. If there is none, the error says why.
func OpenGroups(dir string) (*Groups, error) {
	h := fnv.New64a()
	_, _ = h.Write([]byte(dir)) // never fails
	in, err := cgroup.Open("dewpoint-" + strconv.FormatUint(h.Sum64(), 36))
	if err != nil {
		return nil, err
	}
	return &Groups{in}, nil
}

// Describe adds the limits that are enforced.
func (g *Groups) Describe(r *cell.Resources) {
	if g == nil {
		return
	}
	for _, c := range g.in.Controllers() {
		if !slices.Contains(r.Enforced, c) {
			r.Enforced = append(r.Enforced, c)
		}
	}
}

// spare and spareMemory are what a role may take, which counts as well: threads, and bytes.
const (
	spare       = 16
	spareMemory = 8 << 20
)

// Enter has a role begin in the group of its container, by attr and by flags of the role. What needs no limit is in none.
// Roles is how many there may be beside programs.
func (g *Groups) Enter(c Place, roles int, attr *syscall.SysProcAttr) (flags []string, err error) {
	if g == nil {
		return nil, nil
	}
	l := cgroup.Limits{Memory: c.Spec.Memory, CPU: c.Spec.CPU, PIDs: c.Spec.PIDs}
	if !l.Any() {
		return nil, nil
	}
	if l.PIDs > 0 {
		l.PIDs += spare * roles
	}
	if l.Memory > 0 {
		l.Memory += spareMemory * int64(roles)
	}
	if err := g.in.Make(c.Key, l); err != nil {
		return nil, errors.Join(err, g.in.Remove(c.Key))
	}
	files, err := g.in.Enter(c.Key, attr)
	for _, f := range files {
		flags = append(flags, "-group", f)
	}
	return flags, err
}

// Note notes for Exit, before a process is started, how things stand in the group of its container.
func (g *Groups) Note(c Place, s Start) error {
	if g == nil {
		return nil
	}
	if err := os.Mkdir(s.State, 0o700); err != nil && !errors.Is(err, os.ErrExist) { // it is there, but in a try
		return err
	}
	return NoteKilled(s.State, g.in.Group(c.Key))
}

// Lift implements Limiter.
func (g *Groups) Lift(key string) error {
	if g == nil {
		return nil
	}
	return g.in.Remove(key)
}

// Keep implements Limiter.
func (g *Groups) Keep(all []Place) error {
	if g == nil {
		return nil
	}
	return g.in.Sweep(func(key string) bool { return slices.ContainsFunc(all, func(p Place) bool { return p.Key == key }) })
}

// Usage implements Limiter: files in memory count, too, as they do for the limit.
func (g *Groups) Usage(c Place, u *cell.Usage) {
	if g != nil {
		u.Memory = max(u.Memory, g.in.Group(c.Key).Memory())
	}
}

// Exit implements Limiter: the limit has ended a process since this one began, and it ended in no good way.
func (g *Groups) Exit(c Place, state string, e *cell.Exit) {
	if g == nil || e.Code == 0 {
		return
	}
	e.OutOfMemory = KilledSince(state, g.in.Group(c.Key))
}

// killedFile, in the state of a process, is how many of its container the memory limit had ended before it.
const killedFile = "killed"

// NoteKilled notes that before a process is started, which has its state there.
func NoteKilled(state string, g cgroup.Group) error {
	return os.WriteFile(filepath.Join(state, killedFile), strconv.AppendInt(nil, g.OutOfMemory(), 10), 0o600)
}

// KilledSince tells whether the limit has ended one since; false if nothing was noted.
func KilledSince(state string, g cgroup.Group) bool {
	b, err := os.ReadFile(filepath.Join(state, killedFile))
	if err != nil {
		return false
	}
	before, _ := strconv.ParseInt(string(b), 10, 64)
	return g.OutOfMemory() > before
}

// keyOf is a name of a folder of states as Place.Key.
func keyOf(states string) string { return strings.ToLower(strings.TrimPrefix(states, statePrefix)) }
