//go:build linux || darwin

package folder

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/cell/internal/ports"
	"github.com/dewpoint-go/dewpoint/lifecycle"
)

// The folders below Config.Dir.
const (
	containersDir = "containers" // <id>/{root, state-*/<process>, meta.json}
	layersDir     = "layers"     // <digest>
	layersFile    = "layers.json"
	makingDir     = "making" // what is not whole yet
	trashDir      = "trash"  // what is being removed
	programDir    = "program"
	lockFile      = "lock"
	metaFile      = "meta.json"
	statePrefix   = "state-"
)

const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Runtime makes containers that are folders with processes. See cell.Runtime for the
// contract of its methods. A container's Note is durable when the program ends in
// whatever way; a power cut may take the container with it.
type Runtime struct {
	cfg   Config
	dir   string // absolute
	lock  *os.File
	ports ports.Pool

	trashed atomic.Uint64 // names given in trashDir

	engine Engine  // nil: processes are our children
	limits Limiter // nil: there are none
	meter  meter   // nil: all is known from /proc and the inits

	copies, starts gate // so that a crowd does not make each of its members slow

	closing context.Context // ends with Close
	close   context.CancelFunc
	wg      sync.WaitGroup // of goroutines

	noting sync.Mutex // held while layersFile is written

	mu         sync.Mutex // guards what follows
	containers map[string]*container
	reserved   map[string]bool // ids that are being made
	layers     map[string]*layer
}

var _ cell.Runtime = (*Runtime)(nil)

// New opens the folder, and finds the containers that are there. If another program has
// it open, the error says so.
func New(ctx context.Context, c Config) (*Runtime, error) {
	if c.Dir == "" {
		return nil, errors.New("Config.Dir is empty: name a folder for the containers")
	}
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return nil, err
	}
	c.defaults()
	for _, d := range []string{"", containersDir, layersDir, makingDir, trashDir} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			return nil, fmt.Errorf("folder %s: %w; give one that this user may write to", dir, err)
		}
	}
	// Programs are told names with links resolved: on macOS /tmp is one.
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return nil, err
	}
	lock, err := lockDir(ctx, dir)
	if err != nil {
		return nil, err
	}
	r := &Runtime{cfg: c, dir: dir, lock: lock, containers: map[string]*container{}, reserved: map[string]bool{}, layers: map[string]*layer{}}
	width := 2 * runtime.GOMAXPROCS(0)
	r.copies, r.starts = make(gate, width), make(gate, max(8, width))
	r.engine, _ = c.Kind.(Engine)
	r.limits, _ = c.Kind.(Limiter)
	r.meter, _ = c.Kind.(meter)
	r.closing, r.close = context.WithCancel(context.Background())
	if err := r.load(ctx); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

func (c *Config) defaults() {
	if c.Env == nil {
		c.Env = []string{defaultPath}
	}
	if c.Host == "" {
		c.Host = "127.0.0.1"
	}
	if c.KeepLayers == 0 {
		c.KeepLayers = 8
	}
	if c.KeepBytes == 0 {
		c.KeepBytes = 10_000_000_000
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Containers == 0 {
		c.Containers = 250
	}
}

// load removes what a program that was ended has left halfway, and finds the rest.
func (r *Runtime) load(ctx context.Context) error {
	for _, d := range []string{makingDir, trashDir} {
		if r.engine != nil {
			if err := r.engine.Unmount(filepath.Join(r.dir, d)); err != nil {
				return err
			}
		}
		all, err := os.ReadDir(filepath.Join(r.dir, d))
		if err != nil {
			return err
		}
		for _, e := range all {
			if err := removeAll(filepath.Join(r.dir, d, e.Name())); err != nil {
				return err
			}
		}
	}
	all, err := os.ReadDir(filepath.Join(r.dir, containersDir))
	if err != nil {
		return err
	}
	for _, e := range all {
		if !e.IsDir() {
			continue // not ours
		}
		c, err := r.find(e.Name())
		var damaged *json.SyntaxError
		switch {
		case err == nil:
		case !errors.As(err, &damaged) && !errors.Is(err, fs.ErrNotExist):
			r.cfg.Logger.Error("a container that cannot be read is left alone", "container", e.Name(), "error", err)
			continue
		default: // as by a power cut: nobody can use it, and its id must not stay taken
			r.cfg.Logger.Error("a damaged container is removed", "container", e.Name(), "error", err)
			if err := r.newContainer(e.Name(), meta{State: r.stateOf(e.Name())}).drop(ctx); err != nil {
				return fmt.Errorf("remove container %s, which cannot be read: %w", e.Name(), err)
			}
			continue
		}
		r.containers[e.Name()] = c
		r.ports.Adopt(c.meta.Ports)
		if err := c.dropSessions(); err != nil {
			r.cfg.Logger.Error("what is left of a person's processes", "container", e.Name(), "error", err)
		}
	}
	if err := r.loadLayers(ctx); err != nil {
		return err
	}
	if err := r.openAll(ctx); err != nil {
		return err
	}
	if r.limits != nil {
		if err := r.limits.Keep(r.Places()); err != nil {
			r.cfg.Logger.Error("limits of containers that are gone", "error", err)
		}
	}
	if r.cfg.Program == nil {
		r.cfg.Program, err = lifecycle.Prepare(ctx, lifecycle.Config{Dir: filepath.Join(r.dir, programDir), Source: r.cfg.Source})
	}
	return err
}

// stateOf finds the folder of states of a container whose notes cannot be read: by its name an Engine knows what is to be ended. "":
// there is none, and nothing was ever started.
func (r *Runtime) stateOf(id string) string {
	all, _ := filepath.Glob(filepath.Join(r.dir, containersDir, id, statePrefix+"*")) // the pattern is right
	if len(all) == 0 {
		return ""
	}
	return filepath.Base(all[0])
}

// openAll has the Engine open what was found. One whose layers went with an earlier boot of the machine is of no use.
func (r *Runtime) openAll(ctx context.Context) error {
	for id, c := range r.containers {
		if r.engine == nil {
			return nil
		}
		err := r.holdImage(c)
		if err == nil {
			err = r.engine.Open(ctx, c.place())
		}
		if errors.Is(err, fs.ErrNotExist) {
			r.cfg.Logger.Error("a container without its layers or its image is removed", "container", id, "error", err)
			delete(r.containers, id)
			r.ports.Release(c.meta.Ports)
			err = c.drop(ctx)
		}
		if err != nil {
			return fmt.Errorf("open container %s: %w", id, err)
		}
		c.addresses()
	}
	return nil
}

// Places lists the containers, for an Engine.
func (r *Runtime) Places() []Place {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []Place
	for _, c := range r.containers {
		all = append(all, c.place())
	}
	return all
}

// Close ends the Runtime and leaves the containers as they are; processes go on. Another
// program may then open the folder.
func (r *Runtime) Close() error {
	r.close()
	r.wg.Wait()
	r.noteLayers()
	// A child that is just being forked has the file, too, so to close it is not enough.
	return errors.Join(unix.Flock(int(r.lock.Fd()), unix.LOCK_UN), r.lock.Close())
}

// Program is what offers the roles.
func (r *Runtime) Program() *lifecycle.Program { return r.cfg.Program }

// Try makes a container of a stack for a while, which nobody else sees and which Engines do not know, and how the role check
// would be started there.
func (r *Runtime) Try(stack string, try func(Place, Start) error) error {
	dir, err := os.MkdirTemp(filepath.Join(r.dir, makingDir), "try-")
	if err != nil {
		return err
	}
	defer func() { _ = removeAll(dir) }() // what is left goes with the next New
	m := meta{State: statePrefix + rand.Text()[:12], Spec: cell.Spec{Stack: stack}}
	if err := r.build(context.Background(), dir, m, nil); err != nil {
		return err
	}
	c := Place{ID: "try", Key: "try-" + keyOf(m.State), Dir: dir, Root: filepath.Join(dir, "root"), States: filepath.Join(dir, m.State), Spec: m.Spec}
	return try(c, Start{Spec: m.Spec, Root: c.Root, State: filepath.Join(c.States, "try"), Dir: "/home/vcap", Env: r.cfg.Env,
		Process: cell.Process{Path: "lifecycle:check"}})
}

// Capacity implements cell.Runtime.
func (r *Runtime) Capacity(context.Context) (cell.Resources, error) {
	res := cell.Resources{Memory: r.cfg.Memory, Disk: r.cfg.Disk, Containers: r.cfg.Containers,
		Enforced: []string{"nofile"}, Survives: true}
	r.cfg.Kind.Describe(&res)
	if res.Memory == 0 {
		n, err := memory()
		if err != nil {
			return res, fmt.Errorf("memory of this machine: %w; set Config.Memory", err)
		}
		res.Memory = n
	}
	if res.Disk == 0 {
		var st unix.Statfs_t
		if err := unix.Statfs(r.dir, &st); err != nil {
			return res, fmt.Errorf("disk of %s: %w; set Config.Disk", r.dir, err)
		}
		res.Disk = int64(st.Blocks) * int64(st.Bsize) //nolint:unconvert // the types differ from system to system
	}
	return res, nil
}

// Containers implements cell.Runtime.
func (r *Runtime) Containers(context.Context) ([]cell.Container, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]cell.Container, 0, len(r.containers))
	for _, id := range slices.Sorted(maps.Keys(r.containers)) {
		all = append(all, r.containers[id])
	}
	return all, nil
}

// meta is the content of a container's meta.json.
type meta struct {
	Spec    cell.Spec `json:"spec"`
	Note    []byte    `json:"note,omitempty"`
	Created time.Time `json:"created"`
	Ports   []int     `json:"ports,omitempty"` // one for each of Spec.Ports
	Layers  []string  `json:"layers,omitempty"`
	Dirs    []string  `json:"dirs,omitempty"` // where each of Layers is, if an Engine puts them there
	Image   *Image    `json:"image,omitempty"`
	Root    string    `json:"root,omitempty"` // of an image that is its stack
	// State is the folder of the states of processes. No other container has had it, also none of
	// this id: an init that a killed program has forked may still be on its way there.
	State string `json:"state"`
}

// Create implements cell.Runtime.
func (r *Runtime) Create(ctx context.Context, c cell.Creation) (cell.Container, error) {
	if err := cell.CheckID(c.ID); err != nil {
		return nil, err
	}
	con, err := r.create(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("create container %s: %w", c.ID, err)
	}
	return con, nil
}

func (r *Runtime) create(ctx context.Context, c cell.Creation) (_ *container, err error) {
	if len(c.Note) > cell.MaxNote {
		return nil, fmt.Errorf("the note has %d bytes, at most %d are kept", len(c.Note), cell.MaxNote)
	}
	if err := r.cfg.Kind.Check(c.Spec); err != nil {
		return nil, err
	}
	for _, l := range c.Layers {
		if err := r.cfg.Kind.Writable(c.Spec, l.Dir); err != nil {
			return nil, fmt.Errorf("layer at %s: %w", l.Dir, err)
		}
	}
	r.mu.Lock()
	if r.containers[c.ID] != nil || r.reserved[c.ID] {
		r.mu.Unlock()
		return nil, fs.ErrExist
	}
	r.reserved[c.ID] = true
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		delete(r.reserved, c.ID)
		r.mu.Unlock()
	}()
	m := meta{Spec: c.Spec, Note: c.Note, Created: time.Now().UTC(), State: statePrefix + rand.Text()[:12]}
	if r.engine == nil || !r.engine.Networks() {
		if m.Ports, err = r.ports.Take(ctx, len(c.Spec.Ports)); err != nil {
			return nil, err
		}
	}
	release, err := r.image(ctx, c, &m)
	if err != nil {
		r.ports.Release(m.Ports)
		return nil, err
	}
	for _, l := range c.Layers {
		m.Layers = append(m.Layers, l.Digest)
		if r.overlays() {
			m.Dirs = append(m.Dirs, l.Dir)
		}
	}
	dir, err := os.MkdirTemp(filepath.Join(r.dir, makingDir), "c-")
	if err == nil {
		err = r.build(ctx, dir, m, c.Layers)
	}
	to := filepath.Join(r.dir, containersDir, c.ID)
	if err == nil {
		// Under a name that nobody knows until it is whole.
		err = os.Rename(dir, to)
	}
	if err != nil {
		r.ports.Release(m.Ports)
		release()
		return nil, errors.Join(err, removeAll(dir))
	}
	con := r.newContainer(c.ID, m)
	con.release = release
	if r.engine != nil {
		p := con.place()
		p.New, p.Taken = true, r.sizeOf(m.Layers)
		if err := r.engine.Open(ctx, p); err != nil {
			r.ports.Release(m.Ports)
			return nil, errors.Join(err, con.drop(context.WithoutCancel(ctx)))
		}
		con.addresses()
	}
	r.mu.Lock()
	r.containers[c.ID] = con
	r.mu.Unlock()
	if len(c.Layers) > 0 {
		r.sweepLayers()
	}
	return con, nil
}

// build fills the folder of a new container.
func (r *Runtime) build(ctx context.Context, dir string, m meta, layers []cell.Layer) error {
	for _, d := range []string{"root/home/vcap", "root/tmp", m.State} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, metaFile), data, 0o600); err != nil {
		return err
	}
	root, err := os.OpenRoot(filepath.Join(dir, "root"))
	if err != nil {
		return err
	}
	defer root.Close()
	for _, d := range []string{"home/vcap", "tmp"} {
		if err := r.giveAway(root, r.theirs(root, d, nil), nil); err != nil {
			return err
		}
	}
	if err := r.putLayers(ctx, root, layers); err != nil {
		return err
	}
	return ctx.Err()
}

// find reads a container of an earlier program.
func (r *Runtime) find(id string) (*container, error) {
	b, err := os.ReadFile(filepath.Join(r.dir, containersDir, id, metaFile))
	if err != nil {
		return nil, err
	}
	var m meta
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("%s: %w", metaFile, err)
	}
	return r.newContainer(id, m), nil
}

// addresses are the Engine's, if it has any.
func (c *container) addresses() {
	if all := c.r.engine.Addresses(c.place()); all != nil {
		c.info.Addresses = all
	}
}

func (r *Runtime) newContainer(id string, m meta) *container {
	c := &container{r: r, dir: filepath.Join(r.dir, containersDir, id), meta: m, children: map[string]<-chan struct{}{},
		info: cell.Info{ID: id, Spec: m.Spec, Note: m.Note, Created: m.Created}}
	c.root = filepath.Join(c.dir, "root")
	for _, p := range m.Ports {
		c.info.Addresses = append(c.info.Addresses, cell.Address{Port: p, Host: net.JoinHostPort(r.cfg.Host, strconv.Itoa(p))})
	}
	return c
}
