//go:build unix

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/cell/sandbox"
	"github.com/dewpoint-go/dewpoint/internal/needs"
)

// What is built once for all tests: the program itself, and the app that it pushes.
var (
	binDir     string
	quickstart = sync.OnceValues(func() (string, error) { return build("quickstart", ".") })
	hello      = sync.OnceValues(func() (string, error) { return build("hello", filepath.Join("..", "apps", "hello-go")) })
)

// builtIn names a folder with what is built already, for tests that are run again as another user.
const builtIn = "QUICKSTART_TEST_BIN"

func TestMain(m *testing.M) {
	if binDir = os.Getenv(builtIn); binDir != "" {
		os.Exit(m.Run())
	}
	var err error
	if binDir, err = os.MkdirTemp("", "quickstart-test-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(binDir)
	os.Exit(code)
}

func build(name, dir string) (string, error) {
	exe := filepath.Join(binDir, name)
	if _, err := os.Stat(exe); err == nil {
		return exe, nil
	}
	cmd := exec.Command("go", "build", "-o", exe, ".")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOFLAGS=", "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", name, err, out)
	}
	return exe, nil
}

// app makes a folder with the app, and further files.
func app(t *testing.T, extra ...string) string {
	t.Helper()
	exe, err := hello()
	require.NoError(t, err)
	dir := filepath.Join(t.TempDir(), "hello")
	require.NoError(t, os.Mkdir(dir, 0o755))
	data, err := os.ReadFile(exe)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "hello"), data, 0o755))
	for _, name := range extra {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), nil, 0o644))
	}
	return dir
}

// session is one run of the program.
type session struct {
	t    *testing.T
	cmd  *exec.Cmd
	pipe io.Closer
	out  *bufio.Reader
	read strings.Builder // what was read of out
	errs bytes.Buffer
}

func begin(t *testing.T, args ...string) *session {
	t.Helper()
	return beginWith(t, nil, args...)
}

func beginWith(t *testing.T, stdin io.Reader, args ...string) *session {
	t.Helper()
	exe, err := quickstart()
	require.NoError(t, err)
	s := &session{t: t, cmd: exec.Command(exe, args...)}
	s.cmd.Stdin = stdin
	out, err := s.cmd.StdoutPipe()
	require.NoError(t, err)
	s.pipe, s.out = out, bufio.NewReader(out)
	s.cmd.Stderr = &s.errs
	require.NoError(t, s.cmd.Start())
	t.Cleanup(func() { _ = s.cmd.Process.Kill() })
	return s
}

// until reads lines up to one that has text, and returns that.
func (s *session) until(text string) string {
	s.t.Helper()
	for {
		line, err := s.out.ReadString('\n')
		s.read.WriteString(line)
		if strings.Contains(line, text) {
			return line
		}
		require.NoError(s.t, err, "waiting for %q in:\n%s%s", text, s.read.String(), &s.errs)
	}
}

// end waits for the program and returns its status and output.
func (s *session) end() (status int, stdout, stderr string) {
	s.t.Helper()
	rest, err := io.ReadAll(s.out)
	require.NoError(s.t, err)
	s.read.Write(rest)
	_ = s.cmd.Wait() // its status is what counts
	return s.cmd.ProcessState.ExitCode(), s.read.String(), s.errs.String()
}

func pushed(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	return begin(t, args...).end()
}

// flags are those of a push of dir with the tests' buildpack.
func flags(data, dir string, more ...string) []string {
	return append([]string{"-data", data, "-app", dir, "-buildpack", "testdata/buildpack", "-memory", "64M"}, more...)
}

// nothingLeft holds that no process of the cell and no instance's folder is left.
func nothingLeft(t *testing.T, data string) {
	t.Helper()
	for _, dir := range []string{"cell/containers", "cell/making", "cell/trash", "blobs/tmp", "cell-containerd/containers", "cell-containerd/trash"} {
		left, err := os.ReadDir(filepath.Join(data, filepath.FromSlash(dir)))
		if !os.IsNotExist(err) {
			require.NoError(t, err)
		}
		assert.Empty(t, left, dir)
	}
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	for _, name := range all {
		if line, err := os.ReadFile(name); err == nil && bytes.Contains(line, []byte(data)) {
			t.Errorf("%s is still there: %q", name, line)
		}
	}
}

// kinds runs f with each kind of cell and what the program says of its isolation.
func kinds(t *testing.T, f func(t *testing.T, kind, isolation string)) {
	t.Parallel()
	for kind, isolation := range map[string]string{"process": "isolation none", "sandbox": "isolation namespaces", "containerd": "isolation containerd"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			if kind == "containerd" {
				for _, tool := range []string{"containerd", "containerd-shim-runc-v2", "runc"} {
					needs.Tool(t, tool)
				}
				if os.Geteuid() != 0 {
					needs.Missing(t, "this is not root")
				}
			}
			if kind == "sandbox" {
				exe, err := quickstart()
				require.NoError(t, err)
				r, err := sandbox.New(t.Context(), sandbox.Config{Dir: t.TempDir(), Source: exe, AtLeast: sandbox.Namespaces})
				if errors.Is(err, errors.ErrUnsupported) {
					needs.Missing(t, err.Error())
				}
				require.NoError(t, err)
				require.NoError(t, r.Close())
			}
			f(t, kind, isolation)
		})
	}
}

func TestASecondPushSparesWhatIsThere(t *testing.T) { kinds(t, testASecondPush) }

func testASecondPush(t *testing.T, kind, isolation string) {
	data, dir := filepath.Join(t.TempDir(), "data of é"), app(t)
	status, stdout, stderr := pushed(t, flags(data, dir, "-once", "-env", "GREETING=dew", "-instances", "2", "-cell", kind)...)
	require.Equal(t, 0, status, "%s%s", stdout, stderr)
	at := 0
	for _, step := range []string{isolation, "== Record", "== Resource match", "== Upload", "== Package", "== Staging", "Cell cell-0 runs task", "-----> Compiling",
		"== Droplet and cache", "== Schedule", "== Start", "2 of 2 instances", "web: 2 of 2 instances run", "took", "200 OK", "Hello from hello, instance"} {
		i := strings.Index(stdout[at:], step)
		require.GreaterOrEqual(t, i, 0, "%q is not where it belongs:\n%s", step, stdout)
		at += i
	}
	assert.NotContains(t, stdout, "found the cache")
	nothingLeft(t, data)

	require.NoError(t, os.WriteFile(filepath.Join(dir, "new"), bytes.Repeat([]byte("new"), 100_000), 0o644))
	status, stdout, stderr = pushed(t, flags(data, dir, "-once", "-cell", kind)...)
	require.Equal(t, 0, status, "%s%s", stdout, stderr)
	assert.Contains(t, stdout, "1 of 2 files")
	assert.Contains(t, stdout, "found the cache")
	nothingLeft(t, data)
}

func TestAKilledProgramsAppRunsOnUntilTheNextStart(t *testing.T) { kinds(t, testAKilledProgram) }

func testAKilledProgram(t *testing.T, kind, _ string) {
	data, dir := t.TempDir(), app(t)
	s := begin(t, flags(data, dir, "-cell", kind)...)
	s.until("Serving")
	if !strings.Contains(s.read.String(), "listens on") {
		s.until("listens on")
	}
	port := regexp.MustCompile(`listens on :(\d+)`).FindStringSubmatch(s.read.String())
	require.NotNil(t, port, s.read.String())
	require.NoError(t, s.cmd.Process.Kill())
	s.end()
	addr, again := net.JoinHostPort("127.0.0.1", port[1]), flags(data, dir, "-once")
	if kind == "containerd" { // it has a folder and addresses of its own
		status, stdout, stderr := pushed(t, append(again, "-cell", kind)...)
		require.Equal(t, 0, status, "%s%s", stdout, stderr)
		assert.Contains(t, stdout, "An earlier run left hello running; it is ended now.")
		nothingLeft(t, data)
		return
	}
	at := cell.Address{Host: addr}
	if strings.Contains(s.read.String(), "of their own and a network") {
		sockets, err := filepath.Glob(filepath.Join(data, "cell", "containers", "*", "state-*", ".keeper", "socket"))
		require.NoError(t, err)
		require.Len(t, sockets, 1)
		at.Socket = sockets[0]
		at.Port, err = strconv.Atoi(port[1])
		require.NoError(t, err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return at.Dial(ctx) }}}
	resp, err := client.Get("http://" + addr + "/")
	require.NoError(t, err, "the app runs on without the program")
	require.NoError(t, resp.Body.Close())
	assert.Equal(t, 200, resp.StatusCode)

	status, stdout, stderr := pushed(t, again...)
	require.Equal(t, 0, status, "%s%s", stdout, stderr)
	assert.Contains(t, stdout, "An earlier run left hello running; it is ended now.")
	_, err = at.Dial(t.Context())
	require.Error(t, err, "the old instance is gone")
	nothingLeft(t, data)
}

func TestCtrlC(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		file, at string
		status   int
	}{
		"before anything":       {"", "Pushing", 130},
		"while it is matched":   {"", "== Resource match", 130},
		"while it is staged":    {"slow", "slowly", 130},
		"while it starts":       {"", "== Start", 130},
		"while it serves":       {"", "Serving", 0},
		"while nothing is sure": {"", "== Droplet and cache", 130},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			data, dir := t.TempDir(), app(t)
			if c.file != "" {
				require.NoError(t, os.WriteFile(filepath.Join(dir, c.file), nil, 0o644))
			}
			s := begin(t, flags(data, dir)...)
			s.until(c.at)
			require.NoError(t, s.cmd.Process.Signal(syscall.SIGINT))
			_ = s.cmd.Process.Signal(syscall.SIGTERM) // as timeout does; it may have ended
			status, stdout, stderr := s.end()
			assert.Equal(t, c.status, status, "%s%s", stdout, stderr)
			assert.NotContains(t, stderr, "context canceled", "nobody is told what he did himself in our words")
			nothingLeft(t, data)

			if c.file != "" {
				require.NoError(t, os.Remove(filepath.Join(dir, c.file)))
			}
			status, stdout, stderr = pushed(t, flags(data, dir, "-once")...)
			assert.Equal(t, 0, status, "the next push works: %s%s", stdout, stderr)
		})
	}
}

// The example apps are detected, built with this machine's own tools, and answer. hello-go,
// which compiles net/http, is what CI runs as the main job.
func TestTheExampleAppsRun(t *testing.T) {
	kinds(t, func(t *testing.T, kind, isolation string) {
		for app, tool := range map[string]string{"hello-java": "javac", "hello-python": "python3", "hello-node": "node", "hello-static": "python3"} {
			t.Run(app, func(t *testing.T) {
				t.Parallel()
				needs.Tool(t, tool)
				data := t.TempDir()
				status, stdout, stderr := pushed(t, "-data", data, "-app", "../apps/"+app, "-buildpacks", "../buildpacks", "-cell", kind, "-once")
				require.Equal(t, 0, status, "%s%s", stdout, stderr)
				assert.Contains(t, strings.ToLower(stdout), "buildpack "+strings.TrimPrefix(app, "hello-"))
				assert.Contains(t, stdout, isolation)
				assert.Contains(t, stdout, "200 OK")
				nothingLeft(t, data)
			})
		}
	})
}

// A shell is where the app is, and sees what it sees.
func TestAShellBesideTheApp(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("there is none here")
	}
	kinds(t, func(t *testing.T, kind, _ string) {
		typed := "echo instance $CF_INSTANCE_INDEX of $GREETING in $(basename $PWD); ls hello; echo and >&2; exit 3\n"
		data := t.TempDir()
		status, stdout, stderr := beginWith(t, strings.NewReader(typed), flags(data, app(t), "-env", "GREETING=dew", "-cell", kind, "-shell")...).end()
		require.Zero(t, status, "%s%s", stdout, stderr)
		assert.Contains(t, stdout, "instance 0 of dew in app\nhello\n")
		assert.Contains(t, stderr, "and\n")
		assert.Contains(t, stdout, "The shell ended with status 3")
		nothingLeft(t, data)
	})
}

// A terminal that is closed, or output that nobody reads: everything ends.
func TestNobodyIsThereAnyMore(t *testing.T) {
	t.Parallel()
	for name, leave := range map[string]func(*session) error{
		"hang-up":     func(s *session) error { return s.cmd.Process.Signal(syscall.SIGHUP) },
		"broken pipe": func(s *session) error { return s.pipe.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			data, dir := t.TempDir(), app(t)
			s := begin(t, flags(data, dir, "-instances", "3")...)
			s.until("== Schedule")
			require.NoError(t, leave(s))
			_ = s.cmd.Wait() // the status says how it was interrupted
			assert.Equal(t, exitInterrupted, s.cmd.ProcessState.ExitCode(), &s.errs)
			nothingLeft(t, data)
		})
	}
}

func TestBadInput(t *testing.T) {
	t.Parallel()
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { busy.Close() })
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, []byte("text"), 0o644))
	hostsFile := filepath.Join(t.TempDir(), "hosts")
	require.NoError(t, os.WriteFile(hostsFile, []byte("text"), 0o644))
	large := filepath.Join(t.TempDir(), "large")
	require.NoError(t, os.WriteFile(large, nil, 0o644))
	require.NoError(t, os.Truncate(large, 2<<30)) // no disk is needed for it
	for name, c := range map[string]struct {
		args   []string
		status int
		want   string
	}{
		"unknown flag":       {[]string{"-nonsense"}, exitUsage, "-nonsense"},
		"argument":           {[]string{"here"}, exitUsage, "-app"},
		"no buildpack":       {[]string{"-app", app(t)}, exitUsage, "-buildpack"},
		"memory":             {flags("", app(t), "-memory", "lots"), exitUsage, "512M"},
		"no instances":       {flags("", app(t), "-instances", "0"), exitUsage, "-instances"},
		"env":                {flags("", app(t), "-env", "x"), exitUsage, "NAME=VALUE"},
		"listen":             {flags("", app(t), "-listen", busy.Addr().String()), exitUsage, "-listen"},
		"data is a file":     {flags(filepath.Join(file, "data"), app(t)), exitUsage, "-data"},
		"app is missing":     {flags("", filepath.Join(file, "none")), exitUsage, "none"},
		"app is a text":      {flags("", file), exitUsage, "zip"},
		"app is empty":       {flags("", t.TempDir()), exitUsage, "no files to push"},
		"data in the app":    {[]string{"-data", "testdata/none", "-app", "testdata", "-buildpack", "x"}, exitUsage, "-data"},
		"not detected":       {[]string{"-app", filepath.Dir(hostsFile), "-buildpacks", "testdata"}, exitStaging, "NoAppDetected"},
		"name":               {flags("", app(t), "-name", "a b"), exitUsage, `"a b"`},
		"no command":         {[]string{"-app", app(t), "-buildpack", "testdata/silent"}, exitFailed, "-command"},
		"app is too large":   {flags("", filepath.Dir(large)), exitUsage, "Package may not be larger than 1073741824 bytes"},
		"buildpack missing":  {[]string{"-app", app(t), "-buildpack", "testdata/none"}, exitStaging, "testdata/none"},
		"compile fails":      {flags("", app(t, "fail")), exitStaging, "the compiler is not pleased"},
		"it falls":           {flags("", app(t), "-command", "echo last words; exit 9"), exitUnhealthy, "last words"},
		"command is unknown": {flags("", app(t), "-command", "./nothing"), exitUnhealthy, "nothing"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			data := t.TempDir()
			args := append([]string{}, c.args...)
			for i, a := range args {
				if a == "-data" && args[i+1] == "" {
					args[i+1] = data
				}
			}
			if len(args) > 1 && args[0] != "-data" {
				args = append([]string{"-data", data}, args...)
			}
			status, stdout, stderr := pushed(t, args...)
			assert.Equal(t, c.status, status, "%s%s", stdout, stderr)
			assert.Contains(t, stdout+stderr, c.want)
			assert.NotContains(t, stderr, "panic")
			nothingLeft(t, data)
		})
	}
}

// Who deletes the state under the running program is told so, and nothing runs on.
func TestTheStateIsDeletedMeanwhile(t *testing.T) {
	t.Parallel()
	data, dir := t.TempDir(), app(t)
	s := begin(t, flags(data, dir)...)
	s.until("Serving")
	require.NoError(t, os.Remove(filepath.Join(data, "state.db")))
	status, stdout, stderr := s.end()
	assert.Equal(t, 1, status, "%s%s", stdout, stderr)
	assert.Contains(t, stderr, "state.db is lost while it is in use: it was deleted")
	status, stdout, stderr = pushed(t, flags(data, dir, "-once")...)
	require.Equal(t, 0, status, "%s%s", stdout, stderr)
	nothingLeft(t, data)
}
