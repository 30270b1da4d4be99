package main

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/dewpoint-go/dewpoint/cell/containerd"
	"github.com/dewpoint-go/dewpoint/cell/local"
	"github.com/dewpoint-go/dewpoint/cell/sandbox"
	"github.com/dewpoint-go/dewpoint/staging/buildpack"
)

// cells are the values of -cell, with the least isolation that each asks for.
var cells = map[string]string{"auto": "", "sandbox": sandbox.Landlock, "process": local.None, containerd.Isolation: containerd.Isolation}

// openCell opens the cell, which finds this machine's tools on the PATH of this program.
func openCell(ctx context.Context, o *options) (*local.Cell, error) {
	if o.cell == containerd.Isolation {
		return openContainerd(ctx, o)
	}
	c, err := local.Open(ctx, local.Config{
		Dir: filepath.Join(o.data, "cell"), Isolation: cells[o.cell], Share: o.share, Path: os.Getenv("PATH"),
	})
	if err != nil {
		return nil, usagef("-cell: %w", err)
	}
	return c, nil
}

// openContainerd opens the cell of a containerd: the given one, or one that is started and ends with this program.
func openContainerd(ctx context.Context, o *options) (*local.Cell, error) {
	shown, hidden := sandbox.Visible(filepath.SplitList(os.Getenv("PATH")), o.share)
	path := strings.Join(shown, string(os.PathListSeparator))
	r, err := containerd.New(ctx, containerd.Config{Dir: filepath.Join(o.data, "cell-containerd"), Socket: o.socket, Share: o.share, Env: []string{"PATH=" + path}})
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
