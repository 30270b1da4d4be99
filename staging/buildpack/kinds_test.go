//go:build linux || darwin

package buildpack_test

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/staging/buildpack"
)

// zipOf packs a folder below one of another name, as the archives of repositories are.
func zipOf(t *testing.T, dir string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	require.NoError(t, fs.WalkDir(os.DirFS(dir), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		h := &zip.FileHeader{Name: "buildpack-1.0/" + name}
		h.SetMode(0o755)
		w, err := z.CreateHeader(h)
		if err != nil {
			return err
		}
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err == nil {
			_, err = w.Write(text)
		}
		return err
	}))
	require.NoError(t, z.Close())
	return b.Bytes()
}

// Wherever a buildpack comes from, the builder finds and runs it.
func TestEachKindOfBuildpackRuns(t *testing.T) {
	t.Parallel()
	dir := strings.TrimPrefix(scripts(t, "x", map[string]string{"compile": "echo it ran"}).Location, "dir:")
	packed := zipOf(t, dir)
	file := filepath.Join(t.TempDir(), "x.zip")
	require.NoError(t, os.WriteFile(file, packed, 0o600))
	git := filepath.Join(t.TempDir(), "repo")
	_, err := exec.LookPath("git")
	if err == nil {
		for _, args := range [][]string{
			{"init", "-q", "-b", "main", git}, {"-C", git, "commit", "-q", "--allow-empty", "-m", "empty"}, {"-C", git, "checkout", "-q", "-b", "next"}, nil,
			{"-C", git, "add", "."}, {"-C", git, "commit", "-q", "-m", "buildpack"}, {"-C", git, "checkout", "-q", "main"}, {"-C", git, "update-server-info"},
		} {
			if args == nil {
				require.NoError(t, os.CopyFS(git, os.DirFS(dir)))
				continue
			}
			cmd := exec.Command("git", append([]string{"-c", "user.name=n", "-c", "user.email=e"}, args...)...)
			cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s", out)
		}
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/x.zip" {
			_, _ = w.Write(packed)
			return
		}
		http.FileServer(http.Dir(git)).ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	kinds := map[string]string{
		"folder": dir, "archive": file, "zip URL": srv.URL + "/x.zip", "zip URL with digest": srv.URL + "/x.zip#sha256=" + fmt.Sprintf("%x", sha256.Sum256(packed)),
	}
	if err == nil {
		kinds["git URL with branch"] = srv.URL + "/.git#next"
	}
	for kind, location := range kinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			y := newYard(t, buildpack.Config{Local: true})
			r := request("a", location)
			res, err := y.stage(t.Context(), r, nil)
			require.NoError(t, err)
			assert.Contains(t, y.lines, "it ran")
			assert.Equal(t, location, res.Buildpacks[0].Key, "as it was asked for")
			y.clean(r)

			if !strings.Contains(location, "://") { // the same from a catalogue, detected
				location = "dir:" + location
			}
			y = newYard(t, buildpack.Config{}, buildpack.Entry{Name: "named", Location: location})
			res, err = y.stage(t.Context(), request("b"), nil)
			require.NoError(t, err)
			assert.Equal(t, "named", res.Buildpacks[0].Key)
			assert.Equal(t, "x", res.DetectedBuildpack)
		})
	}
}
