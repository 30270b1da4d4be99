package buildpack_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const module = "github.com/dewpoint-go/dewpoint"

// Who stages in a program of his own links little: no container client, no database, not
// even our own builder.
func TestImportsStayLight(t *testing.T) {
	t.Parallel()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}",
		module+"/staging", module+"/staging/buildpack").Output()
	require.NoError(t, err)
	allowed := []string{
		module + "/blob", module + "/cell", module + "/cell/internal/ports", module + "/internal/handover", module + "/internal/size", module + "/internal/stream", module + "/logs", module + "/staging", module + "/staging/buildpack",
		"github.com/cespare/xxhash/v2", "github.com/google/uuid", "golang.org/x/sync/errgroup", "golang.org/x/sys/unix", "golang.org/x/sys/windows",
	}
	for _, p := range strings.Fields(string(out)) {
		assert.Contains(t, allowed, p)
	}
}

// BenchmarkImport builds an empty program and one that imports staging and staging/buildpack,
// both stripped, and says what the second has more.
func BenchmarkImport(b *testing.B) {
	const light = `package main

import (
	"context"

	"` + module + `/staging"
	"` + module + `/staging/buildpack"
)

func main() {
	r, err := buildpack.New(buildpack.Config{Catalogue: &buildpack.Catalogue{}})
	if err != nil {
		panic(err)
	}
	s, err := staging.New(staging.Config{Runner: r})
	if err != nil {
		panic(err)
	}
	if _, err := s.Stage(context.Background(), staging.Request{}, nil); err != nil {
		panic(err)
	}
}
`
	dir := b.TempDir()
	size := func(name, text string) float64 {
		src, bin := filepath.Join(dir, name+".go"), filepath.Join(dir, name)
		require.NoError(b, os.WriteFile(src, []byte(text), 0o600))
		cmd := exec.CommandContext(b.Context(), "go", "build", "-trimpath", "-ldflags=-s -w", "-o", bin, src)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		out, err := cmd.CombinedOutput()
		require.NoError(b, err, "%s", out)
		fi, err := os.Stat(bin)
		require.NoError(b, err)
		return float64(fi.Size()) / 1e6
	}
	for b.Loop() {
		empty := size("empty", "package main\n\nfunc main() {}\n")
		ours := size("light", light)
		web := size("web", "package main\n\nimport \"net/http\"\n\nfunc main() { _, _ = http.Get(\"\") }\n")
		b.ReportMetric(ours-empty, "MB-added")
		b.ReportMetric(web-empty, "MB-of-net/http")
	}
}
