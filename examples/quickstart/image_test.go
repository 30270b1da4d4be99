//go:build unix

package main

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint"
	"github.com/dewpoint-go/dewpoint/internal/needs"
	"github.com/dewpoint-go/dewpoint/scheduler"
)

// imageOf puts the app, alone, into an image, and that into a registry.
func imageOf(t *testing.T, user string) string {
	t.Helper()
	exe, err := hello()
	require.NoError(t, err)
	return imageWith(t, map[string]string{"hello": exe}, v1.Config{Entrypoint: []string{"/hello"}, User: user, WorkingDir: "/srv/work",
		ExposedPorts: map[string]struct{}{"8081/tcp": {}, "53/udp": {}}, Env: []string{"WHO=image", "FROM=image"}})
}

// imageWith puts programs, by their names in the image, into an image, and that into a registry.
func imageWith(t *testing.T, programs map[string]string, config v1.Config) string {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, file := range programs {
		program, err := os.ReadFile(file)
		require.NoError(t, err)
		require.NoError(t, w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(program))}))
		_, err = w.Write(program)
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	require.NoError(t, err)
	img, err := mutate.AppendLayers(empty.Image, layer)
	require.NoError(t, err)
	file, err := img.ConfigFile()
	require.NoError(t, err)
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Config = "linux", runtime.GOARCH, config
	img, err = mutate.ConfigFile(img, file)
	require.NoError(t, err)
	s := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(s.Close)
	ref, err := name.ParseReference(strings.TrimPrefix(s.URL, "http://") + "/apps/hello:1")
	require.NoError(t, err)
	require.NoError(t, remote.Write(ref, img))
	return ref.String()
}

// ofMachine are programs of this machine, in /bin, with the libraries that they load.
func ofMachine(t *testing.T, programs ...string) map[string]string {
	t.Helper()
	files := map[string]string{}
	for _, name := range programs {
		path := needs.Tool(t, name)
		files["bin/"+name] = path
		out, err := exec.Command("ldd", path).CombinedOutput()
		if err != nil && !strings.Contains(string(out), "not a dynamic") {
			needs.Missing(t, "the libraries of "+path+" cannot be told: "+err.Error())
		}
		for word := range strings.FieldsSeq(string(out)) {
			if filepath.IsAbs(word) {
				files[word[1:]] = word
			}
		}
	}
	return files
}

// lives runs a platform over a cell of a kind until the test ends, and returns it with how it is asked by the app's route.
func lives(t *testing.T, o *options) (p *dewpoint.Platform, get func(path string) (int, string)) {
	t.Helper()
	p, c, err := platform(t.Context(), o)
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		assert.NoError(t, <-ended)
		assert.NoError(t, c.Close())
		nothingLeft(t, o.data)
	})
	<-p.Ready()
	return p, func(path string) (int, string) {
		w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "http://hello.localhost"+path, nil)
		p.Router().ServeHTTP(w, r)
		return w.Code, strings.TrimSpace(w.Body.String())
	}
}

func TestAnImageIsPushed(t *testing.T) {
	kinds(t, func(t *testing.T, kind, isolation string) {
		image, data := imageOf(t, "1000:1000"), t.TempDir()
		status, out, errs := pushed(t, "-data", data, "-image", image, "-cell", kind, "-memory", "64M", "-once")
		if kind == "process" {
			assert.Equal(t, 2, status)
			assert.Contains(t, errs, "give -cell sandbox or containerd")
			return
		}
		require.Zero(t, status, "%s%s", out, errs)
		for _, s := range []string{"Pushing " + image + " as hello", isolation, "Fetched metadata of " + image + "@sha256:", "hello: image " + image + "@sha256:",
			"web: 1 of 1 instances run", "→ 200 OK", "Hello from hello, instance 0"} {
			assert.Contains(t, out, s)
		}
		nothingLeft(t, data)
	})
}

// Root inside is this user outside or, of a program of root, nobody in particular.
func TestImagesOfRoot(t *testing.T) {
	kinds(t, func(t *testing.T, kind, _ string) {
		if kind == "process" {
			return
		}
		image, data := imageOf(t, ""), t.TempDir()
		for _, user := range []string{"", "77"} {
			status, out, errs := pushed(t, "-data", data, "-image", image, "-user", user, "-cell", kind, "-memory", "64M", "-once")
			require.Zero(t, status, "%s%s", out, errs)
		}
		nothingLeft(t, data)
	})
}

// An image whose start-up, as root, gives a folder to another user, becomes that and writes to /dev/stdout.
func TestAnImageThatChangesItsUser(t *testing.T) {
	exe, err := hello()
	require.NoError(t, err)
	files := ofMachine(t, "sh", "mkdir", "chown", "setpriv", "id")
	files["bin/hello"] = exe
	image := imageWith(t, files, v1.Config{Entrypoint: []string{"sh", "-ec", `mkdir -p /srv/cache && chown 101:102 /srv/cache
		exec setpriv --reuid=101 --regid=102 --clear-groups sh -ec 'echo kept > /srv/cache/f; echo up > /dev/stdout; export WHO="$(id -u) of $(id -G)"; exec hello'`},
		Env: []string{"PATH=/bin"}})
	kinds(t, func(t *testing.T, kind, _ string) {
		if kind == "process" {
			return
		}
		flags := []string{"-data", t.TempDir(), "-image", image, "-cell", kind, "-memory", "64M"}
		if os.Geteuid() != 0 { // there is no other user
			status, _, errs := pushed(t, append(flags, "-once")...)
			assert.NotZero(t, status)
			assert.Contains(t, errs, "give the user that it would change to")
			return
		}
		o, err := parse(flags)
		require.NoError(t, err)
		p, get := lives(t, o)
		_, err = p.Push(t.Context(), o.req)
		require.NoError(t, err)
		_, text := get("/env/WHO")
		assert.Equal(t, "101 of 102", text)
	})
}

// An image runs, is scaled, restarted, stopped and started as a droplet is, with what the push says standing before what the image says.
func TestImagesLiveAsDropletsDo(t *testing.T) {
	kinds(t, func(t *testing.T, kind, _ string) {
		if kind == "process" {
			return
		}
		ref := imageOf(t, "1000:1000")
		o, err := parse([]string{"-data", t.TempDir(), "-image", ref, "-cell", kind, "-memory", "64M", "-env", "WHO=pushed"})
		require.NoError(t, err)
		p, get := lives(t, o)
		res, err := p.Push(t.Context(), o.req)
		require.NoError(t, err)
		code, text := get("/env/WHO")
		assert.Equal(t, 200, code)
		assert.Equal(t, "pushed", text)
		for name, want := range map[string]string{"PORT": "8081", "FROM": "image", "PWD": "/srv/work"} {
			_, text = get("/env/" + name)
			assert.Equal(t, want, text, name)
		}

		require.NoError(t, p.Scale(t.Context(), res.App.ID, "web", 3))
		seen := map[string]bool{}
		require.Eventually(t, func() bool {
			code, text := get("/env/CF_INSTANCE_INDEX")
			if code == 200 {
				seen[text] = true
			}
			return len(seen) == 3
		}, time.Minute, 5*time.Millisecond, "%v", seen)

		_, first := get("/env/CF_INSTANCE_GUID")
		require.NoError(t, p.Restart(t.Context(), res.App.ID))
		require.Eventually(t, func() bool {
			code, text := get("/env/CF_INSTANCE_GUID")
			return code == 200 && text != first
		}, time.Minute, 5*time.Millisecond)
		require.NoError(t, p.Stop(t.Context(), res.App.ID))
		require.Eventually(t, func() bool {
			code, _ := get("/")
			return code != 200
		}, time.Minute, 5*time.Millisecond)
		require.NoError(t, p.Start(t.Context(), res.App.ID))
		require.Eventually(t, func() bool {
			code, text := get("/")
			return code == 200 && strings.HasPrefix(text, "Hello from hello")
		}, time.Minute, 5*time.Millisecond)
		require.NoError(t, p.Delete(t.Context(), res.App.ID))
	})
}

// What an image is told to run is a line for its own shell; without that, its entrypoint is looked up on its own PATH.
func TestCommandsInImages(t *testing.T) {
	exe, err := hello()
	require.NoError(t, err)
	files := ofMachine(t, "sh")
	files["srv/bin/hello"] = exe
	whole := imageWith(t, files, v1.Config{Entrypoint: []string{"hello"}, Cmd: []string{"a b"}, User: "1000", WorkingDir: "/srv/work", Env: []string{"PATH=/srv/bin", "WHO=image"}})
	bare := imageWith(t, map[string]string{"hello": exe}, v1.Config{Entrypoint: []string{"/hello"}, User: "1000"})
	none := imageWith(t, map[string]string{"hello": exe}, v1.Config{User: "1000"})
	kinds(t, func(t *testing.T, kind, _ string) {
		if kind == "process" {
			return
		}
		flags := []string{"-data", t.TempDir(), "-cell", kind, "-memory", "64M", "-name", "hello"}
		o, err := parse(append(flags, "-image", whole, "-env", "GIVEN=x y"))
		require.NoError(t, err)
		p, get := lives(t, o)
		res, err := p.Push(t.Context(), o.req)
		require.NoError(t, err)
		_, text := get("/args")
		assert.Equal(t, "hello|a b", text, "the image's own")

		o.req.Command = `export WHO="$(echo by the shell)"; cd /srv/bin; exec ./hello "$GIVEN" $GIVEN 'q"'`
		_, err = p.Push(t.Context(), o.req)
		require.NoError(t, err)
		for path, want := range map[string]string{"/args": `./hello|x y|x|y|q"`, "/env/WHO": "by the shell", "/env/PWD": "/srv/bin", "/env/PORT": "8080"} {
			_, text := get(path)
			assert.Equal(t, want, text, path)
		}
		task, err := p.RunTask(t.Context(), res.App.ID, dewpoint.TaskRequest{Command: `echo "in $(pwd)"; exit 3`})
		require.NoError(t, err)
		require.Eventually(t, func() bool {
			task, err = p.Task(task.ID)
			return err == nil && task.State == scheduler.TaskCompleted
		}, time.Minute, 5*time.Millisecond)
		assert.Equal(t, 3, task.Exit.Code, "%+v", task)
		assert.Contains(t, task.Last, "in /srv/work")

		for image, says := range map[string]string{bare: "/bin/sh", none: "Start command not specified"} {
			req := o.req
			if req.Image = image; image == none {
				req.Command = ""
			}
			_, err = p.Push(t.Context(), req)
			assert.ErrorContains(t, err, says)
		}
		code, _ := get("/")
		assert.Equal(t, 200, code, "it is as it was")
	})
}
