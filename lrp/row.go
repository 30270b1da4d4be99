package lrp

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"time"

	"github.com/dewpoint-go/dewpoint/cell"
)

// Row is what a Scheduler keeps for one index of a process: the instance, its crash
// history, and, while a replacement is made, who stood there before and may still serve.
// Rows are values: functions of this package return changed copies.
type Row struct {
	// Instance is the ordinary occupant; its Standing and Others are empty.
	Instance
	// Suspect is the occupant of a cell that is lost. It keeps serving if it can, until
	// the replacement runs or the cell is back.
	Suspect *Occupant `json:"suspect,omitempty"`
	// Evacuating is the occupant of a cell that is drained, or one that is moved. It serves
	// until the replacement does.
	Evacuating *Occupant `json:"evacuating,omitempty"`
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

// Shown returns the instance as users see it. Of the ordinary occupant and a suspect that is
// the one that runs, the ordinary first, then the suspect; an evacuating one is shown while
// that one waits for a place or is being made (bbs: models/actual_lrp.go).
func (r Row) Shown() Instance {
	i := r.Instance
	if r.Suspect == nil && r.Evacuating == nil {
		return i
	}
	seat := func(o *Occupant, as Standing) {
		i = r.seat(*o).Instance
		i.Standing, i.Next, i.PlacementError = as, time.Time{}, r.PlacementError
	}
	if r.Suspect != nil && r.State != Running {
		seat(r.Suspect, Suspect)
	}
	if r.Evacuating != nil && (i.State == Unclaimed || i.State == Claimed) {
		seat(r.Evacuating, Evacuating)
	}
	other := func(o Occupant, as Standing) {
		if o.GUID != i.GUID && o.State == Running {
			o.Standing = as
			i.Others = append(i.Others, o)
		}
	}
	other(r.occupant(), Ordinary)
	if r.Suspect != nil {
		other(*r.Suspect, Suspect)
	}
	if r.Evacuating != nil {
		other(*r.Evacuating, Evacuating)
	}
	return i
}

// occupant is the ordinary one; without a GUID there is none.
func (r Row) occupant() Occupant {
	return Occupant{GUID: r.GUID, Cell: r.Cell, State: r.State, Since: r.Since, Addresses: r.Addresses, Routable: r.Routable, Placed: r.Placed}
}

// seat makes an occupant the ordinary one.
func (r Row) seat(o Occupant) Row {
	r.GUID, r.Cell, r.State, r.Since, r.Addresses, r.Routable, r.Placed = o.GUID, o.Cell, o.State, o.Since, o.Addresses, o.Routable, o.Placed
	r.Next, r.PlacementError = time.Time{}, ""
	return r
}

// Occupants returns the cells and GUIDs of the works that the row holds: none to three.
func (r *Row) Occupants() (all [3]Occupancy, n int) {
	if r.GUID != "" {
		all[n] = Occupancy{r.Cell, r.GUID}
		n++
	}
	if r.Suspect != nil {
		all[n] = Occupancy{r.Suspect.Cell, r.Suspect.GUID}
		n++
	}
	if r.Evacuating != nil {
		all[n] = Occupancy{r.Evacuating.Cell, r.Evacuating.GUID}
		n++
	}
	return all, n
}

// Occupancy is a work on a cell.
type Occupancy struct{ Cell, GUID string }

// Holds tells whether a work on a cell is one of the row's occupants.
func (r Row) Holds(cellID, guid string) bool {
	all, n := r.Occupants()
	return guid != "" && slices.Contains(all[:n], Occupancy{cellID, guid})
}

// Equal tells whether two rows say the same.
func (r *Row) Equal(o *Row) bool {
	return r.Instance.Equal(&o.Instance) && equalTo(r.Suspect, o.Suspect) && equalTo(r.Evacuating, o.Evacuating)
}

func equalTo(a, b *Occupant) bool {
	return a == b || a != nil && b != nil && a.equal(*b)
}

func (o Occupant) equal(p Occupant) bool {
	return o.GUID == p.GUID && o.Cell == p.Cell && o.State == p.State && o.Routable == p.Routable && o.Standing == p.Standing && o.Placed == p.Placed &&
		o.Moving == p.Moving && o.Since.Equal(p.Since) && o.Until.Equal(p.Until) && slices.Equal(o.Addresses, p.Addresses)
}

// Equal tells whether two instances say the same.
func (i *Instance) Equal(o *Instance) bool {
	return i.GUID == o.GUID && i.State == o.State && i.Since.Equal(o.Since) && i.LRP == o.LRP && i.Index == o.Index && i.Cell == o.Cell &&
		i.Routable == o.Routable && i.Standing == o.Standing && i.Crashes == o.Crashes && i.Next.Equal(o.Next) &&
		i.PlacementError == o.PlacementError && i.Placed == o.Placed && slices.Equal(i.Addresses, o.Addresses) &&
		slices.EqualFunc(i.Others, o.Others, Occupant.equal) &&
		(i.LastCrash == o.LastCrash || reflect.DeepEqual(i.LastCrash, o.LastCrash))
}

// Claim gives the row to a cell under a GUID that was never used.
func (r Row) Claim(cellID, guid string, now time.Time) Row {
	r.State, r.Since, r.Cell, r.GUID = Claimed, now, cellID, guid
	return r.blank()
}

// Unclaim takes the row off its cell without counting a crash: the cell refused it, or the
// work is no longer there.
func (r Row) Unclaim(now time.Time) Row {
	r.State, r.Since, r.Cell, r.GUID = Unclaimed, now, "", ""
	return r.blank()
}

// blank forgets what was told of an earlier occupancy.
func (r Row) blank() Row {
	r.PlacementError, r.Placed, r.Addresses, r.Routable, r.Next = "", "", nil, false, time.Time{}
	return r
}

// Move begins to replace a Running instance by one on a better cell, which Claim names then. It
// goes on until the other one serves; if that fails, or has not happened by then, it stays.
func (r Row) Move(until, now time.Time) Row {
	o := r.occupant()
	o.Until, o.Moving = until, true
	r.Evacuating = &o
	return r.Unclaim(now)
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
	case r.Evacuating != nil && r.Evacuating.GUID == guid:
		r.Evacuating = nil
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

// Knows tells, quickly, that a status says nothing new of a Running instance.
func (r *Row) Knows(s *cell.Status) bool {
	return s.Phase == cell.PhaseRunning && r.State == Running && r.GUID == s.ID && r.Routable == !s.NotReady &&
		r.Suspect == nil && r.Evacuating == nil && slices.Equal(r.Addresses, s.Addresses)
}

// Step returns the row after what a cell says of one of its works. A status of any other
// work changes nothing. Repeating a status changes nothing.
func Step(r Row, s cell.Status, now time.Time) Row {
	switch {
	case s.ID == "":
		return r
	case r.Suspect != nil && r.Suspect.GUID == s.ID:
		r.Suspect = r.Suspect.step(s, now)
		return r
	case r.Evacuating != nil && r.Evacuating.GUID == s.ID:
		r.Evacuating = r.Evacuating.step(s, now)
		return r
	case r.GUID != s.ID:
		return r
	}
	at := moment(s.Since, now)
	switch s.Phase {
	case cell.PhaseAccepted, cell.PhaseCreating, cell.PhaseStarting:
		if r.State != Claimed {
			r.State, r.Since, r.Addresses, r.Routable = Claimed, at, nil, false
		}
	case cell.PhaseRunning, cell.PhaseSaving:
		if r.State != Running {
			r.State, r.Since, r.PlacementError = Running, at, ""
			r.Suspect = nil
		}
		if !slices.Equal(r.Addresses, s.Addresses) {
			r.Addresses = slices.Clone(s.Addresses)
		}
		if r.Routable = !s.NotReady; r.Routable {
			r.Evacuating = nil
		}
	case cell.PhaseStopping:
		r.Routable = false
	case cell.PhaseDone:
		if s.Reason == cell.ReasonStopped { // not by us, for then it were no longer ours
			return r.Unclaim(now)
		}
		return crash(r, s, at)
	}
	return r
}

// step follows an occupant that is not the ordinary one. Its end needs no crash: the
// replacement is on its way. nil: it has ended.
func (o *Occupant) step(s cell.Status, now time.Time) *Occupant {
	n := *o
	switch s.Phase {
	case cell.PhaseDone:
		return nil
	case cell.PhaseRunning:
		if n.State != Running {
			n.State, n.Since = Running, moment(s.Since, now)
		}
		n.Routable, n.Addresses = !s.NotReady, slices.Clone(s.Addresses)
	case cell.PhaseStopping:
		n.Routable = false
	}
	if n.equal(*o) {
		return o
	}
	return &n
}

// crash counts an end that was not asked for and sets when to try again.
func crash(r Row, s cell.Status, at time.Time) Row {
	if r.State == Running && at.Sub(r.Since) > CrashReset {
		r.Crashes = 0
	}
	r.Crashes++
	c := Crash{Time: at, Reason: s.Reason, Failure: Failure(s), Exit: s.Exit, Last: slices.Clone(s.Last), Probes: slices.Clone(s.Probes)}
	r.LastCrash = &c
	r.Cell, r.GUID, r.Since = "", "", at
	r = r.blank()
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

// Failure says in words why a work failed, in at most 1024 bytes.
func Failure(s cell.Status) string {
	f := s.Failure
	if f == "" && s.Exit != nil {
		f = fmt.Sprintf("Exited with status %d", s.Exit.Code)
		if s.Work != nil && s.Work.Log.Source != "" {
			f = s.Work.Log.Source + ": " + f
		}
	}
	if f == "" {
		f = "it ended for an unknown reason"
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
