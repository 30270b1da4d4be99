//go:build unix

package lifecycle_test

import (
	"bytes"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// entered runs the role in a folder.
func entered(t *testing.T, dir string, env []string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	p := program(t)
	cmd := p.Command(t.Context(), "entrypoint", args...)
	var out, errs bytes.Buffer
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = dir, env, &out, &errs
	require.NoError(t, p.Start(cmd))
	_ = cmd.Wait()
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

func TestEntrypointBecomesTheImagesProgram(t *testing.T) {
	t.Parallel()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	bin := filepath.Join(dir, "bin")
	require.NoError(t, os.Mkdir(bin, 0o755))
	write := func(name, text string, mode os.FileMode) {
		require.NoError(t, os.WriteFile(filepath.Join(bin, name), []byte(text), mode))
	}
	write("serve", "#!/bin/sh\nprintf '%s,' \"$@\"; echo \"$PWD $A\"\n", 0o755)
	write("data", "no program", 0o644)
	write("script", "echo no first line\n", 0o755)
	write("lost", "#!/no/such/interpreter\n", 0o755)
	env := []string{"PATH=" + bin + ":/usr/bin:/bin", "A=1 2"}
	for name, row := range map[string]struct {
		args         []string
		code         int
		stdout, says string
	}{
		"entrypoint and cmd, word by word": {[]string{"", "serve", "a b", "$A", ""}, 0, "a b,$A,," + dir + " 1 2\n", ""},
		"a command in its place":           {[]string{`serve "$A"; exit 3`, "never"}, 3, "1 2," + dir + " 1 2\n", ""},
		"a program by its place":           {[]string{"", "./bin/serve"}, 0, "," + dir + " 1 2\n", ""},
		"nothing to run":                   {[]string{""}, 1, "", "No start command found or specified"},
		"nothing at all":                   {nil, 1, "", "usage"},
		"not there":                        {[]string{"", "absent"}, 127, "", "absent is not in the image"},
		"no program":                       {[]string{"", "./bin/data"}, 126, "", "permission denied"},
		"a script without a first line":    {[]string{"", "script"}, 126, "", "no program for this machine"},
		"an interpreter that is not there": {[]string{"", "lost"}, 127, "", "its interpreter or loader"},
	} {
		code, stdout, stderr := entered(t, dir, env, row.args...)
		assert.Equal(t, row.code, code, "%s: %s", name, stderr)
		assert.Equal(t, row.stdout, stdout, name)
		assert.Contains(t, stderr, row.says, name)
	}
}

func TestEntrypointEnvironment(t *testing.T) {
	t.Parallel()
	me, err := user.Current()
	require.NoError(t, err)
	env := []string{"PATH=/usr/bin:/bin", `VCAP_APPLICATION={"name":"app"}`, "PORT=8081", "INSTANCE_GUID=g", "INSTANCE_INDEX=2",
		`VCAP_SERVICES={"db":[{"credentials":{"uri":"mysql://h/d"}}]}`, "VCAP_PLATFORM_OPTIONS="}
	code, stdout, stderr := entered(t, "/", env, "", "env")
	require.Zero(t, code, stderr)
	got := strings.Split(strings.TrimSpace(stdout), "\n")
	for _, want := range []string{"HOME=" + me.HomeDir, "USER=" + me.Username, "PWD=/", "DATABASE_URL=mysql2://h/d",
		`VCAP_APPLICATION={"host":"0.0.0.0","instance_id":"g","instance_index":2,"name":"app","port":8081}`} {
		assert.Contains(t, got, want)
	}
	assert.NotContains(t, stdout, "PLATFORM_OPTIONS")
	_, stdout, _ = entered(t, "/", append(env, "HOME=/srv", "USER=web"), "", "env")
	assert.Contains(t, stdout, "HOME=/srv\n", "the image's own stays")
	assert.Contains(t, stdout, "USER=web\n")
}
