package main

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/cell/containerd"
	"github.com/dewpoint-go/dewpoint/cell/local"
	"github.com/dewpoint-go/dewpoint/cell/sandbox"
	"github.com/dewpoint-go/dewpoint/droplet/oci"
	"github.com/dewpoint-go/dewpoint/staging/buildpack"
)

// cells are the values of -cell, with the least isolation that each asks for.
var cells = map[string]string{"auto": "", "sandbox": sandbox.Landlock, "process": local.None, containerd.Isolation: containerd.Isolation}

// openCell opens the cell, which finds this machine's tools on the PATH of this program.
func openCell(ctx context.Context, o *options) (*local.Cell, error) {
	roots, err := openRoots(o)
	if err != nil {
		return nil, err
	}
	if o.cell == containerd.Isolation {
		return openContainerd(ctx, o, roots)
	}
	c, err := local.Open(ctx, local.Config{
		Dir: filepath.Join(o.data, "cell"), Isolation: cells[o.cell], Share: o.share, Images: roots, FirstUser: firstUser(), Path: os.Getenv("PATH"),
	})
	if err != nil {
		return nil, usagef("-cell: %w", err)
	}
	return c, nil
}

// firstUser is the first of the users of images, as root; else 0: they have one, who is this user.
func firstUser() int {
	if sandbox.MayGiveUsers(cell.FirstUser) {
		return cell.FirstUser
	}
	return 0
}

// openRoots opens the folder of the images' root filesystems, if an image is pushed.
func openRoots(o *options) (cell.ImageRoots, error) {
	if o.image == "" {
		return nil, nil
	}
	c, err := oci.New(oci.Config{Keychain: authn.DefaultKeychain})
	if err != nil {
		return nil, err
	}
	conf := oci.RootsConfig{Dir: filepath.Join(o.data, "images")}
	if first := firstUser(); first != 0 {
		conf = oci.RootsConfig{Dir: filepath.Join(o.data, "images-users"), KeepOwners: true, FirstUser: first}
	}
	roots, err := c.Roots(conf)
	if err != nil {
		return nil, usagef("-data: %w", err)
	}
	return roots, nil
}

// openContainerd opens the cell of a containerd: the given one, or one that is started and ends with this program.
func openContainerd(ctx context.Context, o *options, roots cell.ImageRoots) (*local.Cell, error) {
	shown, hidden := sandbox.Visible(filepath.SplitList(os.Getenv("PATH")), o.share)
	path := strings.Join(shown, string(os.PathListSeparator))
	r, err := containerd.New(ctx, containerd.Config{Dir: filepath.Join(o.data, "cell-containerd"), Socket: o.socket, Share: o.share, Images: roots, FirstUser: firstUser(), Env: []string{"PATH=" + path}})
	if err != nil {
		return nil, usagef("-cell: %w", err)
	}
	return &local.Cell{Runtime: r, Closer: r, Level: containerd.Isolation, Path: path, Hidden: hidden}, nil
}

// toolEnv is the environment of buildpacks: the settings of this machine's tools, as far as the cell shows them.
func toolEnv(c *local.Cell, share []string) []string {
	env := slices.DeleteFunc(buildpack.HostEnv(os.Environ()), func(kv string) bool {
		name, value, _ := strings.Cut(kv, "=")
		if name == "PATH" {
			return true
		}
		if c.Level == local.None || !filepath.IsAbs(value) {
			return false
		}
		_, hidden := sandbox.Visible([]string{value}, share)
		return len(hidden) > 0
	})
	return append(env, "PATH="+c.Path)
}
