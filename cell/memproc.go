package cell

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"path"
	"strings"
	"sync"
)

// MemoryProcess is what a program of a [Memory] runtime gets: its arguments, and the
// container that it runs in. File names that are not absolute are below Dir.
type MemoryProcess struct {
	Container string // its id
	Path      string
	Args      []string // without the program's name
	Env       []string // "K=V"; later wins
	Dir       string
	// Stdin is what who has called Exec types; of any other process it is empty.
	Stdin io.Reader
	// Stdout and Stderr of the process. What is written after its end is lost.
	Stdout, Stderr io.Writer
	// Signals gets the names of signals as they come, TERM included, never KILL; those that
	// nobody takes are lost.
	Signals <-chan string
	// Killed is closed when the process is ended by KILL: for programs that live on after
	// TERM, which ends ctx.
	Killed <-chan struct{}

	run *memProc
}

// Getenv returns the value of a variable, "" if it is not set.
func (p MemoryProcess) Getenv(name string) string {
	for i := len(p.Env) - 1; i >= 0; i-- {
		if k, v, ok := strings.Cut(p.Env[i], "="); ok && k == name {
			return v
		}
	}
	return ""
}

// ReadFile returns the content of a file. The bytes must not be changed.
func (p MemoryProcess) ReadFile(name string) ([]byte, error) { return p.run.c.readFile(p.abs(name)) }

// WriteFile writes a file, and makes the folders that it stands in.
func (p MemoryProcess) WriteFile(name string, data []byte, mode fs.FileMode) error {
	c := p.run.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone != nil {
		return c.gone
	}
	at, err := c.tree.resolve(p.abs(name))
	if err != nil {
		return &fs.PathError{Op: "write", Path: name, Err: err}
	}
	if err := c.tree.put(at, &memNode{mode: mode.Perm(), data: append([]byte(nil), data...)}); err != nil {
		return &fs.PathError{Op: "write", Path: name, Err: err}
	}
	return nil
}

// FS returns the container's files as they are now: "home/vcap/app/Procfile".
func (p MemoryProcess) FS() fs.FS {
	c := p.run.c
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.tree.fsys()
}

// Listen listens on a port of the container's Spec. The listener is closed when the process ends.
func (p MemoryProcess) Listen(port int) (net.Listener, error) {
	for _, a := range p.run.c.info.Addresses {
		if a.Port != port {
			continue
		}
		l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", a.Host)
		if err != nil {
			return nil, fmt.Errorf("listen on port %d of container %s: %w", port, p.Container, err)
		}
		if !p.run.keep(l) {
			l.Close()
			return nil, net.ErrClosed
		}
		return l, nil
	}
	return nil, fmt.Errorf("listen on port %d of container %s: it is not in Spec.Ports %v", port, p.Container, p.run.c.info.Spec.Ports)
}

func (p MemoryProcess) abs(name string) string {
	if path.IsAbs(name) {
		return path.Clean(name)
	}
	return path.Join("/", p.Dir, name)
}

// maxMemOutput is what Attach gives at most of a process's past, in bytes.
const maxMemOutput = 4 << 20

type memChunk struct {
	stderr bool
	data   []byte
}

// memProc is a program that runs.
type memProc struct {
	c       *memContainer
	p       Process
	cancel  context.CancelFunc // TERM and KILL
	ctx     context.Context
	signals chan string
	killed  chan struct{}
	done    chan struct{}
	pipes   *[3]*memPipe // of a session; nil: the output is kept

	mu        sync.Mutex // guards what follows; held while output is delivered, so that its order is one
	past      []memChunk
	pastBytes int
	sinks     map[*IO]bool
	listeners []net.Listener
	ended     bool
	exit      Exit
	lost      error
}

func newMemProc(c *memContainer, p Process) *memProc {
	// Not a child of the caller's context: a process outlives who started it.
	ctx, cancel := context.WithCancel(context.Background())
	return &memProc{c: c, p: p, ctx: ctx, cancel: cancel, signals: make(chan string, 8),
		killed: make(chan struct{}), done: make(chan struct{}), sinks: map[*IO]bool{}}
}

func (r *memProc) start(program func(context.Context, MemoryProcess) int) {
	p := MemoryProcess{Container: r.c.info.ID, Path: r.p.Path, Args: r.p.Args, Env: r.p.Env, Dir: r.p.Dir, Stdin: strings.NewReader(""),
		Stdout: memWriter{r, false}, Stderr: memWriter{r, true}, Signals: r.signals, Killed: r.killed, run: r}
	if r.pipes != nil {
		p.Stdin, p.Stdout, p.Stderr = r.pipes[0], r.pipes[1], r.pipes[2]
	}
	go func() {
		defer func() {
			if v := recover(); v != nil {
				fmt.Fprintf(p.Stderr, "panic: %v\n", v)
				r.end(Exit{Code: 2}, nil)
			}
		}()
		r.end(Exit{Code: program(r.ctx, p)}, nil)
	}()
}

// end settles how the process ended; the first call counts.
func (r *memProc) end(e Exit, lost error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return
	}
	e.Time = r.c.m.cfg.Now()
	r.ended, r.exit, r.lost = true, e, lost
	r.cancel()
	if e.Signal == "KILL" {
		close(r.killed)
	}
	for _, l := range r.listeners {
		l.Close()
	}
	if r.pipes != nil {
		r.pipes[0].stop()
		_, _ = r.pipes[1].Close(), r.pipes[2].Close() // never fail
	}
	close(r.done)
}

func (r *memProc) keep(l net.Listener) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return false
	}
	r.listeners = append(r.listeners, l)
	return true
}

func (r *memProc) attach(ctx context.Context, stdio IO) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.past {
		stdio.write(c.stderr, c.data)
	}
	if r.ended {
		return
	}
	r.sinks[&stdio] = true
	context.AfterFunc(ctx, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.sinks, &stdio)
	})
}

func (s *IO) write(stderr bool, b []byte) {
	w := s.Stdout
	if stderr {
		w = s.Stderr
	}
	if w != nil {
		_, _ = w.Write(b) // a sink that fails loses its own output
	}
}

type memWriter struct {
	r      *memProc
	stderr bool
}

func (w memWriter) Write(b []byte) (int, error) {
	r := w.r
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return 0, errors.New("the process has ended")
	}
	r.past = append(r.past, memChunk{w.stderr, append([]byte(nil), b...)})
	for r.pastBytes += len(b); r.pastBytes > maxMemOutput && len(r.past) > 1; {
		r.pastBytes -= len(r.past[0].data)
		r.past = r.past[1:]
	}
	for s := range r.sinks {
		s.write(w.stderr, b)
	}
	return len(b), nil
}

func (r *memProc) Wait(ctx context.Context) (Exit, error) {
	select {
	case <-r.done:
	default:
		select {
		case <-r.done:
		case <-ctx.Done():
			return Exit{}, ctx.Err()
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.exit, r.lost
}

func (r *memProc) Signal(_ context.Context, name string) error {
	switch name {
	case "KILL":
		r.end(Exit{Code: 137, Signal: "KILL"}, nil)
		return nil
	case "TERM":
		defer r.cancel()
	case "INT", "HUP", "QUIT", "USR1", "USR2":
	default:
		return fmt.Errorf("signal %q is not known: use TERM, KILL, INT, HUP, QUIT, USR1 or USR2", name)
	}
	select {
	case r.signals <- name:
	default:
	}
	return nil
}
