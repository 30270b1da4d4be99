package cell

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/dewpoint-go/dewpoint/logs"
)

// job is one work on an Agent. Its goroutine owns it, but for what is said otherwise.
type job struct {
	a        *Agent
	work     Work // never changed
	accepted time.Time
	log      *logBuffer
	cellSrc  string // the Source of lines that the cell itself says

	ctx      context.Context // of its steps; its cause tells why it ended
	cancel   context.CancelCauseFunc
	stop     chan struct{} // closed by Agent.stop
	stopOnce sync.Once

	settled    chan struct{} // closed when an adopted job's first status is right
	settleOnce sync.Once

	con    Container
	live   Container // con, under Agent.mu
	old    bool      // con was found, not made
	skip   []Input   // optional ones that came in part, and are done without
	probes []ProbeResult
	buried bool   // a tombstone keeps the status
	status Status // written under Agent.mu by the job's goroutine, read under it by others
}

// note is what a container's Note holds.
type note struct {
	Work     *Work     `json:"work,omitempty"`
	Accepted time.Time `json:"accepted,omitzero"`
	// Status makes the container a tombstone: nothing runs in it, it keeps how a work ended.
	Status *Status `json:"status,omitempty"`
}

// tombstone is what the id of a tombstone has after that of its work.
const tombstone = ".ended"

// fail is how a work failed.
type fail struct {
	reason Reason
	text   string
}

func (a *Agent) newJob(w Work, accepted time.Time) *job {
	j := &job{a: a, work: w, accepted: accepted, stop: make(chan struct{}), settled: make(chan struct{}),
		log: &logBuffer{maxLines: a.cfg.LogLines, maxBytes: a.cfg.LogBytes, budget: &a.lines}, cellSrc: w.Log.Source}
	if w.Health != nil || w.LRP != "" || w.Log.Source == "" {
		j.cellSrc = "CELL"
	}
	a.lines.join(j.log)
	j.ctx, j.cancel = context.WithCancelCause(a.ctx)
	j.status = Status{ID: w.ID, Work: &w, Phase: PhaseAccepted, Since: accepted}
	return j
}

func (j *job) say(source, format string, args ...any) {
	j.line(source, false, fmt.Sprintf(format, args...))
}

func (j *job) line(source string, stderr bool, text string) {
	j.lineAt(time.Time{}, source, stderr, text)
}

// lineAt adds a line that came at a time; zero: now.
func (j *job) lineAt(at time.Time, source string, stderr bool, text string) {
	if at.IsZero() {
		at = j.a.cfg.Now()
	}
	j.log.add(logs.Line{App: j.work.Log.App, Source: source, Index: j.work.Log.Index, Instance: j.work.ID,
		Time: at, Stderr: stderr, Text: text})
}

// set changes the status and tells the watchers.
func (j *job) set(change func(s *Status)) {
	j.a.mu.Lock()
	defer j.a.mu.Unlock()
	was := j.status.Phase
	change(&j.status)
	if j.status.Phase != was {
		j.status.Since = j.a.cfg.Now()
	}
	j.a.publish(j)
}

func (j *job) phase(p Phase) { j.set(func(s *Status) { s.Phase = p }) }

func (j *job) settle() { j.settleOnce.Do(func() { close(j.settled) }) }

var errTimeout = errors.New("timeout")

// run does the work, and keeps its end until it is asked to forget it.
func (j *job) run() {
	defer j.log.close()
	defer j.settle()
	defer j.cancel(nil)
	if !j.buried {
		if t := j.work.Timeout; t > 0 {
			timer := time.AfterFunc(t-j.a.cfg.Now().Sub(j.accepted), func() { j.cancel(errTimeout) })
			defer timer.Stop()
		}
		f := j.perform(j.ctx)
		if j.a.ctx.Err() != nil {
			return // left running
		}
		j.finish(j.ctx, f)
	}
	j.log.close()
	j.settle()
	select {
	case <-j.stop:
		j.bury()
		j.a.forget(j)
	case <-j.a.ctx.Done():
	}
}

// perform is the work up to its outputs; nil: it went well.
func (j *job) perform(ctx context.Context) *fail {
	f := j.steps(ctx)
	switch cause := context.Cause(ctx); {
	case f == nil:
	case errors.Is(cause, errTimeout):
		f = &fail{ReasonTimeout, fmt.Sprintf("exceeded %s timeout", j.work.Timeout)}
	case errors.Is(cause, errStopped):
		f = &fail{ReasonStopped, "stopped"}
	}
	return f
}

func (j *job) steps(ctx context.Context) *fail {
	for {
		if j.con == nil {
			j.phase(PhaseCreating)
			f := j.create(ctx)
			if f != nil && f.reason != reasonAgain {
				return f
			}
			if f != nil { // it holds a part of an input that must not be there
				j.destroy()
				if j.con != nil {
					return &fail{ReasonInternal, "its container could not be destroyed"}
				}
				continue
			}
		}
		again, f := j.execute(ctx)
		if f != nil {
			return f
		}
		if !again {
			break
		}
		// A container that was found without a process: its agent ended while it was being filled.
		j.destroy()
		if j.con != nil {
			return &fail{ReasonInternal, "its container could be neither used nor destroyed"}
		}
		j.old = false
		// It begins anew, and other works must not wait for its inputs.
		j.phase(PhaseCreating)
		j.settle()
	}
	if len(j.work.Outputs) == 0 {
		return nil
	}
	j.phase(PhaseSaving)
	return j.save(ctx)
}

// finish removes the container and publishes how the work ended.
func (j *job) finish(ctx context.Context, f *fail) {
	if f != nil && j.con != nil && f.reason != ReasonStopped {
		j.saveAfterFailure()
	}
	end := j.status.clone() // only this goroutine writes it
	end.Phase, end.NotReady = PhaseDone, false
	end.Since = j.a.cfg.Now()
	end.Last = j.log.tail(20)
	if f != nil {
		end.Failure, end.Reason = cut(f.text, 10_000), f.reason
		if f.reason == ReasonHealth {
			end.Probes = j.probes
		}
	}
	keep := j.a.total.Survives && !errors.Is(context.Cause(ctx), errStopped)
	if keep {
		keep = !j.inscribe(end)
	}
	if j.con != nil {
		j.say(j.cellSrc, "Cell %s destroying container for instance %s", j.a.cfg.ID, j.work.ID)
		j.destroy()
		if j.con == nil {
			j.say(j.cellSrc, "Cell %s successfully destroyed container for instance %s", j.a.cfg.ID, j.work.ID)
		}
	}
	if keep { // there was perhaps no room for it before
		j.inscribe(end)
	}
	j.log.close() // before it is told that the work is done: who then reads gets all
	j.set(func(s *Status) { *s = end })
}

func cut(s string, n int) string {
	if len(s) > n {
		return s[:n]
	}
	return s
}

// create makes the container and puts the inputs in.
func (j *job) create(ctx context.Context) *fail {
	j.say(j.cellSrc, "Cell %s creating container for instance %s", j.a.cfg.ID, j.work.ID)
	data, err := json.Marshal(note{Work: &j.work, Accepted: j.accepted})
	if err != nil {
		return &fail{ReasonInternal, err.Error()}
	}
	c := Creation{ID: j.work.ID, Spec: j.work.Spec, Note: data}
	if login := j.a.cfg.Login; login != nil && j.work.Spec.Image != "" {
		c.Login = func(ctx context.Context) (string, string, error) { return login(ctx, j.work) }
	}
	inputs := j.work.Inputs
	var fetched []*fetch
	for _, in := range j.work.Layers {
		if in.SHA256 == "" { // without a digest nothing can be shared
			inputs = append(inputs[:len(inputs):len(inputs)], in)
			continue
		}
		f := &fetch{j: j, in: in}
		fetched = append(fetched, f)
		c.Layers = append(c.Layers, Layer{Digest: in.SHA256, Dir: in.Dir, Open: f.open})
		f.begin()
	}
	con, err := j.a.cfg.Runtime.Create(ctx, c)
	for _, f := range fetched {
		f.end(err)
	}
	if err != nil {
		j.remains()
		var first *fetch
		for _, f := range fetched { // the end of one ends the others
			if f.err != nil && (first == nil || errors.Is(first.err, context.Canceled)) {
				first = f
			}
		}
		if first != nil {
			return &fail{reasonOf(first.err), first.failure()}
		}
		if bad, ok := errors.AsType[*ArchiveError](err); ok {
			return &fail{ReasonArchive, layerOf(fetched, err) + " cannot be unpacked: " + bad.Error()}
		}
		return &fail{ReasonCreate, "failed to create container: " + err.Error()}
	}
	j.con = con
	j.set(func(s *Status) { s.Addresses, j.live = con.Info().Addresses, con })
	j.say(j.cellSrc, "Cell %s successfully created container for instance %s", j.a.cfg.ID, j.work.ID)
	return j.fill(ctx, inputs)
}

// layerOf names the layer that Create says it failed for.
func layerOf(fetched []*fetch, err error) string {
	for _, f := range fetched {
		if f.in.SHA256 != "" && f.in.Name != "" && strings.Contains(err.Error(), f.in.SHA256) {
			return f.in.Name
		}
	}
	return "a layer"
}

// remains looks for a container that was made although Create failed.
func (j *job) remains() {
	ctx, cancel := j.cleanup()
	defer cancel()
	all, err := j.a.cfg.Runtime.Containers(ctx)
	if err != nil {
		j.a.cfg.Logger.Error("list containers", "cell", j.a.cfg.ID, "work", j.work.ID, "error", err)
		return
	}
	for _, c := range all {
		if c.Info().ID == j.work.ID {
			j.con = c
		}
	}
}

// cleanup is the context of what must be done although the work has ended.
func (j *job) cleanup() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(j.a.ctx), 30*time.Second)
}

// destroy removes the container; j.con is nil if that succeeded.
func (j *job) destroy() {
	if j.con == nil {
		return
	}
	j.a.mu.Lock()
	j.live = nil
	j.a.mu.Unlock()
	ctx, cancel := j.cleanup()
	defer cancel()
	var err error
	for try := range 4 {
		if err = j.con.Destroy(ctx); err == nil || errors.Is(err, fs.ErrNotExist) {
			j.con = nil
			return
		}
		pause(ctx, 50*time.Millisecond<<try)
	}
	j.a.cfg.Logger.Error("destroy container", "cell", j.a.cfg.ID, "work", j.work.ID, "error", err)
}

// pause waits for d or the end of ctx.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// inscribe makes the end durable where containers outlive the program: in the Note of a
// container in which nothing runs. It is there before the work's own goes.
func (j *job) inscribe(end Status) bool {
	ctx, cancel := j.cleanup()
	defer cancel()
	data, err := json.Marshal(note{Status: &end, Accepted: j.accepted})
	if err == nil && len(data) > MaxNote { // the work is what is long: keep what tells which it was
		w := Work{ID: j.work.ID, LRP: j.work.LRP, Index: j.work.Index, Log: j.work.Log}
		small := end
		small.Work = &w
		data, err = json.Marshal(note{Status: &small, Accepted: j.accepted})
	}
	if err == nil {
		_, err = j.a.cfg.Runtime.Create(ctx, Creation{ID: j.work.ID + tombstone, Note: data})
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		j.a.cfg.Logger.Error("keep the end of a work", "cell", j.a.cfg.ID, "work", j.work.ID, "error", err)
		return false
	}
	return true
}

// bury removes what a finished work has left: a container that would not go, the tombstone.
func (j *job) bury() {
	j.destroy()
	if !j.a.total.Survives && !j.buried {
		return
	}
	ctx, cancel := j.cleanup()
	defer cancel()
	all, err := j.a.cfg.Runtime.Containers(ctx)
	for _, c := range all {
		if c.Info().ID == j.work.ID+tombstone {
			err = errors.Join(err, c.Destroy(ctx))
		}
	}
	if err != nil {
		j.a.cfg.Logger.Error("forget the end of a work", "cell", j.a.cfg.ID, "work", j.work.ID, slog.Any("error", err))
	}
}
