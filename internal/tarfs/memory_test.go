package tarfs

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// hostileZip is the worst zip that passes: as many entries as are allowed, with names that
// fill the largest directory. Its bytes are made as they are read.
type hostileZip struct{ entries, name int }

func (z hostileZip) local() int64   { return int64(30 + z.name) }
func (z hostileZip) central() int64 { return int64(46 + z.name) }
func (z hostileZip) dir() int64     { return int64(z.entries) * z.local() }
func (z hostileZip) end() int64     { return z.dir() + int64(z.entries)*z.central() }
func (z hostileZip) size() int64    { return z.end() + 56 + 20 + 22 }

func (z hostileZip) header(i int, central bool) []byte {
	name := fmt.Sprintf("%0*d", z.name, i)
	var b []byte
	if central {
		b = make([]byte, 46, 46+z.name)
		le.PutUint32(b, sigCentral)
		le.PutUint16(b[28:], uint16(z.name))
		le.PutUint32(b[42:], uint32(int64(i)*z.local()))
	} else {
		b = make([]byte, 30, 30+z.name)
		le.PutUint32(b, sigLocal)
		le.PutUint16(b[26:], uint16(z.name))
	}
	return append(b, name...)
}

func (z hostileZip) tail() []byte {
	b := make([]byte, 56)
	le.PutUint32(b, sigEnd64)
	le.PutUint64(b[4:], 44)
	le.PutUint64(b[24:], uint64(z.entries))
	le.PutUint64(b[32:], uint64(z.entries))
	le.PutUint64(b[40:], uint64(z.end()-z.dir()))
	le.PutUint64(b[48:], uint64(z.dir()))
	b = binary.LittleEndian.AppendUint32(b, sigLoc64)
	b = append(b, make([]byte, 16)...)
	b = binary.LittleEndian.AppendUint32(b, sigEnd)
	return append(b, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0)
}

func (z hostileZip) ReadAt(p []byte, off int64) (n int, err error) {
	for n < len(p) && off < z.size() {
		var from []byte
		at := off
		switch {
		case off < z.dir():
			from, at = z.header(int(off/z.local()), false), off%z.local()
		case off < z.end():
			at -= z.dir()
			from, at = z.header(int(at/z.central()), true), at%z.central()
		default:
			from, at = z.tail(), at-z.end()
		}
		k := copy(p[n:], from[at:])
		n, off = n+k, off+int64(k)
	}
	if n < len(p) {
		err = io.EOF
	}
	return n, err
}

var worst = hostileZip{entries: DefaultZipEntries, name: MaxNames/DefaultZipEntries - 46}

// memoryCases run in a process of their own each, which then tells its high-water mark.
var memoryCases = map[string]func(t *testing.T, root *os.Root){
	"zip of many long names": func(t *testing.T, _ *os.Root) {
		z, err := OpenZip(worst, worst.size(), Limits{})
		require.NoError(t, err)
		require.Len(t, z.Entries, worst.entries)
	},
	"zip with a larger directory": func(t *testing.T, _ *os.Root) {
		z := worst
		z.name++
		_, err := OpenZip(z, z.size(), Limits{})
		require.ErrorContains(t, err, "its directory is larger than")
	},
	"tar.gz of long folder names": func(t *testing.T, root *os.Root) {
		r, w := io.Pipe()
		defer r.Close()
		go func() {
			zw := gzip.NewWriter(w)
			tw := tar.NewWriter(zw)
			deep := strings.Repeat(strings.Repeat("d", 255)+"/", 15)
			for i := 0; ; i++ {
				if tw.WriteHeader(&tar.Header{Name: fmt.Sprintf("%s%0200d/", deep, i), Typeflag: tar.TypeDir, Mode: 0o755}) != nil {
					return
				}
			}
		}()
		_, err := Extract(t.Context(), root, "", r, Limits{})
		require.ErrorContains(t, err, "the names of folders take more than")
	},
	"tar.gz bomb": func(t *testing.T, root *os.Root) {
		r, w := io.Pipe()
		defer r.Close()
		go func() {
			zw := gzip.NewWriter(w)
			tw := tar.NewWriter(zw)
			_ = tw.WriteHeader(&tar.Header{Name: "a", Typeflag: tar.TypeReg, Size: 1 << 28, Mode: 0o644})
			_, _ = io.Copy(tw, zeros{})
			_, _ = io.Copy(zw, zeros{})
		}()
		_, err := Extract(t.Context(), root, "", r, Limits{Bytes: 1 << 28, Entries: 10})
		require.ErrorContains(t, err, "unpacks to more than its limit")
	},
	"tar of long headers": func(t *testing.T, root *os.Root) {
		_, err := Extract(t.Context(), root, "", &repeat{t: t, long: strings.Repeat("x", 1<<20-1000)}, Limits{})
		require.ErrorContains(t, err, "longer than 4096")
	},
}

// repeat is a tar whose headers carry as much as a header may, and then too long a name.
type repeat struct {
	t    *testing.T
	long string
	n    int
	buf  bytes.Buffer
}

func (r *repeat) Read(p []byte) (int, error) {
	if r.buf.Len() == 0 {
		h := &tar.Header{Name: fmt.Sprint(r.n), Typeflag: tar.TypeReg, PAXRecords: map[string]string{"X.y": r.long}, Mode: 0o644}
		if r.n++; r.n > 200 {
			h.Name, h.PAXRecords = r.long, nil
		}
		tw := tar.NewWriter(&r.buf)
		require.NoError(r.t, tw.WriteHeader(h))
	}
	return r.buf.Read(p)
}

const memoryEnv = "TARFS_MEMORY_CASE"

func TestMemoryIsBounded(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" || testing.Short() {
		t.Skip("asks Linux for the memory of processes")
	}
	if name := os.Getenv(memoryEnv); name != "" {
		root, err := os.OpenRoot(t.TempDir())
		require.NoError(t, err)
		defer root.Close()
		memoryCases[name](t, root)
		status, err := os.ReadFile("/proc/self/status")
		require.NoError(t, err)
		fmt.Println(string(status))
		return
	}
	for name := range memoryCases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestMemoryIsBounded$")
			cmd.Env = append(os.Environ(), memoryEnv+"="+name)
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s", out)
			m := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(out)
			require.NotNil(t, m, "%s", out)
			kb, err := strconv.Atoi(string(m[1]))
			require.NoError(t, err)
			t.Logf("%d MB", kb>>10)
			limit := 200
			if raceEnabled {
				limit *= 4
			}
			assert.Less(t, kb>>10, limit)
		})
	}
}
