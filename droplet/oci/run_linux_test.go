package oci_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/droplet/oci"
	"github.com/dewpoint-go/dewpoint/internal/needs"
	"github.com/dewpoint-go/dewpoint/internal/tarfs"
)

// TestAnImageRunsAsItsConfigurationSays does what any container engine does with it: a root
// filesystem, then user, folder, environment, entrypoint and command.
func TestAnImageRunsAsItsConfigurationSays(t *testing.T) {
	if os.Getuid() != 0 {
		needs.Missing(t, "only root can change its root directory")
	}
	c := client(t)
	tree := files(t, map[string]string{
		"profile.d/a.sh": "export FROM_PROFILE=sourced\n", "staging_info.yml": `{"start_command":"./app detected"}`, "app/": "", "tmp/": "",
	})
	program, err := os.ReadFile(filepath.Join(programs, "app"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(tree, "app", "app"), program, 0o755))
	file, _ := pack(t, tree)
	stack := "dir:" + shellStack(t)
	for start, arg := range map[string]string{"": "detected", "exec ./app given": "given"} {
		dir := t.TempDir()
		img, err := c.Export(t.Context(), oci.ExportRequest{
			Droplet: file, Stack: stack, To: "oci:" + dir, App: oci.App{Start: start, Env: []string{"OF_USER=it's"}},
		})
		require.NoError(t, err)
		runs(t, dir, arg)
		// On a patched stack it runs as well.
		patched := shellStack(t)
		require.NoError(t, os.WriteFile(filepath.Join(patched, "patched"), nil, 0o644))
		dir = t.TempDir()
		_, err = c.Rebase(t.Context(), oci.RebaseRequest{From: img.Ref, Stack: "dir:" + patched, To: "oci:" + dir})
		require.NoError(t, err)
		assert.FileExists(t, filepath.Join(runs(t, dir, arg), "patched"))
	}
}

func runs(t *testing.T, layout, arg string) (root string) {
	t.Helper()
	img := first(t, layout)
	root = t.TempDir()
	require.NoError(t, os.Chmod(root, 0o755))
	r, err := os.OpenRoot(root)
	require.NoError(t, err)
	defer r.Close()
	in := mutate.Extract(img)
	defer in.Close()
	_, err = tarfs.Extract(t.Context(), r, ".", in, tarfs.Limits{Links: tarfs.AnyLinks})
	require.NoError(t, err)

	// As in every container: the launcher asks it for its own name.
	proc := filepath.Join(root, "proc")
	require.NoError(t, os.Mkdir(proc, 0o755))
	if err := syscall.Mount("/proc", proc, "", syscall.MS_BIND, ""); err != nil {
		needs.Missing(t, "this machine lets root mount nothing: "+err.Error())
	}
	defer func() { require.NoError(t, syscall.Unmount(proc, syscall.MNT_DETACH)) }()

	cf, err := img.ConfigFile()
	require.NoError(t, err)
	assert.Equal(t, "2000:2000", cf.Config.User)
	args := append(cf.Config.Entrypoint, cf.Config.Cmd...)
	cmd := &exec.Cmd{Path: args[0], Args: args, Env: cf.Config.Env, Dir: cf.Config.WorkingDir, SysProcAttr: &syscall.SysProcAttr{
		Chroot: root, Credential: &syscall.Credential{Uid: 2000, Gid: 2000},
	}}
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	var got map[string]any
	require.NoError(t, json.Unmarshal([]byte(lines[len(lines)-1]), &got), string(out))
	assert.Equal(t, map[string]any{
		"args": []any{arg}, "dir": "/home/vcap/app", "uid": 2000., "gid": 2000., "home": "/home/vcap/app", "port": "8080",
		"deps": "/home/vcap/deps", "profile": "sourced", "env": "it's",
	}, got)
	return root
}

// shellStack is a root filesystem with this machine's sh and what that loads.
func shellStack(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	sh := needs.Tool(t, "sh")
	out, err := exec.Command(needs.Tool(t, "ldd"), sh).Output()
	all := [][]string{{"", sh}}
	if err == nil { // else it is static
		all = append(all, regexp.MustCompile(`(?m)(/\S+) \(0x`).FindAllStringSubmatch(string(out), -1)...)
	}
	for _, m := range all {
		b, err := os.ReadFile(m[len(m)-1])
		require.NoError(t, err)
		p := filepath.Join(dir, m[len(m)-1])
		require.NoError(t, os.MkdirAll(filepath.Dir(p), 0o755))
		require.NoError(t, os.WriteFile(p, b, 0o755))
	}
	return dir
}
