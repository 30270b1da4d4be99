package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestOwnPartsServeTheSite(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	require.NoError(t, run(t.Context(), &out))
	require.Equal(t, "site.localhost answers 200: <h1>made by a runner of our own</h1>\n"+`{"buildpack":"site","stored":true}`+"\n", out.String())
}
