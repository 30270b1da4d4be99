package main

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestAtMostTheRequestsInFlightAreLost(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	sum, err := run(t.Context(), config{instances: 6, clients: 8, lostAfter: 500 * time.Millisecond}, &out)
	require.NoError(t, err)
	assert.LessOrEqual(t, sum.failed, sum.inFlight, out.String())
	assert.GreaterOrEqual(t, sum.answered+sum.failed, 1000)
	assert.Contains(t, out.String(), "6 instances run: 2 on cell-a, 2 on cell-b, 2 on cell-c\n")
	assert.Contains(t, out.String(), ": 3 on cell-a, 3 on cell-c\n")
}

func TestBadFlags(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"-nope":               "-h lists the flags",
		"more":                `unexpected argument "more"`,
		"-instances=2":        "-instances: 2; use 3, one for each cell, to 100",
		"-instances=101":      "-instances: 101",
		"-clients=0":          "-clients: 0; use 1 to 1000",
		"-lost-after=-1s":     "-lost-after: -1s; use 500ms to 1m",
		"-lost-after=forever": "-h lists the flags",
	} {
		_, err := parse([]string{args})
		require.ErrorContains(t, err, want, args)
	}
	c, err := parse(nil)
	require.NoError(t, err)
	assert.Equal(t, 6, c.instances)
}
