package sandbox_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/cell/internal/attacktest"
	"github.com/dewpoint-go/dewpoint/cell/sandbox"
	"github.com/dewpoint-go/dewpoint/droplet"
	"github.com/dewpoint-go/dewpoint/droplet/oci"
)

// TestAStackFromAnImage unpacks an image, and runs on it.
func TestAStackFromAnImage(t *testing.T) {
	t.Parallel()
	needIsolation(t)
	app := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(app, "launcher"), []byte("of the image"), 0o755))
	f, err := os.Create(filepath.Join(app, "droplet.tgz"))
	require.NoError(t, err)
	_, err = droplet.Write(t.Context(), f, t.TempDir(), droplet.Options{})
	require.NoError(t, err)
	require.NoError(t, f.Close())
	maker, err := oci.New(oci.Config{Launcher: filepath.Join(app, "launcher")})
	require.NoError(t, err)
	img, err := maker.Export(t.Context(), oci.ExportRequest{
		Droplet: f.Name(), Stack: "dir:" + attacktest.Writable(t), To: "oci:" + t.TempDir(),
	})
	require.NoError(t, err)
	roots, err := maker.Roots(oci.RootsConfig{Dir: t.TempDir()})
	require.NoError(t, err)
	root, err := roots.Get(t.Context(), img.Ref)
	require.NoError(t, err)
	t.Cleanup(root.Release)

	for name, stack := range map[string]sandbox.Stack{"by its folder": {Name: "image", Dir: root.Dir}, "by its name": {Name: "image", Image: img.Ref}} {
		t.Run(name, func(t *testing.T) { testStack(t, roots, stack) })
	}
}

func testStack(t *testing.T, roots *oci.Roots, stack sandbox.Stack) {
	t.Parallel()
	dir := t.TempDir()
	open := func(stack sandbox.Stack) *sandbox.Runtime {
		r, err := sandbox.New(t.Context(), sandbox.Config{Dir: dir, Program: prog, Stacks: []sandbox.Stack{stack}, Images: roots, Share: []string{"/usr/lib"}})
		require.NoError(t, err)
		return r
	}
	r := open(stack)
	t.Cleanup(func() { assert.NoError(t, r.Close()); empty(t, dir) })
	c, err := r.Create(t.Context(), cell.Creation{ID: "x", Spec: cell.Spec{Stack: "image"}})
	require.NoError(t, err)
	defer func() { assert.NoError(t, c.Destroy(context.Background())) }()
	attacktest.Refused(t, c,
		[2]string{"read=/data/f", "x"},
		[2]string{"read=/opt/dewpoint/launcher", "of the image"},
		[2]string{"append=/data/f", "EROFS"},
		[2]string{"write=/x", "EROFS"},
	)
	if stack.Image == "" {
		return
	}
	// Its tag stands for another image now: what runs keeps its root.
	_, err = c.Run(t.Context(), cell.Process{ID: "waits", Path: "lifecycle:celltest", Args: []string{"wait", "cat=/data/f"}}, cell.IO{})
	require.NoError(t, err)
	require.NoError(t, r.Close())
	other := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(other, "opt"), 0o755))
	r = open(sandbox.Stack{Name: "image", Dir: other})
	require.NoError(t, roots.Collect(time.Now().Add(time.Hour)))
	all, err := r.Containers(t.Context())
	require.NoError(t, err)
	require.Len(t, all, 1)
	c = all[0]
	var out bytes.Buffer
	run, err := c.(cell.Attacher).Attach(t.Context(), "waits", cell.IO{Stdout: &out})
	require.NoError(t, err)
	require.NoError(t, run.Signal(t.Context(), "TERM"))
	_, err = run.Wait(t.Context())
	require.NoError(t, err)
	assert.Equal(t, "x\n", out.String())
}

func TestImages(t *testing.T) {
	t.Parallel()
	needIsolation(t)
	dir := t.TempDir()
	owner := 0
	if os.Geteuid() == 0 {
		owner = 65534 // Config.User
	}
	t.Cleanup(func() { empty(t, dir) })
	attacktest.Images(t, owner, owner == 0, func(t *testing.T, roots cell.ImageRoots) (cell.Runtime, func()) {
		r, err := sandbox.New(t.Context(), sandbox.Config{Dir: dir, Program: prog, Images: roots})
		require.NoError(t, err)
		return r, func() { assert.NoError(t, r.Close()) }
	})
}

func TestUsersOfImages(t *testing.T) {
	t.Parallel()
	needIsolation(t)
	if os.Geteuid() != 0 {
		_, err := sandbox.New(t.Context(), sandbox.Config{Dir: t.TempDir(), Program: prog, FirstUser: cell.FirstUser})
		require.ErrorContains(t, err, "takes root")
		return
	}
	dir := t.TempDir()
	t.Cleanup(func() { empty(t, dir) })
	attacktest.Users(t, cell.FirstUser, dir, func(t *testing.T, roots cell.ImageRoots) (cell.Runtime, func()) {
		r, err := sandbox.New(t.Context(), sandbox.Config{Dir: dir, Program: prog, Images: roots, FirstUser: cell.FirstUser})
		require.NoError(t, err)
		return r, func() { assert.NoError(t, r.Close()) }
	})
}
