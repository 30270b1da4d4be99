package cell

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
)

// WorkExecer is a power of a [Cell]: a process for a person beside those of a work, see [Execer]. It has the environment of the
// work's process, then its own. A work that is unknown, or has no container now: fs.ErrNotExist. [Agent] has it.
type WorkExecer interface {
	Exec(ctx context.Context, id string, p Process, size *TerminalSize) (Session, error)
}

var _ WorkExecer = (*Agent)(nil)

// Exec implements [WorkExecer].
func (a *Agent) Exec(ctx context.Context, id string, p Process, size *TerminalSize) (Session, error) {
	j, con, err := a.liveOf(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("cell %s: run %s beside work %s: %w", a.cfg.ID, p.Path, id, err)
	}
	x, ok := con.(Execer)
	if !ok {
		return nil, fmt.Errorf("cell %s: run %s beside work %s: %w by its containers", a.cfg.ID, p.Path, id, errors.ErrUnsupported)
	}
	p.Env = slices.Concat(j.work.Process.Env, p.Env)
	s, err := x.Exec(ctx, j.dressed(con, p), size)
	if err != nil {
		return nil, fmt.Errorf("cell %s: work %s: %w", a.cfg.ID, id, err)
	}
	return s, nil
}

// liveOf returns a work that has a container now, and that; else fs.ErrNotExist.
func (a *Agent) liveOf(ctx context.Context, id string) (*job, Container, error) {
	if err := a.ready(ctx); err != nil {
		return nil, nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	j := a.jobs[id]
	if j == nil || j.live == nil {
		return nil, nil, fs.ErrNotExist
	}
	return j, j.live, nil
}
