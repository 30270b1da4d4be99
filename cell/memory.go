package cell

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/dewpoint-go/dewpoint/cell/internal/ports"
)

// MemoryConfig configures [NewMemory]. The zero value has no programs.
type MemoryConfig struct {
	// Programs are the programs of every container, by Process.Path, also
	// "lifecycle:builder" and "lifecycle:launcher". What a program returns is its exit
	// status. It should return soon after its ctx has ended: by a signal TERM or KILL.
	Programs map[string]func(context.Context, MemoryProcess) int
	// Capacity is what the runtime offers. Zero fields: 8 GiB of memory, 64 GiB of disk, 250 containers.
	Capacity Resources
	// Fault, if set, is asked before each operation ("create", "in", "out", "run",
	// "attach", "destroy") on a container; an error fails it, and nothing is done.
	Fault func(op, container string) error
	// FaultAfter is asked after an operation that has succeeded; an error is returned for it although it was done.
	FaultAfter func(op, container string) error
	// Now tells the time; nil: time.Now.
	Now func() time.Time
}

// Memory is a Runtime whose containers are values in memory and whose programs are Go
// functions. No files, and no network but for ports: a program that calls
// MemoryProcess.Listen listens on a port of the loopback interface. Containers without
// ports work in testing/synctest. Containers outlive the Agent, but not the program.
type Memory struct {
	cfg   MemoryConfig
	ports ports.Pool

	mu         sync.Mutex // guards what follows
	containers map[string]*memContainer
	layers     map[string]*memLayer
}

var (
	_ Runtime   = (*Memory)(nil)
	_ Container = (*memContainer)(nil)
	_ Attacher  = (*memContainer)(nil)
	_ Meter     = (*memContainer)(nil)
	_ Execer    = (*memContainer)(nil)
)

// memLayer is an unpacked archive, kept while a container uses it.
type memLayer struct {
	made  chan struct{} // closed when tree and err are set
	tree  memTree       // paths relative to the layer's folder
	err   error
	users int
}

// NewMemory returns a Memory without containers.
func NewMemory(c MemoryConfig) *Memory {
	if c.Now == nil {
		c.Now = time.Now
	}
	r := &c.Capacity
	if r.Memory == 0 {
		r.Memory = 8 << 30
	}
	if r.Disk == 0 {
		r.Disk = 64 << 30
	}
	if r.Containers == 0 {
		r.Containers = 250
	}
	if r.Isolation == "" {
		r.Isolation = "memory"
	}
	r.Images = true // an image is but a name here
	return &Memory{cfg: c, containers: map[string]*memContainer{}, layers: map[string]*memLayer{}}
}

// Capacity implements [Runtime].
func (m *Memory) Capacity(context.Context) (Resources, error) { return m.cfg.Capacity, nil }

// Containers implements [Runtime].
func (m *Memory) Containers(context.Context) ([]Container, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []Container
	for _, id := range slices.Sorted(maps.Keys(m.containers)) {
		if c := m.containers[id]; c.made {
			all = append(all, c)
		}
	}
	return all, nil
}

// Vanish makes a container disappear as if the machine had lost it: its programs are
// ended, and whoever waits for them learns that the container does not exist.
func (m *Memory) Vanish(id string) {
	m.mu.Lock()
	c := m.containers[id]
	m.mu.Unlock()
	if c != nil {
		c.remove(fmt.Errorf("container %s vanished: %w", id, fs.ErrNotExist))
	}
}

// Create implements [Runtime].
func (m *Memory) Create(ctx context.Context, c Creation) (Container, error) {
	if err := CheckID(c.ID); err != nil {
		return nil, err
	}
	if len(c.Note) > MaxNote {
		return nil, fmt.Errorf("create container %s: the note has %d bytes, at most %d are kept", c.ID, len(c.Note), MaxNote)
	}
	if err := m.fault(m.cfg.Fault, "create", c.ID); err != nil {
		return nil, err
	}
	con := &memContainer{m: m, tree: memTree{"/": {mode: fs.ModeDir | 0o755}}, procs: map[string]*memProc{},
		info: Info{ID: c.ID, Spec: c.Spec, Note: slices.Clone(c.Note), Created: m.cfg.Now()}}
	m.mu.Lock()
	if _, ok := m.containers[c.ID]; ok {
		m.mu.Unlock()
		return nil, fmt.Errorf("create container %s: %w", c.ID, fs.ErrExist)
	}
	m.containers[c.ID] = con
	m.mu.Unlock()
	if err := con.fill(ctx, c); err != nil {
		con.remove(err)
		return nil, fmt.Errorf("create container %s: %w", c.ID, err)
	}
	m.mu.Lock()
	con.made = true
	m.mu.Unlock()
	if err := m.fault(m.cfg.FaultAfter, "create", c.ID); err != nil {
		return nil, err
	}
	return con, nil
}

func (m *Memory) fault(ask func(op, container string) error, op, id string) error {
	if ask == nil {
		return nil
	}
	if err := ask(op, id); err != nil {
		return fmt.Errorf("%s container %s: %w", op, id, err)
	}
	return nil
}

// layer returns the tree of a layer; the caller counts as its user until release.
func (m *Memory) layer(ctx context.Context, l Layer) (memTree, error) {
	for {
		m.mu.Lock()
		have := m.layers[l.Digest]
		if have == nil {
			have = &memLayer{made: make(chan struct{}), users: 1}
			m.layers[l.Digest] = have
			m.mu.Unlock()
			have.tree, have.err = openLayer(ctx, l)
			if have.err != nil {
				m.mu.Lock()
				delete(m.layers, l.Digest)
				m.mu.Unlock()
			}
			close(have.made)
			return have.tree, have.err
		}
		have.users++
		m.mu.Unlock()
		select {
		case <-have.made:
		case <-ctx.Done():
			m.releaseLayer(l.Digest, have)
			return nil, ctx.Err()
		}
		if have.err == nil {
			return have.tree, nil
		} // another's failure, such as its end of ctx, is not ours: try again
	}
}

func (m *Memory) releaseLayer(digest string, l *memLayer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if l == nil {
		l = m.layers[digest]
	}
	if l == nil || m.layers[digest] != l {
		return
	}
	if l.users--; l.users == 0 {
		delete(m.layers, digest)
	}
}

func openLayer(ctx context.Context, l Layer) (memTree, error) {
	r, err := l.Open(ctx)
	if err != nil {
		return nil, fmt.Errorf("open layer %s: %w", l.Digest, err)
	}
	defer r.Close()
	tree := memTree{"/": {mode: fs.ModeDir | 0o755}}
	if err := tree.unpack(ctx, "/", r); err != nil {
		return nil, fmt.Errorf("unpack layer %s: %w", l.Digest, err)
	}
	return tree, nil
}

type memContainer struct {
	m    *Memory
	info Info
	made bool // guarded by m.mu

	mu     sync.Mutex // guards what follows
	tree   memTree
	procs  map[string]*memProc
	layers []string
	gone   error

	sessions int // that have been there
}

// fill gives a new container its layers and addresses.
func (c *memContainer) fill(ctx context.Context, spec Creation) error {
	trees := make([]memTree, len(spec.Layers))
	g, fetching := errgroup.WithContext(ctx)
	for i, l := range spec.Layers {
		g.Go(func() (err error) {
			if trees[i], err = c.m.layer(fetching, l); err != nil {
				return err
			}
			c.mu.Lock()
			defer c.mu.Unlock()
			c.layers = append(c.layers, l.Digest)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for i, l := range spec.Layers {
		c.mu.Lock()
		err := c.tree.graft(l.Dir, trees[i])
		c.mu.Unlock()
		if err != nil {
			return err
		}
	}
	if len(spec.Spec.Ports) == 0 {
		return ctx.Err()
	}
	got, err := c.m.ports.Take(ctx, len(spec.Spec.Ports))
	if err != nil {
		return err
	}
	for i, p := range spec.Spec.Ports {
		c.info.Addresses = append(c.info.Addresses, Address{Port: p, Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(got[i]))})
	}
	return nil
}

func (c *memContainer) Info() Info { return c.info }

// here begins an operation: an error if the container is gone, or by Config.Fault.
func (c *memContainer) here(op string) error {
	c.mu.Lock()
	gone := c.gone
	c.mu.Unlock()
	if gone != nil {
		return gone
	}
	return c.m.fault(c.m.cfg.Fault, op, c.info.ID)
}

func (c *memContainer) StreamIn(ctx context.Context, dir string, archive io.Reader) error {
	if err := c.here("in"); err != nil {
		return err
	}
	// Unpacked aside: a stream that takes its time must not hold the container's lock.
	part := memTree{"/": {mode: fs.ModeDir | 0o755}}
	if err := part.unpack(ctx, "/", archive); err != nil {
		return fmt.Errorf("unpack into %s of container %s: %w", dir, c.info.ID, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone != nil {
		return c.gone
	}
	if err := c.tree.graft(dir, part); err != nil {
		return fmt.Errorf("unpack into %s of container %s: %w", dir, c.info.ID, err)
	}
	return c.m.fault(c.m.cfg.FaultAfter, "in", c.info.ID)
}

func (c *memContainer) StreamOut(_ context.Context, name string) (io.ReadCloser, error) {
	if err := c.here("out"); err != nil {
		return nil, err
	}
	data, err := c.readFile(name)
	if err != nil {
		return nil, err
	}
	return io.NopCloser(newReader(data)), nil
}

func (c *memContainer) readFile(name string) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, err := c.tree.file(name)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return n.data, nil
}

func (c *memContainer) Run(ctx context.Context, p Process, stdio IO) (Running, error) {
	if err := c.here("run"); err != nil {
		return nil, err
	}
	program := c.m.cfg.Programs[p.Path]
	if program == nil {
		return nil, fmt.Errorf("run %q in container %s: %w: add it to MemoryConfig.Programs", p.Path, c.info.ID, fs.ErrNotExist)
	}
	if p.ID == "" {
		p.ID = "main"
	}
	c.mu.Lock()
	if c.gone != nil {
		c.mu.Unlock()
		return nil, c.gone
	}
	if c.procs[p.ID] != nil {
		c.mu.Unlock()
		return nil, fmt.Errorf("run process %q in container %s: %w", p.ID, c.info.ID, fs.ErrExist)
	}
	run := newMemProc(c, p)
	c.procs[p.ID] = run
	c.mu.Unlock()
	run.attach(ctx, stdio)
	run.start(program)
	if err := c.m.fault(c.m.cfg.FaultAfter, "run", c.info.ID); err != nil {
		return nil, err
	}
	return run, nil
}

func (c *memContainer) Attach(ctx context.Context, id string, stdio IO) (Running, error) {
	if err := c.here("attach"); err != nil {
		return nil, err
	}
	if id == "" {
		id = "main"
	}
	c.mu.Lock()
	run := c.procs[id]
	c.mu.Unlock()
	if run == nil {
		return nil, fmt.Errorf("process %q of container %s: %w", id, c.info.ID, fs.ErrNotExist)
	}
	run.attach(ctx, stdio)
	return run, nil
}

// Usage implements [Meter]: files and programs are counted; memory and time are those of this program.
func (c *memContainer) Usage(context.Context) (Usage, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone != nil {
		return Usage{}, c.gone
	}
	u := Usage{Time: c.m.cfg.Now()}
	for _, n := range c.tree {
		u.Disk += int64(len(n.data))
	}
	for _, p := range c.procs {
		select {
		case <-p.done:
		default:
			u.Processes++
		}
	}
	return u, nil
}

func (c *memContainer) Destroy(context.Context) error {
	if err := c.m.fault(c.m.cfg.Fault, "destroy", c.info.ID); err != nil {
		return err
	}
	c.remove(nil)
	return c.m.fault(c.m.cfg.FaultAfter, "destroy", c.info.ID)
}

// remove ends the programs, with lost for those who wait if it is not nil.
func (c *memContainer) remove(lost error) {
	c.mu.Lock()
	if c.gone != nil {
		c.mu.Unlock()
		return
	}
	c.gone = fmt.Errorf("container %s: %w", c.info.ID, fs.ErrNotExist)
	procs, layers := maps.Clone(c.procs), c.layers // sessions go meanwhile
	c.mu.Unlock()
	for _, p := range procs {
		p.end(Exit{Code: 137, Signal: "KILL"}, lost)
	}
	for _, d := range layers {
		c.m.releaseLayer(d, nil)
	}
	var taken []int
	for _, a := range c.info.Addresses {
		if _, port, err := net.SplitHostPort(a.Host); err == nil {
			n, _ := strconv.Atoi(port)
			taken = append(taken, n)
		}
	}
	c.m.ports.Release(taken)
	c.m.mu.Lock()
	delete(c.m.containers, c.info.ID)
	c.m.mu.Unlock()
}
