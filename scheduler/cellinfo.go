package scheduler

import (
	"slices"

	"github.com/dewpoint-go/dewpoint/cell"
)

// CellInfo is what is known of a cell.
type CellInfo struct {
	ID           string         `json:"id"`
	Zone         string         `json:"zone,omitempty"`
	Tags         []string       `json:"tags,omitempty"`
	OptionalTags []string       `json:"optionalTags,omitempty"`
	Total        cell.Resources `json:"total"`
	Used         cell.Resources `json:"used"` // by all works there, those that were sent included
	Starting     int            `json:"starting"`
	Instances    int            `json:"instances"` // works of processes
	Tasks        int            `json:"tasks"`
	// Draining: it takes no more work, and what it has is moved away; Drained: by an operator.
	Draining bool `json:"draining,omitempty"`
	Drained  bool `json:"drained,omitempty"`
	// Reachable: it answers, and has told what it runs. Lost: for so long it did not that
	// its instances are replaced. Why says why it is not reachable.
	Reachable bool   `json:"reachable,omitempty"`
	Lost      bool   `json:"lost,omitempty"`
	Why       string `json:"why,omitempty"`
}

// Empty tells that the cell runs nothing, so that it may be taken away.
func (c CellInfo) Empty() bool { return c.Instances+c.Tasks == 0 }

// Cells returns the cells in order of their id, and before them, without one, those that have
// not answered yet.
func (c *Core) Cells() []CellInfo {
	all := make([]CellInfo, 0, len(c.unnamed)+len(c.view.Cells))
	for _, m := range c.unnamed {
		all = append(all, CellInfo{Lost: m.lost, Why: m.why})
	}
	for _, v := range c.view.Cells {
		m := c.members[v.ID]
		if m == nil {
			continue
		}
		all = append(all, CellInfo{
			ID: v.ID, Zone: v.Zone, Tags: slices.Clone(v.Tags), OptionalTags: slices.Clone(v.OptionalTags), Total: v.Total, Used: v.Used,
			Starting: v.Starting, Instances: v.Used.Containers - v.Tasks, Tasks: v.Tasks, Draining: v.Draining, Drained: c.drained[v.ID],
			Reachable: v.Reachable, Lost: m.lost, Why: m.why,
		})
	}
	return all
}

// Explain says where a work would come now, and why. Nothing is placed. ok is false if the
// Policy is no Explainer.
func (c *Core) Explain(w Want) (e Explanation, ok bool) {
	x, ok := c.policy.(Explainer)
	if !ok {
		return Explanation{}, false
	}
	return x.Explain(w, &c.view), true
}
