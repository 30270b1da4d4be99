package celltest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dewpoint-go/dewpoint/blob"
	"github.com/dewpoint-go/dewpoint/cell"
)

// Survivor is a cell.Runtime whose containers outlive the program that made them.
type Survivor struct {
	// Open opens the Runtime over what earlier programs of this test have left. It ends with t.
	Open func(t *testing.T) cell.Runtime
	// Command returns a program that calls Serve with these arguments, over a Runtime opened in the same
	// place. It is killed before Open is called.
	Command func(args ...string) *exec.Cmd
	// Program returns the process that runs the suites' program, as in Runtime.
	Program func(args ...string) cell.Process
}

// RunSurvival tests that works go on when the program of their Agent is killed by KILL, and that
// the next one adopts them. Open gives each case a place of its own.
func RunSurvival(t *testing.T, open func(t *testing.T) Survivor) {
	cases := []struct {
		name string
		test func(t *testing.T, s Survivor)
	}{
		{"WorksGoOn", testGoOn},
		{"AWorkThatEndsUnwatched", testEndsUnwatched},
		{"ATornCreationBeginsAnew", testTornCreation},
		{"ATornSaveIsRepeated", testTornSave},
		{"KilledAtAnyMoment", testKilledAnytime},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.test(t, open(t))
		})
	}
}

// Serve is the program of a Survivor: an Agent that starts works and prints each Event as a
// line of JSON, until it is killed. The arguments are works as JSON. Sources "hang:" and outputs with the
// Key "hang" never come to an end.
func Serve(r cell.Runtime, works []string) error {
	ctx := context.Background()
	a, err := cell.New(cell.AgentConfig{ID: "cell-1", Runtime: r, Open: openOrHang, Save: saveOrHang})
	if err != nil {
		return err
	}
	go func() { _ = a.Run(ctx) }() // if it fails, so does Start
	for _, arg := range works {
		var w cell.Work
		if err := json.Unmarshal([]byte(arg), &w); err != nil {
			return err
		}
		if err := a.Start(ctx, w); err != nil {
			return err
		}
	}
	out := json.NewEncoder(os.Stdout)
	for e, err := range a.Watch(ctx) {
		if err != nil {
			return err
		}
		if err := out.Encode(e); err != nil {
			return err
		}
	}
	return errors.New("Watch ended")
}

func openOrHang(ctx context.Context, s cell.Source) (io.ReadCloser, error) {
	if strings.HasPrefix(string(s), "hang:") {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return cell.OpenLocal(ctx, s)
}

func saveOrHang(ctx context.Context, _ string, r io.Reader) (blob.Info, error) {
	n, err := io.Copy(io.Discard, r)
	if err == nil {
		<-ctx.Done()
		err = ctx.Err()
	}
	return blob.Info{Size: n}, err
}

// killed runs works in a program, and kills it when enough has happened.
func (s Survivor) killed(t *testing.T, enough func(cell.Event) bool, works ...cell.Work) {
	t.Helper()
	var args []string
	for _, w := range works {
		b, err := json.Marshal(w)
		must(t, err)
		args = append(args, string(b))
	}
	cmd := s.Command(args...)
	out, err := cmd.StdoutPipe()
	must(t, err)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	must(t, cmd.Start())
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
	}()
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 4<<20)
	for lines.Scan() {
		var e cell.Event
		must(t, json.Unmarshal(lines.Bytes(), &e))
		if enough(e) {
			return
		}
	}
	err = cmd.Wait() // only then all that it said is here
	t.Fatalf("the program ended by itself: %v, %v, %s", err, lines.Err(), stderr.String())
}

// phases is enough when each work is in its phase.
func phases(want map[string]cell.Phase) func(cell.Event) bool {
	return func(e cell.Event) bool {
		if want[e.Status.ID] == e.Status.Phase {
			delete(want, e.Status.ID)
		}
		return len(want) == 0
	}
}

// adopt runs an Agent over what is there, until t ends, and returns what its Watch begins with.
func (s Survivor) adopt(t *testing.T, c cell.AgentConfig) (Cell, map[string]cell.Status) {
	t.Helper()
	c.ID, c.Runtime = "cell-1", s.Open(t)
	a, err := cell.New(c)
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := a.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		all, err := c.Runtime.Containers(context.Background())
		if err != nil || len(all) != 0 {
			t.Errorf("%d containers are left, %v", len(all), err)
		}
	})
	first := map[string]cell.Status{}
	for e, err := range a.Watch(t.Context()) {
		must(t, err)
		if e.Synced {
			break
		}
		first[e.Status.ID] = e.Status
	}
	return Cell{Cell: a, Program: s.Program}, first
}

// forget stops works, and waits until the cell knows nothing of them.
func forget(t *testing.T, c Cell, ids ...string) {
	t.Helper()
	for _, id := range ids {
		must(t, c.Stop(t.Context(), id))
		seen := false
		for e, err := range c.Watch(t.Context()) {
			must(t, err)
			seen = seen || e.Status.ID == id
			if e.Gone && e.Status.ID == id || e.Synced && !seen {
				break
			}
		}
	}
}

func testGoOn(t *testing.T, s Survivor) {
	c := Cell{Program: s.Program}
	web := c.instance("web", cell.Health{}, "out=up", "serve", "out=goodbye")
	web.Process.Grace = patience
	task := c.work("task", "lines=100", "wait", "err=last words", "exit=9")
	brief := c.work("brief", "out=short", "exit=4")
	s.killed(t, phases(map[string]cell.Phase{"web": cell.PhaseRunning, "task": cell.PhaseRunning, "brief": cell.PhaseDone}), web, task, brief)

	c, first := s.adopt(t, cell.AgentConfig{})
	if first["web"].Phase != cell.PhaseRunning || first["task"].Phase != cell.PhaseRunning || first["brief"].Phase != cell.PhaseDone || len(first) != 3 {
		t.Fatalf("Watch begins with %+v", first)
	}
	conn, err := first["web"].Addresses[0].Dial(t.Context())
	must(t, err)
	conn.Close()
	if b := first["brief"]; b.Failure != "STG: Exited with status 4" || b.Exit == nil || b.Exit.Code != 4 || strings.Join(b.Last, "\n") == "" {
		t.Errorf("what had ended is now %+v", b)
	}
	must(t, c.Start(t.Context(), brief)) // it has run, and does not again
	must(t, c.Start(t.Context(), web))
	for l, err := range c.Logs(t.Context(), "web", 0) {
		must(t, err)
		if l.Text == "up" {
			must(t, c.Stop(t.Context(), "web"))
		}
		if l.Text == "goodbye" {
			break
		}
	}
	forget(t, c, "web", "brief", "task")
}

func testEndsUnwatched(t *testing.T, s Survivor) {
	const n = 30_000
	c := Cell{Program: s.Program}
	w := c.work("w", "err=first", "once", fmt.Sprintf("lines=%d", n), "raw=no line feed", "write=result:kept", "exit=9")
	w.Spec.Ports = []int{8080}
	w.Outputs = []cell.Output{{Path: "/home/vcap/result", Inline: true, OnFailure: true}}
	var app cell.Address
	s.killed(t, func(e cell.Event) bool {
		if len(e.Status.Addresses) > 0 {
			app = e.Status.Addresses[0]
		}
		return e.Status.Phase == cell.PhaseRunning
	}, w)
	conn, err := dial(t.Context(), app)
	must(t, err)
	defer conn.Close()
	_, err = conn.Write([]byte("x"))
	must(t, err)
	_, _ = conn.Read(make([]byte, 1)) // returns when the process has ended

	adopted := time.Now()
	c, _ = s.adopt(t, cell.AgentConfig{})
	end := done(t, c, "w")
	if end.Exit == nil || end.Exit.Code != 9 || end.Failure != "STG: Exited with status 9" || string(end.Outputs["/home/vcap/result"].Data) != "kept" {
		t.Errorf("status is %+v", end)
	}
	all := lines(t, c, "w")
	expectLines(t, all, "STG listening", "STG line 1", fmt.Sprintf("STG line %d", n), "STG no line feed", "STG Exit status 9")
	at := 0
	for _, l := range all {
		if l.Text != fmt.Sprintf("line %d", at+1) {
			continue
		}
		if at++; at == 1 && !l.Time.Before(adopted) { // of the last ones the program may have been rid only just now
			t.Error("it bears the time of the adoption, not its own")
		}
	}
	if at != n {
		t.Errorf("%d of %d lines are there, in order", at, n)
	}
	forget(t, c, "w")
}

// dial tries until somebody listens.
func dial(ctx context.Context, at cell.Address) (net.Conn, error) {
	var conn net.Conn
	var err error
	begun := time.Now()
	for time.Since(begun) < patience {
		if conn, err = at.Dial(ctx); err == nil {
			return conn, nil
		}
		<-time.After(5 * time.Millisecond)
	}
	return nil, err
}

func testTornCreation(t *testing.T, s Survivor) {
	w := Cell{Program: s.Program}.work("w", "cat=f", "exit=3")
	w.Inputs = []cell.Input{{Source: "hang:", Dir: "/home/vcap"}}
	created := false
	s.killed(t, func(e cell.Event) bool { // the container is there when its addresses are told
		created = created || e.Status.Addresses != nil
		return created
	}, withPort(w))
	hangs := make(chan struct{})
	c, first := s.adopt(t, cell.AgentConfig{Open: func(ctx context.Context, _ cell.Source) (io.ReadCloser, error) {
		select { // as long as nobody has seen that the cell is ready all the same
		case <-hangs:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		return io.NopCloser(bytes.NewReader(archive(t, "f", "the input"))), nil
	}})
	if p := first["w"].Phase; p != cell.PhaseCreating {
		t.Errorf("it is %q at first", p)
	}
	close(hangs)
	if e := done(t, c, "w"); e.Exit == nil || e.Exit.Code != 3 {
		t.Errorf("status is %+v", e)
	}
	expectLines(t, lines(t, c, "w"), "STG the input", "STG Exit status 3")
	forget(t, c, "w")
}

func withPort(w cell.Work) cell.Work {
	w.Spec.Ports = []int{8080}
	return w
}

func testTornSave(t *testing.T, s Survivor) {
	w := Cell{Program: s.Program}.work("w", "write=result:kept")
	w.Outputs = []cell.Output{{Path: "/home/vcap/result", Key: "hang"}}
	s.killed(t, phases(map[string]cell.Phase{"w": cell.PhaseSaving}), w)
	var saved buffer
	c, _ := s.adopt(t, cell.AgentConfig{Save: func(_ context.Context, key string, r io.Reader) (blob.Info, error) {
		n, err := io.Copy(&saved, r)
		return blob.Info{Key: key, Size: n}, err
	}})
	if e := done(t, c, "w"); e.Failure != "" || e.Outputs["/home/vcap/result"].Size != 4 || saved.String() != "kept" {
		t.Errorf("saved %q, status is %+v", saved.String(), e)
	}
	forget(t, c, "w")
}

// Whatever the moment, a work that is found ends as it would have, and has run once.
func testKilledAnytime(t *testing.T, s Survivor) {
	for moment := 1; moment <= 12; moment += 2 {
		var all []cell.Work
		var names []string
		for i := range 4 {
			w := Cell{Program: s.Program}.work(fmt.Sprintf("w%d-%d", moment, i), "out=once", "lines=10", fmt.Sprintf("exit=%d", i))
			all, names = append(all, w), append(names, w.ID)
		}
		events, ended := 0, 0 // of some, a slow watcher sees the last only
		s.killed(t, func(e cell.Event) bool {
			if events++; e.Status.Phase == cell.PhaseDone {
				ended++
			}
			return events > moment || ended == len(all)
		}, all...)
		t.Run(fmt.Sprint("event ", moment), func(t *testing.T) {
			c, first := s.adopt(t, cell.AgentConfig{})
			for i, id := range names {
				if first[id].ID == "" {
					continue // accepted, but there was nothing of it yet
				}
				e := done(t, c, id)
				if e.Exit == nil || e.Exit.Code != i {
					t.Errorf("%s: %+v", id, e)
				}
				last := strings.Join(e.Last, "\n")
				if strings.Count(last, "once\n") != 1 || !strings.Contains(last, "line 10\n") {
					t.Errorf("%s: its last lines are %q", id, e.Last)
				}
				forget(t, c, id)
			}
		})
	}
}
