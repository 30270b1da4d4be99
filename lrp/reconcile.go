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

// Reconcile compares a process as it is desired (nil: not at all) with its rows. It is
// pure; applied to its own result it changes nothing.
func Reconcile(d *Desired, rows []Row, presence func(cellID string) Presence, now time.Time) Plan {
	var p Plan
	n := 0
	if d != nil {
		n = d.Instances
	}
	have := make([]bool, n)
	for _, r := range rows {
		if r.Index >= n || have[r.Index] {
			p.Delete = append(p.Delete, r)
			continue
		}
		have[r.Index] = true
		p.row(r, presence, now)
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

// row decides about one row that is wanted.
func (p *Plan) row(r Row, presence func(string) Presence, now time.Time) {
	changed := false
	if r.GUID != "" && presence(r.Cell) == Lost {
		if r.Suspect == nil {
			r.Suspect = &Occupant{GUID: r.GUID, Cell: r.Cell, State: r.State, Since: r.Since, Addresses: r.Addresses}
		}
		r = r.Unclaim(now)
		changed = true
	}
	if s := r.Suspect; s != nil {
		at := presence(s.Cell)
		switch {
		case r.State == Running: // the replacement runs
			r.Suspect = nil
			changed = true
		case at == Present || at == Draining: // it is back, sooner than a replacement
			r = r.Unclaim(now)
			r.State, r.Since, r.Cell, r.GUID, r.Addresses = s.State, s.Since, s.Cell, s.GUID, s.Addresses
			r.Suspect = nil
			changed = true
		}
	}
	if r.State == Crashed && !r.Next.IsZero() {
		if r.Next.After(now) {
			if p.Wake.IsZero() || r.Next.Before(p.Wake) {
				p.Wake = r.Next
			}
		} else {
			r = r.Unclaim(now)
			changed = true
		}
	}
	if changed {
		p.Put = append(p.Put, r)
	}
	if r.State == Unclaimed {
		p.Place = append(p.Place, r)
	}
}
