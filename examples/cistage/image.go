package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/dewpoint-go/dewpoint/droplet/oci"
)

// imageOptions say what becomes of the droplet.
type imageOptions struct {
	image, rootfs, launcher string
}

func (i *imageOptions) flags(f *flag.FlagSet) {
	f.StringVar(&i.image, "image", "", "`place` to write an OCI image of the droplet to: a registry's host/name:tag, oci:FOLDER or docker-archive:FILE; -o may be left out then")
	f.StringVar(&i.rootfs, "rootfs", "", "`place` of the stack below the image: a registry's host/name:tag, oci:FOLDER, docker-archive:FILE or dir:FOLDER")
	f.StringVar(&i.launcher, "launcher", "dewpoint-lifecycle", "`file` that starts the app in the image: CGO_ENABLED=0 go build ./lifecycle/cmd/dewpoint-lifecycle")
}

func (i *imageOptions) check() error {
	if i.image == "" {
		if i.rootfs != "" {
			return errors.New("-rootfs is for -image")
		}
		return nil
	}
	if i.rootfs == "" {
		return errors.New("-image needs -rootfs, the stack below the app")
	}
	if _, err := os.Stat(i.launcher); err != nil {
		return fmt.Errorf("-launcher: %w", err)
	}
	return nil
}

// spare gives the droplet a file for as long as the image needs it, if nobody wants it.
func (o *options) spare() (done func(), err error) {
	if o.out != "" {
		return func() {}, nil
	}
	dir, err := os.MkdirTemp("", "cistage-image-")
	if err != nil {
		return nil, err
	}
	o.out = filepath.Join(dir, "droplet.tgz")
	if o.target, err = checkTarget(o.out); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return func() { _ = os.RemoveAll(dir) }, nil
}

// export makes the image, with the logins of docker and podman.
func (i *imageOptions) export(ctx context.Context, droplet string) (oci.Image, error) {
	if i.image == "" {
		return oci.Image{}, nil
	}
	c, err := oci.New(oci.Config{Launcher: i.launcher, Keychain: authn.DefaultKeychain})
	if err != nil {
		return oci.Image{}, err
	}
	return c.Export(ctx, oci.ExportRequest{Droplet: droplet, Stack: i.rootfs, To: i.image})
}

func showImage(w io.Writer, img oci.Image) {
	if img.Ref != "" {
		fmt.Fprintf(w, "image %s (%s)\n", img.Ref, img.Digest)
	}
}
