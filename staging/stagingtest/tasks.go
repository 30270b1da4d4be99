package stagingtest

import (
	"context"
	"sync"
	"time"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/logs"
)

// Tasks is a staging.TaskRunner that runs a Go function for each work, and can be told to
// fail in the two ways that a real one does.
type Tasks struct {
	// Func plays the work: it says lines and returns how the work ended. Its context ends
	// when the work is stopped or its Timeout is over. Nil: the work ends well at once, with
	// every output it was asked for.
	Func func(ctx context.Context, w cell.Work, say func(string)) cell.Status
	// Before, if it returns an error, stands for a work that never ran.
	Before func(cell.Work) error
	// After, if it returns an error, stands for a work that ran and whose outcome was lost.
	After func(cell.Work) error

	mu   sync.Mutex
	runs []cell.Work
}

// Runs returns the works that were given to RunTask, in order.
func (f *Tasks) Runs() []cell.Work {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]cell.Work(nil), f.runs...)
}

// RunTask implements staging.TaskRunner.
func (f *Tasks) RunTask(ctx context.Context, w cell.Work, out func(logs.Line)) (cell.Status, error) {
	f.mu.Lock()
	f.runs = append(f.runs, w)
	f.mu.Unlock()
	if f.Before != nil {
		if err := f.Before(w); err != nil {
			return cell.Status{}, err
		}
	}
	work := ctx
	if w.Timeout > 0 {
		var cancel context.CancelFunc
		work, cancel = context.WithTimeout(ctx, w.Timeout)
		defer cancel()
	}
	say := func(text string) {
		if out != nil {
			out(logs.Line{App: w.Log.App, Source: w.Log.Source, Index: w.Log.Index, Instance: w.ID, Text: text})
		}
	}
	var s cell.Status
	if f.Func != nil {
		s = f.Func(work, w, say)
	} else {
		s = Ended(w, 0)
	}
	s.ID, s.Phase = w.ID, cell.PhaseDone
	if err := ctx.Err(); err != nil {
		return s, context.Cause(ctx)
	}
	if work.Err() != nil {
		s.Reason, s.Failure = cell.ReasonTimeout, "exceeded "+w.Timeout.String()+" timeout"
	}
	if f.After != nil {
		if err := f.After(w); err != nil {
			return cell.Status{}, err
		}
	}
	return s, nil
}

// Ended returns the Status of a work whose process exited with a code; with 0 it has every
// output that was asked for.
func Ended(w cell.Work, code int) cell.Status {
	s := cell.Status{ID: w.ID, Phase: cell.PhaseDone, Exit: &cell.Exit{Code: code, Time: time.Unix(0, 0)}, Outputs: map[string]cell.Saved{}}
	if code != 0 {
		s.Reason, s.Failure = cell.ReasonExit, "STG: Exited with status "+itoa(code)
		return s
	}
	for _, o := range w.Outputs {
		s.Outputs[o.Path] = cell.Saved{Key: o.Key, Size: 1, SHA256: emptySHA}
	}
	return s
}
