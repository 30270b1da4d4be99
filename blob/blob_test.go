package blob_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/blob"
	"github.com/dewpoint-go/dewpoint/blob/blobtest"
)

func TestMemory(t *testing.T) {
	t.Parallel()
	blobtest.Run(t, func(*testing.T) blob.Store { return blob.NewMemory() })
}

func openDir(t *testing.T, dir string, c blob.DirConfig) *blob.Dir {
	t.Helper()
	d, err := blob.OpenDir(dir, c)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, d.Close()) })
	return d
}

func TestDir(t *testing.T) {
	t.Parallel()
	blobtest.Run(t, func(t *testing.T) blob.Store { return openDir(t, t.TempDir(), blob.DirConfig{}) })
}

func TestDirWithoutSync(t *testing.T) {
	t.Parallel()
	blobtest.Run(t, func(t *testing.T) blob.Store { return openDir(t, t.TempDir(), blob.DirConfig{NoSync: true}) })
}

func TestFaultsUntoldAreTheStore(t *testing.T) {
	t.Parallel()
	blobtest.Run(t, func(*testing.T) blob.Store { return blobtest.NewFaults(new(blob.Memory)) })
}

func put(t *testing.T, s blob.Store, key, data string) {
	t.Helper()
	_, err := s.Put(t.Context(), key, strings.NewReader(data))
	require.NoError(t, err)
}

// files lists the regular files below dir.
func files(t *testing.T, dir string) (all []string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			rel, _ := filepath.Rel(dir, p)
			all = append(all, filepath.ToSlash(rel))
		}
		return err
	}))
	return all
}

func TestDirMakesItsParentsAndKeepsItsBlobs(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "not", "yet", "there")
	d, err := blob.OpenDir(dir, blob.DirConfig{})
	require.NoError(t, err)
	put(t, d, "package/ab/1", "bytes")
	require.NoError(t, d.Close())
	assert.Contains(t, files(t, dir), "blobs/package/ab/1.blob")

	d = openDir(t, dir, blob.DirConfig{})
	info, err := d.Stat(t.Context(), "package/ab/1")
	require.NoError(t, err)
	assert.EqualValues(t, 5, info.Size)
}

func TestDirRemovesLeftoversWhenItIsAlone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first, err := blob.OpenDir(dir, blob.DirConfig{})
	require.NoError(t, err)
	leftover := filepath.Join(dir, "tmp", "of-a-writer")
	require.NoError(t, os.WriteFile(leftover, []byte("half"), 0o600))

	openDir(t, dir, blob.DirConfig{})
	assert.FileExists(t, leftover, "it may be another one's that is still writing")
	require.NoError(t, first.Close())
}

func TestDirRemovesLeftoversOfACrash(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first, err := blob.OpenDir(dir, blob.DirConfig{})
	require.NoError(t, err)
	put(t, first, "kept", "x")
	require.NoError(t, first.Close())
	leftover := filepath.Join(dir, "tmp", "of-a-writer")
	require.NoError(t, os.WriteFile(leftover, []byte("half"), 0o600))

	d := openDir(t, dir, blob.DirConfig{})
	assert.NoFileExists(t, leftover)
	_, err = d.Stat(t.Context(), "kept")
	assert.NoError(t, err)
}

func TestDirLeavesNothingOfAFailedPut(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f := blobtest.NewFaults(openDir(t, dir, blob.DirConfig{}))
	f.DiskFull(3)
	_, err := f.Put(t.Context(), "a/b", strings.NewReader("more than there is"))
	require.ErrorIs(t, err, blobtest.ErrDiskFull)
	f.DiskFull(-1)
	f.Once(blobtest.Put, blobtest.Midway)
	_, err = f.Put(t.Context(), "a/b", strings.NewReader("half of this"))
	require.ErrorIs(t, err, blobtest.ErrFault)
	assert.Equal(t, []string{"lock"}, files(t, dir))
}

func TestDirRemovesEmptyFolders(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := openDir(t, dir, blob.DirConfig{})
	put(t, d, "a/b/c", "x")
	put(t, d, "a/d", "x")
	require.NoError(t, d.Delete(t.Context(), "a/b/c"))
	assert.NoDirExists(t, filepath.Join(dir, "blobs", "a", "b"))
	assert.DirExists(t, filepath.Join(dir, "blobs", "a"))
	require.NoError(t, d.Delete(t.Context(), "a/d"))
	assert.NoDirExists(t, filepath.Join(dir, "blobs", "a"))
	assert.DirExists(t, filepath.Join(dir, "blobs"))
}

func TestDirIgnoresFilesOfOthers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := openDir(t, dir, blob.DirConfig{})
	put(t, d, "a", "x")
	for _, name := range []string{".DS_Store", "README.md", "%4.blob", "Upper.blob"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "blobs", name), nil, 0o600))
	}
	var keys []string
	for info, err := range d.List(t.Context(), "") {
		require.NoError(t, err)
		keys = append(keys, info.Key)
	}
	assert.Equal(t, []string{"a"}, keys)
}

func TestOpenDirSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err := blob.OpenDir(file, blob.DirConfig{})
	require.Error(t, err)
	assert.Contains(t, err.Error(), file)
	assert.Contains(t, err.Error(), "not a directory")
	assert.Contains(t, err.Error(), "choose another")
}

func TestOpenDirSaysWhoMayNotWrite(t *testing.T) {
	t.Parallel()
	if os.Getuid() <= 0 {
		t.Skip("this user may write everywhere")
	}
	dir := filepath.Join(t.TempDir(), "blobs")
	require.NoError(t, os.Mkdir(dir, 0o500))
	_, err := blob.OpenDir(dir, blob.DirConfig{})
	require.ErrorIs(t, err, fs.ErrPermission)
	assert.Contains(t, err.Error(), dir)
	assert.Contains(t, err.Error(), fmt.Sprintf("let user %d write to it", os.Getuid()))
}

func TestFaultsComeInPairs(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		op    blobtest.Op
		fault blobtest.Fault
		there bool
	}{
		{blobtest.Put, blobtest.NotDone, false},
		{blobtest.Put, blobtest.Midway, false},
		{blobtest.Put, blobtest.Done, true},
		{blobtest.Delete, blobtest.NotDone, true},
		{blobtest.Delete, blobtest.Done, false},
	} {
		store := blob.NewMemory()
		f := blobtest.NewFaults(store)
		f.Once(c.op, c.fault)
		_, errPut := f.Put(t.Context(), "k", strings.NewReader("bytes"))
		var errDelete error
		if c.op == blobtest.Delete {
			errDelete = f.Delete(t.Context(), "k")
		}
		require.ErrorIs(t, errors.Join(errPut, errDelete), blobtest.ErrFault)
		_, err := store.Stat(t.Context(), "k")
		assert.Equal(t, c.there, err == nil, "%s %d", c.op, c.fault)
	}
}

func TestErrorsWrapTheContextsOwnError(t *testing.T) {
	t.Parallel()
	cause := errors.New("the user pressed the button")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	_, err := blob.NewMemory().Put(ctx, "k", strings.NewReader("x"))
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, err, cause)
}
