//go:build linux || darwin

package process

import (
	"context"
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
	users int // who copies from it now
	used  time.Time
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
func (r *Runtime) loadLayers() error {
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
	for _, e := range all {
		l := &layer{ready: make(chan struct{}), used: time.Now()}
		close(l.ready)
		r.layers[e.Name()] = l
	}
	return nil
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
		if err := r.copyLayer(ctx, root, l); err != nil {
			return err
		}
	}
	return nil
}

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
	to, err := root.OpenRoot(dir)
	if err != nil {
		return err
	}
	from, err := os.OpenRoot(r.layerDir(l.Digest))
	if err != nil {
		to.Close()
		return err
	}
	if err := copyTree(ctx, from, to); err != nil {
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
			have.err = r.unpackLayer(ctx, l)
			if have.err != nil {
				r.mu.Lock()
				delete(r.layers, l.Digest)
				r.mu.Unlock()
			}
			close(have.ready)
			if have.err != nil {
				return nil, have.err
			}
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

func (r *Runtime) unpackLayer(ctx context.Context, l cell.Layer) error {
	in, err := l.Open(ctx)
	if err != nil {
		return err
	}
	defer in.Close()
	dir, err := os.MkdirTemp(filepath.Join(r.dir, makingDir), "l-")
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err == nil {
		err = extract(ctx, root, ".", in, filepath.Join(r.dir, makingDir))
		root.Close()
	}
	if err == nil {
		err = os.Rename(dir, r.layerDir(l.Digest))
	}
	if err != nil {
		return errors.Join(err, removeAll(dir))
	}
	return nil
}

// sweepLayers removes the layers that were not used for longest, but for KeepLayers and
// those that a container was made from.
func (r *Runtime) sweepLayers() {
	r.mu.Lock()
	defer r.mu.Unlock()
	needed := map[string]bool{}
	for _, c := range r.containers {
		for _, d := range c.meta.Layers {
			needed[d] = true
		}
	}
	var idle []string
	for d, l := range r.layers {
		if l.users == 0 && !needed[d] {
			idle = append(idle, d)
		}
	}
	if len(idle) <= r.cfg.KeepLayers {
		return
	}
	slices.SortFunc(idle, func(a, b string) int { return r.layers[a].used.Compare(r.layers[b].used) })
	for _, d := range idle[:len(idle)-r.cfg.KeepLayers] {
		delete(r.layers, d)
		trash := r.trash(d)
		if err := os.Rename(r.layerDir(d), trash); err != nil {
			r.cfg.Logger.Error("remove a layer", "digest", d, "error", err)
			continue
		}
		r.wg.Go(func() {
			if err := removeAll(trash); err != nil {
				r.cfg.Logger.Error("remove a layer", "digest", d, "error", err)
			}
		})
	}
}
