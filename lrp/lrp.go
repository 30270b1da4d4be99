package lrp

import (
	"context"
	"errors"
	"iter"
	"time"

	"github.com/dewpoint-go/dewpoint/cell"
)

// ID names a Desired. Its work is immutable: a changed template is a new ID, as with
// Cloud Foundry's process_guid.
type ID string

// Desired is a long-running process as it is wanted.
type Desired struct {
	ID        ID  `json:"id"`
	Instances int `json:"instances"` // 0 or more
	// Work is the template of each instance; ID, LRP and Index are filled in by WorkFor.
	Work cell.Work `json:"work"`
	// Annotation is opaque to the Scheduler.
	Annotation string `json:"annotation,omitempty"`
}

// State is where an instance stands, in Cloud Foundry's words.
type State string

// The states of an instance.
const (
	Unclaimed State = "UNCLAIMED" // on no cell: waiting to be placed
	Claimed   State = "CLAIMED"   // a cell has it and is making it ready
	Running   State = "RUNNING"   // healthy
	Crashed   State = "CRASHED"   // waiting for its next try
)

// Standing is in what right an occupant of an index is there, in Cloud Foundry's words (there:
// presence).
type Standing string

// The standings of an occupant.
const (
	Ordinary   Standing = ""           // the one that is wanted
	Suspect    Standing = "SUSPECT"    // its cell is lost; it may still serve
	Evacuating Standing = "EVACUATING" // its cell is drained, or it is moved; it serves until its replacement does
)

// Instance is one instance as it is. While an index has several occupants it is the one that
// represents it (see [Row.Shown]), and Others has the rest.
type Instance struct {
	LRP       ID             `json:"lrp"`
	Index     int            `json:"index"`
	GUID      string         `json:"guid,omitempty"` // the id of its work; "" while on no cell
	Cell      string         `json:"cell,omitempty"`
	State     State          `json:"state"`
	Since     time.Time      `json:"since"`
	Addresses []cell.Address `json:"addresses,omitempty"`
	// Routable tells that it may be sent requests: it is Running, its readiness check does
	// not fail, and it was not asked to stop.
	Routable bool     `json:"routable,omitempty"`
	Standing Standing `json:"presence,omitempty"`
	Crashes  int      `json:"crashes,omitempty"`
	// LastCrash tells how it ended last.
	LastCrash *Crash `json:"lastCrash,omitempty"`
	// Next is when a Crashed instance is tried again; zero: never.
	Next time.Time `json:"next,omitzero"`
	// PlacementError says why an Unclaimed instance found no place.
	PlacementError string `json:"placementError,omitempty"`
	// Placed says in words why it is on its cell.
	Placed string `json:"placed,omitempty"`
	// Others are the other occupants of the index that run and may serve: suspect and
	// evacuating ones, which a router keeps until the Event that no longer has them, and the
	// replacement of the one that is shown, if it runs already.
	Others []Occupant `json:"others,omitempty"`
}

// Occupant is a work that stands, or stood, for an instance.
type Occupant struct {
	GUID      string         `json:"guid"`
	Cell      string         `json:"cell"`
	State     State          `json:"state"` // Claimed or Running
	Since     time.Time      `json:"since"`
	Addresses []cell.Address `json:"addresses,omitempty"`
	Routable  bool           `json:"routable,omitempty"`
	Standing  Standing       `json:"presence,omitempty"`
	Placed    string         `json:"placed,omitempty"`
	// Until is when an Evacuating one is stopped though its replacement does not serve.
	Until time.Time `json:"until,omitzero"`
	// Moving: it is Evacuating not because its cell is drained, but for a better balance. If
	// the replacement fails, it stays.
	Moving bool `json:"moving,omitempty"`
}

// Crash is a report of one end that was not asked for.
type Crash struct {
	Time    time.Time   `json:"time"`
	Reason  cell.Reason `json:"reason,omitempty"`
	Failure string      `json:"failure"`
	Exit    *cell.Exit  `json:"exit,omitempty"`
	Last    []string    `json:"last,omitempty"` // newest lines
	// Probes are the newest health probes, if it ended because of them.
	Probes []cell.ProbeResult `json:"probes,omitempty"`
}

// Event is one change of an instance. It may hold several steps: a crash and the claim of
// the next try can come as one.
type Event struct {
	Instance Instance `json:"instance,omitzero"`
	Gone     bool     `json:"gone,omitempty"`   // the instance is no more
	Synced   bool     `json:"synced,omitempty"` // all that was is told; changes follow
	// Rev given to Watch goes on after this Event. Of changes made together each but the
	// last carries the revision before, so nothing is missed, and some may be told twice.
	Rev uint64 `json:"rev"`
}

// ErrCompacted is what Watch yields if the changes since a revision are no longer kept.
var ErrCompacted = errors.New("lrp: revision is no longer kept, list again")

// Scheduler keeps long-running processes as they are wanted. All methods may be called by
// any number of goroutines. A call that fails with an error that wraps context.Canceled or
// context.DeadlineExceeded may have been done. The conformance suite is lrptest.Run.
//
// Optional powers, found by assertion: [Restarter], [Execer], [Runner], [Confirmer], and staging.TaskRunner.
type Scheduler interface {
	// Apply says what is wanted. Durable on return; the effect follows. Idempotent by d.ID:
	// applied again, Instances and Annotation may differ, Work may not ([ErrImmutable]).
	Apply(ctx context.Context, d Desired) error
	// Remove ends all instances. Durable on return; the effect follows. Unknown: nil. What is
	// applied under the ID after that is another process, whose Work may differ.
	Remove(ctx context.Context, id ID) error
	// Instances returns the rows of a process in order of Index; unknown: none.
	Instances(ctx context.Context, id ID) ([]Instance, error)
	// Watch with after 0 yields every instance, then Synced, then each change; with a
	// revision it yields each change since (and ErrCompacted if they are no longer kept).
	// It ends when ctx does.
	Watch(ctx context.Context, after uint64) iter.Seq2[Event, error]
}

// Restarter is an optional power of a Scheduler.
type Restarter interface {
	// Restart stops one instance and starts it anew; its crashes are forgotten. Durable on
	// return; the effect follows. No such instance: an error that wraps fs.ErrNotExist.
	Restart(ctx context.Context, id ID, index int) error
}

// Execer is an optional power of a Scheduler.
type Execer interface {
	// Exec starts a process for a person beside those of an instance, see cell.Execer. No such instance, or one that is on no
	// cell: an error that wraps fs.ErrNotExist; a cell that cannot: errors.ErrUnsupported.
	Exec(ctx context.Context, id ID, index int, p cell.Process, size *cell.TerminalSize) (cell.Session, error)
}

// Runner is what a Scheduler that owns goroutines has; the platform runs it.
type Runner interface {
	// Run works until ctx ends and returns when all that it started has ended.
	Run(ctx context.Context) error
	// Ready is closed when every cell has told what it runs.
	Ready() <-chan struct{}
}

// Confirmer is a power of a Runner that hears of some cells before others. One that hangs need
// not keep requests from what runs elsewhere.
type Confirmer interface {
	// Confirmed returns the works of instances that are running as Watch tells of them: their
	// cells have said so since Run began. changed is closed when there are more. The map must not be
	// changed. It is of use until Ready; then all are.
	Confirmed() (guids map[string]bool, changed <-chan struct{})
}

// ErrImmutable says that a Desired was applied again with another Work.
var ErrImmutable = errors.New("lrp: the work of a process cannot change; use a new ID")
