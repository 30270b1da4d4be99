//go:build linux || darwin

package folder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/internal/tarfs"
	"github.com/dewpoint-go/dewpoint/lifecycle"
)

// container is a folder with processes.
type container struct {
	r    *Runtime
	dir  string
	root string // what "/" is
	meta meta
	info cell.Info

	release func() // of the image; nil: there is none

	use  sync.RWMutex // held for reading by what works inside, so that Destroy comes after it
	gone bool         // guarded by use

	mu       sync.Mutex                 // guards what follows
	children map[string]<-chan struct{} // by process id: closed when the init that we started has ended

	destroy sync.Mutex // one Destroy at a time
	removed bool       // guarded by destroy
	trash   string     // guarded by destroy: where the folder was moved
}

var (
	_ cell.Container = (*container)(nil)
	_ cell.Attacher  = (*container)(nil)
	_ cell.Pather    = (*container)(nil)
)

func (c *container) Info() cell.Info { return c.info }

// Path implements cell.Pather.
func (c *container) Path(p string) string { return c.r.cfg.Kind.Path(c.root, p) }

// enter begins work inside; leave must follow if it is nil.
func (c *container) enter() error {
	c.use.RLock()
	if c.gone {
		c.use.RUnlock()
		return fmt.Errorf("container %s: %w", c.info.ID, fs.ErrNotExist)
	}
	return nil
}

func (c *container) leave() { c.use.RUnlock() }

// view is what "/" is where this program is.
func (c *container) view(ctx context.Context) (string, error) {
	if c.r.engine != nil {
		return c.r.engine.View(ctx, c.place())
	}
	return c.root, nil
}

// open opens "/".
func (c *container) open(ctx context.Context) (*os.Root, error) {
	dir, err := c.view(ctx)
	if err != nil {
		return nil, err
	}
	return os.OpenRoot(dir)
}

// inside is a container path as a name below the root.
func inside(p string) string {
	if p = strings.TrimPrefix(path.Clean("/"+p), "/"); p == "" {
		return "."
	}
	return p
}

func (c *container) StreamIn(ctx context.Context, dir string, archive io.Reader) error {
	if err := c.enter(); err != nil {
		return err
	}
	defer c.leave()
	if err := c.r.cfg.Kind.Writable(c.meta.Spec, dir); err != nil {
		return fmt.Errorf("unpack into %s of container %s: %w", dir, c.info.ID, err)
	}
	root, err := c.open(ctx)
	if err != nil {
		return fmt.Errorf("unpack into %s of container %s: %w", dir, c.info.ID, err)
	}
	defer root.Close()
	theirs := c.r.theirs(root, inside(dir), c.meta.Image)
	err = extract(ctx, root, inside(dir), archive, c.dir, c.r.owner(c.meta.Image))
	if err == nil {
		err = c.r.giveAway(root, theirs, c.meta.Image)
	}
	if err != nil {
		return fmt.Errorf("unpack into %s of container %s: %w", dir, c.info.ID, err)
	}
	return nil
}

// extract unpacks an archive for an owner (0: who this program runs as) and reads it to its end.
func extract(ctx context.Context, root *os.Root, dir string, r io.Reader, spool string, owner int) error {
	// The names and links of a droplet are those of an app, and nothing to be checked here.
	_, err := tarfs.Extract(ctx, root, dir, r, tarfs.Limits{Links: tarfs.AnyLinks, RawNames: true, Spool: spool, Owner: owner})
	if _, bad := errors.AsType[*tarfs.EntryError](err); bad {
		return &cell.ArchiveError{Err: err}
	}
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, r)
	return err
}

func (c *container) StreamOut(ctx context.Context, name string) (io.ReadCloser, error) {
	if err := c.enter(); err != nil {
		return nil, err
	}
	defer c.leave()
	root, err := c.open(ctx)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	// A program may have put anything there: to open a pipe must not block.
	f, err := root.OpenFile(inside(name), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("file of container %s: %w", c.info.ID, err)
	}
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		f.Close()
		return nil, fmt.Errorf("file %s of container %s: not a regular file", name, c.info.ID)
	}
	return f, nil
}

// stateDir is where the init of a process keeps what it knows; its name is the process's id.
func (c *container) stateDir(id string) (string, error) {
	if err := cell.CheckID(id); err != nil {
		return "", fmt.Errorf("process id %w", err)
	}
	return filepath.Join(c.dir, c.meta.State, id), nil
}

func (c *container) Run(ctx context.Context, p cell.Process, stdio cell.IO) (cell.Running, error) {
	if err := c.enter(); err != nil {
		return nil, err
	}
	defer c.leave()
	if p.ID == "" {
		p.ID = "main"
	}
	run, err := c.run(ctx, p, stdio)
	if err != nil {
		return nil, fmt.Errorf("run process %q in container %s: %w", p.ID, c.info.ID, err)
	}
	return run, nil
}

func (c *container) run(ctx context.Context, p cell.Process, stdio cell.IO) (*running, error) {
	state, err := c.stateDir(p.ID)
	if err != nil {
		return nil, err
	}
	ended, err := c.start(ctx, state, p, nil)
	if err != nil {
		return nil, err
	}
	return c.follow(ctx, state, ended, stdio), nil
}

// start starts a process whose state is to be in a folder that does not exist; after an error it does not exist either.
func (c *container) start(ctx context.Context, state string, p cell.Process, line *os.File) (<-chan struct{}, error) {
	if err := os.Mkdir(state, 0o700); err != nil {
		return nil, err // fs.ErrExist: it ran before
	}
	dir := path.Clean("/" + p.Dir)
	if p.Dir == "" && c.meta.Image == nil {
		dir = "/home/vcap"
	}
	if err := c.makeDir(ctx, dir); err != nil {
		return nil, errors.Join(fmt.Errorf("its folder %s: %w", dir, err), removeAll(state))
	}
	// A crowd of programs that start would keep each from answering in its time.
	if err := c.r.starts.enter(ctx); err != nil {
		return nil, errors.Join(err, removeAll(state))
	}
	ended, err := c.r.cfg.Kind.Start(ctx, c.r.cfg.Program, c.place(), Start{Spec: c.meta.Spec, Root: c.root, State: state, Dir: dir,
		NoFile: c.nofile(), Process: p, Env: c.env(), Line: line})
	c.r.starts.leave()
	if err != nil {
		return nil, errors.Join(err, removeAll(state))
	}
	c.mu.Lock()
	c.children[filepath.Base(state)] = ended
	c.mu.Unlock()
	return ended, nil
}

// Child starts the command of an init, for a Kind, as a child of this program. Line may be nil.
func Child(p *lifecycle.Program, cmd *exec.Cmd, line *os.File) (<-chan struct{}, error) {
	if line != nil {
		cmd.ExtraFiles = []*os.File{line}
	}
	cmd.SysProcAttr.Setsid = true // neither Ctrl-C at our terminal nor its end is for it
	if err := p.Start(cmd); err != nil {
		return nil, err
	}
	ended := make(chan struct{})
	// Not waited for by Close: it ends with the init, which may outlive us.
	go func() {
		defer close(ended)
		_ = cmd.Wait() // what counts is what init has recorded
	}()
	return ended, nil
}

// place is what an Engine knows of the container.
func (c *container) place() Place {
	p := Place{ID: c.info.ID, Key: keyOf(c.meta.State), Dir: c.dir, Root: c.root,
		States: filepath.Join(c.dir, c.meta.State), Spec: c.meta.Spec, Image: c.meta.Image}
	for i, dir := range c.meta.Dirs {
		p.Layers = append(p.Layers, Layer{From: c.r.layerDir(c.meta.Layers[i]), To: dir})
	}
	return p
}

// makeDir makes the folder in which a process begins, unless the stack has it.
func (c *container) makeDir(ctx context.Context, dir string) error {
	if c.r.cfg.Kind.Writable(c.meta.Spec, dir) != nil {
		return nil
	}
	root, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer root.Close()
	if st, err := root.Stat(inside(dir)); err == nil && st.IsDir() {
		return nil
	}
	theirs := c.r.theirs(root, inside(dir), c.meta.Image)
	if err := root.MkdirAll(inside(dir), 0o755); err != nil {
		return err
	}
	return c.r.giveAway(root, theirs, c.meta.Image)
}

// env stands before that of each process. Where tools of this machine are says nothing of an image.
func (c *container) env() []string {
	if c.meta.Image != nil {
		return []string{defaultPath}
	}
	return c.r.cfg.Env
}

// nofile is the limit of open files: at most what this program may set.
func (c *container) nofile() uint64 {
	if c.meta.Spec.NoFile <= 0 {
		return 0
	}
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		return 0
	}
	return min(uint64(c.meta.Spec.NoFile), uint64(lim.Max)) //nolint:unconvert // the type differs from system to system
}

// Attach implements cell.Attacher.
func (c *container) Attach(ctx context.Context, id string, stdio cell.IO) (cell.Running, error) {
	if err := c.enter(); err != nil {
		return nil, err
	}
	defer c.leave()
	if id == "" {
		id = "main"
	}
	state, err := c.stateDir(id)
	if err != nil {
		return nil, err
	}
	if _, err := lifecycle.InitState(state); err != nil {
		return nil, fmt.Errorf("attach to process %q of container %s: %w", id, c.info.ID, err)
	}
	c.mu.Lock()
	ended := c.children[id] // nil: another program's child
	c.mu.Unlock()
	return c.follow(ctx, state, ended, stdio), nil
}

// removeWait is how long Destroy waits for files to go; the rest goes in the background.
const removeWait = 200 * time.Millisecond

func (c *container) Destroy(ctx context.Context) error {
	c.destroy.Lock()
	defer c.destroy.Unlock()
	if c.removed {
		return nil
	}
	// What works inside ends soon: without its processes, and its folder is not looked for again.
	if err := c.kill(ctx, c.dir); err != nil {
		return fmt.Errorf("destroy container %s: %w", c.info.ID, err)
	}
	c.use.Lock()
	c.gone = true
	c.use.Unlock()
	trash, err := c.discard(ctx) // with what was just being started
	if err != nil {
		return fmt.Errorf("destroy container %s: %w", c.info.ID, err)
	}
	c.removed = true
	c.r.mu.Lock()
	delete(c.r.containers, c.info.ID)
	c.r.mu.Unlock()
	c.r.ports.Release(c.meta.Ports)
	c.r.sweepLayers()
	if c.release != nil && c.r.cfg.Images != nil {
		c.r.collectImages()
	}
	c.r.remove(ctx, trash)
	return nil
}

// discard ends what runs, and moves the folder to where things are removed. An init that a
// killed program was starting may come late: either it finds no folder and ends, or it is found there.
func (c *container) discard(ctx context.Context) (string, error) {
	if err := c.kill(ctx, c.dir); err != nil {
		return "", err
	}
	if c.meta.State != "" { // else it is a damaged one that has no name by which others would know it: nothing was ever started in it
		if err := c.end(ctx); err != nil {
			return "", err
		}
	}
	if c.release != nil {
		c.release()
	}
	if c.trash == "" {
		trash := c.r.trash(c.info.ID)
		if err := os.Rename(c.dir, trash); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		c.trash = trash
	}
	return c.trash, c.kill(ctx, c.trash)
}

// end has the Engine and the Limiter let go of it.
func (c *container) end(ctx context.Context) error {
	if c.r.engine != nil {
		if err := c.r.engine.End(ctx, c.place()); err != nil {
			return err
		}
	}
	if c.r.limits != nil {
		return c.r.limits.Lift(c.place().Key)
	}
	return nil
}

// trash is a new name in the folder of what is removed. To make a folder there could fail on a full disk.
func (r *Runtime) trash(name string) string {
	return filepath.Join(r.dir, trashDir, name+"."+strconv.FormatUint(r.trashed.Add(1), 10))
}

// drop removes a container that was never whole, or is not any more.
func (c *container) drop(ctx context.Context) error {
	trash, err := c.discard(ctx)
	return errors.Join(err, removeAll(trash))
}

// remove removes a folder, in the background if it takes long.
func (r *Runtime) remove(ctx context.Context, dir string) {
	done := make(chan struct{})
	r.wg.Go(func() {
		defer close(done)
		if err := removeAll(dir); err != nil {
			r.cfg.Logger.Error("remove a folder", "folder", dir, "error", err)
		}
	})
	t := time.NewTimer(removeWait)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
	case <-ctx.Done():
	}
}

// kill ends all processes and waits for their inits to have ended. The container's folder is
// at dir.
func (c *container) kill(ctx context.Context, dir string) error {
	states, err := c.states(dir)
	if err != nil {
		return err
	}
	var left []string
	for _, state := range states {
		err := lifecycle.SignalInit(state, syscall.SIGKILL)
		switch {
		case errors.Is(err, fs.ErrNotExist): // no process was started
		case err != nil:
			return err
		default:
			left = append(left, state)
		}
	}
	for _, state := range left {
		if err := c.awaitInit(ctx, state); err != nil {
			return err
		}
	}
	return killKeeper(ctx, dir)
}

// states lists the state folders of the processes of a container that is at dir. It knows them also if
// the container is damaged.
func (c *container) states(dir string) (all []string, err error) {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), statePrefix) {
			continue
		}
		processes, err := os.ReadDir(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		for _, p := range processes {
			if !p.IsDir() || strings.HasPrefix(p.Name(), ".") {
				continue // an Engine's
			}
			all = append(all, filepath.Join(dir, e.Name(), p.Name()))
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return all, err
}

// awaitInit waits until an init has ended.
func (c *container) awaitInit(ctx context.Context, state string) error {
	c.mu.Lock()
	ended := c.children[filepath.Base(state)]
	c.mu.Unlock()
	if ended != nil {
		select {
		case <-ended:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		s, err := lifecycle.InitState(state)
		if err != nil || !s.Alive {
			return nil //nolint:nilerr // no state: nothing to wait for
		}
		if err := pause(ctx, wait); err != nil {
			return err
		}
	}
}

// pause waits, or returns the context's error.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
