//go:build unix

package lifecycle_test

import (
	"archive/zip"
	"bytes"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The processes of launch.yml files and a Procfile are merged: two buildpacks, of which the last releases web: R.
func TestBuilderMergesProcesses(t *testing.T) {
	t.Parallel()
	const (
		sidecar  = "- {type: %s, command: s, limits: {memory: %m}, platforms: {cloudfoundry: {sidecar_for: [%t]}}}\n"
		web      = "- {type: web, command: A}\n"
		worker   = "- {type: worker, command: B}\n"
		lighting = "- {type: lightning, command: L}\n"
	)
	beside := func(name, types, memory string) string {
		return strings.NewReplacer("%s", name, "%t", types, "%m", memory).Replace(sidecar)
	}
	for name, c := range map[string]struct {
		first, last, procfile string
		processes, sidecars   string
	}{
		"none": {"", "", "", "web=R", ""},
		"both": {
			web + worker + beside("newrelic", "web, worker", "0"), "- {type: web, command: C}\n" + beside("oldrelic", "web", "10"), "",
			"web=C worker=B", "newrelic[web,worker]0 oldrelic[web]10",
		},
		"Procfile":     {"", "", "web: P", "web=P", ""},
		"no last":      {web + worker + lighting + beside("newrelic", "web", "0"), "", "", "web=R worker=B lightning=L", "newrelic[web]0"},
		"all of these": {web + worker + lighting + beside("newrelic", "web", "0"), "- {type: worker, command: E}\n" + beside("oldrelic", "worker", "0"), "web: P", "web=P worker=E lightning=L", "newrelic[web]0 oldrelic[worker]0"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			files := map[string]string{}
			for file, text := range map[string]string{"app/launch-0.yml": c.first, "app/launch-1.yml": c.last} {
				if text != "" {
					files[file] = "processes:\n" + text
				}
			}
			if c.procfile != "" {
				files["app/Procfile"] = c.procfile
			}
			s := named(t, files)
			s.run(0, "from-app", "from-app#last")
			var processes, sidecars []string
			for _, p := range s.result().Processes {
				processes = append(processes, p.Type+"="+p.Command)
			}
			for _, p := range s.result().Sidecars {
				sidecars = append(sidecars, p.Name+"["+strings.Join(p.Types, ",")+"]"+strconv.Itoa(p.Memory))
			}
			assert.Equal(t, c.processes, strings.Join(processes, " "))
			assert.Equal(t, c.sidecars, strings.Join(sidecars, " "))
		})
	}
}

func TestBuilderFetchesZip(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	from := os.DirFS("testdata/buildpacks/always-detects")
	require.NoError(t, fs.WalkDir(from, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := fs.ReadFile(from, name)
		if err != nil {
			return err
		}
		h := &zip.FileHeader{Name: "top/" + name}
		h.SetMode(0o755)
		w, err := z.CreateHeader(h)
		if err == nil {
			_, err = w.Write(text)
		}
		return err
	}))
	require.NoError(t, z.Close())
	serve := func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/bp.zip" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_, _ = w.Write(b.Bytes())
	}
	server := httptest.NewServer(http.HandlerFunc(serve))
	defer server.Close()
	s := named(t, nil)
	s.run(0, server.URL+"/bp.zip")
	assert.Contains(t, s.stdout.String(), "Downloaded buildpack `"+server.URL+"/bp.zip` (")
	assert.Contains(t, s.archive("out/droplet"), "./app/compiled")

	s = named(t, nil)
	s.run(1, server.URL+"/absent.zip")
	assert.Contains(t, s.stderr.String(), "404 Not Found")

	secure := httptest.NewTLSServer(http.HandlerFunc(serve))
	defer secure.Close()
	s = named(t, nil)
	s.run(1, secure.URL+"/bp.zip")
	assert.Contains(t, s.stderr.String(), "certificate")
	s = named(t, nil)
	s.args = append(s.args, "-skipCertVerify")
	s.run(0, secure.URL+"/bp.zip")
}

func TestBuilderClones(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("no git")
	}
	repo := filepath.Join(t.TempDir(), "repo")
	require.NoError(t, os.CopyFS(repo, os.DirFS("testdata/buildpacks/always-detects")))
	git := func(args ...string) {
		cmd := exec.Command("git", append([]string{"-C", repo, "-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false"}, args...)...)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	git("init", "-q", "-b", "main")
	git("add", ".")
	git("commit", "-q", "-m", "one")
	git("tag", "v1")
	git("rm", "-q", "-r", "bin/compile")
	git("commit", "-q", "-m", "two")
	url := "file://" + filepath.ToSlash(repo)
	s := named(t, nil)
	s.run(0, url+"#v1")
	assert.Contains(t, s.archive("out/droplet"), "./app/compiled")
	s = named(t, nil)
	s.run(223, url) // the newest has no compile
	s = named(t, nil)
	s.run(1, url+"#no-such-branch")
	s = named(t, nil)
	s.run(1, url+"#--upload-pack=x")
	assert.Contains(t, s.stderr.String(), "is not a branch or tag")
}

// A full hash is no branch: the whole repository is cloned then.
func TestBuilderClonesCommit(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("no git")
	}
	repo := filepath.Join(t.TempDir(), "repo")
	require.NoError(t, os.CopyFS(repo, os.DirFS("testdata/buildpacks/always-detects")))
	git := func(args ...string) string {
		cmd := exec.Command("git", append([]string{"-C", repo, "-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false"}, args...)...)
		out, err := cmd.Output()
		require.NoError(t, err)
		return strings.TrimSpace(string(out))
	}
	git("init", "-q")
	git("add", ".")
	git("commit", "-q", "-m", "one")
	hash := git("rev-parse", "HEAD")
	git("rm", "-q", "-r", "bin/compile")
	git("commit", "-q", "-m", "two")
	s := named(t, nil)
	s.run(0, "file://"+filepath.ToSlash(repo)+"#"+hash)
}

func TestBuilderEndsItsScripts(t *testing.T) {
	t.Parallel()
	s := newStaging(t, map[string]string{"tmp/x": ""})
	s.env = append(s.env, "TMPDIR="+s.path("tmp"))
	cmd := s.command("slow")
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	cmd.Stdout = w
	require.NoError(t, program(t).Start(cmd))
	require.NoError(t, w.Close())
	b := make([]byte, 100)
	n, err := r.Read(b)
	require.NoError(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(string(b[:n]), "pid ")))
	require.NoError(t, err)
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	_ = cmd.Wait()
	assert.Equal(t, 143, cmd.ProcessState.ExitCode())
	left, err := os.ReadDir(s.path("tmp"))
	require.NoError(t, err)
	assert.Len(t, left, 1)
	// The pipe ends when the last of the group is gone.
	require.NoError(t, r.SetReadDeadline(time.Now().Add(30*time.Second)))
	n, _ = r.Read(b)
	assert.Zero(t, n)
	require.Eventually(t, func() bool { return syscall.Kill(-pid, 0) != nil }, 30*time.Second, 5*time.Millisecond)
}

// A folder on another file system, or one that cannot be moved, is copied.
func TestBuilderCopiesWhatItCannotMove(t *testing.T) {
	t.Parallel()
	s := newStaging(t, map[string]string{"contents/app/already": "here"})
	require.NoError(t, os.Symlink("index.html", s.path("app/link")))
	s.run(0, "always-detects")
	d := s.archive("out/droplet")
	assert.Equal(t, "hello", d["./app/index.html"])
	assert.Contains(t, d, "./app/link")
}
