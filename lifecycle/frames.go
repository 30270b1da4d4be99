package lifecycle

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"
)

// The output of a process is kept in its init's state folder, in segments "out-00000001",
// "out-00000002", …; the oldest are dropped when all together pass the limit.
//
// A segment begins with 16 bytes: "DWPOUT1\n" and, as all numbers here big-endian, the number
// of output bytes before it. Frames follow, in the order in which the output was read:
//
//	byte 0      1 standard output, 2 standard error, 3 lost
//	bytes 1-3   length of the data, at most 32768
//	bytes 4-11  time of reading, ns since 1970 UTC
//	data        for "lost": 8 bytes, how many bytes could not be kept (disk full)
//
// A frame that is not whole has not been written yet or, after the exit was recorded, never was.
const (
	segmentMagic  = "DWPOUT1\n"
	segmentHeader = 16
	frameHeader   = 12
	maxFrame      = 32 << 10
	minOutput     = 1 << 20
	defaultOutput = 64 << 20
	segments      = 8 // that the limit is divided into

	frameStdout = 1
	frameStderr = 2
	frameLost   = 3
)

func segmentName(seq int) string { return fmt.Sprintf("out-%08d", seq) }

// listSegments returns the numbers of the segments in dir, in order.
func listSegments(dir string) ([]int, error) {
	names, err := filepath.Glob(filepath.Join(dir, "out-*"))
	if err != nil {
		return nil, err
	}
	var seqs []int
	for _, n := range names {
		if seq, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(n), "out-")); err == nil {
			seqs = append(seqs, seq)
		}
	}
	sort.Ints(seqs)
	return seqs, nil
}

// outputWriter writes frames. What it cannot write it counts, so that a full disk never
// stops the process whose output it is.
type outputWriter struct {
	mu    sync.Mutex
	dir   string
	limit int64 // bytes of one segment
	f     *os.File
	seq   int
	size  int64  // of f, whole frames only
	total uint64 // output bytes so far, lost ones included
	lost  uint64 // not yet told
}

func newOutputWriter(dir string, limit int64) *outputWriter {
	if limit <= 0 {
		limit = defaultOutput
	}
	return &outputWriter{dir: dir, limit: max(limit, minOutput) / segments}
}

// write adds a frame. buf holds frameHeader free bytes before the data.
func (w *outputWriter) write(kind byte, now time.Time, buf []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := uint64(len(buf) - frameHeader)
	if !w.tellLost(now) || !w.put(kind, now, buf) {
		w.lost += n
	}
	w.total += n
}

// tellLost writes what is owed of a "lost" frame and tells whether nothing is owed now.
func (w *outputWriter) tellLost(now time.Time) bool {
	if w.lost == 0 {
		return true
	}
	buf := make([]byte, frameHeader, frameHeader+8)
	if !w.put(frameLost, now, binary.BigEndian.AppendUint64(buf, w.lost)) {
		return false
	}
	w.lost = 0
	return true
}

func (w *outputWriter) put(kind byte, now time.Time, buf []byte) bool {
	if w.f == nil || w.size >= w.limit {
		if !w.rotate() {
			return false
		}
	}
	binary.BigEndian.PutUint32(buf, uint32(len(buf)-frameHeader))
	buf[0] = kind
	binary.BigEndian.PutUint64(buf[4:], uint64(now.UnixNano()))
	if _, err := w.f.WriteAt(buf, w.size); err != nil {
		_ = w.f.Truncate(w.size)
		return false
	}
	w.size += int64(len(buf))
	return true
}

func (w *outputWriter) rotate() bool {
	f, err := os.OpenFile(filepath.Join(w.dir, segmentName(w.seq+1)), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return false
	}
	head := binary.BigEndian.AppendUint64([]byte(segmentMagic), w.total-w.lost)
	if _, err := f.WriteAt(head, 0); err != nil {
		_ = f.Close()
		_ = os.Remove(f.Name())
		return false
	}
	if w.f != nil {
		_ = w.f.Close()
	}
	w.f, w.size = f, segmentHeader
	w.seq++
	_ = os.Remove(filepath.Join(w.dir, segmentName(w.seq-segments)))
	return true
}

// close ends the output. It returns how many bytes are missing at the end, which there was
// no room to tell.
func (w *outputWriter) close(now time.Time) uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tellLost(now)
	if w.f != nil {
		_ = w.f.Close()
	}
	return w.lost
}

var errFrame = errors.New("malformed output frame")

// parseFrame reads the first frame of b; n is 0 if it is not whole yet.
func parseFrame(b []byte) (c Chunk, n int, err error) {
	if len(b) < frameHeader {
		return Chunk{}, 0, nil
	}
	size := int(binary.BigEndian.Uint32(b) & 0xffffff)
	if size > maxFrame || b[0] < frameStdout || b[0] > frameLost || b[0] == frameLost && size != 8 {
		return Chunk{}, 0, errFrame
	}
	if len(b) < frameHeader+size {
		return Chunk{}, 0, nil
	}
	c.Time = time.Unix(0, int64(binary.BigEndian.Uint64(b[4:]))).UTC()
	data := b[frameHeader : frameHeader+size]
	if b[0] == frameLost {
		c.Lost = int64(binary.BigEndian.Uint64(data))
		if c.Lost < 0 {
			return Chunk{}, 0, errFrame
		}
	} else {
		c.Stderr, c.Data = b[0] == frameStderr, append([]byte(nil), data...)
	}
	return c, frameHeader + size, nil
}
