package celltest

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/dewpoint-go/dewpoint/cell"
)

func testRunGives(t *testing.T, r Runtime) {
	c := create(t, r, cell.Creation{ID: "x"})
	must(t, c.StreamIn(t.Context(), "/home/vcap", bytes.NewReader(archive(t, "note", "hello"))))
	e, stdout, stderr := said(t, r, c, "main", []string{"A=1", "B=2", "A=3"}, "env=A", "env=B", "cat=note", "err=oops", "write=made:by the program")
	if e.Code != 0 || stdout != "A=3\nB=2\nhello\n" || stderr != "oops\n" {
		t.Errorf("exit %+v, stdout %q, stderr %q", e, stdout, stderr)
	}
	expectFile(t, c, "/home/vcap/made", "by the program")
}

func testOutput(t *testing.T, r Runtime) {
	c := create(t, r, cell.Creation{ID: "x"})
	_, stdout, _ := said(t, r, c, "main", nil, "lines=20000", "raw=end")
	if n := strings.Count(stdout, "\n"); n != 20000 || !strings.HasSuffix(stdout, "line 20000\nend") {
		t.Errorf("%d lines arrived, the last bytes are %q", n, stdout[max(0, len(stdout)-30):])
	}
}

func testBytes(t *testing.T, r Runtime) {
	c := create(t, r, cell.Creation{ID: "x"})
	const n = 8 << 20
	_, stdout, stderr := said(t, r, c, "main", nil, "bytes="+strconv.Itoa(n))
	if !bytes.Equal([]byte(stdout), Bytes(n, 0)) || !bytes.Equal([]byte(stderr), Bytes(n, 1)) {
		t.Errorf("of %d bytes on each output %d and %d arrived, or not as they were", n, len(stdout), len(stderr))
	}
}

// testNames writes to /dev/stdout and /dev/stderr, as servers are told to where a log file is asked for.
func testNames(t *testing.T, r Runtime) {
	c := create(t, r, cell.Creation{ID: "x"})
	e, stdout, stderr := said(t, r, c, "main", nil, "name=opened")
	if e.Code != 0 || stdout != "opened\n" || stderr != "opened\n" {
		t.Errorf("exit %+v, stdout %q, stderr %q", e, stdout, stderr)
	}
}

func testExit(t *testing.T, r Runtime) {
	c := create(t, r, cell.Creation{ID: "x"})
	if e, _, _ := said(t, r, c, "a", nil, "exit=3"); e.Code != 3 || e.Signal != "" || e.Time.IsZero() {
		t.Errorf("exit=3 gives %+v", e)
	}
	var out lineWaiter
	out.want = "up"
	out.got = make(chan struct{})
	p := r.program("out=up", "wait", "exit=5")
	p.ID = "b"
	run, err := c.Run(t.Context(), p, cell.IO{Stdout: &out})
	must(t, err)
	<-out.got
	must(t, run.Signal(t.Context(), "TERM"))
	if e := wait(t, run); e.Code != 5 {
		t.Errorf("after TERM the exit is %+v, want 5", e)
	}
	must(t, run.Signal(t.Context(), "TERM")) // to one that has ended
	p = r.program("hang")
	p.ID = "c"
	run, err = c.Run(t.Context(), p, cell.IO{})
	must(t, err)
	must(t, run.Signal(t.Context(), "KILL"))
	if e := wait(t, run); e.Code != 137 || e.Signal != "KILL" {
		t.Errorf("after KILL the exit is %+v, want 137 and KILL", e)
	}
	if _, err := c.Run(t.Context(), p, cell.IO{}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second process of one id gives %v, want fs.ErrExist", err)
	}
}

// lineWaiter closes got when it has seen want.
type lineWaiter struct {
	buffer
	want string
	once sync.Once
	got  chan struct{}
}

func (w *lineWaiter) Write(p []byte) (int, error) {
	n, err := w.buffer.Write(p)
	if strings.Contains(w.String(), w.want) {
		w.once.Do(func() { close(w.got) })
	}
	return n, err
}

func newLineWaiter(want string) *lineWaiter { return &lineWaiter{want: want, got: make(chan struct{})} }

func testRunAbsent(t *testing.T, r Runtime) {
	c := create(t, r, cell.Creation{ID: "x"})
	run, err := c.Run(t.Context(), cell.Process{Path: "/no/such/program"}, cell.IO{})
	if err == nil {
		if e := wait(t, run); e.Code != 126 && e.Code != 127 { // as a shell gives
			t.Errorf("a program that does not exist ran, and ended with %+v", e)
		}
	}
}

func testOutlives(t *testing.T, r Runtime) {
	c := create(t, r, cell.Creation{ID: "x"})
	ctx, cancel := context.WithCancel(t.Context())
	out := newLineWaiter("up")
	run, err := c.Run(ctx, r.program("out=up", "wait", "exit=4"), cell.IO{Stdout: out})
	must(t, err)
	<-out.got
	cancel()
	must(t, run.Signal(t.Context(), "TERM"))
	if e := wait(t, run); e.Code != 4 {
		t.Errorf("exit is %+v, want 4: the end of the context must not end the process", e)
	}
}

func testAttach(t *testing.T, r Runtime) {
	c := create(t, r, cell.Creation{ID: "x"})
	at, ok := c.(cell.Attacher)
	if !ok {
		if res, err := r.Capacity(t.Context()); err != nil || res.Survives {
			t.Errorf("containers that survive must be Attachers (%v)", err)
		}
		t.Skip("not an Attacher")
	}
	p := r.program("out=one", "err=two", "wait", "out=three", "exit=6")
	p.ID = "p"
	ctx, cancel := context.WithCancel(t.Context())
	first := newLineWaiter("one")
	run, err := c.Run(ctx, p, cell.IO{Stdout: first})
	must(t, err)
	<-first.got
	cancel()
	second := newLineWaiter("one\n")
	again, err := at.Attach(t.Context(), "p", cell.IO{Stdout: second})
	must(t, err)
	<-second.got
	must(t, again.Signal(t.Context(), "TERM"))
	if e := wait(t, again); e.Code != 6 {
		t.Errorf("exit is %+v, want 6", e)
	}
	wait(t, run)
	if s := second.String(); s != "one\nthree\n" {
		t.Errorf("attached output is %q", s)
	}
	var late, lateErr buffer
	ended, err := at.Attach(t.Context(), "p", cell.IO{Stdout: &late, Stderr: &lateErr})
	must(t, err)
	if e := wait(t, ended); e.Code != 6 || late.String() != "one\nthree\n" || lateErr.String() != "two\n" {
		t.Errorf("attached after the end: %+v, %q, %q", e, late.String(), lateErr.String())
	}
	if _, err := at.Attach(t.Context(), "other", cell.IO{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Attach to no process gives %v, want fs.ErrNotExist", err)
	}
}

func testDestroy(t *testing.T, r Runtime) {
	c := create(t, r, cell.Creation{ID: "x", Spec: cell.Spec{Ports: []int{8080}}})
	out := newLineWaiter("up")
	run, err := c.Run(t.Context(), r.program("out=up", "hang"), cell.IO{Stdout: out})
	must(t, err)
	<-out.got
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	_ = c.Destroy(cancelled) // may fail or not; it is called again
	must(t, c.Destroy(t.Context()))
	must(t, c.Destroy(t.Context()))
	ctx, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	if e, err := run.Wait(ctx); err == nil && e.Code != 137 {
		t.Errorf("a destroyed container's process ended with %+v", e)
	} else if ctx.Err() != nil {
		t.Error("a destroyed container's process does not end")
	}
	all, err := r.Containers(t.Context())
	must(t, err)
	if len(all) != 0 {
		t.Errorf("%d containers are left", len(all))
	}
	_, runErr := c.Run(t.Context(), r.program("exit=0"), cell.IO{})
	_, outErr := c.StreamOut(t.Context(), "/x")
	inErr := c.StreamIn(t.Context(), "/x", bytes.NewReader(archive(t, "a", "b")))
	for _, err := range []error{runErr, outErr, inErr} {
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("after Destroy: %v, want fs.ErrNotExist", err)
		}
	}
	create(t, r, cell.Creation{ID: "x"})
}

func testConcurrent(t *testing.T, r Runtime) {
	data := archive(t, "app/f", "x")
	l := cell.Layer{Digest: digest(data), Dir: "/home/vcap", Open: opener(data)}
	var wg sync.WaitGroup
	var mu sync.Mutex
	hosts := map[string]string{}
	for _, id := range ids(8) {
		wg.Go(func() {
			c, err := r.Create(t.Context(), cell.Creation{ID: id, Layers: []cell.Layer{l}, Spec: cell.Spec{Ports: []int{8080}}})
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			host := c.Info().Addresses[0].Host
			if hosts[host] != "" {
				t.Errorf("%s and %s have one address", id, hosts[host])
			}
			hosts[host] = id
			mu.Unlock()
			run, err := c.Run(t.Context(), r.program("cat=app/f", "exit=7"), cell.IO{})
			if err != nil {
				t.Error(err)
			} else if e, err := run.Wait(t.Context()); err != nil || e.Code != 7 {
				t.Errorf("%s: %+v, %v", id, e, err)
			}
			if err := c.Destroy(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}
