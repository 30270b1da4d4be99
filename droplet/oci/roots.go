package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/dewpoint-go/dewpoint/internal/jail"
	"github.com/dewpoint-go/dewpoint/internal/layers"
)

// Roots keeps the root filesystems of images in a directory, unpacked without root: for stacks of cells that are directories, and for
// cells that run images. Images of the same layers share one. One program uses a directory at a time.
type Roots struct {
	c    *Client
	s    *layers.Store
	refs string // <digest of an image>: the name of its root
}

// RootsConfig configures [Client.Roots].
type RootsConfig struct {
	// Dir is where the root filesystems are; required. It is made if need be.
	Dir string
	// Owner is who all files shall belong to; 0: who runs this program. KeepOwners: those that the image names; with FirstUser, which is
	// not 0, user and group n of the image are FirstUser+n of this machine, and what is over 65,535 belongs to 65,534, its nobody.
	// All take root; cells say what they need. A directory is for one setting: what it holds is not made anew for another.
	Owner      int
	KeepOwners bool
	FirstUser  int
}

const refsDir = "images"

// Roots opens the directory and removes what a killed program left half made.
func (c *Client) Roots(conf RootsConfig) (*Roots, error) {
	if conf.Dir == "" {
		return nil, errors.New("root filesystems: RootsConfig.Dir is empty: name a folder for them")
	}
	if _, err := jail.UsersFrom(conf.FirstUser); err != nil {
		return nil, fmt.Errorf("root filesystems: RootsConfig.%w", err)
	}
	if conf.FirstUser != 0 && !conf.KeepOwners {
		return nil, errors.New("root filesystems: RootsConfig.FirstUser is for KeepOwners: set both")
	}
	s, err := layers.Open(conf.Dir, layers.Limits{Owner: conf.Owner, KeepOwners: conf.KeepOwners, FirstUser: conf.FirstUser})
	r := &Roots{c: c, s: s, refs: filepath.Join(conf.Dir, refsDir)}
	if err == nil {
		err = os.MkdirAll(r.refs, 0o755)
	}
	if err != nil {
		return nil, fmt.Errorf("root filesystems: %w", err)
	}
	return r, nil
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

// Get unpacks the image in a place, unless it is there already. Devices and pipes are left out; set-id bits of files are not kept, nor
// owners unless RootsConfig says so. Dir is whole, its layers had their digests, and it stays until Release.
func (r *Roots) Get(ctx context.Context, place string) (Root, error) { return r.get(ctx, place, r.c) }

func (r *Roots) get(ctx context.Context, place string, c *Client) (Root, error) {
	root, err := r.unpack(ctx, place, c)
	if err != nil {
		return Root{}, fmt.Errorf("root filesystem of %s: %w", place, err)
	}
	return root, nil
}

// Root is Get for cells: of an image that is named by its digest and is here nobody is asked for anything, login neither.
func (r *Roots) Root(ctx context.Context, image string, login func(context.Context) (username, password string, err error)) (dir string, release func(), err error) {
	_, digest, named := strings.Cut(image, "@")
	if named {
		if dir, release, err := r.known(digest); err == nil {
			return dir, release, nil
		}
	}
	c := *r.c
	if login != nil {
		username, password, err := login(ctx)
		if err != nil {
			return "", nil, fmt.Errorf("credentials for %s: %w", image, err)
		}
		if username != "" {
			c.c.Keychain = fixed{&authn.Basic{Username: username, Password: password}}
		}
	}
	root, err := r.get(ctx, image, &c)
	if err != nil {
		return "", nil, err
	}
	for _, d := range []string{digest, root.Digest} { // the first may be that of an index
		if h, err := v1.NewHash(d); err == nil {
			if err := r.remember(h, filepath.Base(root.Dir)); err != nil {
				root.Release()
				return "", nil, err
			}
		}
	}
	return root.Dir, root.Release, nil
}

// fixed is a keychain that knows one login for all.
type fixed struct{ as authn.Authenticator }

func (f fixed) Resolve(authn.Resource) (authn.Authenticator, error) { return f.as, nil }

// known returns the root of an image by its digest, if it is here.
func (r *Roots) known(digest string) (dir string, release func(), err error) {
	h, err := v1.NewHash(digest)
	if err != nil {
		return "", nil, err
	}
	id, err := os.ReadFile(filepath.Join(r.refs, h.Hex))
	if err != nil {
		return "", nil, err
	}
	return r.s.Hold(string(id))
}

// remember writes down which root an image has. What is damaged by a power cut names none.
func (r *Roots) remember(h v1.Hash, id string) error {
	f, err := os.CreateTemp(r.refs, "new-")
	if err != nil {
		return err
	}
	_, err = f.WriteString(id)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), filepath.Join(r.refs, h.Hex))
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// Hold keeps a directory that Get or Root of an earlier program has returned; fs.ErrNotExist: it is not there any more.
func (r *Roots) Hold(dir string) (release func(), err error) {
	have, release, err := r.s.Hold(filepath.Base(dir))
	if err == nil && have != filepath.Clean(dir) {
		release()
		return nil, fs.ErrNotExist
	}
	return release, err
}

func (r *Roots) unpack(ctx context.Context, place string, c *Client) (Root, error) {
	img, err := c.open(ctx, place)
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
func (r *Roots) Collect(then time.Time) error {
	err := r.s.Collect(then)
	refs, e := os.ReadDir(r.refs)
	err = errors.Join(err, e)
	for _, ref := range refs {
		name := filepath.Join(r.refs, ref.Name())
		if info, e := ref.Info(); e != nil || info.ModTime().After(then) {
			continue // it has gone, or is being made
		}
		if id, e := os.ReadFile(name); e == nil && r.s.Has(string(id)) {
			continue
		}
		if e := os.Remove(name); e != nil && !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	return err
}
