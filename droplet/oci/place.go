package oci

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/match"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/dewpoint-go/dewpoint/internal/stream"
)

const (
	refName     = "org.opencontainers.image.ref.name"
	defaultName = "dewpoint/app:latest"
)

func layoutDir(place string) (string, bool) {
	rest, ok := strings.CutPrefix(place, "oci:")
	return rest, ok
}

func blobsDir(dir string) string { return filepath.Join(dir, "blobs", "sha256") }

func (c *Client) reference(place string) (name.Reference, error) {
	var o []name.Option
	if c.c.Insecure {
		o = append(o, name.Insecure)
	}
	return name.ParseReference(place, o...)
}

func (c *Client) remote(ctx context.Context) []remote.Option {
	o := []remote.Option{remote.WithContext(ctx), remote.WithAuthFromKeychain(c.c.Keychain), remote.WithPlatform(c.platform)}
	if c.c.Transport != nil {
		o = append(o, remote.WithTransport(c.c.Transport))
	}
	return o
}

// open finds an image.
func (c *Client) open(ctx context.Context, place string) (v1.Image, error) {
	if dir, ok := layoutDir(place); ok {
		dir, digest, _ := strings.Cut(dir, "@")
		idx, err := layout.ImageIndexFromPath(dir)
		if err != nil {
			return nil, err
		}
		return c.choose(idx, digest)
	}
	if file, ok := strings.CutPrefix(place, "docker-archive:"); ok {
		return tarball.ImageFromPath(file, nil)
	}
	ref, err := c.reference(place)
	if err != nil {
		return nil, err
	}
	d, err := remote.Get(ref, c.remote(ctx)...)
	if err != nil {
		return nil, err
	}
	if !d.MediaType.IsIndex() {
		return d.Image()
	}
	idx, err := d.ImageIndex()
	if err != nil {
		return nil, err
	}
	return c.choose(idx, "")
}

// choose takes from an index the image of a digest, else the one of our platform, else the only one.
func (c *Client) choose(idx v1.ImageIndex, digest string) (v1.Image, error) {
	m, err := idx.IndexManifest()
	if err != nil {
		return nil, err
	}
	var fit []v1.Descriptor
	var has []string
	for _, d := range m.Manifests {
		switch {
		case digest != "" && d.Digest.String() == digest,
			digest == "" && d.MediaType.IsImage() && (d.Platform == nil || d.Platform.Satisfies(c.platform)):
			fit = append(fit, d)
		case digest == "" && d.MediaType.IsIndex():
			sub, err := idx.ImageIndex(d.Digest)
			if err != nil {
				return nil, err
			}
			return c.choose(sub, "")
		}
		if d.Platform != nil {
			has = append(has, d.Platform.String())
		}
	}
	switch {
	case len(fit) == 0 && digest != "":
		return nil, fmt.Errorf("it holds no image %s: %w", digest, fs.ErrNotExist)
	case len(fit) == 0:
		return nil, fmt.Errorf("it holds no image for %s, only for %s: %w", c.platform.String(), strings.Join(has, ", "), fs.ErrNotExist)
	case len(fit) > 1 && fit[0].Platform == nil:
		return nil, fmt.Errorf("it holds %d images: choose one by @sha256:…", len(fit))
	}
	return idx.Image(fit[0].Digest)
}

// stack finds a root filesystem, or makes a layer of a directory.
func (c *Client) stack(ctx context.Context, w workshop, place string) (v1.Image, error) {
	dir, ok := strings.CutPrefix(place, "dir:")
	if !ok {
		img, err := c.open(ctx, place)
		if err != nil {
			return nil, err
		}
		cf, err := img.ConfigFile()
		if err == nil && cf.Config.Labels[labelName] != "" {
			err = errors.New("it is an app's image and no stack: its app would be below the new one")
		}
		return img, err
	}
	l, err := w.dirLayer(ctx, dir)
	if err != nil {
		return nil, err
	}
	img, err := mutate.Append(ociEmpty(), mutate.Addendum{
		Layer: l, History: v1.History{Created: epoch, CreatedBy: "dewpoint: stack"},
	})
	if err != nil {
		return nil, err
	}
	cf, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	cf = cf.DeepCopy()
	cf.OS, cf.Architecture, cf.Variant, cf.Created = c.platform.OS, c.platform.Architecture, c.platform.Variant, epoch
	return mutate.ConfigFile(img, cf)
}

func ociEmpty() v1.Image {
	return mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
}

// put writes an image to its place and returns its name there.
func (c *Client) put(ctx context.Context, img v1.Image, place, called string) (string, error) {
	digest, err := img.Digest()
	if err != nil {
		return "", err
	}
	if called == "" {
		called = defaultName
	}
	if dir, ok := layoutDir(place); ok {
		return "oci:" + dir + "@" + digest.String(), putLayout(img, dir, called, c.platform)
	}
	if file, ok := strings.CutPrefix(place, "docker-archive:"); ok {
		ref, err := c.reference(called)
		if err != nil {
			return "", err
		}
		return place, putArchive(ctx, img, file, ref)
	}
	if strings.HasPrefix(place, "dir:") {
		return "", fmt.Errorf("%s: an image cannot be written there; give a registry's name, oci:DIR or docker-archive:FILE", place)
	}
	ref, err := c.reference(place)
	if err != nil {
		return "", err
	}
	if err := remote.Write(ref, img, c.remote(ctx)...); err != nil {
		return "", err
	}
	return ref.Context().Digest(digest.String()).Name(), nil
}

// putLayout adds an image to a layout, in the place of the one of that name.
func putLayout(img v1.Image, dir, called string, p v1.Platform) error {
	l, err := layout.FromPath(dir)
	if errors.Is(err, fs.ErrNotExist) {
		l, err = layout.Write(dir, empty.Index)
	}
	if err != nil {
		return err
	}
	return l.ReplaceImage(img, match.Name(called),
		layout.WithAnnotations(map[string]string{refName: called}), layout.WithPlatform(p))
}

// putArchive writes a docker archive: under another name first, so that it is whole or absent.
func putArchive(ctx context.Context, img v1.Image, file string, ref name.Reference) error {
	f, err := os.CreateTemp(filepath.Dir(file), ".dewpoint-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	err = tarball.Write(ref, img, stream.Writer{Ctx: ctx, W: f})
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), file)
}

// layersOf returns the layers of an image, and what its configuration says of them.
func layersOf(img v1.Image) ([]v1.Layer, []v1.Hash, error) {
	layers, err := img.Layers()
	if err != nil {
		return nil, nil, err
	}
	cf, err := partial.ConfigFile(img)
	if err != nil {
		return nil, nil, err
	}
	if len(layers) != len(cf.RootFS.DiffIDs) {
		return nil, nil, fmt.Errorf("its manifest has %d layers and its configuration %d", len(layers), len(cf.RootFS.DiffIDs))
	}
	return layers, cf.RootFS.DiffIDs, nil
}
