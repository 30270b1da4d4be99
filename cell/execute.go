package cell

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"time"
)

// process is one process of a job.
type process struct {
	Process
	source   string
	main     bool
	running  Running
	out      [2]*lineWriter
	done     bool
	ending   bool // it was asked to end
	exceeded bool // its grace was over
}

// ending tells that a process has ended, or that its end cannot be learned.
type ending struct {
	p    *process
	exit Exit
	err  error
}

// execution is the time in which a job's processes run.
type execution struct {
	j *job
	// life is longer than the work's context, because processes say something while they
	// are stopped; it is over when they have ended or the agent leaves them.
	life    context.Context
	procs   []*process
	endings chan ending
}

// execute runs the processes to their end. Again: there was none in a container that was
// found, so it has to be made anew.
func (j *job) execute(ctx context.Context) (again bool, f *fail) {
	listen, deaf := context.WithCancel(j.a.ctx)
	defer deaf()
	x := &execution{j: j, life: listen, endings: make(chan ending, 1+len(j.work.Sidecars))}
	f = x.start(ctx)
	if f != nil && f.reason == reasonAgain {
		return true, nil
	}
	if f == nil {
		f = x.watch(ctx)
	}
	if j.a.ctx.Err() != nil {
		return false, f // left running
	}
	if errors.Is(context.Cause(ctx), errStopped) {
		j.phase(PhaseStopping)
		j.say(j.cellSrc, "Cell %s stopping instance %s", j.a.cfg.ID, j.work.ID)
	}
	x.end(f != nil && f.reason == ReasonLimit)
	return false, f
}

// reasonAgain is not a failure: the container has to be made anew (see execute and fill).
const reasonAgain Reason = "again"

// start starts all processes, or finds them again.
func (x *execution) start(ctx context.Context) *fail {
	j := x.j
	x.add(j.work.Process, processID(j.work.Process, -1), j.work.Log.Source)
	for i, p := range j.work.Sidecars {
		name := processID(p, i)
		if p.Grace == 0 {
			p.Grace = j.work.Process.Grace
		}
		x.add(p, name, j.work.Log.Source+"/SIDECAR/"+strings.ToUpper(name))
	}
	x.procs[0].main = true
	addresses := j.con.Info().Addresses
	if j.old {
		j.set(func(s *Status) { s.Addresses, s.Started, j.live = addresses, j.con.Info().Created, j.con })
	}
	for _, p := range x.procs {
		err := x.begin(ctx, p)
		if j.old && p.main && errors.Is(err, fs.ErrNotExist) {
			return &fail{reason: reasonAgain}
		}
		if j.old && p.main && errors.Is(err, errors.ErrUnsupported) {
			return &fail{ReasonLost, "the cell was restarted and cannot find its processes again"}
		}
		if err != nil {
			return &fail{ReasonExit, p.prefix() + "failed to start: " + err.Error()}
		}
		go func() {
			e, err := p.running.Wait(x.life)
			x.endings <- ending{p, e, err}
		}()
	}
	if !j.old {
		j.set(func(s *Status) { s.Started = j.a.cfg.Now() })
	}
	return nil
}

// processID names a process of a work: the main one for -1, or a sidecar.
func processID(p Process, sidecar int) string {
	switch {
	case p.ID != "":
		return p.ID
	case sidecar < 0:
		return "main"
	}
	return "sidecar-" + strconv.Itoa(sidecar)
}

func (x *execution) add(p Process, id, source string) {
	p.ID = id
	proc := &process{Process: p, source: source}
	for i, stderr := range []bool{false, true} {
		proc.out[i] = &lineWriter{add: func(at time.Time, text string) { x.j.output(at, source, stderr, text) }}
	}
	x.procs = append(x.procs, proc)
}

func (p *process) prefix() string {
	if p.source == "" {
		return ""
	}
	return p.source + ": "
}

// begin starts a process, or attaches to it. Its output comes as long as the agent runs.
func (x *execution) begin(ctx context.Context, p *process) (err error) {
	j := x.j
	stdio := IO{Stdout: p.out[0], Stderr: p.out[1]}
	if j.old {
		at, ok := j.con.(Attacher)
		if !ok {
			return errors.ErrUnsupported
		}
		p.running, err = at.Attach(x.life, p.ID, stdio)
		if err == nil || p.main || !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	p.running, err = j.con.Run(x.life, j.dressed(j.con, p.Process), stdio)
	return err
}

// watch waits until something ends the work; nil: its process ended well.
func (x *execution) watch(ctx context.Context) *fail {
	j := x.j
	health := make(chan *fail, 2) // its monitor, and its disk
	defer j.watchDisk(ctx, health)()
	if j.work.Health == nil {
		j.phase(PhaseRunning)
		j.settle()
	} else {
		if !j.old { // what was found is probed first: it may have been running all the time
			j.phase(PhaseStarting)
		}
		m := j.newMonitor(ctx, health)
		defer func() {
			m.end()
			j.probes = m.transcript()
		}()
	}
	select { // an exit is what it is, also if the work is being stopped
	case e := <-x.endings:
		return x.ended(e)
	case f := <-health:
		return f
	case <-ctx.Done():
		return &fail{ReasonStopped, context.Cause(ctx).Error()}
	}
}

// ended takes note of an end, and tells what it means for the work.
func (x *execution) ended(e ending) *fail {
	p := e.p
	p.done = true
	for _, w := range p.out {
		w.flush()
	}
	j := x.j
	if e.err != nil {
		if errors.Is(e.err, fs.ErrNotExist) {
			return &fail{ReasonLost, "missing container"}
		}
		return &fail{ReasonLost, "lost track of the process: " + e.err.Error()}
	}
	text := "Exit status " + strconv.Itoa(e.exit.Code)
	how := ""
	if p.exceeded {
		text += fmt.Sprintf(" (exceeded %s graceful shutdown interval)", p.Grace)
	}
	if e.exit.OutOfMemory {
		how = " (out of memory)"
	}
	j.say(p.source, "%s", text+how)
	if hint := j.fixedPath(e.exit); hint != "" {
		j.line(j.cellSrc, true, hint)
		how += ": " + hint
	}
	advice := j.exitAdvice(p, e.exit)
	if advice != "" {
		j.line(j.cellSrc, true, advice)
		advice = "\n" + advice
	}
	if p.main {
		j.set(func(s *Status) { s.Exit = &e.exit })
	}
	switch task := j.work.Health == nil && j.work.LRP == ""; {
	case p.main && task && e.exit.Code == 0:
		return nil
	case e.exit.Code == 0 && len(j.work.Sidecars) > 0:
		return &fail{ReasonExit, "Codependent step exited" + advice}
	}
	return &fail{ReasonExit, fmt.Sprintf("%sExited with status %d%s%s", p.prefix(), e.exit.Code, how, advice)}
}

// lastWait is how long an exit is waited for after KILL.
const lastWait = time.Second

// end ends what still runs: TERM, its Grace, KILL; at once what must not go on.
func (x *execution) end(atOnce bool) {
	left := slices.DeleteFunc(slices.Clone(x.procs), func(p *process) bool { return p.running == nil || p.done })
	if len(left) == 0 {
		return
	}
	if atOnce {
		for _, p := range left {
			p.Grace = 0
		}
	}
	slices.SortStableFunc(left, func(a, b *process) int { return cmp.Compare(a.Grace, b.Grace) })
	ctx, cancel := context.WithTimeout(context.WithoutCancel(x.j.a.ctx), 30*time.Second+left[len(left)-1].Grace)
	defer cancel()
	for _, p := range left {
		p.ending = true
		if p.Grace > 0 {
			x.signal(ctx, p, "TERM")
		} else {
			x.signal(ctx, p, "KILL")
		}
	}
	begun := time.Now()
	for _, p := range left {
		if p.Grace == 0 {
			continue
		}
		x.gather(left, p.Grace-time.Since(begun))
		if !p.done {
			p.exceeded = true
			x.signal(ctx, p, "KILL")
		}
	}
	x.gather(left, lastWait)
}

func (x *execution) signal(ctx context.Context, p *process, name string) {
	if err := p.running.Signal(ctx, name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		x.j.a.cfg.Logger.Error("signal a process", "cell", x.j.a.cfg.ID, "work", x.j.work.ID, "process", p.ID, "signal", name, "error", err)
	}
}

// gather takes ends until all of them have ended, for at most d.
func (x *execution) gather(all []*process, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	for slices.ContainsFunc(all, func(p *process) bool { return !p.done }) {
		select {
		case e := <-x.endings:
			x.ended(e)
		case <-t.C:
			return
		}
	}
}
