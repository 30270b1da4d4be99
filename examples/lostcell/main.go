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
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/lrp"
	"github.com/dewpoint-go/dewpoint/router"
	"github.com/dewpoint-go/dewpoint/scheduler"
	"github.com/dewpoint-go/dewpoint/state"
)

func main() {
	c, err := parse(os.Args[1:])
	switch {
	case errors.Is(err, flag.ErrHelp):
		return
	case err != nil:
		fmt.Fprintln(os.Stderr, "lostcell:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	sum, err := run(ctx, c, os.Stdout)
	interrupted := ctx.Err() != nil
	stop()
	switch {
	case interrupted:
		fmt.Fprintln(os.Stderr, "lostcell: interrupted")
		os.Exit(130)
	case err != nil:
		fmt.Fprintln(os.Stderr, "lostcell:", err)
		os.Exit(1)
	case sum.failed > sum.inFlight:
		fmt.Fprintf(os.Stderr, "lostcell: %d requests failed, though only %d were on the cell\n", sum.failed, sum.inFlight)
		os.Exit(1)
	}
}

type config struct {
	instances, clients int
	lostAfter          time.Duration
}

// maxInstances are those that three cells of this size hold while one of them is lost.
const maxInstances = 100

func parse(args []string) (c config, err error) {
	f := flag.NewFlagSet("lostcell", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.IntVar(&c.instances, "instances", 6, "instances to keep running")
	f.IntVar(&c.clients, "clients", 8, "clients that send one request after the other")
	f.DurationVar(&c.lostAfter, "lost-after", 2*time.Second, "how long a cell may be silent until it counts as lost")
	switch err := f.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		fmt.Println("lostcell loses one of three cells under load.\n\nUsage: lostcell [flags]\n\nFlags:")
		f.SetOutput(os.Stdout)
		f.PrintDefaults()
		return c, err
	case err != nil:
		return c, fmt.Errorf("%w; -h lists the flags", err)
	case f.NArg() > 0:
		return c, fmt.Errorf("unexpected argument %q; there are only flags, which -h lists", f.Arg(0))
	case c.instances < 3 || c.instances > maxInstances:
		return c, fmt.Errorf("-instances: %d; use 3, one for each cell, to %d", c.instances, maxInstances)
	case c.clients < 1 || c.clients > 1000:
		return c, fmt.Errorf("-clients: %d; use 1 to 1000", c.clients)
	case c.lostAfter < 500*time.Millisecond || c.lostAfter > time.Minute:
		return c, fmt.Errorf("-lost-after: %v; use 500ms to 1m", c.lostAfter)
	}
	return c, nil
}

// run shows it all, and returns what the clients saw.
func run(ctx context.Context, c config, out io.Writer) (sum summary, err error) {
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
			err = errors.Join(err, <-ended)
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
	sum = l.stop()
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
				at := in.Addresses[0]
				run[in.Index] = router.Backend{App: "hello", Instance: in.GUID, Index: in.Index, Addr: at.Host, Dial: at.Dial}
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
