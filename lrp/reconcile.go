package lrp

import "time"

// Presence is what is known of a cell.
type Presence int

// The presences of a cell.
const (
	// Unknown: it has not told what it runs, or has been silent only briefly. Nothing is
	// done about its instances.
	Unknown Presence = iota
	// Present: it has told what it runs.
	Present
	// Draining: present, and takes no more work.
	Draining
	// Lost: silent for so long that its instances are replaced.
	Lost
)

// Plan is what must change for a process to be as desired.
type Plan struct {
	// Put holds rows that are new or changed, Delete those that must go. The works of
	// occupants that no row holds any more are to be stopped.
	Put, Delete []Row
	// Place holds the rows that wait for a cell, as they are after Put.
	Place []Row
	// Wake is when Reconcile must be asked again though nothing has happened; zero: never.
	Wake time.Time
}

// DefaultEvacuation is how long an instance of a draining cell waits for its replacement, as in
// Cloud Foundry.
const DefaultEvacuation = 10 * time.Minute

// Rules are what Reconcile may be told otherwise. The zero Rules are the usual ones.
type Rules struct {
	// Evacuation is how long an instance of a draining cell waits for its replacement before it
	// is stopped all the same; 0: DefaultEvacuation. While there is no place for the
	// replacement it goes on waiting.
	Evacuation time.Duration
}

// Reconcile is Rules{}.Reconcile.
func Reconcile(d *Desired, rows []Row, presence func(cellID string) Presence, now time.Time) Plan {
	return Rules{}.Reconcile(d, rows, presence, now)
}

// Reconcile compares a process as it is desired (nil: not at all) with its rows. It is
// pure; applied to its own result it changes nothing.
func (u Rules) Reconcile(d *Desired, rows []Row, presence func(cellID string) Presence, now time.Time) Plan {
	var p Plan
	n := 0
	if d != nil {
		n = d.Instances
	}
	if u.Evacuation == 0 {
		u.Evacuation = DefaultEvacuation
	}
	have := make([]bool, n)
	for i := range rows {
		r := &rows[i]
		if r.Index >= n || have[r.Index] {
			p.Delete = append(p.Delete, *r)
			continue
		}
		have[r.Index] = true
		next, changed := *r, false
		if !settled(r, presence) {
			// One decision can make way for another: what is left has nothing to decide.
			for more := true; more; {
				if next, more = u.row(next, presence, now, &p); more {
					changed = true
				}
			}
		}
		if changed {
			p.Put = append(p.Put, next)
		}
		if next.State == Unclaimed {
			p.Place = append(p.Place, next)
		}
	}
	for i, ok := range have {
		if !ok {
			r := NewRow(d.ID, i, now)
			p.Put = append(p.Put, r)
			p.Place = append(p.Place, r)
		}
	}
	return p
}

// settled tells, quickly, of most rows that there is nothing to decide.
func settled(r *Row, presence func(string) Presence) bool {
	if r.Suspect != nil || r.Evacuating != nil || r.GUID == "" {
		return false
	}
	at := presence(r.Cell)
	return at == Present || at == Unknown
}

// row decides about one row that is wanted.
func (u Rules) row(r Row, presence func(string) Presence, now time.Time, p *Plan) (next Row, changed bool) {
	if r.GUID != "" {
		r, changed = u.leave(r, presence(r.Cell), now)
	}
	if s := r.Suspect; s != nil {
		back := presence(s.Cell)
		switch {
		case r.State == Running: // the replacement runs
			r.Suspect, changed = nil, true
		case back == Present: // it is back, sooner than a replacement
			r, changed = r.seat(*s), true
			r.Suspect = nil
		case back == Draining: // back, but not to stay
			if s.State == Running && r.Evacuating == nil {
				o := *s
				o.Until = now.Add(u.Evacuation)
				r.Evacuating = &o
			}
			r.Suspect, changed = nil, true
		}
	}
	if r.Evacuating != nil {
		var moved bool
		r, moved = u.evacuate(r, presence(r.Evacuating.Cell), now)
		changed = changed || moved
		if e := r.Evacuating; e != nil {
			p.wake(e.Until, now)
		}
	}
	if r.State == Crashed && !r.Next.IsZero() {
		if r.Next.After(now) {
			p.wake(r.Next, now)
		} else {
			r, changed = r.Unclaim(now), true
		}
	}
	return r, changed
}

func (p *Plan) wake(at, now time.Time) {
	if at.After(now) && (p.Wake.IsZero() || at.Before(p.Wake)) {
		p.Wake = at
	}
}

// leave takes a row off a cell that is lost or drained.
func (u Rules) leave(r Row, at Presence, now time.Time) (Row, bool) {
	o := r.occupant()
	switch at {
	case Lost:
		if r.Suspect == nil {
			r.Suspect = &o
		}
	case Draining:
		// What does not run yet need not begin there.
		if r.State == Running && r.Evacuating == nil {
			o.Until = now.Add(u.Evacuation)
			r.Evacuating = &o
		}
	default:
		return r, false
	}
	return r.Unclaim(now), true
}

// evacuate decides what becomes of the evacuating occupant.
func (u Rules) evacuate(r Row, at Presence, now time.Time) (Row, bool) {
	e := *r.Evacuating
	late := !e.Until.After(now)
	switch {
	case r.State == Running && r.Routable, at == Lost: // the replacement serves, or it does not itself
		r.Evacuating = nil
	case at == Present && (!e.Moving || r.State != Claimed && r.State != Running || late):
		// The drain was called off, or the move has failed.
		r = r.seat(e)
		r.Evacuating = nil
	case at == Draining && e.Moving:
		e.Moving, e.Until = false, now.Add(u.Evacuation)
		r.Evacuating = &e
	case at == Draining && late && r.State == Unclaimed && r.PlacementError != "":
		// Nobody is served by its end. And if a place is found, that needs its time, too.
		e.Until = now.Add(u.Evacuation)
		r.Evacuating = &e
	case at == Draining && late:
		r.Evacuating = nil
	default:
		return r, false
	}
	return r, true
}
