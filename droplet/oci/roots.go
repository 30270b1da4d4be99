package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/dewpoint-go/dewpoint/internal/layers"
)

// Roots keeps the root filesystems of images in a directory, unpacked without root: for cells whose
// stacks are directories. Images of the same layers share one. One program uses a directory at a time.
type Roots struct {
	c *Client
	s *layers.Store
}

// Roots opens the directory, makes it if need be, and removes what a killed program left half made.
func (c *Client) Roots(dir string) (*Roots, error) {
	s, err := layers.Open(dir, layers.Limits{})
	if err != nil {
		return nil, fmt.Errorf("root filesystems: %w", err)
	}
	return &Roots{c: c, s: s}, nil
}

// Root is an unpacked image.
type Root struct {
	// Dir is its root filesystem: to be read, not to be changed.
	Dir string
	// Digest of the image's manifest: what a moved tag meant when it was asked for.
	Digest string
	// Release says that nobody needs Dir any more. It may be called more than once.
	Release func()
}

// Get unpacks the image in a place, unless it is there already. Devices and pipes are left out; owners and
// set-id bits are not kept. Dir is whole, its layers had their digests, and it stays until Release.
func (r *Roots) Get(ctx context.Context, place string) (Root, error) {
	root, err := r.get(ctx, place)
	if err != nil {
		return Root{}, fmt.Errorf("root filesystem of %s: %w", place, err)
	}
	return root, nil
}

func (r *Roots) get(ctx context.Context, place string) (Root, error) {
	img, err := r.c.open(ctx, place)
	if err != nil {
		return Root{}, err
	}
	digest, err := img.Digest()
	if err != nil {
		return Root{}, err
	}
	all, diffs, err := layersOf(img)
	if err != nil {
		return Root{}, err
	}
	if len(all) == 0 {
		return Root{}, errors.New("it has no layers")
	}
	list := make([]layers.Layer, len(all))
	for i, l := range all {
		d, err := l.Digest()
		if err != nil {
			return Root{}, err
		}
		list[i] = layers.Layer{Digest: d.String(), DiffID: diffs[i].String(), Open: func(context.Context) (io.ReadCloser, error) { return l.Compressed() }}
	}
	dir, release, err := r.s.Get(ctx, list)
	if err != nil {
		return Root{}, err
	}
	return Root{Dir: dir, Digest: digest.String(), Release: release}, nil
}

// Collect removes the root filesystems that nobody holds, and nobody has held since then.
func (r *Roots) Collect(then time.Time) error { return r.s.Collect(then) }
