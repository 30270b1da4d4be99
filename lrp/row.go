package lrp

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/dewpoint-go/dewpoint/cell"
)

// Row is what a Scheduler keeps for one index of a process: the instance, its crash
// history, and, while a replacement for a lost cell is made, who may still run there.
// Rows are values: functions of this package return changed copies.
type Row struct {
	Instance
	// Suspect is the occupant of a cell that is lost. It keeps serving if it can, until
	// the replacement runs or the cell is back.
	Suspect *Occupant `json:"suspect,omitempty"`
}

// Occupant is a work that stands, or stood, for an instance.
type Occupant struct {
	GUID      string         `json:"guid"`
	Cell      string         `json:"cell"`
	State     State          `json:"state"` // Claimed or Running
	Since     time.Time      `json:"since"`
	Addresses []cell.Address `json:"addresses,omitempty"`
}

// NewRow returns the row of an index that has never run.
func NewRow(id ID, index int, now time.Time) Row {
	return Row{Instance: Instance{LRP: id, Index: index, State: Unclaimed, Since: now}}
}

// Key is the row's unique key; keys of one process sort by index and begin with KeyPrefix.
func (r Row) Key() string { return RowKey(r.LRP, r.Index) }

// RowKey is the key of the row of an index.
func RowKey(id ID, index int) string {
	n := strconv.Itoa(index)
	if pad := 7 - len(n); pad > 0 {
		n = "0000000"[:pad] + n
	}
	return KeyPrefix(id) + n
}

// KeyPrefix is what the keys of a process's rows, and no others, begin with.
func KeyPrefix(id ID) string { return string(id) + "/" }

// Shown returns the instance as users see it. While its cell is lost and the replacement
// does not run yet, that is the suspect.
func (r Row) Shown() Instance {
	if r.Suspect == nil || r.State == Running {
		return r.Instance
	}
	i, s := r.Instance, r.Suspect
	i.GUID, i.Cell, i.State, i.Since, i.Addresses = s.GUID, s.Cell, s.State, s.Since, s.Addresses
	i.Next = time.Time{}
	return i
}

// Holds tells whether a work on a cell is one of the row's occupants.
func (r Row) Holds(cellID, guid string) bool {
	return guid != "" && (r.GUID == guid && r.Cell == cellID ||
		r.Suspect != nil && r.Suspect.GUID == guid && r.Suspect.Cell == cellID)
}

// Claim gives the row to a cell under a GUID that was never used.
func (r Row) Claim(cellID, guid string, now time.Time) Row {
	r.State, r.Since, r.Cell, r.GUID = Claimed, now, cellID, guid
	r.PlacementError, r.Addresses, r.Next = "", nil, time.Time{}
	return r
}

// Unclaim takes the row off its cell without counting a crash: the cell refused it, or the
// work is no longer there.
func (r Row) Unclaim(now time.Time) Row {
	r.State, r.Since, r.Cell, r.GUID = Unclaimed, now, "", ""
	r.PlacementError, r.Addresses, r.Next = "", nil, time.Time{}
	return r
}

// Forget is what Restart does: the row begins anew, without a past and without occupants.
func (r Row) Forget(now time.Time) Row { return NewRow(r.LRP, r.Index, now) }

// Lose says that a cell which answers does not have a work of this row. It is started anew
// and no crash is counted. A work that is not the row's changes nothing.
func Lose(r Row, guid string, now time.Time) Row {
	switch {
	case guid == "":
	case r.GUID == guid:
		return r.Unclaim(now)
	case r.Suspect != nil && r.Suspect.GUID == guid:
		r.Suspect = nil
	}
	return r
}

// CanBecome tells whether Cloud Foundry's state machine allows an instance to become next
// in a single step.
func (i Instance) CanBecome(next Instance) bool {
	if i.LRP != next.LRP || i.Index != next.Index || !next.wellFormed() {
		return false
	}
	same := i.GUID == next.GUID && i.Cell == next.Cell
	none := next.GUID == "" && next.Cell == ""
	switch i.State {
	case Unclaimed:
		return next.State != Crashed
	case Claimed:
		switch next.State {
		case Unclaimed:
			return none
		case Claimed:
			return same
		case Running:
			return true
		case Crashed: // by the instance itself; the row's key is then emptied
			return none
		}
	case Running:
		switch next.State {
		case Unclaimed, Crashed:
			return none
		case Claimed, Running:
			return same
		}
	case Crashed:
		return next.State == Unclaimed
	}
	return false
}

// wellFormed holds the rules for which field may be set in which state.
func (i Instance) wellFormed() bool {
	key := i.GUID != "" && i.Cell != ""
	none := i.GUID == "" && i.Cell == "" && len(i.Addresses) == 0
	if i.Since.IsZero() || i.Index < 0 {
		return false
	}
	switch i.State {
	case Unclaimed:
		return none
	case Claimed:
		return key && len(i.Addresses) == 0 && i.PlacementError == ""
	case Running:
		return key && i.PlacementError == ""
	case Crashed:
		return none && i.PlacementError == ""
	}
	return false
}

// Step returns the row after what a cell says of one of its works. A status of any other
// work changes nothing. Repeating a status changes nothing.
func Step(r Row, s cell.Status, now time.Time) Row {
	switch {
	case s.ID == "":
		return r
	case r.Suspect != nil && r.Suspect.GUID == s.ID:
		return stepSuspect(r, s, now)
	case r.GUID != s.ID:
		return r
	}
	at := moment(s.Since, now)
	switch s.Phase {
	case cell.PhaseAccepted, cell.PhaseCreating, cell.PhaseStarting:
		if r.State != Claimed {
			r.State, r.Since, r.Addresses = Claimed, at, nil
		}
	case cell.PhaseRunning, cell.PhaseSaving:
		if r.State != Running {
			r.State, r.Since, r.PlacementError = Running, at, ""
			r.Suspect = nil
		}
		if !slices.Equal(r.Addresses, s.Addresses) {
			r.Addresses = slices.Clone(s.Addresses)
		}
	case cell.PhaseDone:
		if s.Reason == cell.ReasonStopped { // not by us, for then it were no longer ours
			return r.Unclaim(now)
		}
		return crash(r, s, at)
	}
	return r
}

// stepSuspect follows the suspect. Its end needs no crash: the replacement is on its way.
func stepSuspect(r Row, s cell.Status, now time.Time) Row {
	o := *r.Suspect
	switch s.Phase {
	case cell.PhaseDone:
		r.Suspect = nil
		return r
	case cell.PhaseRunning:
		if o.State == Running && slices.Equal(o.Addresses, s.Addresses) {
			return r
		}
		if o.State != Running {
			o.Since = moment(s.Since, now)
		}
		o.State, o.Addresses = Running, slices.Clone(s.Addresses)
		r.Suspect = &o
	}
	return r
}

// crash counts an end that was not asked for and sets when to try again.
func crash(r Row, s cell.Status, at time.Time) Row {
	if r.State == Running && at.Sub(r.Since) > CrashReset {
		r.Crashes = 0
	}
	r.Crashes++
	c := Crash{Time: at, Reason: s.Reason, Failure: failure(s), Exit: s.Exit, Last: slices.Clone(s.Last)}
	r.LastCrash = &c
	r.Cell, r.GUID, r.Addresses, r.PlacementError = "", "", nil, ""
	r.Since, r.Next = at, time.Time{}
	wait, again := Backoff(r.Crashes)
	if again && wait == 0 {
		r.State = Unclaimed
		return r
	}
	r.State = Crashed
	if again {
		r.Next = at.Add(wait)
	}
	return r
}

// maxFailure is how long a stored failure may be, in bytes, as in Cloud Foundry's database.
const maxFailure = 1024

func failure(s cell.Status) string {
	f := s.Failure
	if f == "" && s.Exit != nil {
		f = fmt.Sprintf("Exited with status %d", s.Exit.Code)
		if s.Work != nil && s.Work.Log.Source != "" {
			f = s.Work.Log.Source + ": " + f
		}
	}
	if f == "" {
		f = "the instance ended for an unknown reason"
	}
	return cut(f, maxFailure)
}

// cut shortens a text to at most n bytes, at the beginning of a character.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && s[n]&0xC0 == 0x80 {
		n--
	}
	return s[:n]
}

// moment is the cell's own time of an event, so that how long something ran is measured by
// one clock. A clock that is ahead of ours is not believed.
func moment(cells, now time.Time) time.Time {
	if cells.IsZero() || cells.After(now) {
		return now
	}
	return cells
}
