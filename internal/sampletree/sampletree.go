// Package sampletree makes the apps that benchmarks work on: trees of many files that are
// like real ones in size and in how well they compress, the same ones for the same seed.
package sampletree

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
)

// Make writes files of size bytes in all below dir. Seven in ten are small (up to 16 KiB),
// two middling (up to 128 KiB), one is large (up to some MiB), as in the folders of
// dependencies that make up most apps. One in five holds random bytes, as jars and pictures
// do; the others hold program text out of the Go distribution.
func Make(dir string, seed uint64, files int, size int64) error {
	text, err := corpus()
	if err != nil {
		return err
	}
	r := rand.New(rand.NewPCG(seed, 7))
	weights, sum := make([]float64, files), 0.0
	for i := range weights {
		switch n := r.IntN(100); {
		case n < 70:
			weights[i] = 200 + r.Float64()*16e3
		case n < 90:
			weights[i] = 16e3 + r.Float64()*112e3
		case n < 99:
			weights[i] = 128e3 + r.Float64()*400e3
		default:
			weights[i] = 500e3 + r.Float64()*4e6
		}
		sum += weights[i]
	}
	for i, w := range weights {
		data := make([]byte, int(w/sum*float64(size)))
		fill(r, data, text, i%5 == 0)
		folder := filepath.Join(dir, fmt.Sprintf("d%d", i%97), fmt.Sprintf("e%d", i%7))
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(folder, fmt.Sprintf("f%d", i)), data, 0o644); err != nil { //nolint:gosec // an app's files are read by others
			return err
		}
	}
	return nil
}

func fill(r *rand.Rand, data, text []byte, random bool) {
	if random {
		for i := range data {
			data[i] = byte(r.Uint32())
		}
		return
	}
	for i := 0; i < len(data); {
		from := r.IntN(len(text) - 1)
		i += copy(data[i:], text[from:min(len(text), from+40_000)])
	}
}

// corpus returns program text: sources of the Go distribution, in the order of their names.
func corpus() ([]byte, error) {
	const enough = 48 << 20
	var all []byte
	root := filepath.Join(runtime.GOROOT(), "src") //nolint:staticcheck // where "go test" runs, it is right
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || filepath.Ext(p) != ".go" {
			return err
		}
		if len(all) > enough {
			return fs.SkipAll
		}
		data, err := os.ReadFile(p)
		all = append(all, data...)
		return err
	})
	if err == nil && len(all) < 1<<20 {
		err = errors.New("there is little in it")
	}
	if err != nil {
		return nil, fmt.Errorf("make sample tree: no sources of Go in %s: %w", root, err)
	}
	return all, nil
}
