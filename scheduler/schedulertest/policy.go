package schedulertest

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"testing"
	"testing/synctest"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/lrp"
	"github.com/dewpoint-go/dewpoint/scheduler"
	"github.com/dewpoint-go/dewpoint/state"
)

// RunPolicy holds a scheduler.Policy to its contract.
func RunPolicy(t *testing.T, p scheduler.Policy) {
	t.Run("chooses a cell that will do, the same each time", func(t *testing.T) { testChoice(t, p) })
	t.Run("says which rule refused how many cells", func(t *testing.T) { testRefusal(t, p) })
	t.Run("under a Scheduler", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { testUnderScheduler(t, p) })
	})
}

// candidates has one cell for each reason not to take it, and "good". Each call makes new ones.
func candidates() []*scheduler.CellView {
	all := []*scheduler.CellView{
		{ID: "away"}, {ID: "draining", Draining: true}, {ID: "full", Used: cell.Resources{Memory: 95}},
		{ID: "good"}, {ID: "no-disk", Used: cell.Resources{Disk: 95}},
		{ID: "no-slots", Used: cell.Resources{Containers: 10}}, {ID: "refused"}, {ID: "weak"},
		{ID: "windows"},
	}
	for _, c := range all {
		c.Reachable = c.ID != "away"
		c.Total = cell.Resources{Memory: 100, Disk: 100, Containers: 10, Isolation: "namespaces", Stacks: []string{"linux"}}
		switch c.ID {
		case "weak":
			c.Total.Isolation = "none"
		case "windows":
			c.Total.Stacks = []string{"windows"}
		}
	}
	return all
}

func wish() scheduler.Want {
	return scheduler.Want{LRP: "web", Spec: cell.Spec{Memory: 10, Disk: 10, Stack: "linux", Isolation: "namespaces"},
		Avoid: map[string]string{"refused": "insufficient resources: disk"}}
}

func testChoice(t *testing.T, p scheduler.Policy) {
	for _, lrp := range []string{"web", ""} { // an instance, and a task
		for range 10 {
			w, v := wish(), &scheduler.View{Cells: candidates()}
			w.LRP = lrp
			id, err := p.Place(w, v)
			if err != nil || id != "good" {
				t.Errorf("lrp %q: placed on %q, %v; only \"good\" will do", lrp, id, err)
			}
			for i, c := range candidates() { // what a View keeps for itself may change
				if is := v.Cells[i]; is.ID != c.ID || is.Reachable != c.Reachable || is.Draining != c.Draining || is.Starting != 0 || is.Tasks != 0 ||
					!reflect.DeepEqual(is.Used, c.Used) || !reflect.DeepEqual(is.Total, c.Total) {
					t.Errorf("Place changed cell %s of the View: %+v", c.ID, is)
				}
			}
			if unchanged := wish(); !reflect.DeepEqual(w.Avoid, unchanged.Avoid) {
				t.Error("Place changed what is to be avoided")
			}
		}
	}
}

func testRefusal(t *testing.T, p scheduler.Policy) {
	var rest []*scheduler.CellView
	for _, c := range candidates() {
		if c.ID != "good" {
			rest = append(rest, c)
		}
	}
	for _, cells := range [][]*scheduler.CellView{nil, rest[:1], rest[1:3], rest} {
		id, err := p.Place(wish(), &scheduler.View{Cells: cells})
		var refused *scheduler.PlacementError
		if !errors.As(err, &refused) || id != "" {
			t.Errorf("of %d cells that won't do: %q, %v; want a *PlacementError", len(cells), id, err)
			continue
		}
		n := 0
		for _, r := range refused.Refused {
			if n += r.Cells; r.Rule == "" || r.Cells < 1 {
				t.Errorf("refusal %+v says nothing", r)
			}
		}
		if n != len(cells) || refused.Text == "" {
			t.Errorf("%q: %d refusals for %d cells", err, n, len(cells))
		}
	}
}

// testUnderScheduler holds that where there is room, all finds a place, though cells refuse
// what the View would let them have.
func testUnderScheduler(t *testing.T, p scheduler.Policy) {
	db, err := state.Open(t.Context(), state.Config{}, scheduler.Tables()...)
	if err != nil {
		t.Fatal(err)
	}
	var fakes []*Cell
	var cells []cell.Cell
	for i := range 3 {
		c := New(Config{ID: fmt.Sprint("c", i), Memory: 100})
		fakes, cells = append(fakes, c), append(cells, c)
	}
	fakes[1].Refuse(func(cell.Work) string { return "insufficient resources: memory" })
	s, err := scheduler.New(scheduler.Config{DB: db, Cells: cells, Policy: p})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	<-s.Ready()
	for i := range 4 {
		err := s.Apply(ctx, lrp.Desired{ID: lrp.ID(fmt.Sprint("app-", i)), Instances: 5, Work: cell.Work{
			Spec: cell.Spec{Memory: 10}, Process: cell.Process{Path: "serve"},
		}})
		if err != nil {
			t.Fatal(err)
		}
	}
	synctest.Wait()
	if a, b, c := len(fakes[0].Live()), len(fakes[1].Live()), len(fakes[2].Live()); a != 10 || b != 0 || c != 10 {
		t.Errorf("the cells run %d, %d and %d instances, want 10, 0 and 10", a, b, c)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
}
