package image_test

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/logs"
	"github.com/dewpoint-go/dewpoint/staging"
	"github.com/dewpoint-go/dewpoint/staging/image"
)

func TestMemory(t *testing.T) {
	t.Parallel()
	var m image.Memory
	m.Put(staging.Image{Ref: "nginx", Cmd: []string{"nginx"}, Ports: []int{80}}, "", "")
	m.Put(staging.Image{Ref: "h:5000/app:v1", Digest: "sha256:aa"}, "u", "p")
	var said []string
	out := func(l logs.Line) { said = append(said, l.Text) }

	i, err := m.Fetch(t.Context(), staging.ImageRequest{Ref: "nginx:latest", Out: out})
	require.NoError(t, err)
	assert.Equal(t, []int{80}, i.Ports)
	assert.Equal(t, "nginx:latest@"+i.Digest, i.Ref)
	assert.Len(t, said, 1)
	i.Ports[0] = 1
	again, err := m.Fetch(t.Context(), staging.ImageRequest{Ref: i.Ref})
	require.NoError(t, err, "what Fetch resolved to can be fetched")
	assert.Equal(t, []int{80}, again.Ports, "an Image is the caller's own")

	_, err = m.Fetch(t.Context(), staging.ImageRequest{Ref: "h:5000/app:v1", Username: "u", Password: "p"})
	require.NoError(t, err)
	for _, bad := range []staging.ImageRequest{
		{Ref: ""}, {Ref: "a b"}, {Ref: "none"}, {Ref: "nginx:1"}, {Ref: "nginx@sha256:00"}, {Ref: "h:5000/app"},
		{Ref: "h:5000/app:v1"}, {Ref: "h:5000/app:v1", Username: "u", Password: "secret"},
	} {
		_, err := m.Fetch(t.Context(), bad)
		e, ok := errors.AsType[*staging.Error](err)
		require.True(t, ok, "%v", bad.Ref)
		assert.Equal(t, staging.ImageInvalid, e.Reason)
		assert.NotContains(t, e.Error(), "secret")
	}
	broken := errors.New("broken")
	f := image.Memory{Fail: func(staging.ImageRequest) error { return broken }}
	_, err = f.Fetch(t.Context(), staging.ImageRequest{Ref: "x"})
	require.ErrorIs(t, err, broken)
}
