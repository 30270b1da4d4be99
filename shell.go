package dewpoint

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/lrp"
)

// ShellRequest says what a person wants to do beside an instance of an app.
type ShellRequest struct {
	// Process and Index name the instance; "" is web.
	Process string
	Index   int
	// Command is a line for the shell; "": the shell reads what is typed.
	Command string
	// Size, if not nil, asks for a terminal of that size; nil: pipes.
	Size *cell.TerminalSize
	// Env stands after that of the process, "K=V": TERM, for instance.
	Env []string
}

// Shell starts a shell in the container of an instance that runs, with the instance's environment and what the buildpacks prepare for a
// start, as "cf ssh" with /tmp/lifecycle/shell does; of an image, its own /bin/sh. The caller closes the Session, which does not
// outlive the instance or this program. No such instance, or one that does not run: an error that wraps fs.ErrNotExist; a scheduler
// or a cell that cannot: errors.ErrUnsupported.
func (p *Platform) Shell(ctx context.Context, app string, r ShellRequest) (cell.Session, error) {
	a, err := p.App(app)
	if err != nil {
		return nil, fmt.Errorf("shell: %w", err)
	}
	s, err := p.shell(ctx, a, r)
	if err != nil {
		return nil, fmt.Errorf("shell in %s: %w", a.Name, err)
	}
	return s, nil
}

func (p *Platform) shell(ctx context.Context, a App, r ShellRequest) (cell.Session, error) {
	x, ok := p.sched.(lrp.Execer)
	if !ok {
		return nil, fmt.Errorf("the scheduler %T runs nothing beside instances: %w", p.sched, errors.ErrUnsupported)
	}
	process := cmp.Or(r.Process, Web)
	pr := a.Process(process)
	switch {
	case pr.Memory == 0:
		return nil, a.hasNo(process)
	case pr.LRP == "":
		return nil, absent("there is no instance %d of %s: the app is stopped", r.Index, process)
	}
	run := cell.Process{Path: "lifecycle:shell", Args: []string{"{{path /home/vcap/app}}"}, Dir: "/home/vcap/app", Env: r.Env}
	if r.Command != "" {
		run.Args = append(run.Args, r.Command)
	}
	if a.Image != nil && a.Droplet == "" {
		run.Path, run.Args, run.Dir = "lifecycle:entrypoint", []string{cmp.Or(r.Command, "exec /bin/sh")}, cmp.Or(a.Image.WorkingDir, "/")
	}
	all, err := p.sched.Instances(ctx, pr.LRP)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(all, func(i lrp.Instance) bool { return i.Index == r.Index })
	switch {
	case i < 0:
		return nil, absent("there is no instance %d of %s, which has %d", r.Index, process, pr.Instances)
	case all[i].State != lrp.Running:
		return nil, absent("instance %d of %s is %s; there is a shell only in one that is %s", r.Index, process, all[i].State, lrp.Running)
	}
	return x.Exec(ctx, pr.LRP, r.Index, run, r.Size)
}
