package staging

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/logs"
)

// DefaultTimeout is the limit of a whole staging: Cloud Foundry's 900 seconds.
const DefaultTimeout = 15 * time.Minute

// Config says what a Stager works with.
type Config struct {
	// Runner knows the buildpacks. Nil: every staging is refused with a sentence that
	// says what to plug in.
	Runner BuildpackRunner
	// Tasks runs the work. Required.
	Tasks TaskRunner
	// Timeout of a whole staging whose Request names none; 0: [DefaultTimeout].
	Timeout time.Duration
	Logger  *slog.Logger     // nil discards
	Now     func() time.Time // nil: time.Now
}

// Stager runs stagings from request to result. It starts no goroutine and keeps nothing
// but who is being staged; one is needed for all apps, for it sees to it that an app is
// staged once at a time.
type Stager struct {
	runner  BuildpackRunner
	tasks   TaskRunner
	timeout time.Duration
	log     *slog.Logger
	now     func() time.Time

	mu   sync.Mutex
	busy map[string]running // by app
}

type running struct {
	id    string
	since time.Time
}

// New returns a Stager. It starts nothing.
func New(c Config) (*Stager, error) {
	if c.Tasks == nil {
		return nil, errors.New("staging: Config.Tasks is missing; give a TaskRunner, such as cell.Tasks or a scheduler.Scheduler")
	}
	s := &Stager{runner: c.Runner, tasks: c.Tasks, timeout: c.Timeout, log: c.Logger, now: c.Now, busy: map[string]running{}}
	if s.timeout <= 0 {
		s.timeout = DefaultTimeout
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.now == nil {
		s.now = time.Now
	}
	return s, nil
}

// Stage makes a droplet. It blocks until the staging has ended; out, which may be nil, gets
// each line, one call at a time. Every error is an *[Error]. The Result's Phases are filled
// in on failure, too.
//
// An app that is being staged already is refused at once. When ctx ends, the staging is
// stopped and Stage returns within a second; the Error then wraps the context's.
func (s *Stager) Stage(ctx context.Context, r Request, out func(logs.Line)) (Result, error) {
	p := &phases{now: s.now, to: out, tag: logs.Line{App: r.App, Instance: r.ID}}
	if err := s.enter(r); err != nil {
		return Result{}, err
	}
	defer s.leave(r.App)
	began := s.now()
	limit := cmp.Or(r.Timeout, s.timeout)
	res, err := s.run(ctx, r, limit, p)
	res.Phases = p.end()
	took := s.now().Sub(began)
	if err == nil {
		s.log.Info("staged", "staging", r.ID, "app", r.App, "took", took, "droplet", res.Droplet.SHA256)
		return res, nil
	}
	e := s.fail(ctx, r, limit, p, err)
	s.log.Info("staging failed", "staging", r.ID, "app", r.App, "took", took, "reason", string(e.Reason), "err", e)
	return res, e
}

// enter notes that the app is being staged, unless it is already.
func (s *Stager) enter(r Request) error {
	bad := func(text, cure string) error {
		return &Error{Reason: StagingError, Staging: r.ID, Name: r.AppName, Phase: PhasePlan, Text: text, Cure: cure}
	}
	switch {
	case r.ID == "":
		return bad("the request has no ID", "give each staging its own")
	case r.Package.Source == "":
		return bad("the request has no package", "set Request.Package.Source")
	case r.DropletKey == "":
		return bad("the request has no key for the droplet", "set Request.DropletKey")
	case s.runner == nil:
		return &Error{Reason: NoBuildpacksFound, Staging: r.ID, Name: r.AppName, Phase: PhasePlan,
			Text: "no buildpacks are plugged in", Cure: "give a BuildpackRunner, such as that of package staging/buildpack"}
	}
	if r.App == "" {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if b, ok := s.busy[r.App]; ok {
		return &Error{Reason: StagingInProgress, Staging: r.ID, Name: r.AppName, Phase: PhasePlan, Retryable: true,
			Text: fmt.Sprintf("the app is being staged already, by %s since %s", b.id, b.since.UTC().Format(time.RFC3339))}
	}
	s.busy[r.App] = running{id: r.ID, since: s.now()}
	return nil
}

func (s *Stager) leave(app string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.busy, app)
}

// Staging tells which staging of an app is under way, if one is.
func (s *Stager) Staging(app string) (id string, since time.Time, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := s.busy[app]
	return b.id, b.since, ok
}

// errLimit is the cause by which our own limit is told from the caller's.
var errLimit = errors.New("staging limit")

func (s *Stager) run(ctx context.Context, r Request, limit time.Duration, p *phases) (Result, error) {
	began := s.now()
	ctx, cancel := context.WithTimeoutCause(ctx, limit, errLimit)
	defer cancel()

	p.begin(PhasePlan)
	w, err := s.runner.Plan(ctx, r, p.line)
	if err != nil {
		return Result{}, p.failed(ctx, err)
	}
	if len(r.Tags) > 0 {
		w.Spec.Tags = r.Tags
	}
	w.Spec.Isolation = cmp.Or(r.Isolation, w.Spec.Isolation)
	// The cell ends the work by itself, too, should it lose us.
	if left := limit - s.now().Sub(began); w.Timeout <= 0 || left < w.Timeout {
		w.Timeout = max(left, time.Second)
	}
	p.begin(PhasePlace)
	status, err := s.tasks.RunTask(ctx, w, p.line)
	if err != nil {
		return Result{}, p.failed(ctx, err)
	}
	if status.Reason == cell.ReasonStopped && ctx.Err() != nil {
		return Result{}, p.failed(ctx, ctx.Err())
	}
	p.begin(PhaseResult)
	res, err := s.runner.Result(ctx, r, status)
	if err != nil {
		return res, p.failed(ctx, err)
	}
	return res, nil
}

// fail turns any error of a staging into its *Error.
func (s *Stager) fail(ctx context.Context, r Request, limit time.Duration, p *phases, err error) *Error {
	var e, told *Error
	if errors.As(err, &told) {
		clone := *told // the driver's own may be shared
		told = &clone
	} else {
		told = &Error{}
	}
	switch {
	case ctx.Err() != nil: // the caller gave up: whatever broke, that is why
		e = &Error{Reason: Canceled, Err: context.Cause(ctx)}
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			e.Reason = Timeout
		}
	case errors.Is(err, errLimit):
		e = &Error{Reason: Timeout, Text: fmt.Sprintf("exceeded %s timeout", limit), Err: context.DeadlineExceeded}
	case told.Reason != "":
		e = told
		if e.Reason == Timeout { // the cell only knows what was left of it
			e.Text = fmt.Sprintf("exceeded %s timeout", limit)
		}
	default:
		e = &Error{Err: err}
		e.Reason, e.Retryable = placement(err)
		// What has no place says so itself; through whose hands it went nobody asks.
		if s, ok := errors.AsType[interface {
			error
			StagingReason() string
		}](err); ok {
			e.Text, e.Err = s.Error(), s
		}
	}
	e.Staging, e.Name = cmp.Or(e.Staging, r.ID), cmp.Or(e.Name, r.AppName)
	// By whom the end was noticed first is an accident; what was going on is not.
	e.Phase = cmp.Or(told.Phase, p.last)
	if e.Last = told.Last; len(e.Last) == 0 {
		e.Last = p.tail
	}
	return e
}

// placement classes an error of a TaskRunner. A scheduler does not know this package: it
// says its class by a method, or in Cloud Foundry's words.
func placement(err error) (reason Reason, retry bool) {
	if s, ok := errors.AsType[interface {
		error
		StagingReason() string
	}](err); ok {
		return Reason(s.StagingReason()), true
	}
	if _, ok := errors.AsType[*cell.RefusedError](err); ok {
		return InsufficientResources, true
	}
	if errors.Is(err, cell.ErrLost) {
		return CellLost, true
	}
	for _, known := range []Reason{InsufficientResources, NoCompatibleCell, CellCommunicationError} {
		if containsFold(err.Error(), words[known].text) {
			return known, true
		}
	}
	return StagingError, true
}
