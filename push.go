package dewpoint

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/logs"
	"github.com/dewpoint-go/dewpoint/state"
)

// PushRequest says what to push and how to run it. Zero fields mean: as it was, and for a
// new app Cloud Foundry's default.
type PushRequest struct {
	// Name of the app; an app of that name is changed, else one is made. Letters, digits,
	// "-", "_" and "."; its first route is Name.Config.Domain.
	Name string
	// Path is the app's folder, or its zip, jar or war file, on this machine; or
	// Files is the app; or Image names a container image that is run as it is: "HOST/REPOSITORY:TAG". Exactly one
	// of them is given.
	Path  string
	Files fs.FS
	Image string
	// ImageUsername and ImagePassword are for the registry of Image. They are kept for as long as that is where the
	// app's image comes from, as Config.SecretKey says, and are in no log, status or error.
	ImageUsername string
	ImagePassword string
	// Instances of the web process that are wanted; nil: as it was, or 1. Memory and Disk of
	// each in bytes (a new app: 1 GiB), Command and Health are the web process's, too.
	Instances *int
	Memory    int64
	Disk      int64
	Command   string
	Health    *cell.Health
	// Ports that the web process listens on, and User that it runs as, "" being whom the image names: see Process.
	Ports []int
	User  string
	// Processes are settings of further processes, and of web if it is not set above.
	Processes []ProcessRequest
	// Env is set on top of what the app has.
	Env        []string
	Buildpacks []string
	Stack      string
	// Tags are the placement tags of the cells that will do, each of which a cell must have, required
	// or optional; empty and not nil: none. Isolation is the least level of isolation that will do. Both
	// hold for staging, too.
	Tags      []string
	Isolation string
	// LogRate is how many bytes each instance of web may print in a second (0: no limit; negative: nothing is
	// kept), and Grace how long it may take from SIGTERM to SIGKILL (a new app: 10 s).
	LogRate *int64
	Grace   time.Duration
	// Strategy says how the new version takes the place of the one that runs; a new app: Rolling.
	// MaxInFlight is how many new instances of a process Rolling starts at a time; 0: as it was; a new app,
	// or negative: a tenth of them.
	Strategy    Strategy
	MaxInFlight int
	// Hosts are routes beside the first.
	Hosts []string
	// Replace: what is not given is as for a new app, and not as it was.
	Replace bool
	// NoStart stages and leaves the app as it runs, or does not.
	NoStart bool
	// Progress is called with each step and line, one call at a time. Nil: nobody is told.
	Progress func(Progress)
}

// ProcessRequest sets a process of an app. Zero fields mean: as it was, and for a new
// process the default: 1 GiB of memory and disk, and no instances.
type ProcessRequest struct {
	Type      string
	Instances *int
	Memory    int64
	Disk      int64
	Command   string
	Health    *cell.Health
	Ports     []int
	User      string
	LogRate   *int64
	Grace     time.Duration
}

// PushResult says what a push did.
type PushResult struct {
	App     App
	Package Package
	Build   Build
	Droplet Droplet
	// Hosts are the app's routes.
	Hosts []string
	// Processes are what runs now.
	Processes []ProcessStatus

	// Files and Bytes of the app, and how many of them were here already and not stored again.
	Files, KnownFiles int
	Bytes, KnownBytes int64
	// CacheUsed tells that staging was given the build cache of an earlier one.
	CacheUsed bool
	// Steps tells how long each took, in order.
	Steps []StepTime
	Took  time.Duration
}

// StepTime is how long a step took.
type StepTime struct {
	Step Step
	Took time.Duration
}

// push is one Push under way.
type push struct {
	p     *Platform
	req   PushRequest
	res   PushResult
	begun time.Time
	cur   Step
	curAt time.Time
	tell  func(Progress)
}

func (u *push) begin(s Step) {
	u.cur, u.curAt = s, u.p.now()
	u.tell(Progress{Step: s, Time: u.curAt})
}

func (u *push) done(format string, args ...any) {
	now := u.p.now()
	took := now.Sub(u.curAt)
	u.res.Steps = append(u.res.Steps, StepTime{u.cur, took})
	u.tell(Progress{Step: u.cur, Time: now, Done: true, Took: took, Text: fmt.Sprintf(format, args...)})
}

func (u *push) line(l logs.Line) {
	u.p.logs.Append(l)
	l.Pos = 0 // that of another stream
	u.tell(Progress{Step: u.cur, Time: l.Time, Line: &l})
}

// Push takes an app from its files, or its image, to running instances behind a route, and returns when
// every instance is healthy. It needs Run to be under way.
//
// If a step fails, the error names it; what an earlier push had running goes on. A failed
// staging is a *staging.Error. When ctx ends, or the app is stopped or deleted, Push ends within
// a second and leaves nothing half-done. Settings that were asked for wait for the next push or
// restart. Several pushes may run at once; of one app, one at a time.
//
// Until the new version begins to take over, what runs can be scaled, restarted and so on; what is
// asked for after that waits until it has. RunTask never waits.
func (p *Platform) Push(ctx context.Context, req PushRequest) (*PushResult, error) {
	if err := req.Validate(); err != nil {
		return nil, err
	}
	ctx, unlock, err := p.lockApp(ctx, p.pushes, req.Name, false)
	if err != nil {
		return nil, fmt.Errorf("push %s: %w", req.Name, err)
	}
	defer unlock()
	u := &push{p: p, req: req, begun: p.now(), tell: req.Progress}
	if u.tell == nil {
		u.tell = func(Progress) {}
	}
	steps := []func(context.Context) error{u.record, u.stageImage, u.run}
	last := StepStage // before it is run
	if req.Image == "" {
		// Files that cannot be pushed leave no trace: they are read before anything is recorded.
		files, err := u.scan(ctx)
		if err != nil {
			return &u.res, fmt.Errorf("push %s: %w", req.Name, givenUp(ctx, err))
		}
		defer files.Close()
		upload := func(ctx context.Context) error { return u.upload(ctx, files) }
		steps, last = []func(context.Context) error{u.record, upload, u.stage, u.run}, StepDroplet
	}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return &u.res, fmt.Errorf("push %s: %w", req.Name, givenUp(ctx, err))
		}
		if req.NoStart && u.cur == last {
			break
		}
	}
	u.res.Took = p.now().Sub(u.begun)
	return &u.res, nil
}

// record makes or changes the app's row, and its routes.
func (u *push) record(ctx context.Context) error {
	u.begin(StepRecord)
	hosts := append([]string{u.p.defaultHost(u.req.Name)}, u.req.Hosts...)
	fresh := false
	err := u.p.db.Update(ctx, func(tx *state.Tx) error {
		a, ok := first(apps.By(tx, "name", nameKey(u.req.Name)))
		if !ok {
			fresh = true
			a = App{ID: u.p.newID(), Name: u.req.Name, Created: u.p.now()}
		}
		if u.req.Replace {
			a = a.bare()
		}
		u.req.apply(&a)
		a.Updated = u.p.now()
		if err := apps.Put(tx, a); err != nil {
			return err
		}
		for _, h := range hosts {
			r := Route{Host: strings.ToLower(h), App: a.ID}
			if old, ok := routes.Get(tx, r.key()); ok && old.App == a.ID {
				continue // with the options that it has
			}
			if err := claimRoute(tx, r); err != nil {
				return err
			}
		}
		u.res.App = a
		return nil
	})
	if err != nil {
		return fmt.Errorf("record the app: %w", err)
	}
	u.res.Hosts = u.p.hosts(u.res.App.ID)
	what := "changed"
	if fresh {
		what = "created"
	}
	u.done("app %s %s, route %s", u.req.Name, what, strings.Join(u.res.Hosts, ", "))
	return nil
}

func (r *PushRequest) apply(a *App) {
	for _, p := range r.processes() {
		have := a.Process(p.Type)
		p.apply(&have)
		a.set(have)
	}
	if r.Buildpacks != nil {
		a.Buildpacks = r.Buildpacks
	}
	if r.Stack != "" {
		a.Stack = r.Stack
	}
	if r.Tags != nil {
		a.Tags = r.Tags
	}
	a.Isolation = cmp.Or(r.Isolation, a.Isolation)
	a.Strategy = cmp.Or(r.Strategy, a.Strategy)
	a.MaxInFlight = max(cmp.Or(r.MaxInFlight, a.MaxInFlight), 0)
	a.Env = mergeEnv(a.Env, r.Env)
}

// The defaults of a process, which are Cloud Foundry's.
const (
	defaultMemory = 1 << 30
	defaultDisk   = 1 << 30
)

// newProcess is a process of a type that an app did not have.
func newProcess(processType string) Process {
	p := Process{Type: processType, Memory: defaultMemory, Disk: defaultDisk}
	if processType == Web {
		p.Instances = 1
	}
	return p
}

func (p *ProcessRequest) apply(to *Process) {
	if to.Memory == 0 {
		*to = newProcess(to.Type)
	}
	switch {
	case p.Instances == nil:
	case to.LRP != "": // what runs is changed by what takes its place, and not before
		next := *p.Instances
		to.Next = &next
	default:
		to.Instances, to.Next = *p.Instances, nil
	}
	if p.Memory > 0 {
		to.Memory = p.Memory
	}
	if p.Disk > 0 {
		to.Disk = p.Disk
	}
	if p.Command != "" {
		to.Command = p.Command
	}
	if p.Health != nil {
		to.Health = *p.Health
	}
	if p.Ports != nil {
		to.Ports = p.Ports
	}
	to.User = cmp.Or(p.User, to.User)
	if p.LogRate != nil {
		to.LogRate = *p.LogRate
	}
	to.Grace = cmp.Or(p.Grace, to.Grace)
}

// mergeEnv returns base with each of over set, in a stable order.
func mergeEnv(base, over []string) []string {
	out := append([]string(nil), base...)
next:
	for _, kv := range over {
		k, _, _ := strings.Cut(kv, "=")
		for i, have := range out {
			if hk, _, _ := strings.Cut(have, "="); hk == k {
				out[i] = kv
				continue next
			}
		}
		out = append(out, kv)
	}
	return out
}
