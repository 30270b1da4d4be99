package buildpack_test

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/internal/needs"
	"github.com/dewpoint-go/dewpoint/logs"
	"github.com/dewpoint-go/dewpoint/staging"
	"github.com/dewpoint-go/dewpoint/staging/buildpack"
	"github.com/dewpoint-go/dewpoint/staging/stagingtest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		removeProgram()
		os.Exit(code)
	}))
}

const good = `{"lifecycle_metadata":{"buildpack_key":"%[1]s","detected_buildpack":"Go","buildpacks":[{"key":"%[1]s","name":"go","version":"1.2"}]},
"process_types":{"web":"run-it","worker":"w"},"processes":[{"type":"web","command":"run-it"},{"type":"worker","command":"w"}],
"sidecars":[{"name":"s","process_types":["web"],"command":"c","memory":10}],"execution_metadata":"","lifecycle_type":"buildpack"}`

func inline(s *cell.Status, text string) {
	if s.Outputs == nil {
		s.Outputs = map[string]cell.Saved{}
	}
	s.Outputs["/tmp/result.json"] = cell.Saved{Data: []byte(text), Size: int64(len(text))}
}

// folder makes a buildpack.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	fill(t, dir, files)
	return dir
}

func fill(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		p := filepath.Join(dir, filepath.FromSlash(name))
		require.NoError(t, os.MkdirAll(filepath.Dir(p), 0o755))
		require.NoError(t, os.WriteFile(p, []byte(text), 0o755))
	}
}

func open(t *testing.T, c buildpack.Config, entries ...buildpack.Entry) *buildpack.Runner {
	t.Helper()
	var cat buildpack.Catalogue
	for _, e := range entries {
		require.NoError(t, cat.Add(e))
	}
	if c.Catalogue == nil {
		c.Catalogue = &cat
	}
	if c.Dir == "" {
		c.Dir = t.TempDir()
	}
	r, err := buildpack.New(c)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, r.Close()) })
	return r
}

func one(t *testing.T, name string) buildpack.Entry {
	return buildpack.Entry{Name: name, Location: "dir:" + folder(t, map[string]string{"bin/detect": "#!/bin/sh\necho " + name})}
}

func reason(t *testing.T, err error) *staging.Error {
	t.Helper()
	e, ok := errors.AsType[*staging.Error](err)
	require.True(t, ok, "%v", err)
	return e
}

func TestSuite(t *testing.T) {
	t.Parallel()
	stagingtest.Run(t, func(t *testing.T) stagingtest.Subject {
		return stagingtest.Subject{
			Runner: open(t, buildpack.Config{}, one(t, "go")), Buildpack: "go",
			Good: func(_ cell.Work, s *cell.Status) { inline(s, fmt.Sprintf(good, "go")) },
		}
	})
}

func TestPlanIsWhatTheBuilderExpects(t *testing.T) {
	t.Parallel()
	r := open(t, buildpack.Config{BaseEnv: []string{"PATH=/x"}}, one(t, "go"), one(t, "node"))
	w, err := r.Plan(t.Context(), stagingtest.Request("a"), nil)
	require.NoError(t, err)
	assert.Equal(t, "lifecycle:builder", w.Process.Path)
	assert.Equal(t, []string{
		"-buildpackOrder=go,node", "-skipDetect=false",
		"-buildDir={{path /tmp/app}}", "-outputDroplet={{path /tmp/droplet}}", "-outputMetadata={{path /tmp/result.json}}",
		"-outputBuildArtifactsCache={{path /tmp/output-cache}}", "-buildpacksDir={{path /tmp/buildpacks}}",
		"-buildArtifactsCacheDir={{path /tmp/cache}}", "-contentsDir={{path /tmp/contents}}",
	}, w.Process.Args)
	assert.Contains(t, w.Process.Env, "PATH=/x")
	assert.Contains(t, w.Process.Env, "LANG=en_US.UTF-8")
	require.Len(t, w.Layers, 2)
	for _, l := range w.Layers {
		assert.Len(t, l.SHA256, 64)
		assert.Regexp(t, `^/tmp/buildpacks/[0-9a-f]{16}$`, l.Dir)
	}
	assert.Equal(t, []string{"/tmp/droplet", "/tmp/result.json", "/tmp/output-cache"}, paths(w.Outputs))
	assert.True(t, w.Outputs[1].Inline && w.Outputs[1].OnFailure)
	assert.EqualValues(t, 50<<10, w.Outputs[1].MaxBytes)

	w, err = r.Plan(t.Context(), stagingtest.Request("b", "node", "go"), nil)
	require.NoError(t, err)
	assert.Equal(t, []string{"-buildpackOrder=node,go", "-skipDetect=true"}, w.Process.Args[:2])
}

// The number is upstream's own: builder_test.go of buildpackapplifecycle.
func TestFolderNameIsUpstreams(t *testing.T) {
	t.Parallel()
	w, err := open(t, buildpack.Config{}, one(t, "nested-buildpack")).Plan(t.Context(), stagingtest.Request("a"), nil)
	require.NoError(t, err)
	assert.Equal(t, "/tmp/buildpacks/ba8ed7547bcbcb08", w.Layers[0].Dir)
}

func paths(os []cell.Output) (out []string) {
	for _, o := range os {
		out = append(out, o.Path)
	}
	return out
}

func TestPlanRefusals(t *testing.T) {
	t.Parallel()
	off := one(t, "off")
	off.Disabled = true
	other := one(t, "other")
	other.Stack = "windows"
	bare := buildpack.Entry{Name: "bare", Location: "dir:" + t.TempDir()}
	gone := buildpack.Entry{Name: "gone", Location: "dir:" + filepath.Join(t.TempDir(), "nothing")}
	r := open(t, buildpack.Config{NoCustom: true}, off, other, bare, gone)
	for _, c := range []struct {
		ask  []string
		want staging.Reason
		text string
	}{
		{[]string{"off"}, staging.BuildpackInvalid, "stage hello: buildpack off is disabled; "},
		{[]string{"other"}, staging.BuildpackInvalid, "there is no buildpack other for stack host"},
		{[]string{"bare"}, staging.BuildpackInvalid, "/bin dir"},
		{[]string{"gone"}, staging.BuildpackUnavailable, "nothing"},
		{[]string{"https://example.com/x.git"}, staging.CustomBuildpacksDisabled, "name one of the catalogue"},
	} {
		q := stagingtest.Request("x", c.ask...)
		q.Stack = "host"
		s, err := staging.New(staging.Config{Runner: r, Tasks: &stagingtest.Tasks{}})
		require.NoError(t, err)
		_, err = s.Stage(t.Context(), q, nil)
		e := reason(t, err)
		assert.Equal(t, c.want, e.Reason, "%v", c.ask)
		assert.Contains(t, e.Error(), c.text)
	}
	_, err := open(t, buildpack.Config{}, off).Plan(t.Context(), stagingtest.Request("x"), nil)
	assert.Equal(t, staging.NoBuildpacksFound, reason(t, err).Reason)

	r = open(t, buildpack.Config{})
	for _, bad := range []string{"file:///etc", "ext::sh -c x", "dir:/etc", "blob:x", "https://h/x#--upload-pack=x", "../up", "-x.zip", "https://u:secret@-h/x", "http://u:secret@h/%zz"} {
		_, err := r.Plan(t.Context(), stagingtest.Request("x", bad), nil)
		e := reason(t, err)
		assert.Equal(t, staging.BuildpackInvalid, e.Reason, bad)
		assert.NotContains(t, e.Error(), "secret")
	}
}

func TestLocalPathsOnlyWhereTheyAreAllowed(t *testing.T) {
	t.Parallel()
	dir := folder(t, map[string]string{"bin/detect": "x"})
	_, err := open(t, buildpack.Config{}).Plan(t.Context(), stagingtest.Request("x", dir), nil)
	assert.Equal(t, staging.BuildpackInvalid, reason(t, err).Reason)
	r := open(t, buildpack.Config{Local: true})
	for _, name := range []string{dir, "dir:" + dir} {
		w, err := r.Plan(t.Context(), stagingtest.Request("x", name), nil)
		require.NoError(t, err)
		assert.Equal(t, filepath.Base(dir), w.Layers[0].Name)
	}
	_, err = r.Plan(t.Context(), stagingtest.Request("x", filepath.Join(dir, "none")), nil)
	assert.Equal(t, staging.BuildpackUnavailable, reason(t, err).Reason)
	_, err = r.Plan(t.Context(), stagingtest.Request("x", "none"), nil)
	assert.Equal(t, staging.BuildpackInvalid, reason(t, err).Reason)
}

func TestFoldersArePackedTheSameWherever(t *testing.T) {
	t.Parallel()
	files := map[string]string{"bin/detect": "a", "lib/x/y": "b", ".git/HEAD": "c"}
	a, b := folder(t, files), folder(t, files)
	require.NoError(t, os.WriteFile(filepath.Join(b, ".git", "HEAD"), []byte("other"), 0o600))
	r := open(t, buildpack.Config{}, buildpack.Entry{Name: "a", Location: "dir:" + a}, buildpack.Entry{Name: "b", Location: "dir:" + b})
	w, err := r.Plan(t.Context(), stagingtest.Request("x"), nil)
	require.NoError(t, err)
	assert.Equal(t, w.Layers[0].SHA256, w.Layers[1].SHA256)

	names := listTar(t, r, w.Layers[0].Source)
	assert.Equal(t, []string{"bin/", "bin/detect", "lib/", "lib/x/", "lib/x/y"}, names)

	require.NoError(t, os.WriteFile(filepath.Join(a, "bin", "detect"), []byte("changed"), 0o700))
	w2, err := r.Plan(t.Context(), stagingtest.Request("y"), nil)
	require.NoError(t, err)
	assert.NotEqual(t, w.Layers[0].SHA256, w2.Layers[0].SHA256)
	assert.Equal(t, w.Layers[1], w2.Layers[1])

	_, err = r.Open(t.Context(), "dir:/etc/passwd")
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = r.Open(t.Context(), "blob:x")
	require.ErrorIs(t, err, fs.ErrNotExist)
}

func listTar(t *testing.T, r *buildpack.Runner, s cell.Source) (names []string) {
	t.Helper()
	f, err := r.Open(t.Context(), s)
	require.NoError(t, err)
	defer f.Close()
	for tr := tar.NewReader(f); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return names
		}
		require.NoError(t, err)
		names = append(names, h.Name)
	}
}

func TestLinksMustStayInside(t *testing.T) {
	t.Parallel()
	dir := folder(t, map[string]string{"bin/detect": "a"})
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "out")); err != nil {
		t.Skip("no symbolic links here")
	}
	_, err := open(t, buildpack.Config{}, buildpack.Entry{Name: "a", Location: "dir:" + dir}).Plan(t.Context(), stagingtest.Request("x"), nil)
	e := reason(t, err)
	assert.Equal(t, staging.BuildpackInvalid, e.Reason)
	assert.Contains(t, e.Error(), "link out to /etc/passwd")
}

func zipped(t *testing.T, names ...string) []byte {
	t.Helper()
	var buf bytes.Buffer
	z := zip.NewWriter(&buf)
	for _, n := range names {
		_, err := z.Create(n)
		require.NoError(t, err)
	}
	require.NoError(t, z.Close())
	return buf.Bytes()
}

func TestZips(t *testing.T) {
	t.Parallel()
	ok, bad := zipped(t, "top/bin/detect"), zipped(t, "a/b/bin/x")
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/ok.zip":
			_, _ = w.Write(ok)
		case "/bad.zip":
			_, _ = w.Write(bad)
		case "/busy.zip":
			w.WriteHeader(http.StatusServiceUnavailable)
		case "/slow.zip":
			w.WriteHeader(http.StatusOK)
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(srv.Close)
	r := open(t, buildpack.Config{Client: srv.Client()})

	secret := strings.Replace(srv.URL, "://", "://u:secret@", 1) + "/ok.zip"
	var said []logs.Line
	q := stagingtest.Request("x", secret)
	w, err := r.Plan(t.Context(), q, func(l logs.Line) { said = append(said, l) })
	require.NoError(t, err)
	require.Len(t, said, 1)
	assert.Regexp(t, "^Downloaded buildpack `http://u:xxxxx@.*/ok.zip` \\(\\d+B\\)$", said[0].Text)
	text, err := json.Marshal(w)
	require.NoError(t, err)
	assert.NotContains(t, string(text), "u:xxxxx:")
	assert.NotContains(t, strings.Join(w.Process.Args, " "), "secret")
	st := stagingtest.Ended(w, 0)
	key := strings.TrimPrefix(w.Process.Args[0], "-buildpackOrder=")
	inline(&st, fmt.Sprintf(good, key))
	res, err := r.Result(t.Context(), q, st)
	require.NoError(t, err)
	assert.Contains(t, res.Buildpacks[0].Key, "xxxxx@")

	for path, want := range map[string]staging.Reason{"/bad.zip": staging.BuildpackInvalid, "/busy.zip": staging.BuildpackUnavailable, "/gone.zip": staging.BuildpackUnavailable} {
		_, err := r.Plan(t.Context(), stagingtest.Request("x", srv.URL+path), nil)
		e := reason(t, err)
		assert.Equal(t, want, e.Reason)
		assert.Equal(t, path == "/busy.zip", e.Retryable, path)
	}

	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := r.Plan(ctx, stagingtest.Request("x", srv.URL+"/slow.zip"), nil)
		done <- err
	}()
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)

	wrong := buildpack.Entry{Name: "wrong", Location: srv.URL + "/ok.zip", SHA256: strings.Repeat("0", 64)}
	_, err = open(t, buildpack.Config{Client: srv.Client()}, wrong).Plan(t.Context(), stagingtest.Request("x"), nil)
	assert.ErrorContains(t, err, "0000 was asked for")
}

// What a cell would refuse is refused before, with the buildpack's name and nothing to try again.
func TestDamagedZips(t *testing.T) {
	t.Parallel()
	good := zipped(t, "bin/detect", "bin/compile")
	header := bytes.Clone(good)
	copy(header, "XX")
	dir := t.TempDir()
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"short":   {good[:len(good)-30], "malformed buildpack: the zip is damaged or cut short; mend it, or name another"},
		"header":  {header, `malformed buildpack: the zip is damaged at "bin/detect"`},
		"escapes": {zipped(t, "bin/detect", "../../x"), `malformed buildpack: its entry "../../x" leads out of it`},
		"rooted":  {zipped(t, "bin/detect", "/etc/x"), `malformed buildpack: its entry "/etc/x" leads out of it`},
		"dots":    {zipped(t, "bin/..detect", "./bin/detect"), ""},
	} {
		file := filepath.Join(dir, name+".zip")
		require.NoError(t, os.WriteFile(file, c.data, 0o600))
		_, err := open(t, buildpack.Config{Local: true}).Plan(t.Context(), stagingtest.Request("x", file), nil)
		if c.want == "" {
			assert.NoError(t, err, name)
			continue
		}
		e := reason(t, err)
		assert.Equal(t, staging.BuildpackInvalid, e.Reason, name)
		assert.False(t, e.Retryable, name)
		assert.Contains(t, e.Error(), "buildpack "+name+".zip cannot be used: "+c.want)
	}
}

func TestGit(t *testing.T) {
	t.Parallel()
	needs.Tool(t, "git")
	base := []string{"PATH=" + os.Getenv("PATH")}
	dir := folder(t, map[string]string{"bin/detect": "main"})
	git := func(args ...string) {
		t.Helper()
		cmd := exec.Command("git", append([]string{"-C", dir, "-c", "user.name=a", "-c", "user.email=a@b"}, args...)...)
		cmd.Env = append([]string{"HOME=" + t.TempDir()}, base...)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	git("init", "-q", "-b", "main")
	git("add", ".")
	git("commit", "-q", "-m", "one")
	git("checkout", "-q", "-b", "next")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "bin", "compile"), nil, 0o700))
	git("add", ".")
	git("commit", "-q", "-m", "two")
	git("checkout", "-q", "main")
	git("update-server-info")
	// A server that only hands out files knows no shallow clones: the second way is taken.
	srv := httptest.NewServer(http.FileServer(http.Dir(dir)))
	t.Cleanup(srv.Close)
	r := open(t, buildpack.Config{BaseEnv: base})
	var said []string
	say := func(l logs.Line) { said = append(said, l.Text) }
	w, err := r.Plan(t.Context(), stagingtest.Request("x", srv.URL+"/.git"), say)
	require.NoError(t, err)
	assert.Equal(t, []string{"bin/", "bin/detect"}, listTar(t, r, w.Layers[0].Source))
	assert.Regexp(t, "^Cloned buildpack `http://.*/.git` at [0-9a-f]{7,}$", said[0])
	w, err = r.Plan(t.Context(), stagingtest.Request("x", srv.URL+"/.git#next"), say)
	require.NoError(t, err)
	assert.Equal(t, []string{"bin/", "bin/compile", "bin/detect"}, listTar(t, r, w.Layers[0].Source))

	for path, want := range map[string]string{"/none.git": "/none.git/' not found", "/.git#nowhere": "invalid reference: nowhere"} {
		_, err = r.Plan(t.Context(), stagingtest.Request("x", strings.Replace(srv.URL, "://", "://u:secret@", 1)+path), say)
		e := reason(t, err)
		assert.Equal(t, staging.BuildpackUnavailable, e.Reason)
		assert.False(t, e.Retryable, path)
		assert.Contains(t, e.Error(), want)
		assert.Contains(t, e.Error(), "is it spelled right")
		assert.NotContains(t, e.Error(), "secret")
	}
	// The cause is not in the last line of what git prints.
	_, err = r.Plan(t.Context(), stagingtest.Request("x", "git://127.0.0.1:1/x"), say)
	assert.True(t, reason(t, err).Retryable)
	assert.Regexp(t, "git clone git://127.0.0.1:1/x: .*[Cc]onnection refused", err.Error())
}

func TestExitCodes(t *testing.T) {
	t.Parallel()
	r := open(t, buildpack.Config{})
	for code, want := range map[int]staging.Reason{
		222: staging.NoAppDetected, 223: staging.BuildpackCompileFailed, 224: staging.BuildpackReleaseFailed,
		225: staging.BuildpackSupplyFailed, 226: staging.BuildpackCompileFailed, 1: staging.StagingError, 22: staging.StagingError,
	} {
		q := stagingtest.Request("x")
		s := stagingtest.Ended(cell.Work{}, code)
		inline(&s, fmt.Sprintf(good, "go"))
		res, err := r.Result(t.Context(), q, s)
		e := reason(t, err)
		assert.Equal(t, want, e.Reason, code)
		assert.Equal(t, code, e.ExitStatus)
		assert.Equal(t, "1.2", res.Buildpacks[0].Version, "what the builder wrote is known of failures too")
	}
	for line, want := range map[string]string{
		"Failed to compile droplet: bin/compile is missing":                "buildpack go 1.2 failed to compile the app: bin/compile is missing (exit status 223); mend that in the buildpack",
		"Failed to compile droplet: Failed to run finalize: exit status 1": "buildpack go 1.2 failed to compile the app (exit status 223); its last lines say why",
	} {
		s := stagingtest.Ended(cell.Work{}, 223)
		s.Last = []string{"before", line, "Exit status 223"}
		inline(&s, fmt.Sprintf(good, "go"))
		_, err := r.Result(t.Context(), stagingtest.Request("x"), s)
		assert.EqualError(t, err, "stage hello: "+want)
	}
	s := stagingtest.Ended(cell.Work{}, 137)
	s.Exit.OutOfMemory = true
	_, err := r.Result(t.Context(), stagingtest.Request("x"), s)
	assert.EqualError(t, err, "stage hello: the build ran out of memory (exit status 137); give staging more memory")
}

func TestFixedPathsAreExplained(t *testing.T) {
	t.Parallel()
	r := open(t, buildpack.Config{})
	for line, want := range map[string]string{
		"cp: cannot stat '/tmp/app/x': No such file or directory":                "names /tmp/app/x,",
		"sh: 1: cannot create /home/vcap/app/y: No such file or directory":       "names /home/vcap/app/y,",
		"cat: /var/cell/abc/tmp/app/x: No such file or directory":                "",
		"/tmp/app/x: permission denied":                                          "",
		"FileNotFoundError: [Errno 2] No such file or directory: '/home/vcap/z'": "names /home/vcap/z,",
	} {
		s := stagingtest.Ended(cell.Work{}, 223)
		s.Last = []string{"before", line}
		_, err := r.Result(t.Context(), stagingtest.Request("x"), s)
		if want == "" {
			assert.NotContains(t, err.Error(), "root filesystem", line)
		} else {
			assert.ErrorContains(t, err, want)
		}
	}
}

func TestResultWithoutWebIsNoError(t *testing.T) {
	t.Parallel()
	r := open(t, buildpack.Config{})
	q := stagingtest.Request("x")
	w, err := open(t, buildpack.Config{}, one(t, "go")).Plan(t.Context(), q, nil)
	require.NoError(t, err)
	s := stagingtest.Ended(w, 0)
	inline(&s, `{"lifecycle_metadata":{},"process_types":{"b":"1","a":"2"}}`)
	res, err := r.Result(t.Context(), q, s)
	require.NoError(t, err)
	assert.Empty(t, res.Command("web"))
	assert.Equal(t, []staging.Process{{Type: "a", Command: "2"}, {Type: "b", Command: "1"}}, res.Processes)
}

func TestCloseRemovesTheFolderThatItMade(t *testing.T) {
	t.Parallel()
	var cat buildpack.Catalogue
	require.NoError(t, cat.Add(one(t, "go")))
	r, err := buildpack.New(buildpack.Config{Catalogue: &cat})
	require.NoError(t, err)
	w, err := r.Plan(t.Context(), stagingtest.Request("x"), nil)
	require.NoError(t, err)
	file := strings.TrimPrefix(string(w.Layers[0].Source), "dir:")
	require.FileExists(t, file)
	require.NoError(t, r.Close())
	require.NoFileExists(t, file)
	require.NoError(t, r.Close())
}

func TestOldArchivesAreTidiedUp(t *testing.T) {
	t.Parallel()
	bp := folder(t, map[string]string{"bin/detect": "1"})
	now := time.Now()
	r := open(t, buildpack.Config{Now: func() time.Time { return now }}, buildpack.Entry{Name: "a", Location: "dir:" + bp})
	var files []string
	for i, later := range []time.Duration{0, time.Hour, 48 * time.Hour} {
		now = now.Add(later)
		require.NoError(t, os.WriteFile(filepath.Join(bp, "bin", "detect"), bytes.Repeat([]byte("x"), i), 0o700))
		w, err := r.Plan(t.Context(), stagingtest.Request("x"), nil)
		require.NoError(t, err)
		files = append(files, strings.TrimPrefix(string(w.Layers[0].Source), "dir:"))
	}
	assert.NoFileExists(t, files[0])
	assert.FileExists(t, files[1], "it was in use until now")
	assert.FileExists(t, files[2])
}

func TestKeepSaysWhereArchivesAre(t *testing.T) {
	t.Parallel()
	r := open(t, buildpack.Config{Keep: func(_ context.Context, sha string, open func() (io.ReadCloser, error)) (cell.Source, error) {
		f, err := open()
		if err != nil {
			return "", err
		}
		return cell.Source("blob:" + sha), f.Close()
	}}, one(t, "go"))
	w, err := r.Plan(t.Context(), stagingtest.Request("x"), nil)
	require.NoError(t, err)
	assert.Equal(t, cell.Source("blob:"+w.Layers[0].SHA256), w.Layers[0].Source)
}
