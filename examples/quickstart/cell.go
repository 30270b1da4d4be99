package main

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/dewpoint-go/dewpoint/cell/local"
	"github.com/dewpoint-go/dewpoint/cell/sandbox"
	"github.com/dewpoint-go/dewpoint/staging/buildpack"
)

// cells are the values of -cell, with the least isolation that each asks for.
var cells = map[string]string{"auto": "", "sandbox": sandbox.Landlock, "process": local.None}

// openCell opens the cell, which finds this machine's tools on the PATH of this program.
func openCell(ctx context.Context, o *options) (*local.Cell, error) {
	c, err := local.Open(ctx, local.Config{
		Dir: filepath.Join(o.data, "cell"), Isolation: cells[o.cell], Share: o.share, Path: os.Getenv("PATH"),
	})
	if err != nil {
		return nil, usagef("-cell: %w", err)
	}
	return c, nil
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
