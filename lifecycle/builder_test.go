//go:build unix

package lifecycle_test

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/md5"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cespare/xxhash/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// staging is one run of the builder.
type staging struct {
	t      *testing.T
	dir    string
	env    []string
	args   []string
	stdout strings.Builder
	stderr strings.Builder
}

func newStaging(t *testing.T, files map[string]string) *staging {
	s := &staging{t: t, dir: t.TempDir(), env: append(os.Environ(), "VCAP_SERVICES=")}
	s.write("app/index.html", "hello")
	for name, text := range files {
		s.write(name, text)
	}
	return s
}

func (s *staging) path(name string) string { return filepath.Join(s.dir, filepath.FromSlash(name)) }

func (s *staging) write(name, text string) {
	s.t.Helper()
	require.NoError(s.t, os.MkdirAll(filepath.Dir(s.path(name)), 0o755))
	require.NoError(s.t, os.WriteFile(s.path(name), []byte(text), 0o644))
}

func (s *staging) install(fixture, folder string) {
	s.t.Helper()
	to := s.path("buildpacks/" + folder)
	if _, err := os.Stat(to); err == nil {
		return
	}
	require.NoError(s.t, os.CopyFS(to, os.DirFS(filepath.Join("testdata", "buildpacks", fixture))))
}

func xxh(key string) string { return fmt.Sprintf("%016x", xxhash.Sum64String(key)) }

// command is the builder with buildpacks of the given keys, "fixture" or "fixture#n".
func (s *staging) command(keys ...string) *exec.Cmd {
	s.t.Helper()
	for _, k := range keys {
		fixture, _, _ := strings.Cut(k, "#")
		if _, err := os.Stat(filepath.Join("testdata", "buildpacks", fixture)); err == nil {
			s.install(fixture, xxh(k))
		}
	}
	require.NoError(s.t, os.MkdirAll(s.path("buildpacks"), 0o755))
	args := append([]string{
		"-buildpackOrder=" + strings.Join(keys, ","), "-buildDir", s.path("app"), "-outputDroplet", s.path("out/droplet"),
		"-outputMetadata", s.path("out/result.json"), "-outputBuildArtifactsCache", s.path("out/cache"),
		"-buildpacksDir", s.path("buildpacks"), "-buildArtifactsCacheDir", s.path("cache"), "-contentsDir", s.path("contents"),
	}, s.args...)
	cmd := program(s.t).Command(context.Background(), "builder", args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = s.env, &s.stdout, &s.stderr
	return cmd
}

// run runs it to its end, which must have the exit status code.
func (s *staging) run(code int, keys ...string) {
	s.t.Helper()
	cmd := s.command(keys...)
	require.NoError(s.t, program(s.t).Start(cmd))
	err := cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.t.Fatal(err)
	}
	require.Equal(s.t, code, cmd.ProcessState.ExitCode(), "%s\n%s", s.stdout.String(), s.stderr.String())
}

func named(t *testing.T, files map[string]string) *staging {
	s := newStaging(t, files)
	s.args = []string{"-skipDetect"}
	return s
}

func (s *staging) result() (r builtResult) {
	s.t.Helper()
	b, err := os.ReadFile(s.path("out/result.json"))
	require.NoError(s.t, err)
	require.NoError(s.t, json.Unmarshal(b, &r))
	return r
}

type builtResult struct {
	Lifecycle struct {
		Key        string           `json:"buildpack_key"`
		Detected   string           `json:"detected_buildpack"`
		Buildpacks []map[string]any `json:"buildpacks"`
	} `json:"lifecycle_metadata"`
	Processes []struct{ Type, Command string }
	Sidecars  []struct {
		Name    string
		Types   []string `json:"process_types"`
		Command string
		Memory  int
	}
}

// archive returns the names and contents of a tar.gz.
func (s *staging) archive(name string) map[string]string {
	s.t.Helper()
	f, err := os.Open(s.path(name))
	require.NoError(s.t, err)
	defer f.Close()
	z, err := gzip.NewReader(f)
	require.NoError(s.t, err)
	all := map[string]string{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err == io.EOF {
			return all
		}
		require.NoError(s.t, err)
		b, err := io.ReadAll(r)
		require.NoError(s.t, err)
		all[h.Name] = string(b)
	}
}

func below(all map[string]string, prefix string) (names []string) {
	for n := range all {
		if strings.HasPrefix(n, prefix) {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	return names
}

func TestBuilderDetects(t *testing.T) {
	t.Parallel()
	s := newStaging(t, nil)
	s.run(0, "always-detects", "also-always-detects")
	b, err := os.ReadFile(s.path("out/result.json"))
	require.NoError(t, err)
	assert.JSONEq(t, `{"process_types":{"web":"the start command"},"lifecycle_type":"buildpack","lifecycle_metadata":{"detected_buildpack":"Always Matching","buildpack_key":"always-detects","buildpacks":[{"key":"always-detects","name":"Always Matching"}]},"processes":[{"type":"web","command":"the start command"}],"execution_metadata":""}`, string(b))
	assert.Contains(t, s.stdout.String(), "-----> Compiling\n")
	assert.Contains(t, s.stderr.String(), "compile warns\n")

	d := s.archive("out/droplet")
	assert.Equal(t, []string{"./app/", "./app/compiled", "./app/database-url", "./app/index.html"}, below(d, "./app"))
	assert.Equal(t, []string{"./tmp/"}, below(d, "./tmp"))
	assert.Equal(t, []string{"./logs/"}, below(d, "./logs"))
	assert.Equal(t, []string{"./profile.d/"}, below(d, "./profile.d"))
	assert.Equal(t, []string{"./deps/"}, below(d, "./deps"))
	assert.Equal(t, `{"detected_buildpack":"Always Matching","start_command":"the start command"}`, d["./staging_info.yml"])
	assert.Equal(t, []string{"./", "./final/", "./final/artifact"}, below(s.archive("out/cache"), "./"))
}

func TestBuilderDetectNotExecutable(t *testing.T) {
	t.Parallel()
	s := newStaging(t, nil)
	s.run(0, "not-executable", "always-detects")
	assert.Contains(t, s.stderr.String(), "WARNING: buildpack script '/bin/detect' is not executable")
	assert.Equal(t, "always-detects", s.result().Lifecycle.Key)
}

func TestBuilderFinalizes(t *testing.T) {
	t.Parallel()
	s := newStaging(t, nil)
	s.run(0, "always-fails-detect", "has-finalize")
	d := s.archive("out/droplet")
	assert.Contains(t, d, "./app/finalized")
	assert.NotContains(t, d, "./app/compiled")
	assert.Contains(t, d, "./profile.d/finalized.sh")
	assert.Contains(t, d, "./deps/0/")
}

func TestBuilderSkipsDetect(t *testing.T) {
	t.Parallel()
	for _, key := range []string{"always-detects", "always-fails-detect"} {
		s := named(t, nil)
		s.run(0, key)
		r := s.result()
		assert.Equal(t, key, r.Lifecycle.Key)
		assert.Empty(t, r.Lifecycle.Detected)
		assert.Equal(t, []map[string]any{{"key": key, "name": ""}}, r.Lifecycle.Buildpacks)
		assert.NotContains(t, s.stderr.String(), "last buildpack is not compatible")
	}
}

func TestBuilderMultiWithCompileOnlyAtTheEnd(t *testing.T) {
	t.Parallel()
	s := named(t, nil)
	s.run(0, "has-supply", "has-supply#2", "always-detects")
	d := s.archive("out/droplet")
	assert.Equal(t, []string{"./deps/", "./deps/0/", "./deps/0/supplied", "./deps/1/", "./deps/1/supplied"}, below(d, "./deps/"))
	assert.Contains(t, d, "./app/compiled")
	assert.Contains(t, s.stderr.String(), "last buildpack is not compatible with multi-buildpack apps")
}

func TestBuilderMultiWithFinalize(t *testing.T) {
	t.Parallel()
	s := named(t, map[string]string{
		"cache/loose":                              "x",
		"cache/0123456789abcdef/old":               "x",
		"cache/final/kept":                         "kept",
		"cache/" + xxh("has-supply") + "/kept too": "kept",
	})
	s.run(0, "has-supply", "has-supply#2", "has-supply-finalize")
	assert.Equal(t, []string{"./deps/0/supplied", "./deps/1/supplied", "./deps/2/supplied"},
		slices.DeleteFunc(below(s.archive("out/droplet"), "./deps/"), func(n string) bool { return strings.HasSuffix(n, "/") }))
	c := s.archive("out/cache")
	for _, n := range []string{"./final/supplied", "./final/finalized", "./final/kept", "./" + xxh("has-supply") + "/supplied",
		"./" + xxh("has-supply") + "/kept too", "./" + xxh("has-supply#2") + "/supplied"} {
		assert.Contains(t, c, n)
	}
	assert.NotContains(t, c, "./loose")
	assert.NotContains(t, c, "./0123456789abcdef/")
}

func TestBuilderConfigYML(t *testing.T) {
	t.Parallel()
	s := named(t, nil)
	s.run(0, "has-supply", "tells-of-itself")
	assert.Equal(t, []map[string]any{
		{"key": "has-supply", "name": ""},
		{
			"key": "tells-of-itself", "name": "Creates Buildpack Artifacts", "version": "9.1.3",
			"config": map[string]any{"entrypoint_prefix": "/wrap"}, "output_metadata": map[string]any{"1": map[string]any{"a": []any{"b"}}},
		},
	}, s.result().Lifecycle.Buildpacks)
	assert.Equal(t, "Creates Buildpack Artifacts", s.result().Lifecycle.Detected)
	assert.JSONEq(t, `{"detected_buildpack":"Creates Buildpack Artifacts","start_command":"told","config":{"entrypoint_prefix":"/wrap"}}`,
		s.archive("out/droplet")["./staging_info.yml"])
}

func TestBuilderFailures(t *testing.T) {
	t.Parallel()
	const skip = "-skipDetect"
	for name, c := range map[string]struct {
		keys []string
		arg  string
		app  map[string]string
		code int
		text string
	}{
		"nothing detects":       {[]string{"always-fails-detect"}, "", nil, 222, "None of the buildpacks detected a compatible application"},
		"compile":               {[]string{"fails-compile"}, "", nil, 223, "Failed to compile droplet: exit status 1"},
		"finalize":              {[]string{"fails-finalize"}, skip, nil, 223, "Failed to compile droplet: Failed to run finalize script: exit status 1"},
		"last supply":           {[]string{"tells-of-itself", "fails-supply"}, skip, nil, 223, "Failed to compile droplet"},
		"supply":                {[]string{"fails-supply", "always-detects"}, skip, nil, 225, "Failed to run all supply scripts: exit status 1"},
		"no supply":             {[]string{"always-detects", "always-detects#2"}, skip, nil, 225, "Error: one of the buildpacks chosen to supply dependencies does not support multi-buildpack apps"},
		"release":               {[]string{"fails-release"}, "", nil, 224, "Failed to build droplet release: exit status 1"},
		"release is no YAML":    {[]string{"bad-release"}, "", nil, 224, "buildpack's release output invalid"},
		"bad Procfile":          {[]string{"always-detects"}, "", map[string]string{"app/Procfile": "web: [a"}, 1, "Failed to read command from Procfile"},
		"Procfile of no types":  {[]string{"always-detects"}, "", map[string]string{"app/Procfile": "run it"}, 1, "Failed to read command from Procfile"},
		"absent, named":         {[]string{"never-installed"}, skip, nil, 225, "malformed buildpack does not contain a /bin dir: never-installed"},
		"absent":                {[]string{"never-installed"}, "", nil, 222, "malformed buildpack does not contain a /bin dir: never-installed"},
		"path of elsewhere":     {[]string{"wrong-path"}, "", nil, 223, "hint: bin/compile, or a program that it runs, is missing"},
		"interpreter not there": {[]string{"lost-interpreter"}, "", nil, 223, "Failed to compile droplet: bin/compile needs /no/such/interpreter, as its first line says, which does not exist here"},
		"none named":            {nil, "", nil, 1, "-buildpackOrder is empty"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStaging(t, c.app)
			if c.arg != "" {
				s.args = []string{c.arg}
			}
			if name == "last supply" { // it must have finalize, to come so far
				s.install("fails-supply", xxh("fails-supply"))
				require.NoError(t, os.WriteFile(s.path("buildpacks/"+xxh("fails-supply")+"/bin/finalize"), []byte("#!/bin/sh\n"), 0o755))
			}
			s.run(c.code, c.keys...)
			assert.Contains(t, s.stderr.String(), c.text)
			if name == "finalize" {
				assert.Equal(t, []map[string]any{{"key": "fails-finalize", "name": "Fails", "version": "1.0"}}, s.result().Lifecycle.Buildpacks)
			}
		})
	}
}

func TestBuilderWithoutWeb(t *testing.T) {
	t.Parallel()
	s := newStaging(t, nil)
	s.run(0, "no-web")
	assert.Contains(t, s.stderr.String(), "No start command specified by buildpack or via Procfile.\nApp will not start unless a command is provided at runtime.\n")
	s = newStaging(t, map[string]string{"app/Procfile": "worker: w"})
	s.run(0, "always-detects")
	assert.Equal(t, []struct{ Type, Command string }{{"web", "the start command"}, {"worker", "w"}}, s.result().Processes)
}

func TestBuilderFindsFolders(t *testing.T) {
	t.Parallel()
	require.Equal(t, "ba8ed7547bcbcb08", xxh("nested-buildpack"))
	s := newStaging(t, nil)
	s.install("nested", xxh("nested-buildpack"))
	s.run(0, "nested-buildpack")
	assert.Equal(t, "Nested", s.result().Lifecycle.Detected)

	sum := fmt.Sprintf("%x", md5.Sum([]byte("always-detect-buildpack")))
	require.Equal(t, "e05b2d8a59b30d5e9552282465253095", sum)
	s = newStaging(t, nil)
	s.install("always-detects", sum)
	s.run(0, "always-detect-buildpack")
	assert.Equal(t, "Always Matching", s.result().Lifecycle.Detected)
}

// Upstream looks for launch.yml under the index without its zeros and misses it.
func TestBuilderTenBuildpacks(t *testing.T) {
	t.Parallel()
	s := named(t, map[string]string{"app/launch-03.yml": "processes: [{type: three, command: c}]"})
	var keys []string
	for i := range 10 {
		keys = append(keys, fmt.Sprintf("from-app#%d", i))
	}
	s.run(0, keys...)
	assert.Equal(t, []struct{ Type, Command string }{{"three", "c"}, {"web", "R"}}, s.result().Processes)
	assert.Contains(t, s.archive("out/droplet"), "./deps/03/launch.yml")
}

func TestBuilderDatabaseURL(t *testing.T) {
	t.Parallel()
	s := newStaging(t, nil)
	s.env = append(os.Environ(), `VCAP_SERVICES={"x":[{"credentials":{"uri":"postgresql://u@h/d"}}]}`, "DATABASE_URL=old")
	s.run(0, "always-detects")
	assert.Equal(t, "postgres://u@h/d\n", s.archive("out/droplet")["./app/database-url"])
}
