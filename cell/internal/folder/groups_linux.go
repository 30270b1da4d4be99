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

// spare and spareMemory are what an init may take, which counts as well: threads, and bytes.
const (
	spare       = 16
	spareMemory = 8 << 20
)

// Enter has an init begin in the group of its container, by attr and by flags of the role. What needs no limit is in none.
func (g *Groups) Enter(s Start, attr *syscall.SysProcAttr) (flags []string, err error) {
	if g == nil {
		return nil, nil
	}
	l := cgroup.Limits{Memory: s.Spec.Memory, CPU: s.Spec.CPU, PIDs: s.Spec.PIDs}
	if !l.Any() {
		return nil, nil
	}
	if l.PIDs > 0 {
		l.PIDs += spare
	}
	if l.Memory > 0 {
		l.Memory += spareMemory
	}
	key := keyOf(filepath.Base(filepath.Dir(s.State)))
	if err := g.in.Make(key, l); err != nil {
		return nil, errors.Join(err, g.in.Remove(key))
	}
	// The folder is there, but in a container that is only tried.
	if err := NoteKilled(s.State, g.in.Group(key)); err != nil {
		return nil, err
	}
	files, err := g.in.Enter(key, attr)
	for _, f := range files {
		flags = append(flags, "-group", f)
	}
	return flags, err
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
