package blob_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/blob"
)

const crashEnv = "BLOB_CRASH_DIR"

// crashData is what a key holds; the key tells which of several contents it may be.
func crashData(key string, version int) []byte {
	return bytes.Repeat(fmt.Appendf(nil, "%s version %d ", key, version), 2000)
}

// writeForEver puts blobs, old keys and new ones, and tells of each when Put has returned.
func writeForEver(t *testing.T, dir string) {
	d, err := blob.OpenDir(dir, blob.DirConfig{})
	require.NoError(t, err)
	var wg sync.WaitGroup
	var mu sync.Mutex
	for w := range 4 {
		wg.Go(func() {
			for i := 0; ; i++ {
				key := fmt.Sprintf("w%d/%d", w, i%7)
				if _, err := d.Put(t.Context(), key, bytes.NewReader(crashData(key, i))); err != nil {
					return
				}
				mu.Lock()
				fmt.Printf("acked %s %d\n", key, i)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
}

// What was acknowledged before a process was killed is there, whole, and nothing half-written
// is: not even as a leftover, once the directory was opened again.
func TestDirSurvivesKill(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("kills processes as Unix does")
	}
	if dir := os.Getenv(crashEnv); dir != "" {
		writeForEver(t, dir)
		return
	}
	rounds := 20
	if testing.Short() {
		rounds = 3
	}
	dir := t.TempDir()
	for range rounds {
		acked := map[string]int{}
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestDirSurvivesKill$")
		cmd.Env = append(os.Environ(), crashEnv+"="+dir)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		enough := 1 + rand.IntN(60)
		sc := bufio.NewScanner(out)
		for n := 0; sc.Scan(); {
			var key string
			var version int
			if k, err := fmt.Sscanf(sc.Text(), "acked %s %d", &key, &version); k != 2 || err != nil {
				continue
			}
			acked[key] = version
			if n++; n == enough {
				require.NoError(t, cmd.Process.Kill()) // and what is still in the pipe counts, too
			}
		}
		_ = cmd.Wait()
		require.GreaterOrEqual(t, len(acked), 1)

		d, err := blob.OpenDir(dir, blob.DirConfig{})
		require.NoError(t, err)
		seen := 0
		for info, err := range d.List(t.Context(), "") {
			require.NoError(t, err)
			seen++
			version, told := acked[info.Key]
			got := readAll(t, d, info.Key)
			// A Put that was under way may be done or not; an older one is not in its place.
			var now int
			_, err = fmt.Sscanf(strings.TrimPrefix(string(got), info.Key+" version "), "%d", &now)
			require.NoError(t, err)
			assert.Equal(t, sum(crashData(info.Key, now)), sum(got), "%s is not whole", info.Key)
			if told {
				assert.GreaterOrEqual(t, now, version, "%s was acknowledged", info.Key)
				delete(acked, info.Key)
			}
		}
		assert.Empty(t, acked, "acknowledged and gone")
		assert.Len(t, files(t, dir), seen+1, "besides the lock there is nothing but blobs")
		for i := range 4 { // each round begins with version 0
			for j := range 7 {
				require.NoError(t, d.Delete(t.Context(), fmt.Sprintf("w%d/%d", i, j)))
			}
		}
		require.NoError(t, d.Close())
	}
}

func readAll(t *testing.T, s blob.Store, key string) []byte {
	t.Helper()
	r, err := s.Get(t.Context(), key)
	require.NoError(t, err)
	defer r.Close()
	b, err := io.ReadAll(r)
	require.NoError(t, err)
	return b
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:8])
}
