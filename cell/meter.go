package cell

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/dewpoint-go/dewpoint/internal/size"
)

// Usage is what a container takes.
type Usage struct {
	Time      time.Time     `json:"time"`
	CPU       time.Duration `json:"cpu"`    // of all its processes since it was made; 0 if it is not counted
	Memory    int64         `json:"memory"` // bytes; 0 if it is not counted
	Disk      int64         `json:"disk"`   // bytes of its files, layers included
	Processes int           `json:"processes"`
}

// Meter is a power of containers: to tell what they take. Where that cannot be learned the error
// wraps errors.ErrUnsupported.
type Meter interface {
	Usage(ctx context.Context) (Usage, error)
}

// WorkMeter is a power of a [Cell]: to tell what the container of a work takes. A work that is unknown,
// or has no container now: fs.ErrNotExist. [Agent] has it.
type WorkMeter interface {
	Usage(ctx context.Context, id string) (Usage, error)
}

var _ WorkMeter = (*Agent)(nil)

// Usage implements [WorkMeter].
func (a *Agent) Usage(ctx context.Context, id string) (Usage, error) {
	_, con, err := a.liveOf(ctx, id)
	if err != nil {
		return Usage{}, fmt.Errorf("cell %s: usage of work %s: %w", a.cfg.ID, id, err)
	}
	m, ok := con.(Meter)
	if !ok {
		return Usage{}, fmt.Errorf("cell %s: usage of work %s: %w: its containers do not tell", a.cfg.ID, id, errors.ErrUnsupported)
	}
	u, err := m.Usage(ctx)
	if err != nil {
		return Usage{}, fmt.Errorf("cell %s: usage of work %s: %w", a.cfg.ID, id, err)
	}
	return u, nil
}

// A disk is measured first after diskFirst and then ever more seldom, at least each diskEach, unless to
// measure those of all works would take more than a diskShare-th of the time.
const (
	diskFirst = 50 * time.Millisecond
	diskEach  = 10 * time.Second
	diskShare = 10
)

// watchDisk looks after the disk limit of a work where its Runtime does not enforce it. It returns what
// ends that. What a container takes is measured for one work at a time.
func (j *job) watchDisk(ctx context.Context, fails chan<- *fail) (end func()) {
	m, ok := j.con.(Meter)
	limit := j.work.Spec.Disk
	if !ok || limit <= 0 || slices.Contains(j.a.total.Enforced, "disk") {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	wait := diskFirst
	e := j.a.disks.add(wait, func() (time.Duration, bool) {
		begun := time.Now()
		u, err := m.Usage(ctx)
		if ctx.Err() != nil || errors.Is(err, errors.ErrUnsupported) {
			return 0, false
		}
		if err == nil && u.Disk > limit {
			text := fmt.Sprintf("disk limit exceeded: %s of %s used", size.Text(u.Disk), size.Text(limit))
			advice := "write less, or raise the disk limit; what an instance writes does not outlive it: keep it in a service"
			j.line(j.cellSrc, true, text)
			j.line(j.cellSrc, true, advice)
			fails <- &fail{ReasonLimit, text + "\n" + advice}
			return 0, false
		}
		wait = min(2*wait, diskEach)
		return max(wait, diskShare*time.Since(begun)*time.Duration(j.a.disks.size())), true
	})
	return func() {
		cancel()
		e.remove()
	}
}
