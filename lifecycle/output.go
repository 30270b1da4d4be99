package lifecycle

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// Chunk is a piece of a process's output, as it was read: neither a line nor a part of one
// in particular.
type Chunk struct {
	Stderr bool
	Time   time.Time // when init read it
	Data   []byte    // the caller's to keep
	// Lost, if not 0, tells how many bytes are missing here (Data is empty): the reader was
	// too far behind, or the disk was full.
	Lost int64
}

// Output reads the output of a process from an init's state folder. It is for one
// goroutine; any number of Outputs may read one folder.
type Output struct {
	dir    string
	f      *os.File
	seq    int
	opened bool   // the segment's header was read
	off    int64  // in f, where buf begins: after a whole frame
	buf    []byte // read, not yet parsed; part of room
	room   []byte
	seen   uint64 // output bytes told so far
	ended  bool

	missing uint64 // bytes at the end, not told yet
	exited  time.Time
}

// ErrLost is returned for a process whose init vanished (killed, or the machine was
// restarted) without recording an exit.
var ErrLost = errors.New("the process's init ended without recording an exit")

// OpenOutput begins to read at the oldest output that is kept. The folder must exist:
// else the error is fs.ErrNotExist. The process may not have started yet.
func OpenOutput(dir string) (*Output, error) {
	if _, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("read output: %w", err)
	}
	return &Output{dir: dir}, nil
}

// Close ends reading.
func (o *Output) Close() error {
	if o.f == nil {
		return nil
	}
	return o.f.Close()
}

const (
	firstPoll = 2 * time.Millisecond
	lastPoll  = 200 * time.Millisecond
)

// Next returns the next chunk, waiting for it. The error is io.EOF after the process's exit
// was recorded and all was read, [ErrLost] (also after all was read), fs.ErrNotExist when
// the folder was removed, or ctx's.
func (o *Output) Next(ctx context.Context) (Chunk, error) {
	for wait := firstPoll; ; wait = min(2*wait, lastPoll) {
		if err := ctx.Err(); err != nil {
			return Chunk{}, err
		}
		ended := o.ended
		if c, ok, err := o.read(); ok || err != nil {
			return c, err
		}
		if ended {
			if o.missing > 0 {
				c := Chunk{Lost: int64(o.missing), Time: o.exited}
				o.missing = 0
				return c, nil
			}
			return Chunk{}, io.EOF
		}
		if e, err := readExit(o.dir); err == nil {
			o.ended, o.missing, o.exited = true, e.Lost, e.Time
			continue
		} else if !errors.Is(err, os.ErrNotExist) {
			return Chunk{}, fmt.Errorf("read output: %w", err)
		}
		if _, err := os.Stat(o.dir); errors.Is(err, os.ErrNotExist) {
			return Chunk{}, fmt.Errorf("read output: %w", err) // nobody will write there again
		}
		if wait == lastPoll {
			if s, err := InitState(o.dir); err == nil && s.Exit == nil && !s.Alive {
				// It can only have vanished: what it wrote is there.
				if c, ok, err := o.read(); ok || err != nil {
					return c, err
				}
				return Chunk{}, ErrLost
			}
		}
		pause(ctx, wait)
	}
}

// read returns what is there.
func (o *Output) read() (Chunk, bool, error) {
	for {
		if !o.opened {
			if c, ok, err := o.open(); err != nil || ok {
				return c, ok, err
			}
			if !o.opened {
				return Chunk{}, false, nil
			}
		}
		if c, ok, err := o.frame(); ok || err != nil {
			return c, ok, err
		}
		sealed := o.sealed() // before the last look
		if err := o.fill(); err != nil {
			return Chunk{}, false, err
		}
		if c, ok, err := o.frame(); ok || err != nil {
			return c, ok, err
		}
		if !sealed {
			return Chunk{}, false, nil
		}
		_ = o.f.Close()
		o.f, o.opened, o.off, o.buf = nil, false, 0, nil
	}
}

// frame takes the first frame of what was read, if it is whole.
func (o *Output) frame() (Chunk, bool, error) {
	c, n, err := parseFrame(o.buf)
	if err != nil {
		return Chunk{}, false, fmt.Errorf("read output: %s: %w", segmentName(o.seq), err)
	}
	o.skip(n)
	o.seen += uint64(len(c.Data)) + uint64(c.Lost)
	return c, n > 0, nil
}

func (o *Output) skip(n int) {
	o.buf = o.buf[n:]
	o.off += int64(n)
}

// open goes to the oldest segment after the last; a gap is told as a chunk.
func (o *Output) open() (Chunk, bool, error) {
	if o.f == nil {
		seqs, err := listSegments(o.dir)
		if err != nil {
			return Chunk{}, false, err
		}
		for len(seqs) > 0 && seqs[0] <= o.seq {
			seqs = seqs[1:]
		}
		if len(seqs) == 0 {
			return Chunk{}, false, nil
		}
		f, err := os.Open(filepath.Join(o.dir, segmentName(seqs[0])))
		if errors.Is(err, os.ErrNotExist) {
			return Chunk{}, false, nil // dropped this moment; the next look finds another
		} else if err != nil {
			return Chunk{}, false, fmt.Errorf("read output: %w", err)
		}
		o.f, o.seq = f, seqs[0]
	}
	if len(o.buf) < segmentHeader {
		if err := o.fill(); err != nil || len(o.buf) < segmentHeader {
			return Chunk{}, false, err
		}
	}
	if string(o.buf[:8]) != segmentMagic {
		return Chunk{}, false, fmt.Errorf("read output: %s is not an output segment", segmentName(o.seq))
	}
	start := binary.BigEndian.Uint64(o.buf[8:])
	o.skip(segmentHeader)
	o.opened = true
	if start > o.seen {
		lost := int64(start - o.seen)
		o.seen = start
		return Chunk{Lost: lost, Time: o.modified()}, true, nil
	}
	return Chunk{}, false, nil
}

func (o *Output) modified() time.Time {
	if fi, err := o.f.Stat(); err == nil {
		return fi.ModTime().UTC()
	}
	return time.Time{}
}

// fill reads again from behind the last whole frame: what follows may be a part of one that
// a full disk has cut, and that another one replaces.
func (o *Output) fill() error {
	if o.room == nil {
		o.room = make([]byte, 4*maxFrame)
	}
	n, err := o.f.ReadAt(o.room, o.off)
	o.buf = o.room[:n]
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read output: %w", err)
	}
	return nil
}

// sealed tells whether nothing more is written to the segment being read.
func (o *Output) sealed() bool {
	if _, err := os.Stat(filepath.Join(o.dir, segmentName(o.seq+1))); err == nil {
		return true
	}
	_, err := os.Stat(filepath.Join(o.dir, segmentName(o.seq)))
	return errors.Is(err, os.ErrNotExist) // dropped
}
