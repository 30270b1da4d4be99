package droplet_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/droplet"
)

func TestStagingInfo(t *testing.T) {
	t.Parallel()
	want := droplet.StagingInfo{DetectedBuildpack: "go", StartCommand: "web", Config: &droplet.LaunchConfig{EntrypointPrefix: "/bin/x"}}
	var b strings.Builder
	require.NoError(t, droplet.WriteStagingInfo(&b, want))
	assert.Equal(t, `{"detected_buildpack":"go","start_command":"web","config":{"entrypoint_prefix":"/bin/x"}}`+"\n", b.String())
	for _, text := range []string{b.String(), "detected_buildpack: go\nstart_command: 'web'\nother: [1]\nconfig:\n  entrypoint_prefix: /bin/x\n"} {
		got, err := droplet.ReadStagingInfo(strings.NewReader(text))
		require.NoError(t, err)
		assert.Equal(t, want, got)
		assert.Equal(t, "/bin/x", got.EntrypointPrefix())
	}
	for _, text := range []string{"", "{}"} {
		got, err := droplet.ReadStagingInfo(strings.NewReader(text))
		require.NoError(t, err)
		assert.Zero(t, got)
	}
	_, err := droplet.ReadStagingInfo(strings.NewReader("[]"))
	assert.Error(t, err)
	_, err = droplet.ReadStagingInfo(strings.NewReader(strings.Repeat(" ", 2<<20)))
	assert.ErrorContains(t, err, "larger than")
}

func TestReadInfo(t *testing.T) {
	t.Parallel()
	for _, plain := range []bool{true, false} {
		var b bytes.Buffer
		_, err := droplet.Write(t.Context(), &b, build(t, tree()), droplet.Options{Plain: plain})
		require.NoError(t, err)
		// It stands at the front: the rest may be missing.
		got, err := droplet.ReadInfo(io.LimitReader(&b, 1<<20))
		require.NoError(t, err)
		assert.Equal(t, droplet.StagingInfo{DetectedBuildpack: "go", StartCommand: "bin/web"}, got)
	}
	var b bytes.Buffer
	_, err := droplet.Write(t.Context(), &b, build(t, []entry{{name: "app/", mode: 0o755}}), droplet.Options{})
	require.NoError(t, err)
	_, err = droplet.ReadInfo(&b)
	assert.ErrorIs(t, err, fs.ErrNotExist)
	_, err = droplet.ReadInfo(strings.NewReader(strings.Repeat("no droplet", 100)))
	require.Error(t, err)
	assert.False(t, errors.Is(err, fs.ErrNotExist))
}
