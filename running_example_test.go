package dewpoint_test

import (
	"context"
	"fmt"
	"testing/fstest"

	"github.com/dewpoint-go/dewpoint"
	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/lrp"
	"github.com/dewpoint-go/dewpoint/scheduler"
	"github.com/dewpoint-go/dewpoint/staging/buildpack"
)

// inMemory runs a platform in memory with an app "shop" that has a web process and a worker,
// until the returned function is called.
func inMemory() (p *dewpoint.Platform, stop func()) {
	packs, err := buildpack.New(buildpack.Config{Catalogue: &buildpack.Catalogue{}, Local: true})
	if err != nil {
		panic(err)
	}
	p, err = dewpoint.New(dewpoint.Config{Runtime: cell.NewMemory(cell.MemoryConfig{Programs: programs}), Buildpacks: packs})
	if err != nil {
		panic(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- p.Run(ctx) }()
	_, err = p.Push(ctx, dewpoint.PushRequest{
		Name: "shop", Buildpacks: []string{"testdata/buildpack"},
		Files: fstest.MapFS{"index.html": {Data: []byte("shop")}, "worker": {Data: []byte("x")}},
	})
	if err != nil {
		panic(err)
	}
	return p, func() {
		cancel()
		<-ended
		_ = packs.Close()
	}
}

// Scale says how many instances of a process are wanted; Start waits until they run.
func ExamplePlatform_Scale() {
	p, stop := inMemory()
	defer stop()
	ctx := context.Background()
	fmt.Println(p.Scale(ctx, "shop", "worker", 2))
	fmt.Println(p.Start(ctx, "shop"))
	st, err := p.Status(ctx, "shop")
	if err != nil {
		fmt.Println(err)
	}
	for _, pr := range st.Processes {
		fmt.Println(pr.Type, pr.Running())
	}
	// Output:
	// <nil>
	// <nil>
	// web 1
	// worker 2
}

// A task runs once, with the app's droplet.
func ExamplePlatform_RunTask() {
	p, stop := inMemory()
	defer stop()
	ctx := context.Background()
	task, err := p.RunTask(ctx, "shop", dewpoint.TaskRequest{Name: "migrate", Command: "once", Result: "/tmp/result"})
	if err != nil {
		fmt.Println(err)
	}
	for e, err := range p.WatchTasks(ctx, 0) {
		if err != nil {
			fmt.Println(err)
			break
		}
		if e.Task.ID == task.ID && e.Task.State == scheduler.TaskCompleted {
			fmt.Println(e.Task.Failed, string(e.Task.Outputs["/tmp/result"].Data))
			break
		}
	}
	// Output: false 42
}

// Watch tells what is, and then what changes.
func ExamplePlatform_Watch() {
	p, stop := inMemory()
	defer stop()
	ctx := context.Background()
	for e, err := range p.Watch(ctx, 0) {
		if err != nil {
			fmt.Println(err)
			break
		}
		if e.Synced { // all that was is told: now something is changed
			if err := p.Scale(ctx, "shop", "", 2); err != nil {
				fmt.Println(err)
			}
			continue
		}
		in := e.Instance
		if a, process, ok := p.AppOf(in.LRP); ok && in.State == lrp.Running {
			fmt.Println(a.Name, process, in.Index, "runs")
			if in.Index == 1 {
				break
			}
		}
	}
	// Output:
	// shop web 0 runs
	// shop web 1 runs
}

// Explain says where one more instance would go.
func ExamplePlatform_Explain() {
	p, stop := inMemory()
	defer stop()
	e, err := p.Explain(context.Background(), "shop", "web")
	fmt.Println(e.Cell, e.Fitting, err)
	// Output: cell-0 1 <nil>
}

// A drained cell is emptied; here there is no other, so the instance stays until there is.
func ExamplePlatform_Drain() {
	p, stop := inMemory()
	defer stop()
	ctx := context.Background()
	fmt.Println(p.Drain(ctx, "cell-0", true))
	cells, err := p.Cells(ctx)
	fmt.Println(cells[0].Drained, err)
	fmt.Println(p.Drain(ctx, "cell-0", false))
	// Output:
	// <nil>
	// true <nil>
	// <nil>
}
