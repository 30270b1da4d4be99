package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/droplet/oci"
)

func TestAFolderBecomesAnImage(t *testing.T) {
	needsUnix(t)
	app := tree(t, map[string]string{"hello": "hello\n"})
	bp := tree(t, map[string]string{"bin/detect": "#!/bin/sh\n", "bin/compile": "#!/bin/sh\n", "bin/release": release})
	stack := tree(t, map[string]string{"etc/os-release": "x"})
	launcher := filepath.Join(t.TempDir(), "launcher") // that it starts apps is shown in droplet/oci
	require.NoError(t, os.WriteFile(launcher, []byte("x"), 0o755))
	droplet := filepath.Join(t.TempDir(), "droplet.tgz")
	for _, keep := range [][]string{{"-o", droplet}, nil} {
		to := "oci:" + t.TempDir()
		status, stdout, stderr := cistage(t, append(keep, "-json", "-buildpack", bp, "-image", to, "-rootfs", "dir:"+stack, "-launcher", launcher, app)...)
		require.Zero(t, status, stderr)
		var got printed
		require.NoError(t, json.Unmarshal([]byte(stdout), &got))
		require.NotNil(t, got.Image)
		assert.Equal(t, to+"@"+got.Image.Digest, got.Image.Ref)
		c, err := oci.New(oci.Config{})
		require.NoError(t, err)
		f, err := os.Create(filepath.Join(t.TempDir(), "back.tgz"))
		require.NoError(t, err)
		d, err := c.Import(t.Context(), got.Image.Ref, f)
		require.NoError(t, err)
		require.NoError(t, f.Close())
		assert.True(t, d.Identical)
		assert.Equal(t, "hello\n", inDroplet(t, f.Name())["./app/hello"])
		if keep == nil {
			assert.Nil(t, got.Droplet, "nobody has it")
			continue
		}
		want, err := os.ReadFile(droplet)
		require.NoError(t, err)
		back, err := os.ReadFile(f.Name())
		require.NoError(t, err)
		assert.True(t, bytes.Equal(want, back))
	}
	for _, wrong := range [][]string{{"-image", "oci:x"}, {"-rootfs", "dir:" + stack, "-o", droplet}, {"-image", "oci:x", "-rootfs", "dir:x", "-launcher", "/none"}} {
		status, _, stderr := cistage(t, append(wrong, app)...)
		assert.Equal(t, 2, status, stderr)
	}
	status, _, stderr := cistage(t, "-buildpack", bp, "-image", "dir:x", "-rootfs", "dir:"+stack, "-launcher", launcher, app)
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "cannot be written there")
}
