package cell

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sync/errgroup"

	"github.com/dewpoint-go/dewpoint/internal/size"
	"github.com/dewpoint-go/dewpoint/internal/stream"
)

// transfers is how many inputs or outputs of a work move at the same time.
const transfers = 8

// fill puts inputs in, several at a time. Again: a part of an optional input is in that turned
// out to be damaged or incomplete, and only a new container is without it.
func (j *job) fill(ctx context.Context, inputs []Input) *fail {
	var mu sync.Mutex
	var first *fail
	var damaged []Input
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(transfers)
	for _, in := range inputs {
		if slices.Contains(j.skip, in) {
			continue
		}
		g.Go(func() error {
			f := &fetch{j: j, in: in}
			f.begin()
			err := j.put(ctx, f)
			f.end(err)
			if err == nil {
				return nil
			}
			if in.Optional && ctx.Err() == nil {
				if f.size.Load() > 0 {
					mu.Lock()
					defer mu.Unlock()
					damaged = append(damaged, in)
				}
				return nil
			}
			if f.err == nil {
				f.err = err
			}
			mu.Lock()
			defer mu.Unlock()
			if first == nil {
				first = &fail{reasonOf(f.err), f.failure()}
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return first
	}
	if len(damaged) > 0 {
		j.skip = append(j.skip, damaged...)
		return &fail{reason: reasonAgain}
	}
	return nil
}

// reasonOf tells bytes that are bad from bytes that could not be had. What ends too early may
// have been cut on its way.
func reasonOf(err error) Reason {
	if errors.Is(err, errDiskLimit) {
		return ReasonLimit
	}
	if _, bad := errors.AsType[*ArchiveError](err); bad && !errors.Is(err, io.ErrUnexpectedEOF) {
		return ReasonArchive
	}
	return ReasonInput
}

var errDiskLimit = errors.New("disk limit exceeded")

func (j *job) put(ctx context.Context, f *fetch) error {
	r, err := f.open(ctx)
	if err != nil {
		return err
	}
	defer r.Close()
	err = j.con.StreamIn(ctx, f.in.Dir, r)
	if limit := j.work.Spec.Disk; errors.Is(err, syscall.ENOSPC) && limit > 0 && slices.Contains(j.a.total.Enforced, "disk") {
		return fmt.Errorf("%w: there is no room for it in %s: raise the disk limit (%w)", errDiskLimit, size.Text(limit), err)
	}
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, r) // the digest is compared at the very end
	return err
}

// save takes all outputs out of the container.
func (j *job) save(ctx context.Context) *fail {
	var names []string
	for _, o := range j.work.Outputs {
		if o.Name != "" {
			names = append(names, o.Name)
		}
	}
	if len(names) > 1 {
		j.say(j.cellSrc, "Uploading %s...", strings.Join(names, ", "))
	}
	var mu sync.Mutex
	var first *fail
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(transfers)
	for _, o := range j.work.Outputs {
		g.Go(func() error {
			err := j.saveOne(ctx, o)
			if err == nil {
				return nil
			}
			name := o.Name
			if name == "" {
				name = o.Path
			} else {
				j.say(j.cellSrc, "Uploading %s failed", name)
			}
			mu.Lock()
			defer mu.Unlock()
			if first == nil {
				first = &fail{ReasonOutput, fmt.Sprintf("Uploading %s failed: %v", name, err)}
			}
			return err
		})
	}
	if g.Wait() != nil {
		return first
	}
	if len(names) > 0 {
		j.say(j.cellSrc, "Uploading complete")
	}
	return nil
}

// saveAfterFailure takes those outputs that are wanted also then, if they are there.
func (j *job) saveAfterFailure() {
	ctx, cancel := j.cleanup()
	defer cancel()
	left := make(chan struct{})
	watched := make(chan struct{})
	go func() { // the work's own context may have ended: that was the failure
		defer close(watched)
		select {
		case <-j.stop:
			cancel()
		case <-left:
		}
	}()
	defer func() {
		close(left)
		<-watched
	}()
	for _, o := range j.work.Outputs {
		if !o.OnFailure {
			continue
		}
		if _, have := j.status.Outputs[o.Path]; have {
			continue
		}
		if err := j.saveOne(ctx, o); err != nil && !errors.Is(err, fs.ErrNotExist) {
			j.a.cfg.Logger.Warn("save an output of a failed work", "cell", j.a.cfg.ID, "work", j.work.ID, "path", o.Path, "error", err)
		}
	}
}

// maxInline is the size of an Inline output without MaxBytes.
const maxInline = 50 << 10

func (j *job) saveOne(ctx context.Context, o Output) error {
	r, err := j.con.StreamOut(ctx, o.Path)
	if err != nil {
		return err
	}
	defer r.Close()
	if o.Name != "" {
		j.say(j.cellSrc, "Uploading %s...", o.Name)
	}
	limit := o.MaxBytes
	if limit == 0 && o.Inline {
		limit = maxInline
	}
	in := io.Reader(&stream.Reader{Ctx: ctx, R: r})
	if limit > 0 {
		in = &stream.Limit{R: in, Left: limit, Err: fmt.Errorf("it is larger than %d bytes", limit)}
	}
	saved := Saved{Key: o.Key}
	if o.Inline {
		var b bytes.Buffer
		if _, err := io.Copy(&b, in); err != nil {
			return err
		}
		sum := sha256.Sum256(b.Bytes())
		saved.Data, saved.Size, saved.SHA256 = b.Bytes(), int64(b.Len()), hex.EncodeToString(sum[:])
	} else {
		if j.a.cfg.Save == nil {
			return errors.New("this cell stores nothing: AgentConfig.Save is nil")
		}
		info, err := j.a.cfg.Save(ctx, o.Key, in)
		if err != nil {
			return err
		}
		saved.Size, saved.SHA256 = info.Size, info.SHA256
	}
	j.set(func(s *Status) {
		if s.Outputs == nil {
			s.Outputs = map[string]Saved{}
		}
		s.Outputs[o.Path] = saved
	})
	if o.Name != "" {
		j.say(j.cellSrc, "Uploaded %s (%s)", o.Name, size.Text(saved.Size))
	}
	return nil
}
