package main

import (
	"context"
	"errors"
	"iter"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/logs"
	"github.com/dewpoint-go/dewpoint/router"
)

// machine is a cell that can be lost: then it answers nobody, and what runs on it is gone.
type machine struct {
	id       string
	agent    *cell.Agent
	runtime  *cell.Memory
	requests atomic.Int64
	dead     chan struct{}
}

var errDead = errors.New("no route to host")

func newMachine(id, zone string) *machine {
	m := &machine{id: id, dead: make(chan struct{})}
	m.runtime = cell.NewMemory(cell.MemoryConfig{Programs: map[string]func(context.Context, cell.MemoryProcess) int{"hello": m.serve}})
	var err error
	if m.agent, err = cell.New(cell.AgentConfig{ID: id, Zone: zone, Runtime: m.runtime}); err != nil {
		panic(err) // a mistake of this program
	}
	return m
}

// lose takes the machine away, and tells how many requests were on it.
func (m *machine) lose() int {
	n := int(m.requests.Load())
	close(m.dead)
	all, err := m.runtime.Containers(context.Background())
	if err != nil {
		panic(err)
	}
	for _, c := range all {
		m.runtime.Vanish(c.Info().ID)
	}
	return n
}

// calls returns a context for a call to the machine, or an error if it is dead.
func (m *machine) calls(ctx context.Context) (context.Context, context.CancelFunc, error) {
	ctx, cancel := context.WithCancel(ctx)
	select {
	case <-m.dead:
		cancel()
		return nil, nil, errDead
	default:
	}
	go func() {
		select {
		case <-m.dead:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel, nil
}

// State implements cell.Cell.
func (m *machine) State(ctx context.Context) (cell.State, error) {
	ctx, cancel, err := m.calls(ctx)
	if err != nil {
		return cell.State{}, err
	}
	defer cancel()
	return m.agent.State(ctx)
}

// Start implements cell.Cell.
func (m *machine) Start(ctx context.Context, w cell.Work) error {
	ctx, cancel, err := m.calls(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	return m.agent.Start(ctx, w)
}

// Stop implements cell.Cell.
func (m *machine) Stop(ctx context.Context, id string) error {
	ctx, cancel, err := m.calls(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	return m.agent.Stop(ctx, id)
}

// Watch implements cell.Cell.
func (m *machine) Watch(ctx context.Context) iter.Seq2[cell.Event, error] {
	return func(yield func(cell.Event, error) bool) {
		ctx, cancel, err := m.calls(ctx)
		if err != nil {
			yield(cell.Event{}, err)
			return
		}
		defer cancel()
		for e, err := range m.agent.Watch(ctx) {
			select {
			case <-m.dead: // what it says now nobody hears
				return
			default:
			}
			if !yield(e, err) {
				return
			}
		}
	}
}

// Logs implements cell.Cell.
func (m *machine) Logs(ctx context.Context, id string, from logs.Position) iter.Seq2[logs.Line, error] {
	return m.agent.Logs(ctx, id, from)
}

// summary is what the clients saw.
type summary struct{ answered, failed, inFlight int }

// load is a number of clients that send one request after the other through a router.
type load struct {
	server *httptest.Server
	cancel context.CancelFunc
	wg     sync.WaitGroup
	done   chan struct{} // a token for each answer
	ok     atomic.Int64
	failed atomic.Int64
}

func startLoad(ctx context.Context, r *router.Router, clients int) (*load, error) {
	ctx, cancel := context.WithCancel(ctx)
	l := &load{server: httptest.NewServer(r), cancel: cancel, done: make(chan struct{})}
	for range clients {
		l.wg.Go(func() {
			for ctx.Err() == nil {
				if l.ask(ctx) {
					l.ok.Add(1)
				} else if ctx.Err() == nil {
					l.failed.Add(1)
				}
				select {
				case l.done <- struct{}{}:
				default:
				}
			}
		})
	}
	return l, nil
}

func (l *load) ask(ctx context.Context) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, l.server.URL, nil)
	if err != nil {
		return false
	}
	req.Host = "hello.example"
	resp, err := l.server.Client().Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// waitFor waits for some answers.
func (l *load) waitFor(ctx context.Context, n int) {
	for range n {
		select {
		case <-l.done:
		case <-ctx.Done():
			return
		}
	}
}

// stop ends the clients.
func (l *load) stop() summary {
	l.cancel()
	l.wg.Wait()
	l.server.Close()
	return summary{answered: int(l.ok.Load()), failed: int(l.failed.Load())}
}
