package containerd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/errdefs"
	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/cell/internal/folder"
	"github.com/dewpoint-go/dewpoint/cell/internal/stack"
	"github.com/dewpoint-go/dewpoint/internal/cgroup"
	"github.com/dewpoint-go/dewpoint/internal/jail"
	"github.com/dewpoint-go/dewpoint/lifecycle"
)

// What containerd is told of a container of ours.
const (
	labelCell = "dewpoint.cell"      // the name of the folder of the cell
	labelID   = "dewpoint.container" // its id
	shim      = "io.containerd.runc.v2"
)

// taskFile, in a container's folder, tells that containerd may know it, and of the keeper.
const taskFile = "task.json"

type task struct {
	PID    int          `json:"pid,omitempty"` // of the keeper; 0: it may not have come so far
	Start  uint64       `json:"start,omitempty"`
	Groups cgroup.Group `json:"groups,omitzero"`
}

func (t task) alive() bool { return t.PID != 0 && startOf(t.PID) == t.Start }

// readTask returns false if containerd does not know the container.
func readTask(c folder.Place) (task, bool) {
	var t task
	b, err := os.ReadFile(filepath.Join(c.Dir, taskFile))
	if err != nil {
		return t, false
	}
	_ = json.Unmarshal(b, &t) // one that is damaged tells as much
	return t, true
}

func writeTask(c folder.Place, t task) error {
	b, err := json.Marshal(t)
	if err != nil {
		return err
	}
	name := filepath.Join(c.Dir, taskFile)
	if err := os.WriteFile(name+".new", b, 0o600); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}

// Start implements folder.Kind.
func (k *kind) Start(ctx context.Context, _ *lifecycle.Program, c folder.Place, s folder.Start) (<-chan struct{}, error) {
	defer k.locks.Lock(c.Key)()
	t, err := k.run(ctx, c)
	if err != nil {
		return nil, err
	}
	st, err := k.stack(c)
	if err != nil {
		return nil, err
	}
	id := filepath.Base(s.State)
	inside := filepath.Join(statesPath, id)
	spec := jail.Spec{Built: true, User: vcap, Group: vcap, Dir: s.Dir, Roles: stack.ProgramPath, Binds: writable(c.Root)}
	if c.Image != nil {
		spec = k.jailImage(c, s.Dir)
	}
	if st.Dir != "/" && len(k.carried) > 0 {
		spec.Loader, _ = k.role(st, "")
	}
	b, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	const jailFile = "jail.json"
	if err := os.WriteFile(filepath.Join(s.State, jailFile), b, 0o600); err != nil {
		return nil, err
	}
	if err := folder.NoteKilled(s.State, t.Groups); err != nil {
		return nil, err
	}
	args := append(s.Flags(inside), "-inner", "-jail", filepath.Join(inside, jailFile), "--", s.Process.Path)
	args = append(args, s.Process.Args...)
	env := slices.Concat(s.Env, s.Process.Env)
	if c.Image == nil {
		env = append([]string{"HOME=/home/vcap", "USER=vcap", "TMPDIR=/tmp"}, env...)
	}
	path, argv := k.role(st, "init", args...)
	if err := (lifecycle.Keeper{PID: t.PID, Dir: c.States}).Start(ctx, id, path, argv, env, s.Line); err != nil {
		return nil, err
	}
	return lifecycle.InitEnded(s.State), nil
}

// run returns the task of a container, and starts it if there is none.
func (k *kind) run(ctx context.Context, c folder.Place) (task, error) {
	t, known := readTask(c)
	switch {
	case t.alive():
		return t, nil
	case known: // it was being started, or has ended: nothing of it is of use
		if err := k.forget(ctx, c.Key); err != nil {
			return t, err
		}
	}
	if k.network != nil {
		if err := k.network.connect(ctx, c); err != nil {
			return t, err
		}
	}
	// It is seen inside, and none of a program's business.
	if err := os.Chmod(c.States, 0o700); err != nil {
		return t, err
	}
	if err := writeTask(c, task{}); err != nil {
		return t, err
	}
	spec, err := k.spec(c)
	if err != nil {
		return t, err
	}
	tries := 0
	err = k.server.call(ctx, func(ctx context.Context) error {
		if tries++; tries > 1 { // the server has gone in the middle
			if err := k.remove(ctx, c.Key); err != nil {
				return err
			}
		}
		con, err := k.server.client.NewContainer(ctx, c.Key, containerd.WithSpec(spec), containerd.WithRuntime(shim, nil),
			containerd.WithContainerLabels(map[string]string{labelCell: k.name, labelID: c.ID}))
		if err != nil {
			return err
		}
		return k.launch(ctx, con, &t)
	})
	if err != nil {
		return t, fmt.Errorf("start the container by containerd: %w", err)
	}
	return t, writeTask(c, t)
}

// launch starts the task of a container that containerd knows.
func (k *kind) launch(ctx context.Context, con containerd.Container, t *task) error {
	made, err := con.NewTask(ctx, cio.NullIO)
	if err != nil {
		return err
	}
	if err := made.Start(ctx); err != nil {
		_, e := made.Delete(context.WithoutCancel(ctx), containerd.WithProcessKill)
		return errors.Join(err, e)
	}
	*t = task{PID: int(made.Pid()), Start: startOf(int(made.Pid()))}
	t.Groups = cgroup.Of(t.PID)
	if t.Start == 0 {
		return errors.New("its first process has ended at once")
	}
	return nil
}

// End implements folder.Engine.
func (k *kind) End(ctx context.Context, c folder.Place) error {
	defer k.locks.Lock(c.Key)()
	if t, known := readTask(c); known {
		if t.alive() { // at once, whether containerd answers or not
			_ = syscall.Kill(t.PID, syscall.SIGKILL)
		}
		if err := k.forget(ctx, c.Key); err != nil {
			return err
		}
	}
	if k.network != nil {
		if err := k.network.disconnect(ctx, c); err != nil {
			return err
		}
	}
	discard(c.Dir)
	if err := unmountBelow(c.Dir); err != nil {
		return err
	}
	k.locks.Forget(c.Key)
	return nil
}

// forget removes a container with all that runs there.
func (k *kind) forget(ctx context.Context, key string) error {
	err := k.server.call(ctx, func(ctx context.Context) error { return k.remove(ctx, key) })
	if err != nil {
		return fmt.Errorf("remove the container from containerd: %w", err)
	}
	return nil
}

// remove is forget without waiting for a server that is away.
func (k *kind) remove(ctx context.Context, key string) error {
	con, err := k.server.client.LoadContainer(ctx, key)
	if errdefs.IsNotFound(err) {
		return k.purge(ctx, key)
	} else if err != nil {
		return err
	}
	made, err := con.Task(ctx, nil)
	if err == nil {
		_, err = made.Delete(ctx, containerd.WithProcessKill)
	}
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	if err := con.Delete(ctx); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	return k.purge(ctx, key)
}

// purge removes what containerd does not know of: it was killed while it made or removed the container.
func (k *kind) purge(ctx context.Context, key string) error {
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		dirs := groupsOf(k.name, key)
		if len(dirs) == 0 {
			break
		}
		for _, pid := range append(shimsOf(key), processesIn(dirs)...) {
			_ = syscall.Kill(pid, syscall.SIGKILL) // if it has ended meanwhile, so be it
		}
		for _, d := range dirs {
			_ = os.Remove(d) // when the last of it has ended
		}
		if !pause(ctx, wait) {
			return fmt.Errorf("what is left of container %s does not end: %w", key, ctx.Err())
		}
	}
	err := os.RemoveAll(filepath.Join(runcDir, k.server.namespace, key))
	if k.server.program != "" {
		err = errors.Join(err, os.RemoveAll(filepath.Join(k.server.tasks(), k.server.namespace, key)))
	}
	return err
}

// runcDir is where the shim has runc keep what it knows, by namespace.
const runcDir = "/run/containerd/runc"

// shimsOf are the shims of a container. There is one, or none.
func shimsOf(key string) (all []int) {
	found, _ := filepath.Glob("/proc/[0-9]*/cmdline") // the pattern is right
	for _, name := range found {
		b, _ := os.ReadFile(name) // one that has ended has none
		args := strings.Split(string(b), "\x00")
		i := slices.Index(args, "-id")
		if strings.HasPrefix(filepath.Base(args[0]), "containerd-shim") && i > 0 && i+1 < len(args) && args[i+1] == key {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(name)))
			all = append(all, pid)
		}
	}
	return all
}

// sweep removes what programs that were killed have left of containers that are none any more, and makes sense of inits
// that were just being started.
func (k *kind) sweep(ctx context.Context, all []folder.Place) error {
	known := map[string]bool{}
	for _, c := range all {
		known[c.Key] = true
		t, _ := readTask(c)
		if !t.alive() {
			continue
		}
		states, err := filepath.Glob(filepath.Join(c.States, "[^.]*"))
		if err != nil {
			return err
		}
		for _, s := range states {
			if err := (lifecycle.Keeper{PID: t.PID, Dir: c.States}).Adopt(s); err != nil {
				return err
			}
		}
	}
	if k.network != nil {
		if err := k.network.sweep(ctx, all); err != nil {
			return err
		}
	}
	var left []containerd.Container
	err := k.server.call(ctx, func(ctx context.Context) (err error) {
		left, err = k.server.client.Containers(ctx, fmt.Sprintf("labels.%q==%s", labelCell, k.name))
		return err
	})
	if err != nil {
		return fmt.Errorf("list the containers of containerd: %w", err)
	}
	ids := groupsBelow(k.name)
	for _, con := range left {
		ids = append(ids, con.ID())
	}
	for _, id := range ids {
		if known[id] {
			continue
		}
		if err := k.forget(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

// Exit implements folder.Engine.
func (k *kind) Exit(c folder.Place, state string, e *cell.Exit) {
	if e.Code != 128+int(syscall.SIGKILL) {
		return
	}
	t, _ := readTask(c)
	e.OutOfMemory = folder.KilledSince(state, t.Groups)
}

// Usage implements folder.Engine.
func (k *kind) Usage(c folder.Place, u *cell.Usage) {
	t, _ := readTask(c)
	if u.Processes == 0 || !t.alive() {
		return
	}
	if cpu := t.Groups.CPU(); cpu > 0 {
		u.CPU = cpu
	}
	if n := t.Groups.Memory(); n > 0 {
		u.Memory = n
	}
}

const tryWait = 30 * time.Second
