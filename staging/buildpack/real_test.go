//go:build linux || darwin

package buildpack_test

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/staging"
	"github.com/dewpoint-go/dewpoint/staging/buildpack"
)

// sizes makes lines comparable.
var sizes = regexp.MustCompile(`\(\d+(\.\d+)?[BKM]\)`)

// The lines of a staging are Cloud Foundry's, in its order.
func TestLinesOfAStaging(t *testing.T) {
	t.Parallel()
	y := newYard(t, buildpack.Config{},
		scripts(t, "no", map[string]string{"detect": "exit 1"}),
		scripts(t, "yes", map[string]string{"compile": `echo "-----> Yes"; ls "$2"; echo warn >&2; echo x >"$2/made"`}))
	r := request("s1")
	res, err := y.stage(t.Context(), r, nil)
	require.NoError(t, err)
	lines := []string{
		"Cell c1 creating container for instance s1",
		"Downloading no...", "Downloading yes...", "Downloaded no (N)", "Downloaded yes (N)",
		"Cell c1 successfully created container for instance s1",
		"Downloading app package...", "Downloaded app package (N)",
		"-----> Yes", "warn",
		"Exit status 0",
		"Uploading droplet, build artifacts cache...", "Uploading droplet...", "Uploaded droplet (N)",
		"Uploading build artifacts cache...", "Uploaded build artifacts cache (N)", "Uploading complete",
		"Cell c1 destroying container for instance s1", "Cell c1 successfully destroyed container for instance s1",
	}
	assert.Equal(t, settled(lines), settled(y.lines))
	assert.Equal(t, "yes", res.DetectedBuildpack)
	assert.Equal(t, []staging.Buildpack{{Key: "yes", Name: "yes"}}, res.Buildpacks)
	y.clean(r)

	// The cell has the buildpacks already, and there is a cache.
	r = request("s2")
	r.Cache = &cell.Input{Source: cell.Source("blob:" + res.Cache.Key), SHA256: res.Cache.SHA256}
	_, err = y.stage(t.Context(), r, nil)
	require.NoError(t, err)
	assert.Contains(t, y.lines, "Downloaded yes")
	assert.Contains(t, sizeless(y.lines), "Downloaded build artifacts cache (N)")
	assert.Contains(t, y.lines, "made", "the buildpack sees its cache")

	// One that is damaged is left out, and told of.
	r = request("s3")
	r.Cache = &cell.Input{Source: cell.Source("blob:" + res.Cache.Key), SHA256: strings.Repeat("0", 64)}
	_, err = y.stage(t.Context(), r, nil)
	require.NoError(t, err)
	assert.Contains(t, y.lines, "Downloading build artifacts cache failed")
	assert.NotContains(t, y.lines, "made")
	y.clean(r)
}

func sizeless(lines []string) (out []string) {
	for _, l := range lines {
		out = append(out, sizes.ReplaceAllString(l, "(N)"))
	}
	return out
}

// settled puts those lines that come side by side into one order: two streams of a process, two
// transfers.
func settled(lines []string) []string {
	out := sizeless(lines)
	rank := func(l string) int {
		switch {
		case l == "-----> Yes":
			return 1
		case l == "warn":
			return 2
		case strings.HasPrefix(l, "Uploading droplet..."):
			return 1
		case strings.HasPrefix(l, "Uploaded droplet"):
			return 2
		case strings.HasPrefix(l, "Uploading build"):
			return 3
		case strings.HasPrefix(l, "Uploaded build"):
			return 4
		case l == "Downloaded no (N)":
			return 1
		case l == "Downloaded yes (N)":
			return 2
		}
		return 0
	}
	for i := 1; i < len(out); i++ {
		for k := i; k > 0 && rank(out[k]) > 0 && rank(out[k-1]) > rank(out[k]); k-- {
			out[k], out[k-1] = out[k-1], out[k]
		}
	}
	return out
}

// Whatever a buildpack does, the staging ends with one result or one reason, and nothing of
// it is left.
func TestBuildpacksThatMisbehave(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		files  map[string]string
		want   staging.Reason // "": it goes well
		status int
		text   string
		check  func(*testing.T, *yard, *staging.Error)
	}{
		"binary output": {
			files: map[string]string{"compile": `head -c 100000 /dev/urandom; head -c 100000 /dev/urandom >&2`, "detect": `head -c 9000 /dev/urandom`},
		},
		"one long line": {
			files: map[string]string{"compile": `head -c 1000000 /dev/zero | tr '\000' x`},
			check: func(t *testing.T, y *yard, _ *staging.Error) {
				n := 0
				for _, l := range y.lines {
					n += strings.Count(l, "x") * (len(l) / max(strings.Count(l, "x"), 1) & 1)
					assert.LessOrEqual(t, len(l), 64<<10)
				}
				assert.GreaterOrEqual(t, n, 1_000_000)
			},
		},
		"one endless line":  {files: map[string]string{"compile": `tr '\000' x </dev/zero`}, want: staging.Timeout, text: "exceeded"},
		"never ends":        {files: map[string]string{"compile": `trap '' TERM HUP INT; while :; do sleep 1; done`}, want: staging.Timeout, text: "exceeded"},
		"detect never ends": {files: map[string]string{"detect": `sleep 1000`}, want: staging.Timeout, text: "exceeded"},
		"endless release":   {files: map[string]string{"release": `yes`}, want: staging.Timeout, text: "exceeded"},
		"children that hold the pipes": {
			files: map[string]string{"compile": "sleep 1000 &\n(trap '' TERM HUP; exec sleep 1000) &\n(sleep 1000 </dev/null &) &\nexit 0"},
		},
		"children of a failure": {
			files: map[string]string{"compile": "sleep 1000 &\necho no >&2\nexit 1"}, want: staging.BuildpackCompileFailed, status: 223,
		},
		"exit 1, said on stderr": {
			files: map[string]string{"compile": "i=0; while [ $i -lt 40 ]; do echo line $i >&2; i=$((i+1)); done; echo the reason >&2; exit 1"},
			want:  staging.BuildpackCompileFailed, status: 223, text: "failed to compile the app (exit status 223); its last lines say why",
			check: func(t *testing.T, _ *yard, e *staging.Error) {
				assert.Contains(t, e.Last, "the reason")
				assert.LessOrEqual(t, len(e.Last), 20)
			},
		},
		"nobody detects":     {files: map[string]string{"detect": "exit 1"}, want: staging.NoAppDetected, status: 222},
		"release fails":      {files: map[string]string{"release": "exit 1"}, want: staging.BuildpackReleaseFailed, status: 224},
		"release is no YAML": {files: map[string]string{"release": "echo '{ no'"}, want: staging.BuildpackReleaseFailed, status: 224},
		"kills the builder": {
			files: map[string]string{"compile": "kill -9 $PPID"}, want: staging.StagingError, status: 137,
		},
		"removes the app":   {files: map[string]string{"compile": `rm -rf "$1"`}, want: staging.StagingError, status: 1},
		"closes its output": {files: map[string]string{"compile": "exec >&- 2>&-"}},
		"too much metadata": {
			files: map[string]string{
				"supply":   `{ printf 'output_metadata: {x: '; head -c 60000 /dev/zero | tr '\000' y; echo '}'; } >"$3/$4/config.yml"`,
				"finalize": "",
			},
			want: staging.StagingError, status: 1,
			check: func(t *testing.T, y *yard, _ *staging.Error) {
				assert.Contains(t, strings.Join(y.lines, "\n"), "shorten output_metadata")
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			y := newYard(t, buildpack.Config{}, scripts(t, "bad", c.files))
			r := request("s")
			r.Timeout = time.Minute
			if c.want == staging.Timeout {
				r.Timeout = time.Second
			}
			res, err := y.stage(t.Context(), r, nil)
			if c.want == "" {
				require.NoError(t, err)
				assert.Equal(t, "run-it", res.Command("web"))
				if c.check != nil {
					c.check(t, y, nil)
				}
			} else {
				e := reason(t, err)
				assert.Equal(t, c.want, e.Reason, "%v", e)
				assert.Equal(t, c.status, e.ExitStatus, "%v", e)
				assert.Equal(t, staging.PhaseBuild, e.Phase)
				assert.False(t, e.Retryable, "%v", e)
				assert.Contains(t, e.Error(), c.text)
				if c.check != nil {
					c.check(t, y, e)
				}
			}
			y.clean(r)
		})
	}
}

// Of several buildpacks, the one that fails is named.
func TestSupplyOnARealCell(t *testing.T) {
	t.Parallel()
	y := newYard(t, buildpack.Config{},
		scripts(t, "first", map[string]string{"supply": "echo supplied >\"$3/$4/x\"; echo 'name: First' >\"$3/$4/config.yml\""}),
		scripts(t, "broken", map[string]string{"supply": "echo no network >&2; exit 2"}),
		scripts(t, "last", map[string]string{"supply": "", "finalize": `cat "$3/0/x"`}))
	res, err := y.stage(t.Context(), request("a", "first", "last"), nil)
	require.NoError(t, err)
	assert.Contains(t, y.lines, "supplied")
	assert.Equal(t, []staging.Buildpack{{Key: "first", Name: "First"}, {Key: "last"}}, res.Buildpacks)
	res, err = y.stage(t.Context(), request("b", "first", "broken", "last"), nil)
	e := reason(t, err)
	assert.Equal(t, staging.BuildpackSupplyFailed, e.Reason)
	assert.Equal(t, 225, e.ExitStatus)
	assert.Contains(t, e.Last, "no network")
	assert.Contains(t, e.Error(), "broken")
	assert.Len(t, res.Buildpacks, 2, "what took part is told of a failure")
	_, err = y.stage(t.Context(), request("c", "last", "first"), nil)
	require.NoError(t, err, "first has a compile and no finalize")
	assert.Contains(t, strings.Join(y.lines, "\n"), "not compatible with multi-buildpack apps")
}
