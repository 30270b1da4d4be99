package scheduler

import (
	"cmp"
	"slices"
)

// Explainer is an optional power of a Policy.
type Explainer interface {
	// Explain says what Place would answer, and why. It is pure and changes nothing.
	Explain(w Want, v *View) Explanation
}

// Explanation says why a work would come to a cell, or to none. Its JSON names stay.
type Explanation struct {
	// Cell is the choice; "" if there is none, and then Err says why.
	Cell string          `json:"cell,omitempty"`
	Err  *PlacementError `json:"error,omitempty"`
	// Candidates are the cells that fit, best first, at most ten.
	Candidates []Candidate `json:"candidates,omitempty"`
	// Fitting is how many there are in all.
	Fitting int `json:"fitting"`
	// Refused tells how many cells each rule refused, most first.
	Refused []Refusal `json:"refused,omitempty"`
}

// Candidate is a cell that fits, with the parts of its score; the lowest sum wins in the
// zone with the fewest instances.
type Candidate struct {
	Cell string `json:"cell"`
	Zone string `json:"zone,omitempty"`
	// InZone is how many instances of the process the zone has.
	InZone int `json:"inZone"`
	// Resources is the mean of the used fractions with the work, Starting 0.25 for each
	// work that starts there, up to 32, Colocated 1000 for each instance of the process or task,
	// Packed what Spread.BinPack adds.
	Resources float64 `json:"resources"`
	Starting  float64 `json:"starting"`
	Colocated float64 `json:"colocated"`
	Packed    float64 `json:"packed"`
}

// Score is the sum of the parts.
func (c Candidate) Score() float64 { return c.Resources + c.Starting + c.Colocated + c.Packed }

const shownCandidates = 10

// Explain implements Explainer. It looks at every cell.
func (p Spread) Explain(w Want, v *View) Explanation {
	binPack := p.binPack()
	v.indexed(binPack) // numbers the cells
	type scored struct {
		c     *CellView
		zone  int
		score int64
	}
	var fit []scored
	count := map[string]int{}
	for _, c := range v.Cells {
		if _, text, refused := refusal(w, c); refused {
			count[text]++
			continue
		}
		s := scored{c: c, score: base(c, binPack) + added(w.Spec, c.Total)}
		if w.LRP == "" {
			s.score += int64(c.Tasks) * colocation
		} else {
			s.zone = v.InZone(w.LRP, c.Zone)
			s.score += int64(v.Instances(w.LRP, c)) * colocation
		}
		fit = append(fit, s)
	}
	slices.SortFunc(fit, func(a, b scored) int {
		return cmp.Or(cmp.Compare(a.zone, b.zone), cmp.Compare(a.score, b.score), cmp.Compare(a.c.ID, b.c.ID))
	})
	e := Explanation{Fitting: len(fit), Refused: counted(count)}
	if len(fit) == 0 {
		e.Err = refuse(w, v)
		return e
	}
	e.Cell = fit[0].c.ID
	for _, s := range fit[:min(len(fit), shownCandidates)] {
		others := s.c.Tasks
		if w.LRP != "" {
			others = v.Instances(w.LRP, s.c)
		}
		e.Candidates = append(e.Candidates, Candidate{
			Cell: s.c.ID, Zone: s.c.Zone, InZone: s.zone,
			Resources: float64(filled(s.c.Used, s.c.Total)+added(w.Spec, s.c.Total)) / unit,
			Starting:  float64(min(s.c.Starting, manyInFlight)) / 4, Colocated: 1000 * float64(others), Packed: float64(s.c.order) * p.BinPack,
		})
	}
	return e
}
