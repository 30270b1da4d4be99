//go:build unix

package lifecycle_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// run runs the role launcher or shell in a droplet of the given files.
type run struct {
	t              *testing.T
	dir            string
	env            []string
	stdout, stderr strings.Builder
}

func newRun(t *testing.T, files map[string]string) *run {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	r := &run{t: t, dir: filepath.Join(dir, "home folder"), env: []string{"PATH=" + os.Getenv("PATH"), "CALLER=kept"}}
	require.NoError(t, os.MkdirAll(filepath.Join(r.dir, "app"), 0o755))
	for name, text := range files {
		file := filepath.Join(r.dir, filepath.FromSlash(name))
		require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
		require.NoError(t, os.WriteFile(file, []byte(text), 0o755))
	}
	return r
}

func (r *run) role(role string, args ...string) (code int) {
	r.t.Helper()
	p := program(r.t)
	cmd := p.Command(context.Background(), role, append([]string{filepath.Join(r.dir, "app")}, args...)...)
	cmd.Env, cmd.Stdout, cmd.Stderr = r.env, &r.stdout, &r.stderr
	require.NoError(r.t, p.Start(cmd))
	_ = cmd.Wait()
	return cmd.ProcessState.ExitCode()
}

const lines = "Invoking pre-start scripts.\nInvoking start command.\n"

func TestLauncherEnvironment(t *testing.T) {
	t.Parallel()
	r := newRun(t, nil)
	r.env = append(r.env, `VCAP_APPLICATION={"name":"n","big":12345678901234567890}`, "PORT=8080", "CF_INSTANCE_GUID=guid", "CF_INSTANCE_INDEX=3",
		`VCAP_SERVICES={"db":[{"credentials":{"uri":"mysql://h/d"}}]}`, "DATABASE_URL=old", "VCAP_PLATFORM_OPTIONS={}")
	require.Equal(t, 0, r.role("launcher", `pwd; echo "$HOME|$TMPDIR|$DEPS_DIR|$CALLER|$DATABASE_URL|${VCAP_PLATFORM_OPTIONS-unset}"; echo "$VCAP_APPLICATION"; echo err >&2`, "{}"))
	text, ok := strings.CutPrefix(r.stdout.String(), lines)
	require.True(t, ok, "%s", r.stdout.String())
	got := strings.Split(text, "\n")
	assert.Equal(t, r.dir+"/app", got[0])
	assert.Equal(t, strings.ReplaceAll("D/app|D/tmp|D/deps|kept|mysql2://h/d|unset", "D", r.dir), got[1])
	assert.JSONEq(t, `{"name":"n","big":12345678901234567890,"host":"0.0.0.0","port":8080,"instance_id":"guid","instance_index":3}`, got[2])
	assert.Equal(t, "err\n", r.stderr.String())
}

func TestLauncherScripts(t *testing.T) {
	t.Parallel()
	r := newRun(t, map[string]string{
		"profile.d/a.sh":     "export ORDER=1\nset -- spoiled\n",
		"profile.d/b b.sh":   "export ORDER=$ORDER.2\ndewpoint=x\n",
		"profile.d/sub/c.sh": "export ORDER=never\n",
		"app/.profile.d/a":   "export ORDER=$ORDER.3\nfalse\n",
		"app/.profile":       "export ORDER=$ORDER.4\n",
	})
	require.Equal(t, 0, r.role("launcher", "echo $ORDER", ""))
	assert.Equal(t, lines+"1.2.3.4\n", r.stdout.String())
	assert.Empty(t, r.stderr.String())

	r.stdout.Reset()
	require.Equal(t, 0, r.role("shell", "echo", "$ORDER"))
	assert.Equal(t, "1.2.3\n", r.stdout.String(), "a person's shell leaves .profile out")
}

// What the app finds must not depend on bash being there.
func TestLauncherWithoutBash(t *testing.T) {
	t.Parallel()
	r := newRun(t, map[string]string{"app/.profile": "export A=it\\'s\n", "bin/x": ""})
	sh, err := exec.LookPath("sh")
	require.NoError(t, err)
	require.NoError(t, os.Symlink(sh, filepath.Join(r.dir, "bin", "sh")))
	r.env = []string{"PATH=" + filepath.Join(r.dir, "bin")}
	require.Equal(t, 6, r.role("launcher", `echo "$A"; exit 6`, ""))
	assert.Equal(t, lines+"it's\n", r.stdout.String())
}

func TestLauncherFindsPrograms(t *testing.T) {
	t.Parallel()
	script := "#!/bin/sh\necho ran \"$@\"; exit 42\n"
	r := newRun(t, map[string]string{"app/prog": script, "app/sub dir/prog": script, "bin/on-path": script})
	r.env = append(r.env, "PATH="+filepath.Join(r.dir, "bin")+":"+os.Getenv("PATH"))
	for _, command := range []string{"./prog a", "on-path a", `"./sub dir/prog" a`} {
		r.stdout.Reset()
		assert.Equal(t, 42, r.role("launcher", command, ""), command)
		assert.Equal(t, lines+"ran a\n", r.stdout.String())
	}
}

func TestLauncherStagingInfo(t *testing.T) {
	t.Parallel()
	r := newRun(t, map[string]string{"staging_info.yml": `{"detected_buildpack":"x","start_command":"echo detected"}`})
	require.Equal(t, 0, r.role("launcher", "", ""))
	require.Equal(t, 0, r.role("launcher", "echo given", ""))
	require.Equal(t, 0, r.role("launcher"))
	assert.Equal(t, lines+"detected\n"+lines+"given\n"+lines+"detected\n", r.stdout.String())

	for name, files := range map[string]map[string]string{
		"empty":  {"staging_info.yml": `{"detected_buildpack":"x","start_command":""}`},
		"absent": nil,
	} {
		r := newRun(t, files)
		assert.Equal(t, 1, r.role("launcher", "", ""), name)
		assert.Contains(t, r.stderr.String(), "no start command specified or detected in droplet")
		assert.Empty(t, r.stdout.String())
	}
	r = newRun(t, map[string]string{"staging_info.yml": "\t{"})
	assert.Equal(t, 1, r.role("launcher", "", ""))
	assert.Contains(t, r.stderr.String(), "staging_info.yml")
}

func TestLauncherEntrypointPrefix(t *testing.T) {
	t.Parallel()
	info := func(prefix string) map[string]string {
		return map[string]string{
			"staging_info.yml": `{"start_command":"the 'start' command","config":{"entrypoint_prefix":"` + prefix + `"}}`,
			"bin/wrap":         "#!/bin/sh\necho \"$# $1\"\n",
		}
	}
	r := newRun(t, info("wrap"))
	r.env = append(r.env, "PATH="+filepath.Join(r.dir, "bin")+":"+os.Getenv("PATH"))
	require.Equal(t, 0, r.role("launcher", "", ""))
	require.Equal(t, 0, r.role("launcher", "given", ""))
	assert.Equal(t, lines+"1 the 'start' command\n"+lines+"1 given\n", r.stdout.String())
	r = newRun(t, info("no-such-wrap"))
	assert.Equal(t, 127, r.role("launcher", "", ""))
	assert.Contains(t, r.stderr.String(), "exec: no-such-wrap: not found")
}

func credHub(t *testing.T, status int) (url string) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body map[string]any
		if r.URL.Path != "/api/v1/interpolate" || r.Method != http.MethodPost || json.NewDecoder(r.Body).Decode(&body) != nil {
			w.WriteHeader(http.StatusTeapot)
			return
		}
		w.WriteHeader(status)
		_, _ = w.Write([]byte(`{"db":[{"credentials":{"uri":"postgres://resolved"}}]}`))
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func TestCredHub(t *testing.T) {
	t.Parallel()
	const reference = `VCAP_SERVICES={"db":[{"credentials":{"credhub-ref":"/db"}}]}`
	for name, c := range map[string]struct {
		options string
		code    int
		stdout  string
		stderr  string
	}{
		"resolved":    {`{"credhub-uri":"` + credHub(t, 200) + `"}`, 0, "postgres://resolved\n", ""},
		"refused":     {`{"credhub-uri":"` + credHub(t, 403) + `"}`, 4, "", "unable to interpolate credhub references"},
		"bad options": {`{`, 3, "", "invalid platform options"},
		"no CredHub":  {`{}`, 0, "\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRun(t, nil)
			r.env = append(r.env, reference, "VCAP_PLATFORM_OPTIONS="+c.options)
			assert.Equal(t, c.code, r.role("launcher", "echo $DATABASE_URL", ""))
			assert.Equal(t, c.stdout, strings.TrimPrefix(r.stdout.String(), lines))
			assert.Contains(t, r.stderr.String(), c.stderr)

			s := newStaging(t, nil)
			s.env = append(s.env, reference, "VCAP_PLATFORM_OPTIONS="+c.options)
			s.run(c.code, "always-detects")
			assert.Contains(t, s.stderr.String(), c.stderr)
			if c.code == 0 {
				assert.Equal(t, c.stdout, s.archive("out/droplet")["./app/database-url"])
			}
		})
	}
}
