package scheduler_test

import (
	"context"
	"fmt"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/lrp"
	"github.com/dewpoint-go/dewpoint/scheduler"
	"github.com/dewpoint-go/dewpoint/scheduler/schedulertest"
	"github.com/dewpoint-go/dewpoint/state"
)

// Two instances of a process on two cells.
func Example() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	db, err := state.Open(ctx, state.Config{}, scheduler.Tables()...)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer db.Close()
	s, err := scheduler.New(scheduler.Config{DB: db, Cells: []cell.Cell{
		schedulertest.New(schedulertest.Config{ID: "cell-a"}),
		schedulertest.New(schedulertest.Config{ID: "cell-b"}),
	}})
	if err != nil {
		fmt.Println(err)
		return
	}
	ended := make(chan error)
	go func() { ended <- s.Run(ctx) }()
	<-s.Ready()

	d := lrp.Desired{ID: "web", Instances: 2, Work: cell.Work{Process: cell.Process{Path: "serve"}}}
	if err := s.Apply(ctx, d); err != nil {
		fmt.Println(err)
	}
	run := map[int]string{}
	for e, err := range s.Watch(ctx, 0) {
		if err != nil {
			fmt.Println(err)
			break
		}
		if e.Instance.State == lrp.Running {
			run[e.Instance.Index] = e.Instance.Cell
		}
		if len(run) == 2 {
			break
		}
	}
	fmt.Println(run)
	cancel()
	fmt.Println(<-ended)
	// Output:
	// map[0:cell-a 1:cell-b]
	// <nil>
}

// Why an instance has no place is told by rule.
func ExamplePlacementError() {
	v := &scheduler.View{Cells: []*scheduler.CellView{
		{ID: "a", Reachable: true, Total: cell.Resources{Memory: 1 << 30}, Used: cell.Resources{Memory: 1 << 30}},
		{ID: "b", Reachable: false},
	}}
	_, err := scheduler.Spread{}.Place(scheduler.Want{LRP: "web", Spec: cell.Spec{Memory: 64 << 20}}, v)
	fmt.Println(err)
	// Output: insufficient resources: memory (1 cell: does not answer; 1 cell: lacks memory; 64M of memory asked for, a cell has at most 1G)
}
