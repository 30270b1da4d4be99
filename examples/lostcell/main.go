// Command lostcell keeps a small app running on three cells, sends it requests all the time,
// and takes one cell away in the middle: no error is seen, and soon all instances run again.
//
//	go run ./examples/lostcell
//
// It imports the scheduler and the router alone, without the platform: cells of one's own, an
// app that is a Go function, and a few lines that turn instances into backends.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/lrp"
	"github.com/dewpoint-go/dewpoint/router"
	"github.com/dewpoint-go/dewpoint/scheduler"
	"github.com/dewpoint-go/dewpoint/state"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var c config
	flag.IntVar(&c.instances, "instances", 6, "instances to keep running")
	flag.IntVar(&c.clients, "clients", 8, "clients that send one request after the other")
	flag.DurationVar(&c.lostAfter, "lost-after", 2*time.Second, "how long a cell may be silent until it counts as lost")
	flag.Parse()
	sum, err := run(ctx, c, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "lostcell:", err)
		os.Exit(1)
	}
	if sum.failed > sum.inFlight {
		fmt.Fprintf(os.Stderr, "lostcell: %d requests failed, though only %d were on the cell\n", sum.failed, sum.inFlight)
		os.Exit(1)
	}
}

type config struct {
	instances, clients int
	lostAfter          time.Duration
}

// run shows it all, and returns what the clients saw.
func run(ctx context.Context, c config, out io.Writer) (summary, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cells := []*machine{newMachine("cell-a", "z1"), newMachine("cell-b", "z2"), newMachine("cell-c", "z3")}
	db, err := state.Open(ctx, state.Config{}, scheduler.Tables()...)
	if err != nil {
		return summary{}, err
	}
	defer db.Close()
	s, err := scheduler.New(scheduler.Config{DB: db, Cells: []cell.Cell{cells[0], cells[1], cells[2]}, LostAfter: c.lostAfter})
	if err != nil {
		return summary{}, err
	}
	r := router.New(router.Config{})
	ended := make(chan error, 5)
	for _, m := range cells {
		go func() { ended <- m.agent.Run(ctx) }()
	}
	go func() { ended <- s.Run(ctx) }()
	go func() { ended <- pump(ctx, s, r) }()
	defer func() {
		cancel()
		for range cap(ended) {
			<-ended
		}
	}()
	<-s.Ready()

	err = s.Apply(ctx, lrp.Desired{ID: "hello", Instances: c.instances, Work: cell.Work{
		Spec:    cell.Spec{Memory: 64 << 20, Ports: []int{8080}},
		Process: cell.Process{Path: "hello"},
		Health:  &cell.Health{Type: "port"},
		Log:     cell.LogTag{App: "hello", Source: "APP/PROC/WEB"},
	}})
	if err != nil {
		return summary{}, err
	}
	where, err := await(ctx, s, c.instances, nil)
	if err != nil {
		return summary{}, err
	}
	fmt.Fprintf(out, "%d instances run: %s\n", c.instances, where)

	l, err := startLoad(ctx, r, c.clients)
	if err != nil {
		return summary{}, err
	}
	l.waitFor(ctx, 500)
	lost := cells[1]
	inFlight := lost.lose()
	begun := time.Now()
	fmt.Fprintf(out, "%s is lost, with %d requests on it; %d clients go on\n", lost.id, inFlight, c.clients)
	where, err = await(ctx, s, c.instances, lost)
	if err != nil {
		return summary{}, err
	}
	fmt.Fprintf(out, "all instances run again after %v: %s\n", time.Since(begun).Round(10*time.Millisecond), where)
	l.waitFor(ctx, 500)
	sum := l.stop()
	sum.inFlight = inFlight
	fmt.Fprintf(out, "%d requests were answered, %d failed\n", sum.answered, sum.failed)
	return sum, ctx.Err()
}

// pump turns the instances that run into the router's table.
func pump(ctx context.Context, s *scheduler.Scheduler, r *router.Router) error {
	run := map[int]router.Backend{}
	for e, err := range s.Watch(ctx, 0) {
		if err != nil {
			return err
		}
		in := e.Instance
		if !e.Synced {
			delete(run, in.Index)
			if !e.Gone && in.State == lrp.Running {
				run[in.Index] = router.Backend{App: "hello", Instance: in.GUID, Index: in.Index, Addr: in.Addresses[0].Host}
			}
		}
		route := router.Route{Host: "hello.example"}
		for _, b := range run {
			route.Backends = append(route.Backends, b)
		}
		r.SetTable(router.NewTable([]router.Route{route}))
	}
	return nil
}

// await waits until all instances run, none on a cell that is lost, and says where they are.
func await(ctx context.Context, s *scheduler.Scheduler, n int, lost *machine) (string, error) {
	for _, err := range s.Watch(ctx, 0) {
		if err != nil {
			return "", err
		}
		all, err := s.Instances(ctx, "hello")
		if err != nil {
			return "", err
		}
		count := map[string]int{}
		running := 0
		for _, in := range all {
			if in.State == lrp.Running && (lost == nil || in.Cell != lost.id) {
				count[in.Cell]++
				running++
			}
		}
		if running == n {
			var parts []string
			for id, k := range count {
				parts = append(parts, fmt.Sprintf("%d on %s", k, id))
			}
			slices.Sort(parts)
			return strings.Join(parts, ", "), nil
		}
	}
	return "", fmt.Errorf("waiting for %d instances: %w", n, context.Cause(ctx))
}

// serve is the app: a web server that takes a moment for each request.
func (m *machine) serve(ctx context.Context, p cell.MemoryProcess) int {
	ln, err := p.Listen(8080)
	if err != nil {
		fmt.Fprintln(p.Stderr, err)
		return 1
	}
	srv := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.requests.Add(1)
		defer m.requests.Add(-1)
		select {
		case <-time.After(5 * time.Millisecond):
		case <-r.Context().Done():
		}
		fmt.Fprintln(w, "hello from instance", p.Getenv("CF_INSTANCE_INDEX"))
	})}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	_ = srv.Serve(ln)
	return 0
}
