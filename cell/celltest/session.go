package celltest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync"
	"testing"

	"github.com/dewpoint-go/dewpoint/cell"
)

func execer(t *testing.T, c cell.Container) cell.Execer {
	t.Helper()
	x, ok := c.(cell.Execer)
	if !ok {
		t.Skip("not an Execer")
	}
	return x
}

func session(t *testing.T, c cell.Container, p cell.Process, size *cell.TerminalSize) cell.Session {
	t.Helper()
	s, err := execer(t, c).Exec(t.Context(), p, size)
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip(err)
	}
	must(t, err)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// testExec has a process beside another in one container, with input and output of its own.
func testExec(t *testing.T, r Runtime) {
	c := create(t, r, cell.Creation{ID: "x"})
	var out buffer
	main, err := c.Run(t.Context(), r.program("out=up", "write=f:of the work", "write=whole:", "hang"), cell.IO{Stdout: &out})
	must(t, err)
	p := r.program("await=whole", "cat=f", "env=WHO", "copy", "name=oops", "exit=5")
	p.Env = append(p.Env, "WHO=me")
	s := session(t, c, p, nil)
	sent := Bytes(1<<20, 0)
	var got, errs []byte
	var wg sync.WaitGroup
	wg.Go(func() { got, _ = io.ReadAll(s.Stdout()) })
	wg.Go(func() { errs, _ = io.ReadAll(s.Stderr()) })
	if _, err := s.Stdin().Write(sent); err != nil {
		t.Error(err)
	}
	must(t, s.Stdin().Close())
	wg.Wait()
	if want := append(append([]byte("of the work\nWHO=me\n"), sent...), "oops\n"...); !bytes.Equal(got, want) {
		t.Errorf("%d bytes came back, want %d", len(got), len(want))
	}
	if string(errs) != "oops\n" {
		t.Errorf("on standard error it says %q", errs)
	}
	e, err := s.Wait(t.Context())
	must(t, err)
	if e.Code != 5 || e.Time.IsZero() {
		t.Errorf("it ends with %+v", e)
	}
	must(t, s.Signal(t.Context(), "TERM"))
	if err := s.Resize(cell.TerminalSize{Columns: 1, Rows: 1}); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("a size without a terminal: %v", err)
	}
	must(t, s.Close())
	must(t, s.Close())
	if e, err := s.Wait(t.Context()); err != nil || e.Code != 5 {
		t.Errorf("after Close it ended with %+v, %v", e, err)
	}
	must(t, main.Signal(t.Context(), "KILL"))
	_, err = main.Wait(t.Context())
	must(t, err)
	if out.String() != "up\n" {
		t.Errorf("the work is said to print %q", out.String())
	}
}

// testTerminal has a person before a terminal.
func testTerminal(t *testing.T, r Runtime) {
	c := create(t, r, cell.Creation{ID: "x"})
	s := session(t, c, r.program("terminal", "line", "terminal", "name=both", "hang"), &cell.TerminalSize{Columns: 91, Rows: 17})
	var said strings.Builder
	until := func(text string) {
		t.Helper()
		b := make([]byte, 1024)
		for !strings.Contains(said.String(), text) {
			n, err := s.Stdout().Read(b)
			said.Write(b[:n])
			if err != nil {
				t.Fatalf("waiting for %q after %q: %v", text, said.String(), err)
			}
		}
	}
	until("terminal 91x17 of its own\r\n")
	must(t, s.Resize(cell.TerminalSize{Columns: 40, Rows: 10}))
	_, err := io.WriteString(s.Stdin(), "typed\n")
	must(t, err)
	until("typed\r\n") // its echo
	until("line typed\r\n")
	until("terminal 40x10 of its own\r\n")
	until("both\r\n")
	if b, err := io.ReadAll(s.Stderr()); err != nil || len(b) > 0 {
		t.Errorf("beside the terminal comes %q, %v", b, err)
	}
	_, err = s.Stdin().Write([]byte{3}) // Ctrl-C
	must(t, err)
	e, err := s.Wait(t.Context())
	must(t, err)
	if e.Signal != "INT" || e.Code != 130 {
		t.Errorf("Ctrl-C ends it with %+v", e)
	}
	if rest, err := io.ReadAll(s.Stdout()); err != nil {
		t.Errorf("its end is %q, %v", rest, err)
	}

	// What is typed at its end.
	s = session(t, c, r.program("copy", "out=whole"), &cell.TerminalSize{})
	must(t, s.Stdin().Close())
	b, err := io.ReadAll(s.Stdout())
	must(t, err)
	if !strings.HasSuffix(string(b), "whole\r\n") {
		t.Errorf("after the end of its input it says %q", b)
	}
}

// testSessionEnds ends sessions in every way; nothing is left.
func testSessionEnds(t *testing.T, r Runtime) {
	c := create(t, r, cell.Creation{ID: "x"})
	if _, err := execer(t, c).Exec(t.Context(), cell.Process{Path: "/no/such/program"}, nil); err == nil {
		t.Error("a program that is not there runs")
	} else if !errors.Is(err, fs.ErrNotExist) && !strings.Contains(err.Error(), "not found") {
		t.Errorf("a program that is not there: %v", err)
	}
	for _, closed := range []bool{true, false} {
		s := session(t, c, r.program("child", "out=up", "hang"), nil)
		b := make([]byte, 3)
		_, err := io.ReadFull(s.Stdout(), b)
		must(t, err)
		if closed {
			must(t, s.Close())
		} else {
			must(t, s.Signal(t.Context(), "KILL"))
		}
		e, err := s.Wait(t.Context())
		must(t, err)
		if e.Signal != "KILL" {
			t.Errorf("it ends with %+v", e)
		}
		if !closed { // a child of it held the output, and has gone, too
			_, err = io.ReadAll(s.Stdout())
			must(t, err)
		}
		must(t, s.Close())
	}
	// Who waits while it is closed learns its end, too.
	s := session(t, c, r.program("exit=4"), nil)
	_, err := io.ReadAll(s.Stdout())
	must(t, err)
	if _, err := s.Wait(t.Context()); err != nil {
		t.Error(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				if e, err := s.Wait(t.Context()); err != nil || e.Code != 4 {
					t.Errorf("while it is closed it ended with %+v, %v", e, err)
					return
				}
			}
		})
	}
	must(t, s.Close())
	wg.Wait()
	if m, ok := c.(cell.Meter); ok {
		u, err := m.Usage(t.Context())
		must(t, err)
		if u.Processes != 0 {
			t.Errorf("%d processes are left", u.Processes)
		}
	}
	s = session(t, c, r.program("hang"), nil)
	must(t, c.Destroy(t.Context()))
	if _, err := s.Wait(t.Context()); err != nil {
		t.Errorf("its container was destroyed, but not its end known: %v", err)
	}
	must(t, s.Close())
	if _, err := execer(t, c).Exec(t.Context(), r.program("out=up"), nil); err == nil {
		t.Error("a process runs in a container that was destroyed")
	}
}

// testSessions has many at once.
func testSessions(t *testing.T, r Runtime) {
	c := create(t, r, cell.Creation{ID: "x"})
	_ = execer(t, c)
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			s, err := execer(t, c).Exec(context.WithoutCancel(t.Context()), r.program(fmt.Sprintf("out=%d", i), "copy"), nil)
			if err != nil {
				t.Error(err)
				return
			}
			got, err := io.ReadAll(io.LimitReader(s.Stdout(), 2))
			if err = errors.Join(err, s.Close()); err != nil || !strings.HasPrefix(string(got), fmt.Sprint(i)) {
				t.Errorf("%d: %q, %v", i, got, err)
			}
		})
	}
	wg.Wait()
}

// testBeside has a person's process beside those of a work.
func testBeside(t *testing.T, c Cell) {
	x, ok := c.Cell.(cell.WorkExecer)
	if !ok {
		t.Skip("it runs no processes beside works")
	}
	p := c.work("", "await=whole", "cat=f", "env=OF", "env=MINE", "env=CF_INSTANCE_INDEX", "line", "hang").Process
	if _, err := x.Exec(t.Context(), "unknown", p, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a process beside no work: %v, want fs.ErrNotExist", err)
	}
	w := c.instance("w1", cell.Health{Type: "process"}, "write=f:of the work", "write=whole:", "hang")
	w.Process.Env = append(w.Process.Env, "OF=the work", "MINE=too")
	must(t, c.Start(t.Context(), w))
	until(t, c, "w1", "running", phase(cell.PhaseRunning))
	p.Env = append(p.Env, "MINE=own")
	s, err := x.Exec(t.Context(), "w1", p, nil)
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip(err)
	}
	must(t, err)
	_, err = io.WriteString(s.Stdin(), "hello\n")
	must(t, err)
	want := "of the work\nOF=the work\nMINE=own\nCF_INSTANCE_INDEX=2\nline hello\n"
	got := make([]byte, len(want))
	if _, err := io.ReadFull(s.Stdout(), got); err != nil || string(got) != want {
		t.Errorf("it says %q, %v", got, err)
	}
	must(t, c.Stop(t.Context(), "w1")) // and with it what is beside it
	if e, err := s.Wait(t.Context()); err != nil || e.Signal != "KILL" {
		t.Errorf("it ends with %+v, %v", e, err)
	}
	must(t, s.Close())
}
