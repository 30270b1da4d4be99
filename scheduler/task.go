package scheduler

import (
	"time"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/lrp"
)

// TaskState is where a task stands, in Cloud Foundry's words.
type TaskState string

// The states of a task.
const (
	TaskPending   TaskState = "PENDING"   // no cell is known to have it
	TaskRunning   TaskState = "RUNNING"   // a cell has it
	TaskCompleted TaskState = "COMPLETED" // it is over; see Failed
)

// Task is work that is done once. It is placed again only while it has not begun; what has
// begun is never done twice.
type Task struct {
	ID string `json:"id"`
	// Work is the template; its ID is filled in anew for each cell it is sent to.
	Work       cell.Work `json:"work"`
	Annotation string    `json:"annotation,omitempty"` // opaque
	State      TaskState `json:"state"`
	Created    time.Time `json:"created"`
	Since      time.Time `json:"since"` // of the state
	Cell       string    `json:"cell,omitempty"`
	GUID       string    `json:"guid,omitempty"`   // the id of its work; "" while on no cell
	Placed     string    `json:"placed,omitempty"` // why it is on its cell
	// Rejections counts in vain tries to place it; after the third it has failed.
	Rejections     int    `json:"rejections,omitempty"`
	PlacementError string `json:"placementError,omitempty"`

	// The rest says how a completed task ended.

	Failed  bool                  `json:"failed,omitempty"`
	Failure string                `json:"failure,omitempty"` // one sentence
	Reason  cell.Reason           `json:"reason,omitempty"`  // the class of Failure, where a cell told it
	Exit    *cell.Exit            `json:"exit,omitempty"`
	Outputs map[string]cell.Saved `json:"outputs,omitempty"` // its result, by path
	Last    []string              `json:"last,omitempty"`    // newest lines
}

// The numbers of the task policy, which are Cloud Foundry's.
const (
	maxRejections = 3
	taskPatience  = 30 * time.Minute    // from being desired to a cell
	taskKept      = 31 * 24 * time.Hour // a completed task
)

// The failures of a task that no cell tells, in Cloud Foundry's words.
const (
	failCancelled = "task was cancelled"
	failLate      = "not started within time limit"
	failCellLost  = "cell disappeared before completion"
	failGone      = "task container does not exist"
)

func (t Task) complete(failure string, now time.Time) Task {
	t.State, t.Since = TaskCompleted, now
	t.Failed, t.Failure = failure != "", failure
	t.PlacementError = ""
	return t
}

func (t Task) claim(cellID, guid, why string, now time.Time) Task {
	t.Cell, t.GUID, t.Placed, t.PlacementError = cellID, guid, why, ""
	return t
}

// unclaim takes the task off a cell where it has not begun.
func (t Task) unclaim(now time.Time) Task {
	t.State, t.Since, t.Cell, t.GUID, t.Placed = TaskPending, now, "", "", ""
	return t
}

// reject counts a try in vain.
func (t Task) reject(why string, now time.Time) Task {
	t = t.unclaim(now)
	t.Rejections++
	why = stored(why)
	t.PlacementError = why
	if t.Rejections >= maxRejections {
		return t.complete(why, now)
	}
	return t
}

// step is the task after what its cell says of its work.
func (t Task) step(s *cell.Status, now time.Time) Task {
	if t.State == TaskCompleted {
		return t
	}
	switch {
	case s.Phase != cell.PhaseDone:
		if t.State == TaskPending {
			t.State, t.Since = TaskRunning, now
		}
		return t
	case s.Reason == cell.ReasonCreate: // it has not begun
		return t.reject(lrp.Failure(*s), now)
	}
	failure := ""
	if s.Failure != "" || s.Reason != "" {
		failure = lrp.Failure(*s)
	}
	t = t.complete(failure, now)
	t.Reason, t.Exit, t.Outputs, t.Last = s.Reason, s.Exit, s.Outputs, s.Last
	return t
}

// due returns the task after what time alone does to it, and when to look again. gone: it is
// to be forgotten.
func (t Task) due(now time.Time) (next Task, wake time.Time, gone bool) {
	switch t.State {
	case TaskPending:
		if wake = t.Created.Add(taskPatience); !wake.After(now) {
			t = t.complete(failLate, now)
			wake = now.Add(taskKept)
		}
	case TaskCompleted:
		if wake = t.Since.Add(taskKept); !wake.After(now) {
			gone = true
		}
	}
	return t, wake, gone
}

// TaskEvent is one change of a task; as lrp.Event.
type TaskEvent struct {
	Task   Task   `json:"task,omitzero"`
	Gone   bool   `json:"gone,omitempty"`
	Synced bool   `json:"synced,omitempty"`
	Rev    uint64 `json:"rev"`
}
