//go:build linux || darwin

package folder

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/dewpoint-go/dewpoint/cell"
)

// layer is an unpacked archive: the folder <digest>. Nothing is synced to disk, so those
// of an earlier boot may be damaged, and are not used.
type layer struct {
	ready chan struct{} // closed when it was unpacked, or err is set
	err   error
	users int // who unpacks it or copies from it now
	used  time.Time
	size  int64 // bytes on the disk
	whole bool
}

func checkDigest(d string) error {
	if len(d) != 64 || strings.Trim(d, "0123456789abcdef") != "" {
		return fmt.Errorf("layer digest %q is not 64 lower-case hex digits", d)
	}
	return nil
}

func (r *Runtime) layerDir(digest string) string { return filepath.Join(r.dir, layersDir, digest) }

// bootFile tells in which boot of the machine the layers were unpacked.
const bootFile = "boot"

// loadLayers finds the layers of an earlier program.
func (r *Runtime) loadLayers(ctx context.Context) error {
	dir := filepath.Join(r.dir, layersDir)
	boot := bootID()
	had, err := os.ReadFile(filepath.Join(r.dir, bootFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if boot == "" || string(had) != boot {
		if err := removeAll(dir); err != nil {
			return err
		}
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(r.dir, bootFile), []byte(boot), 0o600)
	}
	all, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var notes map[string]layerNote
	if b, err := os.ReadFile(filepath.Join(r.dir, layersFile)); err == nil {
		_ = json.Unmarshal(b, &notes) // a damaged one is as good as none
	}
	for _, e := range all {
		n, ok := notes[e.Name()]
		if !ok {
			n.Used = time.Now()
			if n.Size, err = diskUsage(ctx, filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
		l := &layer{ready: make(chan struct{}), used: n.Used, size: n.Size, whole: true}
		close(l.ready)
		r.layers[e.Name()] = l
	}
	r.sweepLayers() // the bounds may be lower now
	return nil
}

// sizeOf is what layers take on the disk, which are there.
func (r *Runtime) sizeOf(digests []string) (n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, d := range digests {
		if l := r.layers[d]; l != nil {
			n += l.size
		}
	}
	return n
}

// putLayers gives a container its copies of layers. They are fetched and unpacked at the same
// time, and copied in their order, as a later one may stand in the folder of an earlier one.
func (r *Runtime) putLayers(ctx context.Context, root *os.Root, all []cell.Layer) error {
	for _, l := range all {
		if err := checkDigest(l.Digest); err != nil {
			return err
		}
	}
	g, fetching := errgroup.WithContext(ctx)
	g.SetLimit(fetches)
	have := make([]*layer, len(all))
	for i, l := range all {
		g.Go(func() (err error) {
			if have[i], err = r.layer(fetching, l); err != nil {
				return fmt.Errorf("layer %s: %w", l.Digest, err)
			}
			return nil
		})
	}
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, l := range have {
			if l != nil {
				l.users--
				l.used = time.Now()
			}
		}
	}()
	if err := g.Wait(); err != nil {
		return err
	}
	for _, l := range all {
		if r.overlays() {
			break // it does better than to copy
		}
		if err := r.copyLayer(ctx, root, l); err != nil {
			return err
		}
	}
	return nil
}

// overlays tells whether layers are shown, not copied.
func (r *Runtime) overlays() bool { return r.engine != nil && r.engine.Overlays() }

// fetches is how many layers of a container are fetched at the same time.
const fetches = 8

// copyLayer copies a layer that is unpacked.
func (r *Runtime) copyLayer(ctx context.Context, root *os.Root, l cell.Layer) error {
	if err := r.copies.enter(ctx); err != nil {
		return err
	}
	defer r.copies.leave()
	dir := inside(l.Dir)
	if err := root.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := r.giveAway(root, r.theirs(root, dir, nil), nil); err != nil {
		return err
	}
	to, err := root.OpenRoot(dir)
	if err != nil {
		return err
	}
	from, err := os.OpenRoot(r.layerDir(l.Digest))
	if err != nil {
		to.Close()
		return err
	}
	if err := copyTree(ctx, from, to, r.owner(nil)); err != nil {
		return fmt.Errorf("copy layer %s: %w", l.Digest, err)
	}
	return nil
}

// layer returns a layer that is unpacked; the caller is one of its users. Nil after an error.
func (r *Runtime) layer(ctx context.Context, l cell.Layer) (*layer, error) {
	for {
		r.mu.Lock()
		have := r.layers[l.Digest]
		if have == nil {
			have = &layer{ready: make(chan struct{}), users: 1}
			r.layers[l.Digest] = have
			r.mu.Unlock()
			size, err := r.unpackLayer(ctx, l)
			r.mu.Lock()
			have.size, have.err, have.whole = size, err, err == nil
			if err != nil {
				delete(r.layers, l.Digest)
			}
			r.mu.Unlock()
			close(have.ready)
			if err != nil {
				return nil, err
			}
			r.noteLayers()
			return have, nil
		}
		have.users++
		r.mu.Unlock()
		select {
		case <-have.ready:
			if have.err == nil {
				return have, nil
			} // another's failure, such as the end of its ctx, is not ours: try again
		case <-ctx.Done():
			r.mu.Lock()
			have.users--
			r.mu.Unlock()
			return nil, ctx.Err()
		}
	}
}

// unpackLayer returns what the layer takes on the disk.
func (r *Runtime) unpackLayer(ctx context.Context, l cell.Layer) (size int64, err error) {
	in, err := l.Open(ctx)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	dir, err := os.MkdirTemp(filepath.Join(r.dir, makingDir), "l-")
	if err != nil {
		return 0, err
	}
	root, err := os.OpenRoot(dir)
	if err == nil {
		owner := 0 // of what is copied only the copies have one
		if r.overlays() {
			owner = r.owner(nil)
		}
		err = extract(ctx, root, ".", in, filepath.Join(r.dir, makingDir), owner)
		if err == nil && r.overlays() {
			err = r.giveAway(root, r.theirs(root, ".", nil), nil)
		}
		root.Close()
	}
	if err == nil {
		size, err = diskUsage(ctx, dir)
	}
	if err == nil {
		err = os.Rename(dir, r.layerDir(l.Digest))
	}
	if err != nil {
		return 0, errors.Join(err, removeAll(dir))
	}
	return size, nil
}

// sweepLayers removes layers that no container was made from, those first that were not used for
// longest, until the rest is within KeepLayers and KeepBytes.
func (r *Runtime) sweepLayers() {
	r.mu.Lock()
	needed := map[string]bool{}
	for _, c := range r.containers {
		for _, d := range c.meta.Layers {
			needed[d] = true
		}
	}
	var idle []string
	var bytes int64
	for d, l := range r.layers {
		bytes += l.size
		if l.users == 0 && !needed[d] {
			idle = append(idle, d)
		}
	}
	slices.SortFunc(idle, func(a, b string) int {
		return cmp.Or(r.layers[a].used.Compare(r.layers[b].used), cmp.Compare(a, b))
	})
	n := 0
	for n < len(idle) && (len(idle)-n > max(0, r.cfg.KeepLayers) || r.cfg.KeepBytes > 0 && bytes > r.cfg.KeepBytes) {
		bytes -= r.layers[idle[n]].size
		n++
	}
	for _, d := range idle[:n] {
		trash := r.trash(d)
		// With the lock: the digest may be wanted again as soon as it is not in the table.
		if err := os.Rename(r.layerDir(d), trash); err != nil && !errors.Is(err, fs.ErrNotExist) {
			r.cfg.Logger.Error("remove a layer", "digest", d, "error", err)
			continue
		}
		delete(r.layers, d)
		r.wg.Go(func() {
			if err := removeAll(trash); err != nil {
				r.cfg.Logger.Error("remove a layer", "digest", d, "error", err)
			}
		})
	}
	r.mu.Unlock()
	if n > 0 {
		r.noteLayers()
	}
}

// layerNote is what layersFile keeps of a layer.
type layerNote struct {
	Size int64     `json:"size"`
	Used time.Time `json:"used"`
}

// noteLayers writes down how large the layers are and when they were used. What is missing there after
// a crash is measured again.
func (r *Runtime) noteLayers() {
	r.noting.Lock()
	defer r.noting.Unlock()
	r.mu.Lock()
	notes := make(map[string]layerNote, len(r.layers))
	for d, l := range r.layers {
		if l.whole {
			notes[d] = layerNote{l.size, l.used}
		}
	}
	r.mu.Unlock()
	data, err := json.Marshal(notes)
	tmp := filepath.Join(r.dir, makingDir, layersFile)
	if err == nil {
		err = os.WriteFile(tmp, data, 0o600)
	}
	if err == nil {
		err = os.Rename(tmp, filepath.Join(r.dir, layersFile))
	}
	if err != nil {
		r.cfg.Logger.Warn("note the layers", "error", errors.Join(err, os.RemoveAll(tmp)))
	}
}
