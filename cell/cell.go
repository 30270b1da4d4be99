package cell

import (
	"context"
	"iter"
	"time"

	"github.com/dewpoint-go/dewpoint/logs"
)

// Cell takes work and runs it. It is the boundary that a network may be put in: plain
// data only, coarse, idempotent, and level-triggered by Watch.
//
// All methods may be called by any number of goroutines. The conformance suite is
// celltest.RunCell.
type Cell interface {
	State(ctx context.Context) (State, error)
	// Start takes work and returns when it was accepted: from then on it is in every Watch.
	// Idempotent by w.ID, also after the work has ended. A *RefusedError says that the work
	// was not taken and may be placed elsewhere; any other error says nothing: ask Watch.
	Start(ctx context.Context, w Work) error
	// Stop ends a work (gracefully: SIGTERM, its Grace, SIGKILL) and then forgets it. It
	// returns at once; the end arrives by Watch as an Event that is Gone. Unknown: nil.
	Stop(ctx context.Context, id string) error
	// Watch yields every work known, then one Event{Synced: true}, then each change, until
	// ctx ends or the consumer stops. A slow consumer sees the latest Status of a work, not
	// each one between. A finished work stays until Stop forgets it.
	Watch(ctx context.Context) iter.Seq2[Event, error]
	// Logs yields the lines of a work from a Position. It ends after the last line of a
	// finished work. A Position beyond the newest line comes from another stream, such as that before the
	// cell was started anew, and means the beginning. Unknown: fs.ErrNotExist.
	Logs(ctx context.Context, id string, from logs.Position) iter.Seq2[logs.Line, error]
}

// State describes a cell.
type State struct {
	ID   string `json:"id"`
	Zone string `json:"zone,omitempty"`
	// Tags keep work away that does not ask for all of them.
	Tags []string `json:"tags,omitempty"`
	// OptionalTags serve work that asks for them, and keep none away.
	OptionalTags []string `json:"optionalTags,omitempty"`

	Total Resources `json:"total"`
	Free  Resources `json:"free"`
	// Draining: it takes no more work; what runs goes on.
	Draining bool `json:"draining,omitempty"`
	// Changes counts, from any number on, what Watch has to tell. If it is ahead of the newest
	// Event's for long, that Watch is stuck. 0: the cell does not count.
	Changes uint64 `json:"changes,omitempty"`
}

// Phase is where a work stands.
type Phase string

// The phases of a work, in their order.
const (
	PhaseAccepted Phase = "accepted" // taken, nothing done yet
	PhaseCreating Phase = "creating" // container and inputs
	PhaseStarting Phase = "starting" // the process runs, not yet healthy
	PhaseRunning  Phase = "running"  // a task's process runs; an instance is healthy
	PhaseSaving   Phase = "saving"   // the process has ended well, outputs are being stored
	PhaseStopping Phase = "stopping" // asked to stop
	PhaseDone     Phase = "done"     // ended, see Status.Exit and Status.Failure
)

// Status is what a cell knows of a work. It is plain data.
type Status struct {
	ID        string    `json:"id"`
	Work      *Work     `json:"work,omitempty"`
	Phase     Phase     `json:"phase"`
	Since     time.Time `json:"since"` // of the phase
	Started   time.Time `json:"started,omitzero"`
	Addresses []Address `json:"addresses,omitempty"`
	// NotReady: the instance is PhaseRunning, but its readiness check does not pass: it should get
	// no requests.
	NotReady bool `json:"notReady,omitempty"`
	// Exit is the main process's; nil while it runs or if it never did.
	Exit *Exit `json:"exit,omitempty"`
	// Failure is "" for a work that has not failed, else one sentence in Cloud Foundry's
	// words: "APP/PROC/WEB: Exited with status 1", "exceeded 15m0s timeout". What the app's owner
	// can do about it may follow on a second line.
	Failure string `json:"failure,omitempty"`
	// Reason is the class of Failure.
	Reason Reason `json:"reason,omitempty"`
	// Outputs by path: those that are Inline, with their bytes, and those that were saved,
	// with size and digest.
	Outputs map[string]Saved `json:"outputs,omitempty"`
	// Last holds up to 20 of the newest lines, kept for a work that is PhaseDone.
	Last []string `json:"last,omitempty"`
	// Probes are the newest results of health probes, up to 10, of a work that is PhaseDone because
	// of ReasonHealth.
	Probes []ProbeResult `json:"probes,omitempty"`
}

// ProbeResult is what a health probe found.
type ProbeResult struct {
	Check string        `json:"check"` // "startup", "liveness" or "readiness"
	Time  time.Time     `json:"time"`
	Took  time.Duration `json:"took"`
	OK    bool          `json:"ok"`
	Text  string        `json:"text,omitempty"` // why it failed
}

// Saved is an output that was taken out.
type Saved struct {
	Key    string `json:"key,omitempty"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
	Data   []byte `json:"data,omitempty"`
}

// Reason is the class of a failure.
type Reason string

// The reasons why a work failed.
const (
	ReasonExit     Reason = "exit"     // a process ended that should not have, or not with 0
	ReasonTimeout  Reason = "timeout"  // Work.Timeout
	ReasonHealth   Reason = "health"   // never healthy, or no longer
	ReasonLimit    Reason = "limit"    // over a limit that the cell looks after, such as disk
	ReasonInput    Reason = "input"    // an input could not be fetched, or was not what it should be
	ReasonArchive  Reason = "archive"  // an input or layer is damaged, or no archive that may be unpacked: the same bytes fail again
	ReasonOutput   Reason = "output"   // an output could not be stored, or was missing or too large
	ReasonCreate   Reason = "create"   // the container could not be made
	ReasonStopped  Reason = "stopped"  // asked to stop
	ReasonLost     Reason = "lost"     // the container vanished
	ReasonInternal Reason = "internal" // a fault of the cell
)

// Event is one change on a cell.
type Event struct {
	Status Status `json:"status,omitzero"`
	// Gone: the work has ended because of Stop, and is forgotten.
	Gone bool `json:"gone,omitempty"`
	// Synced comes once, after all that was known.
	Synced bool `json:"synced,omitempty"`
	// Changes, if not 0, says that this Watch has told all that State had counted then.
	Changes uint64 `json:"changes,omitempty"`
}

// RefusedError says that a cell did not take a work, which may be placed elsewhere.
type RefusedError struct {
	Cell   string
	Reason string // in words: "insufficient resources: memory"
}

func (e *RefusedError) Error() string { return "cell " + e.Cell + " refused the work: " + e.Reason }
